"""Many recordings through one piece of work, on this machine or on a cluster.

    for report in batch.run(jobs, work, workers=4):
        print(report.job.source, report.error or "done")

A `Job` is a recording and the files that are made of it; a `Work` does it and gives a `Report`. A bad file is
a report with an `error` and does not stop the others. `cluster.run` does the same on the machines of a Ray
cluster.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiomask.audio import AudioError, check_writable
from audiomask.runtime.artifact import choose

if TYPE_CHECKING:
    from concurrent.futures import Future

    from audiomask.masks.packets import Bursts
    from audiomask.sources import Source

LOSSY = "lossy"  # the file of what was left of a recording after losses
Tick = Callable[[float, float], None]  # seconds done, seconds by the header


@dataclass(frozen=True, eq=False)
class Job:
    """A recording and the files that are made of it, by name, in the order in which they appear: where the
    last one is, the job is done.
    """

    source: Source
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The first file that is not of losses."""
        return next(path for name, path in self.files.items() if name != LOSSY)


@dataclass
class Report:
    """How one job went.

    Args:
        model: its name.
        seconds: of sound; `elapsed`: that it took.
        notes: for the user.
        error: None for a finished one.
        bursts: what was lost of the recording, if anything could be.
        result: what the work found, where it goes to no file of the job.
    """

    job: Job
    model: str = ""
    seconds: float = 0.0
    elapsed: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: AudioError | None = None
    bursts: Bursts | None = None
    result: Any = None


class Cancelled(BaseException):
    """A request of another thread to stop; no Exception, so that nothing on the way takes it for a bad
    file.
    """


class Work:
    """What is done to each recording.

    A subclass has `do`. `family`: its models; `overwrite`: its files may exist; `threads`: that a job needs.
    """

    family: Sequence[Any] = ()
    overwrite, threads = False, 1

    def do(self, job: Job, reader: Any, tick: Tick) -> Report:
        """Do a job whose recording is open. Raises `AudioError`; then none of its files is there."""
        raise NotImplementedError

    def model_of(self, reader: Any) -> str:
        """Return the name of the model that a recording goes through."""
        return choose(self.family, reader.info.rate).name

    def open(self, source: Source) -> Any:
        """Return the context of an open recording."""
        return source.open()

    def __call__(self, job: Job, tick: Tick) -> Report:
        """Do a job. `tick` is called with every block; it raises `Cancelled` where the batch has ended."""
        start = time.perf_counter()
        for path in job.files.values():
            check_writable(path, overwrite=self.overwrite)
        with self.open(job.source) as reader:
            report = self.do(job, reader, tick)
        report.elapsed = time.perf_counter() - start
        return report

    def finished(self, job: Job) -> Report | None:
        """Return the report of a job that a lost worker had done, else None.

        The driver has seen that no file of it existed, so the last one was written in this run, and so was
        any that stands alone, which goes. With `overwrite` that cannot be known, and the job is done again.
        """
        paths = list(job.files.values())
        if self.overwrite or not paths:
            return None
        if not paths[-1].exists():
            for path in paths:
                path.unlink(missing_ok=True)
            return None
        with self.open(job.source) as reader:
            note = (
                f"{paths[-1]}: its worker was lost right after writing it, and any warning about it with it"
            )
            return Report(job, self.model_of(reader), reader.info.seconds, notes=[note])


def reported(
    job: Job, reader: Any, model: str, faults: int = 0, became: str = "count as silence", **more: Any
) -> Report:
    """Return the report of a recording that was read to its end; `became`: what blocks with faults did."""
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

    They are threads, since graphs run outside Python's lock. If the caller stops (an interrupt, `close()`),
    the running ones are abandoned and cleaned up before this returns.
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
    from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait  # start-up without is faster

    queue = iter(jobs)
    running: set[Future[Report]] = set()
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="batch") as pool:
        try:
            while True:
                # No more in flight than workers: a list of a million files waits here, not in the pool.
                running |= {pool.submit(one, job) for job in islice(queue, workers - len(running))}
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
        finally:
            stop.set()


def in_order(jobs: Sequence[Job], reports: Iterator[Report]) -> Iterator[Report]:
    """Yield the reports of jobs in the order of the jobs, each as soon as those before it are there."""
    early: dict[Job, Report] = {}
    with closing(reports) as reports:  # type: ignore[type-var]
        for job in jobs:
            while job not in early:
                report = next(reports)
                early[report.job] = report
            yield early.pop(job)
