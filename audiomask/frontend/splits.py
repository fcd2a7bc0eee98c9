"""Split spectra into bands for networks that have weights of their own for each.

    for band in split("musical", 44100, 2048, 48):
        x[..., band.start : band.stop]  # overlaps its neighbours
        band.weights                    # which sum to 1 over the bands of a bin

They are the splits of Bandit (Watcharasupat et al. 2023, arXiv 2309.02539) as its authors' code makes them:

| split | bands |
|---|---|
| vox7 | 100 Hz wide up to 1 kHz, 250 Hz to 4, 500 Hz to 8, 1 kHz to 16, 2 kHz to 20, the rest; no overlap |
| musical | equidistant in MIDI notes, constant, each reaching to its neighbours' centres |
| mel | HTK's triangles |
| bark | the curves of perceptual linear prediction (Hermansky 1990), steep below and long above |
| tribark | triangles equidistant in Bark |
| erb | triangles equidistant on the scale of equivalent rectangular bandwidths |

Where no band reaches a bin, which happens at half the rate, it has no weight: whatever is masked is 0 there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from audiomask.frontend.bands import Array, htk, triangles


@dataclass(frozen=True)
class Band:
    """The bins from `start` to before `stop`, and the weight of the band in each `[stop - start]`."""

    start: int
    stop: int
    weights: Array


def split(kind: str, sample_rate: int, fft: int, bands: int = 0) -> list[Band]:
    """Return the bands of a split; its number is given but for vox7, which has as many as the rate allows.

    Raises ValueError for unknown splits and for bands so narrow that some hold no bin.
    """
    if kind == "vox7":
        edges = _vox7(sample_rate, fft)
        return [Band(a, b, np.ones(b - a)) for a, b in itertools.pairwise(edges)]
    if kind not in BANKS:
        raise ValueError(f"no split {kind!r}; there are vox7, {', '.join(BANKS)}")
    if bands < 2:
        raise ValueError(f"{bands} bands of {kind}: want at least 2")
    bank = BANKS[kind](sample_rate, fft, bands)
    shares = bank / np.maximum(bank.sum(0), np.finfo(float).tiny)
    found = []
    for i, row in enumerate(bank):
        inside = np.flatnonzero(row)
        if not len(inside):
            raise ValueError(f"{bands} bands of {kind} for an FFT of {fft} at {sample_rate} Hz: {i} is empty")
        start, stop = int(inside[0]), int(inside[-1]) + 1
        found.append(Band(start, stop, shares[i, start:stop]))
    return found


def _vox7(sample_rate: int, fft: int) -> list[int]:
    """Return the edges of the bands in bins, from 0 to all."""

    def index(hz: float) -> int:
        return round(hz * fft / sample_rate)

    edges, end = [0], fft // 2 + 1
    for top, width in ((1000, 100), (4000, 250), (8000, 500), (16000, 1000), (20000, 2000)):
        while edges[-1] < min(index(top), end):
            edges.append(min(edges[-1] + max(1, index(width)), index(top), end))
    return edges if edges[-1] == end else [*edges, end]


def _musical(sample_rate: int, fft: int, bands: int) -> Array:
    step, bins = sample_rate / fft, fft // 2 + 1
    low, high = step, sample_rate / 2

    def midi(hz: float) -> float:
        return 12 * (np.log2(hz) - np.log2(440.0)) + 69

    centres = 440.0 * 2.0 ** ((np.linspace(max(0.0, midi(low)), midi(high), bands) - 69) / 12)
    ratio = 2.0 ** (np.log2(high / low) / bands)
    first = np.floor(centres / ratio / step).astype(int)
    last = np.ceil(centres * ratio / step).astype(int)
    bank = np.zeros((bands, bins))
    for row, a, b in zip(bank, first, last, strict=True):
        row[a : b + 1] = 1.0
    bank[0, : first[0]] = 1.0
    bank[-1, last[-1] + 1 :] = 1.0
    return bank


def _mel(sample_rate: int, fft: int, bands: int) -> Array:
    bank = htk(sample_rate, fft, bands, 0.0, sample_rate / 2).T
    bank[0, 0] = 1.0
    return bank


def _bark(sample_rate: int, fft: int, bands: int) -> Array:
    """Return Hermansky's curves on a grid of `fft` + 1, as the authors' package spafe has them."""
    centres = np.linspace(0.0, _to_bark(sample_rate / 2), bands)
    first, last = (int((fft + 1) * _from_bark(z) / sample_rate) for z in (centres[0], centres[-1]))
    bank = np.zeros((bands, fft // 2 + 1))
    i = np.arange(first, last)
    away = _to_bark(i * sample_rate / (fft + 1)) - centres[:, None]
    curve = np.where(away < 0, 10 ** np.minimum(0, 2.5 * (away + 0.5)), 10 ** np.minimum(0, 0.5 - away))
    bank[:, first:last] = np.where((away < -1.3) | (away > 2.5), 0.0, curve)
    return bank


def _scaled(to: Callable[[Array | float], Array], back: Callable[[Array], Array]) -> Callable[..., Array]:
    """Return a bank of triangles equidistant on the scale `to`; the first holds what lies below it."""

    def bank(sample_rate: int, fft: int, bands: int) -> Array:
        corners = back(np.linspace(to(0.0), to(sample_rate / 2), bands + 2))
        found = triangles(corners, np.linspace(0, sample_rate // 2, fft // 2 + 1)).T
        found[0, : np.flatnonzero(found[0])[0]] = 1.0
        return found

    return bank


def _to_bark(hz: Array | float) -> Array:
    return 6 * np.arcsinh(np.asarray(hz) / 600)  # Wang, Sekey & Gersho 1992


def _from_bark(z: Array) -> Array:
    return 600 * np.sinh(z / 6)


_ERB = 1000 * np.log(10) / (24.7 * 4.37)  # Glasberg & Moore 1990


def _to_erb(hz: Array | float) -> Array:
    return _ERB * np.log10(1 + np.asarray(hz) * 0.00437)


def _from_erb(z: Array) -> Array:
    return (10 ** (z / _ERB) - 1) / 0.00437


BANKS: dict[str, Callable[[int, int, int], Array]] = {
    "musical": _musical,
    "mel": _mel,
    "bark": _bark,
    "tribark": _scaled(_to_bark, _from_bark),
    "erb": _scaled(_to_erb, _from_erb),
}
