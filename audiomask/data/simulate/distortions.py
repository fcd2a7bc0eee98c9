"""Distort sounds `[B, C, T]`: filters, loudness processing, noise, speed and pitch.

    y = filtered(x, low_pass_at(4000.0), 16000)
    z = limited(compressed(y, 16000, threshold_db=-24.0, ratio=4.0), 16000, -6.0)

All functions are differentiable, keep aligned what they do not move in time, and never change a level that
they were not asked to change. `attacks` has them by name, with ranges and seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import scipy.fft
import torch
import torch.nn.functional as F
from torch import Tensor

from audiomask.data.simulate.degrade import low_pass
from audiomask.frontend.resample import Resample

EPS = 1e-8
Response = Callable[[int, int], Tensor]  # takes n_fft and the rate in Hz, gives [n_fft // 2 + 1] or [B, ...]
LOUDNESS_S, PEAK_S = 0.05, 0.005  # windows of the level of a compressor, and half of those of a limiter
TAPS = 32  # of the interpolation between samples
WIDEST_EDGE_HZ = 200.0  # of a filter; less where the cut-off is below that


def _fast(length: int) -> int:
    """Return a length, from `length` on, whose transform is quick."""
    return scipy.fft.next_fast_len(length, real=True)


def filtered(x: Tensor, response: Response, sample_rate: int) -> Tensor:
    """Return `x` through a filter that rings for at most a second, with silence around x."""
    n = _fast(x.shape[-1] + sample_rate)
    gain = response(n, sample_rate).to(x.device)
    gain = gain[:, None] if gain.ndim == 2 else gain
    return torch.fft.irfft(torch.fft.rfft(x, n) * gain, n)[..., : x.shape[-1]]


def convolved(x: Tensor, h: Tensor) -> Tensor:
    """Return `x [B, C, T]` convolved with impulse responses `h [B, L]` or `[1, L]`, T samples."""
    n = _fast(x.shape[-1] + h.shape[-1] - 1)
    product = torch.fft.rfft(x, n) * torch.fft.rfft(h.to(x), n)[:, None]
    return torch.fft.irfft(product, n)[..., : x.shape[-1]]


def low_pass_at(cutoff_hz: float) -> Response:
    """Return the zero-phase low-pass that halves the amplitude (-6 dB) at `cutoff_hz`."""
    width = min(WIDEST_EDGE_HZ, cutoff_hz)
    edge = torch.tensor([cutoff_hz - width / 2])
    return lambda n, rate: low_pass(edge, n, rate, width)[0]


def high_pass_at(cutoff_hz: float) -> Response:
    """Return the complement of `low_pass_at`."""
    low = low_pass_at(cutoff_hz)
    return lambda n, rate: 1 - low(n, rate)


def band_pass_at(low_hz: float, high_hz: float) -> Response:
    """Return the product of `high_pass_at` and `low_pass_at`."""
    above, below = high_pass_at(low_hz), low_pass_at(high_hz)
    return lambda n, rate: above(n, rate) * below(n, rate)


def smoother(samples: int) -> Response:
    """Return the centred moving average over `samples`; even numbers do not shift it either."""

    def response(n: int, rate: int) -> Tensor:
        f = torch.arange(n // 2 + 1, dtype=torch.float64) / n
        f[0] = 1 / (4 * samples * n)  # as good as 0
        return (torch.sin(math.pi * f * samples) / (samples * torch.sin(math.pi * f))).float()

    return response


def rotator(degrees: float) -> Response:
    """Return the filter that turns the phase of every frequency by so many degrees."""
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    return lambda n, rate: torch.full((n // 2 + 1,), turn, dtype=torch.complex64)


def all_pass(corner_hz: float) -> Response:
    """Return the all-pass of first order, whose phase is -90 degrees at `corner_hz`."""

    def response(n: int, rate: int) -> Tensor:
        s = 1j * torch.fft.rfftfreq(n, 1 / rate) / corner_hz
        return (1 - s) / (1 + s)

    return response


def small_loudspeaker(corner_hz: float) -> Response:
    """Return a closed box (Butterworth) that falls by 12 dB an octave below `corner_hz`."""

    def response(n: int, rate: int) -> Tensor:
        s = 1j * torch.fft.rfftfreq(n, 1 / rate) / corner_hz
        return s.square() / (s.square() + math.sqrt(2) * s + 1)

    return response


def overloaded(x: Tensor) -> Tensor:
    """Return `x` after a cone that is linear when soft and 2.4 dB softer at full scale."""
    return torch.tanh(x)


def averaged(x: Tensor, half: int) -> Tensor:
    """Return the mean of `x [..., T]` over `2 half + 1` samples about each, fewer at the ends."""
    total = F.pad(x.double().cumsum(-1), (1, 0))
    at = torch.arange(x.shape[-1], device=x.device)
    first, last = (at - half).clamp(min=0), (at + half + 1).clamp(max=x.shape[-1])
    return ((total[..., last] - total[..., first]) / (last - first)).to(x.dtype)


def loudness(x: Tensor, sample_rate: int) -> Tensor:
    """Return the level `[B, 1, T]` of all channels in dB re full scale, over `LOUDNESS_S`."""
    power = averaged(x.square().mean(1, keepdim=True), round(LOUDNESS_S * sample_rate / 2))
    return 10 * torch.log10(power.clamp(min=EPS))


def compressed(x: Tensor, sample_rate: int, threshold_db: float, ratio: float) -> Tensor:
    """Return `x` with what is above a threshold turned down: `ratio` dB more in, 1 dB more out."""
    over = (loudness(x, sample_rate) - threshold_db).clamp(min=0)
    return x * 10 ** (-over * (1 - 1 / ratio) / 20)


def expanded(x: Tensor, sample_rate: int, threshold_db: float, ratio: float) -> Tensor:
    """Return `x` with what is below a threshold turned down: 1 dB less in, `ratio` dB less out."""
    under = (threshold_db - loudness(x, sample_rate)).clamp(min=0)
    return x * 10 ** (-(under * (ratio - 1)).clamp(max=60) / 20)


def limited(x: Tensor, sample_rate: int, threshold_db: float) -> Tensor:
    """Return `x` turned down about its peaks, so that none exceeds a threshold; it looks ahead.

    The gain is the mean over a window of what the highest peak of such a window allows: every term of that
    mean has seen the sample in the middle.
    """
    half, limit = round(PEAK_S * sample_rate), 10 ** (threshold_db / 20)
    peak = F.max_pool1d(x.abs().amax(1, keepdim=True), 2 * half + 1, 1, half)
    return x * averaged((limit / peak.clamp(min=EPS)).clamp(max=1), half)


def quantised(x: Tensor, bits: float) -> Tensor:
    """Return `x` in steps of `bits` bits over full scale; the gradient is that of x."""
    steps = 2.0 ** (bits - 1)
    y = (x * steps).round().clamp(-steps, steps - 1) / steps
    return x + (y - x).detach()


def pink(white: Tensor) -> Tensor:
    """Return white noise `[..., T]` with a power that falls by 3 dB an octave, RMS 1."""
    n = white.shape[-1]
    f = torch.arange(n // 2 + 1, device=white.device).clamp(min=1)
    y = torch.fft.irfft(torch.fft.rfft(white) / f.sqrt(), n)
    return y / y.square().mean(-1, keepdim=True).sqrt().clamp(min=EPS)


def at_snr(x: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Return `x [B, C, T]` with noise `snr_db` below the RMS of its row; silence stays silent."""
    level, under = (each.square().mean((1, 2), keepdim=True).sqrt() for each in (x, noise.expand_as(x)))
    return x + noise * (level * 10 ** (-snr_db / 20) / under.clamp(min=EPS))


