"""Sieve: our small causal denoiser. A complex mask from a network whose weights are shared across frequency.

Nothing here is published elsewhere as it stands; `nn.bandnet` names the family.

One frame (hop 16 ms, window 32 ms, so the algorithmic latency is 32 ms; F = 256 bins of 31.25 Hz)::

    spectrum X [2, 256] -> (re, im, magnitude) of X |X|^-.7 over this and the last 2 frames   [9, 256]
      -> conv 8 / 4 over frequency                                bands E                [C, 64]
      -> `BandNet` (residual convs, a full-band GRU, blocks over time and across bands)  [2, 256]
      -> mask M, |M| < 2
    estimate = M X

A frame of 1536 samples at 48 kHz has the same 256 bins below 8 kHz as one of 512 at 16 kHz, so the same
weights make a full-band model. The band above, which the network never sees, is scaled by one real gain a
frame: that of the mask over the topmost part of what it does see, weighted by energy, and lifted where it is
high, since a network that hedges by 1 dB there would dull clean speech.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, power, window
from audiomask.nn.bandnet import BandNet, norm_relu
from audiomask.streaming import Delay, Port, State, StreamingModel

BINS = 256  # bins that the network sees


class MaskNet(BandNet):
    """Spectrum in, complex mask out, frame by frame.

    Args:
        ahead: frames after the one that the mask is for; the mask lags by as many, and the first `ahead`
            masks are of frames before the signal, which leave the recurrent units alone.
        The others are `BandNet`'s.

    Shape: `spectrum [B, 2, T, 256]` -> mask `[B, 2, T, 256]`.
    """

    hidden = 0.0  # share of bins that the network does not see, in training

    def __init__(
        self,
        channels: int = 32,
        bands: int = 32,
        blocks: int = 3,
        heads: int = 4,
        convs: int = 1,
        full: int = 128,
        squeeze: int = 64,
        ahead: int = 0,
    ):
        frames = 3 + ahead
        super().__init__(3 * frames, BINS, 1, channels, bands, blocks, heads, convs, full, squeeze)
        self.frames, self.ahead = frames, ahead  # that the first convolution sees, side by side
        self.encode_norm = nn.BatchNorm2d(channels)

    def initial_state(self, batch: int, device=None, dtype=torch.float32) -> dict[str, Tensor]:
        features = torch.zeros(batch, 3, self.frames - 1, BINS, device=device, dtype=dtype)
        state = {"features": features} | super().initial_state(batch, device, dtype)
        return state | ({"seen": torch.zeros(batch, dtype=torch.int64, device=device)} if self.ahead else {})

    def step(self, spectrum: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        # Compression: features z = X |X|^(p - 1) with p = .3, and |z| = |X|^p.
        p = power(spectrum) + 1e-6
        z = torch.cat([spectrum * p**-0.35, p**0.15], 1)
        if self.training and self.hidden:
            z = z * (torch.rand_like(z[:, :1]) >= self.hidden)
        z = torch.cat([state["features"], z], 2)  # [B, 3, 2 + T, 256]
        x = norm_relu(self.encode_norm, self._encode(z))  # [B, C, T, 64]
        frames = x.shape[2]
        x = x.permute(2, 0, 1, 3).flatten(0, 1)
        skip = None
        if self.ahead:
            index = state["seen"][:, None] + torch.arange(frames, device=x.device)
            skip = (index < self.ahead).T[:, :, None].to(x.dtype)
        mask, new = self.masks(x, state, frames, skip)
        if self.ahead:
            new["seen"] = state["seen"] + frames
        return mask, {"features": z[:, :, 1 - self.frames :]} | new

    def _encode(self, z: Tensor) -> Tensor:
        """The first convolution: `[B, 3, 2 + T, 256]` -> `[B, C, T, 64]`. Its weights are of frames side by
        side."""
        w = self.encode.weight.unflatten(1, (self.frames, 3)).transpose(1, 2)  # [C, 3, frames, 8]
        return F.conv2d(z, w, None, (1, self.encode.stride[0]), (0, 2))


class Sieve(StreamingModel):
    """The denoiser: samples in, samples out, `[B, 1, T]`.

    Args:
        sample_rate: 16000, or 48000 (three times the bins; the band above 8 kHz follows).
        The others are `MaskNet`'s and `nn.bandnet.BandNet`'s.

    Constants: `strength` 0..1 mixes the estimate with the input, `atten_lim` (dB) limits the attenuation.
    Both act on the mask: w = strength (1 - 10^(-atten_lim / 20)), M' = 1 - w + w M. The limit is strict while
    the real part of M is not negative; a mask that turns the phase around can go below it.
    """

    task = "enhance"
    inputs = (
        Port("audio"),
        Port(
            "strength", "constant", default=1.0, minimum=0.0, maximum=1.0, doc="0 leaves the input as it is"
        ),
        Port(
            "atten_lim",
            "constant",
            default=100.0,
            minimum=0.0,
            maximum=100.0,
            unit="dB",
            doc="most attenuation",
        ),
    )
    outputs = (Port("enhanced"),)
    followed = 224  # the band above 8 kHz follows the mask from this bin (7 kHz) up

    def __init__(self, sample_rate: int = 16000, name: str = "sieve", **net: int):
        super().__init__()
        if sample_rate not in (16000, 48000):
            raise ValueError(
                f"Sieve at {sample_rate} Hz: its bins need 16000 or 48000; resample at the session"
            )
        self.name, self.sample_rate, self.hop = name, sample_rate, sample_rate * 16 // 1000
        # A sine of amplitude a has |X| = 50 a at both rates: large enough that the floor under the
        # compression is not so small a constant that graph optimisers take it for 0 (they do at 1e-10).
        w = window("sqrt_hann", 2 * self.hop)
        w *= 100 / w.sum()
        self.analysis = Analysis(2 * self.hop, self.hop, w)
        self.net = MaskNet(**net)
        self.synthesis = Synthesis(2 * self.hop, self.hop, w)
        self.wait = Delay(self.net.frames - 3, (2, self.hop + 1))
        self.delay = self.hop * (1 + self.wait.delay)

    def hide(self, inputs: float, attention: float) -> None:
        """Masked training: hide a share of the bins from the network, whose mask still acts on all of them,
        and of the bands from each other in attention. Only in training mode.
        """
        self.net.hidden = inputs
        for block in self.net.blocks:
            block.hidden = attention  # type: ignore[assignment]

    def grow_from(self, small: Sieve) -> None:
        """Take over the weights of a smaller model; the output is its output, later by the frames ahead."""
        self.net.grow_from(small.net)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return {
            "analysis": self.analysis.initial_state(batch, device, dtype),
            "net": self.net.initial_state(batch, device, dtype),
            "synthesis": self.synthesis.initial_state(batch, device, dtype),
            "wait": self.wait.initial_state(batch, device, dtype),
        }

    def step(self, x, state, strength=None, atten_lim=None, **constants):
        spectrum, analysis = self.analysis.step(x, state["analysis"])
        mask, net = self.net.step(spectrum[..., :BINS], state["net"])
        spectrum, wait = self.wait.step(spectrum, state["wait"])
        seen = spectrum[..., :BINS]
        mask = self._extend(mask, seen, spectrum.shape[3] - BINS)
        w = self.constant("strength", strength, x)
        w = w * (1 - (10 ** (-1 / 20)) ** self.constant("atten_lim", atten_lim, x))
        w = w.reshape(-1, 1, 1, 1)
        re, im = (mask * w).split(1, 1)
        a, b = spectrum.split(1, 1)
        estimate = spectrum * (re + (1 - w)) + torch.cat([-b, a], 1) * im
        y, synthesis = self.synthesis.step(estimate, state["synthesis"])
        return y, {"analysis": analysis, "net": net, "synthesis": synthesis, "wait": wait}

    def _extend(self, mask: Tensor, seen: Tensor, more: int) -> Tensor:
        """The mask `[B, 2, T, 256]` with `more` bins: its last bin again, or the gain that follows."""
        if more == 1:
            return torch.cat([mask, mask[..., -1:]], 3)
        energy = power(seen[..., self.followed :])
        passed = (power(mask[..., self.followed :]) * energy).sum(3, keepdim=True)
        gain = ((passed + 1e-6) / (energy.sum(3, keepdim=True) + 1e-6)).sqrt()
        gain = (gain * (1 + 0.6 * gain)).clamp(max=1.0)  # 1 from -3 dB up
        above = gain.expand(-1, -1, -1, more)
        return torch.cat([mask, torch.cat([above, torch.zeros_like(above)], 1)], 3)
