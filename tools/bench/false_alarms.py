"""Measure how often Hallmark is found where it is not, and fit the number of trials of its p-values.

    python tools/bench/false_alarms.py FOLDER... [--hours 10] [--made 2000]

Windows of 5 s of unmarked sound, each with a key of its own, are searched at all speeds, as a detector does.
Made sounds are among them: noise, silence with a click, hum, steady tones, sweeps, clipped and stepped sound,
loops. For each kind of sound the table has the quantiles of the p-values, which should be those of a uniform
variable, the p-value of Kolmogorov and Smirnov's test of that, and the smallest p beside how many there are.
`fitted` are the likeliest TRIALS and GROWTH of `runtime.marks.detector`.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from audiomask.audio import AudioError, Reader
from audiomask.audio.sources import find_audio
from audiomask.runtime.marks import detector
from audiomask.runtime.marks.carrier import RATE, Carrier
from audiomask.runtime.marks.search import search, whitened
from audiomask.runtime.polyphase import Polyphase


def recorded(folders: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield kind and sound `[T]` at 16 kHz of windows of recordings, mixed to one channel.

    Those of a folder follow one another.
    """
    for folder in folders:
        held = np.zeros(0, np.float32)
        for source in find_audio([folder]):
            try:
                with Reader(source.path) as reader:
                    down = Polyphase(reader.info.rate, RATE, 1) if reader.info.rate != RATE else None
                    for block in reader.blocks(reader.info.rate):
                        mono = block.mean(0, keepdims=True)
                        held = np.concatenate((held, (down.push(mono) if down else mono)[0]))
                        while len(held) >= detector.WINDOW:
                            yield Path(folder).name, held[: detector.WINDOW]
                            held = held[detector.WINDOW :]
            except AudioError as error:
                print(error)


def made(count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield windows of each made kind."""
    t = np.arange(detector.WINDOW) / RATE
    for seed in range(count):
        rng = np.random.default_rng(seed)
        hz, noise = rng.uniform(50, 4000), rng.standard_normal(len(t))
        chord = sum(np.sin(2 * np.pi * h * t + rng.uniform(0, 6)) for h in rng.uniform(80, 4000, 12))
        loop = np.resize(noise[: rng.integers(800, 16000)], len(t))
        yield "noise", noise
        yield "tone", np.sin(2 * np.pi * hz * t)
        yield "chord", chord + 0.001 * noise
        yield "hum", sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 40)) + 1e-3 * noise
        yield "sweep", np.sin(2 * np.pi * (200 * t + 300 * t**2))
        yield "clipped", np.clip(8 * chord, -1, 1)
        yield "loop", loop
        yield "turned loop", np.resize(np.concatenate((loop[:4096], -loop[:4096])), len(t))
        yield "click", (np.arange(len(t)) == rng.integers(len(t))) * 1.0
        yield "8 bits", np.round(4 * noise) / 128


def score(x: np.ndarray, seed: int) -> float:
    """Return the score of a window by a key of its own."""
    return search(whitened(x), Carrier(np.random.default_rng(seed).bytes(16)), sure=math.inf).score


def fitted(scores: np.ndarray) -> tuple[float, float]:
    """Return the likeliest TRIALS and GROWTH of the scores, without the limit of MOST."""

    def unlikely(fit: np.ndarray) -> float:
        trials = np.exp(fit[0] + fit[1] * (scores - 6.5))
        tail, density = stats.norm.sf(scores), stats.norm.pdf(scores)
        slope = trials * (density - fit[1] * tail)
        return float(np.mean(trials * tail - np.log(np.maximum(slope, 1e-300))))

    trials, growth = optimize.minimize(unlikely, [23.0, 0.0], method="Nelder-Mead").x
    return math.exp(trials), float(growth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", help="recordings, a kind of sound each")
    parser.add_argument("--hours", type=float, default=1e9, help="of recordings, at most")
    parser.add_argument("--made", type=int, default=20, help="windows of each made kind")
    args = parser.parse_args()
    scores = defaultdict(list)
    for n, (kind, x) in enumerate(recorded(args.folders)):
        if n * 5 / 3600 >= args.hours:
            break
        scores[kind].append(score(x, n))
    for n, (kind, x) in enumerate(made(args.made)):
        scores[f"({kind})"].append(score(x, 10**6 + n))
    if args.folders:
        scores["all recordings"] = [s for kind, some in scores.items() if kind[0] != "(" for s in some]
    print(
        "| sound | windows | p at 10, 50, 90 % | uniform? | greatest score | smallest p x windows | fitted |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind, some in scores.items():
        s = np.array(some)
        p = np.array([detector.p_value(one) for one in s])
        quantiles = ", ".join(f"{q:.2f}" for q in np.quantile(p, [0.1, 0.5, 0.9]))
        uniform = stats.kstest(p, "uniform").pvalue
        print(
            f"| {kind} | {len(s)} | {quantiles} | {uniform:.2g} | {s.max():.2f} | {p.min() * len(s):.2g} | "
            "{:.2g}, {:.2f} |".format(*fitted(s))
        )


if __name__ == "__main__":
    main()
