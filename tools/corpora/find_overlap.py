"""Find recordings of one corpus inside another: test clips that a training set holds, perhaps cut and coded.

    python tools/corpora/find_overlap.py --clips data/esc10 --corpus data/pretrain [--json overlap.json]

Both are data directories. Prints each clip that shares a stretch with a recording of the corpus: where, and
by how many landmarks (Wang 2003, "An Industrial-Strength Audio Search Algorithm"): pairs of spectral peaks,
told by their two frequencies and the time between them, that lie at the same offset in both. Level, coding
and resampling leave most of them where they are; a change of pitch or speed moves them, and is not found. Nor
is a clip with hardly a peak in it: `of` says how many landmarks it has.

Exit status 1 if anything was found, 0 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import maximum_filter

from audiomask.audio import AudioError
from audiomask.data.kaldi.directory import DataDir, read_mono

RATE, SIZE, HOP = 8000, 512, 160
NEAR = (15, 7)  # bins and frames on each side within which a peak is the greatest
AHEAD, PAIRS = 64, 6  # frames within which a peak is paired, and with how many
LIMIT = 6  # landmarks at one offset; see `votes_by_chance`


def peaks(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames and bins of the peaks of `x [T]` at 8 kHz, by time."""
    count = 1 + (len(x) - SIZE) // HOP
    if count < 1:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    frames = np.lib.stride_tricks.sliding_window_view(x, SIZE)[::HOP]
    spectrum = np.fft.rfft(frames * np.hanning(SIZE))[:, 2:]
    level = np.log(np.abs(spectrum) + 1e-4)  # digital silence has no peaks
    top = maximum_filter(level, (2 * NEAR[1] + 1, 2 * NEAR[0] + 1))
    time, freq = np.nonzero((level == top) & (level > level.mean() + 0.5) & (level > -6))
    return time, freq


def landmarks(x: np.ndarray) -> np.ndarray:
    """`[N, 2]` int64 of `x [T]` at 8 kHz: what the landmark is, and its frame."""
    time, freq = peaks(x)
    found = []
    for step in range(1, PAIRS + 1):
        apart = time[step:] - time[:-step]
        near = (apart > 0) & (apart < AHEAD)
        what = (freq[:-step] * 256 + freq[step:]) * AHEAD + apart
        found.append(np.stack([what[near], time[:-step][near]], 1))
    return np.concatenate(found)


def votes_by_chance(clip: int, other: int) -> float:
    """Landmarks that two unlike recordings of so many share at their best offset, roughly.

    Of offsets there are about as many as frames; a landmark is one of some 10^5 that occur.
    """
    return clip * other / 1e5 / max(other / 100, 1)


class Index:
    """Landmarks of clips, to be looked up by what they are."""

    def __init__(self, clips: list[np.ndarray]) -> None:
        rows = np.concatenate([np.column_stack([c, np.full(len(c), i)]) for i, c in enumerate(clips)])
        self.rows = rows[np.argsort(rows[:, 0], kind="stable")]
        self.sizes = [len(c) for c in clips]

    def look_up(self, marks: np.ndarray) -> list[tuple[int, int, int]]:
        """Clips that share landmarks with `marks`: number, offset in frames (of the clip's start in the other
        recording), and how many, the most first.
        """
        if not len(marks):
            return []
        low, high = (np.searchsorted(self.rows[:, 0], marks[:, 0], side) for side in ("left", "right"))
        counts = high - low
        mine = np.repeat(np.arange(len(marks)), counts)
        place = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts) + np.repeat(low, counts)
        clip, offset = self.rows[place, 2], marks[mine, 1] - self.rows[place, 1]
        # a frame of rounding either way: halves of offsets, once from even and once from odd ones
        best: dict[int, tuple[int, int]] = {}
        for shift in (0, 1):
            keys, n = np.unique(np.column_stack([clip, (offset + shift) // 2]), axis=0, return_counts=True)
            for (c, o), k in zip(keys.tolist(), n.tolist(), strict=True):
                if k > best.get(c, (0, 0))[1]:
                    best[c] = (2 * o - shift, k)
        found = [
            (c, o, k)
            for c, (o, k) in best.items()
            if k >= LIMIT + 3 * votes_by_chance(self.sizes[c], len(marks))
        ]
        return sorted(found, key=lambda row: -row[2])


def find(clips: DataDir, corpus: DataDir) -> list[dict[str, object]]:
    """Each stretch that a clip shares with a recording of the corpus, the surest first."""
    keys = [u.key for u in clips.utterances()]
    index = Index([landmarks(read_mono(clips, u, RATE)) for u in clips.utterances()])
    found = []
    for u in corpus.utterances():
        for clip, offset, count in index.look_up(landmarks(read_mono(corpus, u, RATE))):
            found.append(
                {
                    "clip": keys[clip],
                    "recording": u.key,
                    "seconds": round(offset * HOP / RATE, 2),
                    "landmarks": count,
                    "of": index.sizes[clip],
                }
            )
    return sorted(found, key=lambda row: -row["landmarks"])  # type: ignore[operator]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True, help="data directory of what must not be there")
    parser.add_argument("--corpus", type=Path, required=True, help="data directory to look in")
    parser.add_argument("--json", type=Path, help="write what is found here too")
    args = parser.parse_args()
    try:
        found = find(DataDir.read(args.clips), DataDir.read(args.corpus))
    except AudioError as error:
        print(f"find_overlap: {error}", file=sys.stderr)
        return 2
    for row in found:
        print("{clip} is in {recording} at {seconds} s: {landmarks} of {of} landmarks".format(**row))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} found", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
