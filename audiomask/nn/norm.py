"""Normalise streams: within a frame, or by a running level.

Where a published model normalises by the statistics of the whole clip, these are the causal substitutes.
`nn.BatchNorm1d` and `nn.BatchNorm2d` stream as they are, and export folds them into the layer before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiomask.streaming import State, Streaming

BLOCK = 512  # frames that are summed at once


class FrameNorm(Streaming):
    """A norm that takes each frame's own mean and variance over channels and frequencies.

    It is the instant layer norm of DTLN (Westhausen and Meyer 2020) and has no memory. Each channel has a
    gain and an offset.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def step(self, x, state, **controls):
        axes = (1,) if x.ndim == 3 else (1, 3)
        x = x - x.mean(axes, keepdim=True)
        x = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + self.eps)
        shape = (-1,) + (1,) * (x.ndim - 2)
        return x * self.weight.view(shape) + self.bias.view(shape), state


def _running_power(power: Tensor, ones: Tensor, past: Tensor, keep: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of weights and of powers `[B, T, 1]` each, and the last of both, `[B, 2]`.

    Each is s_n = keep s_(n-1) + x_n, from s_(-1) = past `[B, 2]`, of `ones` and `power [B, T, 1]`.
    """
    x = torch.cat([ones, power], 2)
    n = torch.arange(x.shape[1], device=x.device)
    age = n[:, None] - n
    weight = torch.where(age >= 0, keep ** age.clamp_min(0).to(x.dtype), 0.0)  # [T, T]
    sums = weight @ x + (keep ** (n + 1).to(x.dtype))[:, None] * past[:, None]
    return *sums.split(1, 2), sums[:, -1]


class RunningNorm(Streaming):
    """A norm that takes the level of the last `frames` frames or so, forgotten exponentially.

    With a = exp(-1 / frames) and |x_i|^2 the mean over channels and frequencies, level_n = sum_{i <= n}
    a^(n - i) |x_i|^2 / sum_{i <= n} a^(n - i): the division makes the first frames count fully.
    """

    def __init__(self, frames: float, eps: float = 1e-8) -> None:
        super().__init__()
        self.keep, self.eps = math.exp(-1 / frames), eps

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        sums = torch.zeros(batch, 2, device=device, dtype=dtype)  # of weights and of powers
        return {"sums": sums, **self.gate_state(batch, device)}

    def step(self, x, state, **controls):
        before = self.before(x, state)
        x, after = self.gate(x, state)
        power = x.square().transpose(1, 2).flatten(2).mean(2, keepdim=True)
        ones = torch.ones_like(power)
        if before is not None:
            ones = torch.where(before[:, :, None], 0.0, ones)
        count, total, after["sums"] = _running_power(power, ones, state["sums"], self.keep)
        scale = torch.rsqrt(total / count.clamp_min(1e-6) + self.eps)  # [B, T, 1]
        return x * (scale.mT if x.ndim == 3 else scale[:, None]), after


class ActiveGain(Streaming):
    """A gain that brings what sounded lately to one level, whatever its own is.

    It maps the powers of spectra `[B, 1, T, F]` to factors `[B, 1, T, 1]` of the spectra: `level` over

        (sum_{i <= n} a^(n - i) r_i / sum_{i <= n} a^(n - i) r_i^(1/2))^2,        a = exp(-1 / frames)

    where r_i^2 is the power of frame i. Each frame counts by the root of its RMS, so that silence does not
    count at all, pauses little, and a click not much more than what is about it. Sound that begins counts at
    once.

    Args:
        frames: Time constant of its memory.
        level: RMS that frames are brought to. In digital silence the factor means nothing, and is finite.
    """

    trust = 3e-4  # weight of a frame that says that the level is right

    def __init__(self, frames: float, level: float) -> None:
        super().__init__()
        self.forget, self.share = 1 / frames, level**-2

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        # the sums of roots and of RMS, both over `level`
        return {"sums": torch.zeros(batch, 1, 1, 2, device=device, dtype=dtype)}

    def step(self, x, state, **controls):
        rms = (x.sum((1, 3), keepdim=True) * self.share + 1e-20).sqrt()
        counted, sums, past = torch.cat([rms.sqrt(), rms], 3), [], state["sums"]
        for part in [counted] if torch.compiler.is_exporting() else counted.split(BLOCK, 2):
            kept = (0 * part[..., :1] - self.forget).cumsum(2).exp()  # a^1, a^2, ...
            sums.append((past + (part / kept).cumsum(2)) * kept)
            past = sums[-1][:, :, -1:]
        roots, total = ((torch.cat(sums, 2) if len(sums) > 1 else sums[0]) + self.trust).split(1, 3)
        return (roots / total).square(), {"sums": past}


class RunningLevel(Streaming):
    """A block that puts out the RMS of the last `frames` frames of `hop` samples or so.

    It maps `[B, 1, T]` to `[B, 1, T]`, constant over a frame, and forgets as `RunningNorm` does.
    """

    def __init__(self, hop: int, frames: float) -> None:
        super().__init__()
        self.hop, self.keep = hop, math.exp(-1 / frames)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return {"sums": torch.zeros(batch, 2, device=device, dtype=dtype)}  # of weights and of powers

    def step(self, x, state, **controls):
        power = x.reshape(x.shape[0], -1, self.hop).square().mean(2, keepdim=True)
        count, total, sums = _running_power(power, torch.ones_like(power), state["sums"], self.keep)
        level = (total / count + 1e-12).sqrt()  # the root of 0 has no gradient
        return level.expand(-1, -1, self.hop).reshape(x.shape[0], 1, -1), {"sums": sums}
