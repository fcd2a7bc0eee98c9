"""Build auditory and musical bands `[F, bands]` on frequency scales, and invert them.

A band matrix B turns a power spectrum into band powers, `bands = power @ B`. Its inverse brings band values
back to the bins, without torch: `inverse(B, "interpolate")` for gains (a gain of 1 in every band is 1 in
every bin), and `inverse(B, "least_squares")` for spectra.

The scales are mel in its two published forms, the ERB-rate of Glasberg & Moore 1990, the Bark scale of
Traunmueller 1990, and the octave divided into equal steps for music.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Scale:
    """A frequency scale that maps arrays: `forward` from Hz to its unit, `inverse` back to Hz."""

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


# Slaney 1998 (Auditory Toolbox): linear with 3 mel per 200 Hz up to 1 kHz, then 27 steps to a factor of 6.4.
_SLANEY_KNEE = 15.0  # 1000 Hz * 3 / 200
_SLANEY_STEP = np.log(6.4) / 27.0


def _slaney(f: Array) -> Array:
    above = _SLANEY_KNEE + np.log(np.maximum(f, 1000.0) / 1000.0) / _SLANEY_STEP
    return np.where(f < 1000.0, f * 3.0 / 200.0, above)


def _slaney_inverse(m: Array) -> Array:
    above = 1000.0 * np.exp(_SLANEY_STEP * (np.maximum(m, _SLANEY_KNEE) - _SLANEY_KNEE))
    return np.where(m < _SLANEY_KNEE, m * 200.0 / 3.0, above)


# Traunmueller 1990, eq. 6: z = 26.81 f / (1960 + f) - 0.53, corrected below 2 Bark and above 20.1 Bark
def _bark(f: Array) -> Array:
    z = 26.81 * f / (1960.0 + f) - 0.53
    return np.where(z < 2.0, z + 0.15 * (2.0 - z), np.where(z > 20.1, z + 0.22 * (z - 20.1), z))


def _bark_inverse(z: Array) -> Array:
    z = np.where(z < 2.0, (z - 0.3) / 0.85, np.where(z > 20.1, (z + 4.422) / 1.22, z))
    return 1960.0 * (z + 0.53) / (26.28 - z)


SCALES: dict[str, Scale] = {
    # O'Shaughnessy 1987: 2595 log10(1 + f / 700). HTK and Kaldi write 1127 ln(...), equal to four digits;
    # theirs is used, so that Kaldi's filters come out.
    "mel_htk": Scale(lambda f: 1127.0 * np.log1p(f / 700.0), lambda m: 700.0 * np.expm1(m / 1127.0)),
    "mel_slaney": Scale(_slaney, _slaney_inverse),
    # Glasberg & Moore 1990, eq. 4: number of ERBs below f = 21.4 log10(1 + 4.37 f / 1000)
    "erb": Scale(
        lambda f: 21.4 * np.log10(1.0 + 4.37e-3 * f), lambda e: (10.0 ** (e / 21.4) - 1.0) / 4.37e-3
    ),
    "bark": Scale(_bark, _bark_inverse),
    # MIDI note numbers: 12 to the octave, 69 is the A of 440 Hz
    "semitone": Scale(
        lambda f: 69.0 + 12.0 * np.log2(np.maximum(f, 1e-3) / 440.0),
        lambda n: 440.0 * 2.0 ** ((n - 69.0) / 12.0),
    ),
    "hz": Scale(lambda f: f, lambda f: f),
}


def _scale(name: str) -> Scale:
    if name not in SCALES:
        raise ValueError(f"no frequency scale {name!r}; there are {', '.join(SCALES)}")
    return SCALES[name]


def _range(sample_rate: float, n_fft: int, bands: int, f_min: float, f_max: float | None) -> float:
    top = sample_rate / 2 if f_max is None else f_max
    if bands < 1 or n_fft < 2 or n_fft % 2:
        raise ValueError(f"{bands} bands of an FFT of {n_fft}: want at least one band and an even FFT size")
    if not 0 <= f_min < top <= sample_rate / 2:
        raise ValueError(f"bands from {f_min} to {top} Hz do not lie within 0..{sample_rate / 2} Hz")
    return top


def edges(scale: str, bands: int, f_min: float, f_max: float) -> Array:
    """Return `bands + 2` Hz equidistant on `scale`; band b spans edges b, b + 1 (centre), b + 2."""
    s = _scale(scale)
    low, high = s.forward(np.array([f_min, f_max], np.float64))
    return s.inverse(np.linspace(low, high, bands + 2))


def triangular(
    sample_rate: float,
    n_fft: int,
    bands: int,
    scale: str = "mel_slaney",
    f_min: float = 0.0,
    f_max: float | None = None,
    norm: Literal["area"] | None = None,
    flanks: Literal["hz", "scale"] = "hz",
) -> Array:
    """Return overlapping triangles `[n_fft // 2 + 1, bands]` with equidistant centres.

    The centres are equidistant on `scale`, the matrix is float64. `norm="area"` divides each triangle by half
    its width in Hz (Slaney), so that all have one area; None leaves the peaks at 1. `flanks` are straight
    over Hz (librosa, torchaudio) or over the scale itself (HTK, Kaldi).

    `triangular(sr, n, b, "mel_slaney", norm="area")` is the transpose of
    `librosa.filters.mel(sr=sr, n_fft=n, n_mels=b)`. A band narrower than the spacing of the bins may be
    empty; `empty` finds such bands.
    """
    top = _range(sample_rate, n_fft, bands, f_min, f_max)
    hz = edges(scale, bands, f_min, top)
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    points, at = (hz, bins) if flanks == "hz" else (_scale(scale).forward(hz), _scale(scale).forward(bins))
    left, centre, right = points[:-2], points[1:-1], points[2:]
    up = (at[:, None] - left) / (centre - left)
    down = (right - at[:, None]) / (right - centre)
    matrix = np.maximum(0.0, np.minimum(up, down))
    return matrix * (2.0 / (hz[2:] - hz[:-2])) if norm == "area" else matrix


def partition(
    sample_rate: float,
    n_fft: int,
    bands: int,
    scale: str = "erb",
    f_min: float = 0.0,
    f_max: float | None = None,
    min_bins: int = 1,
) -> Array:
    """Return adjoining rectangles `[n_fft // 2 + 1, bands]`: each bin lies in exactly one band.

    This holds for the bins from `f_min` to `f_max`. Band borders are equidistant on the scale and rounded to
    bins. A band gets at least `min_bins` bins, taken from the wider ones above it (the low ERB bands are
    narrower than the bins of a short FFT).
    """
    top = _range(sample_rate, n_fft, bands, f_min, f_max)
    first, last = round(f_min * n_fft / sample_rate), round(top * n_fft / sample_rate) + 1
    if bands * min_bins > last - first:
        raise ValueError(f"{bands} bands of at least {min_bins} bins do not fit into {last - first} bins")
    hz = edges(scale, bands - 1, f_min, top)
    border = np.rint(hz * n_fft / sample_rate).astype(int)
    border[0], border[-1] = first, last
    for b in range(1, bands):  # upwards: wide enough, and room left for those above
        border[b] = min(max(border[b], border[b - 1] + min_bins), last - (bands - b) * min_bins)
    matrix = np.zeros((n_fft // 2 + 1, bands))
    for b in range(bands):
        matrix[border[b] : border[b + 1], b] = 1.0
    return matrix


def mel(
    sample_rate: float,
    n_fft: int,
    bands: int = 80,
    f_min: float = 0.0,
    f_max: float | None = None,
    htk: bool = False,
    norm: Literal["area"] | None = "area",
) -> Array:
    """Return librosa's mel triangles `[n_fft // 2 + 1, bands]` (Slaney's), or HTK's with `htk`."""
    return triangular(sample_rate, n_fft, bands, "mel_htk" if htk else "mel_slaney", f_min, f_max, norm)


