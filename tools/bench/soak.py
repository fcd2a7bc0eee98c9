"""Hours of sound through a session in blocks of random sizes, compared with the output for the whole file.

    python tools/bench/soak.py --hours 10

The whole file is what `audiomask enhance` does: a session that is fed a second at a time. Both go through the
same sound side by side, so memory is constant however long it is: buzzes in noise, breaks of silence, and
blocks of 0 samples to a second. It fails (exit 1) if the outputs differ by more than 1e-5 of the peak, if a
sample is missing or too many at the end or comes later than the latency says, or if the process grows by more
than 5 MiB after the first tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the verbs do; numpy reads it when it is imported

import numpy as np

from audiomask.audio import AudioError
from audiomask.runtime.player import BULK_HOPS
from audiomask.runtime.session import Session

TOLERANCE = 1e-5  # of the peak
GROWTH_MIB = 5.0
STATM = Path("/proc/self/statm")


def resident_mib() -> float:
    """Memory of this process now; where the system does not tell, its maximum so far."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class Sound:
    """Seconds ``[channels, rate]`` of the test signal, each from its number alone: buzzes of a voice's pitch
    in noise, at levels 40 dB apart."""

    def __init__(self, rate: int, channels: int):
        self.channels, self.t = channels, np.arange(rate) / rate
        self.swell = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * self.t)  # as syllables

    def __call__(self, second: int) -> np.ndarray:
        rng = np.random.default_rng(second)
        x = 0.05 * rng.standard_normal((self.channels, len(self.t)))
        x += self.swell * (rng.uniform(80, 300) * self.t % 1 - 0.5)
        level = 0 if second % 60 >= 55 else 10 ** rng.uniform(-2, 0)
        return (level * x).astype(np.float32)


class Queue:
    """What one output is ahead of the other."""

    def __init__(self, channels: int):
        self.rest = np.zeros((channels, 0), np.float32)

    def put(self, y: np.ndarray) -> None:
        self.rest = np.concatenate((self.rest, np.atleast_2d(y)), axis=1)

    def take(self, count: int) -> np.ndarray:
        y, self.rest = self.rest[:, :count], self.rest[:, count:].copy()
        return y


def soak(
    make: Callable[[], Session],
    seconds: int,
    seed: int = 0,
    progress: Callable[[int, dict], None] = lambda second, facts: None,
) -> dict:
    """``seconds`` of sound through two sessions of ``make``; returns what was measured, see `failures`."""
    live, whole = make(), make()
    rate, rng = live.sample_rate, np.random.default_rng(seed)
    sound = Sound(rate, live.channels)
    bulk = BULK_HOPS * live.hop
    queues = [Queue(live.outputs), Queue(live.outputs)]
    facts = {
        "model": live.artifact.name,
        "sample_rate": rate,
        "channels": live.channels,
        "seconds": seconds,
        "blocks": 0,
        "fed": 0,
        "returned": 0,
        "returned_whole": 0,
        "latest": 0,
        "latency": live.latency,
        "error": 0.0,
        "peak": 0.0,
        "first_mib": 0.0,
    }
    start = time.monotonic()

    def compare(y: np.ndarray, which: int) -> None:
        queues[which].put(y)
        count = min(q.rest.shape[1] for q in queues)
        if count:
            a, b = (q.take(count) for q in queues)
            # Unlike max, this keeps a NaN.
            facts["error"] = float(np.maximum(facts["error"], np.abs(a - b).max()))
            facts["peak"] = float(np.maximum(facts["peak"], np.abs(b).max()))

    def feed(block: np.ndarray) -> None:
        y = live.feed(block)
        facts["blocks"] += 1
        facts["fed"] += block.shape[1]
        facts["returned"] += y.shape[1]
        facts["latest"] = max(facts["latest"], facts["fed"] - facts["returned"])
        compare(y, 0)

    waiting = np.zeros((live.channels, 0), np.float32)  # of the whole file's next block
    size = 0
    for second in range(seconds):
        x = sound(second)
        waiting = np.concatenate((waiting, x), axis=1)
        while waiting.shape[1] >= bulk:
            y = whole.feed(waiting[:, :bulk])
            facts["returned_whole"] += y.shape[1]
            compare(y, 1)
            waiting = waiting[:, bulk:].copy()
        at = 0
        while at < rate:
            size = int(rate ** rng.uniform(-0.05, 1))  # as many of 1 to 10 as of 1,000 to 10,000
            feed(x[:, at : at + size])
            at += size
        if second == seconds // 10:
            facts["first_mib"] = resident_mib()
        progress(second + 1, facts)
    for which, (session, rest) in enumerate(((live, x[:, :0]), (whole, waiting))):
        for y in (session.feed(rest), session.flush()):
            facts["returned" if which == 0 else "returned_whole"] += np.atleast_2d(y).shape[1]
            compare(y, which)
    facts["growth_mib"] = resident_mib() - facts["first_mib"]
    facts["uncompared"] = max(q.rest.shape[1] for q in queues)
    facts["faults"] = live.faults + whole.faults
    facts["elapsed_s"] = time.monotonic() - start
    return facts


