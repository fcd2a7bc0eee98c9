"""Sound in, frames of something else out: probabilities of labels, embeddings.

    extractor = Extractor("tagger.onnx", sample_rate=48000)
    for block in blocks:                    # [C, T], any T
        show(extractor.feed(block))         # [K, n]: the frames that are complete
    show(extractor.flush())                 # what is left, with silence to the end of the last hop

What `Session` is for models that make sound of sound. Channels are mixed into one, as in training, unless the
model takes several. Frame j of an output of rate r per sample of the model is at the time (j + 1) / r: it
knows what came before. In all there are ceil(T r) of them for T samples, as the streaming contract has it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from audiomask.audio import AudioError
from audiomask.runtime.artifact import Artifact, ArtifactError, Port
from audiomask.runtime.engine import Engine, Step
from audiomask.runtime.engine import run as run_steps
from audiomask.runtime.polyphase import Polyphase
from audiomask.runtime.session import GARBAGE, Session
from audiomask.runtime.stack import Work

BULK_HOPS = 8  # in a call of the graph: more of these models is not faster, and their attention takes memory
FED_S = 10.0  # seconds of a file that are read at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


def output(artifact: Artifact, type: str) -> Port:
    """The output of a type. Errors: `ArtifactError` for a model without one."""
    port = next((p for p in artifact.outputs if p.kind == "stream" and p.type == type), None)
    if port is None:
        raise ArtifactError(
            f"{artifact.name}: is a model to {artifact.task}, whose output is "
            f"{' '.join(p.type for p in artifact.outputs)}, not {type}; choose another with -m"
        )
    return port


class Extractor:
    """``type``: of the output that is wanted; default the model's first. ``sample_rate``: of the blocks, in
    Hz; default the model's. ``threads``: of the graph. ``constants``: values of the model's controls.

    Attributes: ``port``; ``channels`` of a block, None for any number; ``hop``, ``delay``, ``latency`` as in
    `Session`; ``cleaned``, ``faults`` likewise.

    Errors: `ArtifactError` for a model without such an output; ValueError for blocks of a wrong shape.
    """

    def __init__(
        self,
        model: Artifact | str | Path,
        type: str = "",
        *,
        sample_rate: int | None = None,
        channels: int | None = None,
        threads: int = 1,
        **constants: Any,
    ):
        artifact = self.artifact = model if isinstance(model, Artifact) else Artifact.load(model)
        self.port = output(artifact, type or artifact.outputs[0].type)
        if len(artifact.streams) > 1:
            names = " ".join(p.name for p in artifact.streams)
            raise ArtifactError(f"{artifact.name}: takes the streams {names}; one is given here")
        self._width = artifact.streams[0].channels
        if self._width > 1 and channels not in (None, self._width):
            raise ArtifactError(f"{artifact.name}: takes {self._width} channels, not {channels}")
        self.channels = channels or self._width
        self.sample_rate = sample_rate or artifact.sample_rate
        self.engine = Engine(artifact, 1, threads, self.port.name)
        self.engine.turn({name: self.engine.constant(name, value) for name, value in constants.items()})
        self._up = None
        if self.sample_rate != artifact.sample_rate:
            self._up = Polyphase(self.sample_rate, artifact.sample_rate, self._width)
        ratio = self.sample_rate / artifact.sample_rate
        self.hop = ceil(artifact.hop * ratio - 1e-6)
        self.latency = ceil(artifact.latency * ratio - 1e-6) + (self._up.half if self._up else 0)
        self.delay = self.latency - self.hop
        self.cleaned = self.faults = 0
        self.reset()

    def reset(self) -> None:
        """Start a new signal."""
        self.engine.reset()
        if self._up:
            self._up.reset()
        self._rest = np.zeros((self._width, 0), np.float32)  # of a hop
        self._fed = self._inner = self._out = 0
        self._skip = int(self.artifact.delay * self.port.rate)

    @property
    def due(self) -> int:
        """Frames of the signal so far, if it ended here."""
        return ceil(self._due_samples * self.port.rate)

    @property
    def _due_samples(self) -> int:
        return -(-self._fed * self.artifact.sample_rate // self.sample_rate)

    def feed(self, block: np.ndarray, lost: np.ndarray | None = None) -> np.ndarray:
        """``block [T]`` or ``[C, T]``, any T, to the frames that it completes: ``[K, n]``. ``lost`` is
        ignored: none of these models is told of losses.
        """
        return _alone(self.feeding(block, lost))

    def flush(self) -> np.ndarray:
        """The last frames ``[K, n]``, then as after `reset`."""
        return _alone(self.flushing())

    def feeding(self, block: np.ndarray, lost: np.ndarray | None = None) -> Work:
        """`feed` as work whose steps somebody else runs, see `stack.drive`."""
        x = np.atleast_2d(np.asarray(block, dtype=np.float32))
        if x.ndim != 2 or not x.shape[0] or (self._width > 1 and x.shape[0] != self._width):
            raise ValueError(f"a block of shape {np.shape(block)} does not fit [{self.channels}, T]")
        good = np.abs(x) <= GARBAGE  # not so for NaN
        if not good.all():
            self.cleaned += int(x.size - good.sum())
            x = np.where(good, x, np.float32(0))
        if self._width == 1 < x.shape[0]:
            x = x.mean(axis=0, keepdims=True)
        self._fed += x.shape[1]
        return (yield from self._push(self._up.push(x) if self._up else x))

    def flushing(self) -> Work:
        """`flush` as work whose steps somebody else runs."""
        due, samples = self.due, self._due_samples
        if self._up:  # what of the signal is still in the converter
            tail = self._up.push(np.zeros((self._width, 2 * self._up.half + self._up.down), np.float32))
            parts = [(yield from self._push(tail[:, : samples - self._inner]))]
        else:
            parts = [np.zeros((self.port.channels, 0), np.float32)]
        hop = self.artifact.hop
        total = ceil((samples + self.artifact.delay) / hop) * hop if due else self._inner
        parts.append((yield from self._push(np.zeros((self._width, total - self._inner), np.float32))))
        missing = due - self._out + sum(part.shape[1] for part in parts)
        self.reset()
        return np.concatenate(parts, axis=1)[:, :missing]

    def _push(self, x: np.ndarray) -> Work:
        """Samples at the model's rate ``[C, T]`` to the frames that they complete."""
        hop = self.artifact.hop
        self._inner += x.shape[1]
        x = np.concatenate((self._rest, x), axis=1)
        hops = x.shape[1] // hop
        parts, at = [np.zeros((self.port.channels, 0), np.float32)], 0
        while at < hops:
            # Few different lengths, so that the memory of ONNX Runtime stays bound.
            bulk = 1 << min(hops - at, BULK_HOPS).bit_length() - 1
            step = Step(self.engine, x[None, :, at * hop : (at + bulk) * hop])
            yield [step]
            if step.error:
                raise step.error
            self.faults += step.broken is not None
            assert step.y is not None
            parts.append(step.y[0])
            at += bulk
        self._rest = x[:, hops * hop :].copy()
        y = np.concatenate(parts, axis=1)
        cut = min(self._skip, y.shape[1])
        self._skip -= cut
        self._out += y.shape[1] - cut
        return y[:, cut:]


