"""Build the waveform U-Net that Demucs (Defossez 2020) and CleanUNet (Kong 2022) share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.nn.conv import Conv1d, ConvTranspose1d
from audiomask.nn.norm import RunningLevel
from audiomask.streaming import Delay, Port, Residual, Sequential, Steps, Streaming, StreamingModel, whole


def waveform_unet(
    widths: Sequence[int], kernel_size: int, stride: int, inner: nn.Module
) -> tuple[nn.ModuleList, nn.ModuleList, Sequential]:
    """Return encoders, decoders, and the network of them around `inner`: `[B, 1, T]` -> same.

    Encoder i: conv to `widths[i]`, ReLU, 1x1 conv to twice as many channels, GLU. Decoder: 1x1 conv, GLU,
    transposed conv, ReLU except in the last. Each decoder gets the sum of what its encoder put out and what
    comes from below. `inner` maps `widths[-1]` channels to as many. Register the lists, in the order in which
    they run, for the authors' parameter names, and `compose` the network.
    """
    encoder, decoder = nn.ModuleList(), nn.ModuleList()
    for i, (above, width) in enumerate(zip([1, *widths], widths, strict=False)):
        conv = Conv1d(above, width, kernel_size, stride, lookahead=kernel_size - 1)  # no padding at all
        encoder.append(Sequential(conv, nn.ReLU(), nn.Conv1d(width, 2 * width, 1), nn.GLU(1)))
        up = ConvTranspose1d(width, above, kernel_size, stride)
        last = [nn.ReLU()] if i else []
        decoder.insert(0, Sequential(nn.Conv1d(width, 2 * width, 1), nn.GLU(1), up, *last))
    for encode, decode, width in zip(reversed(encoder), decoder, reversed(widths), strict=True):
        inner = Sequential(encode, Residual(inner, shape=width), decode)
    return encoder, decoder, inner  # type: ignore[return-value]


def whole_unet(
    encoder: nn.ModuleList, inner: Callable[[Tensor], Tensor], decoder: nn.ModuleList, x: Tensor
) -> Tensor:
    """Run the blocks of `waveform_unet` over a whole signal `[B, 1, T]`, as the authors do.

    Nothing is padded, so T must be `valid_length` for the output to be as long.
    """
    skips = []
    for block in encoder:
        conv, *rest = block.children()
        assert isinstance(conv, Conv1d)
        x = F.conv1d(x, conv.weight, conv.bias, conv.hop)
        for layer in rest:
            x = layer(x)
        skips.append(x)
    x = inner(x)
    for block in decoder:
        mix, gate, up, *rest = block.children()
        assert isinstance(up, ConvTranspose1d)
        x = gate(mix(x + skips.pop()[:, :, : x.shape[2]]))
        x = F.conv_transpose1d(x, up.weight, up.bias, up.stride)
        for layer in rest:
            x = layer(x)
    return x


def valid_length(frames: int, depth: int, kernel_size: int, stride: int, resample: int = 1) -> int:
    """Return the least length from `frames` up that `depth` layers take in and give back whole."""
    length = frames * resample
    for _ in range(depth):
        length = max(1, math.ceil((length - kernel_size) / stride) + 1)
    for _ in range(depth):
        length = (length - 1) * stride + kernel_size
    return math.ceil(length / resample)


@torch.no_grad()
def scale_weights(network: nn.Module, reference: float = 0.1) -> None:
    """Divide weights and biases of convolutions by sqrt(std / reference); Demucs, section 3.2."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d | Conv1d | ConvTranspose1d):
            scale = (layer.weight.std() / reference).sqrt()
            for p in layer.parameters(recurse=False):
                p.div_(scale)


class Levelled(StreamingModel):
    """A network on the waveform that gets the signal over its level, which is put back.

    It is the level of the last `memory` seconds or so, unless the control `level` gives another, such as the
    standard deviation of the file, which the authors of both models take.
    """

    task = "enhance"
    inputs = (
        Port("audio"),
        Port(
            "level",
            "control",
            default=0.0,
            minimum=0.0,
            maximum=10.0,
            doc="RMS of the input; 0: running level",
        ),
    )
    outputs = (Port("enhanced"),)
    floors = (0.001, 0.0)  # added to the level before the division, and before the multiplication

    def _wrap(self, net: Streaming, memory: float) -> None:
        """Run `net`, whose parts are registered where its weights are named."""
        self.compose(net)
        self.meter = RunningLevel(self.hop, memory * self.sample_rate / self.hop)
        self.wait = Delay(whole(self.delay), 1)

    def named_blocks(self) -> dict[str, nn.Module]:
        return {"level": self.meter, "net": self.path[0], "wait": self.wait}

    def step(self, x, state, level=None, **controls):
        step = Steps(self, state)
        given = self.control("level", level, x)[:, None, None]
        scale = torch.where(given > 0, given, step("level", x))
        y = step("net", x / (scale + self.floors[0]))
        return y * (step("wait", scale) + self.floors[1]), step.states
