"""Offer the corpora of `audiomask data import`, with the options of some of them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from audiomask.cli import UsageError
from audiomask.cli._common import adder, note, positive
from audiomask.data import corpora, importers, labelled
from audiomask.data.kaldi import DataDir

READERS: dict[str, Callable[[Namespace, list[str] | None], DataDir | dict[str, DataDir]]] = {
    "folder": lambda a, skipped: importers.from_folder(a.source, a.speaker, skipped, a.label),
    "librispeech": lambda a, skipped: importers.from_librispeech(a.source, skipped),
    "vctk": lambda a, skipped: corpora.from_vctk(a.source, skipped),
    "voicebank": lambda a, skipped: corpora.from_voicebank(a.source, skipped),
    "dns": lambda a, skipped: corpora.from_dns(a.source, skipped),
    "chime3": lambda a, skipped: corpora.from_chime3(a.source, a.channel or 5, a.references, skipped),
    "plc": lambda a, skipped: corpora.from_plc(a.source, a.references, skipped),
    "lhotse": lambda a, skipped: importers.from_lhotse(a.source, a.supervisions),
    "esc10": lambda a, skipped: labelled.from_esc(a.source, True, skipped),
    "esc50": lambda a, skipped: labelled.from_esc(a.source, False, skipped),
    "speechcommands": lambda a, skipped: labelled.from_speechcommands(
        a.source, a.classes == "12", a.test, skipped
    ),
    "audioset": lambda a, skipped: labelled.from_audioset(a.source, a.clips, skipped),
}
ONLY = {  # options and the layouts that they go with
    "supervisions": ("lhotse",),
    "channel": ("chime3",),
    "references": ("chime3", "plc"),
    "label": ("folder",),
    "classes": ("speechcommands",),
    "test": ("speechcommands",),
    "clips": ("audioset",),
}


def add_arguments(sub: ArgumentParser) -> None:
    """Add all options but -f."""
    add = adder(sub)
    add("layout", choices=tuple(READERS))
    add("source", "folder, or the recordings.jsonl[.gz] of lhotse", type=Path)
    add("out", "data directory; one below it for each part of a corpus that has parts (or folds)", type=Path)
    add(
        "--bad-files",
        "corrupt, double, without a partner: list them and stop (default), or leave them out",
        choices=("stop", "skip"),
        default="stop",
    )
    add("--channel N", "layout chime3: microphone (default: 5)", type=positive)
    add(
        "--references DIR",
        "layout chime3: the simulation's isolated_ext; plc: what was sent of the blind set",
        type=Path,
    )
    add(
        "--speaker folder|file|REGEX",
        "layout folder: who speaks: the folder, each file its own, or group 1 of REGEX in the path",
        default="folder",
    )
    add("--label folder|file|REGEX", "layout folder: write utt2label, as for --speaker")
    add(
        "--classes",
        "layout speechcommands: each word (default), or ten of them, _unknown_ and _silence_",
        choices=("words", "12"),
    )
    add("--test DIR", "layout speechcommands, --classes 12: the test archive", type=Path)
    add("--clips DIR", "layout audioset: where they are (default: below source)", type=Path)
    add("--supervisions FILE", "layout lhotse: the supervisions manifest", type=Path)


def read(args: Namespace) -> dict[str, DataDir]:
    """Return the data directories of the corpus, by name, "" for the only one."""
    for option, layouts in ONLY.items():
        if getattr(args, option) is not None and args.layout not in layouts:
            raise UsageError(f"--{option} goes with the layout {' or '.join(layouts)}, not {args.layout}")
    if args.test is not None and args.classes != "12":
        raise UsageError("--test is the archive of the twelve labels; add --classes 12")
    skipped: list[str] | None = [] if args.bad_files == "skip" else None
    parts = READERS[args.layout](args, skipped)
    for fault in skipped or []:
        note(f"left out: {fault}")
    return parts if isinstance(parts, dict) else {"": parts}
