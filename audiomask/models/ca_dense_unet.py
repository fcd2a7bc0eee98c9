"""Denoise with several microphones: the Channel-Attention Dense U-Net.

Tolooshams, Giri, Song, Isik and Krishnaswamy, "Channel-Attention Dense U-Net for Multichannel Speech
Enhancement" (ICASSP 2020, arXiv 2001.11542). It takes M microphones and returns the speech at the reference
microphone, by a complex mask for each microphone:

    x [M] -> X [M, F]  (the Nyquist bin is left out, so that F halves well)
      -> Z = X / level, magnitudes compressed
      -> block 1 -> down -> block 2 -> down -> ... -> block n          down: F / 2
           |                  '----------------------- up -> block     up: 2 F, beside what block 2 gave
           '------------------------------------------ up -> block -> 1x1 -> M_1 .. M_M
    Y = sum_m M_m X_m -> y [1]

    block:      x -> (x, attention(x)) -> four times: (x, elu(norm(conv 3x3 (x)))) -> 1x1
    attention:  in each frequency, over the channels c of x:
                  K, Q [C, d], V [C]: of each channel, by kernels over time that all channels share
                  S = Q K^H / sqrt(d)   [C, C]
                  P = softmax(Re S) + i softmax(Im S)
                  P V: channels re-weighted by what they have in common, a beamformer that is learned

Kernels, similarities and masks are complex. `complex_=False` is the real variant of as many maps.

The paper's network sees the whole clip. This one streams, with these differences:

- Convolutions over time are causal; down and up-sampling is over frequency only, since each halving of the
  frame rate would cost latency. The latency is that of the transform.
- The paper reduces the T frames of the clip to d features for keys and queries by a learned product. Here a
  learned product over the last `window` frames does it anew in each frame, so talkers may move. The values,
  which the paper also takes from the whole clip, come from the same frames.
- The input is divided by a running level, and magnitudes are raised to `exponent`: a stream cannot be
  normalised by its clip, and speech spans more decades than a network can use. Masks multiply the original X.
- Batch norms act on real and imaginary parts one by one, as ELU does, so that export folds them away.
- Our notes on the paper do not say how the masks become one signal; we chose filter and sum, which contains
  every beamformer with one tap a bin. We also chose the widths, the transform (32 ms, hop 16), and the mask
  of the Nyquist bin, which is that of the bin below.

The authors published no weights to compare with. The network knows its microphones by their order: attention
permutes with them, the first convolution and the masks do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, compress
from audiomask.masks import gains
from audiomask.nn.conv import ComplexConv2d, Conv2d
from audiomask.nn.masked import Masked
from audiomask.nn.norm import RunningNorm
from audiomask.streaming import Parallel, Port, Sequential, Steps, Streaming


def _times_i(z: Tensor) -> Tensor:
    """Return i z of complex numbers `[..., 2]`."""
    re, im = z.unbind(-1)
    return torch.stack([-im, re], -1)


class ChannelAttention(Streaming):
    """An attention that channels `[B, P C, T, F]` pay to each other; P = 2 if complex.

    `width`: d; `window`: frames that keys, queries and values are made of. Channels differ only by what they
    carry, so permuted channels give permuted outputs.
    """

    def __init__(self, channels: int, width: int, window: int, freqs: int, complex_: bool = True) -> None:
        super().__init__()
        self.channels, self.width, self.parts = channels, width, 2 if complex_ else 1
        conv = ComplexConv2d if complex_ else Conv2d
        features = channels * (2 * width + 1)
        self.reduce = conv(
            channels, features, (window, 1), groups=channels, tied=True, bias=False, freqs=freqs
        )
        self.compose(self.reduce)

    def step(self, x, state, **controls):
        c, d, p, step = self.channels, self.width, self.parts, Steps(self, state)
        y = step("reduce", x).unflatten(1, (c, (2 * d + 1) * p)).permute(0, 3, 4, 1, 2)
        q, k, v = y.split((d * p, d * p, p), -1)  # [B, T, F, C, ...]
        if p == 2:  # Re(q k*) = q . k, and Im(q k*) = Re(-i q k*), with parts side by side
            q = torch.cat([q, -_times_i(q.unflatten(-1, (d, 2))).flatten(-2)], -2)
        y = torch.softmax(q @ k.mT / math.sqrt(d), -1) @ v
        if p == 2:
            re, im = y.split(c, -2)
            y = re + _times_i(im)
        return y.flatten(-2).permute(0, 3, 1, 2), step.states


def _beside(block: nn.Module) -> Parallel:
    """Return a layer x -> (x, block(x)), concatenated over channels."""
    return Parallel(nn.Identity(), block, merge="cat")


class Compress(nn.Module):
    """A block that raises magnitudes of a spectrum to a power, see `frontend.stft.compress`."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, x: Tensor) -> Tensor:
        return compress(x, self.exponent, 1e-6)


