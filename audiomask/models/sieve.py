"""Denoise by a small causal network that makes a complex mask of the spectrum: Sieve.

Sieve is our own; `nn.bandnet` names the family that it is of. One frame (hop 16 ms, window 32 ms, so the
algorithmic latency is 32 ms; F = 256 bins of 31.25 Hz) is computed as

    spectrum X [2, 256] -> g X, at a level that does not depend on that of the input (`nn.norm.ActiveGain`)
      -> (re, im, magnitude) of g X |g X|^-.7 over this and the last 2 frames               [9, 256]
      -> conv 8 / 4 over frequency                                bands E                [C, 64]
      -> `BandNet` (residual convs, a full-band GRU, blocks over time and across bands)  [2, 256]
      -> mask M, |M| < 2
    estimate = M X

A frame of 1536 samples at 48 kHz has the same 256 bins below 8 kHz as one of 512 at 16 kHz, so the same
weights make a full-band model. The band above, which the network never sees, is scaled by one real gain a
frame: that of the mask over the topmost part of the band that it sees, weighted by energy, and lifted where
it is high, since a network that hedges by 1 dB there would dull clean speech.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, power, window
from audiomask.masks import gains
from audiomask.nn.bandnet import BandNet, norm_relu
from audiomask.nn.masked import Masked
from audiomask.nn.norm import ActiveGain
from audiomask.streaming import Context, Gate, Port

BINS = 256  # bins that the network sees
LEVEL = 3.6  # RMS of the frames that the network hears where something sounds: of white noise at -26.8 dBFS
LEVEL_FRAMES = 250.0  # time constant of the running level: 4 s


class MaskNet(BandNet):
    """A network that makes a complex mask, `[B, 2, T, 256]` -> the same, frame by frame.

    It sees `ahead` frames after the one that the mask is for. The mask lags by as many, and the first `ahead`
    masks are of frames before the signal, which leave the recurrent units alone. `net` is `BandNet`'s.
    """

    hidden = 0.0  # fraction of the bins that the network does not see, in training

    def __init__(self, ahead: int = 0, **net: int):
        super().__init__(3 * (3 + ahead), BINS, 1, **net)
        self.level = ActiveGain(LEVEL_FRAMES, LEVEL)
        self.features = Context(2, ahead, (3, BINS))
        self.compose(self.features)
        self.early = Gate()  # marks the frames before the signal
        self.early.align(ahead)
        self.encode_norm = nn.BatchNorm2d(self.channels)

    def initial_state(self, batch: int, device=None, dtype=torch.float32) -> dict[str, Any]:
        features = self.features.initial_state(batch, device, dtype)
        level = self.level.initial_state(batch, device, dtype)
        state = {"level": level, "features": features} | super().initial_state(batch, device, dtype)
        return state | self.early.gate_state(batch, device)

    def step(self, spectrum: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:  # type: ignore[override]
        heard = power(spectrum)
        gain, level = self.level.step(heard, state["level"])
        # Compression: features z = g X |g X|^(p - 1) with p = .3, and |z| = |g X|^p.
        p = gain.square() * heard + 1e-6
        magnitude = p**0.15
        z = torch.cat([spectrum * (gain * magnitude / p.sqrt()), magnitude], 1)
        if self.training and self.hidden:
            z = z * (torch.rand_like(z[:, :1]) >= self.hidden)
        z, features = self.features.step(z, state["features"])  # [B, 3, 2 + T, 256]
        x = norm_relu(self.encode_norm, self._encode(z))  # [B, C, T, 64]
        frames = x.shape[2]
        x = x.permute(2, 0, 1, 3).flatten(0, 1)
        early = self.early.before(spectrum, state)
        mask, new = self.masks(x, state, frames, None if early is None else early.T[:, :, None].to(x.dtype))
        return mask, {"level": level, "features": features} | new | self.early.advance(spectrum, state)

    def _encode(self, z: Tensor) -> Tensor:
        """Apply the first convolution to neighbours, `[B, 3, 2 + T, 256]` -> `[B, C, T, 64]`."""
        w = self.encode.weight.unflatten(1, (-1, 3)).transpose(1, 2)  # [C, 3, frames, 8]
        return F.conv2d(z, w, None, (1, self.encode.stride[0]), (0, 2))


class Sieve(Masked):
    """A denoiser that maps samples `[B, 1, T]` to the same.

    The control `strength` 0..1 mixes the estimate with the input, `atten_lim` (dB) limits the attenuation.
    Both act on the mask: w = strength (1 - 10^(-atten_lim / 20)), M' = 1 - w + w M. The limit is strict while
    the real part of M is not negative; a mask that turns the phase around can go below it.

    `sample_rate` is 16000, or 48000 (thrice the bins; the band above 8 kHz follows); `net` is `MaskNet`'s.
    """

    inputs = (
        Port("audio"),
        Port("strength", "control", default=1.0, minimum=0.0, maximum=1.0, doc="0 leaves the input as it is"),
        Port(
            "atten_lim",
            "control",
            default=100.0,
            minimum=0.0,
            maximum=100.0,
            unit="dB",
            doc="most attenuation",
        ),
    )
    followed = 224  # the band above 8 kHz follows the mask from this bin (7 kHz) up

    def __init__(self, sample_rate: int = 16000, name: str = "sieve", **net: int):
        super().__init__()
        if sample_rate not in (16000, 48000):
            raise ValueError(
                f"Sieve at {sample_rate} Hz: its bins need 16000 or 48000; resample at the session"
            )
        self.name, self.sample_rate, hop = name, sample_rate, sample_rate * 16 // 1000
        # A sine of amplitude a has |X| = 50 a at both rates: large enough that the floor under the
        # compression is not so small a constant that graph optimisers take it for 0 (they do at 1e-10).
        w = window("sqrt_hann", 2 * hop)
        w *= 100 / w.sum()
        self.net = MaskNet(**net)
        self.between(Analysis(2 * hop, hop, w), self.net, Synthesis(2 * hop, hop, w))

    def hide(self, inputs: float, attention: float) -> None:
        """Hide fractions of the bins from the network, and of the bands from attention.

        This is masked training: only in training mode, and the mask still acts on all bins.
        """
        self.net.hidden = inputs
        for block in self.net.blocks:
            block.hidden = attention  # type: ignore[assignment]

    def features(self, spectrum: Tensor) -> Tensor:
        return spectrum[..., :BINS]

    def grow_from(self, small: Sieve) -> None:
        """Take over a smaller model's weights; the output is its output, later by the frames ahead."""
        self.net.grow_from(small.net)

    def estimate(self, mask, spectrum, strength=None, atten_lim=None, **controls):
        mask = self._extend(mask, spectrum[..., :BINS], spectrum.shape[3] - BINS)
        w = self.control("strength", strength, spectrum)
        w = w * (1 - (10 ** (-1 / 20)) ** self.control("atten_lim", atten_lim, spectrum))
        return gains.multiply(mask, spectrum, w.reshape(-1, 1, 1, 1))

    def _extend(self, mask: Tensor, seen: Tensor, more: int) -> Tensor:
        """Return the mask with `more` bins: the last one again, or the gain that follows."""
        if more == 1:
            return torch.cat([mask, mask[..., -1:]], 3)
        energy = power(seen[..., self.followed :])
        passed = (power(mask[..., self.followed :]) * energy).sum(3, keepdim=True)
        gain = ((passed + 1e-6) / (energy.sum(3, keepdim=True) + 1e-6)).sqrt()
        gain = (gain * (1 + 0.6 * gain)).clamp(max=1.0)  # 1 from -3 dB up
        above = gain.expand(-1, -1, -1, more)
        return torch.cat([mask, torch.cat([above, torch.zeros_like(above)], 1)], 3)
