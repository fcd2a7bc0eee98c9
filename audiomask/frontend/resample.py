"""Convert between sample rates in a ratio of integers, in an exportable streaming block.

The block is one polyphase filter bank with a fixed delay. From M to L samples, with the prototype h of
`2 H + 1` taps at L times the input rate, the zero-phase output is

    y[n] = sum_m x[m] h[n M - m L + H]                      |n M - m L| <= H

With n = q L + p and m = q M + j this is a convolution of stride M with L output channels p, of weights
`h[p M - j L + H]`, whose channels are then interleaved. It looks ahead max_p floor((p M + H) / L) samples.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from audiomask.nn.conv import Conv1d
from audiomask.streaming import State


def low_pass(ratio: int, zeros: int = 24, rolloff: float = 0.93, beta: float = 8.0) -> Tensor:
    """Return a Kaiser-windowed sinc `[2 * zeros * ratio + 1]` with unit gain at 0.

    It cuts at `rolloff / ratio` of its Nyquist frequency (Oppenheim and Schafer, section 7.6).
    `zeros=10, rolloff=1, beta=5` is scipy.signal.resample_poly's.
    """
    n = torch.arange(-zeros * ratio, zeros * ratio + 1, dtype=torch.float64)
    taps = torch.sinc(n * rolloff / ratio) * torch.kaiser_window(len(n), False, beta, dtype=torch.float64)
    return taps / taps.sum()


class Resample(Conv1d):
    """Converts `[B, C, T]` at `source` Hz to `[B, C, T * target / source]` at `target` Hz.

    `hop` is M = source / gcd and `delay` a multiple of it, so that steps give whole samples. `taps` is a
    prototype `[2 H + 1]` of gain 1 at L times the source rate, by default
    `low_pass(max(L, M), zeros, rolloff, beta)`.
    """

    def __init__(
        self,
        source: int,
        target: int,
        channels: int = 1,
        zeros: int = 24,
        rolloff: float = 0.93,
        beta: float = 8.0,
        taps: Tensor | None = None,
    ) -> None:
        common = math.gcd(source, target)
        up, down = target // common, source // common
        if taps is None:
            taps = low_pass(max(up, down), zeros, rolloff, beta)
        if len(taps) % 2 == 0:
            raise ValueError(f"a prototype of {len(taps)} taps has no middle: use an odd number")
        half = len(taps) // 2
        # j of the earliest and the latest tap
        first, last = -(half // up), max(0, ((up - 1) * down + half) // up)
        super().__init__(1, up, last - first + 1, stride=down, bias=False, lookahead=last)
        self.rate, self.channels, self.up = Fraction(up, down), channels, up
        index = torch.arange(up)[:, None] * down - torch.arange(first, last + 1) * up + half
        inside = (index >= 0) & (index < len(taps))
        weight = torch.where(inside, taps.double()[index.clamp(0, len(taps) - 1)] * up, 0.0)
        del self.weight  # a constant, not a parameter
        self.register_buffer("weight", weight[:, None].float(), persistent=False)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return self._state(self.channels, batch, device, dtype)

    def step(self, x, state, **controls):
        batch = x.shape[0]
        x, state = self._window(x, state)
        y = F.conv1d(x.reshape(batch * self.channels, 1, -1), self.weight, None, self.hop)
        return y.transpose(1, 2).reshape(batch, self.channels, -1), state
