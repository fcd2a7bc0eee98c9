"""Compare spectra: multi-resolution STFT loss, power-law compression, mel spectrograms.

They are computed from waveforms, so the loss compares what a listener gets after resynthesis, not a
spectrogram that no signal has. Signals as in `waveform.py`: `[B, T]` or `[B, 1, T]`, float32 inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from audiomask.frontend.bands import htk, mel
from audiomask.losses.waveform import L1SNRLoss, SignalLoss, l1_ratio
from audiomask.nn import kernels
from audiomask.nn.recurrent import compiled

# (FFT size, hop, window length) in samples: Parallel WaveGAN (Yamamoto et al. 2020), taken over by the Demucs
# denoiser and CleanUNet for 16 kHz speech.
RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))


Band: TypeAlias = Literal["full", "high", "high_as_published"]


def _within(band: Band, power: Tensor) -> Tensor:
    """Return the part of a spectrogram `[B, T', F]` that the loss looks at."""
    if band == "high":
        return power[:, :, power.shape[2] // 2 :]
    if band == "high_as_published":
        return power[:, power.shape[1] // 2 :]
    if band != "full":
        raise ValueError(f"band is {band!r}; there are full, high and high_as_published")
    return power


@lru_cache(maxsize=64)
def _hann(length: int, device: torch.device) -> Tensor:
    # Scaled so that white noise of variance 1 has |X|^2 = 1 in the mean: floors and weights then are the same
    # at every resolution. Made outside inference mode, as training may use the cache after validation.
    with torch.inference_mode(False):
        window = torch.hann_window(length, dtype=torch.float32, device=device)
        return window / window.square().sum().sqrt()


def _spectrum(x: Tensor, fft: int, hop: int, window: int) -> Tensor:
    """Return the complex spectra `[B, T', F]` of `x [B, T]`, with zeros beyond the ends.

    Frames are centred. A window shorter than the FFT only interpolates the bins, so the frames are cut at the
    window's length and the transform pads them: less to multiply, half the time of torch.stft on a CPU.
    """
    frames = F.pad(x, (window // 2, window // 2)).unfold(-1, window, hop) * _hann(window, x.device)
    return torch.fft.rfft(frames, fft)


def _power_and_spectrum(x: Tensor, fft: int, hop: int, window: int) -> tuple[Tensor, Tensor]:
    """Return `|X|^2` and complex `X`, `[B, T', F]`, see `_spectrum`."""
    spectrum = _spectrum(x, fft, hop, window)
    # two strided reads: a reduction over a last axis of two is several times slower
    return spectrum.real.square() + spectrum.imag.square(), spectrum


class MultiResolutionSTFTLoss(SignalLoss):
    """Computes spectral convergence plus distances of magnitudes, the mean over resolutions.

        L_sc = || |S| - |E| ||_F / || |S| ||_F,     L_mag = mean | log |S| - log |E| |,     mean | |S| - |E| |

    The first two are those of Yamamoto et al. 2020, eq. 4-6; the third counts if `magnitude` weighs it.
    `exponent` applies to all magnitudes but those under the logarithm; .3 compresses them as hearing does.
    The Frobenius norms run over the whole batch, as published. `floor` is added to the power of each bin
    (white noise of variance 1 has power 1), which keeps the gradient finite at digital silence. Resolutions
    are (FFT size, hop, window) in samples.

    `band` "high" takes the upper half of the frequencies, as CleanUNet's authors describe their variant.
    Their code cuts the axis of time instead, and their published models were trained so: on all frequencies
    of the later half of the frames. "high_as_published" repeats that.
    """

    def __init__(
        self,
        resolutions: Sequence[Sequence[int]] = RESOLUTIONS,
        convergence: float = 0.5,
        log_magnitude: float = 0.5,
        floor: float = 1e-8,
        skip: int = 0,
        band: Band = "full",
        magnitude: float = 0.0,
        exponent: float = 1.0,
    ) -> None:
        super().__init__(skip)
        _check_exponent(exponent)
        for fft, hop, window in resolutions:
            if not 0 < hop <= window <= fft:
                raise ValueError(f"resolution {(fft, hop, window)}: it takes 0 < hop <= window <= FFT size")
        self.resolutions = tuple((int(f), int(h), int(w)) for f, h, w in resolutions)
        self.convergence, self.log_magnitude, self.floor = convergence, log_magnitude, floor
        self.band, self.magnitude, self.exponent = band, magnitude, exponent

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        total, floor = est.new_zeros(()), self.floor
        for resolution in self.resolutions:
            power_est, power_ref = (
                _within(self.band, _power_and_spectrum(x, *resolution)[0]) + floor for x in (est, ref)
            )
            size_ref = power_ref ** (self.exponent / 2)
            apart = size_ref - power_est ** (self.exponent / 2)
            # sqrt(x^2 + tiny) for the norm: the root's slope is infinite where both are equal
            norm = ((apart.square().sum() + floor) / size_ref.square().sum()).sqrt()
            total = total + self.convergence * norm + self.magnitude * apart.abs().mean()
            total = total + self.log_magnitude * 0.5 * (power_ref.log() - power_est.log()).abs().mean()
        return total / len(self.resolutions)


class MelSpectrogramLoss(SignalLoss):
    """Compares mel spectrograms over several windows n, as EnCodec's training does ("msspec").

        L = sum_n ( mean |M_n(s) - M_n(e)| + a_n mean (log10 M_n(s) - log10 M_n(e))^2 ) / sum_n (1 + a_n)

    M_n has the power in `bands` bands from `low` Hz, of Hann windows of n samples at a hop of n / 4, at which
    white noise of variance 1 has the power 1 in each bin; under the logarithm `floor` is added. The windows
    are audiocraft's; the paper (Défossez et al. 2023, section 3.4) names those from 32 to 2048. a_n is 1, or
    sqrt(n - 1) with `rising`.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: Sequence[int] = (64, 128, 256, 512, 1024),
        bands: int = 64,
        low: float = 64.0,
        floor: float = 1e-5,
        rising: bool = False,
        skip: int = 0,
    ) -> None:
        super().__init__(skip)
        if any(n < 4 or n % 4 for n in windows):
            raise ValueError(f"windows {tuple(windows)}: want multiples of 4 samples")
        self.sample_rate, self.floor = sample_rate, floor
        self.alphas = {n: (n - 1) ** 0.5 if rising else 1.0 for n in windows}
        for n in windows:
            triangles = torch.from_numpy(htk(sample_rate, n, bands, low, sample_rate / 2)).float()
            self.register_buffer(f"triangles_{n}", triangles, persistent=False)

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        total = est.new_zeros(())
        for n, alpha in self.alphas.items():
            ours, theirs = (self._bands(x, n) for x in (est, ref))
            total = total + (ours - theirs).abs().mean()
            apart = (self.floor + ours).log10() - (self.floor + theirs).log10()
            total = total + alpha * apart.square().mean()
        return total / sum(1 + alpha for alpha in self.alphas.values())

    def _bands(self, x: Tensor, n: int) -> Tensor:
        """Return the powers `[B, ceil(T / hop), bands]` of `x [B, T]`."""
        hop, beside = n // 4, (n - n // 4) // 2
        x = F.pad(x[:, None], (beside, beside), mode="reflect")[:, 0]
        x = F.pad(x, (0, -(x.shape[1] - n) % hop))
        spectrum = torch.fft.rfft(x.unfold(1, n, hop) * _hann(n, x.device))
        return (spectrum.real.square() + spectrum.imag.square()) @ self.get_buffer(f"triangles_{n}")