class CADenseUNet(Masked):
    """A denoiser that maps M microphones `[B, M, T]` to the speech at one, `[B, 1, T]`.

    Speech is wanted of the microphone `reference`, from 0. The blocks have `widths` complex maps (real and
    imaginary parts are plain maps unless `complex_`), the first at all frequencies, each next at half as
    many, and `layers` convolutions. Their attention has d = `attention` and sees `window` frames. The network
    sees magnitudes raised to `exponent`, and a running level of `memory` seconds.
    """

    def __init__(
        self,
        microphones: int = 6,
        reference: int = 0,
        widths: Sequence[int] = (8, 12, 16, 24),
        layers: int = 4,
        attention: int = 4,
        window: int = 16,
        complex_: bool = True,
        exponent: float = 0.5,
        memory: float = 2.0,
        size: int = 512,
        hop: int = 256,
        sample_rate: int = 16000,
        name: str = "ca_dense_unet",
    ):
        super().__init__()
        bins, halvings = size // 2, len(widths) - 1
        if not 0 <= reference < microphones:
            raise ValueError(f"reference {reference} is none of {microphones} microphones; they count from 0")
        if bins % 2**halvings:
            raise ValueError(f"{bins} bins do not halve {halvings} times; take fewer widths or another size")
        self.name, self.sample_rate = name, sample_rate
        self.inputs = (Port("audio", channels=microphones, reference=reference),)

        def conv(inside: int, outside: int, kernel: tuple[int, int], **options) -> Conv2d:
            if complex_:
                return ComplexConv2d(inside, outside, kernel, **options)
            return Conv2d(2 * inside, 2 * outside, kernel, **options)

        def block(inside: int, outside: int, freqs: int) -> Sequential:
            maps = inside if complex_ else 2 * inside
            parts = [_beside(ChannelAttention(maps, attention, window, freqs, complex_))]
            for i in range(layers):
                layer = conv(2 * inside + i * outside, outside, (3, 3), padding=1, bias=False, freqs=freqs)
                parts.append(_beside(Sequential(layer, nn.BatchNorm2d(2 * outside), nn.ELU())))
            return Sequential(*parts, conv(2 * inside + layers * outside, outside, (1, 1)))

        net: nn.Module = nn.Identity()
        for i in range(halvings, -1, -1):
            inside, outside, freqs = widths[i - 1] if i else microphones, widths[i], bins >> i
            if i == halvings:
                net = block(inside, outside, freqs)
                continue
            down = conv(outside, outside, (1, 4), stride=(1, 2), padding=1)
            net = Sequential(
                block(inside, outside, freqs),
                _beside(Sequential(down, net, nn.Upsample(scale_factor=(1, 2)))),
                block(outside + widths[i + 1], outside, freqs),
            )
        head = conv(widths[0], microphones, (1, 1))
        with torch.no_grad():  # the untrained network passes the reference microphone
            head.weight.mul_(0.1)
            assert head.bias is not None
            head.bias.zero_()
            head.bias[2 * reference] = 1.0
        level = RunningNorm(memory * sample_rate / hop)
        self.net = Sequential({"level": level, "compress": Compress(exponent), "unet": net, "masks": head})
        self.between(Analysis(size, hop, channels=microphones), self.net, Synthesis(size, hop))

    def features(self, spectrum: Tensor) -> Tensor:
        return spectrum[..., :-1]

    def estimate(self, mask, spectrum, **controls):
        mask = torch.cat([mask, mask[..., -1:]], 3)
        return gains.multiply(mask, spectrum).unflatten(1, (-1, 2)).sum(1)  # Y = sum_m M_m X_m
