"""Attack marked sound as the world may: codecs, noise, filters, speed, crops, rooms.

Inputs, outputs and errors are those of audiomask enhance; the output has the input's rate and format. A kind
is NAME[:VALUE[:VALUE]], as --list shows; + joins several, one after the other, and a value LOW..HIGH, or one
of A/B/C, is drawn by the seed:

  audiomask attack marked.wav --kind opus:12 -o attacked.wav
  audiomask attack marked/ --kind speed:0.9..1.1+opus:16 -o attacked/ --seed 1
  audiomask attack marked.wav --kind crop:2 -o cut.wav --json
  audiomask attack --list

Nothing is late: a codec's delay is cut off. Most attacks take recordings of any length; those that need all
of one at once (speed, crops, an SNR) refuse more than 2^24 samples, 5.8 minutes at 48 kHz.
"""

from __future__ import annotations

import argparse
import json
from collections import namedtuple
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from typing import Any
from zlib import crc32

from audiomask.audio import AudioError, choose_format
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import between, note, table
from audiomask.cli._files import add_batch_arguments, add_output_arguments, run_sounds
from audiomask.ports import Port
from audiomask.runtime.files.batch import Job, Report, Tick, Work, reported
from audiomask.runtime.files.play import Options
from audiomask.runtime.files.sinks import Output, Sound

Named = namedtuple("Named", "name")
BLOCK = 65536  # samples that are read at once


class List(argparse.Action):
    """An option that prints the kinds and ends the program, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        from audiomask.data.simulate.attacks import rows

        print(table(("kind", "does", "values", "gradient", "from"), rows()))
        parser.exit()


def add_arguments(add: Adder) -> None:
    add_batch_arguments(
        add, "file, folder, glob, .scp, data directory or -", "file, folder or - (default: beside the input)"
    )
    add("-k --kind KIND[:VALUE...]", "the attack, or several joined by +", required=True)
    add("--list", "show all kinds with their values, and end", action=List, nargs=0)
    add(
        "--seed N", "of what is random, for each file by its name", type=between(0, 2**31 - 1, int), default=0
    )
    add("--json", "a line for each file: what was drawn, where it begins, its speed, what was put in")
    add_output_arguments(add, "the input's")


def run(args: argparse.Namespace) -> int:
    from audiomask.data.simulate.attacks import AttackError

    if args.json and args.out == "-":
        raise UsageError("--json: goes to standard output, where -o - sends the sound; name a file with -o")
    options = Options(overwrite=args.force, subtype=args.subtype, clip=args.clip, rate=args.rate)
    try:
        code, reports = run_sounds(args, partial(Attacked, args.kind, args.seed, options))
    except AttackError as error:
        raise UsageError(f"--kind {error}") from None
    for report in reports:
        facts = report.result
        if args.json:
            print(json.dumps(facts), flush=True)
        elif facts["begin"] or facts["other"]:
            put = "".join(f"; other sound from {a:.3f} to {b:.3f} s" for a, b in facts["other"])
            note(f"{report.job.source}: begins at {facts['begin']:.6f} s of it{put}", quiet=args.quiet)
    return code


class Attacked(Work):
    """Work that attacks recordings; the `result` of a report are the facts of --json."""

    outputs = [Output("attacked", (Port("attacked"),))]

    def __init__(self, spec: str, seed: int, options: Options):
        from audiomask.data.simulate.attacks import Attack

        self.attack, self.seed, self.options = Attack(spec), seed, options
        self.overwrite = options.overwrite
        self.family = [Named(str(self.attack).replace(":", "_").replace("/", "_"))]

    def model_of(self, reader: Any) -> str:
        return str(self.attack)

    def finished(self, job: Job) -> None:
        """Remove what a lost worker wrote, so that the job is done again and its facts are known."""
        for path in () if self.overwrite else job.files.values():
            path.unlink(missing_ok=True)

    def do(self, job: Job, reader: Any, tick: Tick) -> Report:
        from audiomask.data.simulate.attacks import Stream

        info, source = reader.info, job.source
        name = str(source.key or source.relative).encode("utf-8", "surrogateescape")
        stream = Stream(self.attack, info.rate, self.seed << 32 | crc32(name))

        def blocks() -> Any:
            for x in reader.blocks(BLOCK):
                tick(reader.position / info.rate, info.seconds)
                yield x

        sink: Sound | None = None
        with ExitStack() as undo:
            try:
                for y in stream(blocks()):
                    if sink is None:
                        sink = self._sink(job, reader, len(y))
                        undo.callback(sink.abort)
                    sink.write({"attacked": y})
            except AudioError as error:
                known = any(text in str(error) for text in (reader.name, str(job.output)))
                raise error if known else AudioError(f"{source}: {error}") from None
            if sink is None:
                raise AudioError(f"{source}: nothing is left of it after {stream.spec}")
            sink.finish()
            sink.close()
            undo.pop_all()
        report = reported(job, reader, str(self.attack))
        report.notes += sink.notes
        report.result = {
            "file": str(source), "output": str(job.output), "attack": stream.spec, "seed": self.seed,
            "begin": stream.begin, "speed": stream.speed, "other": stream.other,
        }  # fmt: skip
        return report

    def _sink(self, job: Job, reader: Any, channels: int) -> Sound:
        info, options, path = reader.info, self.options, job.output
        format, subtype = choose_format(path, subtype=options.subtype, like=info)
        how: dict[str, Any] = {"mask": info.mask} if channels == info.channels else {}
        if info.frames < 2**62:
            how["frames"] = int(info.frames * (options.rate or info.rate) / info.rate)
        return Sound(
            path,
            Port("attacked"),
            channels,
            Fraction(info.rate),
            options.rate,
            format=format,
            subtype=subtype,
            clip=options.clip,
            overwrite=options.overwrite,
            tags=reader.tags,
            **how,
        )
