"""Find where a FLAC file ends, by its last frame, for its header may be open or lie."""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Iterator

from audiomask.audio.beginnings import begins, tag_at
from audiomask.audio.spans import PIECE, Scan, Span


def _table(polynomial: int, bits: int) -> list[int]:
    """Return the remainders of all bytes, for a CRC of 8 or 16 bits, most significant bit first."""
    top, keep, table = 1 << (bits - 1), (1 << bits) - 1, []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & keep
        table.append(value)
    return table


# What may be the first bytes of a tag, or of another file.
MARK = re.compile(
    rb"(?s)RIF|RF64|BW64|FORM|caff|fLaC|OggS|ID3|TAG|APETAGEX|\.snd|dns\.|riff|NIST_1A|....ftyp|\x1aE\xdf\xa3|"
    rb"0&\xb2u|FLV\x01|#!AMR|\xff[\xe2-\xff]"
)
CRC8, CRC16 = _table(0x07, 8), _table(0x8005, 16)
SIZES = [0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << n for n in range(8))]


FLAC_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)


def _frame(data: bytes, at: int, fixed: int, like: bytes) -> tuple[int, int, int] | None:
    """Return first sample, length and rate of the frame at `at`, or None (RFC 9639, 9.1).

    The rate is 0 where the frame does not say it. Frames of one file are `like` its first one: what says of
    their rate, channels and bits is the same, but for the kinds of stereo.
    """
    head = data[at : at + 16]
    if len(head) < 6 or (like and _shape(head) != _shape(like)):
        return None
    variable, code, rate = head[1] & 1, head[2] >> 4, head[2] & 15
    extra = next((n for n in range(8) if not head[4] & (0x80 >> n)), 8)  # bytes of the coded number
    if extra == 1 or extra > 7 or code == 0 or rate == 15:
        return None
    number = head[4] & (0x7F >> extra if extra else 0x7F)
    for byte in head[5 : 4 + max(1, extra)]:
        number = number << 6 | byte & 0x3F
    end = 4 + max(1, extra)
    size = SIZES[code]
    if code in (6, 7):
        size = int.from_bytes(head[end : end + code - 5], "big") + 1
        end += code - 5
    more = {12: 1, 13: 2, 14: 2}.get(rate, 0)
    hertz = int.from_bytes(head[end : end + more], "big") * {12: 1000, 14: 10}.get(rate, 1)
    hertz, end = FLAC_RATES[rate] if rate < 12 else hertz, end + more
    if len(head) <= end:
        return None
    crc = 0
    for byte in head[:end]:
        crc = CRC8[crc ^ byte]
    if crc != head[end]:
        return None
    return (number if variable else number * fixed), size, hertz


def _shape(head: bytes) -> tuple[int, int, int, int]:
    """Return what is the same in the heads of all frames of a file."""
    channels = head[3] >> 4
    return head[1], head[2] & 15, 1 if 8 <= channels <= 10 else channels, head[3] & 15


def _frames(file: Span, at: int, fixed: int) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Yield place and head of the frames from `at` that follow each other in one file."""
    like, before = file.peek(at, 16), -1
    like = like if _frame(like, 0, fixed, b"") else b""
    while at < file.size:
        data = file.peek(at, PIECE)  # a whole file in memory would count as ours
        for match in re.finditer(rb"\xff[\xf8\xf9]", data):
            if match.start() < PIECE - 16 and (frame := _frame(data, match.start(), fixed, like)):
                if frame[0] <= before:
                    return
                before = frame[0]
                yield at + match.start(), frame
        at += PIECE - 16


def read_flac(file: Span, found: Scan) -> None:
    """Read FLAC, whose header may leave the length open (written into a pipe) or promise more."""
    found.kind, info, at, last = "flac", file.peek(8, 34), 42, file.peek(4, 1)[0] & 128 > 0
    while not last:
        file.seek(at)
        block = file.read(4)
        last, length = len(block) < 4 or block[0] & 128 > 0, int.from_bytes(block[1:], "big")
        if block[:1] and block[0] & 127 == 4:  # a Vorbis comment
            tag = re.search(rb"(?i)WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x([0-9a-f]+)", file.read(length))
            found.mask = int(tag[1], 16) if tag else 0
        at += 4 + length
    fixed, total = struct.unpack(">H", info[:2])[0], int.from_bytes(info[13:18], "big") & (2**36 - 1)
    last_frame = next(iter(deque(_frames(file, at, fixed), 1)), None)
    if not last_frame:
        found.frames = 0
        found.end = at if begins(file, at) else found.end
        if total:
            found.warning = f"truncated: its header promises {total} samples, none are there"
        elif at < found.end:
            found.warning = "damaged: no frame in it is whole"
        return
    start, (first, size, rate) = last_frame
    said = int.from_bytes(info[10:13], "big") >> 4
    if rate not in (0, said):
        packed = (rate << 44) | int.from_bytes(info[10:18], "big") & (2**44 - 1)
        info = info[:10] + packed.to_bytes(8, "big") + info[18:]
        found.patches = {18: info[10:18]}
        found.warning = f"stale header: it says {said} Hz, its frames say {rate} Hz, which was used"

    def shorten(frames: int, end: int) -> None:
        found.end, found.frames = end, frames
        packed = int.from_bytes(info[10:18], "big") & ~(2**36 - 1) | frames
        found.patches = {18: packed.to_bytes(8, "big")}
        if frames < total:
            found.warning = f"truncated: its header promises {total} samples, {frames} are there"

    def leave_out() -> None:
        shorten(first, start)
        found.warning = found.warning or "cut off: its last frame is damaged or not whole, and was left out"

    # where the promised samples are there, only another file behind them matters
    channels, bits = (info[12] >> 1 & 7) + 1, (info[12] & 1) << 4 | info[13] >> 4
    data = file.peek(start, size * channels * (bits + 2) // 8 + 1024)  # no frame is longer
    places = (start + match.start() for match in MARK.finditer(data, 1))
    stops = {place for place in places if begins(file, place) or tag_at(file, place)}
    crc, ends = 0, []
    for place, byte in enumerate(data if stops or first + size != total else (), start + 1):
        crc = (crc << 8 & 0xFF00) ^ CRC16[crc >> 8 ^ byte]
        if not crc:
            ends.append(place)
            if place in stops:
                found.end = place
                break
    if crc and ends:  # something else follows, or the frame is cut, which its decoder finds out
        found.shorten = leave_out
        crc, found.end = 0, ends[-1]
    if first + size == total:  # whether all of that frame is there shows when it is decoded
        found.shorten = leave_out
    elif crc:
        leave_out()
    else:
        shorten(first + size, found.end)
