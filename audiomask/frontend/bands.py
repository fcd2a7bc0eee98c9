"""Build mel bands `[F, bands]`, which turn power spectra into band powers: `power @ bands`.

They are triangles in float64 whose centres are equidistant in mel: Slaney's mel, as in librosa, or HTK's, as
in Kaldi and torchaudio.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

# Slaney 1998 (Auditory Toolbox): linear with 3 mel per 200 Hz up to 1 kHz, then 27 steps to a factor of 6.4.
_KNEE = 15.0  # 1000 Hz * 3 / 200
_STEP = np.log(6.4) / 27.0


def _slaney_hz(mel: Array) -> Array:
    above = 1000.0 * np.exp(_STEP * (np.maximum(mel, _KNEE) - _KNEE))
    return np.where(mel < _KNEE, mel * 200.0 / 3.0, above)


def _htk(hz: float | Array) -> Array:
    # to four digits the 2595 log10(1 + f / 700) of O'Shaughnessy 1987
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)


def _check(sample_rate: float, n_fft: int, bands: int, low: float, high: float) -> None:
    if bands < 1 or n_fft < 2 or n_fft % 2:
        raise ValueError(f"{bands} bands of an FFT of {n_fft}: want at least one band and an even FFT size")
    if not 0 <= low < high <= sample_rate / 2:
        raise ValueError(f"bands from {low} to {high} Hz do not lie within 0..{sample_rate / 2} Hz")


def triangles(corners: Array, at: Array) -> Array:
    """Return triangles of peak 1 at places `at`; number b spans corners b to b + 2."""
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    up = (at[:, None] - left) / (centre - left)
    down = (right - at[:, None]) / (right - centre)
    return np.maximum(0.0, np.minimum(up, down))


def _bins(sample_rate: float, n_fft: int) -> Array:
    return np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)


def mel(sample_rate: float, n_fft: int, bands: int) -> Array:
    """Return Slaney's triangles `[n_fft // 2 + 1, bands]`: straight over Hz, all of one area.

    They are the transpose of `librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=bands)`.
    """
    top = sample_rate / 2
    _check(sample_rate, n_fft, bands, 0, top)
    last = _KNEE + np.log(top / 1000.0) / _STEP if top >= 1000.0 else top * 3.0 / 200.0
    hz = _slaney_hz(np.linspace(0.0, last, bands + 2))
    return triangles(hz, _bins(sample_rate, n_fft)) * (2.0 / (hz[2:] - hz[:-2]))


def htk(sample_rate: float, n_fft: int, bands: int, low: float, high: float) -> Array:
    """Return triangles `[n_fft // 2 + 1, bands]` of torchaudio: HTK's mel, straight over Hz."""
    _check(sample_rate, n_fft, bands, low, high)
    hz = 700.0 * np.expm1(np.linspace(_htk(low), _htk(high), bands + 2) / 1127.0)
    return triangles(hz, _bins(sample_rate, n_fft))


def kaldi(sample_rate: float, n_fft: int, bands: int, low: float, high: float) -> Array:
    """Return Kaldi's triangles `[n_fft // 2 + 1, bands]` of peak 1: straight over mel."""
    _check(sample_rate, n_fft, bands, low, high)
    return triangles(np.linspace(_htk(low), _htk(high), bands + 2), _htk(_bins(sample_rate, n_fft)))