@lru_cache(8)
def _converter(source: int, target: int) -> Resample:
    return Resample(source, target).eval()


def resampled_via(x: Tensor, sample_rate: int, via_hz: int) -> Tensor:
    """Return `x` converted to another rate and back, aligned and as long."""
    y = converted(converted(x.flatten(0, 1)[:, None], sample_rate, via_hz), via_hz, sample_rate)
    return y[..., : x.shape[-1]].reshape(x.shape)


def converted(x: Tensor, sample_rate: int, wanted: int) -> Tensor:
    """Return `x [B, 1, T]` at another rate, aligned, ceil(T * wanted / sample_rate) samples."""
    return x if wanted == sample_rate else _converter(sample_rate, wanted).to(x.device)(x)


def played(x: Tensor, factor: float, sample_rate: int) -> tuple[Tensor, float]:
    """Return `x` played `factor` times as fast, round(T / factor) samples, and the exact factor.

    The spectrum is cut or extended, with half a second of silence behind the sound, so that its ends do not
    meet. The exact factor is a fraction of numbers up to 1000 or so.
    """
    ratio = Fraction(factor).limit_denominator(1000)
    grains = _fast(-(-(x.shape[-1] + sample_rate // 2) // ratio.numerator))
    n, count = grains * ratio.numerator, grains * ratio.denominator
    length = round(x.shape[-1] / factor)
    spectrum = torch.fft.rfft(x, n)
    bins = count // 2 + 1
    kept = F.pad(spectrum[..., :bins], (0, max(0, bins - spectrum.shape[-1])))
    y = torch.fft.irfft(kept, count) * (count / n)
    return y[..., :length], n / count


def stretched(x: Tensor, rate: float, sample_rate: int) -> Tensor:
    """Return `x` at `rate` times the tempo, round(T / rate) samples, by a phase vocoder."""
    from audiomask.frontend.torchaudio_import import torchaudio

    n_fft = 2 ** round(math.log2(0.046 * sample_rate))  # 2048 at 44.1 kHz
    hop, window = n_fft // 4, torch.hann_window(n_fft, device=x.device)
    rows = F.pad(x.flatten(0, 1), (0, n_fft))
    spectrum = torch.stft(rows, n_fft, hop, window=window, return_complex=True, pad_mode="constant")
    advance = torch.linspace(0, math.pi * hop, n_fft // 2 + 1, device=x.device)[:, None]
    spectrum = torchaudio.functional.phase_vocoder(spectrum, rate, advance)
    y = torch.istft(spectrum, n_fft, hop, window=window, length=round(x.shape[-1] / rate))
    return y.reshape(*x.shape[:2], -1)


def pitched(x: Tensor, semitones: float, sample_rate: int) -> Tensor:
    """Return `x` higher by so many semitones, at the same tempo and length."""
    factor = 2 ** (semitones / 12)
    y, _ = played(stretched(x, 1 / factor, sample_rate), factor, sample_rate)
    return F.pad(y[..., : x.shape[-1]], (0, max(0, x.shape[-1] - y.shape[-1])))


def jittered(x: Tensor, moves: Tensor) -> Tensor:
    """Return `x [B, C, T]` read at n + `moves [B, T]` samples, of at most 8, by a sinc."""
    margin = TAPS // 2 + 8
    padded = F.pad(x, (margin, margin))
    parts = []
    for start in range(0, x.shape[-1], 2**16):  # to bound the memory
        move = moves[:, start : start + 2**16].clamp(-8, 8)
        whole = move.floor()
        k = torch.arange(1 - TAPS // 2, TAPS // 2 + 1, device=x.device)
        far = (move - whole)[..., None] - k
        weight = torch.sinc(far) * torch.special.i0(8 * (1 - (2 * far / TAPS).square()).clamp(min=0).sqrt())
        weight = weight / weight.sum(-1, keepdim=True)
        at = torch.arange(start, start + move.shape[1], device=x.device) + margin + whole.long()
        near = padded[torch.arange(len(x), device=x.device)[:, None, None], :, at[..., None] + k]
        parts.append(torch.einsum("btkc,btk->bct", near, weight))
    return torch.cat(parts, -1)
