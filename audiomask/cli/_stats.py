"""Run `audiomask data stats`, and print what the actions of `data` say about a directory."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from audiomask.cli._common import adder, between, note, positive
from audiomask.data.kaldi.directory import DataDir


def say(data: DataDir, folder: Path) -> None:
    """Print a line with the number of utterances and speakers, and the hours."""
    speakers = f", {len(data.speakers)} speakers" if data.speakers else ""
    hours = sum(float(s) for s in data.tables.get("reco2dur", {}).values()) / 3600
    length = f", {hours:.2f} h" if hours else ""
    print(f"{folder}: {len(data.utterance_keys)} utterances{speakers}{length}")


def failures(failed: Sequence[Exception], count: int) -> int:
    """Return the exit code, after a line for each of the failures among `count`."""
    if failed:
        note(f"{len(failed)} of {count} failed:")
    for error in failed:
        note(f"error: {error}")
    return int(bool(failed))


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the options that other actions lack."""
    add = adder(sub)
    add("--rate HZ", type=positive, default=16000)
    add("--bands N", "mel bands", type=positive, default=128)
    clips = "of the clips of the training; longer recordings are cut into such"
    add("--seconds", clips, type=between(0.1), default=10.0)
    add("--count N", "measure N utterances, drawn with --seed", type=positive)
    add("--options", "only the words for `audiomask train`, one a line")


def run(args: argparse.Namespace) -> int:
    """Print mean and deviation of the log-mel, the classes, and options for `audiomask train`."""
    from audiomask.data.crops.labels import count, labels_of

    data = DataDir.read(args.dir)
    words: list[str] = []
    facts: list[str] = []
    failed: list = []
    if not args.no_audio:
        from audiomask.data.statistics import log_mel, some
        from audiomask.frontend.logmel import LogMel

        frontend = LogMel(frames=0, bands=args.bands, sample_rate=args.rate)
        chosen = some(data, args.count, args.seed) if args.count else None
        piece = round(args.seconds * args.rate)
        found, failed = log_mel(data, frontend, piece, chosen, args.allow_pipes)
        words += ["--model.frontend.mean", f"{found.mean:.6g}", "--model.frontend.std", f"{found.std:.6g}"]
        facts.append(f"log-mel of {found.frames} frames: mean {found.mean:.6g}, deviation {found.std:.6g}")
    if "utt2label" in data.tables:
        labels = count(labels_of(data).values())
        least, most = min(labels, key=labels.__getitem__), max(labels, key=labels.__getitem__)
        words += ["--model.model.classes", str(len(labels)), "--model.model.labels", json.dumps(list(labels))]
        facts.append(f"{len(labels)} classes: from {labels[least]} ({least}) to {labels[most]} ({most})")
    if args.options:
        print("\n".join(words))
    else:
        say(data, args.dir)
        print("\n".join([*facts, f"audiomask train ... {shlex.join(words)}"]))
    return failures(failed, len(data.utterance_keys))
