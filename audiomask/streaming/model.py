"""Define a streaming model: a tree of blocks with a name, a clock and named ports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from audiomask.ports import TYPES, Port
from audiomask.streaming.contract import Streaming, whole
from audiomask.streaming.state import State


class StreamingModel(Streaming):
    """A block that has a name, a clock and named ports, at the top of a tree of blocks.

    The clock runs at `sample_rate`; `hop` and `delay` are samples of it, whatever the first input carries,
    and all outputs lag by the same `delay`. The first input is a stream and the argument `x` of `step`; the
    other inputs are keyword arguments, by port name. A control that is not given takes its port's default
    (`control`), a stream that is not given its neutral value.
    """

    name: str = ""
    task: str = ""
    sample_rate: int = 16000
    inputs: tuple[Port, ...] = (Port("audio"),)
    outputs: tuple[Port, ...] = (Port("output"),)

    def compose(self, *path: nn.Module, lag: int = 0, rate: Fraction | None = None) -> None:
        """Take `hop`, `rate` and `delay` from the blocks that the first input runs through."""
        super().compose(*path, lag=lag, rate=self.inputs[0].rate if rate is None else rate)

    def control(self, name: str, value: Tensor | float | None, like: Tensor) -> Tensor:
        """Return the control `name` as a tensor `[B]` or `[B, n]`; None takes the default.

        `like` has the batch. Raises ValueError for unknown names and for missing values without default.
        """
        port = next((port for port in self.inputs if port.name == name and not port.is_stream), None)
        if port is None:
            raise ValueError(
                f"{self.name}: no control {name!r}; its inputs are {[p.name for p in self.inputs]}"
            )
        value = port.default if value is None else value
        if value is None:
            raise ValueError(f"{self.name}: the control {name!r} has no default and must be given")
        if isinstance(value, Tensor) and value.ndim > 0:
            return value
        shape = (like.shape[0],) if port.channels == 1 else (like.shape[0], port.channels)
        dtype = like.dtype if port.dtype.kind == "f" else torch.int64
        return torch.as_tensor(value, dtype=dtype, device=like.device).expand(shape)

    def learn(self, x: Tensor, **inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Return what `forward` does, and by name the terms that this model adds to the losses."""
        return self(x, **inputs), {}

    def distances(self, port: str, codes: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return how far the codewords `codes [B, n, T]` lie from their targets, `[B, n, T]`.

        Where two are equally near, frameworks choose differently by rounding, so the proof of an exported
        graph asks how near. Models that put out codes compute it for a step from the initial state.
        """
        raise NotImplementedError(f"{type(self).__name__} puts out codes and gives no distances of them")

    def run(self, inputs: Mapping[str, Tensor], state: State) -> tuple[dict[str, Tensor], State]:
        """Return the outputs of a step by port name, and the next state; `inputs` by port name."""
        rest = dict(inputs)
        y, state = self.step(rest.pop(self.inputs[0].name), state, **rest)
        return self.by_port(y), state

    def by_port(self, y: Any) -> dict[str, Tensor]:
        """Return what `step` or `forward` put out, a tensor or a tuple, by the names of the outputs."""
        values = y if isinstance(y, tuple) else (y,)
        return dict(zip((port.name for port in self.outputs), values, strict=True))

    def parted(self, y: Tensor) -> Any:
        """Return `y [B, C, T]`, the channels of all outputs, as `step` puts them out."""
        parts = y.split([port.channels for port in self.outputs], 1)
        return parts if len(parts) > 1 else y

    def forward(self, x: Tensor, **inputs: Any) -> Any:
        """Run a whole signal `[B, C, frames]` and return the outputs, aligned with it.

        x lasts T = frames / rate samples of the clock; each output has ceil(T * port.rate) frames. One tensor
        for a model of one output, else a tuple. Raises ValueError for streams of other lengths.
        """
        first, *others = (port for port in self.inputs if port.is_stream)
        length = x.shape[2] / first.rate
        total = max(1, math.ceil((self.lag + length + self.delay) / self.hop)) * self.hop
        for port in others:
            inputs[port.name] = self.filled(inputs.get(port.name), port, length, total, x)
        dtype = x.dtype if x.is_floating_point() else torch.float32
        state = self.initial_state(x.shape[0], x.device, dtype)
        y, _ = self.step(self.filled(x, first, length, total, x), state, **inputs)
        parts = []
        for port, part in zip(self.outputs, self.by_port(y).values(), strict=True):
            start = whole((self.lag + self.delay) * port.rate)
            parts.append(part[:, :, start : start + math.ceil(length * port.rate)])
        return tuple(parts) if isinstance(y, tuple) else parts[0]

    def filled(self, x: Tensor | None, port: Port, length: Fraction, total: int, like: Tensor) -> Tensor:
        """Return x, `length` samples long, in `total` of the clock, with neutral values around it."""
        front, frames = whole(self.lag * port.rate), whole(total * port.rate)
        if x is None:
            x = like.new_zeros(len(like), port.channels, 0)
        elif x.shape[2] != math.ceil(length * port.rate):
            raise ValueError(
                f"{self.name}: {port.name} has {x.shape[2]} frames, not {math.ceil(length * port.rate)} as "
                f"go with {self.inputs[0].name}"
            )
        if TYPES[port.type].neutral == 0:
            return nn.functional.pad(x, (front, frames - front - x.shape[2]))
        around = torch.from_numpy(port.neutral(len(x), frames)).to(x)
        return torch.cat([around[:, :, :front], x, around[:, :, front + x.shape[2] :]], 2)
