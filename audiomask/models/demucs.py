"""Denoise by a U-Net on the waveform at four times its rate: Demucs (see `nn.unet`).

Defossez, Synnaeve and Adi, "Real Time Speech Enhancement in the Waveform Domain" (Interspeech 2020):

    x / (.001 + level) -> upsample x4 -> encoder 1..depth -> LSTM -> decoder depth..1 -> downsample x4
      -> y level

Sizes are the published ones: 18,867,937 parameters at hidden 48, 33,533,569 at 64, 60,813,953 of the
non-causal one; parameters bear the authors' names, so their state dicts load unchanged. `Demucs.whole` runs
over a file as the authors do. Differences:

- The authors divide a file by its standard deviation, and a stream by a cumulative one. Here both are divided
  by the level of the last `memory` seconds or so, which is known while sound is running. A given `level` (the
  authors': the standard deviation of the file) is used instead, and gives their numbers.
- The authors' streamer resamples approximately, looking 64 samples ahead; here filters see all 112 taps.
- The end of a signal is where zeros begin, not where the last window fits: the last 341 samples can differ
  from the authors' file mode unless the file ends in as many zeros.
- The non-causal network, whose LSTM reads both ways, runs in constant memory, 1.56 `segment` behind its
  input: over windows of twice `segment` seconds that overlap by half. The authors run it over the whole file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.resample import Resample
from audiomask.nn.recurrent import LSTM, PlainLSTM
from audiomask.nn.unet import Levelled, scale_weights, valid_length, waveform_unet, whole_unet
from audiomask.nn.windowed import Windowed
from audiomask.streaming import Sequential


def half_band(zeros: int = 56) -> Tensor:
    """Return the half-band filter `[4 zeros - 1]` of a rate change by 2, a Hann-windowed sinc."""
    n = torch.arange(1 - 2 * zeros, 2 * zeros, dtype=torch.float64)
    return 0.5 * torch.sinc(n / 2) * (0.5 + 0.5 * torch.cos(torch.pi * n / (2 * zeros)))


AUTHORS_CLASS, AUTHORS_LICENCE = "Demucs", "CC-BY-NC-4.0 (the authors' weights: not for commercial use)"


class Demucs(Levelled):
    """A denoiser that maps speech `[B, 1, T]` at 16 kHz to the same.

    The control `level` is the RMS of the signal, where it is known; 0 takes the running level, which
    remembers `memory` seconds. `hidden` channels of the first layer double in each. `resample` is the rate
    inside over the rate outside: 1, 2 or 4. The LSTM of a network that is not `causal` reads both ways
    (published with hidden 64, stride 2, resample 2), with `segment` seconds between its windows.
    """

    def __init__(
        self,
        hidden: int = 48,
        depth: int = 5,
        kernel_size: int = 8,
        stride: int = 4,
        resample: int = 4,
        causal: bool = True,
        segment: float = 2.0,
        memory: float = 10.0,
        sample_rate: int = 16000,
        name: str = "demucs",
    ):
        super().__init__()
        if resample not in (1, 2, 4):
            raise ValueError(f"resample by {resample}: only 1, 2 and 4 are made of stages of 2")
        self.name, self.sample_rate = name, sample_rate
        self.depth, self.kernel_size, self.stride, self.resample = depth, kernel_size, stride, resample
        widths = [hidden * 2**i for i in range(depth)]
        self.lstm: nn.Module = (
            Sequential({"lstm": LSTM(widths[-1], widths[-1], 2)}) if causal else BothWays(widths[-1])
        )
        self.encoder, self.decoder, inner = waveform_unet(widths, kernel_size, stride, self.lstm)
        scale_weights(inner)
        stages = {1: 0, 2: 1, 4: 2}[resample]
        self.up = nn.ModuleList(Resample(1, 2, taps=half_band()) for _ in range(stages))
        self.down = nn.ModuleList(Resample(2, 1, taps=half_band()) for _ in range(stages))
        if causal:
            self._wrap(Sequential(*self.up, inner, *self.down), memory)
        else:
            hop = 32 * round(segment * sample_rate / 32)
            self._wrap(Windowed(self.whole, hop, hop // 16), memory)

    def whole(self, x: Tensor) -> Tensor:
        """Run the network as its authors do over a whole `[B, 1, T]`, already divided by its level."""
        frames = x.shape[2]
        room = valid_length(frames, self.depth, self.kernel_size, self.stride, self.resample)
        x = F.pad(x, (0, room - frames))
        for block in self.up:
            x = block(x)
        x = whole_unet(self.encoder, self.lstm, self.decoder, x)
        for block in self.down:
            x = block(x)
        return x[:, :, :frames]


class BothWays(nn.Module):
    """A bidirectional LSTM of two layers that a linear layer maps back to `[B, C, T]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lstm = PlainLSTM(channels, channels, 2, bidirectional=True)
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x.permute(2, 0, 1))
        return self.linear(y).permute(1, 2, 0)


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `Demucs` from the authors' state dict.

    It does not give stride and resampling: causal networks get the published 4 and 4, others 2 and 2.
    """
    hidden, _, kernel_size = state["encoder.0.0.weight"].shape
    causal = "lstm.linear.weight" not in state
    depth = len([key for key in state if key.startswith("encoder.") and key.endswith(".0.weight")])
    step = 4 if causal else 2
    arguments = {"hidden": hidden, "depth": depth, "kernel_size": kernel_size, "causal": causal}
    return arguments | {"stride": step, "resample": step}, dict(state)
