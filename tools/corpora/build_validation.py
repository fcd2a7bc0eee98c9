"""Build a validation set: mixtures of held-out speakers and held-out kinds of noise, and clean speech.

    python tools/corpora/build_validation.py --speech data/speech --noise data/noise --kinds cafe,traffic
    --out valid python tools/compare/denoisers.py valid

--speech and --noise are Kaldi data directories, or .scp lists with an utt2spk beside them (the speaker, or
the kind of noise). Held out are the last --speakers speakers in the order of their numbers (of their names,
where they are not numbers), and the kinds of noise that match --kinds. OUT gets noisy/ and clean/ with their
tables, clean_best/ (the utterances that DNSMOS likes best: what a denoiser must leave alone), and the lists
speakers and kinds, which the training has to exclude.
"""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from audiomask import audio, metrics
from audiomask.audio import AudioError
from audiomask.data.kaldi.directory import DataDir, DataError, scan_table
from audiomask.data.simulate.mixtures import MixSettings, write_mixtures


def read_list(path: Path) -> DataDir:
    """A data directory, or the .scp file of one that may lack everything else but utt2spk."""
    if path.is_dir():
        return DataDir.read(path)
    beside = path.parent / "utt2spk"
    tables = {"wav.scp": path, "utt2spk": beside}
    if not path.is_file() or not beside.is_file():
        raise DataError(f"{path}: need a data directory, or an .scp file with an utt2spk beside it")
    rows = {name: {key: value for _, key, value in scan_table(file)[0]} for name, file in tables.items()}
    rows["utt2spk"] = {key: value for key, value in rows["utt2spk"].items() if key in rows["wav.scp"]}
    return DataDir(rows, path.parent)


def of_groups(data: DataDir, groups: set[str]) -> DataDir:
    """The utterances of these speakers (or kinds)."""
    return data.subset(key for key, group in data.tables["utt2spk"].items() if group in groups)


def last_speakers(data: DataDir, count: int) -> set[str]:
    """The last `count` by number, by name where one is no number."""
    names = data.speakers
    names.sort(key=(lambda s: (int(s), s)) if all(s.isdigit() for s in names) else str)
    if not 1 <= count < len(names):
        raise DataError(f"{data.path}: cannot hold out {count} of {len(names)} speakers")
    return set(names[-count:])


def write_best(data: DataDir, out: Path, count: int, rate: int, seconds: float = 5.0) -> None:
    """The `count` pieces of `seconds` that DNSMOS OVRL likes best, as out/KEY-pN.wav at `rate`."""
    from soxr import resample

    pieces = []
    for utterance in data.utterances():
        x, given = data.load(utterance)
        mono = x.mean(axis=0)
        mono = mono if given == rate else resample(mono, given, rate, quality="HQ")
        size = round(seconds * rate)
        for i in range(max(1, len(mono) // size)):
            piece = mono[i * size : (i + 1) * size]
            quality = metrics.score(None, piece, rate, ["dnsmos"])["dnsmos_ovrl"]
            pieces.append((quality, f"{utterance.key}-p{i}", piece))
    pieces.sort(key=lambda p: (-np.nan_to_num(p[0]), p[1]))
    out.mkdir(parents=True, exist_ok=True)
    for _, name, piece in pieces[:count]:
        audio.write(out / f"{name}.wav", piece, rate, overwrite=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speech", type=Path, required=True, metavar="DIR|SCP")
    parser.add_argument("--noise", type=Path, required=True, metavar="DIR|SCP")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--speakers", type=int, default=25, metavar="N", help="held out (default: %(default)s)"
    )
    parser.add_argument(
        "--kinds", default="*", metavar="A,B*", help="kinds of noise (default: all of --noise)"
    )
    parser.add_argument("--count", type=int, default=200, metavar="N", help="mixtures (default: %(default)s)")
    parser.add_argument(
        "--clean", type=int, default=40, metavar="N", help="clean pieces (default: %(default)s)"
    )
    parser.add_argument("--rate", type=int, default=16000, metavar="HZ")
    parser.add_argument("--snr", type=float, nargs=2, default=(0.0, 15.0), metavar=("MIN", "MAX"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if (args.out / "wav.scp").exists():
            raise DataError(
                f"{args.out}: holds a validation set, which must never change; choose another --out"
            )
        speech, noise = read_list(args.speech), read_list(args.noise)
        speakers = last_speakers(speech, args.speakers)
        patterns = args.kinds.split(",")
        kinds = {k for k in noise.speakers if any(fnmatch(k, pattern) for pattern in patterns)}
        heldout = of_groups(speech, speakers)
        settings = MixSettings(sample_rate=args.rate, snr_db=tuple(args.snr))
        write_mixtures(heldout, of_groups(noise, kinds), args.out, args.count, args.seed, settings)
        write_best(heldout, args.out / "clean_best", args.clean, args.rate)
        for name, groups in (("speakers", speakers), ("kinds", kinds)):
            (args.out / name).write_text("".join(f"{group}\n" for group in sorted(groups)), encoding="utf-8")
    except AudioError as error:
        sys.exit(f"build_validation: {error}")
    print(f"{args.out}: {args.count} mixtures of {len(speakers)} speakers and {len(kinds)} kinds of noise")
    return 0


if __name__ == "__main__":
    sys.exit(main())
