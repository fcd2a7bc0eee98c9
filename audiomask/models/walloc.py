"""Code stereo music by wavelet packets and a shallow encoder: WaLLoC.

Jacobellis and Yadwadkar, "Learned Compression for Compressed Learning" (arXiv 2412.09405). Almost all of the
network is in the decoder; what encodes is linear up to the rounding:

    x -> wavelet packets of 2^J bands a channel -> linear -> even -> round, 8 bits
    codes -> Gaussian -> conv 7 -> 2 stages -> Snake, conv 7 -> packets joined -> conv 129 -> y
    stage: Snake, transposed conv 2 of stride 1, 3 units of (Snake, conv 7 dilated 1, 3, 9, Snake, conv 1) + x

With 8 levels of two channels there are 512 bands, 172.3 frames a second at 44.1 kHz, 108 latents, and
16,346,074 parameters, 55,404 of them in the encoder, as published. The decoder is that of Oobleck (Evans et
al. 2024, Stable Audio Open) at a stride of 1; its Snake is x + sin^2(e^a x) / e^b.

It looks ahead, 89 frames or half a second, and streams with that delay. `WaLLoC.encoded` and
`WaLLoC.decoded` run over a whole signal as the authors do, for whom its end is followed by its start. A
stream knows nothing of the end, and differs from them in about 90 frames after the start and before the end.
The authors' encoder pads a convolution of one frame by one, so there is a frame of silence before the first
and after the last, which is coded too (`padded`); their decoder takes them away. A stream leaves them out.
They also clip at full scale, which a stream leaves to whoever writes the sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from audiomask.nn.codec import Codec, Decodes, Encodes
from audiomask.nn.conv import WEIGHT_NORM, Conv1d, ConvTranspose1d
from audiomask.nn.quantize import ScalarQuantizer
from audiomask.nn.seanet import whole
from audiomask.nn.wavelets import joins, splits
from audiomask.streaming import Residual, Sequential

DILATIONS = (1, 3, 9)
FILTER = 129  # taps of the last filter
EPS = 1e-9  # in the divisor of Snake


class Snake(nn.Module):
    """An activation of `[B, C, T]`, x + sin^2(e^a x) / e^b, with a and b for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels, 1))
        self.beta = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha.exp() * x).sin().square() / (self.beta.exp() + EPS)


