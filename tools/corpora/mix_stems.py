"""Mix recordings of several kinds into songs of stems, to measure separators on.

    python tools/corpora/mix_stems.py data/valid --stems speech music effects --count 40 --seconds 10 -o mixes

DATA holds a Kaldi data directory for each stem, as `data.modules.StemSounds` reads them. Each mix becomes
OUT/NAME/STEM.wav and OUT/NAME/mixture.wav, 48 kHz in two channels, floats whose sum is the mixture. All stems
have the same active level, +- half of --range dB, and no mix has two parts of one recording. Recordings of
one channel stand in the middle. OUT is a data directory too, with a table for each stem beside wav.scp.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from audiomask.audio import AudioError, make_folder
from audiomask.data.crops.music import read_channels
from audiomask.data.kaldi.collector import Collector
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.simulate.degrade import active_level

RATE, LEVEL_DBFS = 48000, -26.0
TRIES = 100  # pieces of a stem, of which one must not be silent


def cut(data: DataDir, rng: np.random.Generator, samples: int) -> tuple[str, np.ndarray]:
    """A key and `[2, samples]` of somewhere in a recording, filled up by others of its speaker."""
    utterances = list(data.utterances())
    first = utterances[int(rng.integers(len(utterances)))]
    alike = [u for u in utterances if u.speaker == first.speaker and u is not first]
    order = [first, *(alike[i] for i in rng.permutation(len(alike)))]
    parts: list[np.ndarray] = []
    found = 0
    for u in order:
        x = read_channels(data, u, RATE, 2)
        if not parts and x.shape[1] > samples:
            at = int(rng.integers(x.shape[1] - samples))
            return first.key, x[:, at : at + samples]
        parts.append(x)
        found += x.shape[1]
        if found >= samples:
            break
    x = np.concatenate(parts, 1)[:, :samples]
    return first.key, np.pad(x, ((0, 0), (0, samples - x.shape[1])))


def at_level(x: np.ndarray, db: float) -> np.ndarray:
    """x `[2, T]` at an active level."""
    return x * np.float32(10 ** (db / 20) / level(x))


def level(x: np.ndarray) -> float:
    """The active level of x `[2, T]`."""
    return float(active_level(torch.from_numpy(np.sqrt((x**2).mean(0)))[None], RATE))


def heard(data: DataDir, rng: np.random.Generator, samples: int) -> tuple[str, np.ndarray]:
    """A `cut` that is not silent; AudioError if there is none to be found."""
    for _ in range(TRIES):
        key, x = cut(data, rng, samples)
        if level(x) >= 1e-5:
            return key, x
    raise AudioError(f"{data.path}: {TRIES} pieces of it are silent; give recordings of the stem")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--stems", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--range", type=float, default=0.0, help="dB between the levels of two stems, at most"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    corpora = {stem: DataDir.read(args.data / stem) for stem in args.stems}
    made = Collector(args.out)
    for i in range(args.count):
        rng = np.random.default_rng([args.seed, i])
        found, names = {}, []
        for stem, data in corpora.items():
            key, x = heard(data, rng, round(args.seconds * RATE))
            found[stem] = at_level(x, LEVEL_DBFS + rng.uniform(-0.5, 0.5) * args.range)
            names.append(key)
        folder = args.out / f"mix{i:03d}"
        make_folder(folder)
        scale = min(1.0, 0.99 / np.abs(sum(found.values())).max())
        for name, x in {**found, "mixture": sum(found.values())}.items():
            sf.write(folder / f"{name}.wav", (x * scale).T, RATE, "FLOAT")
        partners = {stem: folder / f"{stem}.wav" for stem in found}
        made.add(folder.name, folder.name, folder / "mixture.wav", None, **partners)
        print(folder.name, *names)
    made.finish().write(args.out)


if __name__ == "__main__":
    try:
        main()
    except AudioError as error:
        sys.exit(f"error: {error}")
