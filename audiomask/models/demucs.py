"""Demucs, the causal denoiser: Defossez, Synnaeve and Adi, "Real Time Speech Enhancement in the Waveform
Domain" (Interspeech 2020).

A U-Net on the waveform at four times its rate (see `nn.unet`)::

    x / (.001 + level) -> upsample x4 -> encoder 1..depth -> LSTM -> decoder depth..1 -> downsample x4
      -> y level

Sizes are the published ones: 18,867,937 parameters at hidden 48, 33,533,569 at 64; parameters bear the
authors' names, so their state dicts load unchanged. Differences:

- The authors divide a file by its standard deviation, and a stream by a cumulative one. Here both are divided
  by the level of the last `memory` seconds or so, which is known while sound is running. A `level` that is
  given (the authors': the standard deviation of the file) is used instead, and gives their numbers.
- The authors' streamer resamples with a look-ahead of 64 samples, and so is approximate. Here the filters
  see all of their 112 taps.
- The end of a signal is where zeros begin, not where the last window fits: the last 341 samples can differ
  from the authors' file mode unless the file ends in as many zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiomask.frontend.resample import Resample
from audiomask.nn.recurrent import LSTM
from audiomask.nn.unet import Levelled, scale_weights, waveform_unet
from audiomask.streaming import Sequential


def half_band(zeros: int = 56) -> Tensor:
    """Prototype `[4 zeros - 1]` of a change of rate by 2: a sinc under a Hann window, 0 at every second
    place but the middle.
    """
    n = torch.arange(1 - 2 * zeros, 2 * zeros, dtype=torch.float64)
    return 0.5 * torch.sinc(n / 2) * (0.5 + 0.5 * torch.cos(torch.pi * n / (2 * zeros)))


class Demucs(Levelled):
    """Noisy speech in, clean speech out, `[B, 1, T]` at 16 kHz.

    Args:
        hidden: channels of the first layer; doubled in each. depth: layers. kernel_size, stride: of each.
        resample: rate inside over rate outside: 1, 2 or 4. memory: seconds that the running level remembers.
        sample_rate: Hz. name: of the artifact.

    Constant `level`: the RMS of the signal, where it is known; 0 takes the running level.
    """

    def __init__(
        self,
        hidden: int = 48,
        depth: int = 5,
        kernel_size: int = 8,
        stride: int = 4,
        resample: int = 4,
        memory: float = 10.0,
        sample_rate: int = 16000,
        name: str = "demucs",
    ):
        super().__init__()
        if resample not in (1, 2, 4):
            raise ValueError(f"resample by {resample}: only 1, 2 and 4 are made of stages of 2")
        self.name, self.sample_rate = name, sample_rate
        widths = [hidden * 2**i for i in range(depth)]
        self.lstm = Sequential({"lstm": LSTM(widths[-1], widths[-1], 2)})
        self.encoder, self.decoder, inner = waveform_unet(widths, kernel_size, stride, self.lstm)
        scale_weights(inner)
        stages = {1: 0, 2: 1, 4: 2}[resample]
        self.up = nn.ModuleList(Resample(1, 2, taps=half_band()) for _ in range(stages))
        self.down = nn.ModuleList(Resample(2, 1, taps=half_band()) for _ in range(stages))
        self._wrap(Sequential(*self.up, inner, *self.down), memory)
