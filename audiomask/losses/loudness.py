"""Compare the loudness of an error with the loudness of the signal, as AudioSeal does.

Signals as in `waveform.py`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiomask.losses.waveform import SignalLoss

GATE_S, GATE_OVERLAP = 0.4, 0.75  # blocks of ITU-R BS.1770
EPSILON = torch.finfo(torch.float32).eps  # power that is added under the logarithm: -69 LUFS


def k_weighting(sample_rate: int, samples: int) -> np.ndarray:
    """Return the impulse response `[samples]` of audiocraft's K-weighting.

    It is a shelf of +4 dB from 1500 Hz on and a high pass at 38 Hz, by the formulas of Bristow-Johnson's
    cookbook. ITU-R BS.1770 tabulates coefficients for 48 kHz that differ by some tenths of a dB.
    """
    from scipy.signal import sosfilt

    def cosine_and_alpha(hz: float, q: float) -> tuple[float, float]:
        w = 2 * math.pi * hz / sample_rate
        return math.cos(w), math.sin(w) / (2 * q)

    c, alpha = cosine_and_alpha(1500.0, math.sqrt(0.5))
    a, root = 10 ** (4 / 40), 2 * math.sqrt(10 ** (4 / 40)) * alpha
    zeros = [
        a * (a + 1 + (a - 1) * c + root),
        -2 * a * (a - 1 + (a + 1) * c),
        a * (a + 1 + (a - 1) * c - root),
    ]
    poles = [a + 1 - (a - 1) * c + root, 2 * (a - 1 - (a + 1) * c), a + 1 - (a - 1) * c - root]
    shelf = np.array([*zeros, *poles]) / poles[0]
    c, alpha = cosine_and_alpha(38.0, 0.5)
    high_pass = np.array([(1 + c) / 2, -1 - c, (1 + c) / 2, 1 + alpha, -2 * c, 1 - alpha]) / (1 + alpha)
    return sosfilt(np.stack([shelf, high_pass]), np.eye(1, samples)[0])


def mel_low_passes(sample_rate: int, bands: int) -> np.ndarray:
    """Return the low passes `[bands - 1, 2 H + 1]` between `bands` bands of equal width in mel.

    They are windowed sincs of gain 1 at 0 Hz, all as long as the lowest needs for 8 zeros, as in julius
    (`SplitBands`).
    """
    top = math.log1p(sample_rate / 2 / 700)  # HTK's mel, up to a factor
    cutoff = 700 * np.expm1(np.linspace(0, top, bands + 1)[1:-1]) / sample_rate
    half = int(8 / cutoff[0] / 2)
    n = np.arange(-half, half + 1)
    taps = np.hanning(2 * half + 1) * np.sinc(2 * cutoff[:, None] * n)
    return taps / taps.sum(1, keepdims=True)


class TFLoudnessLoss(SignalLoss):
    """Computes the loudness of the error over the reference's in time and frequency (AudioSeal).

    Reference s and error e - s are split into `bands` bands and those into windows of `segment` seconds. With
    l the loudness of a window's blocks, K-weighted (San Roman et al. 2024, section 3.2),

        r = l(e - s) - l(s),        L = sum softmax(r / temperature) r

    over all bands, windows and blocks of a clip: what sticks out counts most. It is the mean over clips of
    the paper's value. audiocraft's code (`TFLoudnessRatio`) divides this by the number of values, takes the
    softmax over values of several clips, in an order that mixes them, and clips what is K-weighted at full
    scale; a balancer makes up for the first.
    """

    k: Tensor
    low_passes: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        bands: int = 16,
        segment: float = 0.5,
        overlap: float = 0.5,
        temperature: float = 1.0,
        skip: int = 0,
    ) -> None:
        super().__init__(skip)
        if bands < 2 or segment < GATE_S or not 0 <= overlap < 1 or temperature <= 0:
            raise ValueError(
                f"{bands} bands, segments of {segment} s, overlap {overlap}, temperature {temperature}: need "
                f"2 bands, {GATE_S} s, an overlap from 0 to below 1 and a temperature above 0"
            )
        self.sample_rate, self.temperature = sample_rate, temperature
        self.frame = int(segment * sample_rate)
        self.stride = int(self.frame * (1 - overlap))
        self.gate = round(GATE_S * sample_rate)
        k = torch.from_numpy(k_weighting(sample_rate, self.frame)).float()
        self.register_buffer("k", k, persistent=False)
        low_passes = torch.from_numpy(mel_low_passes(sample_rate, bands)).float()
        self.register_buffer("low_passes", low_passes, persistent=False)

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        noise, signal = self.loudness(torch.cat([est - ref, ref])).flatten(1).chunk(2)
        ratio = noise - signal
        return ((ratio / self.temperature).softmax(1) * ratio).sum(1).mean()

    def loudness(self, x: Tensor) -> Tensor:
        """Return the loudness `[B, bands, windows, blocks]` of `x [B, T]` in LUFS."""
        frames = math.ceil(x.shape[1] / self.stride)
        x = F.pad(self._split(x), (0, (frames - 1) * self.stride + self.frame - x.shape[1]))
        x = x.unfold(2, self.frame, self.stride)
        # a filter at rest at the start of each window: the impulse response as far as the window reaches
        length = 2 * self.frame
        spectrum = torch.fft.rfft(x, length) * torch.fft.rfft(self.k, length)
        x = torch.fft.irfft(spectrum, length)[..., : self.frame]
        power = x.square().unfold(3, self.gate, round(self.gate * (1 - GATE_OVERLAP))).mean(4)
        return -0.691 + 10 * torch.log10(power + EPSILON)

    def _split(self, x: Tensor) -> Tensor:
        """Return the bands `[B, bands, T]` of `x [B, T]`, which add up to it."""
        half, samples = self.low_passes.shape[1] // 2, x.shape[1]
        padded = F.pad(x[:, None], (half, half), mode="replicate")
        length = padded.shape[2]
        taps = torch.fft.rfft(self.low_passes, length)
        low = torch.fft.irfft(torch.fft.rfft(padded) * taps, length)[..., 2 * half :]
        below = torch.cat([torch.zeros_like(x)[:, None], low], 1)
        return torch.cat([low, x[:, None]], 1) - below[..., :samples]
