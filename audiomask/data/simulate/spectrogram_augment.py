"""Augment log-mel spectrograms `[B, frames, bands]`: SpecAugment, random quantization.

They stay on their device; a row's draws follow from its seed alone. SpecAugment is of Park et al. 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audiomask.data.simulate.degrade import RowDraws


def draws(seeds: Tensor, count: int, purpose: int) -> Tensor:
    """Return `[B, count]` uniform in [0, 1) from `seeds [B]` int64, new for each `purpose`."""
    return RowDraws(seeds ^ 0x9E3779B9 * (purpose + 1), count).uniform(0, 1, count).to(seeds.device)


def spec_augment(x: Tensor, seeds: Tensor, frames: int, bands: int, value: float = 0.0) -> Tensor:
    """Return x with 0..`frames` adjacent frames and 0..`bands` adjacent bands a row at `value`."""
    numbers = draws(seeds, 4, 1)
    for axis, most in ((1, frames), (2, bands)):
        size = x.shape[axis]
        width = (numbers[:, :1] * (min(most, size) + 1)).floor()
        start = (numbers[:, 1:2] * (size - width + 1)).floor()
        numbers = numbers[:, 2:]
        place = torch.arange(size, device=x.device)
        gone = (place >= start) & (place < start + width)  # [B, size]
        x = x.masked_fill(gone.unsqueeze(3 - axis), value)
    return x


def randomized_quantization(x: Tensor, seeds: Tensor, regions: int = 8, chance: float = 1.0) -> Tensor:
    """Return x with the values of each row quantized to random levels (Wu et al. 2023).

    Random edges cut the range of a row, from its least to its greatest value, into `regions` bins, each of
    which gets one random value. A fraction `chance` of the rows is changed.
    """
    if regions < 2:
        raise ValueError(f"regions is {regions}; quantization needs at least 2")
    numbers = draws(seeds, 2 * regions, 2).to(x.dtype)
    flat = x.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    inner = numbers[:, 1:regions].sort(1).values
    edges = low + (high - low) * torch.cat([torch.zeros_like(low), inner, torch.ones_like(low)], 1)
    values = edges[:, :-1] + numbers[:, regions:] * edges.diff(dim=1)
    bins = torch.searchsorted(edges[:, 1:-1].contiguous(), flat, right=True)
    return torch.where(numbers[:, :1] < chance, values.gather(1, bins), flat).view_as(x)
