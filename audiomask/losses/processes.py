"""Average over the processes of a training, for losses that need the rows of all."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed


def world() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their means over the processes, in one exchange; alone, do nothing."""
    tensors, count = list(tensors), world()
    if count == 1 or not tensors:
        return
    flat = torch.cat([x.reshape(-1).float() for x in tensors])
    distributed.all_reduce(flat)
    for x, mean in zip(tensors, (flat / count).split([x.numel() for x in tensors]), strict=True):
        x.copy_(mean.view_as(x))


@torch.no_grad()
def share(tensors: Iterable[Tensor]) -> None:
    """Give every process the tensors of the first one; alone, do nothing."""
    if world() > 1:
        for x in tensors:
            distributed.broadcast(x, 0)
