"""Train on PESQ, by the disturbance between loudness patterns that ITU-T P.862 measures.

Model and constants are those of P.862 at 16 kHz, with the flat input filter of its wideband mode (P.862.2).
What has no gradient or no use in training is left out: time alignment, the search for bad intervals, the
weight of late passages in long files, and the rounding to 16 bits. The level is taken from an ideal band of
325 to 3250 Hz instead of the standard's tabulated filter. Signals as in `waveform.py`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from audiomask.losses.waveform import POWER_FLOOR, SignalLoss, signals

FRAME = 512  # samples, of which a hop is half: 32 ms, Hann
POWER_SCALE, LOUDNESS_SCALE = 6.910853e-6, 0.1866055  # S_p and S_l at 16 kHz
LEVEL = 1e7  # power between 325 and 3250 Hz that both signals are brought to
ZWICKER = 0.23  # exponent of loudness over power

# The 49 bands at 16 kHz: FFT bins, width in Hz, width in Bark, absolute threshold of hearing in dB.
BANDS = (
    (1, 15.734426, 0.157344, 77.1), (1, 31.799433, 0.317994, 63.9), (1, 32.244064, 0.322441, 48.5),
    (1, 32.693359, 0.326934, 36.9), (1, 33.147385, 0.331474, 30.7), (1, 33.606140, 0.336061, 25.9),
    (1, 34.069702, 0.340697, 20.2), (1, 34.538116, 0.345381, 16.6), (2, 35.011429, 0.350114, 12.5),
    (1, 35.489655, 0.354897, 9.9), (1, 35.972870, 0.359729, 6.9), (1, 36.461121, 0.364611, 4.9),
    (1, 36.954407, 0.369544, 2.8), (1, 37.452911, 0.374529, 1.0), (2, 40.269653, 0.379565, -0.1),
    (1, 42.311859, 0.384653, -1.4), (1, 45.992554, 0.389794, -2.5), (2, 51.348511, 0.394989, -3.4),
    (2, 55.040527, 0.400236, -4.1), (2, 56.775208, 0.405538, -4.8), (2, 58.699402, 0.410894, -5.3),
    (2, 62.445862, 0.416306, -5.7), (2, 64.820923, 0.421773, -5.9), (2, 69.195374, 0.427297, -6.0),
    (2, 76.745667, 0.432877, -6.0), (3, 84.016235, 0.438514, -6.0), (3, 90.825684, 0.444209, -6.0),
    (3, 97.931152, 0.449962, -5.8), (3, 103.348877, 0.455774, -5.4), (4, 107.801880, 0.461645, -5.1),
    (3, 113.552246, 0.467577, -4.7), (4, 121.490601, 0.473569, -4.3), (5, 130.420410, 0.479621, -4.0),
    (4, 143.431763, 0.485736, -3.6), (5, 158.486816, 0.491912, -3.3), (6, 176.872803, 0.498151, -3.1),
    (6, 198.314697, 0.504454, -3.0), (7, 219.549561, 0.510819, -3.0), (8, 240.600098, 0.517250, -2.9),
    (9, 268.702393, 0.523745, -2.8), (9, 306.060059, 0.530308, -2.8), (12, 349.937012, 0.536934, -2.8),
    (12, 398.686279, 0.543629, -2.9), (15, 454.713867, 0.550390, -3.2), (16, 506.841797, 0.557220, -3.7),
    (18, 564.863770, 0.564119, -4.3), (21, 637.261230, 0.571085, -4.4), (25, 794.717285, 0.578125, -3.8),
    (20, 931.068359, 0.585232, -2.7),
)  # fmt: skip


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return window `[512]`, bands `[257, 49]`, widths in Bark, thresholds, exponents `[49]`."""
    with torch.inference_mode(False):
        bins, hz, bark, threshold_db = torch.tensor(BANDS, dtype=torch.float64).T
        to_bands = torch.zeros(FRAME // 2 + 1, len(BANDS), dtype=torch.float64)
        ends = bins.cumsum(0).long().tolist()
        for band, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            to_bands[start:end, band] = POWER_SCALE * hz[band] / (bins[band] * bark[band])
        to_bands[0] = 0  # the mean of the signal is inaudible
        centre = bark.cumsum(0) - bark / 2
        exponent = ZWICKER * (6 / (centre + 2)).clamp(1, 2) ** 0.15  # steeper below 4 Bark
        window = torch.hann_window(FRAME, dtype=torch.float64)
        tables = (window, to_bands, bark, 10 ** (threshold_db / 10), exponent)
        return tuple(t.float().to(device) for t in tables)  # type: ignore[return-value]


def _bark_power(x: Tensor, window: Tensor, to_bands: Tensor) -> Tensor:
    """Return the power density `[B, T', 49]` of `x [B, T]`, filtered and at listening level."""
    n = x.shape[1] + FRAME  # room for the filter to ring out
    spectrum = torch.fft.rfft(x, n)
    f = torch.fft.rfftfreq(n, 1 / 16000, device=x.device)
    voiced = spectrum * ((f >= 325) & (f <= 3250))
    # Parseval; the factor two is for the negative frequencies.
    level = 2 * (voiced.real.square() + voiced.imag.square()).sum(1, keepdim=True) / (n * x.shape[1])
    # P.862.2's input filter: b0 (1 - z)^2 / (1 - 1.9444777 z + .94597794 z^2), a high pass at about 100 Hz.
    z = torch.polar(torch.ones_like(f), -2 * math.pi * f / 16000)
    flat = 2.740826 * (1 - 2 * z + z * z) / (1 - 1.9444777 * z + 0.94597794 * z * z)
    y = torch.fft.irfft(spectrum * flat, n)[:, : x.shape[1]] * (LEVEL / (level + 1e-12)).sqrt()
    frames = torch.fft.rfft(y.unfold(1, FRAME, FRAME // 2) * window)
    return (frames.real.square() + frames.imag.square()) @ to_bands


def _norm(x: Tensor, bark: Tensor, p: int) -> Tensor:
    """Return P.862's norm over the bands but the lowest, by width: `[B, T', 49]` to `[B, T']`."""
    x, bark = x[..., 1:].abs(), bark[1:]
    total = bark.sum()
    return total * (((x * bark) ** p).sum(-1) / total + 1e-5**p) ** (1 / p)


def _over_time(x: Tensor) -> Tensor:
    """Return `[B]` of `[B, T']`: sixth power in 20 frames, overlapping by half, then square."""
    stretches = x.unfold(1, min(20, x.shape[1]), 10)
    return (stretches**6).mean(2).pow(1 / 6).square().mean(1).sqrt()


def pesq_disturbance(est: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric and the asymmetric disturbance `[B]` between `est` and `ref`.

    Signals have 16 kHz and at least 512 samples. P.862 predicts a raw score of 4.5 - .1 symmetric - .0309
    asymmetric from them. The symmetric one counts all errors, the asymmetric one additions only. A frame adds
    45 at most, and there the gradient ends. Both are 0 where the reference is silent.
    """
    est, ref = signals(est, ref)
    if est.shape[1] < FRAME:
        raise ValueError(f"signals of {est.shape[1]} samples; a frame of the perceptual model takes {FRAME}")
    window, to_bands, bark, threshold, exponent = _tables(est.device)
    speaks = ref.square().mean(1) > POWER_FLOOR
    deg, ref = (_bark_power(x, window, to_bands) for x in (est, ref))

    def audible(power: Tensor, factor: float) -> Tensor:
        return power * (power > factor * threshold)

    # The reference gets the estimate's colour, as far as a listener would get used to it (10.2.5) ...
    spoken = audible(ref, 100).sum(2, keepdim=True) >= 1e7
    mean_deg, mean_ref = ((audible(x, 100) * spoken).mean(1, keepdim=True) for x in (deg, ref))
    ref = ref * ((mean_deg + 1000) / (mean_ref + 1000)).clamp(0.01, 100)
    # ... and the estimate the reference's course of level (10.2.6).
    heard = audible(ref, 1).sum(2)
    gain = (heard + 5e3) / (audible(deg, 1).sum(2) + 5e3)
    gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], 1).clamp(3e-4, 5)
    deg = deg * gain[:, :, None]

    def loudness(power: Tensor) -> Tensor:
        sones = (2 * threshold) ** exponent * ((0.5 + 0.5 * power / threshold) ** exponent - 1)
        return LOUDNESS_SCALE * sones * (power > threshold)

    loud_deg, loud_ref = loudness(deg), loudness(ref)
    apart = loud_deg - loud_ref
    masked = 0.25 * torch.minimum(loud_deg, loud_ref)  # differences that much softer are inaudible
    apart = apart.sign() * (apart.abs() - masked).clamp(min=0)
    added = ((deg + 50) / (ref + 50)) ** 1.2
    added = added.clamp(max=12) * (added >= 3)
    weight = ((heard + 1e5) / 1e7) ** 0.04
    symmetric = (_norm(apart, bark, 2) / weight).clamp(max=45)
    asymmetric = (_norm(apart * added, bark, 1) / weight).clamp(max=45)
    return _over_time(symmetric) * speaks, _over_time(asymmetric) * speaks


class PESQLoss(SignalLoss):
    """Computes P.862's mean deduction from 4.5, the best: .1 symmetric + .0309 asymmetric.

    P.862 forgives what a telephone line does, an equaliser of 20 dB in each band: as the main loss it leads
    to sound in one narrow band (findings/pesq_forgives_30_db_of_equaliser.sh). Weigh spectra higher.
    """

    sample_rate = 16000

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        symmetric, asymmetric = pesq_disturbance(est, ref)
        return (0.1 * symmetric + 0.0309 * asymmetric).mean()
