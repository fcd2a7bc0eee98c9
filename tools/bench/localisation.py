"""Measure how well Hallmark's detector says where a recording is marked: with holes spliced in.

    python tools/bench/localisation.py RECORDINGS... [--files 17] [--seconds 15] [--seed 0]

Of each recording the first seconds are marked, in one channel and at its own rate; then a stretch of 3 to 4 s
becomes unmarked again, at least 3 s from either end. The table has for each file and for all how much of
marked and found stretches is both (IoU, by time: intersection over union), and how far the found edges of the
hole are from the true ones; a file counts with an IoU of 0 where no mark or not one hole is found.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from audiomask.audio import Reader
from audiomask.audio.sources import find_audio
from audiomask.runtime.marks.carrier import Carrier
from audiomask.runtime.marks.detector import Detector
from audiomask.runtime.session import Session

KEY = bytes(range(16))
Stretches = Sequence[tuple[float, float]]


def agreement(true: Stretches, found: Stretches) -> float:
    """Return intersection over union of stretches from-to, each list in order and without overlaps."""
    both = sum(max(0.0, min(b, d) - max(a, c)) for a, b in true for c, d in found)
    return both / (sum(b - a for stretches in (true, found) for a, b in stretches) - both)


def measured(x: np.ndarray, rate: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return for sound `[T]` the agreement, and the greater error of the two edges of the hole in seconds."""
    message, seconds = int(rng.integers(65536)), len(x) / rate
    session = Session("hallmark", sample_rate=rate, controls={"carrier": Carrier(KEY).wave(message)})
    y = np.concatenate((session.feed(x), session.flush()))
    begin = rng.uniform(3, seconds - 7)
    end = begin + rng.uniform(3, 4)
    hole = slice(round(begin * rate), round(end * rate))
    y[hole] = x[hole]
    detector = Detector(KEY, rate)
    detector.feed(y)
    found = detector.flush()
    if found.message != message or len(found.segments) != 2:
        return 0.0, float("inf")
    (_, first), (second, _) = found.segments
    iou = agreement([(0, begin), (end, seconds)], found.segments)
    return iou, max(abs(first - begin), abs(second - end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--files", type=int, default=17, help="at most, spread over all")
    parser.add_argument("--seconds", type=float, default=15, help="of each, from its beginning, 10 or more")
    parser.add_argument("--seed", type=int, default=0, help="of messages and holes")
    args = parser.parse_args()
    rng, sounds = np.random.default_rng(args.seed), []
    for source in find_audio(args.recordings):
        with Reader(source.path) as reader:
            if reader.info.seconds >= max(10, args.seconds):
                sounds.append(source.path)
    chosen = np.unique(np.linspace(0, len(sounds) - 1, min(args.files, len(sounds))).round().astype(int))
    print("| file | IoU | edges within |")
    print("|---|---|---|")
    rows = []
    for path in (sounds[i] for i in chosen):
        with Reader(path) as reader:
            rate = reader.info.rate
            x = reader.read(round(args.seconds * rate)).mean(0)
        rows.append(measured(x, rate, rng))
        print(f"| {Path(path).name} | {rows[-1][0]:.3f} | {rows[-1][1]:.3f} s |", flush=True)
    if not rows:
        parser.error(f"no recording is {max(10, args.seconds):g} s long")
    iou, edges = np.array(rows).T
    print(f"| {len(rows)} files: mean, median | {iou.mean():.3f} | {np.median(edges):.3f} s |")
    print(f"| worst | {iou.min():.3f} | {edges.max():.3f} s |")


if __name__ == "__main__":
    main()
