"""Build SEANet, the convolutional encoder and decoder of EnCodec and its kin, which stream.

    style = Style(causal=True)
    encoder = seanet_encoder(style, channels=1, filters=32, ratios=(8, 5, 4, 2), latent=128)
    decoder = seanet_decoder(style, channels=1, filters=32, ratios=(8, 5, 4, 2), latent=128)

Tagliasacchi et al. 2020, Zeghidour et al. 2021 (SoundStream), Défossez et al. 2022 (EnCodec). With ratios r:

    x -> conv 7 -> for r reversed: unit, ELU, conv 2r of stride r -> x + LSTM -> ELU -> conv 7
    z -> conv 7 -> x + LSTM -> for r: ELU, transposed conv 2r of stride r, unit -> ELU -> conv 7
    unit: shortcut + (ELU, conv 3 to half the channels, ELU, conv 1)

Each stride doubles the channels, or halves them. A convolution of extent E and stride S is padded by E - S,
all before the signal if it is causal, else by the larger half. `whole` runs a network over a whole signal as
its authors do: what fills the last window of a strided convolution is padding of that layer, whereas in a
stream it is what the layers below make of the silence after the end. They differ in a signal's last frame,
where it is not full, and in the look-ahead. `ending` does so for rows that end at places of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from audiomask.nn.conv import WEIGHT_NORM, Conv1d, ConvTranspose1d
from audiomask.nn.recurrent import LSTM
from audiomask.streaming import Parallel, Residual, Sequential, to_onnx


@dataclass(frozen=True)
class Style:
    """A choice of how all convolutions of a network are padded and normalised.

    Args:
        causal: Pad before the signal only.
        norm: "weight_norm" (folded in exported graphs), "time_group_norm" (over a whole signal: such networks
            do not stream), or "none".
        reflect: Pad with the signal's mirror image, not zeros; a stream waits for what is mirrored.
    """

    causal: bool = True
    norm: Literal["weight_norm", "time_group_norm", "none"] = "weight_norm"
    reflect: bool = False

    def __post_init__(self) -> None:
        if self.norm not in ("weight_norm", "time_group_norm", "none"):
            raise ValueError(f"norm is {self.norm!r}; there are weight_norm, time_group_norm and none")
        if self.causal and self.norm == "time_group_norm":
            raise ValueError("time_group_norm looks at a whole signal; it is not causal")

    def normed(self, conv: nn.Module) -> None:
        """Give a convolution its norm."""
        if self.norm == "weight_norm":
            weight_norm(conv)


class TimeGroupNorm(nn.GroupNorm):
    """A norm of `[N, C, T]` over channels and time, summed in two steps in a graph: T is long."""

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """Return x `[N, C, T]`, normed; only the first `length [N, 1, 1]` frames of a row count."""
        if length is None:
            if not torch.compiler.is_compiling() and not to_onnx():
                return super().forward(x)
            x = x - x.mean(2, keepdim=True).mean(1, keepdim=True)
            power = x.square().mean(2, keepdim=True).mean(1, keepdim=True)
        else:
            real, part = before_end(length, x), x.shape[2] / length
            x = torch.where(real, x, 0.0)
            x = torch.where(real, x - x.mean(2, keepdim=True).mean(1, keepdim=True) * part, 0.0)
            power = x.square().mean(2, keepdim=True).mean(1, keepdim=True) * part
        return x * (power + self.eps).rsqrt() * self.weight[:, None] + self.bias[:, None]


class ELU(nn.ELU):
    """`nn.ELU`, in a graph by the exponential of ONNX Runtime, which is faster than its own Elu."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, x.clamp_max(0).exp() - 1) if to_onnx() else super().forward(x)


def before_end(length: Tensor, x: Tensor) -> Tensor:
    """Return which frames `[N, 1, T]` of x lie before the end of their row."""
    return torch.arange(x.shape[2], device=x.device) < length


