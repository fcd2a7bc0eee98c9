"""Discriminators, which tell estimated sound from real sound, for `losses.adversary`.

Each is a module `(x [B, C, T], where [B, T] or None) -> (scores, features)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from audiomask.frontend.stft import power


class Discriminator(nn.Module):
    """Base of the discriminators, which need `least` samples at least."""

    least: int = 1

    def forward(self, x: Tensor, where: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return scores `[B, N, T', ...]`, high for real sound, and the outputs of the layers.

        Args:
            x: Signals `[B, C, T]` of RMS about 1.
            where: `[B, T]`, 1 where the signal was estimated and 0 where it was received; None: 1 everywhere.
        """
        raise NotImplementedError


LAYERS = (  # kernel, stride over (frames, bins), width in `channels`
    ((3, 7), (1, 2), 1),
    ((3, 7), (1, 2), 1),
    ((3, 7), (1, 2), 2),
    ((3, 5), (2, 2), 2),
    ((3, 3), (1, 1), 2),
)


class SpectrumDiscriminator(Discriminator):
    """Judges places of a spectrogram, which enters compressed: X |X|^-.7 and |X|^.3.

    After UnivNet (Jang et al. 2021) and EnCodec (Défossez et al. 2022); widths and compression are ours.

    Args:
        fft, hop: Samples; the window is Hann's.
        channels: Width of the first layers, half that of the last.
        signals: Channels C of the signals.
    """

    window: Tensor

    def __init__(self, fft: int, hop: int, channels: int = 16, signals: int = 1):
        super().__init__()
        self.fft = self.least = fft
        self.hop = hop
        self.register_buffer("window", torch.hann_window(fft), persistent=False)
        layers, before = [], 3 * signals + 1
        for size, stride, wider in LAYERS:
            pad = (size[0] // 2, size[1] // 2)
            layers.append(weight_norm(nn.Conv2d(before, wider * channels, size, stride, pad)))
            before = wider * channels
        self.layers = nn.ModuleList(layers)
        self.last = weight_norm(nn.Conv2d(before, 1, 3, 1, 1))

    def forward(self, x: Tensor, where: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return scores `[B, 1, frames / 2, places]`; see `Discriminator`."""
        where = torch.ones_like(x[:, 0]) if where is None else where
        z = torch.stft(x.flatten(0, 1).float(), self.fft, self.hop, window=self.window, return_complex=True)
        z = torch.view_as_real(z).permute(0, 3, 2, 1) * (50 / self.window.sum())  # [B C, 2, frames, bins]
        p = power(z) + 1e-6
        share = F.pad(where[:, None], (self.fft // 2, self.fft // 2))
        share = F.avg_pool1d(share, self.fft, self.hop)[..., None].expand(-1, -1, -1, z.shape[3])
        z, p = (each.unflatten(0, x.shape[:2]).flatten(1, 2) for each in (z * p**-0.35, p**0.15))
        y = torch.cat([z, p, share], 1)
        outputs = []
        for layer in self.layers:
            y = F.leaky_relu(layer(y), 0.2)
            outputs.append(y)
        return self.last(y), outputs


class STFTDiscriminator(Discriminator):
    """Judges places of a complex spectrogram: a scale of EnCodec's MS-STFT discriminator.

    The spectrum, divided by the root of the window's energy, goes through a convolution of 3 x 9 places
    (time, frequency), three more that halve the frequencies and dilate time by 1, 2 and 4, and one of 3 x 3,
    to the scores. There are 94,466 parameters for mono sound: 283,398 with the package's three scales of
    2048, 1024 and 512 samples (`slope` .2), 472,330 with audiocraft's five, down to 128 (.3).

    Args:
        fft: Samples of the FFT and of Hann's window; the hop is a quarter.
        filters: Channels of the layers.
        signals: Channels C of the signals; with 1, each channel of any number is judged by itself, as
            EnCodec's authors do with stereo.
        slope: Slope of the leaky ReLU below 0.
    """

    window: Tensor

    def __init__(self, fft: int, filters: int = 32, signals: int = 1, slope: float = 0.2):
        super().__init__()
        self.fft = self.least = fft
        self.slope, self.signals = slope, signals
        self.register_buffer("window", torch.hann_window(fft), persistent=False)
        layers = [nn.Conv2d(2 * signals, filters, (3, 9), padding=(1, 4))]
        for dilation in (1, 2, 4):
            shape = {"stride": (1, 2), "dilation": (dilation, 1), "padding": (dilation, 4)}
            layers.append(weight_norm(nn.Conv2d(filters, filters, (3, 9), **shape)))  # type: ignore[arg-type]
        layers.append(weight_norm(nn.Conv2d(filters, filters, 3, padding=1)))
        self.layers = nn.ModuleList(layers)
        self.last = weight_norm(nn.Conv2d(filters, 1, 3, padding=1))

    def forward(self, x: Tensor, where: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return scores `[B, C / signals, frames, places]`; `where` is not looked at."""
        batch, x = len(x), x.unflatten(1, (-1, self.signals)).flatten(0, 1)
        frames = x.float().unfold(2, self.fft, self.fft // 4) * self.window
        z = torch.fft.rfft(frames) / self.window.square().sum().sqrt()
        y, outputs = torch.cat([z.real, z.imag], 1), []
        for layer in self.layers:
            y = F.leaky_relu(layer(y), self.slope)
            outputs.append(y)
        return self.last(y).flatten(0, 1).unflatten(0, (batch, -1)), outputs


def _even(x: Tensor) -> Tensor:
    """Return `x [B, 1, T]` without its mean, and with a peak of .8, as DAC's package does."""
    x = x.float() - x.float().mean(2, keepdim=True)
    return 0.8 * x / (x.abs().amax(2, keepdim=True) + 1e-9)


class PeriodDiscriminator(Discriminator):
    """Judges columns of samples that are `period` apart, as in HiFi-GAN and DAC.

    They (Kong et al. 2020) go through convolutions of 5 places, all but the last of stride 3. With the
    published `widths` there are 8,221,154 parameters.
    """

    def __init__(self, period: int, widths: Sequence[int] = (32, 128, 512, 1024, 1024)):
        super().__init__()
        self.period, self.least = period, period + 1
        layers, before = [], 1
        for i, width in enumerate(widths):
            stride = (3 if i + 1 < len(widths) else 1, 1)
            layers.append(weight_norm(nn.Conv2d(before, width, (5, 1), stride, (2, 0))))
            before = width
        self.layers = nn.ModuleList(layers)
        self.last = weight_norm(nn.Conv2d(before, 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor, where: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return scores `[B, 1, places, period]`; see `Discriminator`. `where` is not looked at."""
        x = _even(x)
        x = F.pad(x, (0, self.period - x.shape[2] % self.period), mode="reflect")
        y, outputs = x.unflatten(2, (-1, self.period)), []
        for layer in self.layers:
            y = F.leaky_relu(layer(y), 0.1)
            outputs.append(y)
        return self.last(y), outputs


EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the bands of a `BandDiscriminator`, over half the rate


class BandDiscriminator(Discriminator):
    """Judges places of a complex spectrogram by layers of their own for each of DAC's bands.

    Those of a band, of which there are five, are four convolutions of 3 x 9 places (time, frequency), the
    last three of which halve the frequencies, and one of 3 x 3; one more joins the bands to the scores. There
    are 471,330 parameters.

    Args:
        fft: Samples of the FFT and of Hann's window; the hop is a quarter.
        filters: Channels of the layers.
    """

    window: Tensor

    def __init__(self, fft: int, filters: int = 32):
        super().__init__()
        self.fft = self.least = fft
        self.register_buffer("window", torch.hann_window(fft), persistent=False)
        self.edges = [int(edge * (fft // 2 + 1)) for edge in EDGES]
        shapes: list[Any] = [
            (2, (3, 9), 1, (1, 4)),
            *[(filters, (3, 9), (1, 2), (1, 4))] * 3,
            (filters, 3, 1, 1),
        ]
        self.bands = nn.ModuleList(
            nn.ModuleList(
                weight_norm(nn.Conv2d(before, filters, size, stride, pad))
                for before, size, stride, pad in shapes
            )
            for _ in EDGES[1:]
        )
        self.last = weight_norm(nn.Conv2d(filters, 1, 3, padding=1))

    def forward(self, x: Tensor, where: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return scores `[B, 1, frames, places]`; see `Discriminator`. `where` is not looked at."""
        hop = self.fft // 4
        beside = (self.fft - hop) // 2
        x = F.pad(_even(x), (beside, beside + -x.shape[2] % hop), mode="reflect")
        z = torch.fft.rfft(x.unfold(2, self.fft, hop) * self.window)
        parts, outputs = torch.cat([z.real, z.imag], 1).tensor_split(self.edges[1:-1], 3), []
        ends, bands = [], cast(Any, self.bands)
        for y, layers in zip(parts, bands, strict=True):
            for layer in layers:
                y = F.leaky_relu(layer(y), 0.1)
                outputs.append(y)
            ends.append(y)
        return self.last(torch.cat(ends, 3)), outputs
