"""Read pairs of noisy and clean recordings: whole for validation, crops for training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiomask.audio import AudioError
from audiomask.data.crops.clips import Utterances
from audiomask.data.crops.packed import DrawnRows, PackedAudio, cut, drawn
from audiomask.data.kaldi.directory import Utterance, read_mono, resampled


class Pairs(Utterances):
    """Reads pairs: `noisy [T]` or `[M, T]` of wav.scp, `clean [T]` of clean.scp.

    Both are at `sample_rate` Hz, mixed to mono; with `array` the noisy recordings keep all their microphones,
    and the clean ones are of the reference alone.
    """

    def __init__(self, path: str | Path, sample_rate: int, array: bool = False):
        super().__init__(path, sample_rate, "clean.scp", "; `audiomask data mix` makes such a directory")
        self.array = array

    def signals(self, u: Utterance) -> dict[str, np.ndarray]:
        if not self.array:
            noisy, clean = (read_mono(self.data, u, self.sample_rate, table) for table in ("wav", "clean"))
            if len(noisy) != len(clean):
                lengths = f"noisy has {len(noisy)} samples and clean {len(clean)}"
                raise AudioError(f"{u.key}: {lengths}; pair them anew")
            return {"noisy": noisy, "clean": clean}
        loaded = (self.data.load(u, table) for table in ("wav", "clean"))
        noisy, clean = (resampled(x, rate, self.sample_rate) for x, rate in loaded)
        if clean.shape[0] != 1 or noisy.shape[1] != clean.shape[1]:
            shapes = f"noisy has shape {noisy.shape} and clean {clean.shape}"
            raise AudioError(f"{u.key}: {shapes}; pair it anew, with one clean channel of the same length")
        return {"noisy": noisy, "clean": clean[0]}


@dataclass(eq=False)
class PairCrops(DrawnRows):
    """Cuts packed pairs: `speech [L]`, and `noise [1, L]`, which is noisy minus clean.

    Noises can thus be dealt out anew within a batch (`simulate.augment.Augment`).
    """

    pairs: PackedAudio  # each entry is the clean recording followed by the noisy one
    length: int  # samples of a crop; a shorter pair stands at a random place among zeros
    seed: int = 0

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        i = drawn(self.pairs.cdf, rng)
        n = int(self.pairs.lengths[i]) // 2

        def read(at: int, count: int) -> np.ndarray:
            return np.stack([self.pairs.read(i, start + at, count) for start in (0, n)])

        clean, noisy = cut(read, n, rng, self.length, "pad")
        return {"speech": clean, "noise": (noisy - clean)[None]}
