"""Cut random crops of packed audio: the raw material of every training row.

A corpus is decoded once, to one flat int16 file with an index (`pack`), and read through a memory map
afterwards (`PackedAudio`). A random crop then costs a page fault instead of a codec start, and any number of
processes share the pages. The modules of `simulate` mix them, with rooms and levels, on the training device.

A row depends on the seed and its number alone (`DrawnRows`): a resumed run sees the same data in the same
order as one that never stopped, however the rows are divided into batches and processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiomask.audio import AudioError, make_folder, replacing


def pack(
    entries: Iterable[tuple[str, str, Callable[[], np.ndarray]]], prefix: str | Path, sample_rate: int
) -> int:
    """Write `prefix.i16` and `.json` from (key, group, read); return the number of samples.

    Crops are balanced over `group`, a speaker or a kind of noise. `read()` gives mono float samples `[T]` in
    [-1, 1] at `sample_rate` (Hz). The index is written last: an interrupted pack never looks finished.
    """
    prefix = Path(prefix)
    make_folder(prefix.parent)
    index: list[tuple[str, str, int, int]] = []
    offset = 0
    with replacing(prefix.with_suffix(".i16")) as part, part.open("wb") as f:
        for key, group, read in entries:
            x = np.asarray(read(), np.float32)
            if x.ndim != 1:
                raise AudioError(f"{key}: expected mono, got shape {x.shape}; mix down before packing")
            if not len(x):
                continue
            f.write(np.round(within_full_scale(x) * 32767).astype("<i2").tobytes())
            index.append((key, group, offset, len(x)))
            offset += len(x)
        if not index:
            raise AudioError(f"{prefix}: no audio to pack; check the data directory it was made from")
    with replacing(prefix.with_suffix(".json")) as part:
        part.write_text(json.dumps({"sample_rate": sample_rate, "entries": index}))
    return offset


def within_full_scale(x: np.ndarray) -> np.ndarray:
    """Return `x [T]`, turned down until 16 bits hold its peak: training draws levels anew."""
    x = np.nan_to_num(x)
    return x / max(1.0, float(np.abs(x).max(initial=0)))


def cut(
    read: Callable[[int, int], np.ndarray], n: int, rng: np.random.Generator, length: int, fill: str
) -> np.ndarray:
    """Return a crop of a recording of `n` samples, see `Corpus.crop`.

    `read(at, count)` gives some of them; with `fill="pad"`, of several channels too, `[C, count]`.
    """
    if n >= length:
        return read(int(rng.integers(n - length + 1)), length)
    x = read(0, n)
    if fill == "loop":
        return np.resize(np.roll(x, rng.integers(n)), length)
    out = np.zeros((*x.shape[:-1], length), np.float32)
    at = rng.integers(length - n + 1)
    out[..., at : at + n] = x
    return out


def drawn(cdf: np.ndarray, rng: np.random.Generator) -> int:
    """Return the number of a recording, drawn by the cumulative shares `cdf [N]`."""
    return min(int(np.searchsorted(cdf, rng.random(), side="right")), len(cdf) - 1)


class Corpus:
    """A base of corpora that give random crops: `PackedAudio` and `shards.ShardedAudio`."""

    lengths: np.ndarray  # samples `[N]` of each recording that can be drawn now
    cdf: np.ndarray  # their cumulative shares `[N]`
    labels: list[list[str]]  # of each; another list when other recordings can be drawn

    def seek(self, row: int) -> None:
        """Prepare for the crops of this row of the run."""

    def read(self, i: int, at: int, count: int) -> np.ndarray:
        """Return `count` samples float32 of the `i`-th recording, from sample `at` on."""
        raise NotImplementedError

    def crop(self, rng: np.random.Generator, length: int, fill: str = "loop") -> np.ndarray:
        """Return samples `[length]` float32 from a random place.

        A shorter recording is repeated from a random phase (`fill="loop"`, for noise) or set at random among
        zeros (`"pad"`, right for speech, which then also teaches silence).
        """
        return self.crop_of(drawn(self.cdf, rng), rng, length, fill)

    def crop_of(self, i: int, rng: np.random.Generator, length: int, fill: str = "loop") -> np.ndarray:
        """Return a `crop` of the `i`-th recording."""
        return cut(partial(self.read, i), int(self.lengths[i]), rng, length, fill)

    def crop_rows(self, i: int, rows: int, rng: np.random.Generator, length: int) -> np.ndarray:
        """Return a crop `[rows, length]` of a recording whose entry holds rows, one after the other.

        A shorter one stands at a random place among zeros.
        """
        n = int(self.lengths[i]) // rows

        def read(at: int, count: int) -> np.ndarray:
            return np.stack([self.read(i, row * n + at, count) for row in range(rows)])

        return cut(read, n, rng, length, "pad")


class PackedAudio(Corpus):
    """A packed corpus, of which any recording can be drawn for any row.

    The files are `prefix` with .i16 and .json. `weights` are sampling weights by group; a key ending in `*`
    covers all groups that begin so, and divides its weight among them. Groups without a weight are drawn in
    proportion to their length from what is left when the weights sum to less than 1, and not at all
    otherwise. None draws every second of audio alike. `labels` are each recording's.
    """

    def __init__(
        self,
        prefix: str | Path,
        weights: Mapping[str, float] | None = None,
        labels: Mapping[str, list[str]] | None = None,
    ):
        prefix = Path(prefix)
        index = prefix.with_suffix(".json")
        if not index.exists():
            raise AudioError(
                f"{index}: no such packed corpus; make it with `audiomask train`'s --data.cache or pack()"
            )
        self.samples = np.memmap(prefix.with_suffix(".i16"), "<i2", "r")
        self.keys, *columns = zip(*json.loads(index.read_text())["entries"], strict=True)
        groups, self.offsets, self.lengths = map(np.array, columns)
        self.labels = [labels[key] for key in self.keys] if labels else []
        p = self.lengths.astype(np.float64)
        if weights is not None:
            p = np.zeros(len(groups))
            rest = np.ones(len(groups), bool)
            for pattern, weight in weights.items():
                begins = np.char.startswith(groups, pattern.removesuffix("*"))
                hit = rest & (begins if pattern.endswith("*") else groups == pattern)
                if not hit.any():
                    raise AudioError(f"{prefix}: no group matches the weight for {pattern!r}")
                p[hit] = weight * self.lengths[hit] / self.lengths[hit].sum()
                rest &= ~hit
            left = 1 - sum(weights.values())
            if left > 1e-6 and rest.any():
                p[rest] = left * self.lengths[rest] / self.lengths[rest].sum()
        self.cdf = np.cumsum(p / p.sum())

    def read(self, i: int, at: int, count: int) -> np.ndarray:
        start = self.offsets[i] + at
        return self.samples[start : start + count].astype(np.float32) / 32768


class DrawnRows(Dataset[dict[str, Tensor]]):
    """A base of training rows, each drawn with a generator seeded with `(seed, its number)`.

    An item has what `draw` returns, and `seed` int64 for what is drawn later, on the training device.
    Subclasses are dataclasses; a corpus among their fields is prepared for every row.
    """

    seed: int

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the signals of a row."""
        raise NotImplementedError

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        for corpus in vars(self).values():
            if isinstance(corpus, Corpus):
                corpus.seek(row)
        rng = np.random.default_rng([self.seed, row])
        item = {name: torch.from_numpy(x) for name, x in self.draw(rng).items()}
        return item | {"seed": torch.tensor(int(rng.integers(2**62)))}


