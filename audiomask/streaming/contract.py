"""Define what a block that runs frame by frame promises: its state, hop, rate and delay.

A block is a pure function `step(x, state) -> (y, state)`; nothing is kept on `self` between calls. Time is
axis 2 of every signal (`[B, C, T]` or `[B, C, T, F]`) and states are nested dicts or tuples of tensors, batch
first.

Clocks and lags. A block reads `hop` frames of its input clock at a time (or any multiple) and writes `rate`
frames for each frame read. Let `y[n]`, `n >= 0`, be the output of the offline ("reference") computation. If
the frame that enters `step` at index `i` is reference frame `i - lag`, the frame that leaves at index `j` is
reference frame `j - (lag + delay) * rate`, and that number is whole:

    reference in    x0 x1 x2 x3 ...
    enters step     .  .  x0 x1 x2 x3 ...            lag = 2: the first two frames are before the signal
    leaves step     .  .  .  .  .  y0 y1 y2 ...      lag + delay = 5 (rate 1)

A container tells each block its `lag` by `align`; strided blocks choose their lattice offset from it. Frames
before the signal do not exist for offline code, which pads with zeros there, whereas a biased layer has made
something of them. So **a block that remembers anything across time zeroes (or skips) the first `lag` frames
that enter it** (`Streaming.gate`), and blocks without memory need not care. The frames that leave a block
before its first reference frame are therefore unspecified; the runtime trims them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from audiomask.streaming.state import State

Shape: TypeAlias = tuple[int, ...]  # of one frame: (channels,) or (channels, frequencies)


def whole(value: int | Fraction, what: str = "lag") -> int:
    """Return `value` as an int; raise ValueError for a fraction: clocks were composed wrongly."""
    if Fraction(value).denominator != 1:
        raise ValueError(f"{what} is {value}, not a whole number of frames: check hops and strides")
    return int(value)


def simplest(value: Fraction) -> int | Fraction:
    """Return an int where `value` is whole."""
    return int(value) if value.denominator == 1 else value


def _lcm(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(math.lcm(a.numerator, b.numerator), math.gcd(a.denominator, b.denominator))


class Streaming(nn.Module):
    """A block that can run frame by frame.

    Subclasses give `step`, and `initial_state` if they have memory. `hop`: frames of the input clock that a
    step consumes, or any multiple; `rate`: frames out per frame in; `delay`: by how many input frames the
    output of `step` lags (a Fraction only where (lag + delay) * rate is whole).
    """

    hop: int = 1
    rate: Fraction = Fraction(1)
    delay: int | Fraction = 0
    lag: int = 0
    path: tuple[nn.Module, ...] = ()  # in a composed block, the blocks whose delays it sums

    @property
    def latency(self) -> int | Fraction:
        """Return the input frames that a listener waits, delay + hop."""
        return self.delay + self.hop

    @property
    def lag_out(self) -> int:
        """Return by how many output frames the output of `step` lags the reference."""
        return whole((self.lag + self.delay) * self.rate)

    def align(self, lag: int) -> None:
        """Set the `lag` in frames of what enters `step`, which may change `delay`."""
        self.lag = lag
        if self.path:
            self.compose(*self.path, lag=lag)

    def compose(self, *path: nn.Module, lag: int = 0, rate: Fraction = Fraction(1)) -> None:
        """Take `hop`, `rate` and `delay` from the blocks that a signal runs through in turn.

        Each block gets its lag, lag' = (lag + delay) * rate of the one before. A plain module among them
        acts frame by frame. A signal beside the path waits for it: `Delay(self.delay, ...)`. `rate`: frames
        that enter for each of the clock, in a model whose first input is not sound.
        """
        self.lag, self.path = lag, path
        hop, now = Fraction(1), whole(lag * rate)
        for block in path:
            if isinstance(block, Streaming):
                block.align(now)
                hop = _lcm(hop, block.hop / rate)
                rate, now = rate * block.rate, block.lag_out
        self.hop, self.rate = whole(_lcm(hop, 1 / rate), "hop"), rate
        self.delay = simplest(now / rate - lag)

    def named_blocks(self) -> dict[str, nn.Module]:
        """Return the blocks that `step` runs, by name: the children, with lists taken apart."""
        found: dict[str, nn.Module] = {}
        for name, child in self._modules.items():
            if isinstance(child, nn.ModuleList):
                found |= {f"{name}.{i}": part for i, part in enumerate(child)}
            elif child is not None:
                found[name] = child
        return found

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> State:
        """Return the state at the start of a signal, by block; None if no block has memory."""
        blocks = {name: block for name, block in self.named_blocks().items() if isinstance(block, Streaming)}
        states = {name: block.initial_state(batch, device, dtype) for name, block in blocks.items()}
        return {name: state for name, state in states.items() if state is not None} or None

    def step(self, x: Tensor, state: State, **controls: Any) -> tuple[Tensor, State]:
        """Return (y, next state) of x `[B, C, T(, F)]`, T a positive multiple of hop; pure."""
        raise NotImplementedError

    def gate_state(self, batch: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """Return the memory of `gate`: frames seen, `[B]`; nothing where the input does not lag."""
        return {"seen": torch.zeros(batch, dtype=torch.int64, device=device)} if self.lag > 0 else {}

    def before(self, x: Tensor, state: Mapping[str, Tensor]) -> Tensor | None:
        """Return where frames of x precede the signal, `[B, T]`; None where the input does not lag."""
        if self.lag == 0:
            return None
        index = state["seen"][:, None] + torch.arange(x.shape[2], device=x.device)
        return index < self.lag

    def gate(self, x: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Zero the frames of x before the signal; return x and the next gate state."""
        before = self.before(x, state)
        if before is None:
            return x, {}
        before = before[:, None, :] if x.ndim == 3 else before[:, None, :, None]
        return torch.where(before, 0.0, x), self.advance(x, state)

    def advance(self, x: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the gate state after x."""
        return {"seen": state["seen"] + x.shape[2]} if self.lag > 0 else {}

    def forward(self, x: Tensor, **controls: Any) -> Any:
        """Run a whole signal through `step`, flush and trim; y has ceil(T * rate) frames, aligned."""
        frames = x.shape[2]
        total = max(1, math.ceil((self.lag + frames + self.delay) / Fraction(self.hop))) * self.hop
        rim = (0, 0) if x.ndim == 4 else ()
        x = nn.functional.pad(x, (*rim, self.lag, total - self.lag - frames))
        y, _ = self.step(x, self.initial_state(x.shape[0], x.device, x.dtype), **controls)
        start = self.lag_out
        return y[:, :, start : start + math.ceil(frames * self.rate)]
