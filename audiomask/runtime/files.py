"""Files through a session, in constant memory, several at once: the same samples as live.

A job reads blocks, feeds them to a `Session` at the file's own rate and channels, and writes what comes out;
the output is aligned with the input and has its length, rate and channels and, unless asked otherwise, its
format. A model of several channels takes files of as many, and may make one channel of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio import AudioError, Reader, Writer, choose_format
from audiomask.masks.packets import Bursts
from audiomask.runtime.artifact import Artifact, choose
from audiomask.runtime.losses import Classical, Loss, Losses, Whole
from audiomask.runtime.player import BULK_HOPS
from audiomask.runtime.polyphase import Polyphase
from audiomask.runtime.session import Session
from audiomask.sources import Source


@dataclass(frozen=True)
class Options:
    """What all files of a batch share. ``controls``: of the model; ``rate``: of the output, in Hz;
    ``loss``: what is lost of them, for models that conceal it."""

    dry: float = 0.0
    controls: dict[str, Any] = field(default_factory=dict)
    subtype: str | None = None
    clip: str | None = None
    rate: int | None = None
    overwrite: bool = False
    threads: int = 1
    loss: Loss | None = None


@dataclass(frozen=True)
class Job:
    """``lossy``: where what was left of the source goes, if anywhere."""

    source: Source
    output: Path
    lossy: Path | None = None

    @property
    def written(self) -> list[Path]:
        """Its files, in the order in which they appear: where the last one is, the job is done."""
        return [self.lossy, self.output] if self.lossy else [self.output]


@dataclass
class Report:
    """How one file went. ``error`` is None for a finished one; ``notes`` have to be shown to the user;
    ``bursts``: what was lost of it, if anything could be."""

    job: Job
    model: str = ""
    seconds: float = 0.0
    elapsed: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: AudioError | None = None
    bursts: Bursts | None = None


class Cancelled(BaseException):
    """Another thread asked this one to stop; no Exception, so that nothing on the way takes it for a bad
    file."""


def enhanced(
    reader: Reader,
    artifact: Artifact | Classical,
    options: Options,
    session: Session | Whole | None = None,
    losses: Losses | None = None,
) -> Iterator[np.ndarray]:
    """What ``reader`` holds, less ``losses``, through ``artifact``: blocks ``[outputs, n]`` at
    ``options.rate`` or the file's own rate."""
    info = reader.info
    session = session or open_session(reader, artifact, options)
    frames = max(1, BULK_HOPS * artifact.hop * info.rate // artifact.sample_rate)
    convert = (
        Polyphase(info.rate, options.rate, session.outputs) if options.rate not in (None, info.rate) else None
    )
    total = done = 0
    blocks = reader.blocks(frames)
    for x, lost in losses.heard(blocks) if losses else ((x, None) for x in blocks):
        total += x.shape[1]
        y = session.feed(x, lost)
        y = convert.push(y) if convert else y
        done += y.shape[1]
        yield y
    y = np.atleast_2d(session.flush())
    if convert and options.rate:
        # ceil(T rate): a port's length by the contract; zeros push the converter's look-ahead out.
        rest = -(-total * options.rate // info.rate) - done
        y = convert.push(
            np.concatenate((y, np.zeros((session.outputs, 2 * convert.half), np.float32)), axis=1)
        )[:, :rest]
    yield y


def open_session(reader: Reader, artifact: Artifact | Classical, options: Options) -> Session | Whole:
    """Errors: `AudioError` for a file of another number of channels than the model takes."""
    if isinstance(artifact, Classical):
        return artifact.open(reader.info.rate, reader.info.channels)
    channels, wanted = reader.info.channels, artifact.streams[0].channels
    if channels != wanted > 1:
        raise AudioError(
            f"{reader.name}: has {channels} channel{'s' * (channels > 1)}, and {artifact.name} takes "
            f"{wanted} microphones, a channel each; choose another file, or another model with -m"
        )
    return Session(
        artifact,
        sample_rate=reader.info.rate,
        channels=channels,
        threads=options.threads,
        dry=options.dry,
        controls=options.controls,
    )


def enhance_file(
    job: Job,
    family: Sequence[Artifact | Classical],
    options: Options,
    progress: Callable[[float, float], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Report:
    """One file. ``progress(seconds done, seconds by the header)``; ``cancelled`` is asked once a block.

    Errors: `AudioError`; whatever happens, nothing half-written stays.
    """
    start = time.perf_counter()
    with job.source.open() as reader:
        info = reader.info
        artifact = choose(family, info.rate)
        rate = options.rate or info.rate
        format, subtype = choose_format(job.output, subtype=options.subtype, like=info)
        session = open_session(reader, artifact, options)
        losses = options.loss.of(job.source, info) if options.loss else None
        how: dict[str, Any] = {
            "format": format,
            "subtype": subtype,
            "clip": options.clip,
            "overwrite": options.overwrite,
        }
        with ExitStack() as stack:
            frames = info.frames * rate // info.rate
            writer = stack.enter_context(Writer(job.output, rate, session.outputs, frames=frames, **how))
            if job.lossy and losses:  # left first, so it is there before the output is
                lossy = Writer(job.lossy, info.rate, info.channels, frames=info.frames, **how)
                losses.copy = stack.enter_context(lossy).write
            for y in enhanced(reader, artifact, options, session, losses):
                if cancelled():
                    raise Cancelled
                writer.write(y)
                if progress:
                    progress(reader.position / info.rate, info.seconds)
        notes = reader.notes + writer.notes
        if session.faults:
            notes.append(f"{job.source}: the model failed in {session.faults} blocks, which were muted")
        if artifact.sample_rate < min(info.rate, rate):
            notes.append(
                f"{job.source}: {artifact.name} works at {artifact.sample_rate} Hz, so nothing above "
                f"{artifact.sample_rate // 2} Hz is left of the {info.rate} Hz input"
            )
        seconds, elapsed = reader.position / info.rate, time.perf_counter() - start
        bursts = losses.bursts() if losses else None
        return Report(job, artifact.name, seconds, elapsed, notes, bursts=bursts)


def enhance_batch(
    jobs: Iterable[Job],
    family: Sequence[Artifact | Classical],
    options: Options,
    *,
    workers: int = 1,
    progress: Callable[[Job, float, float], None] | None = None,
) -> Iterator[Report]:
    """Many files, ``workers`` at once (threads: the graph runs outside Python's lock); a `Report` each as it
    ends.

    A bad file is a report with ``error``. If the caller stops (an interrupt, ``close()``), running files are
    abandoned and cleaned up before this returns.
    """
    stop = threading.Event()

    def one(job: Job) -> Report:
        try:
            tell = (lambda done, total: progress(job, done, total)) if progress else None
            return enhance_file(job, family, options, tell, stop.is_set)
        except AudioError as error:
            return Report(job, error=error)

    queue = iter(jobs)
    running: set[Future[Report]] = set()
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="enhance") as pool:
        try:
            while True:
                # No more in flight than workers: a list of a million files waits here, not in the pool.
                while len(running) < workers and (job := next(queue, None)) is not None:
                    running.add(pool.submit(one, job))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            stop.set()