@dataclass(eq=False)
class SpeechAndNoise(DrawnRows):
    """Cuts raw crops for a simulation: `speech [L]`, and several noises for it, `noise [K, L]`."""

    speech: Corpus
    noise: Corpus
    length: int  # longer than the training segment, since speed changes eat some
    music: Corpus | None = None
    noises: int = 3  # noise slots a row
    babble: float = 0.1  # chance that a slot holds several talkers instead of a recording of noise
    music_share: float = 0.06  # or music
    synthetic: float = 0.08  # or Gaussian noise, which the simulation then colours
    seed: int = 0

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        u = rng.random()
        if u < self.synthetic:
            return rng.standard_normal(self.length, np.float32) * 0.1
        u -= self.synthetic
        if u < self.babble:
            talkers = rng.integers(3, 9)
            voices = (self.speech.crop(rng, self.length) for _ in range(talkers))
            return sum(voice * 10 ** (rng.uniform(-6, 6) / 20) for voice in voices) / np.sqrt(talkers)
        if u < self.babble + self.music_share and self.music is not None:
            return self.music.crop(rng, self.length)
        return self.noise.crop(rng, self.length)

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        speech = self.speech.crop(rng, self.length, "pad")
        noise = np.stack([self._noise(rng) for _ in range(self.noises)], dtype=np.float32)
        return {"speech": speech, "noise": noise}
