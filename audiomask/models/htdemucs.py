"""Take songs apart on the waveform and the spectrum at once: Hybrid Transformer Demucs.

Rouard, Massa and Defossez, "Hybrid Transformers for Music Source Separation" (ICASSP 2023). Two U-Nets run
side by side, one along time and one along the frequencies of each frame, and between their encoders and
decoders they look at each other:

    waveform (x - mean) / std -> 4 x encoder, of time      -+-> 5 layers -+-> 4 x decoder -> waveforms
                                                            |             |                     + -> stems
    spectrum (X - mean) / std -> 4 x encoder, of frequency -+-> 5 layers -+-> 4 x decoder -> spectra

    encoder: conv 8 -> gelu -> 2 residual branches of dilated convolutions -> conv 1 -> glu
    decoder: + skip -> conv 3 -> glu -> the same branches -> transposed conv 8 -> gelu
    layers:  0, 2, 4 attend within a branch, 1 and 3 to the other one; 8 heads, 4 x wide in between

Of four stems it has 41,984,456 parameters at the sizes of the weights that were published (bottleneck of 512
channels), which bear the authors' names, so their state dicts load unchanged. `HTDemucs.whole` runs a clip as
the authors do. Differences:

- The authors run windows of 7.8 s that overlap by a quarter, with triangular weights, from the beginning of
  the file. Here the first window begins in the silence before it, and the middle of each one is used (see
  `nn.windowed`), in constant memory.
- With `shifts`, theirs are drawn at random, up to half a second, and of the whole file. Here each window is
  heard at as many places, evenly spaced over half a second.
- The variants that no published weights use (Wiener filters, sparse attention, other embeddings, norms in the
  U-Nets, frequency bands apart) are not here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import RealDft, window
from audiomask.nn.windowed import Windowed
from audiomask.streaming import Port, Steps, StreamingModel

STEMS = ("drums", "bass", "other", "vocals")
SIX = (*STEMS, "guitar", "piano")
KERNEL, STRIDE, PAD = 8, 4, 2
SMALL = 1e-5  # beside a standard deviation
PLACE = 0.2  # share of what says which frequency a band is at
BOOST = 10.0  # of its learning rate


class Scale(nn.Module):
    """A gain for each channel, `[..., C, T]`, or `[..., C]` with `last`."""

    def __init__(self, channels: int, start: float, last: bool = False) -> None:
        super().__init__()
        self.scale, self.last = nn.Parameter(torch.full((channels,), start)), last

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale if self.last else self.scale[:, None])


class Branches(nn.Module):
    """Two residual branches of dilated convolutions along time, `[B, C, T]` -> the same."""

    def __init__(self, channels: int, compress: int) -> None:
        super().__init__()
        hidden = channels // compress
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(channels, hidden, 3, dilation=dilation, padding=dilation),
                nn.GroupNorm(1, hidden),
                nn.GELU(),
                nn.Conv1d(hidden, 2 * channels, 1),
                nn.GroupNorm(1, 2 * channels),
                nn.GLU(1),
                Scale(channels, 1e-3),
            )
            for dilation in (1, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:  # each frequency by itself
            batch, _, bands, _ = x.shape
            y = self(x.transpose(1, 2).flatten(0, 1))
            return y.unflatten(0, (batch, bands)).transpose(1, 2)
        for layer in self.layers:
            x = x + layer(x)
        return x


class Encoder(nn.Module):
    """A layer that shortens time, `[B, C, T]`, or frequency, `[B, C, F, T]`, to a quarter."""

    def __init__(self, inputs: int, outputs: int, flat: bool, compress: int) -> None:
        super().__init__()
        conv: Any = nn.Conv1d if flat else nn.Conv2d
        other = [] if flat else [1]  # of the axis that stays
        self.flat = flat
        pads = (PAD,) if flat else (PAD, 0)
        self.conv = conv(inputs, outputs, (KERNEL, *other), (STRIDE, *other), pads)
        self.rewrite = conv(outputs, 2 * outputs, 1)
        self.dconv = Branches(outputs, compress)

    def forward(self, x: Tensor) -> Tensor:
        if self.flat:
            x = F.pad(x, (0, -x.shape[2] % STRIDE))
        return F.glu(self.rewrite(self.dconv(F.gelu(self.conv(x)))), 1)


class Decoder(nn.Module):
    """The opposite of an `Encoder`, to `length` samples of time; the `last` one ends linearly."""

    def __init__(self, inputs: int, outputs: int, flat: bool, last: bool, compress: int | None) -> None:
        super().__init__()
        conv: Any = nn.Conv1d if flat else nn.Conv2d
        transposed: Any = nn.ConvTranspose1d if flat else nn.ConvTranspose2d
        other = [] if flat else [1]
        self.flat, self.last = flat, last
        self.conv_tr = transposed(inputs, outputs, (KERNEL, *other), (STRIDE, *other))
        self.rewrite = conv(inputs, 2 * inputs, 3, padding=1)
        self.dconv = nn.Identity() if compress is None else Branches(inputs, compress)

    def forward(self, x: Tensor, skip: Tensor, length: int) -> Tensor:
        x = self.conv_tr(self.dconv(F.glu(self.rewrite(x + skip), 1)))
        x = x[..., PAD : PAD + length] if self.flat else x[..., PAD:-PAD, :]
        return x if self.last else F.gelu(x)


class Layer(nn.Module):
    """A transformer layer, `[B, T, C]` -> the same, that attends to itself or `across`."""

    def __init__(self, width: int, heads: int, hidden: int, across: bool) -> None:
        super().__init__()
        attention = nn.MultiheadAttention(width, heads, batch_first=True)
        if across:
            self.cross_attn = attention
        else:
            self.self_attn = attention
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if across:
            self.norm3 = nn.LayerNorm(width)
        self.norm_out = nn.GroupNorm(1, width)
        self.gamma_1, self.gamma_2 = Scale(width, 1e-4, True), Scale(width, 1e-4, True)
        self.across = across

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        seen, attention, norm = self.norm1(x), None, None
        if self.across:
            attention, norm, other = self.cross_attn, self.norm3, self.norm2(other)
        else:
            attention, norm, other = self.self_attn, self.norm2, seen
        x = x + self.gamma_1(attention(seen, other, other, need_weights=False)[0])
        x = x + self.gamma_2(self.linear2(F.gelu(self.linear1(norm(x)))))
        return self.norm_out(x.transpose(1, 2)).transpose(1, 2)


class CrossTransformer(nn.Module):
    """Layers over the spectrum `[B, C, F, T]` and the waveform `[B, C, T]`, to the same."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_in, self.norm_in_t = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers, self.layers_t = (
            nn.ModuleList(Layer(width, heads, hidden, n % 2 == 1) for n in range(layers)) for _ in range(2)
        )

    def forward(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        _, width, bands, frames = x.shape
        x = self.norm_in(x.permute(0, 3, 2, 1).flatten(1, 2)) + places_2d(width, bands, frames, x)
        xt = self.norm_in_t(xt.transpose(1, 2)) + places(width, xt.shape[2], xt)
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            x, xt = layer(x, xt), layer_t(xt, x)
        return x.unflatten(1, (frames, bands)).permute(0, 3, 2, 1), xt.transpose(1, 2)


def places(width: int, count: int, like: Tensor) -> Tensor:
    """Return cosines and sines of `count` places, `[count, width]`."""
    half = torch.arange(width // 2, dtype=like.dtype, device=like.device)
    n = torch.arange(count, dtype=like.dtype, device=like.device)
    phase = n[:, None] / 10000 ** (half / (width // 2 - 1))
    return torch.cat([phase.cos(), phase.sin()], 1)


def places_2d(width: int, bands: int, frames: int, like: Tensor) -> Tensor:
    """Return those of bands in frames, `[frames bands, width]`: half of them of the frame."""
    speed = torch.exp(
        torch.arange(0.0, width // 2, 2, device=like.device) * (-math.log(10000.0) / (width // 2))
    ).to(like.dtype)

    def waves(count: int) -> Tensor:
        phase = torch.arange(count, dtype=like.dtype, device=like.device)[:, None] * speed
        return torch.stack([phase.sin(), phase.cos()], 2).flatten(1)

    time, place = waves(frames)[:, None], waves(bands)[None]
    return torch.cat([time.expand(-1, bands, -1), place.expand(frames, -1, -1)], 2).flatten(0, 1)


class Place(nn.Module):
    """A learned vector for each of the bands, `[bands, C]`, smooth at the beginning."""

    def __init__(self, bands: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(bands, channels)
        with torch.no_grad():
            count = torch.arange(1, bands + 1).sqrt()[:, None]
            self.embedding.weight.copy_(self.embedding.weight.cumsum(0) / count / BOOST)

    def forward(self) -> Tensor:
        return self.embedding.weight * BOOST


class HTDemucs(StreamingModel):
    """A separator of songs `[B, C, T]` into as many channels of each stem.

    Args:
        stems: Names of the outputs.
        channels: Channels of the sound.
        width: Channels of the first layer; each has twice those of the one before.
        depth: Layers of an encoder and of a decoder.
        size: Samples of a frame of the transform.
        bottom: Channels of the transformer; 0 for those of the last layer.
        layers, heads, hidden: Its layers, heads, and how much wider it is in between.
        compress: How much narrower the residual branches are.
        both: The decoders have branches too.
        window: Samples of a window; the authors' 7.8 s.
        overlap: Fraction of a window that the next one begins with, at most .5.
        shifts: Places at which a window is heard; the stems are the mean.
        sample_rate: Rate in Hz.
        name: Name of the artifact.
    """

    task = "separate"

    def __init__(
        self,
        stems: Sequence[str] = STEMS,
        channels: int = 2,
        width: int = 48,
        depth: int = 4,
        size: int = 4096,
        bottom: int = 512,
        layers: int = 5,
        heads: int = 8,
        hidden: int = 4,
        compress: int = 8,
        both: bool = True,
        window: int = 343980,
        overlap: float = 0.25,
        shifts: int = 1,
        sample_rate: int = 44100,
        name: str = "htdemucs",
    ) -> None:
        super().__init__()
        bands = size // 2 // STRIDE**depth
        if bands < 2 or size % (2 * STRIDE**depth):
            raise ValueError(f"frames of {size} samples have too few frequencies for {depth} layers")
        if window < 2 * size:
            raise ValueError(f"windows of {window} samples: give {2 * size} or more")
        spread = sample_rate // 2 if shifts > 1 else 0
        self.name, self.sample_rate, self.window, self.size = name, sample_rate, window, size
        self.shifts, self.spread, self.both = shifts, spread, both
        self.inputs = (Port("audio", channels=channels),)
        self.outputs = tuple(Port(stem, channels=channels) for stem in stems)
        outputs, branch = channels * len(stems), compress if both else None
        self.encoder, self.tencoder = nn.ModuleList(), nn.ModuleList()
        self.decoder, self.tdecoder = nn.ModuleList(), nn.ModuleList()
        for n in range(depth):
            wide, narrow = width * 2**n, width * 2 ** (n - 1)
            sides = ((self.encoder, self.decoder, False, 2), (self.tencoder, self.tdecoder, True, 1))
            for encoder, decoder, flat, parts in sides:
                encoder.append(Encoder(narrow if n else parts * channels, wide, flat, compress))
                back = Decoder(wide, narrow if n else parts * outputs, flat, n == 0, branch)
                decoder.insert(0, back)
        self.freq_emb = Place(size // 2 // STRIDE, width)
        with torch.no_grad():  # Demucs, section 3.2
            for layer in self.modules():
                if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d):
                    scale = (layer.weight.std() / 0.1).sqrt()
                    for p in layer.parameters():
                        p.div_(scale)
        top = width * 2 ** (depth - 1)
        if bottom:
            self.channel_upsampler, self.channel_upsampler_t = (nn.Conv1d(top, bottom, 1) for _ in range(2))
            self.channel_downsampler, self.channel_downsampler_t = (
                nn.Conv1d(bottom, top, 1) for _ in range(2)
            )
        self.crosstransformer = CrossTransformer(bottom or top, layers, heads, hidden * (bottom or top))
        self.bottom = bottom
        self.transform = Frames(size)
        self.windows = Windowed.overlapping(self.flat, window + spread, overlap, channels, outputs)
        if shifts < 1 or spread >= self.windows.fade:  # what is used has to be heard at all places
            raise ValueError(f"{shifts} shifts over {spread} samples: give 1 or more, and a longer window")
        self.compose(self.windows)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        return self.parted(step("windows", x)), step.states

    def flat(self, x: Tensor) -> Tensor:
        """Return the stems of a window `[B, C, T]`, one after the other, as channels."""
        if self.shifts == 1:
            return self.whole(x).flatten(1, 2)
        length, last = x.shape[2] - self.spread, self.shifts - 1
        heard = [
            F.pad(self.whole(x[:, :, at : at + length]).flatten(1, 2), (at, self.spread - at))
            for at in (n * self.spread // last for n in range(self.shifts))
        ]
        return torch.stack(heard).mean(0)  # right in the middle, which is what is used

    def whole(self, x: Tensor) -> Tensor:
        """Return the stems `[B, S, C, T]` of a clip `[B, C, T]`, as the authors do."""
        length, stems = x.shape[2], len(self.outputs)
        z = self.transform.spectra(x)  # [B, 2 C, F, T]
        (z, mean, std), (xt, mean_t, std_t) = normal(z), normal(x)
        skips, skips_t, lengths = [], [], []
        for n, (encoder, encoder_t) in enumerate(zip(self.encoder, self.tencoder, strict=True)):
            lengths.append(xt.shape[2])
            z, xt = encoder(z), encoder_t(xt)
            if n == 0:
                z = z + PLACE * self.freq_emb().T[None, :, :, None]
            skips.append(z)
            skips_t.append(xt)
        bands = z.shape[2]
        if self.bottom:
            z = self.channel_upsampler(z.flatten(2)).unflatten(2, (bands, -1))
            xt = self.channel_upsampler_t(xt)
        z, xt = self.crosstransformer(z, xt)
        if self.bottom:
            z = self.channel_downsampler(z.flatten(2)).unflatten(2, (bands, -1))
            xt = self.channel_downsampler_t(xt)
        for decoder, decoder_t in zip(self.decoder, self.tdecoder, strict=True):
            z = decoder(z, skips.pop(), 0)
            xt = decoder_t(xt, skips_t.pop(), lengths.pop())
        y = self.transform.signals(z * std + mean, length) + xt * std_t + mean_t
        return y.unflatten(1, (stems, -1))


def normal(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x over its standard deviation, without its mean, and both of them."""
    axes = tuple(range(1, x.ndim))
    mean = x.mean(axes, keepdim=True)
    std = (x - mean).square().sum(axes, keepdim=True).div(x[0].numel() - 1).sqrt()
    return (x - mean) / (SMALL + std), mean, std


class Frames(nn.Module):
    """A transform with hop size / 4 whose frames begin 3/8 of one before the signal.

    Signals `[B, C, T]`, reflected at their ends, have spectra `[B, 2 C, F, T / hop]` without the highest bin.
    """

    window: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.hop = size, size // 4
        self.dft = RealDft(size)
        self.register_buffer("window", window("hann", size), persistent=False)

    def spectra(self, x: Tensor) -> Tensor:
        """Return the spectra of signals."""
        batch, channels, length = x.shape
        frames, beside = -(-length // self.hop), self.hop // 2 * 3
        x = F.pad(x, (beside, beside + frames * self.hop - length), "reflect")
        hops = x.reshape(batch * channels, -1, self.hop)
        x = torch.cat([hops[:, i : i + frames] for i in range(4)], 2)
        z = self.dft(x * self.window * self.size**-0.5)  # [B C, 2, T, F]
        return z[..., :-1].reshape(batch, 2 * channels, frames, -1).transpose(2, 3)

    def signals(self, z: Tensor, length: int) -> Tensor:
        """Return the signals of `length` samples that have these spectra, by least squares."""
        batch, parts, _, frames = z.shape
        z = F.pad(z.transpose(2, 3), (0, 1)).reshape(-1, 2, frames, self.size // 2 + 1)
        pieces = (self.dft.inverse(z) * self.window * (self.size**0.5 / 1.5)).unflatten(2, (4, -1)).unbind(2)
        y = torch.stack([F.pad(piece, (0, 0, i, 3 - i)) for i, piece in enumerate(pieces)]).sum(0).flatten(1)
        beside = self.hop // 2 * 3
        return y[:, beside : beside + length].reshape(batch, parts // 2, length)


AUTHORS_CLASS = "HTDemucs"
AUTHORS_LICENCE = "that of the files: the authors' MIT"


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `HTDemucs` from a published one.

    The names of the stems are not in the weights: four and six are those of the published models.
    """
    channels = state["tencoder.0.conv.weight"].shape[1]
    depth = len({key.split(".")[1] for key in state if key.startswith("encoder.")})
    count = state[f"tdecoder.{depth - 1}.conv_tr.bias"].shape[0] // channels
    width, bands = state["encoder.0.conv.weight"].shape[0], state["freq_emb.embedding.weight"].shape[0]
    layers = [key for key in state if re.fullmatch(r"crosstransformer\.layers\.\d+\.linear1\.weight", key)]
    hidden, inner = state[layers[0]].shape
    bottom = state["channel_upsampler.bias"].shape[0] if "channel_upsampler.bias" in state else 0
    arguments = {
        "stems": list({4: STEMS, 6: SIX}.get(count, [f"stem{n + 1}" for n in range(count)])),
        "channels": channels, "width": width, "depth": depth, "size": 2 * STRIDE * bands, "bottom": bottom,
        "layers": len(layers), "hidden": hidden // inner,
        "compress": width // state["encoder.0.dconv.layers.0.0.weight"].shape[0],
        "both": "decoder.0.dconv.layers.0.0.weight" in state,
    }  # fmt: skip
    return arguments, dict(state)
