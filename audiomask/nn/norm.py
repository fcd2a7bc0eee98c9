"""Normalise streams: within a frame, over all frames so far, or by a running level.

Where a published model normalises by the statistics of the whole clip, these are the causal substitutes.
Batch norms need nothing here: `nn.BatchNorm1d` and `nn.BatchNorm2d` act frame by frame in evaluation, and
export folds them into the layer before.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from audiomask.streaming import State, Streaming


class _Affine(Streaming):
    """A base that has a gain and offset per channel, and the sums that all norms here need."""

    def __init__(self, channels: int, affine: bool, eps: float) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def _affine(self, x: Tensor) -> Tensor:
        if self.weight is None or self.bias is None:
            return x
        shape = (-1,) + (1,) * (x.ndim - 2)
        return x * self.weight.view(shape) + self.bias.view(shape)


def _frame_axes(x: Tensor) -> tuple[int, ...]:
    return (1,) if x.ndim == 3 else (1, 3)


class FrameNorm(_Affine):
    """A norm that takes each frame's own mean and variance over channels and frequencies.

    It is the instant layer norm of DTLN (Westhausen and Meyer 2020) and has no memory.
    """

    def __init__(self, channels: int, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__(channels, affine, eps)

    def step(self, x, state, **constants):
        axes = _frame_axes(x)
        x = x - x.mean(axes, keepdim=True)
        return self._affine(x * torch.rsqrt(x.square().mean(axes, keepdim=True) + self.eps)), state


class CumulativeNorm(_Affine):
    """A norm that takes for each frame the mean and variance of all frames up to it.

    They are taken over channels and frequencies: the cumulative layer norm of Conv-TasNet (Luo and Mesgarani
    2019, eq. 9 to 11). The means are moved, not summed: mean_n = mean + (sum_{i <= n} (m_i - mean)) / count,
    which loses no precision however long the signal; the count is an integer.
    """

    def __init__(self, channels: int, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__(channels, affine, eps)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return {
            "mean": torch.zeros(batch, 2, 1, device=device, dtype=dtype),  # of x and of x^2
            "seen": torch.zeros(batch, dtype=torch.int64, device=device),
        }

    def step(self, x, state, **constants):
        x, _ = self.gate(x, state)
        axes, mean = _frame_axes(x), state["mean"]
        moments = torch.stack([x.mean(axes), x.square().mean(axes)], 1)  # [B, 2, T]
        change = moments - mean
        before = self.before(x, state)
        if before is not None:
            change = torch.where(before[:, None], 0.0, change)
        index = state["seen"][:, None, None] + torch.arange(
            1 - self.lag, x.shape[2] + 1 - self.lag, device=x.device
        )
        mean = mean + change.cumsum(2) / index.clamp_min(1).to(x.dtype)
        after = {"mean": mean[:, :, -1:], "seen": state["seen"] + x.shape[2]}
        mean = mean[:, :, None] if x.ndim == 3 else mean[:, :, None, :, None]
        first, second = mean.unbind(1)
        # the variance cannot be negative; rounding can
        scale = torch.rsqrt((second - first.square()).clamp_min(0) + self.eps)
        return self._affine((x - first) * scale), after


def _forgetting_sum(x: Tensor, past: Tensor, keep: float) -> Tensor:
    """Return s_n = keep s_(n-1) + x_n from s_(-1) = past `[B, N]`, `[B, T, N]` -> `[B, T, N]`."""
    n = torch.arange(x.shape[1], device=x.device)
    age = n[:, None] - n
    weight = torch.where(age >= 0, keep ** age.clamp_min(0).to(x.dtype), 0.0)  # [T, T]
    return weight @ x + (keep ** (n + 1).to(x.dtype))[:, None] * past[:, None]


class RunningNorm(_Affine):
    """A norm that takes the level of the last `frames` frames or so, forgotten exponentially.

    With a = exp(-1 / frames), level_n = sum_{i <= n} a^(n - i) |x_i|^2 / sum_{i <= n} a^(n - i): the division
    makes the first frames count fully, so that nothing is muted or blown up while the average fills. `over`:
    "frame" takes one level for all channels and frequencies, "bin" one for each. `center`: by the mean too.
    """

    def __init__(
        self,
        channels: int,
        frames: float,
        over: Literal["frame", "bin"] = "frame",
        center: bool = False,
        freqs: int | None = None,
        affine: bool = False,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(channels, affine, eps)
        self.keep = math.exp(-1 / frames)
        self.over, self.center = over, center
        self.bins = 1 if over == "frame" else channels * (freqs or 1)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        # sums of weights, of powers and of values, each forgotten at the same pace
        sums = torch.zeros(batch, 1 + self.bins * (1 + self.center), device=device, dtype=dtype)
        return {"sums": sums, **self.gate_state(batch, device)}

    def step(self, x, state, **constants):
        before = self.before(x, state)
        x, after = self.gate(x, state)
        frames = x.transpose(1, 2)  # [B, T, C] or [B, T, C, F]
        kinds = (frames.square(), frames) if self.center else (frames.square(),)
        if self.over == "frame":
            terms = [kind.flatten(2).mean(2, keepdim=True) for kind in kinds]
        else:
            terms = [kind.flatten(2) for kind in kinds]
        ones = torch.ones_like(frames.flatten(2)[:, :, :1])
        if before is not None:
            ones = torch.where(before[:, :, None], 0.0, ones)
        sums = _forgetting_sum(torch.cat([ones, *terms], 2), state["sums"], self.keep)
        after["sums"] = sums[:, -1]
        total, *means = sums.split((1, *(self.bins,) * len(kinds)), 2)
        means = [self._like(mean / total.clamp_min(1e-6), x) for mean in means]
        power = means[0]
        if self.center:
            x, power = x - means[1], (power - means[1].square()).clamp_min(0)
        return self._affine(x * torch.rsqrt(power + self.eps)), after

    def _like(self, mean: Tensor, x: Tensor) -> Tensor:
        """Return `[B, T, bins]` in a shape that broadcasts with x."""
        if self.over == "frame":
            return mean[:, None, :, 0] if x.ndim == 3 else mean[:, None]
        mean = mean if x.ndim == 3 else mean.unflatten(2, (x.shape[1], x.shape[3]))
        return mean.transpose(1, 2)


class RunningLevel(Streaming):
    """A block that puts out the RMS of the last `frames` frames of `hop` samples or so.

    It forgets exponentially as `RunningNorm` does: `[B, 1, T]` -> `[B, 1, T]`, constant over a frame.
    """

    def __init__(self, hop: int, frames: float) -> None:
        super().__init__()
        self.hop, self.keep = hop, math.exp(-1 / frames)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return {"sums": torch.zeros(batch, 2, device=device, dtype=dtype)}  # of weights and of powers

    def step(self, x, state, **constants):
        power = x.reshape(x.shape[0], -1, self.hop).square().mean(2, keepdim=True)
        sums = _forgetting_sum(torch.cat([torch.ones_like(power), power], 2), state["sums"], self.keep)
        count, total = sums.split(1, 2)
        level = (total / count + 1e-12).sqrt()  # the root of 0 has no gradient
        return level.expand(-1, -1, self.hop).reshape(x.shape[0], 1, -1), {"sums": sums[:, -1]}