def musical(
    sample_rate: float, n_fft: int, per_octave: int = 12, low: float = 24.0, high: float | None = None
) -> Array:
    """Return triangles `[n_fft // 2 + 1, bands]` centred on notes, `per_octave` to the octave.

    The notes start at MIDI number `low` (24 is C1, 32.7 Hz). By default they end with the last note whose
    neighbour is below half the sample rate.
    """
    step = 12.0 / per_octave
    limit = float(SCALES["semitone"].forward(np.array(sample_rate / 2)))
    bands = int(np.floor(((limit if high is None else min(high + step, limit)) - low) / step + 1e-9))
    if bands < 1:
        raise ValueError(f"no notes from MIDI number {low} to {high} below {sample_rate / 2} Hz")
    f_min, f_max = SCALES["semitone"].inverse(np.array([low - step, low + bands * step]))
    return triangular(sample_rate, n_fft, bands, "semitone", float(f_min), float(f_max))


def empty(matrix: Array) -> list[int]:
    """Return the bands that hold no bin because their scale step is finer than the FFT."""
    return np.flatnonzero(matrix.sum(axis=0) == 0).tolist()


def inverse(matrix: Array, method: Literal["interpolate", "least_squares"] = "interpolate") -> Array:
    """Return the matrix `[bands, F]` that maps values of bands `[F, bands]` to bins.

    With "interpolate" each bin is the mean of its bands, weighted by their fraction in it; bins below the
    first and above the last band take the nearest one. Constant band values give constant bins, which suits
    gains. "least_squares" is the Moore-Penrose inverse; bins may come out negative.
    """
    if method == "least_squares":
        return np.linalg.pinv(matrix)
    if method != "interpolate":
        raise ValueError(f"no inverse {method!r}; there are interpolate and least_squares")
    filled = np.flatnonzero(matrix.sum(axis=0) > 0)
    if len(filled) == 0:
        raise ValueError("every band is empty: the FFT is too short for these bands")
    peak = matrix / np.where(matrix.max(axis=0) > 0, matrix.max(axis=0), 1.0)
    centre = (matrix * np.arange(len(matrix))[:, None]).sum(axis=0)[filled] / matrix.sum(axis=0)[filled]
    back = peak.T.copy()
    for k in np.flatnonzero(peak.sum(axis=1) == 0):
        back[filled[np.argmin(np.abs(centre - k))], k] = 1.0
    return back / back.sum(axis=0)
