"""Code any sound to a few kilobits a second and back: DAC, the Descript Audio Codec.

Kumar, Seetharaman, Luebs, Kumar and Kumar, "High-Fidelity Audio Compression with Improved RVQGAN" (NeurIPS
2023, arXiv 2306.06546):

                     44.1 kHz       44.1 kHz, 16 kbit/s   24 kHz         16 kHz
    ratios           2 4 8 8        2 4 8 8               2 4 5 8        2 4 5 8
    latent           1024           128                   1024           1024
    codebooks        9 of 1024      18 of 1024            32 of 1024     12 of 1024
    a codebook       .86 kbit/s     .86 kbit/s            .75 kbit/s     .5 kbit/s
    parameters       76,651,890     64,213,250            74,708,706     74,175,906

    x -> conv 7 -> for r: 3 units, snake, conv 2r of stride r -> snake -> conv 3
    z -> conv 7 -> for r reversed: snake, transposed conv 2r of stride r, 3 units -> snake -> conv 7 -> tanh
    unit: x + (snake, conv 7 of dilation 1, 3 or 9, snake, conv 1),     snake(x) = x + sin(a x)^2 / a

Codewords have 8 channels and are compared by angle (`nn.quantize.FactorizedQuantizer`). The convolutions are
padded with zeros at both ends, so nothing is causal, but none looks far: all of it streams, with the delay of
its look-ahead (see `EnCodec`), in constant memory, and unlike the authors' windows it computes nothing twice.

`DAC.encoded` and `DAC.decoded` run over a whole signal as the authors do. The stream differs at its end, as
far as the look-ahead goes, since each of their layers is padded there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.nn.codec import Codec, Decodes, Encodes
from audiomask.nn.conv import WEIGHT_NORM
from audiomask.nn.quantize import FactorizedQuantizer
from audiomask.nn.seanet import Conv, Style, UpConv, whole
from audiomask.streaming import Residual, Sequential

TINY = 1e-9  # added to the frequency that a snake divides by


class Snake(nn.Module):
    """An activation x + sin(a x)^2 / a (Ziyin et al. 2020) with an a for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha + TINY).reciprocal() * torch.sin(self.alpha * x).square()


class Up(UpConv):
    """A transposed convolution that is trimmed alike at both ends."""

    def whole(self, x: Tensor) -> Tensor:
        """Return the output for a whole signal; with an odd stride, it lacks its last sample."""
        return F.conv_transpose1d(x, self.weight, self.bias, self.stride, self.trim)


def _units(style: Style, channels: int) -> list[nn.Module]:
    return [
        Residual(
            Snake(channels),
            Conv(style, channels, channels, 7, dilation=dilation),
            Snake(channels),
            Conv(style, channels, channels, 1),
            shape=channels,
        )
        for dilation in (1, 3, 9)
    ]


