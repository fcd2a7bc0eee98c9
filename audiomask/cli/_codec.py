"""Add the options that the verbs of a codec share, and say how large its files are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from audiomask.cli import Adder, UsageError
from audiomask.cli._common import between, note, positive
from audiomask.runtime.artifact import ArtifactError
from audiomask.runtime.catalogue import codec_part, probabilities_of
from audiomask.runtime.files.batch import Report
from audiomask.runtime.files.coded import books_of, sizes

DEFAULT_KBPS = 6.0


def add_codec_arguments(add: Adder, *, kbps: bool) -> None:
    """Add `-m`, `--threads` and, for what encodes, `--kbps`."""
    add("-m --model NAME|STEM|DIR", "a shipped codec, or the STEM of your own: STEM_enc.onnx, STEM_dec.onnx")
    add("--threads N", "threads per stream", type=positive, default=1)
    if kbps:
        rate = (
            f"kbit/s of the codes of a channel (default {DEFAULT_KBPS:g}); a wrong one shows which there are"
        )
        add("--kbps KBPS", rate, type=between(0, 1000, above=True), default=DEFAULT_KBPS)


def add_language_argument(add: Adder, what: str, **options: Any) -> None:
    """Add `--lm`, the folder of EnCodec's language model."""
    words = f"{what}; its bytes hang on the processor and --threads, as with the authors' program"
    add("--lm DIR", f"the language model for .ecdc files (STEM_lm beside the codec): {words}", **options)


def books_wanted(args: argparse.Namespace) -> int:
    """Return the books that `--kbps` stands for; `UsageError` says which rates there are."""
    artifact = codec_part(args.model, "enc")
    try:
        return books_of(artifact, args.kbps)
    except ArtifactError as error:
        raise UsageError(str(error)) from None


def output_of(args: argparse.Namespace) -> str | None:
    """Return `-o`, by default `-` for standard input alone; `UsageError` for a terminal."""
    out = "-" if args.out is None and args.inputs == ["-"] else args.out
    if out == "-" and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError(
            "-o -: standard output is a terminal; send it on with > or |, or name a file with -o"
        )
    return out


def tell_plain(args: argparse.Namespace) -> None:
    """Print that codes are packed in plain bits, if nobody asked for that."""
    artifact = codec_part(args.model, "enc")
    if not getattr(args, "plain", False) and probabilities_of(artifact) is None:
        note(f"{artifact.name} has no probabilities; its codes are packed in plain bits", quiet=args.quiet)


def tell_sizes(reports: Sequence[Report], quiet: bool) -> None:
    """Print how many bytes became of all recordings, and the kbit/s of the whole files."""
    found = list(sizes(reports))
    size, seconds = sum(report.result for report, _ in found), sum(report.seconds for report, _ in found)
    if found:
        note(f"{size} bytes, {size * 8 / seconds / 1000:.2f} kbit/s with headers and index", quiet=quiet)
