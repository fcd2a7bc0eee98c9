"""Combine losses, a balancer and an adversary into the value that a training minimises.

    objective = Objective({"l1": L1Loss(), "snr": SNRLoss()}, {"snr": 0.1})
    scalar, parts = objective({"enhanced": estimate}, {"enhanced": clean})
    scalar.backward()

The network is to follow the gradient of the scalar. With a balancer or an adversary, which give a gradient g
at the outputs y, the scalar is <y, g>: clipping, accumulation, mixed precision and several processes work as
with any other loss. `parts` hold the values to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiomask.losses.adversary import Adversary
from audiomask.losses.balancer import Balancer
from audiomask.losses.waveform import SignalLoss, signals


def _weights(
    losses: Mapping[str, Any], others: Sequence[str], weights: Mapping[str, float] | None
) -> dict[str, float]:
    """Return the weights of `losses` and `others` by name, 1 where `weights` has none."""
    names, weights = [*losses, *others], weights or {}
    unknown = sorted(set(weights) - set(names))
    if unknown or not losses:
        raise ValueError(f"weights for {unknown} but the losses are {sorted(names)}")
    return {name: float(weights.get(name, 1.0)) for name in names}


class WeightedSum(nn.Module):
    """Sums `weights[k] * losses[k](est, ref)` over k, for a balancer to take as one loss.

    Args:
        losses: Named losses.
        weights: One weight per name; a name without a weight counts 1.
        skip: Leading samples outside all losses, for models that need to warm up; each loss may skip more.
    """

    def __init__(
        self, losses: dict[str, SignalLoss], weights: Mapping[str, float] | None = None, skip: int = 0
    ) -> None:
        super().__init__()
        self.weights = _weights(losses, (), weights)
        self.losses, self.skip = nn.ModuleDict(losses), skip

    def forward(self, est: Tensor, ref: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of `est`, `ref` `[B, T]` or `[B, 1, T]`, and its unweighted parts."""
        est, ref = signals(est, ref, self.skip)
        total = torch.zeros((), device=est.device)
        parts = {}
        for name, loss in self.losses.items():
            value = loss(est, ref)
            total = total + self.weights[name] * value
            parts[name] = value.detach()
        return total, parts


class Objective(nn.Module):
    """Compares a network's outputs with the wanted signals, in all terms of a training.

    Args:
        losses: Named losses of (estimate, wanted) signals, or sums of some. Each channel of an output is a
            row; the value is the mean over outputs.
        weights: For the names of `losses`, for `adversarial` and `features` where there is an adversary, and
            for outside terms. A name without a weight counts 1. With a balancer they are fractions.
        skip: Leading samples outside all losses.
        balancer: Brings the gradients of losses and adversary to one scale. Outside terms stay as they are.
        adversary: Discriminators to train against, in training only.
        outside: Names of the terms that a task hands in beside the outputs: commitment, detection, bits.

    In a YAML:

        class_path: audiomask.losses.Objective
        init_args:
          losses:
            spectrum: {class_path: audiomask.losses.CompressedSpectralLoss, init_args: {under: 2.0}}
            l1: {class_path: audiomask.losses.L1Loss}
          weights: {spectrum: 2.0, l1: 0.1, adversarial: 4.0, features: 4.0}
          balancer: {class_path: audiomask.losses.Balancer}
          adversary:
            class_path: audiomask.losses.Adversary
            init_args:
              discriminators:
                - {class_path: audiomask.losses.SpectrumDiscriminator, init_args: {fft: 512, hop: 128}}
    """

    def __init__(
        self,
        losses: dict[str, SignalLoss | WeightedSum],
        weights: Mapping[str, float] | None = None,
        skip: int = 0,
        balancer: Balancer | None = None,
        adversary: Adversary | None = None,
        outside: Sequence[str] = (),
    ) -> None:
        super().__init__()
        others = [*(("adversarial", "features") if adversary else ()), *outside]
        self.weights = _weights(losses, others, weights)
        names = [*losses, *others]
        if len({*names, "loss"}) <= len(names):
            raise ValueError(f"losses {sorted(names)}: each needs a name of its own, other than loss")
        self.losses = nn.ModuleDict(losses)
        self.skip, self.balancer, self.adversary = skip, balancer, adversary
        self.outside = tuple(outside)

    def forward(
        self,
        outputs: Mapping[str, Tensor],
        wanted: Mapping[str, Tensor],
        where: Tensor | None = None,
        outside: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare outputs with the wanted signals.

        Args:
            outputs: Signals `[B, C, T]` by name.
            wanted: Signals under the same names.
            where: Float `[B, T]`, 1 where something was estimated; for the adversary.
            outside: Scalars under the names that were given for them.

        Returns:
            The scalar to minimise; and each part, detached and unweighted, beside `loss`, the weighted sum
            without the adversary's.
        """
        outside = dict(outside or {})
        if set(outside) != set(self.outside):
            raise ValueError(f"terms {sorted(outside)} are given and {sorted(self.outside)} were named")
        indirect = torch.is_grad_enabled() and self.training and (self.balancer or self.adversary)
        flat = [x.flatten(1) for x in outputs.values()]
        y = torch.cat(flat, 1) if len(flat) > 1 else flat[0]  # one without a copy
        # the losses' float32: a gradient that is a mean over many samples is 0 in half precision
        precision = torch.promote_types(y.dtype, torch.float32)
        leaf = y.detach().to(precision).requires_grad_() if indirect else y
        pieces = leaf.split([x.shape[1] for x in flat], 1)
        rows = {name: part.view(x.shape) for (name, x), part in zip(outputs.items(), pieces, strict=True)}
        values, parts = self._compare(rows, wanted)
        beside = self._sum(outside)
        total = self._sum(values) + beside
        parts |= {name: value.detach() for name, value in (values | outside).items()}
        parts["loss"] = total.detach()
        if not indirect:
            return total, parts
        if self.adversary:
            every = None if where is None else where.repeat(len(rows), 1)
            real = torch.cat([wanted[name] for name in rows])
            taught, own = self.adversary(torch.cat(list(rows.values())), real, every)
            values |= taught
            parts |= own | {name: value.detach() for name, value in taught.items()}
        if self.balancer:
            gradient = self.balancer(values, self.weights, leaf)
        else:
            (gradient,) = torch.autograd.grad(self._sum(values), leaf)
        return (y * gradient).sum() + beside, parts

    def _compare(
        self, outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the values of the losses, each the mean over outputs, and the parts of sums."""
        pairs = [
            signals(x.flatten(0, 1), wanted[name].flatten(0, 1), self.skip) for name, x in outputs.items()
        ]
        values, parts = {}, {}
        for name, loss in self.losses.items():
            found = [loss(*pair) for pair in pairs]
            if isinstance(loss, WeightedSum):
                for part in loss.losses:
                    parts[part] = torch.stack([within[part] for _, within in found]).mean()
                found = [total for total, _ in found]
            values[name] = torch.stack(found).mean()
        return values, parts

    def _sum(self, values: Mapping[str, Tensor]) -> Any:
        return sum(self.weights[name] * value for name, value in values.items())

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs of balancer and adversary."""
        kept = {"balancer": self.balancer, "adversary": self.adversary}
        return {name: part.state_dict() for name, part in kept.items() if part is not None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        if self.balancer is not None:
            self.balancer.load_state_dict(state["balancer"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
