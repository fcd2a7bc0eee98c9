"""Encode recordings and decode them again, to hear and measure what a bit rate leaves.

Inputs, outputs and errors are those of audiomask enhance. Size and kbit/s are of the whole .amk file, with
header, packets and index, or .ecdc file, of EnCodec at 48 kHz. Where the extra [score] is installed, PESQ-WB
and ESTOI follow:

  audiomask codec talk.wav -o back.wav --kbps 3
  audiomask codec talks/ -o back/ --kbps 6 --loss drop:0.1        # lose packets of 20 ms on the way
"""

from __future__ import annotations

import argparse
from functools import partial
from importlib.util import find_spec

from audiomask.cli import Adder
from audiomask.cli._codec import add_codec_arguments, books_wanted, output_of, tell_plain, tell_sizes
from audiomask.cli._common import note, table
from audiomask.cli._files import (
    add_batch_arguments,
    add_loss_arguments,
    add_output_arguments,
    loss_of,
    run_sounds,
)
from audiomask.runtime.catalogue import codec_part
from audiomask.runtime.codes.ecdc import segment_of
from audiomask.runtime.files.batch import Report
from audiomask.runtime.files.coded import Decode, Encode, ThereAndBack, sizes
from audiomask.runtime.files.play import Options

METRICS = {"pesq_wb": "pesq", "estoi": "pystoi"}  # and the packages that they need
LONGEST_S = 300.0  # of what is scored: a score takes memory and time by its length


def add_arguments(add: Adder) -> None:
    inputs = "file, folder, glob, .scp, data directory or -"
    add_batch_arguments(add, inputs, "file, folder or - (default: NAME_decoded.EXT beside the input)")
    add_codec_arguments(add, kbps=True)
    add_output_arguments(add, "the input's suffix, 16 bits")
    add_loss_arguments(add)
    add("--plain", "pack codes in plain bits, without the codec's probabilities")
    add("--no-scores", "do not measure PESQ and ESTOI")


def run(args: argparse.Namespace) -> int:
    args.out = output_of(args)
    books = books_wanted(args)
    same = {name: getattr(args, name) for name in ("subtype", "clip", "rate", "threads")}
    loss = loss_of(args) if args.loss else None
    options = Options(overwrite=args.force, loss=loss, **same)
    tell_plain(args)
    code, reports = run_sounds(args, partial(work, args.model, books, options, args.plain))
    tell_sizes(reports, args.quiet)
    if args.out != "-":
        _show(args, reports)
    return code


def work(model: str | None, books: int, options: Options, plain: bool = False) -> ThereAndBack:
    """Return the work of the verb."""
    suffix = ".ecdc" if segment_of(codec_part(model, "enc")) else ".amk"
    encode = Encode(model, books, Options(threads=options.threads), suffix=suffix, plain=plain)
    return ThereAndBack(encode, Decode(model, options))


def _show(args: argparse.Namespace, reports: list[Report]) -> None:
    """Print size, kbit/s and scores of each file."""
    found = list(sizes(reports))
    names = [name for name, package in METRICS.items() if find_spec(package) and not args.no_scores]
    scores: dict[str, dict[str, float]] = {}
    if names and found:
        from audiomask import metrics  # imports what scores need

        fit = [r for r, _ in found if r.seconds <= LONGEST_S and r.job.source.path != "-"]
        if len(fit) < len(found):
            note(f"{len(found) - len(fit)} files are longer than {LONGEST_S:g} s, or a pipe, and not scored")
        if args.rate and fit:
            note("--rate: the output has another rate than the input, and is not scored")
            fit = []
        pairs = [(str(r.job.source), r.job.source, r.job.output) for r in fit]
        judged = metrics.score_files(pairs, names)
        scores = {key: dict(row) for key, row in judged.rows.items()}
        for (_, reason), keys in judged.reasons().items():
            note(f"{keys[0]}{f' and {len(keys) - 1} more' * (len(keys) > 1)}: no scores: {reason}")
    rows = []
    for report, kbps in found:
        key = str(report.job.source)
        row = [key, f"{report.seconds:.2f}", report.result, f"{kbps:.2f}"]
        rows.append([*row, *(_figure(scores.get(key, {}).get(name)) for name in names)])
    if rows:
        print(table(["file", "seconds", "bytes", "kbit/s", *names], rows))


def _figure(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"
