"""A weighted sum of losses that also reports its parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from audiomask.losses.waveform import SignalLoss, signals


class WeightedSum(nn.Module):
    """`sum_k weights[k] * losses[k](est, ref)`.

    Args:
        losses: named losses.
        weights: one weight per name; a name without a weight counts 1.
        skip: leading samples outside all losses, for models that need to warm up; each loss may skip more.

    In a YAML:

        class_path: audiomask.losses.WeightedSum
        init_args:
          skip: 16000
          losses:
            spectrum: {class_path: audiomask.losses.CompressedSpectralLoss, init_args: {under: 2.0}}
            snr: {class_path: audiomask.losses.SNRLoss, init_args: {max_db: 30.0}}
          weights: {spectrum: 1.0, snr: 0.01}
    """

    def __init__(
        self, losses: dict[str, SignalLoss], weights: Mapping[str, float] | None = None, skip: int = 0
    ) -> None:
        super().__init__()
        weights = dict(weights or {})
        unknown = sorted(set(weights) - set(losses))
        if unknown or not losses:
            raise ValueError(f"weights for {unknown} but the losses are {sorted(losses)}")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float(weights.get(name, 1.0)) for name in losses}
        self.skip = skip

    def forward(self, est: Tensor, ref: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`est`, `ref` `[B, T]` or `[B, 1, T]`. Returns the weighted sum, and each unweighted part
        detached."""
        est, ref = signals(est, ref, self.skip)
        total = torch.zeros((), device=est.device)
        parts = {}
        for name, loss in self.losses.items():
            value = loss(est, ref)
            total = total + self.weights[name] * value
            parts[name] = value.detach()
        return total, parts
