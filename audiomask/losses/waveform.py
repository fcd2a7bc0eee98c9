"""Compare waveforms: L1, squared error, signal-to-noise ratios of three kinds.

All losses of this package take an estimate and a reference `[B, T]` or `[B, 1, T]` at full scale 1.0, work in
float32 whatever autocast says, and return the mean over the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Mean power below which a signal counts as digital silence: -80 dB re full scale. It bounds the ratios below
# and with them the gradient, where the reference is silent (noise-only items) or the estimate perfect.
POWER_FLOOR = 1e-8


class SignalLoss(nn.Module):
    """Base of the losses: checks and flattens the signals, leaves autocast, drops the warm-up.

    Args:
        skip: Leading samples left outside the loss, where a recurrent model is still warming up.
    """

    sample_rate: int | None = None  # Hz; the only rate at which the loss is valid, if there is one

    def __init__(self, skip: int = 0) -> None:
        super().__init__()
        if skip < 0:
            raise ValueError(f"skip is {skip} samples; it must be 0 or more")
        self.skip = skip

    def forward(self, est: Tensor, ref: Tensor) -> Tensor:
        """Return the float32 scalar loss of `est` and `ref`, both `[B, T]` or `[B, 1, T]`."""
        est, ref = signals(est, ref, self.skip)
        with torch.autocast(est.device.type, enabled=False):
            return self.compute(est, ref)

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        """Return the loss of float32 signals `[B, T]`."""
        raise NotImplementedError


def signals(est: Tensor, ref: Tensor, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Return both signals as float32 `[B, T - skip]`. ValueError if they do not fit each other."""
    if est.shape != ref.shape:
        raise ValueError(f"estimate {tuple(est.shape)} and reference {tuple(ref.shape)} differ in shape")
    if est.dim() == 3 and est.shape[1] == 1:
        est, ref = est[:, 0], ref[:, 0]
    if est.dim() != 2:
        raise ValueError(f"signals have shape {tuple(est.shape)}; a loss takes [B, T] or [B, 1, T]")
    if skip >= est.shape[-1]:
        raise ValueError(f"skip of {skip} samples leaves nothing of signals of {est.shape[-1]} samples")
    return est[:, skip:].float(), ref[:, skip:].float()


def _negative_ratio_db(target: Tensor, error: Tensor, max_db: float | None) -> Tensor:
    # Wisdom et al. 2020 (MixIT), eq. 2: a fraction tau of the target's power joins the error's, so that the
    # ratio saturates smoothly at max_db and items that are already good stop pulling.
    power, noise = target.square().mean(-1), error.square().mean(-1)
    if max_db is not None:
        noise = noise + 10.0 ** (-max_db / 10.0) * power
    return -10.0 * torch.log10((power + POWER_FLOOR) / (noise + POWER_FLOOR)).mean()


class L1Loss(SignalLoss):
    """Computes the mean absolute error of the samples."""

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        return (est - ref).abs().mean()


class SquaredLoss(SignalLoss):
    """Computes the mean squared error of the samples."""

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        return (est - ref).square().mean()


class SNRLoss(SignalLoss):
    """Computes the negative SNR in dB, `-10 log10(|s|^2 / |s - e|^2)`.

    Items beyond `max_db` dB no longer pull (None: no limit).
    """

    def __init__(self, max_db: float | None = None, skip: int = 0) -> None:
        super().__init__(skip)
        self.max_db = max_db

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        return _negative_ratio_db(ref, ref - est, self.max_db)


class SISDRLoss(SignalLoss):
    """Computes the negative scale-invariant SDR in dB (Le Roux et al. 2019, eq. 5).

    The target is `a s`, the estimate projected on the reference, `a = <e, s> / |s|^2`. `zero_mean` removes
    the means of both signals first, as most published tables do. `max_db` is as in `SNRLoss`.
    """

    def __init__(self, max_db: float | None = None, zero_mean: bool = True, skip: int = 0) -> None:
        super().__init__(skip)
        self.max_db, self.zero_mean = max_db, zero_mean

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        if self.zero_mean:
            est, ref = est - est.mean(-1, keepdim=True), ref - ref.mean(-1, keepdim=True)
        scale = (est * ref).mean(-1, keepdim=True) / (ref.square().mean(-1, keepdim=True) + POWER_FLOOR)
        target = scale * ref
        return _negative_ratio_db(target, est - target, self.max_db)


class L1SNRLoss(SignalLoss):
    """Computes a ratio of means, `scale log10((|e - s| + floor) / (|s| + floor))`.

    Separators are trained with it, beside `SpectralL1SNRLoss`: Bandit (Watcharasupat et al. 2023)
    with a `scale` of 10 and its version 2 with 20, both with a floor of 1e-3, which is -60 dB re full scale
    and for signals at their own level: `Signals(relative=False)`. Rows whose reference is all NaN, stems that
    nobody recorded, are left out of the mean. The authors take the channels of a signal as one row.
    """

    def __init__(self, scale: float = 10.0, floor: float = 1e-3, skip: int = 0) -> None:
        super().__init__(skip)
        if scale <= 0 or floor <= 0:
            raise ValueError(f"scale {scale} and floor {floor}: both must be above 0")
        self.scale, self.floor = scale, floor

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        there = ~ref.isnan().all(-1)
        return _mean_of(there, self.ratios(est, torch.where(there[:, None], ref, 0.0)))

    def ratios(self, est: Tensor, ref: Tensor) -> Tensor:
        """Return the ratio in each row, `[B]`, of signals `[B, T]`."""
        return self.scale * l1_ratio(est - ref, ref, self.floor)


def l1_ratio(error: Tensor, target: Tensor, floor: float) -> Tensor:
    """Return log10 of mean absolute `error` over that of `target` in each row of `[B, ...]`."""
    error, target = (x.flatten(1).abs().mean(1) + floor for x in (error, target))
    return error.log10() - target.log10()


def _mean_of(there: Tensor, rows: Tensor) -> Tensor:
    return torch.where(there, rows, 0.0).sum() / there.sum().clamp_min(1)
