"""Convolve over time in streams: causal, look-ahead, strided, dilated, grouped, transposed.

With kernel K, dilation D, stride S and extent E = (K - 1) D + 1, output n of a convolution reads the frames
[nS - P, nS - P + E - 1], where P = E - 1 - lookahead is the padding at the start of the signal. Looking ahead
S - 1 frames costs nothing, as a step reads S at a time; that is the default (the "causal" padding E - S of
EnCodec). State dicts are those of `nn.Conv1d` and the like.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiomask.streaming import State, Streaming, simplest, to_onnx

# Weights from which on a kernel of a single frame is faster as a convolution than as a product, in a graph.
WIDE = 1 << 15
# What torch's old weight norm, of most published state dicts, called its tensors, and what it calls them now.
WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


class _Conv(Streaming):
    """A base of Conv1d and Conv2d, whose `past [B, C, n(, F)]` holds the frames yet to be read."""

    weight: Tensor
    bias: Tensor | None
    rim: tuple[int, ...] = ()  # shape of a frame beyond its channels

    def _set_time(self, kernel: int, stride: int, dilation: int, lookahead: int | None) -> None:
        self.extent = (kernel - 1) * dilation + 1
        self.hop, self.rate = stride, Fraction(1, stride)
        self.lookahead = min(stride, self.extent) - 1 if lookahead is None else lookahead
        if not 0 <= self.lookahead < self.extent:
            raise ValueError(f"look-ahead of {lookahead} frames outside a kernel that spans {self.extent}")
        self.align(0)

    def align(self, lag: int) -> None:
        self.lag = lag
        wait = max(0, self.lookahead - (self.hop - 1))
        self.delay = wait + -(lag + wait) % self.hop  # outputs stay on the lattice of the reference
        self.memory = self.extent - 1 - self.lookahead + self.delay
        self.unread = self.hop - 1 - self.lookahead + self.delay

    def _state(self, channels: int, batch: int, device, dtype) -> State:
        if not self.memory:
            return None
        past = torch.zeros(batch, channels, self.memory, *self.rim, device=device, dtype=dtype)
        return {"past": past, **self.gate_state(batch, device)}

    def _window(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the frames that this step's outputs read, and the next state."""
        if self.memory:
            x, seen = self.gate(x, state)
            x = torch.cat([state["past"], x], 2)
            state = {"past": x[:, :, -self.memory :], **seen}
        return x[:, :, : -self.unread] if self.unread else x, state


