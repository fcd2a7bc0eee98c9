"""Code speech at 16 kHz to 1.5 to 9 kbit/s and back, 20 ms after the frame: Gist.

Gist is our own; its parts are published elsewhere: frames that a linear layer transforms, ConvNeXt blocks
(Liu et al. 2022) at the rate of the codes, as in StreamCodec (arXiv 2504.06561), a GRU, and residual
quantization of groups of channels (Yang et al. 2023, HiFi-Codec). Everything runs once in 20 ms.

    x -> frames of 20 ms, each with the one before it (40 ms) -> linear -> level, shape
      -> block -> latent [72] -> 3 stages of 6 groups of 1024 codewords: 180 bits
    codes -> latent, lost -> linear over 3 frames, the last of them ahead -> GRU -> blocks -> gain, shape
      -> linear -> 40 ms, overlapped -> y

A frame is brought to one level, whose logarithm goes beside it, so quiet and loud sound are coded alike.
The frame ahead is the latency: 20 ms, and 20 for the frame. Where frames are lost the decoder is informed,
and goes on from what its GRU remembers and from the frame after the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.nn.codec import Codec, Decodes, Encodes
from audiomask.nn.conv import Conv1d
from audiomask.nn.quantize import ResidualQuantizer
from audiomask.nn.recurrent import GRU
from audiomask.streaming import Sequential, Steps, Streaming

STRIDE = 320  # samples of a frame
QUIET = 1e-10  # power that is added to a frame's: -100 dBFS


def mdct(count: int) -> Tensor:
    """Return the lowest `count` functions of the MDCT with a sine window, `[count, 640]`.

    Both sides begin with them, so that the untrained codec passes low frequencies on. From random layers it
    would take hundreds of steps to find that sound can be passed on at all.
    """
    k, n = torch.arange(count)[:, None] + 0.5, torch.arange(2 * STRIDE) + 0.5
    basis = torch.cos(math.pi / STRIDE * k * (n + STRIDE / 2)) * torch.sin(math.pi * n / (2 * STRIDE))
    return basis * math.sqrt(2 / STRIDE)


class Frames(Streaming):
    """A block that cuts samples `[B, 1, T]` into frames `[B, 320, T / 320]`."""

    hop, rate = STRIDE, Fraction(1, STRIDE)

    def step(self, x, state, **controls):
        return x.reshape(x.shape[0], -1, STRIDE).mT, state


class Samples(Streaming):
    """A block that joins frames `[B, 320, T]` to samples `[B, 1, 320 T]`."""

    rate = Fraction(STRIDE)

    def step(self, x, state, **controls):
        return x.mT.reshape(x.shape[0], 1, -1), state


class Late(Streaming):
    """A block that passes frames on, which the network before it has made one frame late."""

    delay = 1

    def step(self, x, state, **controls):
        return x, state


class Block(Streaming):
    """A causal ConvNeXt block over `[B, C, T]`: depthwise convolution, norm, two linear layers."""

    def __init__(self, channels: int, wider: int, kernel: int = 7) -> None:
        super().__init__()
        self.conv = Conv1d(channels, channels, kernel, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, wider), nn.Linear(wider, channels)
        with torch.no_grad():
            self.down.weight.mul_(0.1)  # close to the identity at first
        self.compose(self.conv)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        y = step("conv", x).mT
        return x + self.down(F.gelu(self.up(self.norm(y)))).mT, step.states


class Encoder(Streaming):
    """A block that maps samples `[B, 1, T]` to latents `[B, latent, T / 320]`."""

    def __init__(self, channels: int, wider: int, blocks: int, latent: int) -> None:
        super().__init__()
        self.frames = Frames()
        self.analysis = Conv1d(STRIDE, channels, 2, bias=False)
        self.level = nn.Linear(1, channels)
        self.blocks = Sequential(*(Block(channels, wider) for _ in range(blocks)))
        self.norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, latent)
        with torch.no_grad():
            self.analysis.weight.copy_(torch.stack(mdct(channels).chunk(2, 1), 2))
            self.level.weight.mul_(0.1)
            self.level.bias.zero_()
            self.out.weight.mul_(0.1).add_(torch.eye(latent, channels))
        self.compose(self.frames, self.analysis, self.blocks)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        h = step("analysis", step("frames", x))
        power = (h * h).mean(1, keepdim=True) + QUIET
        # the layer `level` of 0.1 log(power) + 1
        slope, start = self.level.weight, self.level.weight[:, 0] + self.level.bias
        h = h / power.sqrt() + (power.log() * (0.1 * slope) + start[:, None])
        return self.out(self.norm(step("blocks", h).mT)).mT, step.states


class Decoder(Streaming):
    """A block that maps latents and lost frames `[B, latent + 1, T]` to samples `[B, 1, 320 T]`."""

    def __init__(self, channels: int, wider: int, blocks: int, latent: int) -> None:
        super().__init__()
        self.into = Conv1d(latent + 1, channels, 3)
        self.gru = GRU(channels, channels)
        self.mix = nn.Parameter(torch.full((channels, 1), 0.1))
        self.blocks = Sequential(*(Block(channels, wider) for _ in range(blocks)))
        self.norm = nn.LayerNorm(channels)
        self.gain = nn.Linear(channels, 1)
        self.synthesis = Conv1d(channels, STRIDE, 2, bias=False)
        self.late, self.samples = Late(), Samples()
        with torch.no_grad():
            self.into.weight.mul_(0.1)[:, :latent, 2].add_(torch.eye(channels, latent))
            self.gain.weight.mul_(0.1)
            self.gain.bias.fill_(-3.0)  # about -26 dB
            self.synthesis.weight.copy_(torch.stack(mdct(channels).T.chunk(2)[::-1], 2))
        self.compose(self.into, self.gru, self.blocks, self.synthesis, self.late, self.samples)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        h = step("into", x)
        h = step("blocks", h + self.mix * step("gru", h))
        h = self.norm(h.mT)
        h = (h * self.gain(h).clamp(-14, 3).exp()).mT
        return step("samples", step("synthesis", h)), step.states


class Gist(Codec):
    """A speech codec at 16 kHz, of sound `[B, 1, T]`, in two parts, encoder and decoder.

    Args:
        channels: Width of the network.
        wider, blocks: Width inside the blocks of encoder and decoder, and how many they have.
        latent: Channels that are quantized.
        stages, groups, levels: Codebooks, see `nn.quantize`; 3 x 6 of 1024 give 180 bits a frame.
        name: Name of the artifacts.
    """

    parts = {"enc": "audiomask.models.gist.GistEncoder", "dec": "audiomask.models.gist.GistDecoder"}
    informed = True

    def __init__(
        self,
        channels: int = 192,
        wider: Sequence[int] = (768, 576),
        blocks: Sequence[int] = (1, 2),
        latent: int = 72,
        stages: int = 3,
        groups: int = 6,
        levels: int = 1024,
        name: str = "gist",
    ) -> None:
        super().__init__()
        self.name = name
        self.encoder = Encoder(channels, wider[0], blocks[0], latent)
        self.quantizer = ResidualQuantizer(latent, stages, levels, groups, expire=0.1)
        self.decoder = Decoder(channels, wider[1], blocks[1], latent)
        self.assemble()


class GistEncoder(Encodes, Gist):
    """The part of Gist that makes codes `[B, 18, T / 320]` of sound `[B, 1, T]`."""


class GistDecoder(Decodes, Gist):
    """The part of Gist that makes sound `[B, 1, 320 T]` of codes `[B, 18, T]`."""
