"""Train weight matrices by Muon and everything else by AdamW, with one optimizer.

Muon (Jordan et al. 2024; step size of Liu et al. 2025, arXiv 2502.16982) replaces the momentum of a matrix by
the nearest matrix with orthonormal rows or columns, so that every direction moves at the same pace.
`torch.optim.Muon` has the rule for plain matrices only. Here kernels of convolutions are matrices `[out, in
kernel]`, and stacks of several maps (gates of a GRU or LSTM; query, key and value; what has `maps`) are taken
apart first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

SMALLEST = 16  # rows or columns below which a matrix is left to AdamW


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Return about U V' for the singular value decomposition U S V' of each `[..., m, n]`.

    Newton-Schulz steps with the coefficients of Jordan et al. leave singular values between about .7 and 1.2,
    which is as good as 1 here, and bfloat16 is enough.
    """
    x = g.bfloat16()
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x if wide else x.mT).to(g.dtype)


def groups(model: nn.Module, weight_decay: float, matrices: bool = True) -> list[dict[str, Any]]:
    """Return groups of the parameters of `model`: matrices by the maps they stack, and others.

    Biases, norms and embeddings are not decayed. `matrices=False` leaves all to AdamW.
    """
    maps: dict[int, int] = {}
    for m in model.modules():
        hidden, stacked = getattr(m, "hidden_size", None), getattr(m, "maps", None)
        for p in m.parameters(recurse=False):
            if isinstance(hidden, int):  # recurrent layers, torch's and ours
                maps[id(p)] = p.shape[0] // hidden
            elif isinstance(stacked, int):
                maps[id(p)] = stacked
    found: dict[tuple[float, int], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.ndim < 2 or "embedding" in name:
            key = (0.0, 0)
        elif not matrices or min(p.shape[0], p[0].numel()) < SMALLEST:
            key = (weight_decay, 0)
        elif name.endswith(("qkv.weight", "in_proj_weight")):
            key = (weight_decay, 3)
        else:
            key = (weight_decay, maps.get(id(p), 1))
        found.setdefault(key, []).append(p)
    return [{"params": ps, "weight_decay": decay, "maps": n} for (decay, n), ps in found.items()]


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


class Muon(torch.optim.AdamW):
    """An optimizer that runs Muon on groups with `maps`, and AdamW where `maps` is 0.

    Args:
        params: Groups, in which `maps` says how many maps each matrix stacks; see `groups`.
        lr: Rate of both: Muon's steps are scaled to the root mean square of AdamW's, .2.
        betas, momentum: Settings of AdamW, and of Muon (Nesterov's).
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        momentum: float = 0.95,
    ):
        super().__init__(params, lr, betas)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["maps"] and (params := [p for p in group["params"] if p.grad is not None]):
                self._turn(params, group["lr"], group["weight_decay"], group["maps"])
        super().step()
        return loss

    def _turn(self, params: list[nn.Parameter], lr: float, weight_decay: float, maps: int) -> None:
        """Move `params`; those of one shape are orthogonalised together."""
        for p in params:
            if "momentum" not in (state := self.state[p]):
                state["momentum"] = torch.zeros_like(p)
                state["step"] = torch.zeros(())  # AdamW looks for one in every state that it loads
        momenta, grads = [self.state[p]["momentum"] for p in params], [_gradient(p) for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - self.momentum)
        torch._foreach_lerp_(grads, momenta, self.momentum)  # ahead, like Nesterov's
        alike: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in params:
            alike.setdefault((p.shape[0] // maps, p[0].numel()), []).append(p)
        for (rows, columns), same in alike.items():
            # whole if weights are divided: see docs/scale.md
            whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in map(_gradient, same)]
            updates = orthogonalise(torch.cat([g.reshape(maps, rows, columns) for g in whole]))
            for p, update in zip(same, updates.split(maps), strict=True):
                update = update.reshape(p.shape)
                if isinstance(p, DTensor):
                    update = distribute_tensor(update, p.device_mesh, p.placements, src_data_rank=None)
                p.mul_(1 - lr * weight_decay).add_(update, alpha=-0.2 * lr * max(rows, columns) ** 0.5)
        for p in params:
            p.grad = None  # AdamW passes over it
