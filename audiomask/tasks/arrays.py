"""Data for training a model of an array (`tasks.enhance.Enhance` with `data.arrays.ArrayScenes`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
import torch
from torch.utils.data import DataLoader

from audiomask.audio import AudioError
from audiomask.tasks.enhance import NoisySpeech, Pairs


class ArrayPairs(Pairs):
    """Fixed pairs of a data directory, `wav.scp` of all microphones, `clean.scp` of the reference alone.

    Item: `noisy [M, T]`, `clean [T]`, `key`.
    """

    def __getitem__(self, i: int) -> dict[str, Any]:
        u = self.utterances[i]
        noisy, clean = (self._read(i, table) for table in ("wav", "clean"))
        if clean.shape[0] != 1 or noisy.shape[1] != clean.shape[1]:
            raise AudioError(
                f"{u.key}: noisy has shape {noisy.shape} and clean {clean.shape}; pair it anew, with one "
                "clean channel of the same length"
            )
        return {"noisy": torch.from_numpy(noisy), "clean": torch.from_numpy(clean[0]), "key": u.key}

    def _read(self, i: int, table: str) -> np.ndarray:
        """`[C, T]` at our rate."""
        x, rate = self.data.load(self.utterances[i], table)
        if rate != self.sample_rate:
            x = soxr.resample(x.T, rate, self.sample_rate).T
        return np.ascontiguousarray(x, np.float32)


class NoisyArray(NoisySpeech):
    """As `NoisySpeech`, but `valid` holds pairs of an array; `tools/simulate_array.py scenes` makes some."""

    def val_dataloader(self) -> DataLoader:
        return DataLoader(ArrayPairs(self.valid_dir, self.sample_rate), batch_size=1)
