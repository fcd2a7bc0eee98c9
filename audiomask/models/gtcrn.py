"""Denoise by masking the spectrum with 24 thousand parameters: GTCRN.

Rong et al., "GTCRN: A Speech Enhancement Model Requiring Ultralow Computational Resources" (ICASSP 2024). It
is a U-Net over frequency in frames of 512 at hop 256 (square root of Hann), with memory in grouped blocks:

    |X|, Re X, Im X -> bands (the lowest 65 bins as they are, 64 ERB bands above) -> neighbours side by side
      -> conv, conv (stride 2 each: 129 -> 65 -> 33 bands) -> grouped blocks of dilation 1, 2, 5
      -> dual-path GRUs, twice -> grouped blocks of dilation 5, 2, 1 -> transposed conv, conv
      -> bands to bins -> tanh -> complex mask
    grouped block: half of the channels pass; the others go through 1x1, depthwise in time and frequency, 1x1,
    and a gate per channel that a GRU makes of their energy; then the halves are shuffled

It has 23,669 learned parameters, as published, and the bands' fixed matrices. Differences:

- The authors' transposed convolutions of stride 1 are convolutions here, with kernels reversed, and
  neighbours side by side followed by 1x1 is a convolution over three bands: the same numbers.
- A file begins with silence, not with its mirror image (theirs: the default of `torch.stft`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, magnitude
from audiomask.masks import gains
from audiomask.nn.conv import Conv2d
from audiomask.nn.masked import Masked
from audiomask.nn.recurrent import GRU, PlainGRU
from audiomask.streaming import Residual, Sequential, Steps, Streaming

AUTHORS_CLASS, AUTHORS_LICENCE = "GTCRN", "MIT"


def erb_bands(low: int, bands: int, size: int, sample_rate: int) -> Tensor:
    """Return triangles over the bins from `low` up, `[bands, bins - low]`, which sum to 1.

    Their peaks are evenly spaced in ERB number, 21.4 log10(.00437 f + 1) (Glasberg and Moore 1990).
    """
    number = 21.4 * np.log10(0.00437 * np.array([low / size, 0.5]) * sample_rate + 1)
    hertz = (10 ** (np.linspace(number[0], number[1], bands) / 21.4) - 1) / 0.00437
    peaks = np.round(hertz / sample_rate * size)
    bins = np.arange(low, size // 2 + 1)
    return torch.tensor(np.stack([np.interp(bins, peaks, row) for row in np.eye(bands)]), dtype=torch.float32)


class GroupedBlock(Streaming):
    """A block on `[B, C, T, F]` that half of the channels pass untouched, see above."""

    def __init__(self, channels: int, hidden: int, dilation: int, freqs: int) -> None:
        super().__init__()
        half = channels // 2
        self.squeeze = nn.Sequential(
            nn.Conv2d(half, hidden, (1, 3), padding=(0, 1)), nn.BatchNorm2d(hidden), nn.PReLU()
        )
        self.depthwise = Conv2d(
            hidden, hidden, (3, 3), dilation=(dilation, 1), padding=1, groups=hidden, freqs=freqs, lookahead=0
        )
        self.expand = nn.Sequential(
            nn.BatchNorm2d(hidden), nn.PReLU(), nn.Conv2d(hidden, half, 1), nn.BatchNorm2d(half)
        )
        self.gru, self.gate_out = GRU(half, 2 * half), nn.Conv1d(2 * half, half, 1)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        x, passed = x.chunk(2, 1)
        x = self.expand(step("depthwise", self.squeeze(x)))
        energy = step("gru", x.square().mean(3))  # [B, 2 C, T]
        x = x * self.gate_out(energy).sigmoid()[..., None]
        x = torch.stack([x, passed], 2).flatten(1, 2)  # channels of the two halves in turn
        return x, step.states


class DualPath(Streaming):
    """A block that runs GRUs of two groups across frequency, then time, on `[B, C, T, F]`."""

    def __init__(self, channels: int, freqs: int) -> None:
        super().__init__()
        half, shape = channels // 2, (freqs, channels)
        self.across = nn.ModuleList(PlainGRU(half, half // 2, bidirectional=True) for _ in range(2))
        self.across_out, self.across_norm = nn.Linear(channels, channels), nn.LayerNorm(shape, eps=1e-8)
        self.along = nn.ModuleList(GRU(half, half, freqs=freqs) for _ in range(2))
        self.along_out, self.along_norm = nn.Linear(channels, channels), nn.LayerNorm(shape, eps=1e-8)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        b, c, t, f = x.shape
        rows = x.permute(3, 0, 2, 1).reshape(f, b * t, c)
        y = torch.cat([gru(part)[0] for gru, part in zip(self.across, rows.chunk(2, 2), strict=True)], 2)
        y = self.across_out(y).reshape(f, b, t, c).permute(1, 2, 0, 3)  # [B, T, F, C]
        x = x + self.across_norm(y).permute(0, 3, 1, 2)
        parts = [step(f"along.{i}", part) for i, part in enumerate(x.chunk(2, 1))]
        y = torch.cat(parts, 1).permute(0, 2, 3, 1)
        return x + self.along_norm(self.along_out(y)).permute(0, 3, 1, 2), step.states


def _conv(conv: type[nn.Module], i: int, o: int, groups: int, act: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv(i, o, (1, 5), (1, 2), (0, 2), groups=groups), nn.BatchNorm2d(o), act)


class GTCRN(Masked):
    """A denoiser that maps speech `[B, 1, T]` at 16 kHz to the same.

    `channels` is C; `size` is twice the hop; `low` bins are taken as they are, with `bands` above them.
    """

    dilations = (1, 2, 5)
    to_bands: Tensor
    to_bins: Tensor

    def __init__(
        self,
        channels: int = 16,
        size: int = 512,
        low: int = 65,
        bands: int = 64,
        sample_rate: int = 16000,
        name: str = "gtcrn",
    ):
        super().__init__()
        if (low + bands) % 4 != 1:
            raise ValueError(
                f"{low} bins and {bands} bands: their sum must be 4 n + 1, to be halved twice and restored"
            )
        self.name, self.sample_rate, self.low = name, sample_rate, low
        erb = erb_bands(low, bands, size, sample_rate)
        self.register_buffer("to_bands", erb.mT.contiguous())
        self.register_buffer("to_bins", erb.clone())
        c, freqs = channels, (low + bands + 3) // 4
        self.encoder = nn.ModuleList(
            [_conv(nn.Conv2d, 9, c, 1, nn.PReLU()), _conv(nn.Conv2d, c, c, 2, nn.PReLU())]
            + [GroupedBlock(c, c, dilation, freqs) for dilation in self.dilations]
        )
        self.paths = Sequential(DualPath(c, freqs), DualPath(c, freqs))
        self.decoder = nn.ModuleList(
            [GroupedBlock(c, c, dilation, freqs) for dilation in reversed(self.dilations)]
            + [_conv(nn.ConvTranspose2d, c, c, 2, nn.PReLU()), _conv(nn.ConvTranspose2d, c, 2, 1, nn.Tanh())]
        )

        net: Streaming = self.paths
        for encode, decode in zip(reversed(self.encoder), self.decoder, strict=True):
            net = Sequential(encode, Residual(net), decode)
        self.between(Analysis(size, size // 2), net, Synthesis(size, size // 2))

    def features(self, spectrum: Tensor) -> Tensor:
        """Return three numbers a band, and those of its neighbours, `[B, 9, T, bands]`."""
        x = torch.cat([magnitude(spectrum), spectrum], 1)
        x = torch.cat([x[..., : self.low], x[..., self.low :] @ self.to_bands], 3)
        near = F.pad(x, (1, 1))
        return torch.stack([near[..., :-2], x, near[..., 2:]], 2).flatten(1, 2)

    def estimate(self, mask, spectrum, **controls):
        mask = torch.cat([mask[..., : self.low], mask[..., self.low :] @ self.to_bins], 3)
        return gains.multiply(mask, spectrum)


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and tensors of `GTCRN` from the authors' state dict; KeyError for others."""
    new = {"to_bands": state["erb.erb_fc.weight"].mT, "to_bins": state["erb.ierb_fc.weight"].mT}
    blocks = {"en_convs": "encoder", "de_convs": "decoder"}
    parts = {
        "conv": "0", "bn": "1", "act": "2",  # of a convolution
        "point_conv1": "squeeze.0", "point_bn1": "squeeze.1", "point_act": "squeeze.2",
        "depth_conv": "depthwise", "depth_bn": "expand.0", "depth_act": "expand.1",
        "point_conv2": "expand.2", "point_bn2": "expand.3", "tra.att_gru": "gru", "tra.att_fc": "gate_out",
        "intra_rnn.rnn1": "across.0", "intra_rnn.rnn2": "across.1", "intra_fc": "across_out",
        "intra_ln": "across_norm", "inter_rnn.rnn1": "along.0", "inter_rnn.rnn2": "along.1",
        "inter_fc": "along_out", "inter_ln": "along_norm",
    }  # fmt: skip
    for key, value in state.items():
        words = key.split(".")
        if words[0] == "erb":
            continue
        if words[0].startswith("dpgrnn"):
            home, rest = f"paths.{int(words[0][-1]) - 1}", words[1:]
        else:
            home, rest = f"{blocks[words[1]]}.{words[2]}", words[3:]
        part, kind = parts[".".join(rest[:-1])], rest[-1]
        if kind == "weight" and words[0] == "decoder":
            if part in ("squeeze.0", "expand.2"):  # theirs maps [in, out]
                value = value.transpose(0, 1)
            elif part == "depthwise":
                value = value.flip(2, 3)
        if part == "squeeze.0" and kind == "weight":  # 1x1 over neighbours side by side
            value = value.reshape(value.shape[0], -1, 1, 3)
        elif part == "gate_out" and kind == "weight":
            value = value[:, :, None]
        new[f"{home}.{part}.{kind}"] = value
    size = 512  # the weights do not give it
    low = size // 2 + 1 - new["to_bins"].shape[1]
    channels = state["encoder.en_convs.0.conv.weight"].shape[0]
    return {"channels": channels, "size": size, "low": low, "bands": len(new["to_bins"])}, new