def failures(facts: dict) -> list[str]:
    """What of a soak is not as it must be, in words."""
    wrong = []
    if not facts["error"] <= TOLERANCE * facts["peak"]:
        wrong.append(f"the outputs differ by {facts['error'] / max(facts['peak'], 1e-30):.2e} of the peak")
    if not facts["fed"] == facts["returned"] == facts["returned_whole"] or facts["uncompared"]:
        wrong.append(f"{facts['fed']} samples went in, {facts['returned']} came out")
    if facts["latest"] > facts["latency"]:
        wrong.append(f"a sample came {facts['latest']} samples late; the latency is {facts['latency']}")
    if facts["growth_mib"] > GROWTH_MIB:
        wrong.append(f"the process grew by {facts['growth_mib']:.1f} MiB")
    if facts["faults"]:
        wrong.append(f"the model failed in {facts['faults']} blocks")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", metavar="NAME|FILE", help="default: the default denoiser")
    parser.add_argument("--hours", type=float, default=10.0, help="of sound (default 10)")
    parser.add_argument("--rate", type=int, default=16000, metavar="HZ", help="of the sound (default 16000)")
    parser.add_argument("--channels", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the blocks' sizes (default 0)")
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args()
    if not args.hours * 3600 >= 20:
        parser.error(f"--hours {args.hours}: 20 s are the least")

    def progress(second: int, facts: dict) -> None:
        if second % 600 == 0:
            share = facts["error"] / max(facts["peak"], 1e-30)
            text = f"{second / 3600:.2f} h: {facts['blocks']} blocks, error {share:.1e} of the peak, "
            print(text + f"{resident_mib():.1f} MiB", file=sys.stderr, flush=True)

    try:
        facts = soak(
            lambda: Session(args.model, sample_rate=args.rate, channels=args.channels),
            round(args.hours * 3600),
            args.seed,
            progress,
        )
    except AudioError as error:
        print(f"soak: error: {error}", file=sys.stderr)
        return 1
    wrong = failures(facts)
    if args.json:
        print(json.dumps(facts | {"failures": wrong}, indent=2))
    else:
        print(
            f"{facts['model']} at {facts['sample_rate']} Hz: {facts['seconds']} s in {facts['blocks']} "
            f"blocks; error {facts['error'] / facts['peak']:.2e} of the peak; {facts['fed']} samples in, "
            f"{facts['returned']} out, at most {facts['latest']} behind (latency {facts['latency']}); "
            f"grew by {facts['growth_mib']:.2f} MiB; took {facts['elapsed_s']:.0f} s"
        )
        for text in wrong:
            print(f"soak: error: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
