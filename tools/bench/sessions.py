"""How many live streams a core carries: N sessions stacked into one call of the graph, or one after another.

    python tools/bench/sessions.py -m sieve_16k --sessions 1,8,32

Each round feeds every session one block. Columns: processor time per session and block (the median of the
means of eight parts of the rounds), how many sessions in real time that makes for a core, and the duration of
a round by the clock, median and 99th percentile, which other work on the machine lengthens.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the verbs do; numpy reads it when it is imported

from audiomask.cli._common import positive, table
from audiomask.cli.bench import many, several
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.session import Session

COLUMNS = {
    "model": "model",
    "way": "way",
    "sessions": "sessions",
    "block_ms": "block ms",
    "cpu_ms_per_block": "cpu ms/session",
    "sessions_per_core": "sessions/core",
    "round_p50_ms": "round p50 ms",
    "round_p99_ms": "p99 ms",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", metavar="NAME|FILE|DIR", help="default: every size of the default")
    parser.add_argument(
        "--sessions", type=several(positive), default=[1, 2, 4, 8, 16, 30, 32, 64], metavar="N,N,.."
    )
    parser.add_argument("--block", type=float, metavar="MS", help="default: the model's hop")
    parser.add_argument("--rate", type=positive, metavar="HZ", help="default: each model's own")
    parser.add_argument("--rounds", type=positive, default=200)
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args()
    results = []
    for artifact in resolve(args.model):
        for count in args.sessions:
            for way in ("stacked", "separate"):
                sessions = [Session(artifact, sample_rate=args.rate) for _ in range(count)]
                rate = sessions[0].sample_rate
                size = sessions[0].hop if args.block is None else max(1, round(args.block * rate / 1000))
                facts = many(sessions, size, args.rounds, stacked=way == "stacked")
                results.append({"model": artifact.name, "way": way, "block_ms": size * 1000 / rate, **facts})
    if args.json:
        print(json.dumps(results, indent=2))
        return
    rows = [[r[k] if isinstance(r[k], str | int) else float(f"{r[k]:.4g}") for k in COLUMNS] for r in results]
    print(table(tuple(COLUMNS.values()), rows))


if __name__ == "__main__":
    main()
