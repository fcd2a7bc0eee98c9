#!/usr/bin/env python3
"""Usage: compose.py OUT COUNT SECONDS SEED: writes pieces of plucked strings, bass and drums, OUT/N.flac.

The corpus that ships has no music, so a few lines make some: chords of a key, a bass on their roots and a
beat, in stereo at 48 kHz. A piece follows from SEED, any text, and its number.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from audiomask import audio

RATE = 48000
SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones of a major key
CHORDS = (0, 3, 4, 5)  # their roots, by degree


def pluck(hertz: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A string after Karplus and Strong (1983): a burst of noise goes round a delay that blurs it."""
    period = round(RATE / hertz)
    burst = np.zeros(samples)
    burst[:period] = rng.uniform(-1, 1, min(period, samples))
    return lfilter([1.0], [1.0, *[0.0] * (period - 1), -0.498, -0.498], burst)


def drum(samples: int, hertz: float, decay_s: float, rng: np.random.Generator) -> np.ndarray:
    """A tone that falls, or noise for 0 Hz."""
    t = np.arange(samples) / RATE
    if not hertz:
        return 0.3 * rng.standard_normal(samples) * np.exp(-t / decay_s)
    return np.sin(2 * np.pi * hertz * (t + 0.02 * (1 - np.exp(-t / 0.02)))) * np.exp(-t / decay_s)


def compose(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A piece `[2, samples]`."""
    total, beat = round(seconds * RATE), round(RATE * 60 / rng.uniform(90, 140))
    key, places = rng.uniform(98, 196), rng.uniform(0.2, 0.8, 4)
    out = np.zeros((2, total))

    def add(sound: np.ndarray, at: int, place: float) -> None:
        n = max(0, min(len(sound), total - at))
        out[:, at : at + n] += np.outer([1 - place, place], sound[:n])

    for number, at in enumerate(range(0, total, beat)):
        if number % 4 == 0:
            root = int(rng.choice(CHORDS))
        notes = [root + step for step in (0, 2, 4)]
        pitches = [key * 2 ** (SCALE[n % 7] / 12 + n // 7) for n in notes]
        for pitch, place in zip(pitches, places, strict=False):
            add(0.3 * pluck(2 * pitch, 2 * beat, rng), at + int(rng.uniform(0, RATE / 50)), place)
        add(0.6 * pluck(pitches[0] / 2, beat, rng), at, 0.5)
        add(drum(beat // 2, 60 if number % 2 == 0 else 0, 0.08, rng), at, 0.5)
        add(0.3 * drum(beat // 2, 0, 0.02, rng), at + beat // 2, places[3])
    return (0.5 * out / np.abs(out).max()).astype(np.float32)


def main(out: Path, count: int, seconds: float, seed: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng([number, *seed.encode()])
        audio.write(out / f"{number}.flac", compose(seconds, rng), RATE, overwrite=True)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
