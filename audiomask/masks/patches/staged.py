"""Draw masks of A-JEPA's curriculum for autoencoders: one kind of mask turns into another.

In `jepa.Curriculum`, the blocks of the paper, context and targets vary in size. Here the two kinds of
blocks hide an exact fraction of the patches, so an autoencoder sees as many as under any other mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from audiomask.masks.markov import uniform
from audiomask.masks.patches.jepa import aware
from audiomask.masks.patches.patterns import AnyRatio, Block, Grid, PatchMask, Scheduled, limits, one_by_one


@dataclass(frozen=True)
class Strips(AnyRatio):
    """Hide strips over all frequencies or all times, one after the other until there are enough.

    These are the time-frequency-aware targets of A-JEPA (Fei et al. 2023). Areas are uniform in `scale`, as
    fractions of the grid; a strip is at least one patch thick. The last one is cut to size and keeps the
    patches of its earliest columns. If `strips` of them do not suffice, the rest is random.
    """

    scale: tuple[float, float] = (0.05, 0.075)
    strips: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        limits(self.scale, (1.0, 1.0))
        if self.strips < 1:
            raise ValueError(f"strips is {self.strips}; want 1 or more")

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        (low, high), chance = self.scale, uniform(seeds, 2 * self.strips, 1)
        share, upright = low + (high - low) * chance[:, : self.strips], chance[:, self.strips :] < 0.5
        lengths = torch.tensor(grid, device=seeds.device)
        thin = (share[:, :, None] * lengths).round().clamp_min(1).long()
        sizes = torch.where(torch.stack([upright, ~upright], 2), thin, lengths)
        return one_by_one(sizes, seeds, grid)


BLOCKS, STRIPS = Block(0.8, (0.15, 0.2), (0.75, 1.5)), Strips(0.8)


@dataclass(frozen=True)
class Staged(PatchMask, Scheduled):
    """Draw `late` masks instead of `early` ones ever more often, with A-JEPA's probability.

    The probability is `jepa.aware`. By default, as there, blocks of the size of I-JEPA's targets turn into
    strips of time or of frequency.
    """

    start: float = 0.01
    early: PatchMask = BLOCKS
    late: PatchMask = STRIPS

    def __post_init__(self) -> None:
        super().__post_init__()
        Scheduled.__post_init__(self)
        if not 0 <= self.start <= 1:
            raise ValueError(f"start is {self.start:g}; want a probability, .01 for example")
        if self.early.ratio != self.late.ratio:
            raise ValueError(
                f"early hides {self.early.ratio:g} of the patches, late {self.late.ratio:g}; make them equal"
            )
        if self.early.scored or self.late.scored:
            raise ValueError("early and late masks take no scores; take kinds that do not look at the sound")

    @property
    def ratio(self) -> float:  # type: ignore[override]
        return self.early.ratio

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        late = uniform(seeds, 1, 3)[:, :, None] < aware(self.done, self.start)
        return torch.where(late, self.late.order(seeds, grid), self.early.order(seeds, grid))
