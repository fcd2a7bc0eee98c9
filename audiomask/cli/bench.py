"""measure speed and latency of a model on this machine

One block at a time through a session, as live: time per block at the 50th, 95th and 99th percentile, the
share of the block's duration that this is, the real-time factor (time needed / duration of the sound), delay
and latency.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from audiomask.audio import read
from audiomask.cli import UsageError
from audiomask.cli._common import add_model_arguments, positive, table
from audiomask.runtime.artifact import resolve
from audiomask.runtime.engine import Step
from audiomask.runtime.engine import run as step
from audiomask.runtime.session import Session

WARM_UP = 20  # blocks: the first ones allocate
COLUMNS = {
    "model": "model",
    "sample_rate": "Hz",
    "threads": "threads",
    "block_ms": "block ms",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "p99_share": "p99/block",
    "rtf": "RTF",
    "graph_p50_ms": "graph ms",
    "delay_ms": "delay ms",
    "latency_ms": "latency ms",
    "state_kb": "state kB",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, controls=False)
    parser.set_defaults(threads=None)
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound to run (default 10)")
    parser.add_argument(
        "--block", type=float, metavar="MS", help="length of a block (default: the model's hop)"
    )
    parser.add_argument(
        "--rate", type=positive, metavar="HZ", help="of the sound (default: each model's own)"
    )
    parser.add_argument("--channels", type=positive, metavar="N", help="default: what the model takes")
    parser.add_argument("--audio", metavar="FILE", help="run this sound (default: noise with a slow rhythm)")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    if not 0.1 <= args.seconds <= 3600:
        raise UsageError(f"--seconds {args.seconds}: is outside 0.1 to 3600")
    if args.block is not None and not 0 < args.block <= 10_000:
        raise UsageError(f"--block {args.block}: is outside 0 to 10000 ms")
    results = []
    for artifact in resolve(args.model):
        session = Session(artifact, sample_rate=args.rate, channels=args.channels, threads=args.threads or 1)
        results.append(
            measure(session, args.seconds, args.block, args.audio) | {"threads": args.threads or 1}
        )
    if args.json:
        print(json.dumps(results, indent=2))
        return 0
    rows = [[r[k] if isinstance(r[k], str | int) else float(f"{r[k]:.4g}") for k in COLUMNS] for r in results]
    print(table(tuple(COLUMNS.values()), rows))
    return 0


def measure(
    session: Session, seconds: float, block_ms: float | None = None, audio: str | None = None
) -> dict:
    """Times of ``feed`` over ``seconds`` of sound, in ms, and the facts that go with them."""
    rate = session.sample_rate
    size = session.hop if block_ms is None else max(1, round(block_ms * rate / 1000))
    count = max(1, int(seconds * rate / size))
    sound = _sound(session, (count + WARM_UP) * size, audio)
    times = np.empty(count)
    for n in range(count + WARM_UP):
        block = sound[:, n * size : (n + 1) * size]
        start = time.perf_counter()
        session.feed(block)
        times[max(0, n - WARM_UP)] = time.perf_counter() - start  # the warm-up's are overwritten
    x = np.zeros(
        (session.engine.batch, session.artifact.streams[0].channels, session.artifact.hop), np.float32
    )
    graph = np.empty(min(count, 1000))
    for n in range(len(graph)):
        start = time.perf_counter()
        step([Step(session.engine, x)])
        graph[n] = time.perf_counter() - start
    p50, p95, p99 = np.percentile(times, (50, 95, 99)) * 1000
    ms = 1000 / rate
    return {
        "model": session.artifact.name,
        "sample_rate": rate,
        "channels": session.channels,
        "block_ms": size * ms,
        "blocks": count,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": times.max() * 1000,
        "p99_share": p99 / (size * ms),
        "rtf": times.sum() / (count * size / rate),
        "graph_p50_ms": np.percentile(graph, 50) * 1000,
        "delay_ms": session.delay * ms,
        "latency_ms": session.latency * ms,
        "state_kb": session.artifact.state_bytes / 1000,
        "operators": session.artifact.operators,
    }


def _sound(session: Session, samples: int, audio: str | None) -> np.ndarray:
    if audio is not None:
        x, rate = read(audio)
        if rate != session.sample_rate:
            raise UsageError(
                f"--audio {audio}: has {rate} Hz, the session {session.sample_rate}; give --rate {rate}"
            )
        return np.resize(x[0], (session.channels, samples)).astype(np.float32)
    # Noise that swells four times a second like syllables, at -26 dB: silence could be faster than sound.
    rng = np.random.default_rng(0)
    swell = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(samples) / session.sample_rate)
    return (0.05 * swell * rng.standard_normal((session.channels, samples))).astype(np.float32)
