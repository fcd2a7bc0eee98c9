"""Mend the numbers of a `fmt ` chunk that contradict each other, in WAV and W64."""

from __future__ import annotations

import struct

from audiomask.audio.spans import Scan


def _in_block(tag: int, channels: int, length: int) -> int:
    """Return how many samples `length` bytes of a block of ADPCM (Microsoft's or IMA's) hold."""
    if tag == 2:
        return 2 + (length - 7 * channels) * 2 // channels if length >= 7 * channels else 0
    return 1 + (length - 4 * channels) // (4 * channels) * 8 if length >= 4 * channels else 0


WIDTHS = (8, 16, 24, 32, 64)


def mend_numbers(found: Scan, at: int, content: bytes, order: str) -> int:
    """Return the bytes of a frame of PCM; mend the one number that contradicts the others."""
    tag, channels, rate, speed, unit, bits = struct.unpack(f"{order}HHIIHH", content[:16])
    width = channels * ((bits + 7) // 8)
    if width == unit or not channels or not unit or (16 < bits < 32 and 8 * unit == 32 * channels):
        return int(unit)  # 24 bits may lie in 32
    if 0 < width * rate == speed:
        found.patches[at + 12] = struct.pack(f"{order}H", width)
        found.warning = f"stale header: frames of {unit} bytes, where {width} were used"
        return int(width)
    if unit * rate != speed:
        return int(unit)
    right_bits = 8 * unit // channels if 8 * unit % channels == 0 and 8 * unit // channels in WIDTHS else 0
    right_channels = 8 * unit // bits if bits in WIDTHS and 8 * unit % bits == 0 else 0
    if right_bits and right_channels:  # the bits that are used, of an extensible header
        valid = struct.unpack(f"{order}H", content[18:20])[0] if tag == 0xFFFE and len(content) >= 20 else 0
        right_bits, right_channels = right_bits * (valid == right_bits), right_channels * (valid == bits)
    if right_bits:
        found.patches[at + 14] = struct.pack(f"{order}H", right_bits)
        found.warning = f"stale header: samples of {bits} bits, where {right_bits} were used"
    elif right_channels:
        found.patches[at + 2] = struct.pack(f"{order}H", right_channels)
        found.warning = f"stale header: {channels} channels, where {right_channels} were used"
    else:
        found.refused = (
            f"its header contradicts itself: {channels} channels of {bits} bits in frames of {unit} bytes; "
            "mend it"
        )
    return int(unit)


def mend_channels(found: Scan, at: int, content: bytes, order: str) -> int:
    """Return the channels of ADPCM, by the lengths of blocks where these contradict them."""
    tag, channels, _, _, unit, _ = struct.unpack(f"{order}HHIIHH", content[:16])
    if tag in (2, 0x11) and len(content) >= 20:
        (samples,) = struct.unpack(f"{order}H", content[18:20])
        right = 2 * unit // (samples + (12 if tag == 2 else 7))
        if channels and _in_block(tag, channels, unit) != samples == _in_block(tag, max(1, right), unit):
            found.patches[at + 2] = struct.pack(f"{order}H", right)
            found.warning = f"stale header: {channels} channels, where {right} were used"
            return right
    return int(channels)


def fill_up(found: Scan, start: int, true: int, unit: int, tag: int, channels: int) -> int:
    """Return the bytes of samples, with those that fill up a block of ADPCM that is cut."""
    rest = found.size - start - true
    last = _in_block(tag, channels, rest) if tag in (2, 0x11) and channels else 0
    if not (0 < rest < unit and last):
        return true
    found.padding, found.frames = unit - rest, true // unit * _in_block(tag, channels, unit) + last
    return true + unit
