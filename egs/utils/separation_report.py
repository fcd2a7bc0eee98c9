#!/usr/bin/env python3
"""Usage: separation_report.py EXP TEST...: the scores of separated tests as tables of Markdown.

EXP/scores_TEST.json is of `audiomask score --stems`, EXP/ideal_TEST.json of `audiomask score --oracles`, of
the same songs. A table has one score of one test, and names both: no two kinds of figures stand together.
"""

import json
import sys
from pathlib import Path

NAMES = {
    "sdr": ("SDR of the whole song (sdr)", "mean"),
    "si_sdr": ("scale-invariant SDR (si_sdr)", "mean"),
    "csdr": ("median over seconds of SDR (csdr)", "median"),  # published tables have its median over songs
}


def table(metric: str, systems: dict[str, dict]) -> list[str]:
    """Return the lines of a table; `systems` have summaries by stem and metric."""
    stems = list(next(iter(systems.values())))
    title, kind = NAMES.get(metric, (metric, "mean"))
    songs = max(row[metric]["n"] for row in next(iter(systems.values())).values())
    lines = [f"### {title}, dB: {kind} over {songs} songs", ""]
    lines += ["| | " + " | ".join(stems) + " |", "|---" * (len(stems) + 1) + "|"]
    for system, found in systems.items():
        values = [found[stem][metric][kind] for stem in stems]
        cells = ["none" if value is None else f"{value:.2f}" for value in values]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def main(exp: Path, *tests: str) -> None:
    lines = ["# Results", ""]
    for test in tests:
        scores = json.loads((exp / f"scores_{test}.json").read_text())
        ideal = json.loads((exp / f"ideal_{test}.json").read_text())["oracles"]
        systems = {"the mixture": ideal.pop("none")["stems"], "trained here": scores["stems"]}
        systems |= {f"ideal mask: {name}": found["stems"] for name, found in ideal.items()}
        lines += [f"## {test}", ""]
        for metric in scores["metrics"]:
            lines += table(metric, systems)
    print("\n".join(lines).rstrip())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:])
