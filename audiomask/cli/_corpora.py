"""Offer the corpora of `audiomask data import`, with the options of some of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from audiomask.cli import UsageError
from audiomask.cli._common import note, positive

if TYPE_CHECKING:
    from audiomask.data.kaldi import DataDir

LAYOUTS = (
    *("folder", "librispeech", "vctk", "voicebank", "dns", "chime3", "plc", "lhotse"),
    *("esc10", "esc50", "speechcommands", "audioset"),
)
ONLY = {  # options and the layouts that they go with
    "supervisions": ("lhotse",),
    "channel": ("chime3",),
    "references": ("chime3", "plc"),
    "label": ("folder",),
    "classes": ("speechcommands",),
    "test": ("speechcommands",),
    "clips": ("audioset",),
}


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Add all options but -f."""
    add = sub.add_argument
    add("layout", choices=LAYOUTS)
    add("source", type=Path, help="folder, or the recordings.jsonl[.gz] of lhotse")
    add(
        "out",
        type=Path,
        help="data directory; one below it for each part of a corpus that has parts (or folds)",
    )
    add(
        "--bad-files",
        choices=("stop", "skip"),
        default="stop",
        help="corrupt, double, without a partner: list them and stop (default), or leave them out",
    )
    add("--channel", type=positive, metavar="N", help="layout chime3: microphone (default: 5)")
    add(
        "--references",
        type=Path,
        metavar="DIR",
        help="layout chime3: the simulation's isolated_ext; plc: what was sent of the blind set",
    )
    add(
        "--speaker",
        default="folder",
        metavar="folder|file|REGEX",
        help="layout folder: who speaks: the folder, each file its own, or group 1 of REGEX in the path",
    )
    add("--label", metavar="folder|file|REGEX", help="layout folder: write utt2label, as for --speaker")
    add(
        "--classes",
        choices=("words", "12"),
        help="layout speechcommands: each word (default), or ten of them, _unknown_ and _silence_",
    )
    add("--test", type=Path, metavar="DIR", help="layout speechcommands, --classes 12: the test archive")
    add("--clips", type=Path, metavar="DIR", help="layout audioset: where they are (default: below source)")
    add("--supervisions", type=Path, help="layout lhotse: the supervisions manifest")


def read(args: argparse.Namespace) -> dict[str, DataDir]:
    """Return the data directories of the corpus, by name, "" for the only one."""
    from audiomask.data import corpora, importers, labelled

    for option, layouts in ONLY.items():
        if getattr(args, option) is not None and args.layout not in layouts:
            raise UsageError(f"--{option} goes with the layout {' or '.join(layouts)}, not {args.layout}")
    if args.test is not None and args.classes != "12":
        raise UsageError("--test is the archive of the twelve labels; add --classes 12")
    source = args.source
    skipped: list[str] | None = [] if args.bad_files == "skip" else None
    if args.layout == "voicebank":
        parts = corpora.from_voicebank(source, skipped)
    elif args.layout == "dns":
        parts = corpora.from_dns(source, skipped)
    elif args.layout == "chime3":
        parts = corpora.from_chime3(source, args.channel or 5, args.references, skipped)
    elif args.layout == "plc":
        parts = corpora.from_plc(source, args.references, skipped)
    elif args.layout in ("esc10", "esc50"):
        parts = labelled.from_esc(source, args.layout == "esc10", skipped)
    elif args.layout == "speechcommands":
        parts = labelled.from_speechcommands(source, args.classes == "12", args.test, skipped)
    elif args.layout == "audioset":
        parts = labelled.from_audioset(source, args.clips, skipped)
    elif args.layout == "vctk":
        parts = {"": corpora.from_vctk(source, skipped)}
    elif args.layout == "lhotse":
        parts = {"": importers.from_lhotse(source, args.supervisions)}
    elif args.layout == "librispeech":
        parts = {"": importers.from_librispeech(source, skipped)}
    else:
        parts = {"": importers.from_folder(source, args.speaker, skipped, args.label)}
    for fault in skipped or []:
        note(f"left out: {fault}")
    return parts
