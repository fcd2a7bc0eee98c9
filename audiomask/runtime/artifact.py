"""Load models: ONNX files whose metadata key `audiomask` says all that running them needs."""

from __future__ import annotations

import base64
import json
import math
import signal
import threading
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio import AudioError
from audiomask.ports import Port
from audiomask.runtime.onnx_parser import MalformedError, parse

FORMAT, READ = 2, (1, 2)  # formats written, and read; 1 says constant for control and mask for lost
KEY = "audiomask"
MAX_STATE = 64 * 2**20  # elements; the largest model here has well under one million
MAX_BYTES = 2**31 - 1  # protobuf's own limit
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "int64": np.dtype(np.int64)}
_KINDS = {np.dtype(np.float32): "tensor(float)", np.dtype(np.int64): "tensor(int64)"}
_CLOCK = {"sample_rate": 1, "hop": 1, "delay": 0, "latency": 1}  # entries that are integers, and the least
REQUIRED = ("format", "name", "task", *_CLOCK, "inputs", "outputs", "states")


class ArtifactError(AudioError):
    """An error that a model cannot be found or must not be run."""


@dataclass(frozen=True)
class StateSpec:
    """A packed state tensor of one dtype; `initial` is one row, or 0."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    initial: np.ndarray | int

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> StateSpec:
        name = entry["name"]
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"state {name}: dtype {entry['dtype']!r} is not one of {' '.join(_DTYPES)}")
        dtype = _DTYPES[entry["dtype"]]
        shape = tuple(int(n) for n in entry["shape"])
        if any(n < 0 for n in shape) or math.prod(shape) > MAX_STATE:
            raise ValueError(f"state {name}: shape {list(shape)} is beyond {MAX_STATE} elements")
        initial = entry.get("initial")
        if initial is None:
            return cls(name, dtype, shape, 0)
        if isinstance(initial, dict):
            raw = base64.b64decode(initial["base64"], validate=True)
            initial = np.frombuffer(raw, dtype.newbyteorder("<"))
        flat = np.asarray(initial, dtype)
        if flat.size != math.prod(shape):
            raise ValueError(f"state {name}: {flat.size} initial values for {math.prod(shape)} elements")
        return cls(name, dtype, shape, flat.reshape(shape))

    def rows(self, batch: int) -> np.ndarray:
        """Return the state of `batch` streams at their start, `[batch, *shape]`."""
        return np.full((batch, *self.shape), self.initial, self.dtype)


@dataclass
class Artifact:
    """A validated model; `hop`, `delay` and `latency` are in samples of `sample_rate`."""

    path: Path
    meta: dict[str, Any]
    data: bytes = field(repr=False)
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    states: tuple[StateSpec, ...] = ()
    operators: int = 0
    _sessions: dict[int, Any] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.name: str = self.meta["name"]
        self.task: str = self.meta["task"]
        self.sample_rate: int = self.meta["sample_rate"]
        self.hop: int = self.meta["hop"]
        self.delay: int = self.meta["delay"]
        self.latency: int = self.meta["latency"]

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """Read and validate a file, or raise `ArtifactError`, which says what is wrong with it."""
        path = Path(path)

        def wrong(words: str) -> ArtifactError:
            return ArtifactError(f"{path}: {words}")

        try:
            if path.stat().st_size > MAX_BYTES:
                raise wrong("is larger than an ONNX file can be; it is something else")
            data = path.read_bytes()
            contents = parse(data)
        except OSError as error:
            raise wrong(f"cannot be read ({error.strerror}); check the name and its rights") from None
        except MalformedError as error:
            raise wrong(f"is no ONNX model ({error}); copy or export it again") from None
        if KEY not in contents.metadata:
            raise wrong(f"has no '{KEY}' metadata, so nobody can run it; write it with: audiomask export")
        if outside := contents.external:
            raise wrong(
                f"keeps {len(outside)} tensors ({outside[0]}, ...) elsewhere; an artifact is one file: "
                "export it again"
            )
        if foreign := sorted(f"{d}::{t}" for d, t in contents.operators if d not in ("", "ai.onnx")):
            raise wrong(f"needs the custom operators {' '.join(foreign)}; export it with plain ONNX")
        try:
            meta = json.loads(contents.metadata[KEY])
        except ValueError as error:
            raise wrong(f"its metadata is no JSON ({error}); export it again") from None
        if not isinstance(meta, dict):
            raise wrong(f"its metadata is a {type(meta).__name__}, not an object; export it again")
        if meta.get("format", 1) not in READ:
            raise wrong(
                f"has artifact format {meta['format']}, and this audiomask reads up to {FORMAT}; "
                "export the model again, or install the audiomask that wrote it"
            )
        if missing := [key for key in REQUIRED if key not in meta]:
            raise wrong(f"its metadata lacks {', '.join(missing)}; export it again")
        try:
            for key, least in _CLOCK.items():
                if not isinstance(meta[key], int) or not least <= meta[key] < 2**31:
                    raise ValueError(f"{key} is {meta[key]!r}, not an integer from {least}")
            latency, delay, hop = (meta[key] for key in ("latency", "delay", "hop"))
            if latency != delay + hop:
                raise ValueError(f"latency {latency} is not delay {delay} + hop {hop}")
            inputs, outputs = (tuple(map(Port.parse, meta[side])) for side in ("inputs", "outputs"))
            states = tuple(map(StateSpec.parse, meta["states"]))
            if sum(math.prod(s.shape) for s in states) > MAX_STATE:
                raise ValueError(f"the states are beyond {MAX_STATE} elements")
            if not inputs or not inputs[0].is_stream:
                raise ValueError("the first input is not a stream")
            for port in (*inputs, *outputs):
                if port.is_stream:
                    port.per_hop(hop)
            return cls(path, meta, data, inputs, outputs, states, contents.nodes)
        except KeyError as error:
            raise wrong(f"an entry of its metadata lacks {error}; export it again") from None
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise wrong(f"its metadata is inconsistent: {error}; export it again") from None

    @property
    def state_bytes(self) -> int:
        """Return the bytes that one stream keeps between blocks."""
        return sum(math.prod(s.shape) * s.dtype.itemsize for s in self.states)

    @property
    def controls(self) -> dict[str, Port]:
        return {port.name: port for port in self.inputs if not port.is_stream}

    def unset(self, given: Container[str] = ()) -> list[Port]:
        """Return the controls that have to be given, having no default, and are not among `given`."""
        return [port for port in self.controls.values() if port.default is None and port.name not in given]

    @property
    def streams(self) -> tuple[Port, ...]:
        return tuple(port for port in self.inputs if port.is_stream)

    @property
    def alike(self) -> bool:
        """Return whether each output is sound of the input's channels and rate."""
        first = self.streams[0]
        kind = first.type, first.channels, first.rate
        return first.type == "pcm" and all((p.type, p.channels, p.rate) == kind for p in self.outputs)

    @property
    def lost(self) -> Port | None:
        """Return the stream that flags lost frames of the first one; None if the model has none."""
        return next((port for port in self.streams[1:] if port.type == "lost"), None)

    def session(self, threads: int = 1):
        """Return the graph's session, shared by all streams; raise `ArtifactError` if it is unfit."""
        with self._lock:
            if threads not in self._sessions:
                try:
                    session = open_graph(self.data, threads)
                except Exception as error:  # ONNX Runtime raises a dozen classes without a common base
                    raise failure(self.path, "ONNX Runtime refuses it", error) from error
                self._match("inputs", session.get_inputs(), self.inputs, "")
                self._match("outputs", session.get_outputs(), self.outputs, "next_")
                self._sessions[threads] = session
            return self._sessions[threads]

    def _match(self, side: str, nodes: Iterable[Any], ports: Iterable[Port], prefix: str) -> None:
        found = {node.name: node for node in nodes}
        entries: list[tuple[str, str, tuple[int | None, ...]]] = [
            (p.name, _KINDS[p.dtype], (p.channels, None)) if p.is_stream else (p.name, "", ()) for p in ports
        ]
        entries += [(f"{prefix}{s.name}", _KINDS[s.dtype], s.shape) for s in self.states]
        names = [name for name, *_ in entries]
        if sorted(found) != sorted(names):
            raise ArtifactError(
                f"{self.path}: its metadata names the {side} {' '.join(names)}, "
                f"its graph has {' '.join(found)}; export it again"
            )
        for name, kind, sizes in entries:
            node = found[name]
            wanted = [None, *sizes]
            if not kind and len(node.shape) > 1:  # a control has one value or several
                wanted.append(None)
            # Shapes that the exporter left open (names or None) agree with everything.
            fits = len(node.shape) == len(wanted) and all(
                w is None or not isinstance(n, int) or n == w for n, w in zip(node.shape, wanted, strict=True)
            )
            if not fits or (kind and node.type != kind):
                shape = ["any" if n is None else n for n in wanted]
                raise ArtifactError(
                    f"{self.path}: {side[:-1]} {name} is {node.type} {node.shape} in its graph and "
                    f"{kind or 'a tensor'} {shape} in its metadata; export it again"
                )


def open_graph(source: bytes | str | Path, threads: int = 1):
    """Open a graph in ONNX Runtime, whose errors it raises."""
    with _undisturbed():
        import onnxruntime as ort  # takes 0.1 s, which listing models does not need

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads steal the cores of other streams between two blocks.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def failure(path: Path, what: str, error: Exception) -> Exception:
    """Return an `ArtifactError` with a remedy for an error of ONNX Runtime, else the error."""
    words = (str(error).splitlines() or [type(error).__name__])[0][:300]
    if isinstance(error, MemoryError) or "alloc" in words:  # bad_alloc, bad allocation, failed to allocate
        return ArtifactError(f"{path}: out of memory ({words}); end other programs, or give it less at once")
    if type(error).__module__.startswith("onnxruntime."):
        return ArtifactError(f"{path}: {what} ({words}); export it again")
    return error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals back: an import of an extension makes its own error of what handlers raise."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread only
        yield
        return
    heard: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None is a handler that is not Python's, and cannot be put back.
    handlers = {number: handler for number, handler in handlers.items() if handler is not None}
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: heard.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for one in heard:
            signal.raise_signal(one)
