"""Separate sounds whose sources are known, by ideal masks.

    estimates = separated(sources, "wiener")     # [N, C, T] -> [N, C, T]

Their scores are upper bounds of what a network with such masks can reach.
Next to the masks of `gains.IDEAL` there are `none`, the mixture as it is, and `multichannel_wiener`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from audiomask.masks import gains

Array = np.ndarray
SPATIAL = "multichannel_wiener"
NAMES = ("none", "ratio", "binary", "wiener", SPATIAL, "phase_sensitive", "complex_bounded", "complex")
WINDOW = 2048  # samples, of 44.1 kHz or nearly: 46 ms
PIECE = 1 << 19  # samples that are worked on at once


def separated(sources: Array, mask: str, window: int = WINDOW) -> Array:
    """Return estimates `[N, C, T]` of sources `[N, C, T]` in their sum, by one of `NAMES`.

    The transform is a Hann window of `window` samples at a quarter of it. A song goes through in pieces that
    overlap by more than a window, so that memory stays small; they join without a seam.
    """
    if mask not in NAMES:
        raise ValueError(f"no mask {mask!r}; there are {', '.join(NAMES)}")
    if window < 16 or window % 4:
        raise ValueError(f"a window of {window} samples; it must be a multiple of 4, 16 at least")
    count, channels, length = sources.shape
    if mask == "none":
        return np.repeat(sources.sum(0, dtype=np.float64)[None].astype(np.float32), count, 0)
    spatial = _spatial(sources, window) if mask == SPATIAL else None
    out = np.empty((count, channels, length), np.float32)
    for start, stop, spectra in _spectra(sources, window):
        mixture = spectra.sum(0)
        if spatial is None:
            spectra = gains.IDEAL[mask](spectra, mixture) * mixture
        else:
            spectra = gains.multichannel_wiener(_powers(spectra), spatial, mixture)
        size = stop - start
        y = _transform(window).istft(spectra, k1=size + 2 * window)
        out[:, :, start:stop] = y[:, :, window : window + size]
    return out


def _transform(window: int) -> Any:
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    return ShortTimeFFT(hann(window, sym=False), window // 4, 1.0)


def _spectra(sources: Array, window: int) -> Iterator[tuple[int, int, Array]]:
    """Yield (start, stop, spectra `[N, C, F, T]`) of pieces, a window wider at both ends."""
    length = sources.shape[2]
    step = PIECE // window * window
    for start in range(0, length, step):
        stop = min(start + step, length)
        x = sources[:, :, max(0, start - window) : stop + window].astype(np.float64)
        before = window - (start - max(0, start - window))
        x = np.pad(x, ((0, 0), (0, 0), (before, stop - start + 2 * window - before - x.shape[2])))
        yield start, stop, _transform(window).stft(x)


def _powers(spectra: Array) -> Array:
    return np.square(np.abs(spectra)).mean(1)


def _spatial(sources: Array, window: int) -> Array:
    """Return the spatial covariance `[N, F, C, C]` of each source, over the whole song."""
    parts = [gains.covariances(spectra) for _, _, spectra in _spectra(sources, window)]
    outer, power = (sum(part[i] for part in parts) for i in (0, 1))
    return outer / (power + gains.TINY)[..., None, None]
