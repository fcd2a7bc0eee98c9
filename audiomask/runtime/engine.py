"""A model and its state, stepped hop by hop: the thin layer on ONNX Runtime below
`audiomask.runtime.session`.

Inputs, outputs and both copies of the state live in memory that is bound to the graph once. A step writes its
state into the other copy and the two change places, so nothing is allocated or looked up while sound is
running.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from audiomask.runtime.artifact import Artifact, ArtifactError

MAX_PLANS = 8  # bound block lengths kept: a session uses powers of two up to 64 hops


@dataclass
class Plan:
    """Memory bound for steps of one length: ``x[port]`` to fill, ``y[port]`` to read, ``[batch, channels,
    frames]``."""

    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray]
    bindings: tuple[Any, Any]


class Engine:
    """``batch`` independent streams through one graph."""

    def __init__(self, artifact: Artifact, batch: int = 1, threads: int = 1):
        import onnxruntime as ort

        self.artifact, self.batch = artifact, batch
        self._value = ort.OrtValue.ortvalue_from_numpy  # shares the array's memory on a CPU
        self._session = artifact.session(threads)
        self._run = self._session.run_with_iobinding
        shapes = {node.name: node.shape for node in self._session.get_inputs()}
        types = {node.name: node.type for node in self._session.get_inputs()}
        self.constants: dict[str, np.ndarray] = {}
        for port in artifact.constants.values():
            width = () if len(shapes[port.name]) == 1 else np.shape(port.default) or (port.channels,)
            dtype = np.int64 if types[port.name] == "tensor(int64)" else np.float32
            value = np.zeros((batch, *width), dtype)
            value[:] = 0 if port.default is None else port.default
            self.constants[port.name] = value
        self._states = tuple([spec.rows(batch) for spec in artifact.states] for _ in range(2))
        self._turn = 0
        self._plans: dict[int, Plan] = {}

    @property
    def state(self) -> list[np.ndarray]:
        """The present state, ``[batch, ...]`` per dtype: the memory itself, so that it can be set in
        place."""
        return self._states[self._turn]

    def reset(self, rows: Any = slice(None)) -> None:
        """Bring ``rows`` of the batch to the start of a signal."""
        for value, spec in zip(self.state, self.artifact.states, strict=True):
            value[rows] = 0 if spec.initial is None else spec.initial

    def set(self, name: str, value: Any) -> None:
        """Set a constant port, for all streams or one value each.

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
        try:
            self.constants[name][:] = array
        except ValueError:
            shape = self.constants[name].shape
            raise ArtifactError(
                f"{self.artifact.name}: {name} has shape {array.shape}, not {shape}"
            ) from None

    def plan(self, hops: int) -> Plan:
        """The bound memory for steps of ``hops`` hops."""
        plan = self._plans.get(hops)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                del self._plans[next(key for key in self._plans if key != 1)]
            plan = self._plans[hops] = self._bind(hops)
        return plan

    def _bind(self, hops: int) -> Plan:
        time = hops * self.artifact.hop
        x = {
            p.name: np.zeros((self.batch, p.channels, int(time * p.rate)), np.float32)
            for p in self.artifact.streams
        }
        types = {node.name: node.type for node in self._session.get_outputs()}
        y = {
            p.name: np.zeros(
                (self.batch, p.channels, int(time * p.rate)),
                np.int64 if types[p.name] == "tensor(int64)" else np.float32,
            )
            for p in self.artifact.outputs
        }
        inputs = {name: self._value(a) for name, a in {**x, **self.constants}.items()}
        outputs = {name: self._value(a) for name, a in y.items()}
        bindings = []
        for turn in range(2):
            binding = self._session.io_binding()
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name, value in outputs.items():
                binding.bind_ortvalue_output(name, value)
            for spec, now, then in zip(
                self.artifact.states, self._states[turn], self._states[1 - turn], strict=True
            ):
                binding.bind_ortvalue_input(spec.name, self._value(now))
                binding.bind_ortvalue_output(f"next_{spec.name}", self._value(then))
            bindings.append(binding)
        return Plan(x, y, (bindings[0], bindings[1]))

    def step(self, plan: Plan) -> None:
        """Run the graph on ``plan.x`` into ``plan.y`` and move the state on.

        Errors: `ArtifactError` if the graph fails.
        """
        try:
            self._run(plan.bindings[self._turn])
        except Exception as error:  # see Artifact.session
            words = str(error).splitlines()[0][:300]
            raise ArtifactError(
                f"{self.artifact.path}: failed while running ({words}); export it again"
            ) from None
        self._turn = 1 - self._turn
