"""Find a carrier in sound at 16 kHz: where its seconds begin, how fast it is played, what it says.

    found = search(x, carrier)                      # x [T], some seconds
    found.score, found.message

Sound is whitened first: each bin of its spectrogram is divided by about its own magnitude, so that loud places
count no more than soft ones, where most of the mark is. Then for a speed s and a drift,

    Y(f) = sum_b X_b(f) e^(i 2 pi f drift b)        X_b: spectrum of second b, played at 1 / s
    c(n) = the signal of Y conj(P)                  P: spectrum of the pilot; for the data likewise
    z(n) = c(n) / sqrt(2 / N sum |Y|^2)             of N samples a second

The phases of P are those of a secret key. Whatever the sound is, z of a wrong key, or without a mark, is a sum
of as many terms of independent random phase: its mean is 0 and its variance 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soxr

from audiomask.runtime.marks.carrier import HIGH_HZ, LOW_HZ, PARTS, PERIOD, PILOT, RATE, Carrier

SIZE, HOP = 512, 128
FLOORS = (1e-6, 1e-4)  # of the loudest bin: the softer one trusts soft places, the other is for noisy sound
DRIFTS = np.arange(-4, 5) / 4  # samples a second, 62 ppm at most: what clocks differ by
BEST = 16  # places of the pilot at which the data are looked at


class Found(NamedTuple):
    """The place that fits best. `score` is in standard deviations; `start`: samples at which a second begins,
    of the sound at 1 / `speed`; `drift` in samples a second; `sign`: -1 where the polarity is turned."""

    score: float
    message: int
    pilot: float
    speed: float
    drift: float
    start: int
    sign: int


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
    frames = np.fft.irfft(spectra / np.sqrt(power + (floor * power.max() + 1e-20)), SIZE) * window
    y = np.zeros((len(frames) + SIZE // HOP, HOP))
    for i in range(SIZE // HOP):
        y[i : i + len(frames)] += frames[:, i * HOP : (i + 1) * HOP]
    return y.ravel()[SIZE - HOP :][: len(x)]


def seconds(v: np.ndarray) -> np.ndarray:
    """Return the spectra `[B, 8001]` of the seconds of sound `[T]`, in the band of the carrier."""
    whole = np.pad(v, (0, -len(v) % PERIOD)).reshape(-1, PERIOD)
    x = np.fft.rfft(whole)
    x[:, :LOW_HZ] = x[:, HIGH_HZ + 1 :] = 0
    return x


def search(x: np.ndarray, carrier: Carrier, speeds: Sequence[float] = (1.0,)) -> Found:
    """Return the best place of a carrier in sound `[T]` that was played at one of `speeds`."""
    found = []
    for speed in speeds:
        slow = x if speed == 1 else soxr.resample(x, RATE, RATE * speed, quality="HQ")
        for floor in FLOORS:
            found.append(_at_one_speed(seconds(whitened(slow, floor)), carrier, speed))
    return max(found)


def _at_one_speed(x: np.ndarray, carrier: Carrier, speed: float) -> Found:
    ramp = np.exp(2j * np.pi / PERIOD * np.arange(x.shape[1]) * DRIFTS[:, None])  # [drifts, F]
    y = np.zeros_like(ramp)
    for spectrum in x[::-1]:  # Horner's rule
        y = y * ramp + spectrum
    scale = np.sqrt(2 / PERIOD * (y.real**2 + y.imag**2).sum(1, keepdims=True)) + 1e-12
    pilots = np.fft.irfft(y * carrier.pilot.conj(), PERIOD) / scale
    best: list[Found] = []
    at = np.argpartition(np.abs(pilots).ravel(), -BEST)[-BEST:]
    parts = PERIOD // PARTS * np.arange(PARTS)
    for i in np.unique(at // PERIOD):
        data = np.fft.irfft(y[i] * carrier.data.conj(), PERIOD) / scale[i]
        for start in at[at // PERIOD == i] % PERIOD:
            pilot = float(pilots[i, start])
            sign = 1 if pilot >= 0 else -1
            message, total = carrier.decode(sign * data[(start + parts) % PERIOD])
            score = np.sqrt(PILOT) * abs(pilot) + np.sqrt((1 - PILOT) / PARTS) * total
            best.append(Found(float(score), message, abs(pilot), speed, float(DRIFTS[i]), int(start), sign))
    return max(best)


# --- speed --------------------------------------------------------------------------------------------------

SLOW_RATE, SLOW_HZ = 4000, 1900  # the pilot's lower part finds the speed
LEVELS = 4  # of the tree: 16 blocks of a quarter second
BLOCK, STEP, RANGE = SLOW_RATE // 4, 0.002, 0.2  # samples; of the speeds that are tried, each twice .1 %
LIMIT = 16.0  # the greatest z^2 of a block, so that no block decides alone


def fastest(x: np.ndarray, carrier: Carrier, count: int = 3, reach: float = RANGE) -> list[float]:
    """Return the likeliest speeds of sound `[T]` of 4 s or more, from 1 - `reach` to 1 + `reach`.

    Squares of z of quarter seconds are added up along straight lines of drift, by a tree (Taylor 1974).
    """
    v = soxr.resample(whitened(x, FLOORS[0]), RATE, SLOW_RATE, quality="HQ")
    pilot = carrier.pilot[: SLOW_RATE // 2 + 1].copy()
    pilot[SLOW_HZ:] = 0
    found = []
    for speed in 1 + STEP * np.arange(-round(reach / STEP), round(reach / STEP) + 1):
        lines = _lines(soxr.resample(v, SLOW_RATE, SLOW_RATE * speed, quality="LQ"), pilot)
        lag = lines.max(1)
        best = int(lag.argmax())
        found.append((float(lag[best]), speed * (1 - (best - len(lag) // 2) / ((2**LEVELS - 1) * BLOCK))))
    return [float(speed) for _, speed in sorted(found, reverse=True)[:count]]


def _lines(v: np.ndarray, pilot: np.ndarray) -> np.ndarray:
    """Return the sums `[lags, 4000]` of z^2 over blocks, by the lag of the last one and the place in a second."""
    blocks = 2**LEVELS
    v = np.pad(v[: blocks * BLOCK], (0, max(0, blocks * BLOCK - len(v)))).reshape(blocks, BLOCK)
    placed = np.zeros((blocks, SLOW_RATE))
    every = SLOW_RATE // BLOCK
    for i in range(every):
        placed[i::every, i * BLOCK : (i + 1) * BLOCK] = v[i::every]
    x = np.fft.rfft(placed)
    x[:, :LOW_HZ] = x[:, SLOW_HZ:] = 0
    norm = np.sqrt(2 * PERIOD * (x.real**2 + x.imag**2).sum(1, keepdims=True)) / SLOW_RATE + 1e-12
    z = np.fft.irfft(x * pilot.conj()) / norm
    sums = np.minimum(z * z, LIMIT)[:, None]  # [groups, lags, places]
    for level in range(1, LEVELS + 1):
        first, second, most = sums[::2], sums[1::2], 2**level
        half, middle = most // 2 if level > 1 else 0, sums.shape[1] // 2
        lags = range(-most, most + 1)
        parts = []
        for lag in lags:
            own = max(-half, min(half, int(lag / 2)))
            parts.append(first[:, middle + own] + np.roll(second[:, middle + own], own - lag, 1))
        sums = np.stack(parts, 1)
    return sums[0]
