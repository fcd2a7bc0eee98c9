"""Average trained weights, or grow them into a larger network.

The mean of several runs of one architecture is often better than each of them. A grown network computes what
the smaller one did, until training changes that:

audiomask weights average exp/one exp/two -o exp/mean --weights .25 .75
audiomask weights grow audiomask/pretrained/sieve --to recipes/denoise/sieve_medium.yaml -o exp/grown
audiomask train recipes/denoise/sieve_medium.yaml --model.start_from exp/grown ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

from audiomask.cli import Adder, UsageError


def add_arguments(add: Adder) -> None:
    action = add.actions("ACTION")
    average = action("average", "the mean of several trained networks of one architecture", action=_average)
    average("runs RUN", "folders with their weights", nargs="+", type=Path)
    average("--weights W", "of each in the mean (default: all alike)", nargs="+", type=float)
    grow = action("grow", "a larger network that computes the same", action=_grow)
    grow("run FROM", "a folder with trained weights", type=Path)
    grow("--to RECIPE", "that names the larger one", type=Path, required=True)
    grow("--seed", "of its new units", default=0)
    for add in (average, grow):
        add("-o --out DIR", type=Path, required=True)
        add("-f --force", "overwrite what DIR holds")


def run(args: argparse.Namespace) -> int:
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"{args.out}: is a file, and the weights are a folder; choose another -o")
    if args.out.exists() and any(args.out.iterdir()) and not args.force:
        raise UsageError(f"{args.out} holds something; -f overwrites it")
    return args.action(args)


def _average(args: argparse.Namespace) -> int:
    if args.weights and (len(args.weights) != len(args.runs) or abs(sum(args.weights) - 1) > 1e-6):
        raise UsageError(f"--weights: give {len(args.runs)} numbers, one a run, that sum to 1")
    from audiomask import weights

    config, tensors = weights.average(args.runs, args.weights)
    weights.save(args.out, tensors, config)
    print(f"{args.out}: the mean of {len(args.runs)} runs")
    return 0


def _grow(args: argparse.Namespace) -> int:
    if not args.to.is_file():
        raise UsageError(f"--to {args.to}: no such recipe; see recipes/*/*.yaml")
    import torch
    import yaml

    from audiomask import weights

    try:
        config = yaml.safe_load(args.to.read_text())["model"]["init_args"]["model"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UsageError(f"--to {args.to}: no recipe that names a model: {error!r}") from error
    torch.manual_seed(args.seed)
    small, large = weights.grow(args.run, config)
    weights.save(args.out, large, config)
    counts = [sum(p.numel() for p in model.parameters()) for model in (large, small)]
    print(f"{args.out}: {counts[0]:,} parameters, from {counts[1]:,}")
    return 0
