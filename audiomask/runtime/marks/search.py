"""Find a carrier in some seconds of sound: at which speed, from where, and what it says.

    found = search(whitened(x), carrier)                        # x [T]
    found.score, found.message

Sound is whitened first: bins of its spectrogram are divided by about their own magnitude, so that loud places
count no more than soft ones, where most of the mark is. Then for a speed and a drift,

    Y(f) = w(f) sum_b X_b(f) e^(i 2 pi f drift b)        X_b: spectrum of period b, at the mark's own speed
    z(n) = sqrt(2 / sum |Y|^2) Re sum_f Y(f) conj(P(f)) e^(i 2 pi f n)          P: the pilot, |P| = 1

and likewise for the data. The weights w fall with frequency, since codecs and noise leave less of the mark
there. The phases of P are those of a secret key, so whatever the sound is, z without a mark, or by a wrong
key, is a sum of terms of independent random phase: of mean 0 and variance 1, and about Gaussian. Where few
harmonics have all of the energy, as of a tone, z is bounded instead. A codeword C is not equally strong at
all harmonics, and the one that fits best is likely to be strong where such a sound is: the variance of the
data's part is then sum |Y|^2 |C|^2 / sum |Y|^2, and scores are divided by its root where it is above 1.

The speed needs no key (`speeds`): the carrier is the same, turned over, after half a period. The correlation
of the whitened sound with itself, at such lags, is greatest in sum at the right speed; high frequencies count
less in it, too. What is alike by far, as loops and tones are, counts little more than the mark does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import soxr

from audiomask.runtime.marks.carrier import (
    HARMONICS,
    HIGH_HZ,
    HZ,
    LOW_HZ,
    PARTS,
    PERIOD,
    PILOT,
    RATE,
    STEP,
    Carrier,
)

SIZE, HOP = 512, 128
FLOOR = 1e-9  # of the loudest bin: what is softer is not made as loud as the rest
# Of the harmonics: what Opus leaves of a mark, and what neural codecs do.
WEIGHTS = np.array([HARMONICS / (1 + (HZ / 3000) ** 2), HARMONICS / (1 + (HZ / 2000) ** 4)], np.float32)
DRIFTS = np.arange(-4, 5) / 8  # samples a period, 61 ppm at most: what clocks differ by
FEW = DRIFTS[3:6]  # about a speed that was found
BEST = 8  # places of the pilot at which the data are looked at
REACH = 0.25  # greatest change of speed
SPEEDS = 5  # that are looked at
NEAR = 3  # steps on the grid of speeds that are one peak
SPEED_HZ = 2000  # the speed is judged by what is below, which codecs and noise leave
LIMIT = 3  # times the mean: what one frequency or one lag may say about the speed
SURE = 11.0  # a score that needs no further search


class Found(NamedTuple):
    """The place that fits best.

    `score` is in standard deviations; `start`: sample at which a period begins, of the sound at 1 / `speed`;
    `drift` in samples a period; `soft [PARTS]`: how well each part of a codeword fits.
    """

    score: float
    message: int
    speed: float
    drift: float
    start: int
    soft: np.ndarray


def whitened(x: np.ndarray) -> np.ndarray:
    """Return sound `[T]` whose spectrogram has magnitudes of about 1.

    Bins that are softer than their neighbours keep some more: a mark is stronger in them.
    """
    n = -(-len(x) // HOP) + SIZE // HOP
    window = np.sin(np.pi * np.arange(SIZE) / SIZE).astype(np.float32)
    padded = np.pad(x.astype(np.float32), (SIZE - HOP, n * HOP - len(x)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::HOP]
    spectra = np.fft.rfft(frames * window)
    power = np.pad(spectra.real**2 + spectra.imag**2, ((1, 1), (0, 0)), mode="edge")
    power = power[:-2] + power[1:-1] + power[2:]
    power += FLOOR * power.max() + 1e-20
    padded = np.pad(power, ((0, 0), (2, 2)), mode="edge")
    wide = sum(padded[:, i : i + power.shape[1]] for i in range(5)) / 5
    spectra *= np.minimum((wide / power) ** 0.25, 4) / np.sqrt(power)
    flat = np.fft.irfft(spectra, SIZE) * window
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
    power = np.minimum(power, LIMIT * power.mean())  # of tones and loops
    power /= (1 + (np.linspace(0, RATE / 2, len(power), dtype=power.dtype) / SPEED_HZ) ** 2) ** 2
    alike = np.fft.irfft(power)[:n]
    pairs = np.sqrt(n - np.arange(n))
    usual = 1.5 * np.median(np.abs(alike / pairs)[half // 2 :])
    alike = pairs * np.clip(alike / pairs, -LIMIT * usual, LIMIT * usual)
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
        total[max(0, best - NEAR) : best + NEAR + 1] = -np.inf
    return found


def periods(v: np.ndarray, speed: float = 1.0) -> np.ndarray:
    """Return the spectra `[B, 4097]` of periods of whitened sound `[T]`, played at `speed`."""
    v = v if speed == 1 else soxr.resample(v, RATE, RATE * speed, quality="HQ")
    return np.fft.rfft(np.pad(v, (0, -len(v) % PERIOD)).reshape(-1, PERIOD))


def best(found: Iterable[Found]) -> Found:
    """Return the one of the greatest score."""
    return max(found, key=lambda one: one.score)


def search(v: np.ndarray, carrier: Carrier, speed: float = 1.0, sure: float = SURE) -> Found:
    """Return the best place of a carrier in whitened sound `[T]`.

    Other speeds than `speed` are looked at where its score is below `sure`.
    """
    found = place(periods(v, speed), carrier, speed)
    if found.score < sure and len(v) >= PERIOD * 3 // 2:
        others = sorted({1.0, *speeds(v)} - {speed})
        found = best((found, *(place(periods(v, other), carrier, other, FEW) for other in others)))
    return found


def place(x: np.ndarray, carrier: Carrier, speed: float, drifts: np.ndarray = DRIFTS) -> Found:
    """Return the best place of a carrier in spectra of periods, see `periods`."""
    ramp = np.exp(2j * np.pi / PERIOD * np.arange(x.shape[1]) * drifts[:, None]).astype(np.complex64)
    sums = np.zeros_like(ramp)  # [drifts, F]
    for spectrum in x[::-1]:  # Horner's rule
        sums = sums * ramp + spectrum
    y = (sums * WEIGHTS[:, None]).reshape(-1, x.shape[1])  # [weights x drifts, F]
    y *= PERIOD / np.sqrt(2 * (y.real**2 + y.imag**2).sum(1, keepdims=True) + 1e-20)
    pilots = np.fft.irfft(y * carrier.pilot.conj(), PERIOD)
    at = np.argpartition(pilots.ravel(), -BEST)[-BEST:]
    rows, starts = np.unravel_index(at, pilots.shape)
    data = {i: np.fft.irfft(y[i] * carrier.data.conj(), PERIOD) for i in set(rows)}
    places = []
    for i, start in zip(rows, starts, strict=True):
        soft = data[i][(start + STEP * np.arange(PARTS)) % PERIOD]
        message, total = carrier.decode(soft)
        score = np.sqrt(PILOT) * pilots[i, start] + np.sqrt((1 - PILOT) / PARTS) * total
        energy = y[i].real ** 2 + y[i].imag ** 2
        gathered = energy @ np.abs(carrier.comb(message)) ** 2 / (energy.sum() + 1e-20)
        score /= np.sqrt(PILOT + (1 - PILOT) * max(1.0, gathered))
        places.append(Found(float(score), message, speed, float(drifts[i % len(drifts)]), int(start), soft))
    return best(places)
