"""Compute Kaldi-compatible log-mel filter-bank features in a streaming block.

Frame n reads samples [n hop, n hop + length): Kaldi with snip-edges, as its other layout, which mirrors the
signal at its ends, cannot stream. Each frame goes through Kaldi's steps in their order: subtract the mean,
pre-emphasise x[i] - 0.97 x[i-1] with x[-1] = x[0], window, power spectrum of the next power of two,
triangles straight over mel, floor, logarithm.

    hop 160, length 400     |  hop 0  |  hop 1  |  hop 2  |  hop 3  |
    frame 0                  .........................
    frame 1                            .........................
                                            frame 0 leaves with hop 2: delay = 2 hops
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from audiomask.frontend.bands import kaldi
from audiomask.frontend.stft import RealDft
from audiomask.streaming import State, Streaming

WINDOWS: dict[str, Callable[[int], np.ndarray]] = {  # symmetric, as in Kaldi
    "povey": lambda length: np.hanning(length) ** 0.85,  # wider than Hann's, and zero at its ends too
    "hann": np.hanning,
    "hamming": np.hamming,
    "rect": np.ones,
}


class Fbank(Streaming):
    """Turns samples `[B, C, T]` into natural log mel energies `[B, C, T / hop, bands]`.

    Full scale is 1.0. `forward` gives ceil(T / hop) frames, of which the first `complete(T)` are Kaldi's; the
    others reach beyond the signal, into zeros.

    Args:
        sample_rate: Rate in Hz.
        bands: Number of mel bands, 23 in Kaldi, 80 in most later systems.
        length_ms, hop_ms: Length of a frame and hop between frames.
        low, high: Band limits in Hz; `high` counts down from half the sample rate if it is 0 or less.
        window: povey, hann, hamming or rect.
        preemphasis: Coefficient; 0 for none.
        remove_dc: Subtract the mean of each frame.
        scale, channels: Factor on the samples (Kaldi reads 16-bit integers, hence 32768); signals C.
    """

    taper: Tensor
    mel: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        bands: int = 80,
        length_ms: float = 25.0,
        hop_ms: float = 10.0,
        low: float = 20.0,
        high: float = 0.0,
        window: str = "povey",
        preemphasis: float = 0.97,
        remove_dc: bool = True,
        scale: float = 32768.0,
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.length, self.hop = int(sample_rate * length_ms / 1000), int(sample_rate * hop_ms / 1000)
        if not 0 < self.hop <= self.length or self.length < 2:
            raise ValueError(
                f"frames of {length_ms} ms every {hop_ms} ms at {sample_rate} Hz: need 0 < hop <= length"
            )
        self.rate = Fraction(1, self.hop)
        self.channels, self.preemphasis, self.remove_dc = channels, preemphasis, remove_dc
        self.fft = 1 << (self.length - 1).bit_length()
        top = sample_rate / 2 + high if high <= 0 else high
        mel = kaldi(sample_rate, self.fft, bands, low, top)
        mel[-1] = 0  # Kaldi leaves out the bin at half the sample rate
        if window not in WINDOWS:
            raise ValueError(f"no window {window!r}; there are {', '.join(WINDOWS)}")
        taper = torch.from_numpy(scale * WINDOWS[window](self.length)).float()
        self.register_buffer("taper", taper, persistent=False)
        self.register_buffer("mel", torch.from_numpy(mel).float(), persistent=False)
        self.dft = RealDft(self.fft)
        self.align(0)

    def align(self, lag: int) -> None:
        self.lag = lag
        # Frame n is complete with sample nH + lag + length - 1 of the input; solve for the output index.
        frames = -(-(lag + self.length) // self.hop) - 1
        self.delay = frames * self.hop - lag

    def complete(self, samples: int) -> int:
        """Return how many frames lie wholly within a signal of so many samples."""
        return max(0, 1 + (samples - self.length) // self.hop)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        # Frames of the reference start at sample 0 or later, so what is before the signal needs no gate.
        return {"past": torch.zeros(batch, self.channels, int(self.delay), device=device, dtype=dtype)}

    def step(self, x, state, **controls):
        batch, _, samples = x.shape
        x = torch.cat([state["past"], x], 2)
        past = x[:, :, samples:]
        pieces = -(self.length // -self.hop)  # hops that a frame touches
        extra = (pieces - 1) * self.hop - int(self.delay)
        x = nn.functional.pad(x, (0, extra))  # negative cuts
        hops = x.reshape(batch * self.channels, -1, self.hop)
        frames = torch.cat([hops[:, i : i - pieces + 1 or None] for i in range(pieces)], 2)
        frames = frames[:, :, : self.length]
        if self.remove_dc:
            frames = frames - frames.mean(2, keepdim=True)
        if self.preemphasis:
            frames = frames - self.preemphasis * torch.cat([frames[:, :, :1], frames[:, :, :-1]], 2)
        frames = nn.functional.pad(frames * self.taper, (0, self.fft - self.length))
        spectrum = self.dft(frames)
        power = spectrum[:, 0].square() + spectrum[:, 1].square()
        # Kaldi's floor is the machine epsilon of float32
        y = (power @ self.mel).clamp_min(torch.finfo(torch.float32).eps).log()
        return y.reshape(batch, self.channels, -1, y.shape[-1]), {"past": past}
