"""Convert sample rates block by block with a fixed, known lag, in numpy.

Output n of a conversion by L/M lies at the input time t_n = n M / L and is

    y[n] = sum_i x[i] h(i - t_n),    h(t) = w(t) c sinc(c t),    c = ROLLOFF min(1, L/M)

with a Kaiser window w of half-width `half` input samples (Smith, "Digital Audio Resampling", 2002; Kaiser
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
# .157 of Nyquist. Centred here, stop band from 1.5 % above Nyquist, pass band to .86 of it: 6.9 of 8 kHz.
ROLLOFF = 0.937
MAX_PHASES = 1024  # more (44 101 -> 16 000 Hz) are interpolated from this many: error below -100 dB
_CHUNK = 2**21  # elements gathered at once
_FEW = 8  # number of whole blocks from which they are worth a call of their own
_DENSE = 2**20  # elements of the matrix for whole blocks; rates that would need more gather every output


@dataclass
class State:
    """The memory of a converter: the input it still needs, samples taken, samples given."""

    buffer: np.ndarray
    taken: int
    given: int


class Polyphase:
    """A converter of `channels` rows between two rates in Hz; it lags by `half` input samples."""

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
        # Whole blocks are one matrix product: `span` inputs, at least a window, give `block` outputs.
        periods = ceil(2 * self.half / self.down)
        self.span, self.block = periods * self.down, periods * self.up
        self._dense = None
        if self.up <= MAX_PHASES and (self.span + 2 * self.half) * self.block <= _DENSE:
            self._dense = self._matrix()
        self.reset()

    def _matrix(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights `[span, block]` of a block's own inputs, and of the inputs after it."""
        dense = np.zeros(((self.block - 1) * self.down // self.up + 2 * self.half, self.block), np.float32)
        for n in range(self.block):
            left, phase = divmod(n * self.down, self.up)
            dense[left : left + 2 * self.half, n] = self._table[phase]
        return dense[: self.span], dense[self.span :]

    def reset(self) -> None:
        self.state = State(np.zeros((self.channels, self.half - 1), np.float32), 0, 0)

    def ready(self, taken):
        """Return how many outputs `taken` inputs allow in total (integer arrays work too)."""
        return np.maximum(0, -((self.half - taken) * self.up // self.down))

    def push(self, x: np.ndarray) -> np.ndarray:
        """Take `x [C, T]` and return the outputs that it completes, `[C, n]`."""
        s = self.state
        s.buffer = np.concatenate((s.buffer, x), axis=1)
        s.taken += x.shape[1]
        stop = int(self.ready(s.taken))
        parts = []
        dense = self._dense is not None and stop - s.given >= _FEW * self.block
        step = max(1, _CHUNK // (self.channels * 2 * self.half))
        while s.given < stop:
            whole = (stop - s.given) // self.block if dense and s.given % self.block == 0 else 0
            if whole:
                parts.append(self._blocks(whole))
            else:  # up to the next border, or to the end
                border = s.given + self.block - s.given % self.block if dense else stop
                parts.append(self._convert(s.given, min(border, stop, s.given + step)))
            s.given += parts[-1].shape[1]
        first = s.taken - s.buffer.shape[1]  # the input index of buffer[0]
        keep = s.given * self.down // self.up - self.half + 1
        s.buffer = s.buffer[:, max(0, keep - first) :].copy()
        return np.concatenate(parts, axis=1) if parts else np.zeros((self.channels, 0), np.float32)

    def _blocks(self, count: int) -> np.ndarray:
        """Return `count` whole blocks from `state.given` on."""
        assert self._dense is not None
        own, after = self._dense
        s = self.state
        first = s.given // self.up * self.down - self.half + 1 - (s.taken - s.buffer.shape[1])
        windows = np.lib.stride_tricks.sliding_window_view
        x = windows(s.buffer, self.span, axis=1)[:, first :: self.span][:, :count]
        y = windows(s.buffer, len(after), axis=1)[:, first + self.span :: self.span][:, :count]
        return (x @ own + y @ after).reshape(self.channels, -1)

    def _convert(self, start: int, stop: int) -> np.ndarray:
        """Return outputs `start` to `stop`, each computed with its window."""
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


class Spread(Polyphase):
    """A converter of flags: an output is flagged where its window holds a flagged input.

    The window is the whole support of the filter, 2 ms on each side at the lower rate of 16 kHz, within which
    a zero in place of a sample rings. `like` is the converter of the sound, and there are `rows` of flags.
    """

    def __init__(self, like: Polyphase, rows: int):
        self.up, self.down, self.half, self.channels = like.up, like.down, like.half, rows
        self.block, self._dense = like.block, None
        self.reset()

    def _convert(self, start: int, stop: int) -> np.ndarray:
        s = self.state
        position = np.arange(start, stop, dtype=np.int64) * self.down
        left = position // self.up - self.half + 1 - (s.taken - s.buffer.shape[1])
        seen = np.cumsum(np.pad(s.buffer, ((0, 0), (1, 0))), axis=1, dtype=np.int64)
        return (seen[:, left + 2 * self.half] > seen[:, left]).astype(np.float32)
