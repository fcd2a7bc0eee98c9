"""Validate, fix, split, import and shard Kaldi data directories.

Each action has its own --help. Examples:

audiomask data import folder my_speech data/train --speaker '([^/-]+)-'
audiomask data validate data/train
audiomask data fix data/train
audiomask data split data/all data/parts --ratio train=0.9,valid=0.1 --by speaker
audiomask data mix data/mixtures --speech data/valid --noise data/noise --count 200 --seed 1
audiomask data lose data/valid data/lossy --loss gilbert:0.05,0.5 --seed 1
audiomask data shard data/train -o shards/train --size 256
audiomask data stats data/train
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio import check_writable
from audiomask.cli import Adder, UsageError, _corpora
from audiomask.cli._common import assigned, failures, note, positive
from audiomask.data.corpora import lhotse
from audiomask.data.kaldi.convert import convert
from audiomask.data.kaldi.directory import DataDir, DataError, combine, split_by_jobs, split_by_ratio
from audiomask.data.kaldi.health import fix, validate
from audiomask.data.kaldi.traces import write_traces
from audiomask.data.simulate.mixtures import MixSettings, write_mixtures
from audiomask.masks.packets import parse_loss

USUAL: dict[str, tuple[str, str, dict[str, Any]]] = {  # arguments that several actions have
    "dir": ("dir", "", {"type": Path}),
    "dirs": ("dir", "", {"type": Path, "nargs": "+"}),
    "out": ("out", "", {"type": Path}),
    "seed": ("--seed", "", {"default": 0}),
    "text": ("--no-audio", "look at the text only, open no audio", {}),
    "pipes": ("--allow-pipes", "run the shell commands of wav.scp", {}),
    "force": ("-f --force", "overwrite a directory that exists", {}),
}


def add_arguments(add: Adder) -> None:
    """Add the sub-commands, each with the function that runs it in `args.action`."""
    actions = add.actions("ACTION")

    def action(name: str, run: Callable, usual: str, help: str) -> Adder:
        add = actions(name, help, action=run)
        for word in usual.split():
            form, text, how = USUAL[word]
            add(form, text, **how)
        return add

    wrong = "list everything that is wrong with a data directory; exit 1 if anything is"
    add = action("validate", _validate, "dirs text pipes", wrong)
    add("--json", "the findings as JSON")

    mended = "sort, drop what cannot be used, make spk2utt and reco2dur anew; says what it did"
    add = action("fix", _fix, "dir force text pipes", mended)
    add("-o --out", "write here (default: in place, the old tables in DIR/.backup, .backup.2 ...)", type=Path)

    _corpora.add_arguments(action("import", _import, "force", "make a data directory from a corpus on disk"))
    manifests = "write lhotse manifests (recordings and supervisions, jsonl.gz)"
    action("export", _export, "dir out force", manifests)

    divided = "divide by ratio, keeping speakers or recordings together, or into equal jobs"
    add = action("split", _split, "dir seed force", divided)
    add("out", "the parts are made below it", type=Path)
    how = add.exclusive(required=True)
    how("--ratio NAME=R,NAME=R", "as in train=0.9,valid=0.1")
    how("--jobs N", "N parts of consecutive utterances: 1, 2, ... N", type=positive)
    add("--by {speaker,recording}", "what --ratio keeps together", default="speaker")

    add = action("subset", _subset, "dir out seed force", "keep some utterances")
    which = add.exclusive(required=True)
    which("--count N", "N utterances, drawn with --seed", type=int)
    which("--first N", "the first N utterances", type=int)
    which("--speakers A,B", "all utterances of these speakers")
    which("--keys FILE", "the utterances named in FILE, one a line", type=Path)
    add("--exclude", "keep the others instead")

    action("combine", _combine, "out dirs force", "put several data directories into one")

    changed = "write the audio anew, mono and at one rate, and list it"
    add = action("convert", _convert, "dir pipes force", changed)
    add("out", "gets audio/TABLE/*.wav and the tables that list them", type=Path)
    add("--rate HZ", type=positive, required=True)

    mixed = "write fixed mixtures of speech and noise with their clean references"
    add = action("mix", _mix, "seed pipes force", mixed)
    add("out", "gets noisy/*.wav, clean/*.wav and the tables that list them", type=Path)
    add("--speech DIR", "data directory of clean speech", type=Path, required=True)
    add("--noise DIR", "data directory; utt2spk: kind of noise", type=Path, required=True)
    add("--count N", type=positive, default=200)
    add("--rate HZ", type=positive, default=16000)
    add("--seconds MIN MAX", type=float, nargs=2, default=(3.0, 6.0))
    add("--snr MIN MAX", "dB", type=float, nargs=2, default=(0.0, 15.0))
    add("--level MIN MAX", "dBFS RMS", type=float, nargs=2, default=(-30.0, -20.0))

    drawn = "draw the packets that each utterance loses, so that every method meets the same"
    add = action("lose", _lose, "dir seed pipes force", drawn)
    add("out", "gets traces/*.txt, utt2trace, and the tables of DIR", type=Path)
    add("--loss TRACE|gilbert:P,Q|drop:RATE", "packets of 20 ms", required=True)

    measured = "measure what the training of pretrain and classify wants to know"
    add = action("stats", _stats, "dir seed text pipes", measured)
    add("--rate HZ", type=positive, default=16000)
    add("--bands N", "mel bands", type=positive, default=128)
    clips = "of the clips of the training; longer recordings are cut into such"
    add("--seconds", clips, default=10.0)
    add("--count N", "measure N utterances, drawn with --seed", type=positive)
    add("--options", "only the words for `audiomask train`, one a line")

    sharded = "write the utterances, shuffled, to tar files that training reads in turn"
    add = action("shard", _shard, "dir seed pipes", sharded)
    add("-o --out", "folder of the shards", type=Path, required=True)
    add("--size MIB", "of a shard", default=256.0)
    add("--rate HZ", type=positive, default=16000)
    add("-f --force", "overwrite shards that exist")


def run(args: argparse.Namespace) -> int:
    """Return the exit code of an action; raise DataError (an AudioError) if it has to stop."""
    return args.action(args)


def _say(data: DataDir, folder: Path) -> None:
    """Print a line with the number of utterances and speakers, and the hours."""
    speakers = f", {len(data.speakers)} speakers" if data.speakers else ""
    hours = sum(float(s) for s in data.tables.get("reco2dur", {}).values()) / 3600
    length = f", {hours:.2f} h" if hours else ""
    print(f"{folder}: {len(data.utterance_keys)} utterances{speakers}{length}")


def _may_write(folder: Path, force: bool, source: Path | None = None, files: Sequence[str] = ()) -> Path:
    """Return a folder for tables and `files`, patterns below it; DataError for what exists."""
    if source is not None and folder.resolve() == source.resolve():
        raise DataError(f"{folder}: would replace the directory it is made from; give another")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: exists and is not a folder")
    tables = [folder / name for name in DataDir.table_names(folder)] if folder.exists() else []
    others = [path for pattern in files for path in folder.glob(pattern)]
    if (tables or others) and not force:
        what = "a data directory" if folder / "wav.scp" in tables else f"{(tables + others)[0].name}"
        raise DataError(f"{folder}: holds {what} already; -f overwrites it")
    for path in tables:  # no old table may survive among the new
        path.unlink()
    return folder


def _validate(args: argparse.Namespace) -> int:
    findings = {}
    for folder in args.dir:
        problems = validate(folder, not args.no_audio, args.allow_pipes)
        findings[str(folder)] = [asdict(p) for p in problems]
        if not args.json:
            for problem in problems:
                print(f"{folder}/{problem}")
            print(f"{folder}: " + (f"{len(problems)} problems" if problems else "sound"))
    if args.json:
        print(json.dumps(findings, indent=1))
    return 1 if any(findings.values()) else 0


def _fix(args: argparse.Namespace) -> int:
    data, notes = fix(args.dir, not args.no_audio, args.allow_pipes)
    if args.out is None or args.out.resolve() == args.dir.resolve():
        names = chain([".backup"], (f".backup.{n}" for n in count(2)))
        backup = next(
            args.dir / name for name in names if not (args.dir / name).exists()
        )  # the first one stays
        backup.mkdir()
        for name in DataDir.table_names(args.dir):
            shutil.move(args.dir / name, backup / name)
        out = args.dir
    else:
        out = _may_write(args.out, args.force)
    data.write(out)
    for line in notes:
        print(line)
    _say(data, out)
    return 0


def _import(args: argparse.Namespace) -> int:
    parts = _corpora.read(args)
    return _write_parts({args.out / name: part for name, part in parts.items()}, args.force)


def _write_parts(parts: dict, force: bool) -> int:
    for folder in parts:
        _may_write(folder, force)
    for folder, data in parts.items():
        data.write(folder)
        _say(data, folder)
    return 0


def _export(args: argparse.Namespace) -> int:
    for path in (args.out / name for name in lhotse.NAMES):
        if args.out.is_dir():
            check_writable(path, overwrite=args.force)
    for path in lhotse.write(DataDir.read(args.dir), args.out):
        print(path)
    return 0


def _split(args: argparse.Namespace) -> int:
    data = DataDir.read(args.dir)
    if args.jobs is not None:
        parts = {args.out / str(i): part for i, part in enumerate(split_by_jobs(data, args.jobs), 1)}
        return _write_parts(parts, args.force)
    ratios = assigned("--ratio", args.ratio.split(","), float, "NAME=NUMBER,NAME=NUMBER")
    by_name = split_by_ratio(data, ratios, args.seed, args.by == "speaker")
    return _write_parts({args.out / name: part for name, part in by_name.items()}, args.force)


def _subset(args: argparse.Namespace) -> int:
    data = DataDir.read(args.dir)
    keys = data.utterance_keys
    if args.speakers is not None:
        wanted = set(args.speakers.split(","))
        if unknown := wanted - set(data.speakers):
            raise DataError(f"{args.dir}: no speaker {min(unknown)}; there are {len(data.speakers)}")
        chosen = [u for u, speaker in data.tables["utt2spk"].items() if speaker in wanted]
    elif args.keys is not None:
        try:
            chosen = args.keys.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{args.keys}: cannot read ({error})") from error
        if unknown := set(chosen) - set(keys):
            raise DataError(f"{args.keys}: {min(unknown)} is not in {args.dir}")
    else:
        wanted = args.count if args.count is not None else args.first
        if not 1 <= wanted <= len(keys):
            raise DataError(f"{args.dir}: cannot take {wanted} of {len(keys)} utterances")
        order = np.random.default_rng(args.seed).permutation(len(keys)) if args.count else range(len(keys))
        chosen = [keys[i] for i in order[:wanted]]
    if args.exclude:
        chosen = sorted(set(keys) - set(chosen))
    if not chosen:
        raise DataError(f"{args.dir}: that leaves no utterance")
    return _write_parts({args.out: data.subset(chosen)}, args.force)


def _combine(args: argparse.Namespace) -> int:
    return _write_parts({args.out: combine(DataDir.read(d) for d in args.dir)}, args.force)


def _convert(args: argparse.Namespace) -> int:
    data, out = DataDir.read(args.dir), _may_write(args.out, args.force, args.dir, ["audio/*/*.wav"])
    _say(convert(data, out, args.rate, args.allow_pipes), out)
    return 0


def _mix(args: argparse.Namespace) -> int:
    seconds, snr, level = map(tuple, (args.seconds, args.snr, args.level))
    settings = MixSettings(sample_rate=args.rate, seconds=seconds, snr_db=snr, level_dbfs=level)
    speech, noise = DataDir.read(args.speech), DataDir.read(args.noise)
    out = _may_write(args.out, args.force, files=["noisy/*.wav", "clean/*.wav"])
    print(f"drawing {args.count} mixtures", file=sys.stderr)
    silent: set[str] = set()
    how = {"seed": args.seed, "settings": settings, "allow_pipes": args.allow_pipes, "silent": silent}
    _say(write_mixtures(speech, noise, out, args.count, **how), out)
    if silent:
        keys = " ".join(sorted(silent))
        note(f"warning: {args.speech}: {len(silent)} silent utterances were left out: {keys}")
    return 0


def _lose(args: argparse.Namespace) -> int:
    try:
        model = parse_loss(args.loss)
    except ValueError as error:
        raise UsageError(f"--loss {error}") from None
    data, out = DataDir.read(args.dir), _may_write(args.out, args.force, args.dir, ["traces/*.txt"])
    data, lost = write_traces(data, out, model, args.seed, args.allow_pipes)
    _say(data, out)
    print(f"{out}: {100 * lost.rate:.2f} % of {lost.packets} packets lost, in bursts of {lost.mean:.2f}")
    return 0


def _stats(args: argparse.Namespace) -> int:
    """Print mean and deviation of the log-mel, the classes, and options for `audiomask train`."""
    from audiomask.data.crops import labels as classes

    data = DataDir.read(args.dir)
    words: list[str] = []
    facts: list[str] = []
    failed: list = []
    if not args.no_audio:
        from audiomask.data.statistics import log_mel, some
        from audiomask.frontend.logmel import LogMel

        if not 0.1 <= args.seconds < float("inf"):
            raise UsageError(f"--seconds {args.seconds:g}: want a tenth of a second or more")
        frontend = LogMel(frames=0, bands=args.bands, sample_rate=args.rate)
        chosen = some(data, args.count, args.seed) if args.count else None
        piece = round(args.seconds * args.rate)
        found, failed = log_mel(data, frontend, piece, chosen, args.allow_pipes)
        words += ["--model.frontend.mean", f"{found.mean:.6g}", "--model.frontend.std", f"{found.std:.6g}"]
        facts.append(f"log-mel of {found.frames} frames: mean {found.mean:.6g}, deviation {found.std:.6g}")
    if "utt2label" in data.tables:
        labels = classes.count(classes.labels_of(data).values())
        least, most = min(labels, key=labels.__getitem__), max(labels, key=labels.__getitem__)
        words += ["--model.model.classes", str(len(labels)), "--model.model.labels", json.dumps(list(labels))]
        facts.append(f"{len(labels)} classes: from {labels[least]} ({least}) to {labels[most]} ({most})")
    if args.options:
        print("\n".join(words))
    else:
        _say(data, args.dir)
        print("\n".join([*facts, f"audiomask train ... {shlex.join(words)}"]))
    return failures(failed, len(data.utterance_keys))


def _shard(args: argparse.Namespace) -> int:
    from audiomask.data.crops import shards  # needs torch

    data = DataDir.read(args.dir)
    old = [args.out / shards.INDEX, *args.out.glob("shard-*.tar")]
    if any(path.exists() for path in old):
        if not args.force:
            raise DataError(f"{args.out}: holds shards already; -f overwrites them")
        for path in old:
            path.unlink(missing_ok=True)
    size = int(args.size * 2**20)
    number, failed = shards.write(data, args.out, args.rate, size, args.seed, args.allow_pipes)
    print(f"{args.out}: {len(data.utterance_keys) - len(failed)} utterances in {number} shards")
    return failures(failed, len(data.utterance_keys))
