"""Take the instruments of a song apart by a U-Net and masks of three kinds, on one network.

After Jansson, Bittner, Montecchio and Weyde, "Learned Complex Masks for Multi-Instrument Source Separation"
(arXiv 2103.12864), who compare masks of magnitudes with complex ones, for percussion, bass, guitar, voice and
the rest (here drums, bass, guitar, vocals, other):

    x -> X -> over the running level, magnitudes compressed
      -> down -> down -> ... -> down       down: conv over time and frequency, F / 2, norm, leaky ReLU
           |       '-------- cat -> up     up: transposed conv over frequency, 2 F, norm, ReLU
           '------------------- cat -> up -> 1x1 -> for each stem and channel z [1, 2 or 3]
    Y = M X -> y

    masks       z            M, bounded                    M, unbounded
    magnitude   z            sigmoid(z)                    softplus(z)
    complex     z + i w      (z + i w) / sqrt(1 + |.|^2)   z + i w
    phase       z, u + i v   sigmoid(z) (u + i v) / |.|    softplus(z) (u + i v) / |.|

A magnitude mask keeps the phase of the mixture, a complex one has it by real and imaginary part, and a
phase-aware one predicts phase and magnitude apart. All networks see real and imaginary parts of the mixture,
and differ in their last layer only.

It streams: convolutions over time see the past, and `ahead` frames each if wanted; frequencies alone are
halved, as each halving of the frame rate would cost latency. The authors' network sees a clip, and there is
no code of theirs to compare with. Sizes, transform, losses and what bounds a mask are ours: 3,497,716
parameters for five stems of stereo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, compress
from audiomask.masks import gains
from audiomask.nn.conv import Conv2d
from audiomask.nn.masked import Masked
from audiomask.nn.norm import RunningNorm
from audiomask.streaming import Parallel, Port, Sequential

Kind: TypeAlias = Literal["magnitude", "complex", "phase"]
PARTS: dict[Kind, int] = {"magnitude": 1, "complex": 2, "phase": 3}


def mask_of(z: Tensor, kind: Kind, bounded: bool) -> Tensor:
    """Return the masks `[B, 2 N, T, F]`, or `[B, N, T, F]` of magnitudes, that z tells.

    z is `[B, PARTS N, T, F]`.
    """
    z = z.unflatten(1, (-1, PARTS[kind]))
    if kind == "complex":
        return (gains.bounded(z, 1.0, axis=2) if bounded else z).flatten(1, 2)
    size = z[:, :, :1].sigmoid() if bounded else nn.functional.softplus(z[:, :, :1])
    if kind == "magnitude":
        return size.flatten(1, 2)
    towards = z[:, :, 1:]
    return (size * towards * (towards.square().sum(2, keepdim=True) + 1e-12).rsqrt()).flatten(1, 2)


class Compress(nn.Module):
    """A block that raises the magnitudes of spectra to a power."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, x: Tensor) -> Tensor:
        return compress(x, self.exponent, 1e-6)


class ComplexUNet(Masked):
    """A separator of sound `[B, C, T]` into stems `[B, C, T]`, an output for each.

    Args:
        stems: Names of the outputs, in order.
        mask: Kind of the masks, see above.
        bounded: Masks have magnitudes below 1.
        widths: Channels of the layers down, each of which halves the frequencies.
        kernel: Frames and bins that a layer sees; the bins are odd.
        ahead: Frames of these that come later.
        exponent: Power of the magnitudes that the network sees.
        memory: Seconds that the running level remembers.
        channels: 1 or 2, which the network sees together.
        size, hop_length: Frames of the transform in samples.
        sample_rate: Rate in Hz.
        name: Name of the artifact.
    """

    task = "separate"

    def __init__(
        self,
        stems: Sequence[str] = ("drums", "bass", "guitar", "vocals", "other"),
        mask: Kind = "complex",
        bounded: bool = True,
        widths: Sequence[int] = (16, 32, 64, 128, 256, 512),
        kernel: tuple[int, int] = (3, 5),
        ahead: int = 0,
        exponent: float = 0.5,
        memory: float = 4.0,
        channels: int = 2,
        size: int = 2048,
        hop_length: int = 512,
        sample_rate: int = 44100,
        name: str = "complex_unet",
    ) -> None:
        super().__init__()
        bins = size // 2
        if mask not in PARTS:
            raise ValueError(f"no mask {mask!r}; there are {', '.join(PARTS)}")
        if bins % 2 ** len(widths):
            raise ValueError(f"{bins} bins do not halve {len(widths)} times; take fewer widths")
        if kernel[1] % 2 == 0:
            raise ValueError(f"kernel {tuple(kernel)}: the number of bins must be odd")
        if not stems or len({*stems}) < len(stems):
            raise ValueError(f"stems {list(stems)}: want one or more, each once")
        self.name, self.sample_rate, self.mask, self.bounded = name, sample_rate, mask, bounded
        self.inputs = (Port("audio", channels=channels),)
        self.outputs = tuple(Port(stem, channels=channels) for stem in stems)
        net: nn.Module | None = None
        for i in reversed(range(len(widths))):
            above, width, freqs = widths[i - 1] if i else 2 * channels, widths[i], bins >> i
            down = Conv2d(
                above, width, (kernel[0], kernel[1]), stride=(1, 2), padding=kernel[1] // 2, bias=False,
                lookahead=ahead, freqs=freqs,
            )  # fmt: skip
            parts = [down, nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
            if net is not None:  # a layer below gives as many channels as it got
                parts.append(Parallel(nn.Identity(), net, merge="cat", shapes=(width, freqs // 2)))
            out = above if i else width
            up = nn.ConvTranspose2d(
                width if net is None else 2 * width, out, (1, 4), (1, 2), (0, 1), bias=False
            )
            net = Sequential(*parts, up, nn.BatchNorm2d(out), nn.ReLU())
        assert net is not None
        head = nn.Conv2d(widths[0], len(stems) * channels * PARTS[mask], 1)
        level = RunningNorm(memory * sample_rate / hop_length)
        self.net = Sequential({"level": level, "compress": Compress(exponent), "unet": net, "masks": head})
        synthesis = Synthesis(size, hop_length, channels=len(stems) * channels)
        self.between(Analysis(size, hop_length, channels=channels), self.net, synthesis)

    def features(self, spectrum: Tensor) -> Tensor:
        return spectrum[..., :-1]  # without half the rate, so that the bins halve well

    def estimate(self, mask, spectrum, **controls):
        mask = mask_of(torch.cat([mask, mask[..., -1:]], 3), self.mask, self.bounded)
        spectrum = spectrum.repeat(1, len(self.outputs), 1, 1)
        if self.mask == "magnitude":
            return spectrum * mask.repeat_interleave(2, 1)
        return gains.multiply(mask, spectrum)
