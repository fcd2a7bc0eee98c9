"""Train a model from a recipe.

  audiomask train recipes/TASK/MODEL.yaml --data.train DIR ... --out EXP

The recipe is a LightningCLI configuration: every argument of the task, the model, the losses, the data and
the trainer can be overridden with a dotted option, and `--print_config` shows all. Afterwards --out holds:

  config.yaml            the resolved configuration
  run.json               command line, versions, git commit, precision
  checkpoints/last.ckpt  for resuming: the same command continues a run that was stopped; written every
                         5 minutes and after every epoch
  model/                 config.json and model.safetensors of the best epoch, ready for `audiomask export`
  tensorboard/           curves, audio, pictures
  test.json              of a tagger with --data.test: accuracy, mAP, the likeliest classes of each clip
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from audiomask.cli import Adder, UsageError


def add_arguments(add: Adder) -> None:
    add("config", "recipe, a YAML file")
    add("--out", "folder of the run", default=Path("exp"))
    add("--fresh", "start over even if --out holds a checkpoint")
    add("options", "overrides of the recipe: --trainer.max_steps 1000", nargs=argparse.REMAINDER)


def run(args: argparse.Namespace) -> int:
    # --out and --fresh may stand among the overrides, which argparse leaves alone.
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--out", type=Path, default=args.out)
    extra.add_argument("--fresh", action="store_true", default=args.fresh)
    known, options = extra.parse_known_args(args.options)
    if not Path(args.config).is_file():
        raise UsageError(f"{args.config}: no such recipe; see recipes/*/*.yaml")
    # Waiting threads soon give way to the processes that load data: by default each spins for milliseconds
    # at every operator, on a core that another needs. libgomp reads this when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from audiomask.tasks.training import fit

    fit(args.config, known.out, options, fresh=known.fresh, command=sys.argv)
    return 0
