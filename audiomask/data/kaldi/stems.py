"""Make the stems of a song of the recordings of its instruments, for corpora that keep one file for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from audiomask import audio
from audiomask.audio import AudioError, make_folder

REST = "other"


def grouped(instruments: Mapping[Path, str], stems: Sequence[str]) -> dict[str, list[Path]]:
    """Return the recordings of each of `stems`, and in `other` the rest, from recordings by instrument."""
    groups: dict[str, list[Path]] = {name: [] for name in [*stems, REST]}
    for path, instrument in instruments.items():
        groups[instrument if instrument in stems else REST].append(path)
    return groups


def chosen(text: str, known: Sequence[str]) -> list[str]:
    """Return the stems of an option `NAME,NAME`; ValueError for one that is not `known`."""
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ValueError(f"--stems: there is no {wrong[0]!r} among {', '.join(known)}")
    return names


def sum_of(files: Sequence[Path], rate: int, channels: int, length: int) -> np.ndarray:
    """Return the sum `[channels, length]` of recordings, of which shorter ones end in silence.

    AudioError for a recording that is longer, of another rate, or neither mono nor of so many channels.
    """
    out = np.zeros((channels, length), np.float32)
    for path in files:
        x, found = audio.read(path)
        if found != rate or len(x) not in (1, channels) or x.shape[1] > length:
            raise AudioError(
                f"{path}: {x.shape[1]} samples at {found} Hz in {len(x)} channels, but its song has {length} "
                f"at {rate} Hz in {channels}; unpack it again"
            )
        out[:, : x.shape[1]] += x
    return out


def submixes(
    groups: Mapping[str, Sequence[Path]], out: Path, rate: int, channels: int, length: int
) -> dict[str, Path]:
    """Return the file of each group: the sum `[channels, length]` of its recordings, written below `out`.

    A recording that is alone in its group and has this form is taken where it lies. A group of none is
    silence. Sums are FLAC of 24 bits, or float WAV where they exceed full scale. AudioError for a damaged
    recording, or one that does not fit.
    """
    made = {}
    for name, files in groups.items():
        infos = [audio.verify(path) for path in files]
        if [(i.rate, i.channels, i.frames) for i in infos] == [(rate, channels, length)]:
            made[name] = files[0]
            continue
        x = sum_of(files, rate, channels, length)
        loud = bool(np.abs(x).max(initial=0) > 1)
        make_folder(out)
        made[name] = out / f"{name}.{'wav' if loud else 'flac'}"
        audio.write(made[name], x, rate, subtype="FLOAT" if loud else "PCM_24", overwrite=True)
    return made
