"""Say what is heard: labels and probabilities of recordings, or live of a pipe of samples.

Each recording gets its likeliest labels; with --every it gets a row of them every so many seconds, each for
the stretch that the model processes at a time; with --segments the stretches in which a label reaches
--threshold.

  audiomask tag recordings/ -m tagger.onnx
  audiomask tag a.wav -m tagger.onnx --every 1 --csv -o tags.csv
  arecord -f S16_LE -r 16000 -t raw | audiomask tag - -m tagger.onnx --threshold 0.3

JSON is one object a line. With -o NAME.json, .jsonl, .csv or .txt all inputs go into that file, with any
other name into a folder, a file each; existing files are refused, so that with -j or after an interrupt a
folder is completed by the same command. For '-', bare samples, a line comes out for every row as soon as it
is known, in constant memory.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from audiomask.audio import AudioError, Reader, replacing
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import add_model_arguments, between, note, positive
from audiomask.cli._files import add_batch_arguments, find, plan, run_batch
from audiomask.cli._pipe import READ_BYTES, Pipe, chunks, ended_by_sigterm
from audiomask.runtime.catalogue import choose, resolve
from audiomask.runtime.files.batch import Job, Report, Tick, Work, reported
from audiomask.runtime.files.sinks import Output
from audiomask.runtime.outputs.tags import Clock, Row, Tags, listed, listener, rows
from audiomask.runtime.pcm import FORMATS
from audiomask.runtime.player import Player

SUFFIXES = {".json": "json", ".jsonl": "json", ".csv": "csv", ".txt": "text"}
_print = partial(print, end="", flush=True)
HEAD = ("file", "start", "end", "label", "probability")


def add_arguments(add: Adder) -> None:
    inputs = "file, folder, glob, .scp, data directory, or - for samples"
    add_batch_arguments(add, inputs, "a file for all, or a folder (default: standard output)")
    rate, channels = (f"of the samples of - (default {value})" for value in (16000, 1))
    add_model_arguments(add, controls=False, rate=rate, channels=channels)
    kind = add.exclusive()
    kind("--json", "an object a line", action="store_const", const="json", dest="form")
    columns = "a line for each label: " + ",".join(HEAD)
    kind("--csv", columns, action="store_const", const="csv", dest="form")
    add("--top N", "labels at most", type=positive, default=5)
    least = "least probability of a label (default 0; with --segments 0.5)"
    add("--threshold 0..1", least, type=between(0, 1))
    when = add.exclusive()
    when("--every S", "a row every so many seconds", type=between(0, 86400, unit="s", above=True))
    when("--segments", "where each label begins and ends")
    pool = "what a recording longer than the model's window gets: the mean over windows, or the greatest"
    add("--pool {mean,max}", pool, default="mean")
    add("--format", "of the samples of - (default s16le)", choices=tuple(FORMATS))


def run(args: argparse.Namespace) -> int:
    if "-" in args.inputs:
        return _live(args)
    for option in ("rate", "channels", "format"):
        if getattr(args, option) is not None:
            raise UsageError(f"--{option}: is of bare samples; give the input -")
    return _files(args)


def _listed(
    args: argparse.Namespace, found: Iterator[Row], player: Player, live: bool = False
) -> Iterator[Tags]:
    threshold = args.threshold if args.threshold is not None else 0.5 if args.segments else 0.0
    every = args.every if args.every is not None or args.segments or not live else 0.0
    largest, segments = args.pool == "max", args.segments
    return listed(found, player, args.top, threshold, every=every, segments=segments, largest=largest)


# --- files --------------------------------------------------------------------------------------------------


class Tagging(Work):
    """A `Work` that tags recordings, as results or, where jobs have files, as files."""

    def __init__(self, args: argparse.Namespace, form: str):
        self.args, self.form, self.family = args, form, resolve(args.model, task="tag")
        self.overwrite, self.threads = args.force, args.threads
        for artifact in self.family:
            listener(artifact)

    def do(self, job: Job, reader: Reader, tick: Tick) -> Report:
        rate = reader.info.rate
        player = listener(choose(self.family, rate), rate=rate, threads=self.threads)
        found = _listed(self.args, rows(reader, player, tick), player)
        text = FORMS[self.form](str(job.source), found)
        for path in job.files.values():
            with replacing(path, overwrite=self.overwrite) as part:
                head = _csv([HEAD]) if self.form == "csv" else ""
                part.write_text(head + text, "utf-8", "surrogateescape")  # names need not be text
        return reported(job, reader, player.artifact.name, player.faults, result=None if job.files else text)


def _files(args: argparse.Namespace) -> int:
    suffix = Path(args.out or "-").suffix.lower()
    to_file = suffix in SUFFIXES
    to_folder = not to_file and args.out not in (None, "-")
    form = args.form or SUFFIXES.get(suffix) or ("json" if to_folder else "text")
    load = partial(Tagging, args, form)
    work = load()
    sources, failed = find(args)
    jobs = plan(args, sources, [Output("tags", (), f".{form}")] if to_folder else [], folder=True)
    with ExitStack() as stack:
        write: Callable[[str], object] = _print
        if to_file:
            part = stack.enter_context(replacing(args.out, overwrite=args.force))
            write = stack.enter_context(
                part.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            ).write
        if form == "csv" and not to_folder:
            write(_csv([HEAD]))
        take = None if to_folder else lambda report: write(report.result)
        silent = not args.out and sys.stdout.isatty()
        code, done = run_batch(args, jobs, failed, load, work, take=take, silent=silent)
        if to_file and not done:  # nothing to keep, and no file that says so
            raise AudioError(f"{args.out}: not written, since no input could be tagged")
        return code


def _json(source: str, found: Iterable[Tags]) -> str:
    return "".join(json.dumps(tags.entry(source), ensure_ascii=False) + "\n" for tags in found)


def _csv(lines: Iterable[Iterable]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _csv_of(source: str, found: Iterable[Tags]) -> str:
    return _csv(
        (source, f"{tags.start:.3f}", f"{tags.end:.3f}", label, f"{p:.6f}")
        for tags in found
        for label, p in tags.tags
    )


def _text(source: str, found: Iterable[Tags]) -> str:
    lines = [source]
    for tags in found:
        when = f"{tags.start:9.2f} -{tags.end:9.2f} s"
        for label, p in tags.tags or (("-", None),):
            lines.append(f"{when}  {'     ' if p is None else f'{p:5.3f}'}  {label}")
            when = " " * len(when)
    return "\n".join(lines) + "\n"


FORMS: dict[str, Callable[[str, Iterable[Tags]], str]] = {"json": _json, "csv": _csv_of, "text": _text}


# --- live ---------------------------------------------------------------------------------------------------


def _live(args: argparse.Namespace) -> int:
    family = Tagging(args, "json").family
    rate, channels = args.rate or 16000, args.channels or 1
    if args.inputs != ["-"]:
        raise UsageError("-: samples of standard input are tagged alone, without other inputs")
    if args.out not in (None, "-"):
        raise UsageError(f"-o {args.out}: lines of a live sound go to standard output; send them on with >")
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("-: samples are piped: audiomask tag - < in.pcm; of files give the names")
    with ended_by_sigterm(sys.stdin.fileno()) as terminated:
        extractor = listener(choose(family, rate), rate=rate, threads=args.threads)
        form = args.form or "json"
        if form == "csv":
            _print(_csv([HEAD]))
        found = _heard(args, extractor, Pipe(args.format or "s16le", channels, extractor.first))
        for tags in _listed(args, found, extractor, live=True):
            _print(FORMS[form]("standard input", [tags]))
        return 128 + signal.SIGTERM if terminated.is_set() else 0


def _heard(args: argparse.Namespace, extractor: Player, pipe: Pipe) -> Iterator[Row]:
    clock, samples, name = Clock(extractor), 0, extractor.ports[0].name
    note(
        f"{extractor.artifact.name}, {extractor.sample_rate} Hz, {pipe.channels} channels; a row every "
        f"{clock.every:.2f} s, of the last {clock.span:.1f} s",
        quiet=args.quiet,
    )
    for data in chunks(sys.stdin.fileno(), READ_BYTES, exact=False):
        x = pipe.decode(data)
        samples += x.shape[1]
        yield from clock.rows(extractor.feed(x)[name])
    if not samples:
        raise AudioError("standard input: is empty; pipe samples into it")
    yield from clock.rows(extractor.flush()[name], samples / extractor.sample_rate)
    pipe.warn(extractor.cleaned, extractor.faults)
