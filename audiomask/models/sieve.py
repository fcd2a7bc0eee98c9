"""Sieve: our small causal denoiser. A complex mask from a network whose weights are shared across frequency.

Nothing here is published elsewhere as it stands; the family is that of FastEnhancer (recurrent units shared
by all bands, attention across bands inside a frame; arXiv 2509.21867) with a narrow full-band recurrence
added, which tells all bands what the others went through.

One frame (hop 16 ms, window 32 ms, so the algorithmic latency is 32 ms; F = 256 bins of 31.25 Hz)::

    spectrum X [2, 256] -> (re, im, magnitude) of X |X|^-.7 over this and the last 2 frames   [9, 256]
      -> conv 8 / 4 over frequency -> residual convs 3           bands E                [C, 64]
      -> learned projection of 64 bands to `bands`, + embedding of the band             [bands, C]
      -> + full-band branch: linear, GRU, linear
      -> blocks: (GRU over time, shared by the bands) + (attention across the bands)
      -> projection back to 64 bands, + E -> residual convs -> 4 bins a band            [2, 256]
      -> mask M, |M| < 2:   M = z / sqrt(1 + |z|^2 / 4)
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
from audiomask.nn.attention import attend_all
from audiomask.nn.recurrent import GRU
from audiomask.streaming import Delay, Port, State, StreamingModel

BINS = 256  # bins that the network sees
CODED = 64  # bands after the strided convolution


class Block(nn.Module):
    """A GRU over time, shared by the bands, then attention across the bands of each frame; both residual.

    Shape: rows `x [T B bands, C]`, state `h [B, bands C]` -> the same. Rows make each linear
    layer one product.
    """

    hidden = 0.0  # share of places that attention does not see, in training

    def __init__(self, channels: int, bands: int, heads: int):
        super().__init__()
        self.bands, self.heads = bands, heads
        self.gru = GRU(channels, channels)
        self.mix = nn.Linear(channels, channels, bias=False)
        self.mix_norm = nn.BatchNorm1d(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels, bias=False)
        self.out_norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, h: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        c = x.shape[1]
        y, (end,) = self.gru.layer(x.reshape(frames, -1, c), [h.reshape(1, -1, c)])
        x = x + self.mix_norm(self.mix(y.reshape(-1, c)))
        hidden = self.hidden if self.training else 0.0
        y = attend_all(self.qkv(x).reshape(-1, self.bands, 3 * c), self.heads, hidden)
        return x + self.out_norm(self.out(y.reshape(-1, c))), end.reshape(h.shape)


class Residual(nn.Module):
    """`x + relu(norm(conv3(x)))` over frequency; `[N, C, F]`."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.norm(self.conv(x)))


class MaskNet(nn.Module):
    """Spectrum in, complex mask out, frame by frame.

    Args:
        channels: C. bands: bands that the recurrent blocks work on. blocks, heads: of those. convs: residual
            convolutions on each side. full: units of the full-band GRU (0: no such branch). squeeze: its
            input width. ahead: frames after the one that the mask is for; the mask lags by as many.

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
        super().__init__()
        self.channels, self.bands, self.full = channels, bands, full
        self.frames = 3 + ahead  # that the first convolution sees
        self.encode = nn.Conv1d(3 * self.frames, channels, 8, 4, 2, bias=False)  # of frames side by side
        self.encode_norm = nn.BatchNorm2d(channels)
        self.encoder = nn.ModuleList(Residual(channels) for _ in range(convs))
        self.gather = nn.Linear(CODED, bands, bias=False)
        self.embedding = nn.Parameter(torch.randn(bands, channels) * 0.1)
        if full:
            self.full_in = nn.Linear(bands * channels, squeeze)
            self.full_gru = GRU(squeeze, full)
            self.full_out = nn.Linear(full, bands * channels)
        self.blocks = nn.ModuleList(Block(channels, bands, heads) for _ in range(blocks))
        self.spread = nn.Linear(bands, CODED, bias=False)
        self.decoder = nn.ModuleList(Residual(channels) for _ in range(convs))
        self.decode = nn.Conv1d(channels, 2 * BINS // CODED, 3, padding=1)
        with torch.no_grad():  # the untrained network passes its input: M close to 1
            self.decode.weight.mul_(0.1)
            assert self.decode.bias is not None
            self.decode.bias[: BINS // CODED] = 1.1547
            self.decode.bias[BINS // CODED :] = 0.0

    def initial_state(self, batch: int, device=None, dtype=torch.float32) -> dict[str, Tensor]:
        new = {"features": torch.zeros(batch, 3, self.frames - 1, BINS, device=device, dtype=dtype)}
        for i in range(len(self.blocks)):
            new[f"block{i}"] = torch.zeros(batch, self.bands * self.channels, device=device, dtype=dtype)
        if self.full:
            new["full"] = torch.zeros(batch, self.full, device=device, dtype=dtype)
        return new

    def step(self, spectrum: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        b, _, t, _ = spectrum.shape
        # Compression: features z = X |X|^(p - 1) with p = .3, and |z| = |X|^p.
        p = power(spectrum) + 1e-6
        z = torch.cat([spectrum * p**-0.35, p**0.15], 1)
        if self.training and self.hidden:
            z = z * (torch.rand_like(z[:, :1]) >= self.hidden)
        z = torch.cat([state["features"], z], 2)  # [B, 3, 2 + T, 256]
        new = {"features": z[:, :, 1 - self.frames :]}
        x = F.relu(self.encode_norm(self._encode(z)))  # [B, C, T, 64]
        x = x.permute(2, 0, 1, 3).reshape(-1, self.channels, CODED)  # time first from here on
        for layer in self.encoder:
            x = layer(x)
        skip = x
        x = self.gather(x).mT + self.embedding  # [T B, bands, C]
        x = x.reshape(-1, self.bands * self.channels)
        if self.full:
            y = F.relu(self.full_in(x)).reshape(t, -1, self.full_in.out_features)
            y, (h,) = self.full_gru.layer(y, [state["full"][None]])
            new["full"] = h.reshape(-1, self.full)
            x = x + self.full_out(y.reshape(-1, self.full))
        x = x.reshape(-1, self.channels)
        for i, block in enumerate(self.blocks):
            x, new[f"block{i}"] = block(x, state[f"block{i}"], t)
        x = self.spread(x.reshape(-1, self.bands, self.channels).mT) + skip  # [T B, C, 64]
        for layer in self.decoder:
            x = layer(x)
        x = self.decode(x).reshape(t, -1, 2, BINS // CODED, CODED)
        z = x.permute(1, 2, 0, 4, 3).reshape(b, 2, t, BINS)
        return z / (1 + power(z) / 4).sqrt(), new

    def _encode(self, z: Tensor) -> Tensor:
        """The first convolution: `[B, 3, 2 + T, 256]` -> `[B, C, T, 64]`. Its weights are of frames side by
        side."""
        w = self.encode.weight.unflatten(1, (self.frames, 3)).transpose(1, 2)  # [C, 3, frames, 8]
        return F.conv2d(z, w, None, (1, self.encode.stride[0]), (0, 2))


class Sieve(StreamingModel):
    """The denoiser: samples in, samples out, `[B, 1, T]`.

    Args:
        sample_rate: 16000, or 48000 (three times the bins; the band above 8 kHz follows).
        The others are `MaskNet`'s.

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
