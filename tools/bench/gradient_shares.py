#!/usr/bin/env python3
"""Measures the shares of the gradient that the losses of a recipe have while a network trains.

    python tools/bench/gradient_shares.py recipes/codec/encodec_24khz.yaml --steps 300

A small EnCodec learns the speech of the mini corpus by the recipe's objective, whose discriminators have 4
filters and, with --decay, whose balancer has another memory. In each step the gradient at its output is taken
apart, by least squares, into the gradients of the losses, and the norms of the parts are added up: those of
the first third of the steps, in which the averages follow an adversary that only begins, and the others. One
run for each of --scales, by which every other loss is multiplied: what was asked is the same, and the
balancer is to give it whatever they are. Prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

from audiomask.audio import read
from audiomask.cli._common import positive, table
from audiomask.losses import Balancer, Objective
from audiomask.models.encodec import EnCodec

ROOT = Path(__file__).parents[2]
SPEECH = ROOT / "egs/mini/denoise/corpus/speech"
SMALL = {"filters": 4, "latent": 32, "stages": 8, "levels": 64, "lstm": 1}


class Measured(Balancer):
    """A balancer of losses times `scales`, that adds up what it gives to each."""

    def __init__(self, balancer: Balancer, scales: dict[str, float], decay: float | None):
        decay = balancer.decay if decay is None else decay
        super().__init__(balancer.total_norm, decay, balancer.per_batch_item)
        self.scales = scales
        self.given = dict.fromkeys(scales, 0.0)

    def __call__(self, losses, weights, output):
        losses = {name: self.scales[name] * loss for name, loss in losses.items()}
        balanced = super().__call__(losses, weights, output)
        names = list(losses)
        parts = [torch.autograd.grad(losses[name], output, retain_graph=True)[0].double() for name in names]
        rows = torch.stack([part / part.norm().clamp_min(1e-300) for part in parts])
        wanted = balanced.double().flatten()[:, None]
        factors = torch.linalg.lstsq(rows.flatten(1).T, wanted, driver="gelsd").solution[:, 0]
        for name, row, factor in zip(names, rows, factors.tolist(), strict=True):
            self.given[name] += float((factor * row).flatten(1).norm(dim=1).mean())
        return balanced


def objective_of(recipe: Path) -> Objective:
    """Return the objective that a recipe names."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(Objective, "objective")
    task = yaml.safe_load(recipe.read_text())["model"]["init_args"]
    for discriminator in task["objective"]["init_args"]["adversary"]["init_args"]["discriminators"]:
        discriminator["init_args"]["filters"] = 4
    found = parser.parse_object({"objective": task["objective"]})
    return parser.instantiate(found).objective


def speech(rate: int) -> list[np.ndarray]:
    """Return the recordings of the mini corpus."""
    found = map(read, sorted(SPEECH.rglob("*.opus")))
    return [soxr.resample(x[0], clip_rate, rate) for x, clip_rate in found]


def measure(args: argparse.Namespace, scale: float) -> tuple[dict, dict, dict]:
    """Return the shares that were asked for, given in the first third of a training, and then."""
    torch.manual_seed(0)
    model = EnCodec(**SMALL).train()
    objective = objective_of(args.recipe)
    balanced = [name for name in objective.weights if name not in objective.outside]
    scales = {name: scale ** (n % 2) for n, name in enumerate(balanced)}
    objective.balancer = measured = Measured(objective.balancer, scales, args.decay)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4, betas=(0.5, 0.9))
    clips, generator = speech(model.sample_rate), np.random.default_rng(0)
    early: dict[str, float] = {}
    for n in range(args.steps):
        if n == args.steps // 3:
            early, measured.given = measured.given, dict.fromkeys(scales, 0.0)
        x = _batch(clips, generator, args.batch, args.samples)
        y, terms = model.learn(x)
        scalar, _ = objective({"decoded": y}, {"decoded": x}, outside=terms)
        optimizer.zero_grad()
        scalar.backward()
        optimizer.step()
    asked = {name: objective.weights[name] for name in balanced}
    return _shares(asked), _shares(early), _shares(measured.given)


def _batch(clips: Sequence[np.ndarray], generator: np.random.Generator, batch: int, samples: int) -> Tensor:
    """Return rows `[batch, 1, samples]` of clips, all equally loud."""
    rows = []
    for _ in range(batch):
        clip = clips[generator.integers(len(clips))]
        at = generator.integers(max(1, len(clip) - samples + 1))
        row = np.resize(clip[at : at + samples], samples)
        rows.append(row / (1e-3 + np.sqrt(np.mean(row**2))))
    return torch.from_numpy(np.stack(rows)).float()[:, None]


def _shares(values: dict[str, float]) -> dict[str, float]:
    whole = sum(values.values())
    return {name: value / whole for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="whose objective has a balancer")
    parser.add_argument("--scales", type=float, nargs="+", default=[1e-6, 1.0, 1e6], help="of the losses")
    parser.add_argument(
        "--steps", type=positive, default=300, help="of each training, 3 at least (default 300)"
    )
    parser.add_argument("--batch", type=positive, default=4, help="rows (default 4)")
    parser.add_argument("--samples", type=positive, default=8000, help="of a row (default 8000)")
    parser.add_argument("--decay", type=float, help="of the balancer (default: the recipe's)")
    args = parser.parse_args()
    head, rows = ["loss", "asked"], {}
    for scale in args.scales:
        head += [f"x {scale:g}, at first", f"x {scale:g}"]
        asked, *found = measure(args, scale)
        for name, share in asked.items():
            row = rows.setdefault(name, [name, f"{100 * share:.2f} %"])
            row += [
                f"{100 * given[name]:.2f} % ({100 * (given[name] / share - 1):+.1f} %)" for given in found
            ]
    print(table(head, list(rows.values())))


if __name__ == "__main__":
    main()