class DAC(Codec):
    """A codec of sound `[B, 1, T]`, in the parts `DACEncoder` and `DACDecoder`.

    Args:
        filters: Channels of the encoder's first layer.
        ratios: Strides, in the order of the encoder.
        latent: Channels of the latents.
        width: Channels of the decoder's first layer.
        dim, stages, levels: See `nn.quantize.FactorizedQuantizer`.
        sample_rate: Rate in Hz.
        name: Name of the artifacts.
    """

    parts = {"enc": "audiomask.models.dac.DACEncoder", "dec": "audiomask.models.dac.DACDecoder"}

    def __init__(
        self,
        filters: int = 64,
        ratios: Sequence[int] = (2, 4, 8, 8),
        latent: int = 1024,
        width: int = 1536,
        dim: int = 8,
        stages: int = 9,
        levels: int = 1024,
        sample_rate: int = 44100,
        name: str = "dac",
    ) -> None:
        super().__init__()
        self.name, self.sample_rate = name, sample_rate
        style = Style(causal=False)
        blocks: list[nn.Module] = [Conv(style, 1, filters, 7)]
        for ratio in ratios:
            down = Conv(style, filters, 2 * filters, 2 * ratio, ratio)
            blocks.append(Sequential(*_units(style, filters), Snake(filters), down))
            filters *= 2
        self.encoder = Sequential(*blocks, Snake(filters), Conv(style, filters, latent, 3))
        self.quantizer = FactorizedQuantizer(latent, dim, stages, levels)
        blocks = [Conv(style, latent, width, 7)]
        for ratio in reversed(ratios):
            up = Up(style, width, width // 2, ratio)
            width //= 2
            blocks.append(Sequential(Snake(2 * width), up, *_units(style, width)))
        self.decoder = Sequential(*blocks, Snake(width), Conv(style, width, 1, 7), nn.Tanh())
        self.assemble()

    def encoded(self, x: Tensor, books: int | None = None) -> Tensor:
        """Return the codes `[B, n, F]` of a whole signal, which is filled up to whole frames."""
        x = F.pad(x, (0, -x.shape[2] % int(1 / self.codes.rate)))
        return self.quantizer.encode(whole(self.encoder, x))[:, :books]

    def decoded(self, codes: Tensor, length: int) -> Tensor:
        """Return the sound `[B, 1, length]` of codes `[B, n, F]`.

        With an odd ratio the authors' ends a few samples early, 8 at 24 and 16 kHz; they are silent here.
        """
        codes = F.pad(codes, (0, 0, 0, self.quantizer.books - codes.shape[1]), value=-1)
        y = whole(self.decoder, self.quantizer.decode(codes))
        return F.pad(y, (0, length - y.shape[2]))


class DACEncoder(Encodes, DAC):
    """The part of DAC that makes codes of sound."""


class DACDecoder(Decodes, DAC):
    """The part of DAC that makes sound of codes."""


AUTHORS_CLASS, AUTHORS_LICENCE = "DAC", "MIT (Descript's weights)"
# Places of the package's lists, by what transformers calls them.
UNIT = {"snake1": "0", "conv1": "1", "snake2": "2", "conv2": "3"}
DOWN = {"res_unit1": "0", "res_unit2": "1", "res_unit3": "2", "snake1": "3", "conv1": "4"}
UP = {"snake1": "0", "conv_t1": "1", "res_unit1": "2", "res_unit2": "3", "res_unit3": "4"}


def _names_of_the_package(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of transformers under the package's names, and others as they are.

    The weights that transformers keeps have no norm; here they are their own direction, and have its length.
    """
    if "encoder.conv1.weight" not in state:
        return dict(state)
    last = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.block."))
    new = {}
    for key, value in state.items():
        side, *rest, kind = key.split(".")
        if side in ("encoder", "decoder"):
            block = "block" if side == "encoder" else "model"
            if rest[0] == "block":
                at, place, *unit = rest[1:]
                inner = (DOWN if side == "encoder" else UP)[place]
                rest = [
                    block,
                    str(int(at) + 1),
                    "block",
                    inner,
                    *(p for u in unit for p in ("block", UNIT[u])),
                ]
            else:
                rest = [block, {"conv1": "0", "snake1": str(last + 1), "conv2": str(last + 2)}[rest[0]]]
        home = ".".join([side, *rest])
        if kind == "weight" and not home.endswith(".codebook"):
            new[f"{home}.weight_g"], kind = value.flatten(1).norm(dim=1)[:, None, None], "weight_v"
        new[f"{home}.{kind}"] = value
    return new


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `DAC` from one of the package or of transformers.

    The rate is not in the weights, and follows from the sizes: see the table above.
    """
    new, words = {}, {}
    for key, value in _names_of_the_package(state).items():
        home, _, kind = key.rpartition(".")
        kind = WEIGHT_NORM.get(kind, kind)
        if found := re.fullmatch(r"quantizer\.quantizers\.(\d+)\.codebook\.weight", key):
            words[int(found[1])] = value
        elif found := re.fullmatch(r"quantizer\.quantizers\.(\d+)\.(in|out)_proj", home):
            new[f"quantizer.{'into' if found[2] == 'in' else 'out'}.{found[1]}.{kind}"] = value
        elif found := re.fullmatch(
            r"(en|de)coder\.(?:block|model)\.(\d+)(?:\.block\.(\d)(?:\.block\.(\d))?)?", home
        ):
            place = [found[2], found[3], found[4] and f"branches.1.{found[4]}"]
            new[".".join([f"{found[1]}coder", *filter(None, place), kind])] = value
        else:
            raise KeyError(key)
    new["quantizer.words"] = torch.stack([words[i] for i in range(len(words))])
    stages, levels, dim = new["quantizer.words"].shape
    kernels = {
        key: value
        for key, value in new.items()
        if re.fullmatch(rf"encoder\.\d+\.4\.{WEIGHT_NORM['weight_v']}", key)
    }
    ratios = [kernels[key].shape[2] // 2 for key in sorted(kernels, key=lambda key: int(key.split(".")[1]))]
    rate = 44100 if ratios == [2, 4, 8, 8] else 24000 if stages == 32 else 16000
    width, latent, _ = new[f"decoder.0.{WEIGHT_NORM['weight_v']}"].shape
    arguments = {
        "filters": new[f"encoder.0.{WEIGHT_NORM['weight_v']}"].shape[0], "ratios": ratios, "latent": latent,
        "width": width, "dim": dim, "stages": stages, "levels": levels,
        "sample_rate": rate, "name": f"dac_{rate // 1000}khz",
    }  # fmt: skip
    return arguments, new
