"""Make errors inaudible: compare them with what the reference masks.

Signals as in `waveform.py`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from audiomask.frontend.stft import Analysis, power
from audiomask.losses.waveform import SignalLoss
from audiomask.masks.hearing import EARS

Ear: TypeAlias = Literal["johnston", "model1"]


class NoiseToMaskLoss(SignalLoss):
    """Computes by how many dB the error exceeds what the reference masks, on average.

        NMR = 10 log10 (N / M),        L = mean max(0, NMR + margin)

    N is the power of the error e - s and M the masking threshold of the reference s, in each frame and
    critical band: the noise-to-mask ratio of ITU-R BS.1387, with the thresholds of `masks.hearing`. An error
    under the threshold costs nothing and has no gradient.

    Args:
        sample_rate: In Hz.
        size: Samples of a frame (Hann, half overlapping); 0 is 32 ms.
        ear: "johnston", or "model1", which is slower.
        margin: In dB, by how much the error shall stay below the threshold.
        full_scale_db: Level in dB SPL of a sine of amplitude 1, which says how loud it will be played.
        skip: Leading samples outside the loss.
    """

    def __init__(
        self,
        sample_rate: int,
        size: int = 0,
        ear: Ear = "johnston",
        margin: float = 0.0,
        full_scale_db: float = 96.0,
        skip: int = 0,
    ) -> None:
        super().__init__(skip)
        if ear not in EARS:
            raise ValueError(f"ear is {ear!r}; there are {', '.join(EARS)}")
        size = size or 2 * round(0.016 * sample_rate)
        self.sample_rate, self.margin = sample_rate, margin
        self.analysis = Analysis(size, size // 2, "hann")
        self.ear = EARS[ear](sample_rate, size, full_scale_db=full_scale_db)

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        return (self.ratio(est, ref) + self.margin).clamp_min(0).mean()

    def ratio(self, est: Tensor, ref: Tensor) -> Tensor:
        """Return the NMR `[B, frames, bands]` in dB of signals `[B, T]`; at least -60 dB."""
        noise = power(self.analysis((est - ref)[:, None]))
        mask, _ = self.ear.step(self.analysis(ref[:, None]), None)
        noise, mask = (self.ear.in_bands(x * self.ear.scale)[:, 0] for x in (noise, mask))
        return 10 * torch.log10(noise / (mask + 1e-9) + 1e-6)
