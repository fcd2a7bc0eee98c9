"""Find a carrier in some seconds of sound at 16 kHz: at which speed, where its periods begin, what it says.

    white = [whitened(x, floor) for floor in FLOORS]             # x [T]
    found = search(white, carrier)
    found.score, found.message

Sound is whitened first: each bin of its spectrogram is divided by about its own magnitude, so that loud
places count no more than soft ones, where most of the mark is. Then for a speed and a drift,

    Y(f) = sum_b X_b(f) e^(i 2 pi f drift b)        X_b: spectrum of period b, at the mark's own speed
    z(n) = sqrt(2 / sum |Y|^2) Re sum_f Y(f) conj(P(f)) e^(i 2 pi f n)          P: the pilot, |P| = 1

and likewise for the data. The phases of P are those of a secret key, so whatever the sound is, z without a
mark, or by a wrong key, is a sum of terms of independent random phase: of mean 0 and variance 1, with tails
below those of a Gaussian variable.

The speed needs no key (`speeds`): the carrier is the same, turned over, after half a period. The correlation
of the whitened sound with itself, at such lags, is greatest in sum at the right speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import soxr

from audiomask.runtime.marks.carrier import HIGH_HZ, LOW_HZ, PARTS, PERIOD, PILOT, RATE, STEP, Carrier

SIZE, HOP = 512, 128
FLOORS = (1e-6, 1e-4)  # of the loudest bin: the softer one trusts soft places, the other is for noisy sound
DRIFTS = np.arange(-4, 5) / 8  # samples a period, 61 ppm at most: what clocks differ by
BEST = 8  # places of the pilot at which the data are looked at
REACH = 0.25  # greatest change of speed
SPEEDS = 6  # that are looked at
SURE = 11.0  # a score that needs no further search


class Found(NamedTuple):
    """The place that fits best, in `view`, the one of several whitenings.

    `score` is in standard deviations; `start`: sample at which a period begins, of the sound at 1 / `speed`;
    `drift` in samples a period; `soft [PARTS]`: how well each part of a codeword fits.
    """

    score: float
    message: int
    speed: float
    drift: float
    start: int
    soft: np.ndarray
    view: int = 0


def whitened(x: np.ndarray, floor: float) -> np.ndarray:
    """Return sound `[T]` whose spectrogram has magnitudes of about 1."""
    n = -(-len(x) // HOP) + SIZE // HOP
    window = np.sin(np.pi * np.arange(SIZE) / SIZE).astype(np.float32)
    padded = np.pad(x.astype(np.float32), (SIZE - HOP, n * HOP - len(x)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::HOP]
    spectra = np.fft.rfft(frames * window)
    power = np.pad(spectra.real**2 + spectra.imag**2, 1, mode="edge")
    power = power[:-2] + power[1:-1] + power[2:]
    power = (power[:, :-2] + power[:, 1:-1] + power[:, 2:]) / 9
    flat = np.fft.irfft(spectra / np.sqrt(power + (floor * power.max() + 1e-20)), SIZE) * window
    y = np.zeros((len(flat) + SIZE // HOP, HOP), np.float32)
    for i in range(SIZE // HOP):
        y[i : i + len(flat)] += flat[:, i * HOP : (i + 1) * HOP]
    return y.ravel()[SIZE - HOP :][: len(x)]


def fast_length(n: int) -> int:
    """Return the least 1, 3 or 5 times a power of two that is not below n."""
    return min(m << (-(-n // m) - 1).bit_length() for m in (1, 3, 5))


def speeds(v: np.ndarray, count: int = SPEEDS, reach: float = REACH) -> list[float]:
    """Return the likeliest speeds of a carrier in whitened sound `[T]`, the best one first."""
    n, half = len(v), PERIOD // 2
    spectrum = np.fft.rfft(v, fast_length(2 * n))
    edges = np.array([LOW_HZ * (1 - reach), HIGH_HZ * (1 + reach)]) * 2 * (len(spectrum) - 1) / RATE
    power = spectrum.real**2 + spectrum.imag**2
    power[: int(edges[0])] = power[int(edges[1]) :] = 0
    alike = np.fft.irfft(power)[:n]
    turns = np.arange(1, max(2, int((n - half) * (1 - reach) / half)))
    at = np.arange(1 / (1 + reach), 1 / (1 - reach), 0.5 / (turns[-1] * half))  # periods over ours
    total = np.zeros(len(at), np.float32)
    for k in turns:
        lags = np.rint(k * half * at).astype(np.int64)
        total += (-1) ** k * alike[np.minimum(lags, n - 1)]
    found = []
    for _ in range(count):
        best = int(total.argmax())
        found.append(float(1 / at[best]))
        total[max(0, best - 8) : best + 9] = -np.inf
    return found


def periods(v: np.ndarray, speed: float = 1.0) -> np.ndarray:
    """Return the spectra `[B, 4097]` of the periods of whitened sound `[T]` that is played at `speed`."""
    v = v if speed == 1 else soxr.resample(v, RATE, RATE * speed, quality="HQ")
    return np.fft.rfft(np.pad(v, (0, -len(v) % PERIOD)).reshape(-1, PERIOD))


def best(found: Iterable[Found]) -> Found:
    """Return the one of the greatest score."""
    return max(found, key=lambda one: one.score)


def search(views: Sequence[np.ndarray], carrier: Carrier, speed: float = 1.0, sure: float = SURE) -> Found:
    """Return the best place of a carrier in whitened sound `[T]`, of which there are several `views`.

    Other speeds than `speed` are looked at where its score is below `sure`.
    """

    def at(speed: float) -> Found:
        return best(place(periods(v, speed), carrier, speed)._replace(view=i) for i, v in enumerate(views))

    found = at(speed)
    if found.score < sure and len(views[0]) >= PERIOD * 3 // 2:
        others = {1.0, *speeds(views[0])} - {speed}
        found = best((found, *map(at, sorted(others))))
    return found


def place(x: np.ndarray, carrier: Carrier, speed: float) -> Found:
    """Return the best place of a carrier in spectra of periods, see `periods`."""
    ramp = np.exp(2j * np.pi / PERIOD * np.arange(x.shape[1]) * DRIFTS[:, None]).astype(np.complex64)
    y = np.zeros_like(ramp)  # [drifts, F]
    for spectrum in x[::-1]:  # Horner's rule
        y = y * ramp + spectrum
    y *= carrier.pilot != 0
    y *= PERIOD / np.sqrt(2 * (y.real**2 + y.imag**2).sum(1, keepdims=True) + 1e-20)
    pilots = np.fft.irfft(y * carrier.pilot.conj(), PERIOD)
    at = np.argpartition(pilots.ravel(), -BEST)[-BEST:]
    drifts, starts = np.unravel_index(at, pilots.shape)
    data = {i: np.fft.irfft(y[i] * carrier.data.conj(), PERIOD) for i in set(drifts)}
    places = []
    for i, start in zip(drifts, starts, strict=True):
        soft = data[i][(start + STEP * np.arange(PARTS)) % PERIOD]
        message, total = carrier.decode(soft)
        score = np.sqrt(PILOT) * pilots[i, start] + np.sqrt((1 - PILOT) / PARTS) * total
        places.append(Found(float(score), message, speed, float(DRIFTS[i]), int(start), soft))
    return best(places)
