"""Models and their memory, stepped hop by hop, one stream or many at once: the thin layer on ONNX Runtime
below `audiomask.runtime.session`.

An `Engine` is memory only: state and controls of a few streams. A `Step` is the wish to bring one engine
forward by some hops. `run` fulfils many wishes: those for the same graph and length become rows of one call,
because a small model spends much of its time on what a call costs, however many rows it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from audiomask.runtime.artifact import Artifact, ArtifactError, failure

# Rows x hops in one call when steps are stacked. From 16 on a row costs the same; with 64 the activations of
# the shipped models leave a cache of 1 MB and it costs more again (tools/bench_sessions.py).
STACK_ROWS = 32
TINY = 1e-30  # -600 dB: below lie denormal numbers, on which many processors crawl
SWEEP = 64  # hops from one search for such numbers to the next, which costs as much as a hundredth of a hop


class Engine:
    """The memory of ``batch`` independent streams through one graph.

    ``state``: a list of ``[batch, ...]``, one for each dtype. ``constants``: the values of the control ports,
    ``[batch]`` or ``[batch, n]``. Both are changed in place only, since they are bound to the graph.
    ``output``: the port that is wanted, default the first.
    """

    def __init__(self, artifact: Artifact, batch: int = 1, threads: int = 1, output: str = ""):
        self.artifact, self.batch = artifact, batch
        self.graph = artifact.session(threads)
        self.audio = artifact.streams[0].name
        self.mask = artifact.mask.name if artifact.mask else ""
        self.names = [output or artifact.outputs[0].name, *(f"next_{s.name}" for s in artifact.states)]
        self.state = [spec.rows(batch) for spec in artifact.states]
        self.constants: dict[str, np.ndarray] = {}
        nodes = {node.name: node for node in self.graph.get_inputs()}
        for port in artifact.constants.values():
            node = nodes[port.name]
            width = () if len(node.shape) == 1 else np.shape(port.default) or (port.channels,)
            value = np.zeros((batch, *width), np.int64 if node.type == "tensor(int64)" else np.float32)
            value[:] = 0 if port.default is None else port.default
            self.constants[port.name] = value
        self._hops = 0
        self._bound: tuple[Any, np.ndarray, np.ndarray, list[np.ndarray]] | None = None

    def alone(self, x: np.ndarray, lost: np.ndarray | None = None) -> list[np.ndarray]:
        """The output for ``x`` and the next states, in memory that the next call overwrites and that is bound
        to the graph once: for one hop of a small model, handing arrays over takes a tenth of the time."""
        if self._bound is None or self._bound[1].shape != x.shape:
            import onnxruntime as ort

            binding, given = self.graph.io_binding(), np.zeros(x.shape, np.float32)
            gone = np.zeros((self.batch, 1, x.shape[2]), np.float32)
            feeds = self._feeds(given, gone)
            got = [np.empty_like(value) for value in self.graph.run(self.names, feeds)]
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
            for name, value in zip(self.names, got, strict=True):
                binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(value))
            self._bound = binding, given, gone, got
        binding, given, gone, got = self._bound
        given[:] = x
        if self.mask:
            gone[:] = 0 if lost is None else lost
        self.graph.run_with_iobinding(binding)
        return got

    def _feeds(self, x: np.ndarray, lost: np.ndarray | None) -> dict[str, np.ndarray]:
        states = {spec.name: value for spec, value in zip(self.artifact.states, self.state, strict=True)}
        feeds = {self.audio: x, **self.constants, **states}
        if self.mask:
            feeds[self.mask] = np.zeros((self.batch, 1, x.shape[2]), np.float32) if lost is None else lost
        return feeds

    def sweep(self, hops: int) -> None:
        """After a call for so many: now and then, numbers that are next to nothing in the state become 0."""
        self._hops += hops
        if self._hops >= SWEEP:
            self._hops = 0
            for value in self.state:
                if value.dtype == np.float32:
                    value[np.abs(value) < TINY] = 0

    def turn(self, constants: dict[str, np.ndarray]) -> None:
        """Take other values of the control ports."""
        for name, value in constants.items():
            self.constants[name][:] = value

    def reset(self, rows: Any = slice(None)) -> None:
        """Bring ``rows`` of the batch to the start of a signal."""
        for value, spec in zip(self.state, self.artifact.states, strict=True):
            value[rows] = 0 if spec.initial is None else spec.initial

    def save(self) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """A copy of the memory, for `load`."""
        return [value.copy() for value in self.state], {k: v.copy() for k, v in self.constants.items()}

    def load(self, memory: tuple[list[np.ndarray], dict[str, np.ndarray]]) -> None:
        state, constants = memory
        for value, saved in zip(self.state, state, strict=True):
            value[:] = saved
        self.turn(constants)

    def constant(self, name: str, value: Any) -> np.ndarray:
        """A value for a control port as its array: for all streams, or one each.

        Errors: `ArtifactError` for a port that the model lacks or a value out of its range.
        """
        ports = self.artifact.constants
        if name not in ports:
            known = " ".join(ports) or "none"
            raise ArtifactError(f"{self.artifact.name}: has no control {name!r}; it has: {known}")
        port, array = ports[name], np.asarray(value)
        low, high = port.minimum, port.maximum
        if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
            raise ArtifactError(f"{self.artifact.name}: {name} = {value!r} is not a number")
        if (low is not None and (array < low).any()) or (high is not None and (array > high).any()):
            raise ArtifactError(
                f"{self.artifact.name}: {name} = {value} is outside {low} to {high} {port.unit}".rstrip()
            )
        made = np.empty_like(self.constants[name])
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                made[:] = array
        except ValueError:
            raise ArtifactError(
                f"{self.artifact.name}: {name} has shape {array.shape}, not {made.shape}"
            ) from None
        if not np.isfinite(made).all() or (made.dtype.kind == "i" and (made != array).any()):
            kind = "whole number" if made.dtype.kind == "i" else "float32"
            raise ArtifactError(f"{self.artifact.name}: {name} = {value} does not fit a {kind}")
        return made


@dataclass(eq=False)
class Step:
    """``engine`` forward over ``x [batch, channels, T]``, whole hops of the model's rate. ``lost
    [batch, 1, T]`` is for models with a mask: 1 where a sample is lost, None where none is.

    `run` fills in ``y [batch, channels, T]``, or ``error``, in which case the engine is as before. ``broken
    [batch]``: rows in which the model failed, if any; they are muted and at the start of a signal again.
    """

    engine: Engine
    x: np.ndarray
    lost: np.ndarray | None = None
    y: np.ndarray | None = None
    broken: np.ndarray | None = None
    error: Exception | None = None


def run(steps: Sequence[Step]) -> None:
    """Run every step, in as few calls as `STACK_ROWS` allows. No engine may occur twice."""
    if len(steps) == 1:
        _call(steps)
        return
    groups: dict[tuple, list[Step]] = {}
    for step in steps:
        engine = step.engine
        groups.setdefault((id(engine.graph), engine.names[0], step.x.shape[2]), []).append(step)
    for (_, _, length), group in groups.items():
        limit = STACK_ROWS * group[0].engine.artifact.hop // length
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
    """One call of the graph. If it fails, each step is tried alone, so that only the guilty ones fail."""
    first = steps[0].engine
    try:
        if len(steps) > 1:
            feeds = [step.engine._feeds(step.x, step.lost) for step in steps]
            rows = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
            y, *state = first.graph.run(first.names, rows)
        elif steps[0].x.shape[2] == first.artifact.hop:
            y, *state = first.alone(steps[0].x, steps[0].lost)
        else:
            y, *state = first.graph.run(first.names, first._feeds(steps[0].x, steps[0].lost))
    except Exception as error:  # see Artifact.session
        if len(steps) > 1:
            for step in steps:
                _call([step])
            return
        steps[0].error = failure(first.artifact.path, "failed while running", error)
        return
    # One product a tensor finds a NaN or infinity anywhere; sums that overflow are looked at more closely.
    sound = all(np.vdot(value, value) < np.inf for value in (y, *state) if value.dtype == np.float32)
    at = 0
    for step in steps:
        own = slice(at, at := at + step.engine.batch)
        step.y = y[own].copy()
        for value, new in zip(step.engine.state, state, strict=True):
            value[:] = new[own]
        step.engine.sweep(step.x.shape[2] // first.artifact.hop)
        if not sound:
            _mend(step)


def _mend(step: Step) -> None:
    # A state that holds a NaN would never recover, and one that holds infinity may mute the model for ever.
    assert step.y is not None
    broken = np.zeros(step.engine.batch, bool)
    for value in (step.y, *step.engine.state):
        broken |= ~np.isfinite(value).reshape(len(value), -1).all(axis=1)
    if broken.any():
        step.broken = broken
        step.y[broken] = 0
        step.engine.reset(broken)