class LogMelLoss(SignalLoss):
    """Compares logarithms of mel spectrograms over several windows n, as DAC's training does.

        L = sum_n mean | log10 max(M_n(s), floor) - log10 max(M_n(e), floor) |

    M_n has magnitudes in Slaney's bands, from 0 Hz to half the rate, of Hann windows of n samples at a hop of
    n / 4; a window of 32 has 5 of them, and each twice as long twice as many.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048),
        floor: float = 1e-5,
        skip: int = 0,
    ) -> None:
        super().__init__(skip)
        if any(n < 32 or n & (n - 1) for n in windows):
            raise ValueError(f"windows {tuple(windows)}: want powers of 2 from 32 up")
        self.sample_rate, self.floor, self.windows = sample_rate, floor, tuple(windows)
        for n in windows:
            triangles = torch.from_numpy(mel(sample_rate, n, 5 * n // 32)).float()
            self.register_buffer(f"triangles_{n}", triangles, persistent=False)

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        total = est.new_zeros(())
        for n in self.windows:
            ours, theirs = (self._bands(x, n).clamp_min(self.floor).log10() for x in (est, ref))
            total = total + (ours - theirs).abs().mean()
        return total

    def _bands(self, x: Tensor, n: int) -> Tensor:
        """Return the magnitudes `[B, frames, bands]` of `x [B, T]`."""
        x = F.pad(x[:, None], (n // 2, n // 2), mode="reflect")[:, 0]
        z = torch.fft.rfft(x.unfold(1, n, n // 4) * torch.hann_window(n, device=x.device))
        # the root has no slope at 0, where nothing is heard
        power = (z.real.square() + z.imag.square()).clamp_min(1e-12)
        return power.sqrt() @ self.get_buffer(f"triangles_{n}")


class _TrainedDistance(torch.autograd.Function):
    """The mean distance of compressed spectra by the kernel, which makes its gradient too."""

    @staticmethod
    def forward(ctx, est, both, fft, hop, *settings):
        """Return the distance of the two halves of `both [2 B, T]`, of which the first is `est`."""
        window = _hann(fft, est.device)
        est, ref = torch.view_as_real(_spectrum(both, fft, hop, fft)).chunk(2)
        batch, frames, bins, _ = est.shape
        slope, values = torch.empty_like(est), est.new_empty(batch * frames)
        kernels.call("compressed_distance", len(values), bins, *settings, est, ref, values, slope)
        pieces = torch.fft.irfft(torch.view_as_complex(slope), fft, norm="forward") * window
        pieces = pieces.unflatten(2, (-1, hop)).unbind(2)  # of the adjoint, to overlap
        dx = est.new_zeros(batch, frames + len(pieces) - 1, hop)
        for i, piece in enumerate(pieces):
            dx[:, i : i + frames] += piece
        mean = 1 / (len(values) * bins)
        ctx.slope = dx.flatten(1)[:, fft // 2 : fft // 2 + both.shape[1]] * mean
        return values.sum() * mean

    @staticmethod
    @once_differentiable
    def backward(ctx, d):
        return ctx.slope * d, *(None,) * (7 + 1)


class CompressedSpectralLoss(SignalLoss):
    """Computes the squared distance of power-law compressed spectra, the mean over FFT sizes.

        L = magnitude * mean w (|S|^c - |E|^c)^2 + complex * mean | |S|^c e^(j arg S) - |E|^c e^(j arg E) |^2
        w = under where |E| < |S|, else 1

    Windows are Hann's, with hop = size / overlap. Compression as in Ephrat et al. 2018, the two terms as in
    Braun & Tashev 2021 ("A consolidated view of loss functions"). `under` > 1 makes removed speech dearer
    than noise that stays, after the asymmetric loss of Wang et al. 2020 (VoiceFilter-Lite), which scales the
    difference before it is squared; here the square is weighted. `floor` is added to the power of each bin,
    where white noise of variance 1 has power 1.
    """

    def __init__(
        self,
        fft_sizes: Sequence[int] = (256, 512, 1024),
        overlap: int = 4,
        exponent: float = 0.3,
        magnitude: float = 0.7,
        complex_: float = 0.3,
        under: float = 1.0,
        floor: float = 1e-8,
        skip: int = 0,
    ) -> None:
        super().__init__(skip)
        _check_exponent(exponent)
        if any(n < overlap or n % overlap for n in fft_sizes):
            raise ValueError(f"FFT sizes {tuple(fft_sizes)} must be multiples of the overlap {overlap}")
        self.fft_sizes, self.overlap, self.exponent = tuple(fft_sizes), overlap, exponent
        self.magnitude, self.complex_, self.under, self.floor = magnitude, complex_, under, floor

    def compute(self, est: Tensor, ref: Tensor) -> Tensor:
        total, exponent = est.new_zeros(()), (self.exponent - 1) / 2
        if compiled(est) and est.requires_grad and not ref.requires_grad:
            both = torch.cat([est.detach(), ref])
            settings = (self.exponent, self.floor, self.magnitude, self.complex_, self.under)
            for fft in self.fft_sizes:
                total = total + _TrainedDistance.apply(est, both, fft, fft // self.overlap, *settings)
            return total / len(self.fft_sizes)
        for fft in self.fft_sizes:
            sizes, spectra = [], []
            for x in (est, ref):
                power, spectrum = _power_and_spectrum(x, fft, fft // self.overlap, fft)
                gain = (power + self.floor) ** exponent
                sizes.append(gain * (power + self.floor).sqrt())
                spectra.append(spectrum * gain)
            missing = sizes[1] - sizes[0]
            weight = torch.where(missing > 0, self.under, 1.0)
            apart = spectra[1] - spectra[0]
            total = total + self.magnitude * (weight * missing.square()).mean()
            total = total + self.complex_ * (apart.real.square() + apart.imag.square()).mean()
        return total / len(self.fft_sizes)


def _check_exponent(exponent: float) -> None:
    if not 0 < exponent <= 1:
        raise ValueError(f"exponent is {exponent}; a compression lies in (0, 1]")


class SpectralL1SNRLoss(L1SNRLoss):
    """Computes `L1SNRLoss` on the real and imaginary parts of spectra.

    White noise of variance 1 has power 1 in each bin. Version 1 of Bandit takes both parts of a spectrum as
    one long row; version 2 takes the ratio of each and adds the two (`joint` false). With the loss of the
    waveform, at equal weights:

        version 1: L1SNRLoss(10) and SpectralL1SNRLoss(10);   version 2: (20) and (20, joint=False)

    The authors compare the masked spectrum itself. Here it is the spectrum of the signal made of it, as a
    listener gets it, with zeros beyond the ends; and the value is a mean over stems where theirs is a sum.
    """

    def __init__(
        self,
        scale: float = 10.0,
        joint: bool = True,
        fft: int = 2048,
        hop: int = 512,
        floor: float = 1e-3,
        skip: int = 0,
    ) -> None:
        super().__init__(scale, floor, skip)
        if not 0 < hop <= fft:
            raise ValueError(f"hop {hop} of an FFT of {fft}: it takes 0 < hop <= FFT size")
        self.joint, self.fft, self.hop = joint, fft, hop

    def ratios(self, est: Tensor, ref: Tensor) -> Tensor:
        """Return the ratio in each row, `[B]`, of signals `[B, T]`."""
        error, target = (_spectrum(x, self.fft, self.hop, self.fft) for x in (est - ref, ref))
        pairs = [(error.real, target.real), (error.imag, target.imag)]
        if self.joint:
            pairs = [(torch.view_as_real(error), torch.view_as_real(target))]
        return self.scale * torch.stack([l1_ratio(*pair, self.floor) for pair in pairs]).sum(0)
