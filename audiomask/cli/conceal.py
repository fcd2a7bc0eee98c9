"""Conceal lost packets of recordings, with losses from a trace, a model or the sound itself.

Inputs and outputs are as in audiomask enhance. The packets that --loss names are taken from the input before
it is concealed, so that a method can be heard on clean recordings:

  audiomask conceal clean.wav -o out.wav --loss gilbert:0.05,0.5    # good to bad, bad to good, a packet
  audiomask conceal clean/ -o out/ --loss drop:0.1 --write-lossy
  audiomask conceal clean/ -o out/ --loss traces/                    # traces/NAME.txt for NAME.wav

A trace has a line for each packet, 1 where it is lost and else 0. Without --loss the input is taken as
received in a call: runs of zeros, a packet long or longer, count as lost. -m zero, repeat, repeat_faded and
g711 are classical methods, to compare with.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path

import numpy as np

from audiomask.audio import check_writable, replacing
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import controls, note, refuse_unset
from audiomask.cli._files import add_loss_arguments, add_sound_arguments, loss_of, run_sounds, sound_options
from audiomask.masks.packets import Bursts
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.files.batch import LOSSY, Job, Report
from audiomask.runtime.files.packet_loss import NAMES, Classical, entry
from audiomask.runtime.files.play import Enhance, Options


def add_arguments(add: Adder) -> None:
    add_sound_arguments(add)
    add_loss_arguments(add)
    add("--blind", "do not tell the model what --loss took; it sees zeros")
    add("--write-lossy", "keep what was left of the input too, as NAME_lossy.EXT")
    add("--report FILE", "write loss rate and bursts of each file, as JSON", type=Path)


def run(args: argparse.Namespace) -> int:
    if args.blind and not args.loss:
        raise UsageError("--blind: without --loss nothing is told anyway")
    if args.out == "-" and args.write_lossy:
        raise UsageError("--write-lossy: standard output takes one file; give -o a name")
    if args.report:
        check_writable(args.report, overwrite=args.force)
    loss = loss_of(args, told=not args.blind)
    if args.model in NAMES and (args.dry or controls(args)):
        raise UsageError(f"-m {args.model}: has no controls")
    load = partial(work, args.model, args.packet, sound_options(args, loss=loss))
    code, reports = run_sounds(args, load, _lossy if args.write_lossy else list)
    _tell(reports, args.packet, args.quiet)
    if args.report:
        _write(args.report, reports, args.out)
    return code


def work(model: str | None, packet_ms: float, options: Options) -> Enhance:
    """Return the work of the verb: a classical method for such packets, or a family of models."""
    if model in NAMES:
        return Enhance([Classical(model, packet_ms)], options)
    family = resolve(model, task="conceal")
    refuse_unset(family, options.controls)
    return Enhance(family, options)


def _lossy(jobs: list[Job]) -> list[Job]:
    """Return the jobs with a file each for the lossy input; `UsageError` for a collision."""
    taken = {os.path.realpath(path) for job in jobs for path in job.files.values()}
    taken |= {os.path.realpath(job.source.path) for job in jobs}
    made = []
    for job in jobs:
        lossy = job.output.with_name(f"{job.output.stem}_lossy{job.output.suffix}")
        if os.path.realpath(lossy) in taken:
            raise UsageError(f"--write-lossy: {lossy} is an input or an output; choose another -o")
        made.append(Job(job.source, {LOSSY: lossy, **job.files}))
    return made


def _tell(reports: list[Report], packet_ms: float, quiet: bool) -> None:
    every = [report.bursts for report in reports if report.bursts]
    if not every:
        return
    histogram = np.zeros(max(len(one.histogram) for one in every), np.int64)
    for one in every:
        histogram[: len(one.histogram)] += one.histogram.astype(np.int64)
    total = Bursts(sum(one.packets for one in every), histogram)
    text = f"lost {total.rate:.1%} of {total.packets} packets of {packet_ms:g} ms"
    if total.longest:
        kinds = zip(total.by_class(packet_ms), ("to 120 ms", "to 320 ms", "to 1 s", "above"), strict=True)
        text += (
            f" in {histogram.sum()} bursts ({', '.join(f'{n} {kind}' for n, kind in kinds if n)}), "
            f"{total.mean * packet_ms:.0f} ms in the mean, {total.longest * packet_ms:g} ms at most"
        )
    note(text, quiet=quiet)


def _write(path: Path, reports: list[Report], out: str | None) -> None:
    facts = [entry(r.job.source, "-" if out == "-" else r.job.output, r.bursts) for r in reports if r.bursts]
    facts.sort(key=lambda fact: fact["input"])
    with replacing(path) as part:
        part.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
