"""Do one piece of work on many recordings, on this machine or on a cluster.

    for report in batch.run(jobs, work, workers=4):
        print(report.job.source, report.error or "done")

A `Job` is a recording and the files that are made of it; a `Work` does it and returns a `Report`. A bad file
gives a report with an `error` and does not stop the others. `cluster.run` uses the machines of a Ray cluster.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from audiomask.audio import AudioError, check_writable
from audiomask.audio.sources import SUFFIXES, Source
from audiomask.masks.packets import Bursts
from audiomask.runtime.catalogue import choose

LOSSY = "lossy"  # names the file of what was left of a recording after losses
Tick = Callable[[float, float], None]  # takes the seconds done and those by the header


@dataclass(frozen=True, eq=False)
class Job:
    """A recording and its files by name, which appear in this order: the last one ends the job."""

    source: Source
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """Return the first file that is not the lossy one."""
        return next(path for name, path in self.files.items() if name != LOSSY)


@dataclass
class Report:
    """A report that says how one job went."""

    job: Job
    model: str = ""  # the name of the model
    seconds: float = 0.0  # the length of the recording
    elapsed: float = 0.0  # the seconds that the job took
    notes: list[str] = field(default_factory=list)  # remarks for the user
    error: AudioError | None = None  # why the job failed; None for a finished one
    bursts: Bursts | None = None  # the losses of the recording, if it could have any
    result: Any = None  # what the work found, if that goes to no file of the job


class Cancelled(BaseException):
    """Another thread's request to stop; no `Exception`, so that nothing takes it for a bad file."""


class Work:
    """The work that is done on each recording; a subclass defines `do`."""

    family: Sequence[Any] = ()  # models
    outputs: Sequence[Any] = ()  # the files that a recording becomes, each a `sinks.Output`
    suffixes: frozenset[str] = SUFFIXES  # of its inputs in a folder
    overwrite, threads = False, 1  # whether files may exist; threads that a job needs

    def do(self, job: Job, reader: Any, tick: Tick) -> Report:
        """Do a job whose recording is open, or raise `AudioError` and leave none of its files."""
        raise NotImplementedError

    def check(self, sources: Sequence[Source]) -> None:
        """Load what is needed first, or raise `AudioError` for what no recording can change."""

    def model_of(self, reader: Any) -> str:
        """Return the name of the model that a recording goes through."""
        return choose(self.family, reader.info.rate).name

    def open(self, source: Source) -> Any:
        """Return the open recording as a context manager."""
        return source.open()

    def __call__(self, job: Job, tick: Tick) -> Report:
        """Do a job; `tick`, called with every block, raises `Cancelled` once the batch has ended."""
        start = time.perf_counter()
        for path in job.files.values():
            check_writable(path, overwrite=self.overwrite)
        with self.open(job.source) as reader:
            report = self.do(job, reader, tick)
        report.elapsed = time.perf_counter() - start
        return report

    def finished(self, job: Job) -> Report | None:
        """Return the report of a job that a lost worker had done, else None.

        The driver has seen that none of its files existed, so this run wrote those that exist. If the last
        one is missing, they are removed. With `overwrite` they may be older, so the job is done again.
        """
        paths = list(job.files.values())
        if self.overwrite or not paths:
            return None
        if not paths[-1].exists():
            for path in paths:
                path.unlink(missing_ok=True)
            return None
        note = f"{paths[-1]}: its worker was lost right after writing it, and any warning about it with it"
        with self.open(job.source) as reader:
            return Report(job, self.model_of(reader), reader.info.seconds, notes=[note])


def reported(
    job: Job, reader: Any, model: str, faults: int = 0, became: str = "count as silence", **more: Any
) -> Report:
    """Return the report of a fully read recording; `became` says what the faulty blocks did."""
    notes = list(reader.notes)
    if faults:
        notes.append(f"{job.source}: the model failed in {faults} blocks, which {became}")
    return Report(job, model, reader.position / reader.info.rate, notes=notes, **more)


def run(
    jobs: Iterable[Job],
    work: Work,
    *,
    workers: int = 1,
    progress: Callable[[Job, float, float], None] | None = None,
) -> Iterator[Report]:
    """Do many jobs, `workers` at once, and yield a report of each as it ends.

    Workers are threads, since graphs run outside Python's lock. If the caller stops (an interrupt,
    `close()`), the running jobs are abandoned and cleaned up before this returns.
    """
    stop = threading.Event()

    def one(job: Job) -> Report:
        def tick(done: float, total: float) -> None:
            if stop.is_set():
                raise Cancelled
            if progress:
                progress(job, done, total)

        try:
            return work(job, tick)
        except AudioError as error:
            return Report(job, error=error)

    if workers == 1:
        yield from map(one, jobs)
        return
    from concurrent import futures  # start-up is faster without

    queue = iter(jobs)
    running: set[futures.Future[Report]] = set()
    with futures.ThreadPoolExecutor(max_workers=workers, thread_name_prefix="batch") as pool:
        try:
            while True:
                # No more jobs than workers are in flight: a million files wait here and not in the pool.
                running |= {pool.submit(one, job) for job in islice(queue, workers - len(running))}
                if not running:
                    return
                ended, running = futures.wait(running, return_when=futures.FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
        finally:
            stop.set()


def in_order(jobs: Sequence[Job], reports: Iterator[Report]) -> Iterator[Report]:
    """Yield reports in the order of their jobs, each as soon as those before it are there."""
    early: dict[Job, Report] = {}
    with closing(reports) as reports:  # type: ignore[type-var]
        for job in jobs:
            while job not in early:
                report = next(reports)
                early[report.job] = report
            yield early.pop(job)
