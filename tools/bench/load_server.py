"""Put many live streams on a server, and print what their blocks waited and whether the sound is right.

    python tools/bench/load_server.py --streams 30 --seconds 20 --rate 16000 --block 16

It starts `audiomask serve` on this machine, on a core of its own with --server-core, sends blocks of noise on
the beat of real time, and compares what comes back with the offline result. A block's latency runs from the
sending of its last byte to the arrival of the last sample that it completes. "late" are blocks that waited
longer than a block lasts; "dropped" are samples that never came. Nothing but 127.0.0.1 is spoken to.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect

from audiomask.runtime.session import Session

MAX_STREAMS, MAX_SECONDS = 1000, 600


@dataclass
class Result:
    """One stream: ``latencies`` of its blocks in seconds, ``late`` the generator's own delays, the sound."""

    latencies: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    failure: str = ""


def noise(index: int, samples: int) -> np.ndarray:
    """Noise that swells like syllables, another for each stream."""
    rng = np.random.default_rng(index)
    swell = 0.55 + 0.45 * np.sin(2 * np.pi * np.arange(samples) / 4000 + index)
    return (0.05 * swell * rng.standard_normal(samples)).astype("<f4")


def expected(model: str | None, rate: int, block: int, signals: list[np.ndarray]):
    """How many samples are out after each block, and the offline outputs."""
    session = Session(model, sample_rate=rate, channels=1)
    x = signals[0]
    sizes = [len(session.feed(x[i : i + block])) for i in range(0, len(x), block)]
    session.flush()
    outputs = []
    for x in signals:
        outputs.append(np.concatenate((session.feed(x), session.flush())))
    return np.cumsum(sizes), outputs


async def stream(url: str, hello: dict, x: np.ndarray, block: int, ready: np.ndarray, start: float) -> Result:
    """Play ``x`` in real time; ``ready``: samples that are out after each block."""
    result = Result()
    loop = asyncio.get_running_loop()
    data = x.tobytes()
    period = block / hello["rate"]
    sent: list[float] = []
    try:
        async with connect(url, compression=None, max_size=None, proxy=None) as socket:
            await socket.send(json.dumps(hello))
            answer = json.loads(await socket.recv())
            if answer["type"] != "ready":
                result.failure = answer.get("message", str(answer))
                return result

            async def hear() -> None:
                got = answered = 0
                while True:
                    message = await socket.recv()
                    if isinstance(message, str):
                        return
                    now = time.perf_counter()
                    result.parts.append(message)
                    got += len(message) // 4
                    while answered < len(sent) and ready[answered] <= got:
                        if answered and ready[answered] > ready[answered - 1]:  # else it completed nothing
                            result.latencies.append(now - sent[answered])
                        answered += 1

            hearing = asyncio.create_task(hear())
            for index in range(len(ready)):
                due = start + index * period
                await asyncio.sleep(max(0.0, due - loop.time()))
                result.delays.append(max(0.0, loop.time() - due))
                sent.append(time.perf_counter())
                await socket.send(data[4 * index * block : 4 * (index + 1) * block])
            await socket.send('{"type": "flush"}')
            await asyncio.wait_for(hearing, 30)
    except Exception as error:
        result.failure = f"{type(error).__name__}: {error}"
    return result


async def load(url: str, hello: dict, signals, block: int, ready, seconds: float, cpu) -> tuple:
    """All streams, their starts spread over one block; and the server's processor time, in cores."""
    begin = asyncio.get_running_loop().time() + 1 + 0.02 * len(signals)
    period = block / hello["rate"]
    tasks = [
        asyncio.create_task(stream(url, hello, x, block, ready, begin + period * i / len(signals)))
        for i, x in enumerate(signals)
    ]
    await asyncio.sleep(begin - 0.5 - asyncio.get_running_loop().time())
    first = cpu()
    results = await asyncio.gather(*tasks)
    return results, (cpu() - first) / seconds


