"""The network that our own models share, from features of frames to complex masks.

The family is that of FastEnhancer (recurrent units shared by all bands, attention across bands inside a
frame; arXiv 2509.21867) with a full-band recurrence added, which tells all bands what the others went
through::

    bands E [C, bins / 4], a convolution's
      -> residual convs 3 -> learned projection to `bands`, + embedding of the band    [bands, C]
      -> + full-band branch: linear, GRU, linear
      -> blocks: (GRU over time, shared by the bands) + (attention across the bands)
      -> projection back, + E -> residual convs -> 4 bins a band                        [2 masks, bins]
      -> masks M, |M| < 2 each:   M = z / sqrt(1 + |z|^2 / 4)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from audiomask.masks import gains
from audiomask.nn import kernels
from audiomask.nn.attention import attend_all
from audiomask.nn.recurrent import GRU, compiled
from audiomask.streaming import Streaming

STRIDE = 4  # bins of a band after the first convolution


class Block(nn.Module):
    """A GRU over time, shared by the bands, then attention across the bands; both residual.

    Shape: rows `x [T B bands, C]`, state `h [B, bands C]` -> the same. Rows make each linear
    layer one product.
    """

    hidden = 0.0  # share of places that attention does not see, in training

    def __init__(self, channels: int, bands: int, heads: int):
        super().__init__()
        self.bands, self.heads = bands, heads
        self.gru = GRU(channels, channels)
        self.mix = nn.Linear(channels, channels, bias=False)
        self.mix_norm = nn.BatchNorm1d(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels, bias=False)
        self.out_norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, h: Tensor, frames: int, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and h after `frames` frames; `skip [T, B, 1]` is 1 where h has to stay as it is."""
        c = x.shape[1]
        skip = None if skip is None else skip.repeat_interleave(self.bands, 1)
        y, (end,) = self.gru.layer(x.reshape(frames, -1, c), [h.reshape(1, -1, c)], skip)
        x = x + self.mix_norm(self.mix(y.reshape(-1, c)))
        hidden = self.hidden if self.training else 0.0
        y, x = attend_all(x.reshape(-1, self.bands, c), self.qkv, self.out, self.heads, hidden)
        return x.reshape(-1, c) + self.out_norm(y.reshape(-1, c)), end.reshape(h.shape)


class _TrainedNorm(torch.autograd.Function):
    """`skip + relu(norm(x))` over `[N, C, F]` by the compiled kernel; running statistics follow."""

    @staticmethod
    def forward(ctx, x, skip, w, b, norm):
        stats, y, count = x.new_empty(2, x.shape[1]), x.new_empty(x.shape), x.numel() // x.shape[1]
        kernels.call("norm_forward", *x.shape, norm.eps, x, w, b, skip, stats, y)
        variance = (stats[1].double() ** -2 - norm.eps).clamp(min=0) * (count / max(1, count - 1))
        norm.running_mean.lerp_(stats[0], norm.momentum)
        norm.running_var.lerp_(variance.float(), norm.momentum)
        norm.num_batches_tracked.add_(1)
        ctx.save_for_backward(x, w, b, stats)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, w, b, stats = ctx.saved_tensors
        dx, slopes = x.new_empty(x.shape), torch.empty_like(stats)
        kernels.call("norm_backward", *x.shape, x, w, b, stats, dy, dx, slopes)
        return dx, dy if ctx.needs_input_grad[1] else None, slopes[0], slopes[1], None