class Gain(nn.Module):
    """A constant factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Centred(Conv1d):
    """A convolution of `[B, C, T]` that sees as many frames ahead as before."""

    def __init__(self, channels: int, out: int, kernel: int, dilation: int = 1, bias: bool = True) -> None:
        ahead = (kernel - 1) * dilation // 2
        super().__init__(channels, out, kernel, dilation=dilation, bias=bias, lookahead=ahead)

    def whole(self, x: Tensor) -> Tensor:
        """Return the output for a whole signal, with zeros around it."""
        return self.convolved(F.pad(x, (self.extent - 1 - self.lookahead, self.lookahead)))


class Up(ConvTranspose1d):
    """A transposed convolution of two frames and a stride of 1."""

    def __init__(self, channels: int, out: int, trim: int, padded: bool) -> None:
        super().__init__(channels, out, 2, trim=trim)
        self.padded = padded

    def whole(self, x: Tensor) -> Tensor:
        """Return the output for a whole signal; if `padded`, a frame less."""
        y = F.conv_transpose1d(x, self.weight, self.bias)
        return y[:, :, 1:-1] if self.padded else y[:, :, int(self.delay) :][:, :, : x.shape[2]]


def _conv(channels: int, out: int, kernel: int = 7, dilation: int = 1, bias: bool = True) -> Centred:
    conv = Centred(channels, out, kernel, dilation, bias)
    weight_norm(conv)
    return conv


def _stage(channels: int, out: int, trim: int, padded: bool) -> Sequential:
    up = Up(channels, out, trim, padded)
    weight_norm(up)
    units = [
        Residual(Snake(out), _conv(out, out, 7, dilation), Snake(out), _conv(out, out, 1), shape=out)
        for dilation in DILATIONS
    ]
    return Sequential(Snake(channels), up, *units)


class WaLLoC(Codec):
    """A codec of sound `[B, C, T]`, in the parts `WaLLoCEncoder` and `WaLLoCDecoder`.

    Args:
        channels: Channels of the sound.
        levels: Levels J of the wavelet packets; a frame of codes is 2^J samples.
        latent: Channels that are quantized, 1 + log2(levels) bits each.
        width: Greatest channels of the decoder, which takes the multiple of `latent` below it.
        bits: Bits of a code.
        post: A filter over both channels comes last.
        full_scale: What full scale is within the network, which knows sound of a peak of 1/2.
        padded: `encoded` codes a frame of silence at either end, as the authors do.
        sample_rate: Rate in Hz.
        name: Name of the artifacts.
    """

    parts = {
        "enc": "audiomask.models.walloc.WaLLoCEncoder",
        "dec": "audiomask.models.walloc.WaLLoCDecoder",
    }

    def __init__(
        self,
        channels: int = 2,
        levels: int = 8,
        latent: int = 108,
        width: int = 768,
        bits: int = 8,
        post: bool = True,
        full_scale: float = 0.5,
        padded: bool = False,
        sample_rate: int = 44100,
        name: str = "walloc",
    ) -> None:
        super().__init__()
        if width < latent:
            raise ValueError(f"a decoder of {width} channels at most for {latent} latents; it has no fewer")
        self.name, self.sample_rate, self.channels, self.padded = name, sample_rate, channels, padded
        self.frame, bands, inner = 1 << levels, channels << levels, width // latent * latent
        self.encoder = Sequential(
            {
                "gain": Gain(full_scale),
                "packets": Sequential(*splits(channels, levels)),
                "project": nn.Conv1d(bands, latent, 1),
            }
        )
        self.quantizer = ScalarQuantizer(latent, bits)
        last = {"post": Centred(channels, channels, FILTER)} if post else {}
        self.decoder = Sequential(
            {
                "into": _conv(latent, inner),
                "wide": _stage(inner, inner, 0, padded),
                "narrow": _stage(inner, latent, 1, padded),
                "snake": Snake(latent),
                "out": _conv(latent, bands, bias=False),
                "packets": Sequential(*joins(channels, levels)),
                **last,
                "gain": Gain(1 / full_scale),
            }
        )
        self.assemble()

    def learn(self, x, lost=None, books=None, **inputs):
        y, terms = super().learn(x, lost, books, **inputs)
        return y.clamp(-1, 1), terms

    def encoded(self, x: Tensor) -> Tensor:
        """Return codes `[B, latent, F]` of a whole signal `[B, C, T]`, as the authors do.

        There are T / 2^J frames, rounded up, and two more if `padded`.
        """
        z = whole(self.encoder, F.pad(x, (0, -x.shape[2] % self.frame)))
        if self.padded:
            silence = (
                self.encoder.get_submodule("project").get_parameter("bias")[:, None].expand(len(z), -1, 1)
            )
            z = torch.cat([silence, z, silence], 2)
        return self.quantizer.encode(z)

    def decoded(self, codes: Tensor, length: int) -> Tensor:
        """Return the sound `[B, C, length]` of what `encoded` returned."""
        y = whole(self.decoder, self.quantizer.decode(codes))
        return y[:, :, :length].clamp(-1, 1)


class WaLLoCEncoder(Encodes, WaLLoC):
    """The part of WaLLoC that makes codes `[B, latent, T / 2^J]` of sound `[B, C, T]`."""


class WaLLoCDecoder(Decodes, WaLLoC):
    """The part of WaLLoC that makes sound `[B, C, 2^J T]` of codes `[B, latent, T]`."""


AUTHORS_CLASS = "WaLLoC"
AUTHORS_LICENCE = "none named by the authors of WaLLoC: ask them before you pass these weights on"
PLACES = {
    "conv1": "into", "block.0": "wide", "block.1": "narrow", "snake1": "snake", "conv2": "out",
    "res_unit1": "2.branches.1", "res_unit2": "3.branches.1", "res_unit3": "4.branches.1",
}  # fmt: skip
IN_STAGE, IN_UNIT = (
    {"snake1": "0", "conv_t1": "1"},
    {"snake1": "0", "conv1": "1", "snake2": "2", "conv2": "3"},
)


def _ours(key: str) -> str:
    """Return our name of a tensor of the authors' decoder, such as block.0.conv_t1.weight_g."""
    *path, kind = key.split(".")
    home = [PLACES[".".join(path[:2]) if path[0] == "block" else path[0]]]
    if path[0] == "block":
        inner = path[2:]
        home += [IN_STAGE[inner[0]]] if len(inner) == 1 else [PLACES[inner[0]], IN_UNIT[inner[1]]]
    return ".".join(["decoder", *home, WEIGHT_NORM.get(kind, kind)])


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `WaLLoC` from a published state dict.

    The bits of a code are not in the weights, nor are the channels where there is no last filter; they are
    those of the stereo model, 8 and 2.
    """
    new = {}
    for key, value in state.items():
        side, _, rest = key.partition(".")
        if side in ("wt", "iwt"):
            continue  # the wavelets' filters
        if side == "post":
            new[f"decoder.{key}"] = value
        elif key.startswith("encoder.0."):
            new[f"encoder.project.{rest.removeprefix('0.')}"] = value
        elif key.startswith("decoder.1."):
            name = _ours(rest.removeprefix("1."))
            snake = name.endswith(("alpha", "beta"))
            new[name] = value[0] if snake else value
        else:
            raise KeyError(key)
    latent, bands, _ = new["encoder.project.weight"].shape
    post = "decoder.post.weight" in new
    channels = new["decoder.post.weight"].shape[0] if post else 2
    levels = (bands // channels).bit_length() - 1
    if channels << levels != bands:
        raise ValueError(f"{bands} bands of {channels} channels are no power of two")
    inner = new["decoder.into.parametrizations.weight.original1"].shape[0]
    sizes = {"channels": channels, "levels": levels, "latent": latent, "width": inner, "post": post}
    return {**sizes, "bits": 8, "padded": True, "sample_rate": 44100, "name": "walloc"}, new