def processor_seconds(pid: int) -> float:
    """Of a process so far, user and system (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve(args: argparse.Namespace) -> tuple[subprocess.Popen, str]:
    words = [sys.executable, "-m", "audiomask", "serve", "--no-page", "--port", "0"]
    words += ["--max-sockets", str(args.streams + 8), "--threads", str(args.threads)]
    words += ["-m", args.model] if args.model else []
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    if args.server_core is not None:
        os.sched_setaffinity(process.pid, {args.server_core})
    assert process.stderr
    for line in process.stderr:
        if " at http" in line:
            return process, line.split()[-1].replace("http", "ws", 1) + "/ws"
    sys.exit("load_server: the server did not start")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--streams", type=int, default=30, help=f"at once, to {MAX_STREAMS} (default 30)")
    add("--seconds", type=float, default=20, help=f"of sound, to {MAX_SECONDS} (default 20)")
    add("--rate", type=int, default=16000, help="in Hz (default 16000)")
    add("--block", type=float, default=16, metavar="MS", help="length of a block (default 16)")
    add("-m", "--model", help="default: the default denoiser")
    add("--threads", type=int, default=1, help="of the server (default 1)")
    add("--server-core", type=int, metavar="N", help="run the server on this core only")
    add("--core", type=int, metavar="N", help="run this program on this core only")
    add("--json", action="store_true", help="for programs")
    args = parser.parse_args()
    if not 1 <= args.streams <= MAX_STREAMS or not 0 < args.seconds <= MAX_SECONDS:
        parser.error(f"--streams is 1 to {MAX_STREAMS}, --seconds up to {MAX_SECONDS}")
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    block = max(1, round(args.block * args.rate / 1000))
    samples = round(args.seconds * args.rate)
    signals = [noise(i, samples) for i in range(args.streams)]
    ready, outputs = expected(args.model, args.rate, block, signals)
    process, url = serve(args)
    try:
        gc.disable()  # its pauses would be counted as the server's
        hello = {"type": "hello", "rate": args.rate, "format": "f32le", "channels": 1}
        results, share = asyncio.run(
            load(url, hello, signals, block, ready, args.seconds, lambda: processor_seconds(process.pid))
        )
    finally:
        process.terminate()
        process.wait(30)
    failures = [r.failure for r in results if r.failure]
    dropped, error = 0, 0.0
    for result, wanted in zip(results, outputs, strict=True):
        got = np.frombuffer(b"".join(result.parts), "<f4")
        dropped += abs(len(wanted) - len(got))
        if len(got) == len(wanted):
            error = float(np.maximum(error, np.abs(got - wanted).max() / np.abs(wanted).max()))  # keeps NaN
    latencies = np.array([x for r in results for x in r.latencies]) * 1000
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99)) if len(latencies) else [float("nan")] * 3
    own = np.percentile([x for r in results for x in r.delays] or [0], 99) * 1000
    figures = {
        "streams": args.streams,
        "block_ms": 1000 * block / args.rate,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": float(latencies.max(initial=0)),
        "late": int((latencies > 1000 * block / args.rate).sum()),
        "blocks": len(latencies),
        "dropped": dropped,
        "error": error,
        "server_cpu": share,
        "generator_p99_ms": own,
        "failures": len(failures),
    }
    if args.json:
        print(json.dumps(figures))
    else:
        print(
            f"{args.streams} streams of {args.seconds:g} s at {args.rate} Hz, blocks of "
            f"{figures['block_ms']:g} ms: {len(latencies)} answered\n"
            f"latency of a block, ms: p50 {p50:.2f}  p95 {p95:.2f}  p99 {p99:.2f}  max "
            f"{figures['max_ms']:.2f}; late {figures['late']}; "
            f"this program was itself late by {own:.2f} at p99\n"
            f"dropped samples: {dropped}; error against offline: {error:.1e} of peak; "
            f"server: {share:.2f} of a core; failed streams: {len(failures)}"
        )
        for words in sorted(set(failures))[:5]:
            print(f"  {words}")
    return 1 if failures or dropped or not error <= 1e-5 else 0


if __name__ == "__main__":
    sys.exit(main())
