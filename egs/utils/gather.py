#!/usr/bin/env python3
"""Usage: gather.py OUT.json TEST.json...: the figures of several tests of taggers, as a table and as JSON.

Each TEST.json is what `audiomask train --data.test` wrote. Beside the mean stands the standard deviation over
the tests (of n - 1; none for a single one), and the accuracy over all clips together.
"""

import json
import statistics
import sys
from pathlib import Path


def main(out: Path, *files: Path) -> None:
    tests = {path.parent.name: json.loads(path.read_text()) for path in files}
    figures: dict[str, dict] = {
        name: {"accuracy": test["accuracy"], "map": test["map"], "clips": len(test["clips"])}
        for name, test in tests.items()
    }
    clips = [clip for test in tests.values() for clip in test["clips"].values()]
    hits = sum(next(iter(clip["likeliest"])) in clip["labels"] for clip in clips)
    total: dict = {"clips": len(clips), "accuracy": hits / len(clips)}
    for kind in ("accuracy", "map"):
        values = [row[kind] for row in figures.values()]
        total[f"{kind}_mean"] = statistics.mean(values)
        total[f"{kind}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    print(f"{'test':12} {'clips':>6} {'accuracy':>9} {'mAP':>7}")
    for name, row in figures.items():
        print(f"{name:12} {row['clips']:6} {row['accuracy']:9.4f} {row['map']:7.4f}")
    if len(figures) > 1:
        print(f"{'mean':12} {'':6} {total['accuracy_mean']:9.4f} {total['map_mean']:7.4f}")
        print(f"{'deviation':12} {'':6} {total['accuracy_deviation']:9.4f} {total['map_deviation']:7.4f}")
    part = out.with_name(f".{out.name}.part")
    part.write_text(json.dumps({"tests": figures, "all": total}, indent=1) + "\n")
    part.replace(out)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
