"""Cut crops of the stems of mixes, which a simulation mixes anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from audiomask.data.crops.packed import DrawnRows, PackedAudio, drawn


@dataclass(eq=False)
class StemCrops(DrawnRows):
    """Cuts crops of every stem, `[layers, C, L]` under its name; missing layers are zeros.

    Args:
        corpora: Recordings of each stem; their entries hold all channels, one after the other.
        held: Channels of the entries of each stem; one is given to all.
        length, channels: Of a row.
        layers: By stem, the chance that a second recording lies over the first; 0 where there is none.
        together: Chance that all stems are of one song, at one place; else each is of another.
        count: Number of rows, for a data set that ends.
    """

    corpora: Mapping[str, PackedAudio]
    held: Mapping[str, int]
    length: int
    channels: int = 2
    layers: Mapping[str, float] = field(default_factory=dict)
    together: float = 0.0
    count: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        self._places = {name: {k: i for i, k in enumerate(c.keys)} for name, c in self.corpora.items()}

    def __len__(self) -> int:
        return self.count

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        shape = (1 + bool(self.layers), self.channels, self.length)
        found = {name: np.zeros(shape, np.float32) for name in self.corpora}
        if rng.random() < self.together:
            # The song of a stem drawn evenly, so that songs without the first one come too.
            names = list(self.corpora)
            corpus = self.corpora[names[rng.integers(len(names))]]
            key, place = corpus.keys[drawn(corpus.cdf, rng)], int(rng.integers(2**62))
            for name, rows in found.items():
                if (i := self._places[name].get(key)) is not None:
                    rows[0] = self._crop(name, i, np.random.default_rng(place))
            return found
        for name, rows in found.items():
            for layer in range(1 + (rng.random() < self.layers.get(name, 0.0))):
                rows[layer] = self._crop(name, drawn(self.corpora[name].cdf, rng), rng)
        return found

    def _crop(self, name: str, i: int, rng: np.random.Generator) -> np.ndarray:
        crop = self.corpora[name].crop_rows(i, self.held[name], rng, self.length)
        return np.broadcast_to(crop, (self.channels, self.length))
