"""Pretrain the same network under different masks, probe what it has learned, and print the comparison.

    python tools/compare/masks.py recipes/pretrain/small.yaml --sounds data/sounds --folds data/esc10 \\
      --steps 600 --out exp/masks --json masks.json [-- --data.batch_size 32 ...]

Each network is trained from scratch on --sounds by `audiomask train`, all masks hide the same share of the
patches, so that all encoders compute as many tokens; what stands after `--` goes to each training. It is then
judged by `audiomask probe` on the folds of --folds (utt2label, utt2fold): frozen features, a linear probe.
Networks of one seed begin with the same weights and meet the same crops in the same order.

The table has the mean over seeds and folds, and the difference to the mask "random"; both with the 95 %
interval of Student's t over seeds, since the folds of a seed judge one network. What is done already in --out
is not done again, so a comparison that is stopped goes on, and can be given more seeds; other options want
another --out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from audiomask.cli._common import table
from audiomask.masks.patches.saved import KINDS

# Kinds that look at nothing and hide an exact share; "staged" is A-JEPA's curriculum.
COMPARED = ("random", "time", "block", "inverse_block", "blue_noise", "staged")
MASKS = (*COMPARED, "frequency", "strips", "colour_noise")
RATIO = 0.8


def call(*words: str, log: Path | None = None) -> str:
    """What an audiomask command prints, its messages in `log`. Ends the program if it fails."""
    command = [sys.executable, "-m", "audiomask", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if log is not None:
        log.write_text(done.stderr)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        raise SystemExit(f"audiomask {' '.join(words[:2])} ended with {done.returncode}")
    return done.stdout


def options(mask: str, steps: int) -> list[str]:
    """Of `audiomask train`, for a mask that hides `RATIO` of the patches."""
    kind = KINDS[mask]
    words = ["--model.mask", f"{kind.__module__}.{kind.__name__}"]
    if mask == "staged":  # its kinds hide .8 as they are
        return [*words, "--model.mask.steps", str(steps)]
    return [*words, "--model.mask.ratio", str(RATIO)]


def measured(args: argparse.Namespace, mask: str, seed: int) -> dict[str, float]:
    """Accuracy of each fold, by a linear probe of the network that was trained under `mask`."""
    out = Path(args.out) / f"{mask}_{seed}"
    out.mkdir(parents=True, exist_ok=True)
    result, asked = out / "probe.json", out / "asked.json"
    words = [args.recipe, args.sounds, args.folds, str(args.steps), *args.options]
    if asked.is_file() and json.loads(asked.read_text()) != words:
        raise SystemExit(f"{out}: was made with other options, which {asked} has; give another --out")
    asked.write_text(json.dumps(words) + "\n")
    if not result.is_file():
        call(
            "train", args.recipe, "--data.train", args.sounds, "--data.valid", args.sounds,
            "--trainer.limit_val_batches", "0", "--trainer.max_steps", str(args.steps),
            "--data.cache", str(Path(args.out) / "cache"), "--data.seed", str(seed),
            "--seed_everything", str(seed), *options(mask, args.steps), *args.options, "--out", str(out),
            log=out / "train.log",
        )  # fmt: skip
        partial = result.with_suffix(".part")
        partial.write_text(call("probe", str(out), "--train", args.folds, "--folds", "--knn", "0", "--json"))
        partial.replace(result)
    folds = json.loads(result.read_text())["folds"]
    return {name: fold["linear"]["accuracy"] for name, fold in folds.items()}


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean of two values or more, by Student's t."""
    return float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def summary(found: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """A row for each mask of `found[mask][seed][fold]`, the seeds of all masks alike."""
    means = {
        mask: {seed: statistics.fmean(folds.values()) for seed, folds in seeds.items()}
        for mask, seeds in found.items()
    }
    rows = []
    for mask, values in means.items():
        row = {
            "mask": mask,
            "accuracy": statistics.fmean(values.values()),
            "within": interval([*values.values()]),
        }
        if mask != "random" and "random" in means:
            less = [values[seed] - means["random"][seed] for seed in values if seed in means["random"]]
            row |= {"difference": statistics.fmean(less), "difference_within": interval(less)}
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="of recipes/pretrain")
    parser.add_argument("--sounds", required=True, metavar="DIR", help="data directory to train on")
    parser.add_argument("--folds", required=True, metavar="DIR", help="data directory to be judged on")
    parser.add_argument("--masks", nargs="+", choices=MASKS, metavar="MASK", help=", ".join(MASKS),
                        default=list(COMPARED))  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", required=True, metavar="DIR", help="runs, a folder for each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="values of every fold, and the table")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:end])
    args.options = words[end + 1 :]
    if len(set(args.seeds)) < 2:
        parser.error("--seeds: an interval wants two or more")
    found: dict[str, dict[str, dict[str, float]]] = {mask: {} for mask in args.masks}
    for seed in args.seeds:
        for mask in args.masks:
            found[mask][str(seed)] = measured(args, mask, seed)
            print(f"{mask}, seed {seed}: {statistics.fmean(found[mask][str(seed)].values()):.4f}",
                  file=sys.stderr, flush=True)  # fmt: skip
    rows = summary(found)
    said = []
    for row in rows:
        words = [row["mask"], f"{100 * row['accuracy']:.1f} +- {100 * row['within']:.1f}"]
        if "difference" in row:
            words.append(f"{100 * row['difference']:+.1f} +- {100 * row['difference_within']:.1f}")
        said.append((*words, "")[:3])
    print(table(("mask", "accuracy, %", "less random"), said))
    if args.json:
        args.json.write_text(json.dumps({"folds": found, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
