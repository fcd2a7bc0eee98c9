"""Read the labels of utterances (utt2label, comma-separated) and cut crops that have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from audiomask.audio import AudioError
from audiomask.data.crops.packed import Corpus, DrawnRows, drawn
from audiomask.data.kaldi.directory import DataDir, DataError


def labels_of(data: DataDir) -> dict[str, list[str]]:
    """Return every utterance's labels, each once; DataError where utt2label has none."""
    table = data.tables.get("utt2label")
    if table is None:
        raise DataError(f"{data.path}: no utt2label beside wav.scp, with the labels of each utterance")
    missing = [key for key in data.utterance_keys if not table.get(key, "").strip(", ")]
    if missing:
        raise DataError(
            f"{data.path}/utt2label: no label for {missing[0]} ({len(missing)} in all); "
            "`audiomask data fix` drops such utterances"
        )
    split = {key: [name.strip() for name in table[key].split(",")] for key in data.utterance_keys}
    return {key: list(dict.fromkeys(filter(None, names))) for key, names in split.items()}


def count(labels: Iterable[list[str]]) -> dict[str, int]:
    """Return how many utterances have each label, sorted by label, as the classes are."""
    found = Counter(name for names in labels for name in names)
    return {name: found[name] for name in sorted(found)}


def rarity(names: Iterable[str], counts: Mapping[str, int]) -> float:
    """Return the sum of 1 / count: an utterance's weight where classes are drawn alike."""
    return sum(1 / counts[name] for name in names)


def one_hot(labels: list[list[str]], classes: Iterable[str]) -> np.ndarray:
    """Return `[N, K]` float32 with 1 for each label; KeyError for one that is no class."""
    place = {name: i for i, name in enumerate(classes)}
    out = np.zeros((len(labels), len(place)), np.float32)
    for row, names in zip(out, labels, strict=True):
        row[[place[name] for name in names]] = 1
    return out


def targets(data: DataDir, classes: list[str]) -> dict[str, np.ndarray]:
    """Return `[K]` float32 by utterance, 1 for each label; AudioError if one is no class."""
    labels = labels_of(data)
    for key, names in labels.items():
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise AudioError(
                f"{data.path}/utt2label: {key} has the label {unknown[0]!r}, which is none of the "
                f"{len(classes)} classes of the training; drop the utterance, or mend the label"
            )
    return dict(zip(labels, one_hot(list(labels.values()), classes), strict=True))


@dataclass(eq=False)
class LabelledCrops(DrawnRows):
    """Cuts random crops and their labels: `audio [L]`, `target [K]` float32."""

    corpus: Corpus  # with labels; of shards one at a time is drawn from
    counts: dict[str, int]  # recordings of the corpus for each class, in order
    length: int  # samples of a crop; a shorter clip is repeated
    balanced: bool = False  # draw recordings by the sum of 1 / count of their labels; else all alike
    mixup: float = 0.0  # chance of l x + (1 - l) x' with any other clip, labels likewise, l of Beta(10, 10)
    seed: int = 0

    def __post_init__(self) -> None:
        self._labels: list[list[str]] | None = None
        self._target = self._cdf = np.zeros(0)

    def _follow(self, labels: list[list[str]]) -> None:
        """Prepare to draw by these labels."""
        try:
            self._target = one_hot(labels, self.counts)
        except KeyError as error:
            raise AudioError(
                f"label {error} is none of the {len(self.counts)} of the corpus' index; is its audio of "
                "another corpus? Write it anew"
            ) from None
        weight = [rarity(names, self.counts) if self.balanced else 1.0 for names in labels]
        self._cdf, self._labels = np.cumsum(weight) / sum(weight), labels

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if self.corpus.labels is not self._labels:
            self._follow(self.corpus.labels)
        i = drawn(self._cdf, rng)
        x, target = self.corpus.crop_of(i, rng, self.length), self._target[i]
        if rng.random() < self.mixup:
            j, share = int(rng.integers(len(self._cdf))), np.float32(rng.beta(10, 10))
            x = share * x + (1 - share) * self.corpus.crop_of(j, rng, self.length)
            target = share * target + (1 - share) * self._target[j]
        return {"audio": x, "target": target.copy()}
