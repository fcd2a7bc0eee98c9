"""Run verbs that go through files: options, inputs and outputs, a batch and its progress."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from audiomask.audio import CLIP_POLICIES, FORMATS, AudioError, make_folder, replacing
from audiomask.audio.sources import SUFFIXES, Source, find_audio
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import add_model_arguments, between, controls, cores, failures, note, positive
from audiomask.runtime.files import batch
from audiomask.runtime.files.batch import Job, Report, Work
from audiomask.runtime.files.packet_loss import Loss, loss_models
from audiomask.runtime.files.play import Options
from audiomask.runtime.files.sinks import Output
from audiomask.runtime.packets.jitter_buffer import shape


def add_batch_arguments(add: Adder, inputs: str, out: str | None, nargs: str = "+") -> None:
    """Add what every verb on files takes: inputs, -o, -f, --allow-pipes, -j, --ray, -q.

    A verb whose `out` is None writes no files, and has neither -o nor -f.
    """
    add("inputs INPUT", inputs, nargs=nargs)
    if out is None:
        add.parser.set_defaults(out=None, force=False)
    else:
        add("-o --out PATH", out)
        add("-f --force", "overwrite outputs that exist")
    add("--allow-pipes", "run the shell commands of a .scp")
    add("-j --jobs N", "files at once (default: one per core)", type=positive)
    add("--ray ADDRESS", "spread the files over a Ray cluster with a shared disk: auto, HOST:PORT, or local")
    add("-q --quiet", "no progress, no summary; warnings stay")


def add_sound_arguments(add: Adder) -> None:
    """Add what every verb takes that turns files of sound into files of sound."""
    inputs = "file, folder, glob, .scp, data directory or -; .npz of codes for a model that decodes them"
    add_batch_arguments(add, inputs, "file, folder or - (default: beside the input)")
    add_model_arguments(add)
    add("--output NAME", "write this output of the model only (default: all of them)")
    names = "{stem}.{ext} with -o, {stem}_{source}.{ext} without, and for models of several sounds"
    add_output_arguments(add, "the input's", names)


def add_output_arguments(
    add: Adder, default: str, names: str = "{stem}.{ext} with -o, {stem}_{source}.{ext} without"
) -> None:
    """Add how files of sound are called and written, else by `names` and like `default`."""
    add("--filename TEMPLATE", f"of {{stem}} {{source}} {{model}} {{ext}}; default {names}")
    add("--format", f"of the output (default: {default})", choices=sorted(s[1:] for s in FORMATS))
    add("--subtype PCM_16|PCM_24|FLOAT", f"of the output (default: {default})")
    add("--rate HZ", "of the output (default: the input's)", type=positive)
    clip = "beyond full scale: turn all down, cut (default), or leave to the format"
    add("--clip", clip, choices=CLIP_POLICIES)


def add_loss_arguments(add: Adder) -> None:
    """Add `--loss`, `--packet` and `--seed`, which take packets away; see `loss_of`."""
    lose = "lose these packets; TRACE: a file, a folder of one for each input, or a .scp of them"
    add("--loss TRACE|gilbert:P,Q|drop:RATE", lose)
    add("--packet MS", "length of a packet", default=20.0)
    add("--seed N", "of --loss", type=between(0, 2**31 - 1, int), default=0)


def loss_of(args: argparse.Namespace, **more: Any) -> Loss:
    """Return the loss that the options of `add_loss_arguments` say; may raise `UsageError`."""
    try:
        shape(args.packet, 0, 16000)
        models = loss_models(args.loss) if args.loss else None
        return Loss(models, args.packet, args.seed, **more)
    except ValueError as error:
        raise UsageError(str(error)) from None


def find(
    args: argparse.Namespace, suffixes: frozenset[str] = SUFFIXES
) -> tuple[list[Source], list[AudioError]]:
    """Return what the inputs name, and an error for each that names nothing."""
    found: dict[tuple[str, str | None], Source] = {}
    failed, passed = [], list[str]()
    how = {"exclude": None if args.out == "-" else args.out or None, "allow_pipes": args.allow_pipes}
    for text in args.inputs:
        try:
            for source in find_audio([text], suffixes=suffixes, passed=passed, **how):
                found.setdefault((source.path, source.key), source)
        except AudioError as error:
            failed.append(error)
    for line in passed:
        note(line)
    return list(found.values()), failed


def plan(
    args: argparse.Namespace,
    sources: Sequence[Source],
    outputs: Sequence[Output],
    model: str = "",
    *,
    folder: bool = False,
) -> list[Job]:
    """Return a job for each source, with a file for each output, if there is any.

    `model` is its name, for the template; with `folder`, `-o` is a folder in any case. Raises `UsageError`
    for files that would collide or have no place.
    """
    out = Path(args.out) if args.out else None
    template, format = getattr(args, "filename", None), getattr(args, "format", None)
    single = None  # the only file that is written
    if out is not None and len(sources) == 1 and not (folder or out.is_dir() or args.out.endswith("/")):
        kinds = [{output.suffix} if output.suffix else FORMATS for output in outputs]
        single = out if any(out.suffix.lower() in kind for kind in kinds) else None
        if single is None and out.suffix.lower() in SUFFIXES:  # no name of a folder
            raise UsageError(
                f"-o {out}: {out.suffix} cannot be written here; use another suffix, as in out.wav"
            )
    if single is not None and len(outputs) > 1:
        names, option = " ".join(output.name for output in outputs), getattr(args, "chooses", "--output")
        raise UsageError(
            f"-o {out}: is one file, and the model makes {names}; give a folder, or choose one with {option}"
        )
    several = len({output.suffix for output in outputs}) < len(outputs)
    template = template or ("{stem}.{ext}" if out is not None and not several else "{stem}_{source}.{ext}")
    jobs: list[Job] = []
    taken: dict[str, Source] = {}
    for source in sources:
        files: dict[str, Path] = {}
        for output in outputs:
            suffix = output.suffix
            if not suffix:
                suffix = f".{format}" if format else Path(source.relative).suffix.lower()
                suffix = suffix if suffix in FORMATS else ".wav"
            if single is not None:
                target = single.with_suffix(suffix) if format and not output.suffix else single
            else:
                words = {"source": output.name, "model": model, "ext": suffix[1:]}
                target = _place(source, out, template, words)
            if (other := taken.setdefault(os.path.realpath(target), source)) is not source:
                raise UsageError(
                    f"{other} and {source} would both become {target}; run them apart, or give -o a folder"
                )
            if target in files.values():
                raise UsageError(f"all sounds of {source} would become {target}; --filename needs {{source}}")
            files[output.name] = target
        jobs.append(Job(source, files))
    for victim in sources:
        writer = taken.get(os.path.realpath(victim.path), victim)
        if writer is not victim and victim.path != "-" and not victim.command:
            raise UsageError(f"the output of {writer} would overwrite the input {victim}; choose another -o")
    return jobs


def _place(source: Source, out: Path | None, template: str, words: dict[str, str]) -> Path:
    """Return where a file of a source goes: beside it, or in `out`, which mirrors the folders."""
    relative = Path(source.relative)
    if out is None and (source.path == "-" or source.key):
        raise UsageError(f"{source}: has no folder of its own; say where to write with -o")
    try:
        name = template.format(stem=relative.stem, **words)
    except (KeyError, IndexError, ValueError):
        raise UsageError(f"--filename {template}: use only {{stem}} {{source}} {{model}} {{ext}}") from None
    target = Path(source.path).parent / name if out is None else out / relative.parent / name
    make_folder(target.parent)
    return target


def run_batch(
    args: argparse.Namespace,
    jobs: list[Job],
    failed: list[AudioError],
    load: Callable[[], Work],
    work: Work,
    *,
    take: Callable[[Report], object] | None = None,
    silent: bool = False,
) -> tuple[int, list[Report]]:
    """Do all jobs, here or with --ray; return the exit code and the finished jobs' reports.

    `failed` are inputs that no job was made of; `load` makes `work` anew, on another machine; `take` gets the
    reports in the order of the jobs, and may raise `AudioError`. `silent` shows no progress.
    """
    if args.ray:
        if any(job.source.path == "-" for job in jobs):
            raise UsageError("--ray: takes files to files; standard input and output stay on one machine")
        for job in jobs:
            if os.path.realpath(job.source.path) in map(os.path.realpath, job.files.values()):
                raise UsageError(
                    f"{job.source}: --ray does not write in place, since a file that is begun again after a "
                    "lost worker would be enhanced twice; choose another -o"
                )
    start = time.perf_counter()
    done: list[Report] = []
    with _progress_bars(args.quiet or silent or bool(args.ray)) as (show, remove):
        if args.ray:
            from audiomask.runtime.files import cluster

            reports = cluster.run(jobs, load, work, args.ray, args.jobs)
        else:
            workers = min(args.jobs or cores(), max(1, len(jobs)))
            reports = batch.run(jobs, work, workers=workers, progress=show)
        with closing(batch.in_order(jobs, reports) if take else reports) as ended:  # type: ignore[type-var]
            for report in ended:
                remove(report.job)
                for text in report.notes:
                    note(f"warning: {text}")
                try:
                    if report.error:
                        raise report.error
                    if take:
                        take(report)
                except AudioError as error:
                    failed.append(error)
                else:
                    done.append(report)
    if done:
        seconds, elapsed = sum(r.seconds for r in done), time.perf_counter() - start
        models = ", ".join(f"{name}: {n}" for name, n in sorted(Counter(r.model for r in done).items()))
        files = f"{len(done)} file{'s' * (len(done) != 1)}"
        note(
            f"{files}, {seconds:.1f} s of sound in {elapsed:.1f} s "
            f"({seconds / max(elapsed, 1e-9):.0f} x real time); model {models}",
            quiet=args.quiet,
        )
    return failures(failed, len(done) + len(failed)), done


def sound_options(args: argparse.Namespace, **more: Any) -> Options:
    """Return what the arguments of `add_sound_arguments` say, and `more`."""
    same = {name: getattr(args, name) for name in ("dry", "subtype", "clip", "rate", "threads", "output")}
    return Options(controls=controls(args), overwrite=args.force, **same, **more)


def run_sounds(
    args: argparse.Namespace,
    load: Callable[[], Work],
    arranged: Callable[[list[Job]], list[Job]] = lambda jobs: jobs,
) -> tuple[int, list[Report]]:
    """Run all inputs through the model that `load` finds, here or on the machines of a cluster.

    `arranged` may change the jobs before they run. Returns the exit code, and reports of the finished jobs.
    Raises `UsageError`, and `AudioError` for an error that no single file causes.
    """
    work = load()
    to_stdout = args.out == "-"
    if args.ray and to_stdout:
        raise UsageError("--ray: takes files to files; standard input and output stay on one machine")
    sources, failed = find(args, work.suffixes)
    work.check(sources)
    if to_stdout and len(sources) + len(failed) > 1:
        raise UsageError(f"-o -: standard output takes one file, and the inputs name {len(sources)}")
    with tempfile.TemporaryDirectory(prefix="audiomask-") if to_stdout else nullcontext("") as folder:
        if to_stdout:
            suffix = work.outputs[0].suffix or f".{args.format or 'wav'}"
            args = argparse.Namespace(**vars(args) | {"out": f"{folder}/out{suffix}"})
        jobs = arranged(plan(args, sources, work.outputs, work.family[0].name))
        out = Path(args.out) if args.out else None
        single = any(out in job.files.values() for job in jobs)
        listed = out is not None and not (to_stdout or single) and any(job.source.key for job in jobs)
        lists = _lists(out, work.outputs, args.force) if listed and out is not None else {}
        code, done = run_batch(args, jobs, failed, load, work, silent=to_stdout)
        if to_stdout and done:
            with done[0].job.output.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        keyed = [report.job for report in done if report.job.source.key]
        for output, (path, entries) in lists.items() if keyed else ():
            entries |= {str(job.source.key): str(job.files[output]) for job in keyed}
            with replacing(path) as part:
                lines = sorted(f"{key} {value}\n" for key, value in entries.items())
                part.write_text("".join(lines), "utf-8", "surrogateescape")
    return code, done


def _lists(folder: Path, outputs: Sequence[Output], force: bool) -> dict[str, tuple[Path, dict[str, str]]]:
    """Return, by output, the list of the folder's files, and what earlier runs put there.

    It is wav.scp, or NAME.scp for each of several outputs. Raises `AudioError` for a list of other files than
    those in the folder, which nobody may replace without `force`.
    """
    found: dict[str, tuple[Path, dict[str, str]]] = {}
    for output in outputs:
        path = folder / f"{output.name if len(outputs) > 1 or output.suffix else 'wav'}.scp"
        entries: dict[str, str] = {}
        if path.exists():
            lines = path.read_text("utf-8", "surrogateescape").splitlines()
            entries = {
                key: value for key, _, value in (line.partition(" ") for line in lines if line.strip())
            }
            inside = folder.resolve()
            if not all(inside in Path(value).resolve().parents for value in entries.values()):
                if not force:
                    raise AudioError(
                        f"{path}: lists other files; give -f to replace it, or another folder with -o"
                    )
                entries = {}
            entries = {key: value for key, value in entries.items() if Path(value).is_file()}
        found[output.name] = path, entries
    return found


@contextmanager
def _progress_bars(quiet: bool):
    """Yield functions that move (None without a terminal) and remove the progress bar of a job."""
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
