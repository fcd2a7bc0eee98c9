"""Build blocks that run frame by frame: explicit state, composed delays, and combinators.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch._higher_order_ops.cond import cond
from torch._higher_order_ops.scan import scan

from audiomask.ports import TYPES, Port

State: TypeAlias = Any  # nested dict or tuple of tensors, or None
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


def to_onnx() -> bool:
    """Return whether an ONNX graph is being made, for blocks that are written otherwise there.

    `torch.export` for torch itself keeps torch's operators.
    """
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()


def recur(
    step: Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]],
    carry: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run `step` over the first axis of `inputs`, for recursions that no operator has.

    `step(carry, inputs of one frame)` returns (carry, outputs of that frame), and `recur` the last carry and
    outputs `[T, ...]`. In an ONNX graph it is a Scan.
    """
    if not to_onnx():
        frames = []
        for now in zip(*inputs, strict=True):
            carry, y = step(carry, now)
            frames.append(y)
        return carry, tuple(torch.stack(parts) for parts in zip(*frames, strict=True))

    def body(carry, now):  # scan wants the carry back as it came, and outputs that share no memory with it
        carry, y = step(carry, now)
        return tuple(c.contiguous() for c in carry), tuple(part.clone() for part in y)

    return scan(body, tuple(c.clone(memory_format=torch.contiguous_format) for c in carry), inputs)


def either(
    condition: Tensor,
    then: Callable[..., tuple[Tensor, ...]],
    otherwise: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    graph: bool,
) -> tuple[Tensor, ...]:
    """Return `then(*inputs)` where the one-element `condition` holds, else `otherwise(*inputs)`.

    Both give the same shapes. This is for work that is seldom needed. `graph`: an ONNX graph is being made,
    and it becomes an If (`to_onnx()` outside of `recur`, whose steps are traced apart).
    """
    if not graph and torch.compiler.is_exporting():  # for torch itself: no branches
        return tuple(
            torch.where(condition, a, b) for a, b in zip(then(*inputs), otherwise(*inputs), strict=True)
        )
    if not graph:
        return (then if bool(condition) else otherwise)(*inputs)

    def fresh(branch):  # cond wants outputs that share no memory with the inputs
        return lambda *given: tuple(x.clone(memory_format=torch.contiguous_format) for x in branch(*given))

    return cond(condition, fresh(then), fresh(otherwise), inputs)


# --- states -------------------------------------------------------------------------------------------------


def tree_map(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply `function` to every tensor of a state, keeping its structure."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, Mapping):
        return {key: tree_map(function, value) for key, value in sorted(state.items())}
    return tuple(tree_map(function, value) for value in state)


def _leaves(state: State, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield path, state
    elif state is not None:
        items = sorted(state.items()) if isinstance(state, Mapping) else enumerate(state)
        for key, value in items:
            yield from _leaves(value, f"{path}.{key}" if path else str(key))


def flatten_state(state: State) -> list[tuple[str, Tensor]]:
    """Return all tensors of a state with dotted names, ordered by name."""
    return list(_leaves(state, ""))


def unflatten_state(like: State, tensors: Sequence[Tensor]) -> State:
    """Return `tensors` in the structure of `like`: the inverse of `flatten_state`."""
    rest = iter(tensors)
    state = tree_map(lambda _: next(rest), like)
    if next(rest, None) is not None:
        raise ValueError(f"{len(tensors)} tensors given for a state of {len(flatten_state(like))}")
    return state


# --- blocks -------------------------------------------------------------------------------------------------


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


class Delay(Streaming):
    """A block that delays frames of `shape`, (channels(, frequencies)), by `frames`.

    Frames before the signal stay there, so nothing needs gating.
    """

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


# --- combinators --------------------------------------------------------------------------------------------


class Steps:
    """A helper that runs the named blocks of a block and collects the states after them.

    In `step(self, x, state)` of a block with the children `conv` and `gru`:

        step = Steps(self, state)
        return step("gru", step("conv", x).relu()), step.states

    A plain module among them acts frame by frame and has no state.
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
    """A block that chains blocks; plain modules among them act frame by frame, without memory.

    `blocks` are modules, or one dict of named modules. Lags compose as lag' = (lag + delay) * rate.
    """

    def __init__(self, *blocks: nn.Module | Mapping[str, nn.Module]) -> None:
        super().__init__()
        if len(blocks) == 1 and isinstance(blocks[0], Mapping):
            named = dict(blocks[0])
        else:
            named = {str(i): block for i, block in enumerate(blocks)}  # type: ignore[misc]
        for name, block in named.items():
            self.add_module(name, block)
        self.compose(*named.values())

    def __getitem__(self, index: int) -> nn.Module:
        return list(self.children())[index]

    def step(self, x, state, **controls):
        step = Steps(self, state)
        for name in self._modules:
            x = step(name, x, **controls)
        return x, step.states or None


class Parallel(Streaming):
    """A block that aligns branches over one input with the slowest, and sums or joins them.

    Joining is over channels. `shapes`: the shape of one frame of each branch's output (one Shape for all, or
    a list), needed only when the branches' delays differ.
    """

    def __init__(
        self,
        *branches: nn.Module,
        merge: Literal["sum", "cat"] = "sum",
        shapes: Shape | int | Sequence[Shape | int] | None = None,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.delays = nn.ModuleList()
        self.merge = merge
        self.shapes = shapes if isinstance(shapes, list) else [shapes] * len(branches)
        self.align(0)

    def align(self, lag: int) -> None:
        self.lag = lag
        hop, rates, lags = Fraction(1), set(), []
        for branch in self.branches:
            if isinstance(branch, Streaming):
                branch.align(lag)
                hop = _lcm(hop, Fraction(branch.hop))
                rates.add(branch.rate)
                lags.append(branch.lag_out)
            else:
                rates.add(Fraction(1))
                lags.append(lag)
        if len(rates) != 1:
            raise ValueError(f"parallel branches of different rates {sorted(rates)}: resample them to one")
        self.rate = rates.pop()
        self.hop = whole(hop, "hop")
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
        step, parts = Steps(self, state), []
        for i in range(len(self.branches)):
            parts.append(step(f"delays.{i}", step(f"branches.{i}", x, **controls)))
        y = torch.cat(parts, 1) if self.merge == "cat" else sum(parts[1:], parts[0])
        return y, step.states or None


class Residual(Parallel):
    """A block that returns x + branch(x), with x delayed by the branch's delay.

    `shape`: of one frame of x, needed if that delay is not zero.
    """

    def __init__(self, *branch: nn.Module, shape: Shape | int | None = None) -> None:
        body = branch[0] if len(branch) == 1 else Sequential(*branch)
        super().__init__(nn.Identity(), body, shapes=shape)


# --- models -------------------------------------------------------------------------------------------------


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
        if value is None:
            value = port.default
        if value is None:
            raise ValueError(f"{self.name}: the control {name!r} has no default and must be given")
        if isinstance(value, Tensor) and value.ndim > 0:
            return value
        shape = (like.shape[0],) if port.channels == 1 else (like.shape[0], port.channels)
        dtype = like.dtype if port.dtype.kind == "f" else torch.int64
        return torch.as_tensor(value, dtype=dtype, device=like.device).expand(shape)

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
