"""Separate sounds by a small causal network that makes a mask for each of them: Prism.

Prism is our own. Its bands widen with frequency as those of band-split RNNs (Luo and Yu 2023), and its blocks
are those of `nn.bandnet`. One frame (window K, hop S, with W = K / 512) is computed as

    spectrum X [2 C, K / 2 + 1] of C channels -> g X, whatever the level of X (`nn.norm.ActiveGain`)
      -> g X |g X|^-.7 and |g X|^.3, bin by bin
      -> 32 bands, 8 of W, 3 W, 8 W and 20 W bins each, by a product of its own for each  [32, D]
      -> norm -> x / sqrt(1 + x^2 / 16)
      -> a convolution over the frames around it, of which `ahead` come after it
      -> + a full-band GRU -> blocks: (GRU over time, shared by the bands) + (attention across the bands)
      -> a hidden layer for each band -> masks Z of each sound and channel, one for 1, 1, 2, 4 bins

    masks M_s = Z_s + (1 - sum Z) / stems,  |Z| < 2         estimates M_s X

so the estimates always add up to what came in ("mixture consistency", Wisdom et al. 2019). In the two widest
kinds of bands, where a mask serves several bins, the network sees their mean power and no phase.

Latency is K + `ahead` S samples. Played at another rate than it was trained at, a Prism hears everything as
slower or faster, for which training draws speeds of .9 to 1.1: 44.1 kHz is .92 of 48.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, power, window
from audiomask.masks import gains
from audiomask.nn.bandnet import BandRecurrence
from audiomask.nn.masked import Masked
from audiomask.nn.norm import ActiveGain
from audiomask.streaming import Context, Gate, Port

EACH = 8  # bands of each width
WIDTHS = (1, 3, 8, 20)  # their bins, in units of window / 512
SHARED = (1, 1, 2, 4)  # bins of a mask
BANDS = EACH * len(WIDTHS)
# Noise with more treble than any film would bring out what rounds off; hence features are bounded, and those
# of bands in which hardly anything was ever heard are not scaled up to the others.
LOUDEST, QUIET = 4.0, 0.03
LEVEL = 4.414  # RMS of a channel's frames that the network hears where something sounds: of noise at -25 dBFS
LEVEL_S = 4.0  # time constant of the running level


class Banded(nn.Module):
    """A linear layer of its own for each band, `[bands, N, C]` -> `[bands, N, D]`."""

    def __init__(self, bands: int, inputs: int, outputs: int, scale: float = 1.0, bias: bool = False):
        super().__init__()
        self.maps = bands  # that the weight stacks, for Muon
        self.weight = nn.Parameter(torch.randn(bands * inputs, outputs) * scale * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(bands, 1, outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.unflatten(0, (self.maps, -1))
        return y if self.bias is None else y + self.bias


class SplitMaskNet(BandRecurrence):
    """A network that makes masks of spectra `[B, 2 C, T, F]`, frame by frame.

    They are `[B, 2 C stems, T, F]`: that of stem s and channel c has its real part in channel 2 (C s + c).
    They lag by `ahead` frames.

    Args:
        bins: F, 256 times a whole number and one. channels: C. stems: sounds to be told apart.
        width: D. hidden: units of a band's last layer. past, ahead: frames around one that it sees at once.
        blocks, heads, full, squeeze: See `nn.bandnet.BandNet`.
        phase: Masks are complex. False makes real ones, by a softmax over the stems, to compare with.
        frame_s: Seconds from frame to frame.
    """

    def __init__(
        self,
        bins: int,
        channels: int,
        stems: int,
        width: int = 48,
        blocks: int = 3,
        heads: int = 3,
        full: int = 256,
        squeeze: int = 128,
        hidden: int = 128,
        past: int = 2,
        ahead: int = 2,
        phase: bool = True,
        frame_s: float = 1024 / 48000,
    ):
        super().__init__()
        unit, rest = divmod(bins - 1, 256)
        if rest or not unit:
            raise ValueError(f"{bins} bins do not divide into bands; windows are multiples of 512 samples")
        self.channels, self.bands, self.full = width, BANDS, full
        self.signals, self.stems, self.past = channels, stems, past
        self.parts = 2 if phase else 1  # of a mask
        self.sizes = [EACH * unit * n for n in WIDTHS]
        self.split, self.heads, self.counts = nn.ModuleList(), nn.ModuleList(), list[int]()
        for size, shared in zip(self.sizes, SHARED, strict=True):
            masks = size // EACH // shared
            seen = channels * masks * (3 if shared == 1 else 1)
            self.split.append(Banded(EACH, seen, width))
            # Untrained, each stem is about its share of the mix.
            self.heads.append(Banded(EACH, hidden, self.parts * channels * stems * masks, 0.1))
            self.counts.append(masks)
        self.level = ActiveGain(LEVEL_S / frame_s, LEVEL * math.sqrt(channels))
        self.split_norm = nn.BatchNorm1d(BANDS * width, eps=QUIET)
        self.context = Context(past, ahead, (width, BANDS))
        self.compose(self.context)
        self.around = nn.Conv2d(width, width, (past + 1 + ahead, 1), bias=False)
        self.around_norm = nn.BatchNorm2d(width)
        self.recurrent(blocks, heads, squeeze)
        self.last = Banded(BANDS, width, hidden, bias=True)
        self.early = Gate()  # marks the frames before the signal
        self.early.align(ahead)

    def initial_state(self, batch: int, device=None, dtype=torch.float32) -> dict[str, Any]:
        state = super().initial_state(batch, device, dtype)
        state["level"] = self.level.initial_state(batch, device, dtype)
        state["context"] = self.context.initial_state(batch, device, dtype)
        return state | self.early.gate_state(batch, device)

    def step(self, spectrum: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:  # type: ignore[override]
        p = power(spectrum)  # [B, C, T, F]
        gain, level = self.level.step(p, state["level"])
        x = self._bands(gain * spectrum, gain.square() * p + 1e-6)  # [B, D, T, bands]
        frames = x.shape[2]
        x, context = self.context.step(x, state["context"])
        now = x[:, :, self.past : self.past + frames]
        x = now + F.relu(self.around_norm(self.around(x)))
        early = self.early.before(spectrum, state)
        skip = None if early is None else early.T[:, :, None].to(x.dtype)
        x, new = self.recur(x.permute(2, 0, 3, 1), state, frames, skip)  # of [T, B, bands, D]
        new |= {"level": level, "context": context} | self.early.advance(spectrum, state)
        return self._masks(x, frames), new

    def _bands(self, spectrum: Tensor, p: Tensor) -> Tensor:
        """Return bands `[B, D, T, bands]` of spectra `[B, 2 C, T, F]`, whose powers are p."""
        z = torch.cat([spectrum * (p**-0.35).repeat_interleave(2, 1), p**0.15], 1)
        found, at, (batch, _, frames, _) = [], 0, z.shape
        for split, size, shared in zip(self.split, self.sizes, SHARED, strict=True):
            if shared == 1:
                x = z[..., at : at + size]
            else:
                x = p[..., at : at + size].unflatten(3, (-1, shared)).mean(4) ** 0.15
            x = x.unflatten(3, (EACH, -1)).permute(3, 0, 2, 1, 4)  # [8, B, T, features, bins]
            found.append(split(x.reshape(EACH, batch * frames, -1)))
            at += size
        x = torch.cat(found).transpose(0, 1).reshape(batch * frames, -1)  # [B T, bands D]
        x = self.split_norm(x)
        x = x * (1 + (x / LOUDEST).square()).rsqrt()
        return x.reshape(batch, frames, BANDS, self.channels).permute(0, 3, 1, 2)

    def _masks(self, x: Tensor, frames: int) -> Tensor:
        """Return masks `[B, 2 C stems, T, F]` of rows `[T B, bands, D]`."""
        x = F.relu(self.last(x.transpose(0, 1)))  # [bands, T B, hidden]
        found, shape = [], (EACH, frames, -1, self.stems, self.signals, self.parts)
        for head, part, count in zip(self.heads, x.split(EACH), self.counts, strict=True):
            z = head(part).reshape(*shape, count)
            found.append(z.permute(2, 3, 4, 5, 1, 0, 6).flatten(5))  # [B, stems, C, parts, T, masks]
        z = torch.cat(found, 5)
        if self.parts == 1:
            z = z.softmax(1)
            z = torch.cat([z, torch.zeros_like(z)], 3)
        else:
            z = gains.bounded(z, 2.0, 3)
            # Mixture consistency: the masks sum to 1.
            one = torch.tensor([1.0, 0.0], device=z.device, dtype=z.dtype).reshape(1, 1, 2, 1, 1)
            z = z + ((one - z.sum(1)) / self.stems)[:, None]
        z = z.flatten(1, 3)
        parts = z.split([EACH * count for count in self.counts], 3)
        wide = [
            part if n == 1 else part.repeat_interleave(n, 3) for part, n in zip(parts, SHARED, strict=True)
        ]
        return torch.cat([*wide, parts[-1][..., -1:]], 3)


class Prism(Masked):
    """A separator that maps samples `[B, C, T]` to as many of each stem, which sum to them.

    Args:
        stems: Names of the sounds. sample_rate: Hz. channels: C. size, hop: K and S in samples.
        net: Arguments of `SplitMaskNet`.
    """

    task = "separate"

    def __init__(
        self,
        stems: Sequence[str] = ("speech", "music", "effects"),
        sample_rate: int = 48000,
        channels: int = 2,
        size: int = 2048,
        hop: int = 1024,
        name: str = "prism",
        **net: Any,
    ):
        super().__init__()
        self.name, self.sample_rate, self.stems = name, sample_rate, tuple(stems)
        self.inputs = (Port("audio", channels=channels),)
        self.outputs = tuple(Port(stem, channels=channels) for stem in stems)
        # A sine of amplitude a has |X| = 50 a, see `models.sieve`.
        w = window("sqrt_hann", size)
        w *= 100 / w.sum()
        self.net = SplitMaskNet(size // 2 + 1, channels, len(self.stems), frame_s=hop / sample_rate, **net)
        synthesis = Synthesis(size, hop, w, channels * len(self.stems))
        self.between(Analysis(size, hop, w, channels), self.net, synthesis)

    def estimate(self, mask: Tensor, spectrum: Tensor, **controls: Any) -> Tensor:
        return gains.multiply(mask, spectrum.repeat(1, len(self.stems), 1, 1))
