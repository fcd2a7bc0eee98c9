"""Hallmark beside AudioSeal: how fast each marks and finds marks, with one thread, in the same run.

    python tools/bench/marks.py [--seconds 20] [--rounds 5] [--rate 16000]

AudioSeal is the package audioseal with random weights, which take as long as trained ones, on the whole of a
signal at 16 kHz. Hallmark marks as files are marked and hop by hop, and looks for marks in sound that has
one, has none (so that all speeds are searched), and has none in two channels. In every round each takes its
turn; the table has the median of its times as seconds of sound a second, and as a multiple of the package's.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import soxr
import torch

from audiomask.audio import read
from audiomask.runtime.marks.carrier import Carrier
from audiomask.runtime.marks.detector import Detector
from audiomask.runtime.session import Session

SPEECH = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo/mixture_clean.flac"
KEY = bytes(range(16))


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return the package's generator and detector, in their published sizes."""
    from audioseal import builder

    sizes = builder.SEANetConfig(
        channels=1, dimension=128, n_filters=32, n_residual_layers=1, ratios=[8, 5, 4, 2], activation="ELU",
        activation_params={"alpha": 1.0}, norm="none", norm_params={}, kernel_size=7, last_kernel_size=7,
        residual_kernel_size=3, dilation_base=2, causal=False, pad_mode="constant", true_skip=True,
        compress=2, lstm=2, disable_norm_outer_blocks=0,
    )  # fmt: skip
    marker = builder.AudioSealWMConfig(16, sizes, builder.DecoderConfig(None, None, 1.0))
    finder = builder.AudioSealDetectorConfig(16, sizes)
    return builder.create_generator(marker).eval(), builder.create_detector(finder).eval()


def blocks(feed: Callable[[np.ndarray], object], x: np.ndarray, size: int) -> None:
    for at in range(0, x.shape[1], size):
        feed(x[:, at : at + size])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=16000, help="of the sound that Hallmark gets")
    args = parser.parse_args()
    torch.set_num_threads(1)
    speech, own = read(SPEECH)
    there = np.resize(speech[0], int(args.seconds * own))
    x16, x = (soxr.resample(there, own, rate).astype(np.float32)[None] for rate in (16000, args.rate))
    session = Session("hallmark", sample_rate=args.rate, controls={"carrier": Carrier(KEY).wave(0xBEEF)})
    marked = np.atleast_2d(np.concatenate((session.feed(x[0]), session.flush())))
    generator, detector = networks()
    message, signal = torch.zeros(1, 16, dtype=torch.long), torch.from_numpy(x16)[None]

    def mark(size: int) -> None:
        blocks(session.feed, x, size)
        session.flush()

    def detect(sound: np.ndarray) -> None:
        finder = Detector(KEY, args.rate, len(sound))
        blocks(finder.feed, sound, args.rate)
        finder.flush()

    tasks: dict[str, tuple[str, Callable[[], object]]] = {
        "audioseal marks": ("", lambda: generator.get_watermark(signal, message=message)),
        "audioseal detects": ("", lambda: detector.detect_watermark(signal)),
        "hallmark marks a file": ("audioseal marks", lambda: mark(args.rate)),
        "hallmark marks hop by hop": ("audioseal marks", lambda: mark(128 * args.rate // 16000)),
        "hallmark detects, marked": ("audioseal detects", lambda: detect(marked)),
        "hallmark detects, unmarked": ("audioseal detects", lambda: detect(x)),
        "hallmark detects, unmarked, 2 channels": ("audioseal detects", lambda: detect(np.repeat(x, 2, 0))),
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(args.rounds):
        for name, (_, task) in tasks.items():
            start = time.process_time()
            task()
            times[name].append(time.process_time() - start)
    print(f"| {args.rate} Hz | times real time | times the package |")
    print("|---|---|---|")
    for name, (peer, _) in tasks.items():
        speed = args.seconds / median(times[name])
        beside = f"{median(times[peer]) / median(times[name]):.1f}" if peer else "1"
        print(f"| {name} | {speed:.1f} | {beside} |")


if __name__ == "__main__":
    main()
