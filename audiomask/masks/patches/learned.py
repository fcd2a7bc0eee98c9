"""Draw masks from a network's scores of patches: hard patches mining, and AdaMAE's sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from audiomask.masks.patches.patterns import AnyRatio, Grid, Scheduled, first, shuffled
from audiomask.masks.patches.scored import checked, drawn_first


@dataclass(frozen=True)
class Hardest(AnyRatio, Scheduled):
    """Hide the hardest patches to predict, more of them as training goes on (HPM).

    `scores [B, time, freq]` are any numbers, greater ones for harder patches (Wang et al. 2023). A fraction

        a(s) = begin + (end - begin) min(1, s / S)          s = `step`, S = `steps`

    of the hidden patches, rounded down, are those of the greatest scores, and the others are random. The
    paper's fraction goes from 0 to .5: if all were hard ones, nothing that tells of them would be visible.
    """

    begin: float = 0.0
    end: float = 0.5
    scored: ClassVar[str] = "[B, time, freq], how hard each patch is to guess"

    def __post_init__(self) -> None:
        super().__post_init__()
        Scheduled.__post_init__(self)
        if not (0 <= self.begin <= 1 and 0 <= self.end <= 1):
            raise ValueError(f"begin is {self.begin:g}, end {self.end:g}; want shares, from 0 to 1")

    @property
    def share(self) -> float:
        """Return a(step), the fraction of hard patches."""
        return self.begin + (self.end - self.begin) * self.done

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        hardness = checked(scores, (len(seeds), *grid))
        hard = first(-hardness, int(self.share * self.count(grid) + 1e-9))
        return torch.where(hard, -1, shuffled(seeds, grid))


@dataclass(frozen=True)
class Likely(AnyRatio):
    """Draw visible patches by probabilities, without replacement (AdaMAE, Bandara et al. 2023)."""

    scored: ClassVar[str] = "[B, time, freq], how likely each patch is to stay visible"

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        weights = checked(scores, (len(seeds), *grid), least=0.0)
        return -drawn_first(weights.flatten(1), seeds, 1).view(-1, *grid)
