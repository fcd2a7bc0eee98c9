"""What verbs share that make numbers of recordings, not sound: one file for all inputs, or one each in a
folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from audiomask.audio import AudioError, check_writable
from audiomask.cli import UsageError
from audiomask.cli._common import add_model_arguments, note, positive
from audiomask.cli.enhance import cores, find, progress_bars, summary
from audiomask.runtime.extract import in_order
from audiomask.runtime.files import Cancelled, Job, Report
from audiomask.runtime.player import Player
from audiomask.sources import Source

Result = TypeVar("Result")
Progress = Callable[[float, float], None]


def add_result_arguments(parser: argparse.ArgumentParser, inputs: str, out: str) -> None:
    """Inputs, -o, -f, -m, --threads, -j, --allow-pipes, -q."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=inputs)
    parser.add_argument("-o", "--out", metavar="PATH", help=out)
    parser.add_argument("-f", "--force", action="store_true", help="overwrite outputs that exist")
    add_model_arguments(parser, controls=False)
    parser.add_argument("--allow-pipes", action="store_true", help="run the shell commands of a .scp")
    parser.add_argument(
        "-j", "--jobs", type=positive, metavar="N", help="files at once (default: one per core)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary; warnings stay")


def plan(out: str, sources: list[Source], suffix: str) -> list[Job]:
    """A file of its own for each source, in a folder that mirrors theirs. Errors: `UsageError` for two that
    would be one.
    """
    folder, jobs = Path(out), []
    taken: dict[str, Source] = {}
    for source in sources:
        target = folder / Path(source.relative).with_suffix(suffix)
        if (other := taken.setdefault(os.path.realpath(target), source)) is not source:
            raise UsageError(f"{other} and {source} would both become {target}; run them apart")
        jobs.append(Job(source, target))
    return jobs


@contextmanager
def whole_file(path: Path, *, force: bool, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that appears under its name when all of it is written. Errors: `AudioError`."""
    check_writable(path, overwrite=force)
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with part.open(mode, **text) as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be written ({error.strerror}); choose another with -o") from None
    finally:
        part.unlink(missing_ok=True)


class Batch(Generic[Result]):
    """Recordings through ``work(job, progress) -> (report, result)``, several at once; ``take(job, result)``
    gets the results in the order of the inputs. A bad file does not stop the others.

    ``folder``: each writes a file of its own, which must not be there without ``force``.
    """

    def __init__(self, args: argparse.Namespace, suffix: str = ""):
        self.args, self._start = args, time.perf_counter()
        sources, self.failed = find(args)
        self.done: list[Report] = []
        self.folder = bool(suffix)
        self.jobs = plan(args.out, sources, suffix) if suffix else [Job(s, Path()) for s in sources]

    def run(
        self,
        work: Callable[[Job, Progress], tuple[Report, Result]],
        take: Callable[[Job, Result], None],
    ) -> int:
        """The exit code."""
        args = self.args
        with progress_bars(args.quiet or (not args.out and sys.stdout.isatty())) as (show, remove):

            def one(job: Job, cancelled: Callable[[], bool]) -> tuple[Report, Result]:
                def progress(done: float, total: float) -> None:
                    if cancelled():
                        raise Cancelled
                    if show:
                        show(job, done, total)

                if self.folder:
                    make_folder(job.output.parent)
                    check_writable(job.output, overwrite=args.force)
                return work(job, progress)

            for job, found in in_order(self.jobs, one, min(args.jobs or cores(), max(1, len(self.jobs)))):
                remove(job)
                if isinstance(found, AudioError):
                    self.failed.append(found)
                    continue
                report, result = found
                for text in report.notes:
                    note(f"warning: {text}")
                try:
                    take(job, result)
                except AudioError as error:
                    self.failed.append(error)
                    continue
                self.done.append(report)
        summary(self.done, self.failed, time.perf_counter() - self._start, args.quiet)
        return int(bool(self.failed))


def make_folder(path: Path) -> None:
    """Errors: `AudioError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(f"{path}: cannot become a folder ({error.strerror}); choose another -o") from None


def report(job: Job, reader: Any, player: Player, start: float) -> Report:
    """How a file went that is read to its end."""
    notes = list(reader.notes)
    if player.faults:
        notes.append(f"{job.source}: the model failed in {player.faults} blocks, which count as silence")
    seconds = reader.position / reader.info.rate
    return Report(job, player.artifact.name, seconds, time.perf_counter() - start, notes)
