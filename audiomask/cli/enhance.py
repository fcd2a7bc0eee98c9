"""denoise recordings: files, folders, globs, Kaldi data directories, standard input

Output has the input's length, rate, channels and format and is aligned with it; a model for a microphone
array takes files of a channel per microphone and makes one channel of them. Without -o it is written
beside the input; with -o it goes to a file (one input), into a folder (which mirrors the input's), or with
'-o -' to standard output. A bad file does not stop the others: failures are listed at the end, and the exit
code is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from audiomask.audio import CLIP_POLICIES, FORMATS, AudioError
from audiomask.cli import UsageError, trace
from audiomask.cli._common import add_model_arguments, controls, note, positive, refuse_told
from audiomask.runtime.artifact import Artifact, resolve
from audiomask.runtime.files import Job, Options, Report, enhance_batch
from audiomask.runtime.losses import Classical
from audiomask.runtime.session import Session
from audiomask.sources import Source, find_audio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file_arguments(parser)


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """What every verb takes that makes files of files, for `batch`."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="file, folder, glob, .scp, data directory or -"
    )
    parser.add_argument("-o", "--out", metavar="PATH", help="file, folder or - (default: beside the input)")
    parser.add_argument(
        "--filename",
        metavar="TEMPLATE",
        help="of {stem} {source} {model} {ext}; default {stem}.{ext} with -o, {stem}_{source}.{ext} without",
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite outputs that exist")
    add_model_arguments(parser)
    parser.add_argument(
        "--format", choices=sorted(s[1:] for s in FORMATS), help="of the output (default: the input's)"
    )
    parser.add_argument(
        "--subtype", metavar="PCM_16|PCM_24|FLOAT", help="of the output (default: the input's)"
    )
    parser.add_argument("--rate", type=positive, metavar="HZ", help="of the output (default: the input's)")
    parser.add_argument(
        "--clip",
        choices=CLIP_POLICIES,
        help="beyond full scale: turn all down, cut (default), or leave to the format",
    )
    parser.add_argument("--allow-pipes", action="store_true", help="run the shell commands of a .scp")
    parser.add_argument(
        "-j", "--jobs", type=positive, metavar="N", help="files at once (default: one per core)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="spread the files over a Ray cluster with a shared disk: auto, HOST:PORT, or local",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary; warnings stay")


def run(args: argparse.Namespace) -> int:
    return batch(args, partial(_untold, args.model), file_options(args))[0]


def _untold(model: str | None) -> list[Artifact]:
    """Errors: `UsageError` for a model that has to be told what is lost."""
    family = resolve(model)
    refuse_told(family, "use audiomask conceal")
    return family


def file_options(args: argparse.Namespace, **more: Any) -> Options:
    """What the arguments say, and ``more``."""
    return Options(
        dry=args.dry,
        constants=controls(args),
        subtype=args.subtype,
        clip=args.clip,
        rate=args.rate,
        overwrite=args.force,
        threads=args.threads,
        **more,
    )


def batch(
    args: argparse.Namespace,
    load: Callable[[], Sequence[Artifact | Classical]],
    options: Options,
    arranged: Callable[[list[Job]], list[Job]] = lambda jobs: jobs,
) -> tuple[int, list[Report]]:
    """All inputs through the model that ``load`` finds, here and on each machine of a cluster: the exit code,
    and how the finished ones went. ``arranged`` may change the jobs before they run. Errors: `UsageError`,
    `AudioError` for what no file can be to blame for."""
    family = load()
    for artifact in family:  # a wrong control is one error here, not one for each file
        if not isinstance(artifact, Classical):
            Session(artifact, dry=args.dry, **options.constants)
    to_stdout = args.out == "-"
    with tempfile.TemporaryDirectory(prefix="audiomask-") if to_stdout else _nothing() as folder:
        sources, failed = find(args)
        if args.ray and (to_stdout or any(s.path == "-" for s in sources)):
            raise UsageError("--ray: takes files to files; standard input and output stay on one machine")
        if to_stdout and len(sources) + len(failed) > 1:
            raise UsageError(f"-o -: standard output takes one file, and the inputs name {len(sources)}")
        suffix = f".{args.format or 'wav'}"
        jobs = arranged(
            [Job(s, Path(folder) / f"out{suffix}") for s in sources]
            if to_stdout
            else _plan(args, sources, family)
        )
        start = time.perf_counter()
        reports: list[Report] = []
        with progress_bars(args.quiet or to_stdout or bool(args.ray)) as (show, remove):
            for report in _reports(args, jobs, family, load, options, show):
                remove(report.job)
                reports.append(report)
                for text in report.notes:
                    note(f"warning: {text}")
        done = [r for r in reports if r.error is None]
        failed += [r.error for r in reports if r.error is not None]
        if to_stdout and done:
            with done[0].job.output.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        elif any(r.job.source.key for r in done):
            _write_scp(Path(args.out), [r.job for r in done])
    summary(done, failed, time.perf_counter() - start, args.quiet)
    return int(bool(failed)), done


def _reports(
    args: argparse.Namespace,
    jobs: list[Job],
    family: Sequence[Artifact | Classical],
    load: Callable[[], Sequence[Artifact | Classical]],
    options: Options,
    show,
) -> Iterator[Report]:
    """The jobs done, on this machine or on a cluster."""
    if not args.ray:
        workers = min(args.jobs or cores(), max(1, len(jobs)))
        return enhance_batch(jobs, family, options, workers=workers, progress=show)
    for job in jobs:
        if os.path.realpath(job.output) == os.path.realpath(job.source.path):
            raise UsageError(
                f"{job.source}: --ray does not write in place, since a file that is begun again after a lost "
                "worker would be enhanced twice; choose another -o"
            )
    from audiomask.runtime.cluster import enhance_on_ray

    return enhance_on_ray(jobs, load, options, args.ray, args.jobs)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _nothing():
    yield ""


def find(args: argparse.Namespace) -> tuple[list[Source], list[AudioError]]:
    found: dict[tuple[str, str | None], Source] = {}
    failed = []
    exclude = args.out if args.out and args.out != "-" else None
    for text in args.inputs:
        try:
            found.update(
                {
                    (s.path, s.key): s
                    for s in find_audio([text], exclude=exclude, allow_pipes=args.allow_pipes)
                }
            )
        except AudioError as error:
            failed.append(error)
    return list(found.values()), failed


def _plan(args: argparse.Namespace, sources: list[Source], family: Sequence) -> list[Job]:
    """Where each output goes. Errors: UsageError for outputs that would collide or have no place."""
    out = Path(args.out) if args.out else None
    is_folder = out is not None and (
        out.is_dir() or str(args.out).endswith("/") or len(sources) != 1 or out.suffix.lower() not in FORMATS
    )
    if is_folder and out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AudioError(f"{out}: cannot become a folder ({error.strerror}); choose another -o") from None
    source_name = next((p.name for p in family[0].outputs if p.type == "pcm"), "enhanced")
    template = args.filename or ("{stem}.{ext}" if out else "{stem}_{source}.{ext}")
    jobs: list[Job] = []
    taken: dict[str, Source] = {}
    for source in sources:
        relative = Path(source.relative)
        suffix = f".{args.format}" if args.format else relative.suffix.lower()
        suffix = suffix if suffix in FORMATS else ".wav"
        if out is not None and not is_folder:
            target = out if not args.format else out.with_suffix(suffix)
        else:
            if out is None and (source.path == "-" or source.key):
                raise UsageError(f"{source}: has no folder of its own; say where to write with -o")
            try:
                name = template.format(
                    stem=relative.stem, source=source_name, model=family[0].name, ext=suffix[1:]
                )
            except (KeyError, IndexError, ValueError):
                raise UsageError(
                    f"--filename {template}: use only {{stem}} {{source}} {{model}} {{ext}}"
                ) from None
            target = (out / relative.parent if out is not None else Path(source.path).parent) / name
            if out is not None and target.parent != out:
                target.parent.mkdir(parents=True, exist_ok=True)
        key = os.path.realpath(target)
        if key in taken:
            raise UsageError(
                f"{taken[key]} and {source} would both become {target}; run them apart, or give -o a folder"
            )
        taken[key] = source
        jobs.append(Job(source, target))
    inputs = {os.path.realpath(s.path): s for s in sources if s.path != "-" and not s.command}
    for job in jobs:
        victim = inputs.get(os.path.realpath(job.output))
        if victim is not None and victim is not job.source:
            raise UsageError(
                f"the output of {job.source} would overwrite the input {victim}; choose another -o"
            )
    return jobs


def _write_scp(out: Path, jobs: list[Job]) -> None:
    """A Kaldi list of what was written, so that the output folder is a data directory again."""
    folder = out if out.is_dir() else out.parent
    lines = sorted(f"{job.source.key} {job.output}\n" for job in jobs if job.source.key)
    part = folder / ".wav.scp.part"
    part.write_text("".join(lines), encoding="utf-8")
    part.replace(folder / "wav.scp")


@contextmanager
def progress_bars(quiet: bool):
    """A bar for each running file on a terminal, with its speed and the time left: two functions, to move the
    bar of a job and to remove it."""
    if quiet or not sys.stderr.isatty():
        yield None, lambda job: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[speed]:.0f} x real time"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[Job, tuple[TaskID, float]] = {}

        def show(job: Job, done: float, total: float) -> None:
            now = time.monotonic()
            if job not in tasks:
                tasks[job] = bars.add_task(str(job.source), total=total, speed=0.0), now
            task, start = tasks[job]
            bars.update(task, completed=done, speed=done / max(now - start, 0.1))

        def remove(job: Job) -> None:
            if job in tasks:
                bars.remove_task(tasks.pop(job)[0])

        yield show, remove


def summary(done: list[Report], failed: list[AudioError], elapsed: float, quiet: bool) -> None:
    if done:
        seconds = sum(r.seconds for r in done)
        models = ", ".join(f"{name}: {n}" for name, n in sorted(Counter(r.model for r in done).items()))
        files = f"{len(done)} file{'s' * (len(done) != 1)}"
        note(
            f"{files}, {seconds:.1f} s of sound in {elapsed:.1f} s "
            f"({seconds / max(elapsed, 1e-9):.0f} x real time); model {models}",
            quiet=quiet,
        )
    if len(done) + len(failed) > 1 and failed:
        note(f"{len(failed)} of {len(done) + len(failed)} failed:")
    for error in failed:
        trace(error)
        note(f"error: {error}")
