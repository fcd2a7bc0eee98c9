"""A separator beside the packages demucs and openunmix, on the same clip: time of one processor.

    python tools/bench/separators.py --model prism --seconds 20 --rounds 5

In every round each takes its turn at a stereo clip of 44.1 kHz, and the table has the median of its times as
seconds of work a second of sound (RTF), and as a multiple of the model's time by file. HTDemucs has its
published sizes and four stems, without shifts, in windows that overlap by a quarter; Open-Unmix has three
targets and one step of Wiener filtering; both have random weights, which cost as much as trained ones. The
model plays the clip as files are played, conversion of the rate included, and hop by hop at its own rate, as
sound cards give it. Peers whose package is missing are left out (`pip install --no-deps demucs openunmix`,
with einops and julius).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch

import audiomask.frontend.torchaudio_import  # noqa: F401 (openunmix imports torchaudio)
from audiomask.cli._common import table
from audiomask.runtime.session import Session

RATE, OVERLAP = 44100, 0.25
BLOCK_S = 10.0  # of a file
TARGETS = ("vocals", "drums", "bass")
Run = Callable[[], object]


def by_file(model: str, x: np.ndarray) -> Run:
    session = Session(model, sample_rate=RATE, channels=2)
    block = int(BLOCK_S * RATE)

    def run() -> None:
        for at in range(0, x.shape[1], block):
            session.feed(x[:, at : at + block])
        session.flush()

    return run


def by_hops(model: str, x: np.ndarray) -> Run:
    session = Session(model, channels=2)
    seconds, hop = x.shape[1] / RATE, session.artifact.hop
    sound = np.resize(x, (2, round(seconds * session.sample_rate) // hop * hop))

    def run() -> None:
        for at in range(0, sound.shape[1], hop):
            session.feed(sound[:, at : at + hop])
        session.reset()

    return run


def htdemucs(x: np.ndarray) -> Run:
    from demucs.apply import apply_model
    from demucs.htdemucs import HTDemucs

    model = HTDemucs(
        ["drums", "bass", "other", "vocals"], dconv_mode=3, bottom_channels=512, segment=7.8
    ).eval()
    mix = torch.from_numpy(x)[None]
    return lambda: apply_model(model, mix, shifts=0, split=True, overlap=OVERLAP)


def open_unmix(x: np.ndarray) -> Run:
    from openunmix.model import OpenUnmix, Separator

    networks = {name: OpenUnmix(2049, 2, 512, 3, max_bin=1487) for name in TARGETS}
    model = Separator(networks, niter=1, sample_rate=float(RATE)).eval()
    mix = torch.from_numpy(x)[None]
    return lambda: model(mix)


def seconds(run: Run) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="prism", help="the name of a separator, or its .onnx file")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = 0.1 * np.random.default_rng(0).standard_normal((2, int(args.seconds * RATE))).astype("f4")
    runs = {f"{args.model}, by file": by_file(args.model, x), f"{args.model}, hops": by_hops(args.model, x)}
    for name, peer in (("HTDemucs", htdemucs), ("Open-Unmix, 3 targets", open_unmix)):
        try:
            runs[name] = peer(x)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(args.rounds + 1):  # the first one warms up
        for name, run in runs.items():
            found = seconds(run)
            if round_:
                times[name].append(found)
    medians = {name: float(np.median(found)) for name, found in times.items()}
    first = next(iter(medians.values()))
    rows = [
        [name, f"{t / args.seconds:.4f}", f"{t / first:.1f}", f"{max(times[name]) / min(times[name]):.2f}"]
        for name, t in medians.items()
    ]
    print(table(["", "RTF", "times the first", "slowest over fastest"], rows))


if __name__ == "__main__":
    main()
