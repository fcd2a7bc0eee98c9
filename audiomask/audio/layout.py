"""Name the loudspeakers of channels, and put them into the order of WAV.

    x = x[to_wav(VORBIS[6].split())]      # from FL FC FR BL BR LFE to FL FR FC LFE BL BR

A layout is a set of speakers, as the bits of `WAVE_FORMAT_EXTENSIBLE` (Microsoft), which also order them.
"""

from __future__ import annotations

import soundfile as sf

SPEAKERS = tuple("FL FR FC LFE BL BR FLC FRC BC SL SR TC TFL TFC TFR TBL TBC TBR".split())  # noqa: SIM905


# libsndfile's numbers of speakers (sndfile.h), and its commands to ask for those of a file and to set them.
CODES = dict(zip(SPEAKERS, (2, 3, 4, 11, 9, 10, 12, 13, 8, 14, 15, 16, 17, 19, 18, 20, 22, 21), strict=True))
GET_MAP, SET_MAP = 0x1100, 0x1101


def of_file(file: sf.SoundFile) -> list[str]:
    """Return the speakers of an open file in its own order; none if it does not name them all."""
    codes = sf._ffi.new("int[]", file.channels)
    if not sf._snd.sf_command(file._file, GET_MAP, codes, 4 * file.channels):
        return []
    names = [next((name for name, code in CODES.items() if code == found), "") for found in codes]
    return names if all(names) and len(set(names)) == len(names) else []


def set_in(file: sf.SoundFile, mask: int) -> bool:
    """Name the speakers of a file that is being written; return whether its format can."""
    codes = sf._ffi.new("int[]", [CODES[name] for name in names_of(mask)])
    return bool(sf._snd.sf_command(file._file, SET_MAP, codes, 4 * file.channels))


def mask_of(names: str) -> int:
    """Return the bits of speakers, such as "FL FR FC"."""
    return sum(1 << SPEAKERS.index(name) for name in names.split())


PLAIN = (mask_of("FC"), mask_of("FL FR"))  # what one and two channels mean anyway


def names_of(mask: int) -> list[str]:
    """Return the speakers of a layout, in the order of WAV."""
    return [name for bit, name in enumerate(SPEAKERS) if mask >> bit & 1]


# Channels of Vorbis (Vorbis I, 4.3.9) and Opus (RFC 7845, 5.1.1.2), by their number.
VORBIS = {
    1: "FC", 2: "FL FR", 3: "FL FC FR", 4: "FL FR BL BR", 5: "FL FC FR BL BR", 6: "FL FC FR BL BR LFE",
    7: "FL FC FR SL SR BC LFE", 8: "FL FC FR SL SR BL BR LFE",
}  # fmt: skip
# Channels of FLAC (RFC 9639, 9.1.3), in the order of WAV, unless a tag names others.
FLAC = {
    1: "FC", 2: "FL FR", 3: "FL FR FC", 4: "FL FR BL BR", 5: "FL FR FC BL BR", 6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR", 8: "FL FR FC LFE BL BR SL SR",
}  # fmt: skip


# Channels of the layouts that Core Audio (CAF, AIFF) has by number; surrounds are at the sides, as FFmpeg
# reads them.
CORE = {
    100: "FC", 101: "FL FR", 108: "FL FR SL SR", 109: "FL FR SL SR FC", 110: "FL FR SL SR FC BC",
    113: "FL FR FC", 114: "FC FL FR", 115: "FL FR FC BC", 116: "FC FL FR BC", 117: "FL FR FC SL SR",
    118: "FL FR SL SR FC", 119: "FL FC FR SL SR", 120: "FC FL FR SL SR", 121: "FL FR FC LFE SL SR",
    122: "FL FR SL SR FC LFE", 123: "FL FC FR SL SR LFE", 124: "FC FL FR SL SR LFE",
    125: "FL FR FC LFE SL SR BC", 126: "FL FR FC LFE SL SR FLC FRC", 127: "FC FLC FRC FL FR SL SR LFE",
    128: "FL FR FC LFE SL SR BL BR", 129: "FL FR SL SR FC LFE FLC FRC", 131: "FL FR BC", 132: "FL FR SL SR",
    133: "FL FR LFE", 134: "FL FR LFE BC", 135: "FL FR LFE SL SR", 136: "FL FR FC LFE",
    137: "FL FR FC LFE BC",
    138: "FL FR SL SR LFE", 139: "FL FR SL SR FC BC", 140: "FL FR SL SR FC BL BR",
}  # fmt: skip


def to_wav(names: list[str]) -> list[int]:
    """Return the places of channels that are in the order `names`, in the order of WAV."""
    return [names.index(name) for name in names_of(mask_of(" ".join(names)))]


def back(mask: int) -> int:
    """Return a layout with its side speakers behind, if it has none there, as in Vorbis."""
    sides, behind = mask_of("SL SR"), mask_of("BL BR BC")
    return mask & ~sides | mask_of("BL BR") if mask & sides == sides and not mask & behind else mask


def implied(container: str, channels: int) -> int:
    """Return the speakers that a format implies by the number of channels; 0 for none."""
    table = {"ogg": VORBIS, "flac": FLAC}.get(container, {})
    return mask_of(table.get(channels, ""))