class _TrainedConv(torch.autograd.Function):
    """A kernel of `nn.Conv1d` of stride 1 with zeros beyond the ends; it hands on x as well.

    The gradient of what goes around the convolution is then added where its own is made.
    """

    @staticmethod
    def forward(ctx, x, w, b):
        (sets, inputs, places), (outputs, _, taps) = x.shape, w.shape
        ctx.sizes, y = (sets, inputs, outputs, places, taps), x.new_empty(sets, outputs, places)
        kernels.call("conv_forward", *ctx.sizes, x, w, b, y)
        ctx.save_for_backward(x, w)
        ctx.set_materialize_grads(False)
        return y, x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, around):
        (x, w), (_, inputs, outputs, _, taps) = ctx.saved_tensors, ctx.sizes
        dx, (dw,) = x.new_empty(x.shape), kernels.parts((taps, outputs, inputs))
        kernels.call("conv_backward", *ctx.sizes, x, w, dy, around, dx, dw)
        return dx, dw.sum(0).permute(1, 2, 0), dy.sum((0, 2)) if ctx.needs_input_grad[2] else None


def convolve(conv: nn.Conv1d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `conv(x)`, which keeps F, and x `[N, C, F]`; a kernel does it in training on a CPU."""
    if compiled(x, conv.in_channels, x.shape[2]):
        return _TrainedConv.apply(x, conv.weight, conv.bias)
    return conv(x), x


def norm_relu(norm: nn.modules.batchnorm._BatchNorm, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """Return `skip + relu(norm(x))`, `[N, C, ...]`, in fewer passes where it trains on a CPU."""
    alone = norm.training and not isinstance(norm, nn.SyncBatchNorm)
    if alone and compiled(x, x[0, 0].numel()):
        flat, rest = x.flatten(2), None if skip is None else skip.flatten(2)
        return _TrainedNorm.apply(flat, rest, norm.weight, norm.bias, norm).view_as(x)
    y = F.relu(norm(x))
    return y if skip is None else skip + y


class Residual(nn.Module):
    """Adds relu(norm(conv3(x))) to x over frequency, `[N, C, F]` -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return norm_relu(self.norm, *convolve(self.conv, x))


class BandRecurrence(Streaming):
    """A base of networks that have a full-band GRU and blocks, from bands to bands.

    A subclass calls `recurrent` where its layers of these names are to stand among its own.
    """

    channels: int
    bands: int
    full: int

    def recurrent(self, blocks: int, heads: int, squeeze: int) -> None:
        """Make the layers; see `BandNet` for the arguments."""
        if self.full:
            self.full_in = nn.Linear(self.bands * self.channels, squeeze)
            self.full_gru = GRU(squeeze, self.full)
            self.full_out = nn.Linear(self.full, self.bands * self.channels)
        self.blocks = nn.ModuleList(Block(self.channels, self.bands, heads) for _ in range(blocks))

    def initial_state(self, batch: int, device=None, dtype=torch.float32) -> dict[str, Any]:
        width = self.bands * self.channels
        sizes = {f"block{i}": width for i in range(len(self.blocks))} | {"full": self.full}
        return {k: torch.zeros(batch, n, device=device, dtype=dtype) for k, n in sizes.items() if n}

    def recur(
        self, x: Tensor, state: dict[str, Any], frames: int, skip: Tensor | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return bands after the layers, and the next state; `skip` as in `BandNet.masks`."""
        new = {}
        x = x.reshape(-1, self.bands * self.channels)
        if self.full:
            y = F.relu(self.full_in(x)).reshape(frames, -1, self.full_in.out_features)
            y, (h,) = self.full_gru.layer(y, [state["full"][None]], skip)
            new["full"] = h.reshape(-1, self.full)
            x = x + self.full_out(y.reshape(-1, self.full))
        x = x.reshape(-1, self.channels)
        for i, block in enumerate(self.blocks):
            x, new[f"block{i}"] = block(x, state[f"block{i}"], frames, skip)
        return x.reshape(-1, self.bands, self.channels), new


class BandNet(BandRecurrence):
    """Makes complex masks for the bins of each frame.

    A model derives from it, and takes its features through `self.encode`, which it normalises, in its own
    `step`.

    Args:
        features: channels that the first convolution sees. bins: of a frame. masks: how many.
        channels: C. bands: bands that the recurrent blocks work on. blocks, heads: of those. convs: residual
            convolutions on each side. full: units of the full-band GRU (0: no such branch). squeeze: its
            input width.

    The untrained network's first mask is close to 1, and the others are close to 0.
    """

    def __init__(
        self,
        features: int,
        bins: int,
        masks: int,
        channels: int = 32,
        bands: int = 32,
        blocks: int = 3,
        heads: int = 4,
        convs: int = 1,
        full: int = 128,
        squeeze: int = 64,
    ):
        super().__init__()
        self.channels, self.bands, self.full, self.bins = channels, bands, full, bins
        coded = bins // STRIDE
        self.encode = nn.Conv1d(features, channels, 8, STRIDE, 2, bias=False)
        self.encoder = nn.ModuleList(Residual(channels) for _ in range(convs))
        self.gather = nn.Linear(coded, bands, bias=False)
        self.embedding = nn.Parameter(torch.randn(bands, channels) * 0.1)
        self.recurrent(blocks, heads, squeeze)
        self.spread = nn.Linear(bands, coded, bias=False)
        self.decoder = nn.ModuleList(Residual(channels) for _ in range(convs))
        self.decode = nn.Conv1d(channels, 2 * masks * STRIDE, 3, padding=1)
        with torch.no_grad():
            self.decode.weight.mul_(0.1)
            assert self.decode.bias is not None
            self.decode.bias.zero_()
            self.decode.bias[:STRIDE] = 1.1547

    @torch.no_grad()
    def grow_from(self, small: BandNet) -> None:
        """Write the weights of a smaller network into this one, which then computes the same.

        New units hear the old ones and write nothing to them, and new blocks add nothing (after Chen et al.
        2016, "Net2Net", with zeros where they share weights out). ValueError for heads of other sizes.
        """
        ours, theirs = (net.channels / net.blocks[0].heads for net in (self, small))  # type: ignore[operator]
        if ours != theirs:
            raise ValueError(f"heads of {theirs:g} channels cannot become heads of {ours:g} channels")
        old = small.state_dict()
        for name, parameter in self.state_dict().items():
            if name not in old:  # of a new block
                if name.endswith("_norm.weight"):
                    parameter.zero_()
                continue
            (into, axis), (known, _) = (self._units(name, p) for p in (parameter, old[name]))
            if into.ndim > axis + 1:
                into.narrow(axis, 0, known.shape[axis]).zero_()
            into[tuple(slice(n) for n in known.shape)] = known

    def _units(self, name: str, parameter: Tensor) -> tuple[Tensor, int]:
        """Return `parameter` with an axis for each kind of units, and the axis that it feeds.

        Gates and bands, which lie beside each other in one axis, are taken apart.
        """
        if ".gru." in name or "full_gru" in name or ".qkv." in name:
            return parameter.unflatten(0, (3, -1)), 1
        if "full_out" in name:
            return parameter.unflatten(0, (self.bands, -1)), 1
        if name == "full_in.weight":
            return parameter.unflatten(1, (self.bands, -1)), 0
        return parameter, int(name == "embedding")

    def masks(
        self, x: Tensor, state: dict[str, Tensor], frames: int, skip: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return masks `[B, 2 masks, T, bins]`, real and imaginary part of each, and the next state.

        `x [T B, C, bins / 4]` has rows of bands, time first; `skip [T, B, 1]` is 1 for frames before the
        signal, which must leave the state alone.
        """
        for layer in self.encoder:
            x = layer(x)
        encoded = x
        x, new = self.recur(self.gather(x).mT + self.embedding, state, frames, skip)
        x = self.spread(x.mT) + encoded  # [T B, C, bins / 4]
        for layer in self.decoder:
            x = layer(x)
        coded, _ = convolve(self.decode, x)
        masks = coded.shape[1] // (2 * STRIDE)
        z = coded.reshape(frames, -1, masks, 2, STRIDE, self.bins // STRIDE)
        z = z.permute(1, 2, 3, 0, 5, 4).reshape(-1, masks, 2, frames, self.bins)
        return gains.bounded(z, 2.0, 2).flatten(1, 2), new
