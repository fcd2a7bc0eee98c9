"""A plain mask over patches, with the interface of `audiomask.masks.patches.patterns`; no test by itself."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plain:
    """round(ratio N) of N patches, each as likely as the others, from the row's seed alone."""

    ratio: float = 0.75

    def sample(self, seeds: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        n = grid[0] * grid[1]
        rows = [torch.rand(n, generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()]
        return (torch.stack(rows).argsort(1).argsort(1) < round(self.ratio * n)).view(-1, *grid)
