"""Read pairs of noisy and clean recordings: whole for validation, crops for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiomask.audio import AudioError
from audiomask.data.crops.clips import Utterances
from audiomask.data.crops.packed import PackedAudio, Rows, cut, drawn
from audiomask.data.kaldi.directory import read_mono, resampled


class Pairs(Utterances):
    """Reads the pairs of a data directory: `wav.scp` noisy, `clean.scp` clean.

    An item is `noisy [T]` or `[M, T]`, `clean [T]`, `key`.

    Args:
        array: Read several microphones in the noisy recordings, the reference alone in the clean ones; else
            mix all to mono.
    """

    def __init__(self, path: str | Path, sample_rate: int, array: bool = False):
        super().__init__(path, sample_rate, "clean.scp", "; `audiomask data mix` makes such a directory")
        self.array = array

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return noisy and clean samples `[T]` or, of an array, `[M, T]` and `[T]`."""
        u = self.utterances[i]
        if not self.array:
            noisy, clean = (read_mono(self.data, u, self.sample_rate, table) for table in ("wav", "clean"))
            if len(noisy) == len(clean):
                return noisy, clean
            lengths = f"noisy has {len(noisy)} samples and clean {len(clean)}"
            raise AudioError(f"{u.key}: {lengths}; pair them anew")
        loaded = (self.data.load(u, table) for table in ("wav", "clean"))
        noisy, clean = (resampled(x, rate, self.sample_rate) for x, rate in loaded)
        if clean.shape[0] == 1 and noisy.shape[1] == clean.shape[1]:
            return noisy, clean[0]
        shapes = f"noisy has shape {noisy.shape} and clean {clean.shape}"
        raise AudioError(f"{u.key}: {shapes}; pair it anew, with one clean channel of the same length")

    def __getitem__(self, i: int) -> dict[str, Any]:
        noisy, clean = self.read(i)
        key = self.utterances[i].key
        return {"noisy": torch.from_numpy(noisy), "clean": torch.from_numpy(clean), "key": key}


class PairCrops(Rows):
    """Cuts packed pairs: `speech [L]`, and `noise [1, L]`, the noisy recording minus the clean one.

    Noises can thus be dealt out anew within a batch (`simulate.augment.Augment`).

    Args:
        pairs: Packed corpus whose entries are the clean recording followed by the noisy one.
        length: Samples of a crop. A shorter pair stands at a random place among zeros.
        seed: Seed of all rows.
    """

    def __init__(self, pairs: PackedAudio, length: int, seed: int = 0):
        super().__init__(length, seed, pairs)
        self.pairs = pairs

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        i = drawn(self.pairs.cdf, rng)
        n = int(self.pairs.lengths[i]) // 2

        def read(at: int, count: int) -> np.ndarray:
            return np.stack([self.pairs.read(i, start + at, count) for start in (0, n)])

        clean, noisy = cut(read, n, rng, self.length, "pad")
        return {"speech": clean, "noise": (noisy - clean)[None]}
