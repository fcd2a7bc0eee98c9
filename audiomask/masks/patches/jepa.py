"""Draw A-JEPA's blocks: its predictor's targets, and the context that its encoder sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audiomask.masks.markov import like, uniform
from audiomask.masks.patches.patterns import Grid, Scheduled, check, first, limits, placed, shapes

Range = tuple[float, float]


def aware(done: float, start: float) -> float:
    """Return sqrt(done (1 - start^2) + start^2), from `start` to 1 for `done` 0 to 1."""
    return math.sqrt(done + (1 - done) * start**2)


@dataclass(frozen=True)
class Curriculum(Scheduled):
    """Draws blocks with a time-frequency-aware curriculum (A-JEPA, Fei et al. 2023).

    `sample` returns `[B, 1 + K, time, freq]` bool: `[:, 0]` is true where the context encoder sees nothing,
    and `[:, 1:]` are the K target blocks. Blocks lie anywhere in the grid and may overlap. At `step` s, with
    probability

        f(s) = min(1, sqrt(s (1 - c0^2) / S + c0^2))        c0 = `start`, S = `steps`

    they are time-frequency-aware: 3 strips of the areas `aware_scale`, over the whole of time or of
    frequency; else 4 rectangles of the areas `scale` and the aspects `aspect` (freq over time, in patches).
    The context is a block of `context`, less the targets, so a patch in no target may be hidden too.

    Kind and sizes are drawn per step, from `seed`, so that the targets of a batch stack; places are drawn per
    row, from its seed. The context that is left differs by row: `level` evens that out. A grid eight patches
    high has no rows as thin as `aware_scale`: there they are one patch high.
    """

    start: float = 0.01
    scale: Range = (0.15, 0.2)
    aspect: Range = (0.75, 1.5)
    aware_scale: Range = (0.05, 0.075)
    context: Range = (0.85, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; want 0 or more")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start is {self.start:g}; want a probability, .01 for example")
        for scale in (self.scale, self.aware_scale, self.context):
            limits(scale, self.aspect)

    @property
    def aware(self) -> float:
        """Return the probability f(step) of time-frequency-aware blocks."""
        return aware(self.done, self.start)

    def _sizes(self, grid: Grid) -> np.ndarray:
        """Return (time, freq) of the context and of the targets, `[1 + K, 2]` int64."""
        random = np.random.default_rng([self.seed, self.step])

        def pick(table: np.ndarray) -> np.ndarray:
            return table[random.integers(len(table))]

        context = pick(shapes(grid, self.context, (grid[1] / grid[0], grid[1] / grid[0])))
        if random.random() < self.aware:
            targets = []
            for _ in range(3):
                share, along = random.uniform(*self.aware_scale), random.integers(2)
                strip = np.array(grid)
                strip[along] = max(1, round(share * grid[along]))
                targets.append(strip)
        else:
            targets = [pick(shapes(grid, self.scale, self.aspect))] * 4
        return np.stack([context, *targets])

    def sample(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        """Return `[B, 1 + K, time, freq]` bool from `seeds [B]` int64."""
        check(seeds, grid)
        if scores is not None:
            raise ValueError("Curriculum takes no scores; some were given")
        sizes = like(self._sizes(grid), seeds).expand(len(seeds), -1, -1)
        blocks = placed(sizes, seeds, grid)
        return torch.cat([~blocks[:, :1] | blocks[:, 1:].any(1, keepdim=True), blocks[:, 1:]], 1)


def level(hidden: Tensor, seeds: Tensor) -> Tensor:
    """Hide more of `hidden [B, time, freq]` at random until all rows show as few as the least.

    Only here does a row depend on its batch (as in I-JEPA's collation). ValueError if a row shows nothing.
    """
    flat = hidden.flatten(1)
    visible = int((~flat).sum(1).min())
    if not visible:
        raise ValueError("of one context nothing is left to see; take a larger grid or smaller targets")
    chance = torch.where(flat, 1.0, uniform(seeds, flat.shape[1], 3))
    return ~first(chance, visible).view(hidden.shape)
