"""Balance losses as EnCodec does: each has a fixed fraction of the gradient at any scale.

    balancer = Balancer()
    gradient = balancer({"l1": l1, "features": features}, {"l1": 1.0, "features": 3.0}, estimate)

Défossez et al. 2022, "High Fidelity Neural Audio Compression", section 3.4. With g_i = dL_i / dx of each loss
at the output x of the network, and <|g_i|> a moving average of its norm, the network follows

    g = sum_i R lambda_i / (sum_j lambda_j) g_i / <|g_i|>

so that the weights lambda are fractions and no loss needs a new weight when another changes. The authors'
code adds 1e-12 to the average. Here nothing is added, so the fractions hold for losses of any size, and a
gradient is computed at a norm of about 1, by a power of two that is taken back: it survives half precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from audiomask.losses import processes

# The gradient of a loss without an average is computed `TRIES` times at most, at first `FIRST` times too
# large, until its norm is within `NEAR` of 1: `LEAP` larger if nothing is left, and smaller if it overflows.
FIRST, LEAP, NEAR, TRIES = 2.0**12, 2.0**24, 2.0**8, 4


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
        gradients, factors, norms = self._measured(losses, output)
        for name, norm in norms.items():
            total, count = self.sums.get(name, (0.0, 0.0))
            if math.isfinite(norm) and (norm or total):  # what overflows, or has not begun, is no average
                self.sums[name] = [self.decay * total + norm, self.decay * count + 1]
        averages = {name: self._average(name, norm) for name, norm in norms.items()}
        if isinstance(self.total_norm, str) and self.total_norm not in averages:
            raise ValueError(f"total_norm is {self.total_norm!r} and the losses are {sorted(averages)}")
        scale = averages[self.total_norm] if isinstance(self.total_norm, str) else self.total_norm
        whole = sum(weights[name] for name in losses)
        balanced = torch.zeros_like(output)
        for name, gradient in gradients.items():
            if averages[name]:
                share = scale * weights[name] / whole / averages[name]
                balanced.add_(gradient, alpha=share / factors[name])
        return balanced

    def _average(self, name: str, norm: float) -> float:
        """Return the average of the norms of a loss; `norm` where there is none."""
        total, count = self.sums.get(name, (norm, 1.0))
        return total / count

    def _measured(
        self, losses: Mapping[str, Tensor], output: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float], dict[str, float]]:
        """Return the gradients of losses, the factors that they are times, and their norms without."""
        factors = {
            name: _towards_one(self._average(name, 1.0)) if name in self.sums else FIRST for name in losses
        }
        gradients: dict[str, Tensor] = {}
        norms: dict[str, float] = {}
        again = list(losses)
        for attempt in range(TRIES):
            if attempt:
                factors |= {name: factors[name] * _towards_one(norms[name]) for name in again}
            gradients |= {name: _gradient(losses[name], output, factors[name]) for name in again}
            norms |= self._norms({name: gradients[name] for name in again})
            # the same ones in all processes, which share the norms
            again = [name for name in again if name not in self.sums and not 1 / NEAR < norms[name] < NEAR]
            if not again:
                break
        return gradients, factors, {name: norm / factors[name] for name, norm in norms.items()}

    def _norms(self, gradients: Mapping[str, Tensor]) -> dict[str, float]:
        flat = torch.stack(list(gradients.values())).flatten(2).float()  # [losses, B, ...]
        if self.per_batch_item:
            norms = flat.norm(dim=2).mean(1)
            processes.average([norms])
            norms = norms / processes.world()
        else:
            squares = flat.square().sum((1, 2))
            processes.average([squares])  # they are parts of one batch, so the squares add up
            norms = (squares / processes.world()).sqrt()
        return dict(zip(gradients, norms.tolist(), strict=True))


def _gradient(loss: Tensor, output: Tensor, factor: float) -> Tensor:
    """Return the gradient of `factor` times a loss."""
    (gradient,) = torch.autograd.grad(loss, output, torch.full_like(loss, factor), retain_graph=True)
    return gradient


def _towards_one(norm: float) -> float:
    """Return a power of two that brings a norm to about 1, or nearer to it where it is none."""
    if math.isfinite(norm) and norm:
        return 2.0 ** -round(math.log2(norm))
    return 1 / LEAP if norm else LEAP
