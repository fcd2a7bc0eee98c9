"""Step models and their memory hop by hop, one stream or many at once, on ONNX Runtime.

An `Engine` is memory only: state and controls of a few streams. A `Step` is the request to bring one engine
forward by some hops. `run` serves many requests: those for the same graph and length become rows of one call,
because a small model spends much of its time on what a call costs, however many rows it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from audiomask.runtime.artifact import Artifact, ArtifactError, failure

# Rows x hops in one call when steps are stacked. From 16 on each row costs the same; with 64 the activations
# of the shipped models leave a cache of 1 MB and a row costs more again (tools/bench/sessions.py).
STACK_ROWS = 32
TINY = 1e-30  # -600 dB: below lie denormal numbers, on which many processors crawl
SWEEP = 64  # hops between two searches for such numbers; a search costs a hundredth of a hop

Streams = Mapping[str, np.ndarray]  # by port name, each `[batch, channels, frames]`


@dataclass(frozen=True, slots=True)
class _Turn:
    """One of two bindings of a graph, which read and write the states in turn."""

    binding: Any
    after: list[np.ndarray]  # the states that it writes
    floats: list[np.ndarray]  # all that it writes in float32, flat


# The memory of inputs and of outputs, the next turn and the one after it.
_Bound = tuple[dict[str, np.ndarray], dict[str, np.ndarray], _Turn, _Turn]


class Engine:
    """The memory that `batch` independent streams through one graph need.

    A call uses `threads` threads and computes the ports named in `outputs`, all for None. `state` is a list
    of `[batch, ...]`, one for each dtype, and `controls` has the values of the control ports, `[batch]` or
    `[batch, n]`; their arrays are changed in place only, since they are bound to the graph. `frames` has the
    number of frames in a hop of each input stream.
    """

    def __init__(
        self, artifact: Artifact, batch: int = 1, threads: int = 1, outputs: Sequence[str] | None = None
    ):
        self.artifact, self.batch = artifact, batch
        self.graph = artifact.session(threads)
        self.frames = {port.name: port.per_hop(artifact.hop) for port in artifact.streams}
        self.outputs = tuple(outputs or (port.name for port in artifact.outputs))
        self.names = [*self.outputs, *(f"next_{s.name}" for s in artifact.states)]
        self.state = [spec.rows(batch) for spec in artifact.states]
        nodes = {node.name: node for node in self.graph.get_outputs()}
        self.floats = [n for n, name in enumerate(self.names) if nodes[name].type == "tensor(float)"]
        self.controls: dict[str, np.ndarray] = {}
        nodes = {node.name: node for node in self.graph.get_inputs()}
        for port in artifact.controls.values():
            node = nodes[port.name]
            width = () if len(node.shape) == 1 else (port.channels,)
            value = np.zeros((batch, *width), np.int64 if node.type == "tensor(int64)" else np.float32)
            value[:] = 0 if port.default is None else port.default
            self.controls[port.name] = value
        self._hops = 0
        self._bound: _Bound | None = None

    def hop(self, inputs: Streams) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Run one hop and return its outputs, and what `mend` does to numbers not finite.

        All memory is bound to the graph once: for one hop of a small model, handing arrays over takes a tenth
        of the time. Each call reads one of two copies of the states, and writes the other, the new `state`.
        What is touched here and in `Player` is kept little, since the weights have driven all of it out of
        the processor's caches.
        """
        if self._bound is None:
            self._bound = self._bind()
        given, got, turn, other = self._bound
        for name, memory in given.items():
            memory[:] = inputs.get(name, 0)
        self.graph.run_with_iobinding(turn.binding)
        self.state, self._bound = turn.after, (given, got, other, turn)
        sound = True
        for flat in turn.floats:
            sound = sound and flat.dot(flat) < np.inf
        outputs = {name: value.copy() for name, value in got.items()}
        self._hops += 1
        if self._hops >= SWEEP:
            self.sweep(0)
        return outputs, None if sound else self.mend(outputs)

    def mend(self, outputs: dict[str, np.ndarray]) -> np.ndarray | None:
        """Mute and reset rows in which something is not finite; return their flags, if any.

        A state that holds a NaN would never recover, and one with an infinity may mute the model for ever.
        """
        broken = np.zeros(self.batch, bool)
        for value in (*outputs.values(), *self.state):
            broken |= ~np.isfinite(value).reshape(len(value), -1).all(axis=1)
        if not broken.any():
            return None
        for value in outputs.values():
            value[broken] = 0
        self.reset(broken)
        return broken

    def _bind(self) -> _Bound:
        import onnxruntime as ort

        feeds, count = self.feeds({}, 1), len(self.outputs)
        got = [np.empty_like(value) for value in self.graph.run(self.names[:count], feeds)]
        spare, turns = [value.copy() for value in self.state], []
        for now, after in ((self.state, spare), (spare, self.state)):
            binding = self.graph.io_binding()
            states = dict(zip((spec.name for spec in self.artifact.states), now, strict=True))
            for name, value in (feeds | states).items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
            made = [*got, *after]
            for name, value in zip(self.names, made, strict=True):
                binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(value))
            turns.append(_Turn(binding, after, [made[n].reshape(-1) for n in self.floats]))
        given = {port.name: feeds[port.name] for port in self.artifact.streams}
        return given, dict(zip(self.outputs, got, strict=True)), turns[0], turns[1]

    def feeds(self, inputs: Streams, hops: int) -> dict[str, np.ndarray]:
        """Return all that the graph takes for `hops` hops; a stream that is not given is 0."""
        feeds = {spec.name: value for spec, value in zip(self.artifact.states, self.state, strict=True)}
        feeds |= self.controls
        for port in self.artifact.streams:
            given = inputs.get(port.name)
            if given is None:
                given = np.zeros((self.batch, port.channels, hops * self.frames[port.name]), port.dtype)
            feeds[port.name] = given
        return feeds

    def sweep(self, hops: int) -> None:
        """Count `hops`, and once in `SWEEP` set numbers in the state below `TINY` to 0."""
        self._hops += hops
        if self._hops >= SWEEP:
            self._hops = 0
            for value in self.state:
                if value.dtype == np.float32:
                    value[np.abs(value) < TINY] = 0

    def turn(self, controls: Mapping[str, np.ndarray]) -> None:
        """Set other values of the controls."""
        for name, value in controls.items():
            self.controls[name][:] = value

    def reset(self, rows: Any = slice(None)) -> None:
        """Reset `rows` of the batch to the start of a signal."""
        for value, spec in zip(self.state, self.artifact.states, strict=True):
            value[rows] = spec.initial

    def save(self) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Return a copy of the memory that `load` takes."""
        return [value.copy() for value in self.state], {k: v.copy() for k, v in self.controls.items()}

    def load(self, memory: tuple[list[np.ndarray], dict[str, np.ndarray]]) -> None:
        """Restore a memory that `save` returned."""
        state, controls = memory
        for value, saved in zip(self.state, state, strict=True):
            value[:] = saved
        self.turn(controls)

    def control(self, name: str, value: Any) -> np.ndarray:
        """Return a control's array for a value, or for one per stream; may raise `ArtifactError`."""
        ports, where = self.artifact.controls, self.artifact.name
        if name not in ports:
            raise ArtifactError(f"{where}: has no control {name!r}; it has: {' '.join(ports) or 'none'}")
        port, array = ports[name], np.asarray(value)
        low, high = port.minimum, port.maximum
        if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
            raise ArtifactError(f"{where}: {name} = {value!r} is not a number")
        if (low is not None and (array < low).any()) or (high is not None and (array > high).any()):
            raise ArtifactError(f"{where}: {name} = {value} is outside {low} to {high} {port.unit}".rstrip())
        made = np.empty_like(self.controls[name])
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                made[:] = array
        except ValueError:
            raise ArtifactError(f"{where}: {name} has shape {array.shape}, not {made.shape}") from None
        if not np.isfinite(made).all() or (made.dtype.kind == "i" and (made != array).any()):
            kind = "whole number" if made.dtype.kind == "i" else "float32"
            raise ArtifactError(f"{where}: {name} = {value} does not fit a {kind}")
        return made


