"""Conceal packet losses by a small network that mends repetitions of the last period: Darn.

Darn is our own; its parts are published elsewhere. A gap is first filled by periodic extension
(`nn.extension`, after ITU-T G.711 Appendix I), from behind, and from the front where the packet after it is
there. The network of `nn.bandnet` then estimates complex masks for both, frame by frame:

    x, lost -> filled from behind f (hop 10 ms) --window 20 ms--> F_t-1, F_t, F_t+1   [2, 160] each
            -> frame t filled from hop t + 1 b  --window 20 ms--> B_t                 [2, 160]
    F, B as X |X|^-.7 with magnitudes; fractions of lost samples, length of the loss  [17, 160]
      -> conv 8 / 4 over frequency -> `BandNet` -> masks M_F, M_B, |M| < 2 each
    Y = M_F F + M_B B, which fades to comfort noise as the loss goes on
    out = x where it was received;  overlap-add of Y where it was lost, cross-faded over 4 ms of received
          samples on both sides

The output waits 20 ms, and 10 for the hop: 20 ms beyond the end of a packet of 10 or 20 ms. With nothing lost
it is the input, bit for bit. Bins above 8 kHz at 48 kHz, which the network never sees, are F's, scaled by the
gain of the mask at the top of the bins that it sees.

Comfort noise has the spectrum of the weakest received sound (minimum statistics in the manner of Martin 2001:
smoothed magnitudes, their minimum, which rises by 3 dB a second), and phases from a fixed table, so that
every run of a session gives the same noise.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, power, window
from audiomask.masks import gains
from audiomask.nn.bandnet import BandNet
from audiomask.nn.extension import Extension
from audiomask.streaming import Context, Delay, Port, State, Steps, StreamingModel, recur, whole

BINS = 160  # that the network sees: up to 8 kHz
TABLE = 97  # frames of the noise table; prime, so that it does not repeat with any rhythm


class MendNet(BandNet):
    """A network that makes two complex masks of features, `[B, 17, T, 160]` -> `[B, 4, T, 160]`."""

    def __init__(self, bands: int = 24, **net: int):
        super().__init__(17, BINS, 2, bands=bands, **net)
        self.encode_norm = nn.BatchNorm1d(self.channels)

    def step(  # type: ignore[override]
        self, features: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = features.permute(2, 0, 1, 3).flatten(0, 1)  # time first from here on
        return self.masks(F.relu(self.encode_norm(self.encode(x))), state, features.shape[2])


class Darn(StreamingModel):
    """A concealer that maps samples `[B, 1, T]` to the same.

    Its input `lost [B, 1, T]` is above .5 where a sample is lost, whose value is ignored; None if none is. A
    `blind` one has no such input: quarters of a hop (2.5 ms) without a sample above half a step of 16 bits
    count as lost. So does digital silence, which becomes comfort noise. `sample_rate` is 16000, or 48000 (the
    same bins; the band above 8 kHz follows); `net` is `nn.bandnet.BandNet`'s.
    """

    task = "conceal"
    outputs = (Port("concealed"),)
    followed = 140  # the band above 8 kHz follows the mask from this bin (7 kHz) up
    fade_ms = (50, 120)  # of the loss's length: from speech to comfort noise
    floor = 1e-6  # of |X|^2, under the compression
    # From the least of the smoothed magnitudes of white noise to its level: their ratio, 1.56 in time, times
    # the square root of 2, since frames of unrelated phases overlap and add to half of their power.
    bias = 2.2

    noise: Tensor

    def __init__(self, sample_rate: int = 16000, name: str = "darn", blind: bool = False, **net: int):
        super().__init__()
        if sample_rate not in (16000, 48000):
            raise ValueError(
                f"Darn at {sample_rate} Hz: its bins need 16000 or 48000; resample at the session"
            )
        self.name, self.sample_rate = name, sample_rate
        self.inputs = (Port("audio"),)
        if not blind:
            self.inputs += (Port("lost", "stream", type="lost", doc="1 where a sample is lost"),)
        hop = sample_rate // 100
        self.extension = Extension(sample_rate, hop)
        w = window("sqrt_hann", 2 * hop)
        w *= 100 / w.sum()  # a sine of amplitude a has |X| = 50 a at both rates, as in Sieve
        self.analysis = Analysis(2 * hop, hop, w)
        self.spectra = Context(1, 1, (2, hop + 1))  # F_t-1, F_t, F_t+1
        self.net = MendNet(**net)
        self.synthesis = Synthesis(2 * hop, hop, w)
        self.compose(self.extension, self.analysis, self.spectra, self.net, self.synthesis)
        self.synthesis.align(0)  # before the signal its spectra are zero: nothing to gate
        self.hops = Context(1, 1, (2, hop))  # received and lost samples
        self.runs = Context(1, 1, 1, torch.int64)
        self.period = Context(1, 0, 1, torch.int64, self.extension.least)
        self.wait = Delay(whole(self.delay), 2)
        self.fade = sample_rate // 250  # samples of a cross-fade
        self.edges = Context(whole(self.delay) + self.fade, 0, 1)
        phase = 2 * math.pi * torch.rand(TABLE, hop + 1, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", torch.stack([phase.cos(), phase.sin()]), persistent=False)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return {
            **super().initial_state(batch, device, dtype),
            # smoothed magnitudes, and their running minimum
            "heard": torch.zeros(batch, 2, self.hop + 1, device=device, dtype=dtype),
            "frame": torch.zeros(batch, dtype=torch.int64, device=device),
        }

    def step(self, x, state, lost=None, **controls):
        step = Steps(self, state)
        lost = self._silent(x) if lost is None else lost > 0.5
        x = torch.where(lost, 0.0, x)
        flags = lost.to(x.dtype)
        both = torch.cat([x, flags], 1)
        filled, period, run = step("extension", x, lost)
        spectra = step("spectra", step("analysis", filled))
        forward = spectra[:, :, 1:-1]
        hops = step("hops", both.unflatten(2, (-1, self.hop)))
        backward, reach, share = self._backward(hops, step("period", period[:, None])[:, 0, :-1, None])
        runs = step("runs", run[:, None])
        length = torch.maximum(runs[:, :, :-2], runs[:, :, 1:-1]).to(x.dtype)  # [B, 1, T], in frame t
        masks = step("net", self._features(spectra, backward, share, reach, length))
        y = self._masked(masks, forward, backward)
        y = self._comfort(y, forward, share, length, state, step.states)
        y = step("synthesis", y)
        x, lost = step("wait", both).split(1, 1)
        weight = torch.where(lost > 0.5, 1.0, self._weight(step("edges", flags), x.shape[2]))
        return torch.where(weight > 0, weight * y + (1 - weight) * x, x), step.states

    def _silent(self, x: Tensor) -> Tensor:
        """Return which samples count as lost where no input says it."""
        if len(self.inputs) > 1:
            return torch.zeros_like(x, dtype=torch.bool)
        quarters = x.abs().unflatten(2, (-1, self.hop // 4))
        return (quarters.amax(3, keepdim=True) < 2**-16).expand_as(quarters).reshape(x.shape)

    def _backward(self, hops: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return frame t as predicted from the sound after it.

        It holds the sound received after the last loss in hops t - 1, t, t + 1, and its periodic extension
        before. `hops [B, 2, T + 2, hop]` are received and lost samples, `t [B, T, 1]` periods. The result is
        its spectrum `[B, 2, T, bins]`, its known fraction `[B, T]` and the hops' lost fractions `[B, 3, T]`.
        """
        n = 3 * self.hop
        frames = torch.cat([hops[:, :, :-2], hops[:, :, 1:-1], hops[:, :, 2:]], 3)  # [B, 2, T, 3 hop]
        x, lost = frames.unbind(1)
        i = torch.arange(n, device=x.device)
        s = (lost * (i + 1)).amax(2, keepdim=True).long()  # the first sample after the last loss
        periods = torch.div((s - i + t - 1).clamp_min(0), t, rounding_mode="trunc")
        at = (i + periods * t)[..., : 2 * self.hop]
        known = at < n
        b = x.gather(2, at.clamp_max(n - 1)) * known
        spectrum = self.analysis.dft(b * self.analysis.window)
        return spectrum, known.to(x.dtype).mean(2), lost.unflatten(2, (3, -1)).mean(3).transpose(1, 2)

    def _features(self, spectra, backward, share, reach, length) -> Tensor:
        def compressed(z: Tensor) -> Tensor:
            p = power(z) + self.floor
            return torch.cat([z * p**-0.35, p**0.15], 1)

        z = compressed(spectra[..., :BINS])
        parts = [z[:, :, :-2], z[:, :, 1:-1], z[:, :, 2:], compressed(backward[..., :BINS])]
        age = (length / (self.sample_rate * 0.1)).clamp_max(2.0)
        known = torch.cat([share, reach[:, None], age], 1)[..., None]  # [B, 5, T, 1]
        return torch.cat([*parts, known.expand(-1, -1, -1, BINS)], 1)

    def _masked(self, masks: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        """Return Y `[B, 2, T, bins]` of masks `[B, 4, T, 160]`."""
        f, b = forward[..., :BINS], backward[..., :BINS]
        y = gains.multiply(masks[:, :2], f) + gains.multiply(masks[:, 2:], b)
        more = forward.shape[3] - BINS
        if more == 1:
            return torch.cat([y, forward[..., BINS:]], 3)
        top = slice(self.followed, None)
        gain = (power(y[..., top]).sum(3, keepdim=True) + self.floor) / (
            power(f[..., top]).sum(3, keepdim=True) + self.floor
        )
        return torch.cat([y, forward[..., BINS:] * gain.sqrt().clamp(max=1.0)], 3)

    def _comfort(self, y, forward, share, length, state, new) -> Tensor:
        """Return y, which fades to comfort noise as the loss grows."""
        there = (share[:, 0] + share[:, 1] == 0)[..., None]  # [B, T, 1]: the frame is whole
        magnitude = power(forward)[:, 0].sqrt()
        rise = 10 ** (3 / 20 * self.hop / self.sample_rate)

        def listen(carry, frame):
            (smooth, least), (now, whole) = carry, frame
            heard = torch.where(whole, now + 0.8 * torch.where(smooth > 0, smooth - now, 0.0), smooth)
            low = torch.where(least > 0, torch.minimum(least * rise, heard), heard)
            least = torch.where(whole, low, least)
            return (heard, least), (least,)

        frames = (magnitude.transpose(0, 1), there.transpose(0, 1))
        heard, (floor,) = recur(listen, (state["heard"][:, 0], state["heard"][:, 1]), frames)
        new["heard"] = torch.stack(heard, 1)
        count = y.shape[2]
        frame = state["frame"][:, None] + torch.arange(count, device=y.device)
        new["frame"] = (state["frame"] + count) % TABLE
        noise = self.noise[:, frame % TABLE].transpose(0, 1)  # [B, 2, T, bins]
        first, last = (ms * self.sample_rate / 1000 for ms in self.fade_ms)
        w = ((length - first) / (last - first)).clamp(0, 1)[..., None]
        return (1 - w) * y + w * noise * self.bias * floor.transpose(0, 1)[:, None]

    def _weight(self, edges: Tensor, count: int) -> Tensor:
        """Return the weight of the concealed signal, `[B, 1, T]`: 1 in losses, ramps beside them."""
        n = self.fade
        wide = _box(edges[:, :, : count + 2 * n], n + 1) > 0
        return _box(wide.to(edges.dtype), n + 1) / (n + 1)


def _box(x: Tensor, n: int) -> Tensor:
    """Sum `n` neighbours, `[B, 1, T]` -> `[B, 1, T - n + 1]`; exact for 0 and 1."""
    total = F.pad(x, (1, 0)).cumsum(2)
    return total[:, :, n:] - total[:, :, :-n]
