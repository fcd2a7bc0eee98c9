"""Split sound into wavelet packets, bands of equal width, and join them again, in streams.

    split = Sequential(*splits(channels=2, levels=8))      # [B, 2, T] -> [B, 512, T / 256]
    join = Sequential(*joins(channels=2, levels=8))        # and back, exactly

A level divides each channel into its lower and its upper half, by the filters of Cohen, Daubechies and
Feauveau (1992) with 9 and 7 taps, and takes every second sample; 2^J bands come out of J levels. Channel c of
the sound becomes c 2^J and the following, in each of which the first level is the highest digit and 1 is the
upper half. With x the sound, h of 9 taps and f of 7, both symmetric around 0,

    low[k] = sum_j h[j] x[2k + j]         high[k] = sum_j -(-1)^j f[j] x[2k + 1 + j]
    x[n] = sum_k f[n - 2k] low[k] - (-1)^(n - 2k - 1) h[n - 2k - 1] high[k]

A stream has zeros before its start and after its end, so that a few frames there do not come back exactly.
`whole` takes a signal as one period of an endless one, as its authors' packages do, which is exact up to
both ends.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiomask.nn.conv import Conv1d, ConvTranspose1d

TAPS, AHEAD, BEFORE = 9, 4, 3  # of both filters together; samples read ahead; samples written before 2k


@cache
def filters() -> tuple[np.ndarray, np.ndarray]:
    """Return the lowpass filters of analysis `[9]` and synthesis `[7]`, CDF 9/7 or bior4.4.

    With y = sin^2(w / 2), both are (1 - y)^2 times a part of 1 + 4 y + 10 y^2 + 20 y^3, the shortest
    polynomial with which four zeros at the Nyquist frequency on each side still add to a constant. The pair
    of complex roots goes to the analysis, the real one to the synthesis.
    """
    roots = np.roots([20, 10, 4, 1])
    real = np.isreal(roots)

    def lowpass(chosen: np.ndarray) -> np.ndarray:
        h = np.array([1, 4, 6, 4, 1]) / 16
        for root in chosen:  # 1 - y / root, and y = (2 - z - 1 / z) / 4
            h = np.convolve(h, np.array([1, 4 * root - 2, 1]) / (4 * root))
        return np.sqrt(2) * h.real

    return lowpass(roots[~real]), lowpass(roots[real])


def _kernels(analysis: bool) -> Tensor:
    """Return the kernels of the lower and the upper half `[2, 9]`, both from one sample on."""
    h, f = filters()
    low, high = (h, f) if analysis else (f, h)
    high = high * np.array([1, -1] * 5)[: len(high)] * (-1) ** (len(high) // 2 + 1)
    rows = np.zeros((2, TAPS))
    rows[0, : len(low)] = low
    rows[1, TAPS - len(high) :] = high
    return torch.from_numpy(rows).float()


class Split(Conv1d):
    """A block that halves each channel's band, `[B, C, T]` -> `[B, 2 C, T / 2]`, lower first."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels, TAPS, 2, groups=channels, bias=False, lookahead=AHEAD)
        del self.weight  # it is not learned
        self.register_buffer("weight", _kernels(True).repeat(channels, 1)[:, None], persistent=False)

    def whole(self, x: Tensor) -> Tensor:
        """Return the bands of a period, of an even number of samples."""
        x = _around(x, AHEAD)
        return F.conv1d(x, self.weight, stride=2, groups=self.groups)


class Join(ConvTranspose1d):
    """A block that undoes `Split`: `[B, 2 C, T]` -> `[B, C, 2 T]`."""

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels, TAPS, 2, groups=channels, bias=False, trim=BEFORE)
        del self.weight
        self.register_buffer("weight", _kernels(False).repeat(channels, 1)[:, None], persistent=False)

    def whole(self, x: Tensor) -> Tensor:
        """Return the samples of a period of the bands."""
        y = F.conv_transpose1d(_around(x, AHEAD), self.weight, stride=2, groups=self.groups)
        start = 2 * AHEAD + BEFORE
        return y[:, :, start : start + 2 * x.shape[2]]


def _around(x: Tensor, frames: int) -> Tensor:
    """Return the period `x [B, C, T]` with so many of its frames before and after it."""
    return x[:, :, torch.arange(-frames, x.shape[2] + frames, device=x.device) % x.shape[2]]


def splits(channels: int, levels: int) -> list[Split]:
    """Return the blocks that make 2^levels bands of each channel, `[B, C 2^J, T / 2^J]`."""
    return [Split(channels << level) for level in range(levels)]


def joins(channels: int, levels: int) -> list[Join]:
    """Return the blocks that make the channels again."""
    return [Join(channels << level) for level in reversed(range(levels))]