@dataclass(eq=False, slots=True)
class Step:
    """A request to bring `engine` forward by `hops`, given `inputs` by the name of their port.

    Inputs are `[batch, channels, frames]`; one that is not given is 0. `run` fills in `outputs`, or `error`,
    which leaves the engine as before. `broken [batch]` flags rows in which the model failed, if any; these
    are muted, and reset to the start of a signal.
    """

    engine: Engine
    inputs: Streams
    hops: int = 1
    outputs: dict[str, np.ndarray] | None = None
    broken: np.ndarray | None = None
    error: Exception | None = None


def run(steps: Sequence[Step]) -> None:
    """Run every step, in as few calls as `STACK_ROWS` allows; no engine may occur twice."""
    if len(steps) == 1:
        _call(steps)
        return
    groups: dict[tuple, list[Step]] = {}
    for step in steps:
        engine = step.engine
        groups.setdefault((id(engine.graph), engine.outputs, step.hops), []).append(step)
    for (_, _, hops), group in groups.items():
        limit = STACK_ROWS // hops
        stack: list[Step] = []
        rows = 0
        for step in group:
            if stack and rows + step.engine.batch > limit:
                _call(stack)
                stack, rows = [], 0
            stack.append(step)
            rows += step.engine.batch
        _call(stack)


def _call(steps: Sequence[Step]) -> None:
    """Call the graph once; if that fails, try each step alone, so that only guilty ones fail."""
    first, hops = steps[0].engine, steps[0].hops
    try:
        if len(steps) == 1 and hops == 1:
            steps[0].outputs, steps[0].broken = first.hop(steps[0].inputs)
        else:
            _together(steps, hops)
    except Exception as error:  # see Artifact.session
        if len(steps) > 1:
            for step in steps:
                _call([step])
            return
        steps[0].error = failure(first.artifact.path, "failed while running", error)


def _together(steps: Sequence[Step], hops: int) -> None:
    """Call the graph with the rows of all steps."""
    first = steps[0].engine
    rows, *others = (step.engine.feeds(step.inputs, hops) for step in steps)
    if others:
        rows = {name: np.concatenate([rows[name], *(o[name] for o in others)]) for name in rows}
    values = first.graph.run(first.names, rows)
    # One product per tensor finds a NaN or infinity anywhere; `mend` looks closer at sums that overflow.
    sound = True
    for n in first.floats:
        flat = values[n].reshape(-1)
        sound = sound and flat.dot(flat) < np.inf
    count, at = len(first.outputs), 0
    for step in steps:
        engine = step.engine
        own = slice(at, at := at + engine.batch)
        step.outputs = {name: values[n][own].copy() for n, name in enumerate(first.outputs)}
        for kept, new in zip(engine.state, values[count:], strict=True):
            kept[:] = new[own]
        engine.sweep(hops)
        if not sound:
            step.broken = engine.mend(step.outputs)
