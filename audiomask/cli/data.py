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
import sys
from dataclasses import asdict
from pathlib import Path

from audiomask.cli import UsageError, _corpora, _stats
from audiomask.cli._common import positive
from audiomask.cli._stats import failures, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands, each with the function that runs it in `args.action`."""
    actions = parser.add_subparsers(dest="data_action", metavar="ACTION", required=True)

    def action(name: str, help: str, run) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=help, description=help)
        sub.set_defaults(action=run)
        return sub

    def output(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("-f", "--force", action="store_true", help="overwrite a directory that exists")

    def reads_audio(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--no-audio", action="store_true", help="look at the text only, open no audio")
        sub.add_argument("--allow-pipes", action="store_true", help="run the shell commands of wav.scp")

    sub = action(
        "validate", "list everything that is wrong with a data directory; exit 1 if anything is", _validate
    )
    sub.add_argument("dir", type=Path, nargs="+")
    reads_audio(sub)
    sub.add_argument("--json", action="store_true", help="the findings as JSON")

    sub = action(
        "fix", "sort, drop what cannot be used, make spk2utt and reco2dur anew; says what it did", _fix
    )
    sub.add_argument("dir", type=Path)
    sub.add_argument(
        "-o", "--out", type=Path, help="write here (default: in place, the old tables in DIR/.backup)"
    )
    output(sub)
    reads_audio(sub)

    sub = action("import", "make a data directory from a corpus on disk", _import)
    _corpora.add_arguments(sub)
    output(sub)

    sub = action("export", "write lhotse manifests (recordings and supervisions, jsonl.gz)", _export)
    sub.add_argument("dir", type=Path)
    sub.add_argument("out", type=Path)
    output(sub)

    sub = action(
        "split", "divide by ratio, keeping speakers or recordings together, or into equal jobs", _split
    )
    sub.add_argument("dir", type=Path)
    sub.add_argument("out", type=Path, help="the parts are made below it")
    how = sub.add_mutually_exclusive_group(required=True)
    how.add_argument("--ratio", metavar="NAME=R,NAME=R", help="as in train=0.9,valid=0.1")
    how.add_argument(
        "--jobs", type=positive, metavar="N", help="N parts of consecutive utterances: 1, 2, ... N"
    )
    sub.add_argument(
        "--by", choices=("speaker", "recording"), default="speaker", help="what --ratio keeps together"
    )
    sub.add_argument("--seed", type=int, default=0)
    output(sub)

    sub = action("subset", "keep some utterances", _subset)
    sub.add_argument("dir", type=Path)
    sub.add_argument("out", type=Path)
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--count", type=int, metavar="N", help="N utterances, drawn with --seed")
    which.add_argument("--first", type=int, metavar="N", help="the first N utterances")
    which.add_argument("--speakers", metavar="A,B", help="all utterances of these speakers")
    which.add_argument("--keys", type=Path, metavar="FILE", help="the utterances named in FILE, one a line")
    sub.add_argument("--exclude", action="store_true", help="keep the others instead")
    sub.add_argument("--seed", type=int, default=0)
    output(sub)

    sub = action("combine", "put several data directories into one", _combine)
    sub.add_argument("out", type=Path)
    sub.add_argument("dir", type=Path, nargs="+")
    output(sub)

    sub = action("convert", "write the audio anew, mono and at one rate, and list it", _convert)
    sub.add_argument("dir", type=Path)
    sub.add_argument("out", type=Path, help="gets audio/TABLE/*.wav and the tables that list them")
    sub.add_argument("--rate", type=positive, required=True, metavar="HZ")
    sub.add_argument("--allow-pipes", action="store_true", help="run the shell commands of wav.scp")
    output(sub)

    sub = action("mix", "write fixed mixtures of speech and noise with their clean references", _mix)
    sub.add_argument("out", type=Path, help="gets noisy/*.wav, clean/*.wav and the tables that list them")
    sub.add_argument(
        "--speech", type=Path, required=True, metavar="DIR", help="data directory of clean speech"
    )
    sub.add_argument(
        "--noise", type=Path, required=True, metavar="DIR", help="data directory; utt2spk: kind of noise"
    )
    sub.add_argument("--count", type=positive, default=200, metavar="N")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--rate", type=positive, default=16000, metavar="HZ")
    sub.add_argument("--seconds", type=float, nargs=2, default=(3.0, 6.0), metavar=("MIN", "MAX"))
    sub.add_argument("--snr", type=float, nargs=2, default=(0.0, 15.0), metavar=("MIN", "MAX"), help="dB")
    sub.add_argument(
        "--level", type=float, nargs=2, default=(-30.0, -20.0), metavar=("MIN", "MAX"), help="dBFS RMS"
    )
    sub.add_argument("--allow-pipes", action="store_true", help="run the shell commands of wav.scp")
    output(sub)

    sub = action(
        "lose", "draw the packets that each utterance loses, so that every method meets the same", _lose
    )
    sub.add_argument("dir", type=Path)
    sub.add_argument("out", type=Path, help="gets traces/*.txt, utt2trace, and the tables of DIR")
    sub.add_argument("--loss", required=True, metavar="TRACE|gilbert:P,Q|drop:RATE", help="packets of 20 ms")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--allow-pipes", action="store_true", help="run the shell commands of wav.scp")
    output(sub)

    sub = action("stats", "measure what the training of pretrain and classify wants to know", _stats.run)
    _stats.add_arguments(sub)
    reads_audio(sub)

    sub = action("shard", "write the utterances, shuffled, to tar files that training reads in turn", _shard)
    sub.add_argument("dir", type=Path)
    sub.add_argument("-o", "--out", type=Path, required=True, help="folder of the shards")
    sub.add_argument("--size", type=float, default=256.0, metavar="MIB", help="of a shard (default 256)")
    sub.add_argument("--rate", type=positive, default=16000, metavar="HZ", help="default 16000")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--allow-pipes", action="store_true", help="run the shell commands of wav.scp")
    sub.add_argument("-f", "--force", action="store_true", help="overwrite shards that exist")


def run(args: argparse.Namespace) -> int:
    """Return the exit code of an action; raise DataError (an AudioError) if it has to stop."""
    return args.action(args)


def _may_write(folder: Path, force: bool) -> Path:
    from audiomask.data.kaldi import DataDir, DataError

    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: exists and is not a folder")
    if (folder / "wav.scp").exists():
        if not force:
            raise DataError(f"{folder}: holds a data directory already; -f overwrites it")
        for name in DataDir.table_names(folder):  # no old table may survive among the new
            (folder / name).unlink()
    return folder


def _validate(args: argparse.Namespace) -> int:
    from audiomask.data.health import validate

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
    import shutil

    from audiomask.data.health import fix
    from audiomask.data.kaldi import DataDir

    data, notes = fix(args.dir, not args.no_audio, args.allow_pipes)
    if args.out is None or args.out.resolve() == args.dir.resolve():
        backup = args.dir / ".backup"
        backup.mkdir(exist_ok=True)
        for name in DataDir.table_names(args.dir):
            shutil.move(args.dir / name, backup / name)
        out = args.dir
    else:
        out = _may_write(args.out, args.force)
    data.write(out)
    for line in notes:
        print(line)
    say(data, out)
    return 0


def _import(args: argparse.Namespace) -> int:
    parts = _corpora.read(args)
    return _write_parts({args.out / name: part for name, part in parts.items()}, args.force)


def _write_parts(parts: dict, force: bool) -> int:
    for folder in parts:
        _may_write(folder, force)
    for folder, data in parts.items():
        data.write(folder)
        say(data, folder)
    return 0


def _export(args: argparse.Namespace) -> int:
    from audiomask.data.importers import to_lhotse
    from audiomask.data.kaldi import DataDir, DataError

    if (args.out / "recordings.jsonl.gz").exists() and not args.force:
        raise DataError(f"{args.out}/recordings.jsonl.gz: exists; -f overwrites it")
    for path in to_lhotse(DataDir.read(args.dir), args.out):
        print(path)
    return 0


def _split(args: argparse.Namespace) -> int:
    from audiomask.data.kaldi import DataDir, split_by_jobs, split_by_ratio

    data = DataDir.read(args.dir)
    if args.jobs is not None:
        parts = {args.out / str(i): part for i, part in enumerate(split_by_jobs(data, args.jobs), 1)}
        return _write_parts(parts, args.force)
    ratios: dict[str, float] = {}
    for item in args.ratio.split(","):
        name, _, value = item.partition("=")
        try:
            ratios[name] = float(value)
        except ValueError:
            raise UsageError(f"--ratio: want NAME=NUMBER,NAME=NUMBER, got {args.ratio!r}") from None
    by_name = split_by_ratio(data, ratios, args.seed, args.by == "speaker")
    return _write_parts({args.out / name: part for name, part in by_name.items()}, args.force)


def _subset(args: argparse.Namespace) -> int:
    import numpy as np

    from audiomask.data.kaldi import DataDir, DataError

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
        count = args.count if args.count is not None else args.first
        if not 1 <= count <= len(keys):
            raise DataError(f"{args.dir}: cannot take {count} of {len(keys)} utterances")
        order = np.random.default_rng(args.seed).permutation(len(keys)) if args.count else range(len(keys))
        chosen = [keys[i] for i in order[:count]]
    if args.exclude:
        chosen = sorted(set(keys) - set(chosen))
    if not chosen:
        raise DataError(f"{args.dir}: that leaves no utterance")
    return _write_parts({args.out: data.subset(chosen)}, args.force)


def _combine(args: argparse.Namespace) -> int:
    from audiomask.data.kaldi import DataDir, combine

    return _write_parts({args.out: combine(DataDir.read(d) for d in args.dir)}, args.force)


def _convert(args: argparse.Namespace) -> int:
    from audiomask.data.convert import convert
    from audiomask.data.kaldi import DataDir, DataError

    data = DataDir.read(args.dir)
    if args.out.resolve() == args.dir.resolve():
        raise DataError(f"{args.out}: would replace the directory it is made from; give another")
    say(convert(data, _may_write(args.out, args.force), args.rate, args.allow_pipes), args.out)
    return 0


def _mix(args: argparse.Namespace) -> int:
    from audiomask.data.kaldi import DataDir
    from audiomask.data.mix import MixSettings, write_mixtures

    settings = MixSettings(
        sample_rate=args.rate,
        seconds=tuple(args.seconds),
        snr_db=tuple(args.snr),
        level_dbfs=tuple(args.level),
    )
    speech, noise = DataDir.read(args.speech), DataDir.read(args.noise)
    _may_write(args.out, args.force)
    print(f"drawing {args.count} mixtures", file=sys.stderr)
    data = write_mixtures(
        speech, noise, args.out, args.count, seed=args.seed, settings=settings, allow_pipes=args.allow_pipes
    )
    say(data, args.out)
    return 0


def _lose(args: argparse.Namespace) -> int:
    from audiomask.data.kaldi import DataDir, DataError
    from audiomask.data.lossy import write_traces
    from audiomask.masks.packets import parse_loss

    try:
        model = parse_loss(args.loss)
    except ValueError as error:
        raise UsageError(f"--loss {error}") from None
    data = DataDir.read(args.dir)
    if args.out.resolve() == args.dir.resolve():
        raise DataError(f"{args.out}: would replace the directory it is made from; give another")
    data, lost = write_traces(data, _may_write(args.out, args.force), model, args.seed, args.allow_pipes)
    say(data, args.out)
    print(f"{args.out}: {100 * lost.rate:.2f} % of {lost.packets} packets lost, in bursts of {lost.mean:.2f}")
    return 0


def _shard(args: argparse.Namespace) -> int:
    from audiomask.data import shards
    from audiomask.data.kaldi import DataDir, DataError

    data = DataDir.read(args.dir)
    old = [args.out / shards.INDEX, *args.out.glob("shard-*.tar")]
    if any(path.exists() for path in old):
        if not args.force:
            raise DataError(f"{args.out}: holds shards already; -f overwrites them")
        for path in old:
            path.unlink(missing_ok=True)
    size = int(args.size * 2**20)
    count, failed = shards.write(data, args.out, args.rate, size, args.seed, args.allow_pipes)
    print(f"{args.out}: {len(data.utterance_keys) - len(failed)} utterances in {count} shards")
    return failures(failed, len(data.utterance_keys))
