"""Find the frames of MP3 and AAC, and say how many samples those of MP3 hold.

libsndfile 1.2.2 believes the frame with the length (Xing, Info) of a file, guesses where there is none, and
leaves out 529 samples where it says nothing of delays. `read_mp3` counts, and gives it a frame that knows.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from audiomask.audio.beginnings import aac_length, begins, behind_id3, frame_of, tag_at
from audiomask.audio.spans import PIECE, Scan, Span

SIDE = {
    (True, False): 32,
    (True, True): 17,
    (False, False): 17,
    (False, True): 9,
}  # of MPEG 1, of one channel


def read_mp3(file: Span, found: Scan) -> None:
    """Read MP3, whose Xing frame says how long it is; without one the frames are counted."""
    at = behind_id3(file)
    head = file.peek(at, 10)
    frame = frame_of(head)
    if frame is None:
        return  # a tag before something else
    found.kind = found.format = "mp3"
    file.seek(at)
    first = file.read(max(frame[0], 64))
    place = _xing(first)
    if place:
        flags, *numbers = struct.unpack(">III", first[place + 4 : place + 16])
        length = numbers[1] if flags & 3 == 3 else numbers[0] if flags & 3 == 2 else 0
        there = found.size - at
        if length > there:
            found.warning = f"truncated: its header promises {length} bytes of frames, {there} are there"
            _, count, found.end, _ = _counted(file, at)
            found.frames = _there(first, place, count - 1)
        elif length:
            found.end = at + length
            while tag := tag_at(file, found.end):
                found.end += tag
        behind = place + 8 + sum(size for bit, size in enumerate((4, 4, 100, 4)) if flags >> bit & 1)
        maker, delays = first[behind : behind + 4], first[behind + 21 : behind + 24]
        if maker not in (b"LAME", b"Lavc", b"Lavf") and not any(delays) and head[1] >> 1 & 3 == 1:
            # mpg123 leaves out 529 samples where nothing says so: this frame becomes the one of silence
            found.frames, count, end, lost = _counted(file, at + frame[0])
            found.warning = lost
            found.end = max(found.end, end) if found.end < found.size else end
            found.prefix = _info_frames(head, count, found.end, frame[0])
            found.patches = {len(found.prefix) + at + 4: bytes(frame[0] - 4)}
        return
    found.frames, count, found.end, found.warning = _counted(file, at)
    file.seek(found.end)
    if (frame := frame_of(file.read(4))) and found.end + frame[0] > found.size:
        found.warning = "cut off: its last frame is not whole"
    if head[1] >> 1 & 3 == 1:
        found.prefix = _info_frames(head, count, found.end)


def _there(first: bytes, place: int, whole: int) -> int | None:
    """Return the samples in the `whole` frames of a cut MP3, None if its first does not say."""
    flags, count = struct.unpack(">II", first[place + 4 : place + 12])
    behind = place + 8 + sum(size for bit, size in enumerate((4, 4, 100, 4)) if flags >> bit & 1)
    delays = int.from_bytes(first[behind + 21 : behind + 24], "big")
    frame = frame_of(first)
    if not (flags & 1 and delays and frame) or whole < 1:
        return 0 if whole < 1 else None
    begin = (delays >> 12) + LATE
    return max(0, min(count * frame[1] - max(0, (delays & 4095) - LATE), whole * frame[1]) - begin)


def _info_frames(head: bytes, count: int, length: int, silent: int = 0) -> bytes:
    """Return frames that tell libsndfile how many MP3 frames follow, which else guesses.

    These are a frame that says their number, and one of silence: mpg123 leaves out at least the 529 samples
    by which a decoder is late, and with the delay that is given here all of the silence. Where `silent` bytes
    of it are there, they are not added.
    """
    place = 4 + SIDE[bool(head[1] & 8), head[3] >> 6 == 3]
    for code in range(1, 15):
        info = bytes([head[0], head[1] | 1, head[2] & 0x0C | code << 4, head[3]])
        size, samples, _ = frame_of(info) or (0, 0, 0)
        if size >= place + 52:
            break
    silence = info.ljust(size, b"\0")
    content = (
        info
        + bytes(place - 4)
        + b"Info"
        + struct.pack(">III", 3, count + 1, length + size * (1 if silent else 2))
    )
    content += b"LAME3.100".ljust(21, b"\0") + (samples - LATE << 12 | LATE).to_bytes(3, "big")
    return content.ljust(size, b"\0") + silence[: 0 if silent else size]


LATE = 529  # samples by which a decoder of MP3 is late


def _xing(frame: bytes) -> int:
    """Return where in an MP3 frame the mark of a frame with the length is, or 0."""
    return max(0, frame[:64].find(b"Xing"), frame[:64].find(b"Info"))


def _counted(file: Span, at: int) -> tuple[int, int, int, str | None]:
    """Return samples and number of the frames from `at`, their end, what lies between.

    They end at a tag, at another file, at a frame that says how long the next file is, and at one of another
    rate or number of channels. What lies between frames is passed over, and a frame that is cut is not
    counted.
    """
    total, count, start, data, end, first, lost = 0, 0, at, b"", at, (0, 0, False), 0
    while True:
        if at + 64 > start + len(data):
            start = at
            file.seek(at)
            data = file.read(PIECE)
        head = data[at - start : at - start + 64]
        frame = frame_of(head)
        kind = (head[1] & 0x1E, head[2] & 0x0C, head[3] >> 6 == 3) if frame else first
        if (
            frame
            and at + frame[0] <= file.size
            and not (count and (kind != first or _xing(head[: frame[0]])))
        ):
            total, count, at = total + frame[1], count + 1, at + frame[0]
            end, first = at, kind
            continue
        tag, place = 0, 0
        if not frame:
            tag = tag_at(file, at)
            other = tag or head[:3] == b"ID3" or begins(file, at)
            place = 0 if other else _found(file, at, lambda head: (frame_of(head) or (0,))[0])
        if not place:
            note = f"damaged: {lost} bytes between its frames were left out" if lost else None
            return total, count, end + tag, note
        lost, at = lost + place - at, place


def _found(file: Span, at: int, length: Callable[[bytes], int]) -> int:
    """Return where the next two frames, of `length` bytes, begin within 64 kilobytes, or 0."""
    data = file.peek(at, 2**16)
    for match in re.finditer(rb"\xff[\xe2-\xff]", data):
        place = match.start()
        size = length(data[place : place + 8])
        if size and (length(data[place + size : place + size + 8]) or at + place + size == file.size):
            return at + place
    return 0


def read_aac(file: Span, found: Scan) -> None:
    """Read AAC in ADTS, which goes on as long as its frames do and have one rate and channels.

    A tag or whatever else is behind them is left to FFmpeg, unless another file begins there.
    """
    found.kind, found.format = "media", "aac" if begins(file, 0) == "aac" else None
    at, start, data, first = 0, 0, b"", None
    while at < file.size:
        if at + 8 > start + len(data):
            start, data = at, file.peek(at, PIECE)
        head = data[at - start : at - start + 8]
        length, shape = aac_length(head), head[2:3] + bytes([head[3] & 0xC0]) if len(head) > 3 else b""
        if length and shape == (first or shape):
            at, first = at + length, shape
        elif at and begins(file, at):
            found.end = at
            return
        elif not (at := _found(file, at + 1, aac_length)):
            return
