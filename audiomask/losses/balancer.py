"""Balance losses as EnCodec does: each has a fixed fraction of the gradient at any scale.

    balancer = Balancer()
    gradient = balancer({"l1": l1, "features": features}, {"l1": 1.0, "features": 3.0}, estimate)

Défossez et al. 2022, "High Fidelity Neural Audio Compression", section 3.4. With g_i = dL_i / dx of each loss
at the output x of the network, and <|g_i|> a moving average of its norm, the network follows

    g = sum_i R lambda_i / (sum_j lambda_j) g_i / <|g_i|>

so that the weights lambda are fractions and no loss needs a new weight when another changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from audiomask.losses import processes

EPS = 1e-12


class Balancer:
    """Brings the gradients of losses to one scale before they are added.

    Args:
        total_norm: R, the norm of the sum if all gradients point one way; or the name of a loss, whose
            average norm becomes R: learning rate and clipping then mean what they do for that loss alone.
        decay: Decay of the moving averages of the norms, which are corrected for their start at 0.
        per_batch_item: Average the norms of the gradients of the rows, as in the paper; false takes the norm
            of the gradient of the whole batch.

    The losses are means over the rows of a process; the norms are those of means over the rows of all. So the
    gradients of the parameters, averaged over processes, are what one process with all rows gets.
    """

    def __init__(self, total_norm: float | str = 1.0, decay: float = 0.999, per_batch_item: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; want a number from 0 to below 1")
        self.total_norm, self.decay, self.per_batch_item = total_norm, decay, per_batch_item
        self.sums: dict[str, list[float]] = {}  # by loss: decayed sum of its norms, and of their weights

    def state_dict(self) -> dict[str, Any]:
        return {name: list(sums) for name, sums in self.sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums = {name: list(sums) for name, sums in state.items()}

    def __call__(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], output: Tensor) -> Tensor:
        """Return the gradient that the network is to follow at `output`.

        Args:
            losses: Scalars that depend on `output`.
            weights: A lambda for each of them.
            output: `[B, ...]`.

        Raises:
            ValueError: `total_norm` names a loss that is not among these.
        """
        gradients = {
            name: torch.autograd.grad(loss, output, retain_graph=True)[0] for name, loss in losses.items()
        }
        norms = dict(zip(gradients, self._norms(list(gradients.values())), strict=True))
        for name, norm in norms.items():
            total, count = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = [self.decay * total + norm, self.decay * count + 1]
        averages = {name: self.sums[name][0] / self.sums[name][1] for name in norms}
        if isinstance(self.total_norm, str) and self.total_norm not in averages:
            raise ValueError(f"total_norm is {self.total_norm!r} and the losses are {sorted(averages)}")
        scale = averages[self.total_norm] if isinstance(self.total_norm, str) else self.total_norm
        whole = sum(weights[name] for name in losses)
        balanced = torch.zeros_like(output)
        for name, gradient in gradients.items():
            balanced.add_(gradient, alpha=scale * weights[name] / whole / (EPS + averages[name]))
        return balanced

    def _norms(self, gradients: list[Tensor]) -> list[float]:
        flat = torch.stack(gradients).flatten(2).float()  # [losses, B, ...]
        if self.per_batch_item:
            norms = flat.norm(dim=2).mean(1)
            processes.average([norms])
            return (norms / processes.world()).tolist()
        squares = flat.square().sum((1, 2))
        processes.average([squares])  # they are parts of one batch, so the squares add up
        return (squares / processes.world()).sqrt().tolist()
