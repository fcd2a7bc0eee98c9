"""Combine blocks into blocks, which derive hop, rate, delay and state from their parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiomask.streaming.contract import Shape, Streaming, simplest
from audiomask.streaming.state import State


class Delay(Streaming):
    """A block that delays frames of `shape`, (channels(, frequencies)); it needs no gate."""

    def __init__(self, frames: int, shape: Shape | int) -> None:
        super().__init__()
        self.delay = self.frames = frames
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        if self.frames == 0:
            return None
        channels, *rest = self.shape
        return {"past": torch.zeros(batch, channels, self.frames, *rest, device=device, dtype=dtype)}

    def step(self, x, state, **controls):
        if self.frames == 0:
            return x, state
        x = torch.cat([state["past"], x], 2)
        return x[:, :, : -self.frames], {"past": x[:, :, -self.frames :]}


class Context(Streaming):
    """A block that keeps neighbours of frames: `[B, C, T]` -> `[B, C, left + T + right]`.

    Frame n of the reference has `right` frames after it, by which it lags. Before the signal there is `fill`.
    With left and right 1, the step of x3 x4 gives x1 x2 x3 x4: x2 and x3 and their neighbours.
    """

    def __init__(
        self, left: int, right: int, shape: Shape | int, dtype: torch.dtype | None = None, fill: float = 0
    ) -> None:
        super().__init__()
        if left < 0 or right < 0 or not left + right:
            raise ValueError(f"a context of {left} frames before and {right} after: need one at least")
        self.frames, self.delay, self.dtype, self.fill = left + right, right, dtype, fill
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        channels, *rest = self.shape
        shape = (batch, channels, self.frames, *rest)
        past = torch.full(shape, self.fill, device=device, dtype=self.dtype or dtype)
        return {"past": past, **self.gate_state(batch, device)}

    def step(self, x, state, **controls):
        x, seen = self.gate(x, state)
        x = torch.cat([state["past"], x], 2)
        return x, {"past": x[:, :, -self.frames :], **seen}


class Gate(Streaming):
    """A block that zeroes frames before the signal, for models whose start is heard untrimmed."""

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        return self.gate_state(batch, device) or None

    def step(self, x, state, **controls):
        x, seen = self.gate(x, state or {})
        return x, seen or None


class Steps:
    """A helper that runs the named blocks of a block and collects the states after them.

    In `step(self, x, state)` of a block with the children `conv` and `gru`, plain modules or blocks:

        step = Steps(self, state)
        return step("gru", step("conv", x).relu()), step.states
    """

    def __init__(self, block: Streaming, state: State) -> None:
        self._blocks, self._before = block.named_blocks(), state or {}
        self.states: dict[str, State] = {}

    def __call__(self, name: str, x: Tensor, *more: Tensor, **controls: Any) -> Any:
        block = self._blocks[name]
        if not isinstance(block, Streaming):
            return block(x)
        y, after = block.step(x, self._before.get(name), *more, **controls)
        if after is not None:
            self.states[name] = after
        return y


class Sequential(Streaming):
    """A block that chains blocks and plain modules, which act on each frame alone."""

    def __init__(self, *blocks: nn.Module | Mapping[str, nn.Module]) -> None:
        super().__init__()
        single = blocks[0] if len(blocks) == 1 else None
        named: Mapping[Any, Any] = single if isinstance(single, Mapping) else dict(enumerate(blocks))
        for name, block in named.items():
            self.add_module(str(name), block)
        self.compose(*named.values())

    def __getitem__(self, index: int) -> nn.Module:
        return list(self.children())[index]

    def step(self, x, state, **controls):
        step = Steps(self, state)
        for name in self._modules:
            x = step(name, x, **controls)
        return x, step.states or None


class Parallel(Streaming):
    """A block that aligns branches over one input and sums their outputs or joins the channels.

    `shapes` of a frame of each branch's output (or one for all) are needed where the delays differ.
    """

    def __init__(
        self,
        *branches: nn.Module,
        merge: Literal["sum", "cat"] = "sum",
        shapes: Shape | int | Sequence[Shape | int] | None = None,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.merge = merge
        self.shapes = shapes if isinstance(shapes, list) else [shapes] * len(branches)
        self.align(0)

    def align(self, lag: int) -> None:
        self.lag = lag
        hops, rates, lags = [1], set(), []
        for branch in self.branches:
            rate, lag_out = Fraction(1), lag
            if isinstance(branch, Streaming):
                branch.align(lag)
                hops.append(branch.hop)
                rate, lag_out = branch.rate, branch.lag_out
            rates.add(rate)
            lags.append(lag_out)
        if len(rates) != 1:
            raise ValueError(f"parallel branches of different rates {sorted(rates)}: resample them to one")
        self.rate, self.hop = rates.pop(), math.lcm(*hops)
        self.delay = simplest(max(lags) / self.rate - lag)
        self.delays = nn.ModuleList()
        for own, shape in zip(lags, self.shapes, strict=True):
            missing = max(lags) - own
            if missing and shape is None:
                raise ValueError(
                    f"a branch must wait {missing} frames for the slowest: give shapes=(channels,) or "
                    "(channels, frequencies) of what the branches put out"
                )
            wait = Delay(missing, () if shape is None else shape)
            wait.align(own)
            self.delays.append(wait)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        count = len(self.branches)
        parts = [step(f"delays.{i}", step(f"branches.{i}", x, **controls)) for i in range(count)]
        y = torch.cat(parts, 1) if self.merge == "cat" else sum(parts[1:], parts[0])
        return y, step.states or None


class Residual(Parallel):
    """A block that returns x + branch(x); a branch that lags needs the `shape` of a frame of x."""

    def __init__(self, *branch: nn.Module, shape: Shape | int | None = None) -> None:
        body = branch[0] if len(branch) == 1 else Sequential(*branch)
        super().__init__(nn.Identity(), body, shapes=shape)
