"""Demucs, the causal denoiser: Defossez, Synnaeve and Adi, "Real Time Speech Enhancement in the Waveform
Domain" (Interspeech 2020).

A U-Net on the waveform at four times its rate::

    x / (.001 + level) -> upsample x4 -> encoder 1..depth -> LSTM -> decoder depth..1 -> downsample x4
      -> y level
      encoder i: conv (kernel 8, stride 4), ReLU, 1x1 conv to twice the channels, GLU
      decoder i: 1x1 conv, GLU, transposed conv (kernel 8, stride 4), ReLU except in the last
      each decoder gets the sum of what its encoder put out and what comes from below

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
from audiomask.nn.conv import Conv1d, ConvTranspose1d
from audiomask.nn.norm import RunningLevel
from audiomask.nn.recurrent import LSTM
from audiomask.streaming import Delay, Port, Residual, Sequential, State, StreamingModel


def half_band(zeros: int = 56) -> Tensor:
    """Prototype `[4 zeros - 1]` of a change of rate by 2: a sinc under a Hann window, 0 at every second
    place but the middle.
    """
    n = torch.arange(1 - 2 * zeros, 2 * zeros, dtype=torch.float64)
    return 0.5 * torch.sinc(n / 2) * (0.5 + 0.5 * torch.cos(torch.pi * n / (2 * zeros)))


class Demucs(StreamingModel):
    """Noisy speech in, clean speech out, `[B, 1, T]` at 16 kHz.

    Args:
        hidden: channels of the first layer; doubled in each. depth: layers. kernel_size, stride: of each.
        resample: rate inside over rate outside: 1, 2 or 4. memory: seconds that the running level remembers.
        sample_rate: Hz. name: of the artifact.

    Constant `level`: the RMS of the signal, where it is known; 0 takes the running level.
    """

    task = "enhance"
    inputs = (
        Port("audio"),
        Port("level", "constant", default=0.0, minimum=0.0, maximum=10.0, doc="0: the running level"),
    )
    outputs = (Port("enhanced"),)

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
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels = 1
        for i in range(depth):
            width = hidden * 2**i
            self.encoder.append(
                Sequential(
                    Conv1d(channels, width, kernel_size, stride, lookahead=kernel_size - 1),
                    nn.ReLU(),
                    nn.Conv1d(width, 2 * width, 1),
                    nn.GLU(1),
                )
            )
            last = [nn.ReLU()] if i else []
            up = ConvTranspose1d(width, channels, kernel_size, stride)
            self.decoder.insert(0, Sequential(nn.Conv1d(width, 2 * width, 1), nn.GLU(1), up, *last))
            channels = width
        self.lstm = Sequential({"lstm": LSTM(channels, channels, 2)})
        self._scale_weights()

        inner = self.lstm
        for encode, decode in zip(reversed(self.encoder), self.decoder, strict=True):
            inner = Sequential(encode, Residual(inner, shape=channels), decode)
            channels //= 2
        stages = {1: 0, 2: 1, 4: 2}[resample]
        ups = [Resample(1, 2, taps=half_band()) for _ in range(stages)]
        downs = [Resample(2, 1, taps=half_band()) for _ in range(stages)]
        net = Sequential(*ups, inner, *downs)
        self.hop, self.delay = net.hop, net.delay
        self.meter = RunningLevel(self.hop, memory * sample_rate / self.hop)
        # In a tuple, since the same modules are registered above under the authors' names.
        self._blocks = (net, Delay(int(net.delay), 1))

    def _scale_weights(self, reference: float = 0.1) -> None:
        """Divide each convolution by sqrt(std / reference), as the authors do."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | Conv1d | ConvTranspose1d):
                scale = (layer.weight.detach().std() / reference).sqrt()
                for p in layer.parameters(recurse=False):
                    p.data /= scale

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        net, wait = self._blocks
        return {
            "level": self.meter.initial_state(batch, device, dtype),
            "net": net.initial_state(batch, device, dtype),
            "wait": wait.initial_state(batch, device, dtype),
        }

    def step(self, x, state, level=None, **constants):
        net, wait = self._blocks
        given = self.constant("level", level, x)[:, None, None]
        running, meter = self.meter.step(x, state["level"])
        scale = torch.where(given > 0, given, running)
        y, inner = net.step(x / (0.001 + scale), state["net"])
        scale, past = wait.step(scale, state["wait"])
        return y * scale, {"level": meter, "net": inner, "wait": past}
