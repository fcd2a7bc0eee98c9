"""turn a trained model into one self-describing ONNX file, and check it

The graph is run against torch before anything is written, and refused where they differ. --check also opens
the written file with the runtime and plays noise through it in blocks of random sizes.

audiomask export exp/denoise -o denoise.onnx --check audiomask export exp/denoise -o denoise_48k.onnx --arg
sample_rate=48000 --arg name=denoise_48k --card card.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from audiomask.cli import UsageError

CARD = ("version", "description", "licence", "training", "scores")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument(
        "model", type=Path, metavar="RUN|DIR", help="a training run, or a folder with its weights"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="the ONNX file to write"
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite the file")
    parser.add_argument(
        "--check", action="store_true", help="also play the file with the runtime and compare"
    )
    parser.add_argument(
        "--card", type=Path, metavar="JSON", help="what it says of itself: " + ", ".join(CARD)
    )
    parser.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change an argument of the model's class; the weights must still fit",
    )


def parse_changes(pairs: list[str]) -> dict[str, Any]:
    changes = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--arg {pair!r}: write NAME=VALUE")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return changes


def _card(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--card {path}: {error}") from error
    if not isinstance(card, dict) or set(card) - set(CARD):
        raise UsageError(f"--card {path}: a JSON object with none but {', '.join(CARD)}")
    return card


def run(args: argparse.Namespace) -> int:
    """Export; 0 when the file was written and agrees with torch."""
    card = _card(args.card)
    changes = parse_changes(args.arg)
    if args.out.exists() and not args.force:
        raise UsageError(f"{args.out} exists; -f overwrites it")
    if args.out.suffix != ".onnx":
        raise UsageError(f"{args.out}: the name of a model ends in .onnx")

    from audiomask import weights
    from audiomask.export import ExportError, check_file, export
    from audiomask.streaming import StreamingModel

    model, config = weights.load(args.model, **changes)
    if not isinstance(model, StreamingModel):
        raise ExportError(f"{args.model}: {config['class_path']} is a part of a model, it has no ports")
    document = export(model, args.out, config, **card)
    size = args.out.stat().st_size / 1e6
    rate, latency, equality = document["sample_rate"], document["latency"], document["equality"]
    print(f"{args.out}: {document['name']}, {rate} Hz, latency {latency} samples, {size:.2f} MB")
    print(f"{args.out}: the graph equals torch to {equality:.1e} of the peak")
    if args.check:
        error = check_file(model, args.out)
        print(f"{args.out}: the runtime equals torch to {error:.1e} of the peak")
    return 0
