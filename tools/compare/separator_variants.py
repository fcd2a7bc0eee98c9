"""Train a separator in several variants and seeds, and print by how much they differ, stem by stem.

    python tools/compare/separator_variants.py recipes/separate/complex_unet.yaml --train data/train \\
      --valid data/valid --mixes data/mixes --steps 1000 --out exp/masks \\
      --variant complex --model.model.mask=complex --variant magnitude --model.model.mask=magnitude \\
      -- --model.model.widths "[8,16,32]" --data.batch_size 4

Each variant is a name and options of `audiomask train`; what stands after `--` goes to all of them. Networks
of one seed meet the same mixes in the same order. Each is exported and separates --mixes, of recordings that
no training met (tools/corpora/mix_stems.py, or the stems of songs).

The table has SI-SDR improvements in dB, the mean over seeds and mixes with the 95 % interval of Student's t
over seeds, and for each variant but the first the difference to the first, with two intervals: over seeds,
by t, and over mixes, by bootstrap of each one's mean over seeds. What is done already in --out is not done
again, so a comparison that is stopped goes on, and can be given more seeds; other options want another --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from masks import call, interval
from separators import improvements, ours

from audiomask import metrics
from audiomask.cli._common import table

Gains = dict[str, list[float]]  # by stem, of each mix


def measured(args: argparse.Namespace, name: str, options: list[str], seed: int) -> Gains:
    """What a variant of a seed is better than the mixes."""
    out = args.out / f"{name}_{seed}"
    out.mkdir(parents=True, exist_ok=True)
    result, asked, model = out / "gains.json", out / "asked.json", out / "model.onnx"
    words = [args.recipe, args.train, args.valid, str(args.mixes), str(args.steps), *options, *args.options]
    if asked.is_file() and json.loads(asked.read_text()) != words:
        raise SystemExit(f"{out}: was made with other options, which {asked} has; give another --out")
    asked.write_text(json.dumps(words) + "\n")
    if not result.is_file():
        call(
            "train", args.recipe, "--data.train", args.train, "--data.valid", args.valid,
            "--trainer.max_steps", str(args.steps), "--data.cache", str(args.out / "cache"),
            "--data.seed", str(seed), "--seed_everything", str(seed), *options, *args.options,
            "--out", str(out), log=out / "train.log",
        )  # fmt: skip
        call("export", str(out), "-o", str(model), "-f")
        found = improvements(args.mixes, {name: ours(str(model))})[name]
        partial = result.with_suffix(".part")
        partial.write_text(json.dumps(found))
        partial.replace(result)
    return json.loads(result.read_text())


def summary(found: dict[str, list[Gains]]) -> list[list[str]]:
    """Rows of `found[variant][seed]`: the variant, and a cell for each stem; see above."""
    rows: list[list[str]] = []
    first = next(iter(found))
    stems = list(found[first][0])
    for name, seeds in found.items():
        means = {stem: [statistics.fmean(gains[stem]) for gains in seeds] for stem in stems}
        rows.append([name, *(f"{statistics.fmean(m):.2f} +- {interval(m):.2f}" for m in means.values())])
        if name == first:
            continue
        cells = []
        for stem in stems:
            # of each seed and mix, less the first variant's
            less = [
                [a - b for a, b in zip(mine[stem], other[stem], strict=True)]
                for mine, other in zip(seeds, found[first], strict=True)
            ]
            over = metrics.summarize([statistics.fmean(values) for values in zip(*less, strict=True)])
            by_seed = interval([statistics.fmean(values) for values in less])
            cells.append(f"{over.mean:+.2f} +- {by_seed:.2f} ({over.low:+.2f} .. {over.high:+.2f})")
        rows.append([f"{name} less {first}", *cells])
    return rows


def parse(words: list[str]) -> argparse.Namespace:
    """Options, with `variants`, a list of options by name, and `options`, those after `--`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="of recipes/separate")
    parser.add_argument("--train", required=True, metavar="DIR", help="stems to train on")
    parser.add_argument("--valid", required=True, metavar="DIR")
    parser.add_argument(
        "--mixes", required=True, type=Path, metavar="DIR", help="NAME/STEM.wav to be judged on"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="runs, a folder for each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="values of every mix")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME", help="then its options")
    end = words.index("--") if "--" in words else len(words)
    # The options of `audiomask train` have dots in their names, and none of ours has.
    plain: list[str] = []
    variants: dict[str, list[str]] = {}
    for i, word in enumerate(words[:end]):
        if i and words[i - 1] == "--variant":
            variants[word] = []
        if word.startswith("--") and "." in word.partition("=")[0]:
            if not variants or "=" not in word:
                parser.error(f"{word}: stands after a --variant NAME, and its value after a =")
            variants[list(variants)[-1]].append(word)
        else:
            plain.append(word)
    args = parser.parse_args(plain)
    if len(variants) < 2 or len(set(args.seeds)) < 2:
        parser.error("--variant, --seeds: a difference with an interval wants two or more of both")
    args.variants, args.options = variants, words[end + 1 :]
    return args


def main() -> int:
    args = parse(sys.argv[1:])
    found: dict[str, list[Gains]] = {name: [] for name in args.variants}
    for seed in args.seeds:
        for name, options in args.variants.items():
            gains = measured(args, name, options, seed)
            found[name].append(gains)
            said = ", ".join(f"{stem} {statistics.fmean(values):.2f}" for stem, values in gains.items())
            print(f"{name}, seed {seed}: {said}", file=sys.stderr, flush=True)
    stems = list(found[next(iter(found))][0])
    print(table(["SI-SDR improvement, dB", *stems], summary(found)))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
