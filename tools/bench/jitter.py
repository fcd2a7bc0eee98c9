"""How our jitter buffer takes a network, beside a plain one and beside NetEq's published behaviour.

    python tools/bench/jitter.py                            # the models
    python tools/bench/jitter.py phone-1 meeting            # captures of calls; fetches a package of 126 MB
    python tools/bench/jitter.py trace.csv --packets 20     # lines of number,sent,arrived in seconds
    python tools/bench/jitter.py call.pcap --port 4000 --kind 0 --tick 8000 --packets 20

Delays run from the sending of a packet to the beginning of its sound, the network's included (in captures:
what it takes beyond the fastest packets). late: packets that came and were dropped, of those that came.
concealed, stretched: shares of the time. back: how long after the end of a spike, at most, packets were still
played more than 20 ms later than before it. Captures need apt-get and dpkt. There is no sound: packets and
times are played.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jitter_players import Played, neteq, ours, plain
from packet_traces import CAPTURES, MODELS, Capture, MissingPeer, Trace, captured, read_capture, read_table

from audiomask.cli._common import table

COLUMNS = ("mean ms", "p50", "p95", "max", "lost %", "late %", "concealed %", "stretched %", "back s")


def facts(trace: Trace, played: Played) -> dict[str, Any]:
    """The figures of the table, by column."""
    heard = ~np.isnan(played.at)
    delay = 1000 * (played.at - trace.sent)[heard]
    time = played.end - np.nanmin(played.at)
    p50, p95 = np.percentile(delay, (50, 95))
    arrived = ~np.isnan(trace.arrived)
    share = [np.mean(~arrived), played.late / arrived.sum(), played.concealed / time, played.stretched / time]
    figures = [*map(round, (delay.mean(), p50, p95, delay.max())), *(round(100 * float(x), 2) for x in share)]
    back = returned(trace, played)
    back = "-" if back is None else round(back, 2)
    return dict(zip(COLUMNS, [*figures, back], strict=True))


def returned(trace: Trace, played: Played) -> float | None:
    """How long in seconds after a spike, at most, packets were played 20 ms later than before it.

    Before it: in the median of 2 s. None without spikes, or if nothing was played then.
    """
    worst, delay = None, played.at - trace.sent
    ends = [*(begin for begin, _ in trace.spikes), np.inf][1:]
    for (begin, end), following in zip(trace.spikes, ends, strict=True):
        before = delay[(played.at > begin - 2) & (played.at < begin)]
        if not len(before):
            return None
        high = (played.at > end) & (played.at < following) & (delay > np.median(before) + 0.02)
        worst = max(worst or 0.0, float(np.max(played.at[high] - end, initial=0)))
    return worst


def chosen(args: argparse.Namespace) -> list[Trace]:
    """The traces that the arguments name."""
    period = args.packets / 1000
    traces = [MODELS[name]() for name in args.traces or MODELS if name in MODELS]
    traces += captured([name for name in args.traces if name in CAPTURES])
    for name in args.traces:
        path = Path(name)
        if path.suffix == ".csv":
            traces.append(read_table(path, period))
        elif name not in MODELS and name not in CAPTURES:
            stream = args.port, args.kind, args.tick, round(args.tick * period), args.offset, args.by_time
            traces.append(read_capture(path, Capture(path.stem, "", name, *stream)))
    return traces


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = ", ".join([*MODELS, *CAPTURES])
    add("traces", nargs="*", metavar="TRACE", help=f"{names}, a .csv or a capture (default: all models)")
    add("--jitter", type=float, nargs="+", default=[60.0], metavar="MS", help="our budgets (default 60)")
    plain_ms = {"type": float, "nargs": "+", "default": [60.0, 100.0], "metavar": "MS"}
    add("--plain", **plain_ms, help="budgets of a plain buffer (default 60 100)")
    add("--packets", type=float, default=20.0, metavar="MS", help="length of a packet in a file (default 20)")
    add("--port", type=int, default=0, help="of a capture: the port that the stream comes from")
    add("--kind", type=int, default=0, help="its RTP payload type (default 0: G.711)")
    add("--tick", type=int, default=8000, metavar="HZ", help="its time stamp's rate (default 8000)")
    add("--offset", type=int, default=0, metavar="BYTES", help="before the RTP header in a datagram")
    add("--by-time", action="store_true", help="number packets by their time stamps")
    add("--json", action="store_true", help="for programs")
    args = parser.parse_args(argv)
    players = {f"ours, {ms:g} ms": partial(ours, jitter_ms=ms) for ms in args.jitter}
    players |= {f"plain, {ms:g} ms": partial(plain, jitter_ms=ms) for ms in args.plain}
    players["NetEq, simulated"] = neteq
    try:
        results = [
            {"trace": trace.name, "buffer": name, **facts(trace, play(trace))}
            for trace in chosen(args)
            for name, play in players.items()
        ]
    except (MissingPeer, OSError, ValueError) as error:
        print(f"jitter: error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        print(table(("trace", "buffer", *COLUMNS), [list(result.values()) for result in results]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
