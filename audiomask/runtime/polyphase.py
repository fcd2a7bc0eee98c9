"""Sample-rate conversion block by block with a fixed, known lag, in numpy.

Output n of a conversion by L/M lies at the input time t_n = n M / L and is

    y[n] = sum_i x[i] h(i - t_n),    h(t) = w(t) c sinc(c t),    c = ROLLOFF min(1, L/M)

with a Kaiser window w of half-width ``half`` input samples (Smith, "Digital Audio Resampling", 2002; Kaiser
1974 for the window). Indices are exact integers whatever the length, and y[n] is emitted as soon as
x[floor(t_n) + half] is there, so the lag does not wander, and the split into blocks does not change one
sample beyond rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd

import numpy as np

ZEROS = 32  # zero crossings on each side: 2 ms at 16 kHz
ATTENUATION_DB = 80.0  # of images and aliases
# Kaiser's transition width for 2 ZEROS + 1 taps at the lower rate is (A - 8) / (2.285 * 2 ZEROS) = .492 rad =
# .157 of Nyquist. Centred here, the stop band begins 1.5 % above Nyquist and the pass band ends at .86 of it:
# 6.9 of 8 kHz.
ROLLOFF = 0.937
MAX_PHASES = 1024  # more (44 101 -> 16 000 Hz) are interpolated from this many: error below -100 dB
_CHUNK = 2**21  # elements gathered at once


@dataclass
class State:
    """What a converter remembers: the input it still needs, samples taken, samples given."""

    buffer: np.ndarray
    taken: int
    given: int


class Polyphase:
    """``rate_in`` to ``rate_out`` Hz on ``channels`` rows. ``half``: input samples by which it lags."""

    def __init__(self, rate_in: int, rate_out: int, channels: int):
        divisor = gcd(rate_in, rate_out)
        self.up, self.down, self.channels = rate_out // divisor, rate_in // divisor, channels
        scale = min(1.0, self.up / self.down)
        self.half = ceil(ZEROS / scale)
        self.phases = min(self.up, MAX_PHASES)
        fraction = np.arange(self.phases + 1)[:, None] / self.phases
        t = np.arange(1 - self.half, self.half + 1)[None, :] - fraction  # [phases + 1, 2 half]
        beta = 0.1102 * (ATTENUATION_DB - 8.7)
        window = np.i0(beta * np.sqrt(np.clip(1 - (t / self.half) ** 2, 0, None))) / np.i0(beta)
        table = np.sinc(ROLLOFF * scale * t) * window
        # Every phase passes a constant unchanged; else a hum at rate / phases would ride on it.
        self._table = (table / table.sum(1, keepdims=True)).astype(np.float32)
        self.reset()

    def reset(self) -> None:
        self.state = State(np.zeros((self.channels, self.half - 1), np.float32), 0, 0)

    def ready(self, taken):
        """Outputs that ``taken`` inputs allow in total (works on integer arrays too)."""
        return np.maximum(0, -((self.half - taken) * self.up // self.down))

    def push(self, x: np.ndarray) -> np.ndarray:
        """``x [C, T]`` to what it completes, ``[C, n]``."""
        s = self.state
        s.buffer = np.concatenate((s.buffer, x), axis=1)
        s.taken += x.shape[1]
        stop = int(self.ready(s.taken))
        step = max(1, _CHUNK // (self.channels * 2 * self.half))
        parts = [self._convert(n, min(n + step, stop)) for n in range(s.given, stop, step)]
        s.given = max(stop, s.given)
        first = s.taken - s.buffer.shape[1]  # the input index of buffer[0]
        keep = s.given * self.down // self.up - self.half + 1
        s.buffer = s.buffer[:, max(0, keep - first) :].copy()
        return np.concatenate(parts, axis=1) if parts else np.zeros((self.channels, 0), np.float32)

    def _convert(self, start: int, stop: int) -> np.ndarray:
        s = self.state
        position = np.arange(start, stop, dtype=np.int64) * self.down
        left = position // self.up - self.half + 1 - (s.taken - s.buffer.shape[1])
        windows = np.lib.stride_tricks.sliding_window_view(s.buffer, 2 * self.half, axis=1)[:, left]
        if self.up == 1:
            return windows @ self._table[0]
        phase = position % self.up
        if self.up <= MAX_PHASES:
            rows = self._table[phase]
        else:
            exact = phase * (self.phases / self.up)
            low = exact.astype(np.int64)
            share = (exact - low).astype(np.float32)[:, None]
            rows = self._table[low] * (1 - share) + self._table[low + 1] * share
        return np.einsum("cnt,nt->cn", windows, rows)