def _alone(work: Work) -> np.ndarray:
    try:
        while True:
            run_steps(next(work))
    except StopIteration as end:
        return end.value


def player(artifact: Artifact, **options: Any) -> Session | Extractor:
    """What runs a model: a `Session` if it makes sound, else an `Extractor`; options are those of both."""
    if any(port.type == "pcm" for port in artifact.outputs):
        return Session(artifact, **options)
    return Extractor(artifact, **options)


def in_order(
    items: Iterable[Item], work: Callable[[Item, Callable[[], bool]], Result], workers: int
) -> Iterator[tuple[Item, Result | AudioError]]:
    """``work(item, cancelled)`` on many items, ``workers`` at once (threads: graphs run outside Python's
    lock), results in the order of the items; of a bad one its error.

    If the caller stops, ``cancelled`` becomes true, and this returns once the running ones have ended.
    """
    stop = threading.Event()

    def one(item: Item) -> tuple[Item, Result | AudioError]:
        try:
            return item, work(item, stop.is_set)
        except AudioError as error:
            return item, error

    queue = iter(items)
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="extract") as pool:
        waiting = [pool.submit(one, item) for item in islice(queue, 2 * workers)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(one, item) for item in islice(queue, 1)]
        finally:
            stop.set()
            for future in waiting:
                future.cancel()