class Conv1d(_Conv):
    """A convolution `[B, in, T]` -> `[B, out, T / stride]` that reads `lookahead` frames ahead."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        lookahead: int | None = None,
    ) -> None:
        super().__init__()
        twin = nn.Conv1d(in_channels, out_channels, kernel_size, groups=groups, bias=bias)
        self.weight, self.bias = twin.weight, twin.bias
        self.in_channels, self.dilation, self.groups = in_channels, dilation, groups
        self._set_time(kernel_size, stride, dilation, lookahead)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return self._state(self.in_channels, batch, device, dtype)

    def step(self, x, state, **controls):
        x, state = self._window(x, state)
        return self.convolved(x), state

    def convolved(self, x: Tensor) -> Tensor:
        """Return the convolution of frames `[B, in, T]`, which are not padded.

        ONNX Runtime has kernels for blocks of channels in two dimensions only: a height of one lets it take
        them, for a fifth to four fifths of the time, most of all for kernels in as many groups as channels.
        """
        weight, depthwise = self.weight, self.groups == self.in_channels == self.weight.shape[0]
        blocks = weight.shape[0] % 8 == 0 and (depthwise or weight.shape[1] % 8 == 0)
        if not (to_onnx() and blocks and (weight.shape[2] > 1 or weight.numel() >= WIDE)):
            return F.conv1d(x, weight, self.bias, self.hop, 0, self.dilation, self.groups)
        x, weight = x[:, :, None], weight[:, :, None]
        y = F.conv2d(x, weight, self.bias, (1, self.hop), 0, (1, self.dilation), self.groups)
        return y.squeeze(2)


class Conv2d(_Conv):
    """A convolution that maps `[B, in, T, F]` to `[B, out, T / stride, F']`.

    Kernel, stride and dilation are (time, frequency); `padding` is across frequency only, an int or (low,
    high). `freqs`: F, needed where the kernel spans time. `tied`: all groups have the same kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        lookahead: int | None = None,
        freqs: int | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__()
        twin = nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, bias=bias)
        self.weight = nn.Parameter(twin.weight[: out_channels // groups].detach()) if tied else twin.weight
        self.bias, self.tied = twin.bias, tied
        self.in_channels, self.stride, self.dilation, self.groups = in_channels, stride, dilation, groups
        self.padding = (padding, padding) if isinstance(padding, int) else padding
        self._set_time(kernel_size[0], stride[0], dilation[0], lookahead)
        self.rim = (freqs,) if freqs else ()

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        if self.memory and not self.rim:
            raise ValueError(
                "a Conv2d that spans time needs `freqs`, the frequencies of a frame that enters it"
            )
        return self._state(self.in_channels, batch, device, dtype)

    def step(self, x, state, **controls):
        x, state = self._window(x, state)
        low, high = self.padding
        if low != high:
            x, low = F.pad(x, (low, high)), 0
        kernel = self._kernel()
        if self.tied:
            kernel = kernel.repeat(self.groups, 1, 1, 1)
        return F.conv2d(x, kernel, self.bias, self.stride, (0, low), self.dilation, self.groups), state

    def _kernel(self) -> Tensor:
        return self.weight


class ComplexConv2d(Conv2d):
    """A complex convolution that maps `[B, 2 in, T, F]` to `[B, 2 out, T / stride, F']`.

    Real and imaginary parts are interleaved as in `frontend.stft`, also in `weight [out, 2 in, kernel]` and
    `bias [2 out]`. `options` are those of `Conv2d`. One real convolution computes it (Trabelsi et al. 2018,
    eq. 5):

        [ y_re ]   [ w_re  -w_im ] [ x_re ]
        [ y_im ] = [ w_im   w_re ] [ x_im ]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(2 * in_channels, out_channels, kernel_size, bias=False, **options)
        self.bias = nn.Parameter(torch.zeros(2 * out_channels)) if bias else None

    def _kernel(self) -> Tensor:
        re, im = self.weight.unflatten(1, (-1, 2)).unbind(2)
        rows = torch.stack([torch.stack([re, -im], 2), torch.stack([im, re], 2)], 1)
        return rows.flatten(2, 3).flatten(0, 1)  # [out, 2, in, 2, ...] -> [2 out, 2 in, ...]


class ConvTranspose1d(Streaming):
    """A transposed convolution that maps `[B, in, T]` to `[B, out, T * stride]`.

    Frame n adds its kernel at [nS - trim, nS - trim + K). `trim` samples are cut from the start of the output
    of `nn.ConvTranspose1d` (its `padding`); they are the delay. The part that later frames add to is carried
    over without the bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        trim: int = 0,
    ) -> None:
        super().__init__()
        self.overlap, self.gap = max(0, kernel_size - stride), max(0, stride - kernel_size)
        if not 0 <= trim <= self.overlap:
            raise ValueError(
                f"trim of {trim} samples: kernel {kernel_size}, stride {stride} allow {self.overlap}"
            )
        twin = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias)
        self.weight, self.bias = twin.weight, twin.bias
        self.out_channels, self.stride, self.groups = out_channels, stride, groups
        self.rate = Fraction(stride)
        self.delay = simplest(Fraction(trim, stride))

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        if not self.overlap:
            return None
        tail = torch.zeros(batch, self.out_channels, self.overlap, device=device, dtype=dtype)
        return {"tail": tail, **self.gate_state(batch, device)}

    def step(self, x, state, **controls):
        seen: dict[str, Tensor] = {}
        if self.overlap:
            x, seen = self.gate(x, state)
        bias = None if self.overlap else self.bias
        y = F.conv_transpose1d(x, self.weight, bias, self.stride, 0, 0, self.groups)
        if self.gap:
            rest = y.new_zeros(()) if bias is None else bias[:, None]
            y = torch.cat([y, rest.expand(y.shape[0], self.out_channels, self.gap)], 2)
        if not self.overlap:
            return y, state
        y = torch.cat([y[:, :, : self.overlap] + state["tail"], y[:, :, self.overlap :]], 2)
        state = {"tail": y[:, :, -self.overlap :], **seen}
        y = y[:, :, : -self.overlap]
        return (y if self.bias is None else y + self.bias[:, None]), state
