"""Read music in its channels: crops of sources to be mixed, and clips for validation.

A recording of another number of channels is mixed to one, which all channels then get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.crops.clips import Utterances
from audiomask.data.crops.packed import DrawnRows, PackedAudio, drawn
from audiomask.data.kaldi.directory import DataDir, Utterance, resampled

CHANCES = (0.32, 0.32, 0.24, 0.12)  # of one song, one other sound, two of any, three others: EnCodec's


def read_channels(
    data: DataDir, utterance: Utterance, sample_rate: int, channels: int, table: str = "wav"
) -> np.ndarray:
    """Return samples `[channels, T]` float32 of an utterance at `sample_rate` Hz."""
    x, rate = data.load(utterance, table)
    if len(x) != channels:
        x = np.broadcast_to(audio.mixed(x, rate), (channels, x.shape[1]))
    return resampled(x, rate, sample_rate)


def read_stems(
    data: DataDir, utterance: Utterance, sample_rate: int, channels: int, tables: Sequence[str]
) -> np.ndarray:
    """Return `[stems channels T]` of the tables' recordings, in a row, at a peak of 1."""
    parts = [read_channels(data, utterance, sample_rate, channels, table) for table in tables]
    if len({part.shape[1] for part in parts}) > 1:
        lengths = ", ".join(f"{t} {part.shape[1]}" for t, part in zip(tables, parts, strict=True))
        raise AudioError(f"{utterance.key}: the stems differ in length ({lengths} samples); unpack it again")
    x = np.concatenate(parts).flatten()
    return x / max(float(np.abs(x).max(initial=0)), 1e-9)


@dataclass(eq=False)
class MusicCrops(DrawnRows):
    """Cuts crops of sources, `sources [S, C, L]`, of which a simulation makes a mix.

    With `stems`, they are those of a song, at one place. Else a row has one to three recordings, by the
    `CHANCES` of EnCodec's authors, and zeros for the rest; without `others` it has one or two.
    """

    music: PackedAudio  # each entry holds all stems and channels, one after the other
    length: int
    channels: int = 2
    stems: int = 1
    others: PackedAudio | None = None  # speech, noises and whatever else, without stems
    seed: int = 0

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if self.stems > 1:
            return {"sources": self._crop(self.music, rng, self.stems)}
        found = np.zeros((2 if self.others is None else 3, self.channels, self.length), np.float32)
        for i, corpus in enumerate(self._drawn(rng)):
            found[i] = self._crop(corpus, rng, 1)[0]
        return {"sources": found}

    def _drawn(self, rng: np.random.Generator) -> list[PackedAudio]:
        if self.others is None:
            return [self.music] * (1 + int(rng.random() < CHANCES[2] / (CHANCES[0] + CHANCES[2])))
        choice = int(rng.choice(4, p=CHANCES))
        if choice < 2:
            return [(self.music, self.others)[choice]]
        if choice == 3:
            return [self.others] * 3
        sizes = [int(corpus.lengths.sum()) for corpus in (self.music, self.others)]
        share = sizes[0] / sum(sizes)
        return [self.music if rng.random() < share else self.others for _ in range(2)]

    def _crop(self, corpus: PackedAudio, rng: np.random.Generator, stems: int) -> np.ndarray:
        """Return a crop `[stems, C, L]`."""
        found = corpus.crop_rows(drawn(corpus.cdf, rng), stems * self.channels, rng, self.length)
        return found.reshape(stems, self.channels, self.length)


class MusicClips(Utterances):
    """Reads `audio [C, T]`, from the middle of each utterance `length` samples at most (0: all)."""

    def __init__(self, path: str | Path, sample_rate: int, channels: int, length: int = 0):
        super().__init__(path, sample_rate)
        self.channels, self.length = channels, length

    def signals(self, u: Utterance) -> dict[str, np.ndarray]:
        x = read_channels(self.data, u, self.sample_rate, self.channels)
        start = max(0, x.shape[1] - self.length) // 2 if self.length else 0
        return {"audio": np.ascontiguousarray(x[:, start : start + (self.length or x.shape[1])])}
