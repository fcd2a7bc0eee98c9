"""Pass sound between two threads without waiting, and splice what does not follow on."""

from __future__ import annotations

import numpy as np


class Ring:
    """A lock-free ring `[channels, capacity]` of float32 from a writing thread to a reading one.

    `written` and `taken` are totals since the start; each is changed by one side only, after the samples are
    in place, so that the other never sees what is not there (CPython's lock orders the two).
    """

    def __init__(self, channels: int, capacity: int):
        self._data = np.zeros((channels, capacity), np.float32)
        self.capacity = capacity
        self.written = self.taken = 0

    @property
    def fill(self) -> int:
        """Return how many samples can be read."""
        return self.written - self.taken

    def write(self, x: np.ndarray) -> int:
        """Take as much of `x [C, n]` as fits, and return how many samples. For the writer."""
        n = min(x.shape[1], self.capacity - self.fill)
        at = self.written % self.capacity
        first = min(n, self.capacity - at)
        self._data[:, at : at + first] = x[:, :first]
        self._data[:, : n - first] = x[:, first:n]
        self.written += n
        return n

    def read(self, out: np.ndarray) -> int:
        """Fill `out [C, n]` (any C for one channel) and return how many samples. For the reader."""
        n = min(out.shape[1], self.fill)
        at = self.taken % self.capacity
        first = min(n, self.capacity - at)
        out[:, :first] = self._data[:, at : at + first]
        out[:, first:n] = self._data[:, : n - first]
        self.taken += n
        return n

    def skip(self, n: int) -> int:
        """Pass over up to `n` samples, and return how many. For the reader."""
        n = max(0, min(n, self.fill))
        self.taken += n
        return n


def mismatch(y: np.ndarray, shift: int, fade: int) -> np.ndarray:
    """Return both sides' mean square difference in a crossfade, `[T - |shift| - fade + 1]`.

    It has a value for each place of a `splice` of `y [C, T]` by `shift`, small in quiet or repeating sound.
    """
    n = abs(shift)
    square = ((y[:, n:] - y[:, : y.shape[1] - n]) ** 2).mean(axis=0, dtype=np.float64)
    total = np.concatenate(([0.0], np.cumsum(square)))
    return (total[fade:] - total[:-fade]) / fade


def splice(y: np.ndarray, shift: int, fade: int, place: int) -> np.ndarray:
    """Return `y [C, T - shift]` without `shift` of its samples, or with `-shift` of them twice.

        shift > 0:  y[.. place] ~ y[place + shift ..]        shift < 0:  y[.. place + |shift|] ~ y[place ..]

    where ~ is a crossfade of `fade` samples that begins there.
    """
    a, b = (place, place + shift) if shift > 0 else (place - shift, place)
    rise = ramp(fade)
    mixed = y[:, a : a + fade] * (1 - rise) + y[:, b : b + fade] * rise
    return np.concatenate((y[:, :a], mixed, y[:, b + fade :]), axis=1)


def ramp(n: int) -> np.ndarray:
    """Return `n` steps from just above 0 to just below 1."""
    # Straight: the two sides of a splice are alike, so their amplitudes add, not their powers.
    return ((np.arange(n) + 0.5) / n).astype(np.float32)
