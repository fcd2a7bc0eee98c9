#!/usr/bin/env python3
"""Measures how many steps a minute a training makes and where their time goes, here and in another checkout.

    python tools/bench/training.py recipes/denoise/sieve.yaml --against ../base -- \\
        --data.train data/speech --data.noise data/noise --data.valid data/pairs --trainer.precision 32-true

It runs `audiomask train` of both checkouts in turn, with the same options and seed, each by its own recipe
of that name. The parts of a step are waiting for data, making pairs of them (simulate), the network, the
losses, the gradient and the optimizer; "other" is what the trainer does around them. Wall time counts. Beside
it stands the processor time, which depends less on what else the machine does. The first steps of a run do
not count.

--curves also compares the losses, step by step: their means over ten parts of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = ("data", "simulate", "network", "loss", "gradient", "optimizer", "other")


def measure(checkout: Path, args: argparse.Namespace) -> list[dict[str, float]]:
    """The steps of one run of the training that `checkout` holds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "steps.json"
        recipe = args.recipe.resolve()
        if recipe.is_relative_to(ROOT):  # each checkout's own
            recipe = checkout.resolve() / recipe.relative_to(ROOT)
        # -P: without the folder where this was started, which may be a checkout too
        words = [sys.executable, "-P", "-m", "audiomask", "train", str(recipe), *args.options]
        words += ["--trainer.max_steps", str(args.warmup + args.steps), "--trainer.limit_val_batches", "0"]
        words += ["--trainer.callbacks+=step_clock.StepClock", f"--trainer.callbacks.file={file}"]
        path = os.pathsep.join(map(str, (checkout.resolve(), Path(__file__).parent)))
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(
            [*words, "--out", f"{folder}/run"], env=env, capture_output=True, text=True, check=False
        )
        if done.returncode or not file.exists():
            sys.exit(f"training: {checkout}: the run failed\n{done.stderr[-3000:]}")
        found = json.loads(file.read_text())
        if not Path(found["package"]).is_relative_to(checkout.resolve()):
            sys.exit(f"training: {checkout}: the run imported audiomask from {found['package']}")
        return found["steps"]


def seconds(step: dict[str, float]) -> float:
    """How long a step took."""
    return sum(step.get(part, 0.0) for part in PARTS)


def summary(checkout: str, runs: list[list[dict[str, float]]], warmup: int) -> dict[str, Any]:
    """Medians of the steps of all `runs`."""
    steps = [step for run in runs for step in run[warmup:]]
    return {
        "checkout": checkout,
        "steps_per_minute": statistics.median(60 / statistics.median(map(seconds, r[warmup:])) for r in runs),
        "cpu_s": statistics.median(step["cpu"] for step in steps),
        **{part: statistics.median(step.get(part, 0.0) for step in steps) for part in PARTS},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, run in turn")
    parser.add_argument("--steps", type=int, default=8, help="that count in a run (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each checkout (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    parser.add_argument("--curves", action="store_true", help="compare the losses as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured here")
    parser.usage = f"{parser.format_usage().removeprefix('usage: ').strip()} -- OVERRIDES OF THE RECIPE"
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:split])
    args.options = words[split + 1 :]
    checkouts = {"here": ROOT} | ({"against": args.against} if args.against else {})
    runs: dict[str, list[list[dict[str, float]]]] = {name: [] for name in checkouts}
    for _ in range(args.rounds):
        for name, checkout in reversed(checkouts.items()):
            runs[name].append(measure(checkout, args))
    rows = [summary(name, runs[name], args.warmup) for name in checkouts]
    print(f"{'':<9}{'steps/min':>10}{'cpu s':>8}" + "".join(f"{part:>11}" for part in PARTS) + "  (s a step)")
    for row in rows:
        parts = "".join(f"{row[part]:>11.4f}" for part in PARTS)
        print(f"{row['checkout']:<9}{row['steps_per_minute']:>10.2f}{row['cpu_s']:>8.3f}{parts}")
    if args.against:
        here, there = rows
        print(f"steps a minute: {here['steps_per_minute'] / there['steps_per_minute']:.2f} times")
        print(f"processor time of a step: {there['cpu_s'] / here['cpu_s']:.2f} times less")
    if args.curves and args.against:
        curves = {name: [step["value"] for step in runs[name][0]] for name in checkouts}
        tenth = -(-len(curves["here"]) // 10)
        print(f"{'steps':>12}{'here':>10}{'against':>10}")
        for start in range(0, len(curves["here"]), tenth):
            means = [statistics.fmean(curves[name][start : start + tenth]) for name in checkouts]
            print(f"{start:>6}-{start + tenth - 1:<5}{means[0]:>10.4f}{means[1]:>10.4f}")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "runs": runs}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