class Conv(Conv1d):
    """A convolution `[B, in, T]` -> `[B, out, T / stride]`, padded as a `Style` says.

    `room`: frames that a step brings at least. With fewer than are mirrored, the output waits for them.
    """

    def __init__(
        self,
        style: Style,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        room: int = 1,
    ) -> None:
        extent = (kernel_size - 1) * dilation + 1
        self.after = 0 if style.causal else (extent - stride) // 2
        self.padding = extent - stride - self.after
        self.reflect, self.room = style.reflect and self.padding > 0, max(room, stride)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, lookahead=extent - 1 - self.padding
        )
        style.normed(self)
        group = style.norm == "time_group_norm"
        self.norm: nn.Module = TimeGroupNorm(1, out_channels) if group else nn.Identity()

    def align(self, lag: int) -> None:
        super().align(lag)
        if self.reflect:
            while ((lag + self.delay) // self.room + 1) * self.room - 1 - lag < self.padding:
                self.delay += self.hop
                self.memory += self.hop
                self.unread += self.hop

    def gate_state(self, batch, device=None) -> dict[str, Tensor]:
        if not self.reflect:
            return super().gate_state(batch, device)
        return {"seen": torch.zeros(batch, dtype=torch.int64, device=device)}

    def step(self, x, state, **controls):
        if not self.reflect:
            return super().step(x, state)
        window = torch.cat([state["past"], x], 2)
        after = {"past": window[:, :, -self.memory :], "seen": state["seen"] + x.shape[2]}
        first = self.memory + self.lag - state["seen"]  # where the signal begins in the window
        place = torch.arange(window.shape[2] - self.unread, device=x.device)
        place = torch.where(place < first[:, None], 2 * first[:, None] - place, place)
        place = place.clamp(0, window.shape[2] - 1)[:, None].expand(-1, x.shape[1], -1)
        y = self.convolved(window.gather(2, place))
        # what comes before the signal may not hang on how much is there to be mirrored
        begin = self.hop * torch.arange(y.shape[2], device=x.device) + self.padding
        return torch.where((begin < first[:, None])[:, None], 0.0, y), after

    def whole(self, x: Tensor) -> Tensor:
        """Return the output for a whole signal, padded at both ends as the authors do."""
        before, after = self.padding, self.after + -x.shape[2] % self.hop
        if self.reflect:
            short = max(0, max(before, after) + 1 - x.shape[2])  # a mirror needs one frame more
            x = F.pad(F.pad(x, (0, short)), (before, after), mode="reflect")
            x = x[:, :, : x.shape[2] - short]
        else:
            x = F.pad(x, (before, after))
        return self.norm(self.convolved(x))

    def ending(self, x: Tensor, length: Tensor) -> Tensor:
        """Return `whole` of the first `length [N, 1, 1]` frames of each row."""
        before, after = self.padding, self.after + -length % self.hop
        x = torch.where(before_end(length, x), x, 0.0)
        if self.reflect:
            last = torch.maximum(length, after.clamp_min(before) + 1) - 1  # a mirror needs one frame more
            place = torch.arange(-before, x.shape[2] + self.after, device=x.device).abs()
            place = torch.where(place > last, 2 * last - place, place).clamp(0, x.shape[2] - 1)
            x = x.gather(2, place.expand(-1, x.shape[1], -1))
        else:
            x = F.pad(x, (before, self.after))
        y = F.conv1d(x, self.weight, self.bias, self.hop, 0, self.dilation, self.groups)
        return _normed(self.norm, y, ends(self, length))


def _normed(norm: nn.Module, y: Tensor, length: Tensor) -> Tensor:
    return norm(y, length) if isinstance(norm, TimeGroupNorm) else norm(y)


class UpConv(ConvTranspose1d):
    """A transposed convolution `[B, in, T]` -> `[B, out, T stride]`, its kernel of two strides."""

    def __init__(self, style: Style, in_channels: int, out_channels: int, stride: int) -> None:
        trim = 0 if style.causal else stride - stride // 2
        super().__init__(in_channels, out_channels, 2 * stride, stride, trim=trim)
        self.trim = trim
        style.normed(self)
        group = style.norm == "time_group_norm"
        self.norm: nn.Module = TimeGroupNorm(1, out_channels) if group else nn.Identity()

    def step(self, x, state, **controls):
        # A frame makes two strides of output, of which the second is added to the first of the next frame.
        # A product with all frames is faster than the operator, twice where there is a single frame; channels
        # last, what it gives is in order. In a graph there are two products, as cutting one in two copies it.
        x, seen = self.gate(x, state)
        x, w = x.mT, self.weight.unflatten(2, (2, -1)).permute(0, 2, 3, 1).flatten(2)  # [in, 2, stride out]
        now, later = (x @ w[:, 0], x @ w[:, 1]) if to_onnx() else (x @ w.flatten(1)).chunk(2, 2)
        tail = state["tail"].mT.flatten(1)[:, None]
        y = now + torch.cat([tail, later[:, :-1]], 1)
        y = y.unflatten(2, (self.stride, -1)).flatten(1, 2)
        y = (y if self.bias is None else y + self.bias).mT
        return y, {"tail": later[:, -1].unflatten(1, (self.stride, -1)).mT, **seen}

    def whole(self, x: Tensor) -> Tensor:
        """Return the output for a whole signal, trimmed at both ends."""
        y = self.norm(F.conv_transpose1d(x, self.weight, self.bias, self.stride))
        return y[:, :, self.trim : self.trim + x.shape[2] * self.stride]

    def ending(self, x: Tensor, length: Tensor) -> Tensor:
        """Return `whole` of the first `length [N, 1, 1]` frames of each row."""
        x = torch.where(before_end(length, x), x, 0.0)
        y = F.conv_transpose1d(x, self.weight, self.bias, self.stride)
        y = _normed(self.norm, y, (length + 1) * self.stride)
        return y[:, :, self.trim : self.trim + x.shape[2] * self.stride]


def whole(block: Any, x: Tensor) -> Tensor:
    """Run a network over a whole signal as its authors do, by its blocks' own `whole`."""
    if hasattr(block, "whole"):
        return block.whole(x)
    if isinstance(block, Parallel):
        first, *rest = (whole(branch, x) for branch in block.branches)
        return sum(rest, first)
    if isinstance(block, Sequential):
        for child in block.children():
            x = whole(child, x)
        return x
    if isinstance(block, LSTM):
        x, zero = x.permute(2, 0, 1), x.new_zeros(1, x.shape[0], block.hidden_size)
        for i in range(block.num_layers):
            x, _ = block.layer(x, [zero, zero], None, i)
        return x.permute(1, 2, 0)
    return block(x)


def ends(block: nn.Module, length: Tensor) -> Tensor:
    """Return how many frames a network of this module makes of so many."""
    if isinstance(block, Conv):
        return (length + block.hop - 1) // block.hop
    if isinstance(block, UpConv):
        return length * block.stride
    if isinstance(block, Sequential):
        for child in block.children():
            length = ends(child, length)
    return length


def ending(block: nn.Module, x: Tensor, length: Tensor) -> Tensor:
    """Return `whole` of the first `length [N, 1, 1]` frames of each row of x `[N, C, T]`.

    T are whole strides. Beyond the first `ends(block, length)` frames of a row the output is nothing.
    """
    if isinstance(block, Conv | UpConv):
        return block.ending(x, length)
    if isinstance(block, Parallel):
        first, *rest = (ending(branch, x, length) for branch in block.branches)
        return sum(rest, first)
    if isinstance(block, Sequential):
        for child in block.children():
            x, length = ending(child, x, length), ends(child, length)
        return x
    return whole(block, x)  # frame by frame, or forwards in time


def _unit(style: Style, channels: int, shortcut: bool, room: int) -> Parallel:
    half = channels // 2
    body = Sequential(ELU(), Conv(style, channels, half, 3, room=room), ELU(), Conv(style, half, channels, 1))
    beside = Conv(style, channels, channels, 1) if shortcut else nn.Identity()
    return Parallel(beside, body, shapes=channels)


def _memory(channels: int, layers: int) -> list[nn.Module]:
    return [Residual(LSTM(channels, channels, layers), shape=channels)] if layers else []


def seanet_encoder(
    style: Style,
    channels: int,
    filters: int,
    ratios: Sequence[int],
    latent: int,
    shortcut: bool = True,
    lstm: int = 2,
    last: int = 7,
) -> list[nn.Module]:
    """Return the blocks of an encoder, for a `Sequential`.

    Args:
        style: How convolutions are padded and normalised.
        channels: Channels of the sound.
        filters: Channels of the first layer.
        latent: Channels of the latents.
        ratios: Strides, in the order of the decoder.
        shortcut: The shortcut of a unit is a convolution, as in the package encodec; false: the identity.
        lstm: Layers of the LSTM.
        last: Kernel of the last layer.
    """
    room = 1
    for ratio in ratios:
        room *= ratio
    blocks: list[nn.Module] = [Conv(style, channels, filters, 7, room=room)]
    for ratio in reversed(ratios):
        blocks += [_unit(style, filters, shortcut, room), ELU()]
        blocks.append(Conv(style, filters, 2 * filters, 2 * ratio, ratio, room=room))
        filters, room = 2 * filters, room // ratio
    return [*blocks, *_memory(filters, lstm), ELU(), Conv(style, filters, latent, last)]


def seanet_decoder(
    style: Style,
    channels: int,
    filters: int,
    ratios: Sequence[int],
    latent: int,
    shortcut: bool = True,
    lstm: int = 2,
    last: int = 7,
) -> list[nn.Module]:
    """Return the blocks of a decoder, for a `Sequential`; see `seanet_encoder`."""
    room, width = 1, filters * 2 ** len(ratios)
    blocks: list[nn.Module] = [Conv(style, latent, width, 7), *_memory(width, lstm)]
    for ratio in ratios:
        blocks += [ELU(), UpConv(style, width, width // 2, ratio)]
        width, room = width // 2, room * ratio
        blocks.append(_unit(style, width, shortcut, room))
    return [*blocks, ELU(), Conv(style, filters, channels, last, room=room)]


def authors_name(key: str) -> str:
    """Return the name here of a tensor of encodec, audiocraft, audioseal or transformers.

    Theirs begin with encoder.model, decoder.model, or layers for model.
    """
    side, _, place, *rest = key.split(".")
    name = ".".join(rest)
    name = WEIGHT_NORM.get(name.rpartition(".")[2], name.rpartition(".")[2])
    if "parametrizations" in rest:
        name = ".".join(rest[rest.index("parametrizations") :])
    if "norm" in rest[:-1]:
        name = f"norm.{name}"
    home = {"block": f"branches.1.{rest[1]}.", "shortcut": "branches.0.", "lstm": "branches.1."}
    return f"{side}.{place}.{home.get(rest[0], '')}{name}"
