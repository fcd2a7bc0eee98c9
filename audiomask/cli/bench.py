"""Measure speed and latency of a model on this machine.

For every length of block and number of threads, blocks go one at a time through a session, as live: time per
block at the 50th, 95th and 99th percentile, the fraction of the block's duration that the 99th takes, the
real-time factor (time needed / duration of the sound), delay and latency. Then sessions are stacked into one
call, as in the server: how many of them a core carries. That is computed from processor time, so it counts
all threads, and other work on the machine disturbs it little. A model that is informed of losses loses a
tenth of the packets of 20 ms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np

from audiomask.audio import read
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import between, positive, table
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.engine import Step
from audiomask.runtime.engine import run as run_steps
from audiomask.runtime.player import Player, feed_all
from audiomask.runtime.session import player_of

WARM_UP = 20  # blocks: the first ones allocate
STACKED = 16  # sessions: more gain little (tools/bench/sessions.py)
ROUNDS = 40  # of stacked sessions, at least
LOST, PACKET_S = 0.1, 0.02  # lost fraction, length of packets: for models that are informed
COLUMNS = (
    *("model", "sample_rate", "threads", "block_ms", "p50_ms", "p95_ms", "p99_ms", "p99_share", "rtf"),
    *("graph_p50_ms", "delay_ms", "latency_ms", "state_bytes", "sessions_per_core"),
)
HEADS = {"sample_rate": "Hz", "rtf": "RTF", "graph_p50_ms": "graph ms"}  # others: the name, with spaces
HEADS |= {"p99_share": "p99/block", "sessions_per_core": "sessions/core"}


def several(kind: Callable[[str], float]) -> Callable[[str], list]:
    """Return a parser of numbers with commas between, for argparse."""

    def parse(text: str) -> list:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = f"list of {kind.__name__}"
    return parse


def add_arguments(add: Adder) -> None:
    add("-m --model NAME|FILE|DIR", "a shipped model (audiomask models lists them), or your own")
    add("--threads N,N,..", "threads per stream", type=several(positive), default=[1])
    add("--seconds", "of sound for each row", type=between(0.1, 3600), default=10.0)
    block = between(0, 10_000, unit="ms", above=True)
    add("--block MS,MS,..", "lengths of a block (default: the model's hop)", type=several(block))
    add("--rate HZ", "of the sound (default: each model's own)", type=positive)
    add("--channels N", "default: what the model takes", type=positive)
    add("--audio FILE", "run this sound (default: noise with a slow rhythm)")
    stacked = "stacked, for the last column; 0 leaves it out"
    add("--sessions N", stacked, choices=range(65), default=STACKED)
    add("--json", "for programs")


def run(args: argparse.Namespace) -> int:
    results = []
    for artifact, threads, block in product(resolve(args.model), args.threads, args.block or [None]):
        how = {"sample_rate": args.rate, "channels": args.channels, "threads": threads}
        sessions = [player_of(artifact, **how) for _ in range(max(1, args.sessions))]
        facts = measure(sessions[0], args.seconds, block, args.audio) | {"threads": threads}
        if args.sessions:
            size = round(facts["block_ms"] * sessions[0].sample_rate / 1000)
            rounds = max(ROUNDS, int(args.seconds * sessions[0].sample_rate / size / args.sessions))
            facts |= many(sessions, size, rounds, args.audio)
        results.append(facts)
    if args.json:
        print(json.dumps(results, indent=2))
        return 0
    columns = {key: HEADS.get(key, key.replace("_", " ")) for key in COLUMNS if key in results[0]}
    rows = [[r[k] if isinstance(r[k], str | int) else float(f"{r[k]:.4g}") for k in columns] for r in results]
    print(table(tuple(columns.values()), rows))
    return 0


def measure(session: Player, seconds: float, block_ms: float | None = None, audio: str | None = None) -> dict:
    """Return times of `feed` over `seconds` of sound, in ms, and the facts that go with them."""
    rate = session.sample_rate
    size = session.hop if block_ms is None else max(1, round(block_ms * rate / 1000))
    count = max(1, int(seconds * rate / size))
    times = np.empty(count)
    for n, block in _blocks(session, size, count, audio):
        start = time.perf_counter()
        session.feed(*block)
        times[n] = time.perf_counter() - start
    engine, artifact = session.engine, session.artifact
    hop = {p.name: p.neutral(engine.batch, p.per_hop(artifact.hop)) for p in artifact.streams}
    graph = np.empty(min(count, 1000))
    for n in range(len(graph)):
        start = time.perf_counter()
        run_steps([Step(engine, hop)])
        graph[n] = time.perf_counter() - start
    p50, p95, p99 = np.percentile(times, (50, 95, 99)) * 1000
    ms = 1000 / rate
    return {
        "model": artifact.name,
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
        "state_bytes": artifact.state_bytes * engine.batch,
        "operators": artifact.operators,
    }


def many(
    sessions: Sequence[Player], size: int, rounds: int, audio: str | None = None, *, stacked: bool = True
) -> dict:
    """Return medians over rounds of stacked sessions, and how many of them a core carries.

    In a round each session gets a block of `size` samples, `stacked` into one call or one by one. Blocks that
    are no multiple of the hop make rounds of unequal work, so the median of the processor time is that of the
    means of eight parts.
    """
    first = sessions[0]
    wall, cpu = np.empty(rounds), np.empty(rounds)
    for n, block in _blocks(first, size, rounds, audio):
        start, processor = time.perf_counter(), time.process_time()
        if stacked:
            feed_all([(session, *block) for session in sessions])
        else:
            for session in sessions:
                session.feed(*block)
        wall[n], cpu[n] = time.perf_counter() - start, time.process_time() - processor
    mean = float(np.median([part.mean() for part in np.array_split(cpu, 8)]))
    return {
        "sessions": len(sessions),
        "round_p50_ms": np.median(wall) * 1000,
        "round_p99_ms": np.percentile(wall, 99) * 1000,
        "cpu_ms_per_block": mean * 1000 / len(sessions),
        "sessions_per_core": len(sessions) * size / first.sample_rate / mean,
    }


def _blocks(session: Player, size: int, count: int, audio: str | None) -> Iterator[tuple[int, tuple]]:
    """Yield a number (warm-up: 0), sound `[C, size]` and, for an informed model, flags `[size]`."""
    samples = (count + WARM_UP) * size
    given: list[np.ndarray] = [_sound(session, samples, audio)]
    if session.artifact.lost:
        packet = max(1, round(PACKET_S * session.sample_rate))
        packets = -(-samples // packet)
        given.append(np.repeat(np.random.default_rng(0).permutation(packets) < LOST * packets, packet))
    for n in range(count + WARM_UP):
        yield max(0, n - WARM_UP), tuple(x[..., n * size : (n + 1) * size] for x in given)


def _sound(session: Player, samples: int, audio: str | None) -> np.ndarray:
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
