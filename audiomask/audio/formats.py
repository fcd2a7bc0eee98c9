"""Name the file formats and their limits, and choose format and coding of an output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import soundfile as sf

from audiomask.audio import media

MIN_RATE, MAX_RATE = 4000, 768_000  # telephone band with margin; twice the fastest converter on the market
MAX_CHANNELS = 128  # tenth-order ambisonics has 121; libsndfile itself allows 1024
MAX_RIFF_BYTES = 2**32 - 2**20  # a WAV's 32-bit sizes, less room for its headers
CLIP_POLICIES = ("rescale", "clamp", "none")

# Formats by suffix, and the subtypes that suffixes imply.
FORMATS = {
    f".{name.lower()}": name for name in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64")
}
FORMATS |= {".oga": "OGG", ".opus": "OGG", ".aif": "AIFF", ".aifc": "AIFF", ".snd": "AU", ".sph": "NIST"}
FORMATS |= {".nist": "NIST", ".wave": "WAV", ".bwf": "WAV", **dict.fromkeys(media.SUFFIXES, "MEDIA")}
IMPLIED_SUBTYPE = {".ogg": "VORBIS", ".oga": "VORBIS", ".opus": "OPUS"}
BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}
FLOATS = ("FLOAT", "DOUBLE")
# libsndfile 1.2.2 codes short packets wrongly in these, so that the end of a file, or all, becomes noise.
DAMAGED = ("ALAC_20", "ALAC_24", "ALAC_32")


class AudioError(Exception):
    """An error for a file or request that cannot be served; its text is the user's message."""


class AudioWarning(UserWarning):
    """A warning that something about a file was mended."""


@dataclass(frozen=True)
class AudioInfo:
    """A file's header, which only promises its `frames`: damaged files hold fewer."""

    path: str
    rate: int
    channels: int
    frames: int
    format: str
    subtype: str
    mask: int = 0  # its speakers, see `audio.layout`; 0 where they are not known

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def choose_format(
    path: str | Path, *, subtype: str | None = None, like: AudioInfo | None = None
) -> tuple[str, str]:
    """Return format and subtype, in libsndfile's names, for an output file.

    The suffix gives the format; the coding is that of the input `like` where both can hold it. Raises
    `AudioError` for an unknown suffix or a subtype that the format cannot hold.
    """
    suffix = Path(path).suffix.lower()
    format = FORMATS.get(suffix)
    if format == "MEDIA":
        if subtype is not None:
            raise AudioError(f"{path}: {suffix} has codings of its own; leave out the subtype {subtype}")
        return "MEDIA", "FLOAT"
    if format is None:
        raise AudioError(f"{path}: unknown suffix '{suffix}'; use one of {' '.join(sorted(FORMATS))}")
    if like is not None and format == "WAV" and like.format in ("WAVEX", "RF64"):
        format = like.format  # the same container with room for more channels or bytes
    if subtype is not None:
        subtype = subtype.upper()
        held = [name for name in sf.available_subtypes(format) if name not in DAMAGED]
        if subtype not in held:
            raise AudioError(f"{path}: {format} cannot hold subtype {subtype}; it can hold: {' '.join(held)}")
        return format, subtype
    if suffix in IMPLIED_SUBTYPE:
        same = like is not None and like.format == "OGG" and suffix != ".opus"
        return format, like.subtype if like and same else IMPLIED_SUBTYPE[suffix]
    if like is not None:
        plain = like.format == format or like.subtype in (*BYTES, *FLOATS)
        if plain and sf.check_format(format, like.subtype) and like.subtype not in DAMAGED:
            return format, like.subtype
        if like.subtype in (*FLOATS, "PCM_32", *DAMAGED) and sf.check_format(format, "PCM_24"):
            return format, "PCM_24"  # FLAC holds no floats; 24 bits are what float32's mantissa holds
    return format, sf.default_subtype(format)
