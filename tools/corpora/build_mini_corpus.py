r"""Build egs/mini/denoise/corpus: a few licensed minutes of speech and noise that travel with the repository.

    python tools/corpora/build_mini_corpus.py --speech LIBRI --noise ESC10 --credits README.md \
        --apollo a11wlk01.wav --out egs/mini/denoise/corpus

LIBRI holds LibriSpeech utterances (READER-CHAPTER-NUMBER.opus), ESC10 the folders of ESC-10 with their clips
as Opus, and README.md is that of ESC-10 at commit 553c8f1, which credits every clip. Files are copied as they
are. Training and validation share no reader and no clip: the validation readers are the last of all, its
clips those of fold 5, and the folds of ESC-10 share no original recording. A clip whose licence is neither
CC0 nor CC BY is refused. --apollo is that file of SuperCollider: a voice on a noisy radio link, the one real
recording of the demonstration.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from soxr import resample

from audiomask import audio
from audiomask.data.simulate.mixtures import mix_at_snr

CLASSES = {
    "Rain": 4,
    "Sea waves": 4,
    "Helicopter": 4,
    "Chainsaw": 4,
    "Baby cry": 3,
    "Clock tick": 3,
}  # training clips
VALID_CLIPS = 2  # of each class
VALID_READERS = 25  # the last ones: those that the larger validation set holds out too
LICENCES = {"CC0": "CC0 1.0", "CC-BY": "CC BY 3.0"}
APOLLO = (
    "demo/apollo11.flac\tpublic domain (work of the US government)\tNASA\t"
    "Apollo 11 radio, a11wlk01.wav as distributed with SuperCollider\t"
    "https://github.com/supercollider/supercollider/tree/develop/sounds"
)
CREDIT = re.compile(
    r"\*\*\[(?P<file>[^\]]+)\.ogg\].*clip derived from \[(?P<title>.*)\]\((?P<url>http[^)]*freesound[^)]*)\)"
    r" by \*(?P<author>.*)\* \(\[(?P<licence>[^\]]+)\]"
)


@dataclass(frozen=True)
class Credit:
    """Who made a clip of ESC-10, and under which licence."""

    title: str
    url: str
    author: str
    licence: str


def read_credits(readme: Path) -> dict[str, Credit]:
    """By clip name without suffix."""
    out = {}
    for line in readme.read_text(encoding="utf-8").splitlines():
        if match := CREDIT.search(line):
            out[match["file"]] = Credit(match["title"], match["url"], match["author"], match["licence"])
    return out


def choose_clips(noise: Path, credits: dict[str, Credit], kind: str, count: int, valid: bool) -> list[Path]:
    """`count` clips of a kind, of different original recordings, without gaps, licensed for copying."""
    folders = [f for f in noise.iterdir() if f.name.partition("_-_")[2].replace("_", " ") == kind]
    if len(folders) != 1:
        sys.exit(f"{noise}: want one folder for {kind!r}, found {len(folders)}")
    chosen: dict[str, Path] = {}
    for path in sorted(folders[0].glob("*.opus")):
        fold, original = path.stem.split("-")[:2]
        if (fold == "5") != valid or original in chosen or credits[path.stem].licence not in LICENCES:
            continue
        x, rate = audio.read(path)
        frames = x[0, : x.shape[1] // (rate // 2) * (rate // 2)].reshape(-1, rate // 2)  # half seconds
        if np.sqrt((frames**2).mean(axis=1)).min() > 1e-3:  # clips padded with digital silence are no noise
            chosen[original] = path
    if len(chosen) < count:
        sys.exit(
            f"{noise}: only {len(chosen)} fit clips of {kind!r} in {'fold 5' if valid else 'folds 1 to 4'}"
        )
    return list(chosen.values())[:count]


def choose_utterances(
    speech: Path, readers: list[str], count: int, seconds: tuple[float, float]
) -> list[Path]:
    """One utterance each of `count` readers, evenly spread, within the range of lengths."""
    fit = []
    for reader in readers:
        for path in sorted(speech.glob(f"{reader}-*.opus"))[:1]:
            if seconds[0] <= audio.info(path).seconds <= seconds[1]:
                fit.append(path)
    if len(fit) < count:
        sys.exit(f"{speech}: only {len(fit)} readers have an utterance of {seconds} s, want {count}")
    return [fit[i] for i in np.linspace(0, len(fit) - 1, count).round().astype(int)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("speech", "noise", "credits", "apollo", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--train-readers", type=int, default=24)
    parser.add_argument("--valid-readers", type=int, default=6)
    args = parser.parse_args()
    credits = read_credits(args.credits)
    readers = sorted({p.name.split("-")[0] for p in args.speech.glob("*.opus")}, key=int)
    if len(readers) < VALID_READERS + args.train_readers:
        sys.exit(f"{args.speech}: only {len(readers)} readers")
    rows = ["file\tlicence\tauthor\ttitle\tsource"]

    def speech_row(path: Path, place: str) -> str:
        reader = path.name.split("-")[0]
        who = f"LibriVox reader {reader}"
        return f"{place}\tCC BY 4.0\t{who}\tLibriSpeech {path.stem}\thttps://www.openslr.org/12"

    def noise_row(path: Path, place: str) -> str:
        c = credits[path.stem]
        return f"{place}\t{LICENCES[c.licence]}\t{c.author}\t{c.title} (ESC-10 {path.stem})\t{c.url}"

    heldout, trainers = readers[-VALID_READERS:], readers[:-VALID_READERS]
    parts = {
        "train": choose_utterances(args.speech, trainers, args.train_readers, (8, 15)),
        "valid": choose_utterances(args.speech, heldout, args.valid_readers, (8, 16)),
    }
    for part, files in parts.items():
        for path in files:
            place = f"speech/{part}/{path.name}"
            (args.out / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, args.out / place)
            rows.append(speech_row(path, place))
        for kind, count in CLASSES.items():
            valid = part == "valid"
            for path in choose_clips(args.noise, credits, kind, VALID_CLIPS if valid else count, valid):
                place = f"noise/{part}/{kind.lower().replace(' ', '_')}/{path.name}"
                (args.out / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, args.out / place)
                rows.append(noise_row(path, place))
    rows += demo(args.out, parts["valid"][0], speech_row, noise_row)
    x, rate = audio.read(args.apollo)
    real = args.out / "demo/apollo11.flac"
    audio.write(real, resample(x[0], rate, 16000, quality="HQ"), 16000, overwrite=True)
    rows.append(APOLLO)
    (args.out / "CREDITS.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(rows) - 1} files")
    return 0


def demo(out: Path, utterance: Path, speech_row, noise_row) -> list[str]:
    """A mixture at 5 dB with its clean reference, of a validation reader and clip: unseen by any model."""
    speech, rate = audio.read(utterance)
    clip = sorted((out / "noise" / "valid" / "helicopter").glob("*.opus"))[0]
    noise, noise_rate = audio.read(clip)
    x, n = speech[0, : 8 * rate], resample(noise[0], noise_rate, rate, quality="HQ")
    clean, noisy = mix_at_snr(x, np.resize(n, len(x)), snr_db=5.0, level_dbfs=-26.0)
    (out / "demo").mkdir(exist_ok=True)
    for name, y in (("clean", clean), ("noisy", noisy)):
        audio.write(out / "demo" / f"mixture_{name}.flac", y, rate, overwrite=True)
    return [
        speech_row(utterance, "demo/mixture_clean.flac"),
        speech_row(utterance, "demo/mixture_noisy.flac"),
        noise_row(clip, "demo/mixture_noisy.flac"),
    ]


if __name__ == "__main__":
    sys.exit(main())
