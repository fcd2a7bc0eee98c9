"""Run a batch on the machines of a Ray cluster: the work of `batch.py`, in more processes.

The list of files goes through Ray Data, one actor per stream of files, which loads the model once. The files
themselves are read and written by the actors, so every machine must see them under the same paths (a shared
file system) and have the same audiomask installed.

A worker that is lost (killed, out of memory, or with its machine) costs time and nothing else. Ray starts it
anew and hands it the same files again. An output appears under its name only when it is whole, so each exists
once or not yet, and the next worker removes what the dead one had begun.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from audiomask.audio import AudioError, check_writable, remove_parts
from audiomask.runtime.files.batch import Job, Report, Work

Load = Callable[[], Work]  # makes the work, with its model, on the machine where it is called
ATTEMPTS = 4  # workers that may be lost with one file: Ray would never give up on a file that kills them
BLOCKS = 4096  # parts that the list is cut into: Ray plans every part, and a lost worker repeats at most one


class Ledger:
    """An actor that counts how often each job was begun, and holds its report until it is taken."""

    def __init__(self) -> None:
        self.count: Counter[int] = Counter()
        self.reports: dict[int, Report] = {}

    def begin(self, index: int) -> int:
        self.count[index] += 1
        return self.count[index]

    def end(self, index: int, report: Report) -> None:
        self.reports[index] = report

    def take(self, index: int) -> Report:
        return self.reports.pop(index)


class Worker:
    """An actor that does the work of `load`, in the folder that relative paths start from.

    A row is an index of `jobs`, returned when the report is in the `ledger`, the handle of a `Ledger`.
    """

    def __init__(self, load: Load, folder: str, jobs: list[Job], ledger: Any):
        try:
            os.chdir(folder)
        except OSError as error:
            raise AudioError(f"{folder}: not seen from {os.uname().nodename} ({error.strerror})") from None
        self.work, self.jobs, self.ledger = load(), jobs, ledger

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        index = int(row["index"])
        job = self.jobs[index]
        try:
            for path in job.files.values():
                remove_parts(path)  # left by a worker that was lost with this file
            if ray.get(self.ledger.begin.remote(index)) > ATTEMPTS:
                raise AudioError(
                    f"{job.source}: {ATTEMPTS} workers were lost with it, killed or out of memory; "
                    "try it alone, without --ray"
                )
            report = self.work.finished(job) or self.work(job, lambda done, total: None)
        except AudioError as error:
            report = Report(job, error=AudioError(str(error)))
        ray.get(self.ledger.end.remote(index, report))
        return row


def run(
    jobs: Iterable[Job], load: Load, work: Work, address: str, workers: int | None = None
) -> Iterator[Report]:
    """Do jobs like `batch.run`, but on the cluster at `address`.

    The address "local" makes a cluster of this machine for this run. `load` makes the work anew on each
    machine, and `workers` files are done at once (default: all processors). No file may be its own output.
    Raises `AudioError` for a cluster that cannot be reached or used. A file that takes its workers with it
    gives a report with `error`, as a bad one does.
    """
    import ray
    import ray.data

    jobs = list(jobs)
    missing: set[int] = set()
    for index, job in enumerate(jobs):
        try:
            for path in job.files.values():
                check_writable(path, overwrite=work.overwrite)
        except AudioError as error:
            yield Report(job, error=error)
        else:
            missing.add(index)
    if not missing:
        return
    rows = [{"index": index} for index in sorted(missing)]
    try:
        with _connected(address):
            cpus = int(ray.cluster_resources().get("CPU", 0))
            if cpus < work.threads:
                raise AudioError(f"--ray {address}: it has {cpus} CPUs, too few for --threads {work.threads}")
            size = min(workers or cpus, cpus // work.threads, len(rows))
            ray.data.DataContext.get_current().enable_progress_bars = False
            ledger: Any = ray.remote(num_cpus=0)(Ledger).remote()
            actor: Any = Worker  # Ray's types know functions only
            done = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map(
                actor,
                fn_constructor_args=(load, str(Path.cwd()), jobs, ledger),
                # One file in flight: a short one must not wait behind a long one.
                compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
                num_cpus=work.threads,
            )
            for row in done.iter_rows():
                index = int(row["index"])
                missing.discard(index)
                yield replace(ray.get(ledger.take.remote(index)), job=jobs[index])
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise AudioError(f"--ray {address}: the cluster gave up ({reason}); see its logs") from None
    finally:
        for lost in missing:
            for path in jobs[lost].files.values():
                remove_parts(path)


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster, and keep the signal handler that was there before."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unasked
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of what Ray Data itself does
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AudioError(
            f"--ray {address}: no cluster can be used there ({reason}); `ray start --head` starts one, "
            "--ray local takes this machine"
        ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # each lost worker would be a page of warnings
    if main:
        signal.signal(signal.SIGTERM, before)  # ray sets its own, and then nothing is cleaned up
    try:
        yield
    finally:
        ray.shutdown()
