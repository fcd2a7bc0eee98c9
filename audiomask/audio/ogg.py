"""Find where a file of Ogg ends, by its pages, and which of them are damaged."""

from __future__ import annotations

import zlib

from audiomask.audio.spans import Scan, Span


def read_ogg(file: Span, found: Scan) -> None:
    """Read Ogg page by page; a stream that begins after pages of others is the next file."""
    found.kind, at, begins, last, count, damaged = "ogg", 0, True, 0, 0, 0
    while True:
        file.seek(at)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            break
        table = file.read(head[26])
        end = at + 27 + len(table) + sum(table)
        if head[5] & 2 and not begins:
            break
        if end > found.size:
            last, at = 0, found.size
            break
        if not found.codec:
            magic = file.read(8)
            kinds = {b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"\x7fFLAC": "flac"}
            found.codec = next((kind for key, kind in kinds.items() if magic.startswith(key)), "")
        file.seek(at)
        count, damaged = count + 1, damaged + _damaged(file.read(end - at))
        begins, last, at = bool(head[5] & 2), head[5], end
    found.end = at
    if not last & 4:
        found.warning = "cut off: its last page is not the end of a stream"
    elif damaged:
        found.warning = f"damaged: {damaged} of its {count} pages were left out"


MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _damaged(page: bytes) -> bool:
    """Return whether the checksum of an Ogg page is wrong (RFC 3533); zlib has its mirror image."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(MIRROR)
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page[22:26].translate(MIRROR) != crc.to_bytes(4, "big")
