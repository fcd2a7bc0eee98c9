"""Read recordings of any kind: random crops for training, whole clips for validation."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from audiomask.audio import AudioError
from audiomask.data.crops.labels import targets
from audiomask.data.crops.packed import Corpus, DrawnRows
from audiomask.data.kaldi.directory import DataDir, Utterance, read_mono


@dataclass(eq=False)
class Crops(DrawnRows):
    """Cuts random crops: `audio [L]` float32 and, with `beside`, its `confidence [L]`."""

    corpus: Corpus
    length: int  # samples of a crop, for which shorter recordings repeat
    augment: bool = True  # roll by any number of samples, scale by .5 + Beta(10, 10), as Audio-MAE
    seed: int = 0
    beside: Corpus | None = None  # numbers for the samples of `corpus`, packed alike and cropped alike

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        same = copy.deepcopy(rng)
        x, by, gain = self.corpus.crop(rng, self.length), 0, np.float32(1)
        if self.augment:
            by, gain = int(rng.integers(self.length)), np.float32(0.5 + rng.beta(10, 10))
        item = {"audio": np.roll(x, by) * gain}
        if self.beside is not None:
            item["confidence"] = np.roll(self.beside.crop(same, self.length), by)
        return item


def confidences(data: DataDir, key: str, length: int) -> np.ndarray:
    """Spread an utterance's utt2confidence over `[length]`; AudioError unless from 0 to 1."""
    line = data.tables.get("utt2confidence", {}).get(key, "")
    try:
        numbers = np.array(line.split(), np.float32)
    except ValueError:
        numbers = np.array([np.nan], np.float32)
    if not len(numbers) or not ((numbers >= 0) & (numbers <= 1)).all():
        raise AudioError(
            f"{data.path}/utt2confidence: {key} has {line[:20]!r}; want numbers from 0 to 1, with spaces "
            "between them, a recogniser's confidence in equal parts of the utterance"
        )
    return numbers[np.arange(length) * len(numbers) // max(1, length)]


class Utterances(Dataset[dict[str, Any]]):
    """A base of data sets of utterances; AudioError for a directory without the table `needed`."""

    def __init__(self, path: str | Path, sample_rate: int, needed: str = "wav.scp", why: str = ""):
        self.data, self.sample_rate = DataDir.read(path), sample_rate
        if needed not in self.data.tables:
            raise AudioError(f"{path}: no {needed} beside wav.scp{why}")
        self.utterances = list(self.data.utterances())

    def signals(self, u: Utterance) -> dict[str, np.ndarray]:
        """Return the signals of an utterance by name."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i: int) -> dict[str, Any]:
        u = self.utterances[i]
        return {name: torch.from_numpy(x) for name, x in self.signals(u).items()} | {"key": u.key}


class Clips(Utterances):
    """Reads `audio [T]` from the beginning of each utterance, for validation.

    It has `length` samples at most (0: all). An item has its number, `seed`, and `confidence [T]` if asked.
    """

    def __init__(self, path: str | Path, sample_rate: int, length: int = 0, confidence: bool = False):
        super().__init__(path, sample_rate)
        self.length, self.confidence = length, confidence

    def signals(self, u: Utterance) -> dict[str, np.ndarray]:
        x = read_mono(self.data, u, self.sample_rate)
        found = {"audio": x}
        if self.confidence:
            found["confidence"] = confidences(self.data, u.key, len(x))
        return {name: x[: self.length or None] for name, x in found.items()}

    def __getitem__(self, i: int) -> dict[str, Any]:
        return super().__getitem__(i) | {"seed": torch.tensor(i)}


class LabelledClips(Clips):
    """Adds `target [K]` to the items of `Clips`."""

    def __init__(self, path: str | Path, sample_rate: int, length: int, classes: list[str]):
        super().__init__(path, sample_rate, length)
        self.target = targets(self.data, classes)

    def signals(self, u: Utterance) -> dict[str, np.ndarray]:
        return super().signals(u) | {"target": self.target[u.key]}
