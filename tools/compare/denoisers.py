"""Print the table that compares denoisers on one set of mixtures: quality, speed, and how each was run.

    python tools/compare/denoisers.py VALID --model denoise16k --dir yours=enhanced/

VALID holds clean/*.wav and noisy/*.wav with the same names (`tools/corpora/build_validation.py` makes one).
Peers whose package is missing are named and left out. Speed is the median of several interleaved runs over
the same seconds, one thread, resampling included (CPU: the same in processor time, which a busy machine
inflates less); p99 is of single blocks of the frame function, so it has to stay below the block's duration.

--gain turns what the systems hear, in 24 bits, and turns back what they make of it, to see what they make of
other levels.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: the table is about one thread

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile as sf
from denoise_peers import PEERS, MissingPeer, Ours, System

from audiomask import metrics

METRICS = ("pesq_wb", "estoi", "si_sdr", "dnsmos")
HEADINGS = {
    "pesq_wb": "PESQ-WB",
    "estoi": "ESTOI",
    "si_sdr": "SI-SDR",
    "dnsmos_sig": "SIG",
    "dnsmos_bak": "BAK",
    "dnsmos_ovrl": "OVRL",
}
VERSION = "2"  # of the scoring, part of the cache's key: raise it when audiomask.metrics changes a figure


def score_cached(job: tuple[np.ndarray, np.ndarray, int, str | None]) -> dict[str, float]:
    """Scores of (clean, estimate, rate, folder), remembered in the folder under the hash of what was scored.

    So a peer is scored once, not every time that one of ours is compared with it.
    """
    clean, estimate, rate, folder = job
    if folder is None:
        return dict(metrics.score(clean, estimate, rate, METRICS))
    digest = hashlib.sha256(clean.tobytes() + estimate.tobytes() + f"{rate} {VERSION}".encode()).hexdigest()
    path = Path(folder) / f"{digest[:32]}.json"
    if path.exists():
        return json.loads(path.read_text())
    result = dict(metrics.score(clean, estimate, rate, METRICS))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(result))
    temporary.rename(path)
    return result


def load_pairs(valid: Path, limit: int | None) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    """(name, clean, noisy, rate) of each mixture; exits if the folder is no validation set."""
    names = sorted(p.name for p in (valid / "noisy").glob("*.wav"))
    missing = [n for n in names if not (valid / "clean" / n).exists()]
    if not names or missing:
        sys.exit(
            f"{valid}: need noisy/*.wav and clean/*.wav of the same names; "
            + (f"no clean/{missing[0]}" if missing else "none found")
        )
    if limit and limit < len(names):  # spread over the set, not the first few speakers
        names = [names[i] for i in np.linspace(0, len(names) - 1, limit).round().astype(int)]
    pairs = []
    for name in names:
        clean, rate = sf.read(valid / "clean" / name, dtype="float32")
        noisy, noisy_rate = sf.read(valid / "noisy" / name, dtype="float32")
        if clean.shape != noisy.shape or rate != noisy_rate:
            sys.exit(f"{valid}: clean/{name} and noisy/{name} differ in length, channels or rate")
        pairs.append((name, clean, noisy, rate))
    return pairs


def time_systems(
    systems: Sequence[System], clip: np.ndarray, rate: int, runs: int
) -> dict[str, dict[str, float]]:
    """RTF (median and least over the runs, resampling included) and block times, the systems taking turns."""
    totals: dict[str, list[float]] = {s.name: [] for s in systems}
    cpu: dict[str, list[float]] = {s.name: [] for s in systems}
    blocks: dict[str, list[float]] = {s.name: [] for s in systems}
    for turn in range(runs + 1):
        for system in systems:
            system.reset()  # a peer loads its model here, which is not what is timed
            begin, begin_cpu = time.perf_counter(), time.process_time()
            _, times = system.run(clip, rate)
            if turn:  # the first turn warms caches and allocators
                totals[system.name].append(time.perf_counter() - begin)
                cpu[system.name].append(time.process_time() - begin_cpu)
                blocks[system.name] += times
    seconds = len(clip) / rate
    return {
        s.name: {
            "rtf": float(np.median(totals[s.name])) / seconds,
            "rtf_cpu": float(np.median(cpu[s.name])) / seconds,
            "rtf_min": min(totals[s.name]) / seconds,
            "block_ms": 1000 * s.frame / s.rate,
            "p50_ms": 1000 * float(np.percentile(blocks[s.name], 50)),
            "p99_ms": 1000 * float(np.percentile(blocks[s.name], 99)),
        }
        for s in systems
    }


def read_folder(
    name: str, folder: Path, pairs: Sequence[tuple[str, np.ndarray, np.ndarray, int]]
) -> list[np.ndarray]:
    """Files already enhanced, by the names of the mixtures."""
    out = []
    for file, _, noisy, rate in pairs:
        path = folder / file
        if not path.exists():
            sys.exit(f"--dir {name}: {path} is missing")
        x, got = sf.read(path, dtype="float32")
        if got != rate or x.shape != noisy.shape:
            sys.exit(
                f"--dir {name}: {path} has {x.shape} samples at {got} Hz, the mixture {noisy.shape} at {rate}"
            )
        out.append(x)
    return out


def table(rows: Sequence[dict]) -> str:
    """Markdown, one row per system."""
    head = ["system", *HEADINGS.values(), "RTF", "CPU", "ratio", "p99 / block ms", "how it ran"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["system"]]
        cells += [f"{row['scores'][k]['mean']:.{3 if k == 'estoi' else 2}f}" for k in HEADINGS]
        speed = row.get("speed")
        if speed:
            cells += [
                f"{speed['rtf']:.4f}",
                f"{speed['rtf_cpu']:.4f}",
                f"{speed['ratio']:.2f}",
                f"{speed['p99_ms']:.2f} / {speed['block_ms']:.3g}",
            ]
        else:
            cells += ["-"] * 4
        lines.append("| " + " | ".join([*cells, row["mode"]]) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("valid", type=Path, help="folder with clean/*.wav and noisy/*.wav")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME|FILE", help="artifact of ours; may be repeated"
    )
    parser.add_argument(
        "--dir",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="files enhanced elsewhere; may be repeated",
    )
    parser.add_argument(
        "--peers", default="rnnoise,dtln,dfn3", help="comma-separated, 'none' for none (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="only N mixtures, spread over the set")
    parser.add_argument(
        "--runs", type=int, default=5, help="timing runs (default: %(default)s); 0: no timing"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length timed (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="scoring processes (default: %(default)s)"
    )
    parser.add_argument("--gain", type=float, default=0, metavar="DB", help="of what the systems hear")
    parser.add_argument("--cache", metavar="DIR", help="remember scores here")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write what each system made to DIR/SYSTEM/")
    parser.add_argument("--json", action="store_true", help="all figures, with 95 %% intervals, as JSON")
    args = parser.parse_args(argv)

    pairs = load_pairs(args.valid, args.limit)
    rate = pairs[0][3]
    systems: list[System] = [Ours(model, rate) for model in args.model]
    for peer in [] if args.peers == "none" else args.peers.split(","):
        if peer not in PEERS:
            parser.error(f"--peers: no peer {peer!r}; have {', '.join(PEERS)}")
        try:
            systems.append(PEERS[peer]())
        except MissingPeer as error:
            print(f"left out {peer}: {error}", file=sys.stderr)

    names = [system.name for system in systems]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        parser.error(f"--model: two are called {twice[0]!r}; compare them in two runs")
    outputs: dict[str, tuple[str, list[np.ndarray]]] = {
        "unprocessed": ("-", [noisy for _, _, noisy, _ in pairs])
    }
    gain = np.float32(10 ** (args.gain / 20))
    for system in systems:
        enhanced = []
        for _, _, noisy, _ in pairs:
            system.reset()
            heard = np.rint(noisy * gain * 2**23) / np.float32(2**23) if args.gain else noisy
            enhanced.append(system.run(heard, rate)[0] / gain)
        outputs[system.name] = (system.mode(rate), enhanced)
    for item in args.dir:
        name, _, path = item.partition("=")
        if not path:
            parser.error(f"--dir wants NAME=PATH, got {item!r}")
        outputs[name] = ("files", read_folder(name, Path(path), pairs))
    if args.save:
        for name, (_, files) in outputs.items():
            folder = args.save / name.split()[0]
            folder.mkdir(parents=True, exist_ok=True)
            for (file, *_), x in zip(pairs, files, strict=True):
                sf.write(folder / file, x, rate, subtype="FLOAT")

    # Timing before scoring: the scoring processes would share the cores with it.
    clip = np.resize(np.concatenate([noisy for _, _, noisy, _ in pairs[:4]]), round(args.seconds * rate))
    speed = time_systems(systems, clip, rate, args.runs) if args.runs and systems else {}
    rows = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for name, (mode, files) in outputs.items():
            jobs = [(p[1], x, rate, args.cache) for p, x in zip(pairs, files, strict=True)]
            results = list(pool.map(score_cached, jobs, chunksize=4))
            scores = {key: asdict(metrics.summarize(r[key] for r in results)) for key in HEADINGS}
            row: dict = {"system": name, "mode": mode, "files": len(files), "scores": scores}
            if name in speed:
                row["speed"] = {**speed[name], "ratio": speed[name]["rtf"] / speed[systems[0].name]["rtf"]}
            rows.append(row)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        base = systems[0].name if systems else "-"
        print(f"{len(pairs)} mixtures at {rate} Hz; ratio: RTF over that of {base}\n")
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
