"""Find where a film or what a phone recorded ends, by its outermost boxes."""

from __future__ import annotations

import re
import struct

from audiomask.audio.beginnings import begins, kind_of
from audiomask.audio.spans import Scan, Span


def read_film(file: Span, found: Scan) -> None:
    """Note whether a film ends before its outermost boxes do, or goes on with another file."""
    found.kind, kind = "media", kind_of(file.peek(0, 16))
    ends = {"mp4": _mp4, "matroska": _matroska, "avi": _avi}.get(kind)
    end = ends(file) if ends else 0
    if end > found.size:
        found.warning = f"truncated: its header promises {end} bytes, {found.size} are there"
    elif end and begins(file, end):
        found.end = end


def _mp4(file: Span) -> int:
    """Return the end of the boxes of ISO media (mp4, m4a, mov, 3gp), 0 where it is open."""
    end = 0
    while end < file.size:
        length, name = struct.unpack(">I4s", file.peek(end, 8))
        if end and begins(file, end):
            return end
        if not re.fullmatch(rb"[ -~\xa9]{4}", name) or not length:
            return 0  # something else, or a box without an end
        end += max(8, length if length > 1 else int.from_bytes(file.peek(end + 8, 8), "big"))
    return end


def _matroska(file: Span) -> int:
    """Return the end of the header of Matroska and of its segment, 0 where that is open."""
    end = 0
    for name in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):
        head = file.peek(end, 12)
        count = 9 - head[4].bit_length() if head[:4] == name else 0
        bits = int.from_bytes(head[4 : 4 + count], "big") & (1 << 7 * count) - 1
        if not count or bits == (1 << 7 * count) - 1:
            return 0
        end += 4 + count + bits
    return end


def _avi(file: Span) -> int:
    """Return the end of an AVI and of the parts that it goes on in behind a gigabyte."""
    end, head = 0, file.peek(0, 12)
    while not end or head[:4] + head[8:] == b"RIFFAVIX":
        length = int.from_bytes(head[4:8], "little")
        end += 8 + length + length % 2
        head = file.peek(end, 12)
    return end
