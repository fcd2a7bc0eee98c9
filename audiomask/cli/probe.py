"""Judge a pretrained encoder by what its frozen features tell of labels.

It scores nearest neighbours and a linear probe:

  audiomask probe exp/audio_mae --train data/train --test data/test
  audiomask probe exp/audio_mae --train data/esc10 --folds            every fold of utt2fold in turn
  audiomask probe exp/audio_mae --train data/esc10 --folds --fold 3   trained on the others, tested on 3

Data directories have utt2label. A clip is the mean of the tokens of its patches, whatever its length; each
feature is standardised by the training clips. The linear probe is a logistic regression whose weight decay is
chosen on a part of the training clips: one of their folds, or a fifth of every class.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from audiomask.audio import AudioError
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import between, positive, table
from audiomask.data.kaldi.directory import DataDir

if TYPE_CHECKING:
    from torch import Tensor

DECAYS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)


def add_arguments(add: Adder) -> None:
    add("weights WEIGHTS", "folder that audiomask train or import wrote")
    add("--train DIR", "data directory with utt2label", required=True)
    add("--test DIR", "the same, to be judged on")
    add("--folds", "cross-validate --train by its table utt2fold")
    add("--fold NAME", "test on this fold only (may be repeated)", action="append")
    add("--knn K", "neighbours; 0: no neighbours", type=between(0, kind=int), default=20)
    add("--no-linear", "no linear probe")
    layers = "blocks whose features are put together, 1 is the first, or all"
    add("--layers N,N,...", f"{layers}; default: what comes out at the end")
    add("--corpus NAME", "front end's constants: audioset, esc, speechcommands (as trained)")
    add("--device", "cpu or cuda", default="cpu")
    add("--batch", "windows computed at once", type=positive, default=16)
    add("--seed", "of the part that decay is chosen on", default=0)
    add("--json", "for programs")


def run(args: argparse.Namespace) -> int:
    if (args.test is None) != args.folds:
        raise UsageError("give --test DIR, or --folds for a --train with utt2fold, one of the two")
    if args.fold and not args.folds:
        raise UsageError("--fold is one of --folds")
    if args.knn == 0 and args.no_linear:
        raise UsageError("--knn 0 --no-linear leaves nothing to do")
    found = judged(args)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    head = ("tested on", "clips", "method", "accuracy", "mAP", "setting")
    parts = dict(found["folds"])
    if len(parts) > 1:
        parts["mean"] = {"clips": ""} | found["mean"]
    rows = []
    for name, part in parts.items():
        for method in found["mean"]:
            one = part[method]
            setting = f"l2 {one['l2']:g}" if "l2" in one else f"k {args.knn}" * (method == "knn")
            rows.append((name, part["clips"], method, f"{one['accuracy']:.4f}", f"{one['map']:.4f}", setting))
    print(table(head, rows))
    return 0


def judged(args: argparse.Namespace) -> dict[str, Any]:
    """Return all results, as JSON takes them."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from audiomask.data.crops.labels import labels_of, targets
    from audiomask.tasks import encoders

    model, frontend = encoders.load(args.weights, args.corpus)
    if args.layers in (None, "all"):
        layers = list(range(1, 1 + len(model.blocks))) if args.layers else []
    else:
        try:
            layers = [int(number) for number in args.layers.split(",")]
        except ValueError:
            raise UsageError(f"--layers {args.layers}: numbers with commas, or all") from None
    train = DataDir.read(args.train)
    directories = [train] if args.test is None else [train, DataDir.read(args.test)]
    classes = sorted({name for names in labels_of(train).values() for name in names})
    multi = any(len(names) > 1 for data in directories for names in labels_of(data).values())
    truth = []
    for data in directories:
        by_key = targets(data, classes)
        truth.append(torch.stack([torch.from_numpy(by_key[u.key]) for u in data.utterances()]))
    if args.folds:
        fold = folds_of(train)
        names = sorted(set(fold), key=lambda name: (len(name), name))
        if missing := [name for name in args.fold if name not in names]:
            raise UsageError(f"--fold {missing[0]}: utt2fold has {', '.join(names)}")
    else:
        fold, names = ["train"] * len(truth[0]) + ["test"] * len(truth[1]), ["test"]
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("features", total=sum(map(len, truth)))
        how = {"batch": args.batch, "device": args.device, "progress": partial(bars.advance, task)}
        vectors = [encoders.features(model, frontend, data, layers, **how) for data in directories]
    x, y = torch.cat(vectors), torch.cat(truth)
    parts = {name: split(fold, name, y, args.seed) for name in args.fold or names}
    results = {name: one(x, y, part, multi, args) for name, part in parts.items()}
    mean = {
        method: {key: fmean(part[method][key] for part in results.values()) for key in ("accuracy", "map")}
        for method, wanted in (("knn", args.knn), ("linear", not args.no_linear))
        if wanted
    }
    about = {"weights": args.weights, "classes": len(classes), "features": x.shape[1], "layers": layers}
    return {**about, "multi_label": multi, "folds": results, "mean": mean}


def folds_of(data: Any) -> list[str]:
    """Return the fold of each utterance; AudioError where utt2fold has gaps or only one fold."""
    folds = data.tables.get("utt2fold")
    if folds is None:
        raise AudioError(f"{data.path}: no utt2fold beside wav.scp, with the fold of each utterance")
    if missing := [key for key in data.utterance_keys if key not in folds]:
        raise AudioError(f"{data.path}/utt2fold: no fold for {missing[0]} ({len(missing)} in all)")
    found = [folds[u.key] for u in data.utterances()]
    if len(set(found)) < 2:
        raise AudioError(f"{data.path}/utt2fold: all utterances are in the fold {found[0]}; want two or more")
    return found


def split(fold: list[str], test: str, target: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows of the training clips, of those among them for the decay, of the test clips.

    With three folds or more, the decay is chosen on the one after the tested one; else on a fifth of the
    clips of every first label, at least one where there are two.
    """
    import torch

    rows = {name: torch.tensor([i for i, f in enumerate(fold) if f == name]) for name in sorted(set(fold))}
    others = [name for name in rows if name != test]
    train = torch.cat([rows[name] for name in others]).sort().values
    if len(others) > 1:
        after = [name for name in others if name > test]
        return train, rows[(after or others)[0]], rows[test]
    random, chosen = torch.Generator().manual_seed(seed), []
    label = target[train].argmax(1)
    for c in label.unique():
        mine = train[label == c]
        count = 0 if len(mine) < 2 else max(1, len(mine) // 5)
        chosen.append(mine[torch.randperm(len(mine), generator=random)[:count]])
    return train, torch.cat(chosen).sort().values, rows[test]


def one(
    x: Tensor, y: Tensor, parts: tuple[Tensor, Tensor, Tensor], multi: bool, args: argparse.Namespace
) -> dict[str, Any]:
    """Return scores of both methods for features `x [N, C]` and labels `y [N, K]`, see `split`."""
    import torch

    from audiomask.tasks import encoders

    train, chosen, test = parts
    found: dict[str, Any] = {"clips": len(test)}
    known, asked = encoders.standardised(x[train], x[test])
    if args.knn:
        found["knn"] = scored(encoders.votes(known, y[train], asked, args.knn), y[test])
    if args.no_linear:
        return found
    fit = train[~torch.isin(train, chosen)]
    if not len(chosen) or not len(fit):
        raise AudioError("too few clips to choose the decay of the probe on; give more, or --no-linear")
    inner, outer = encoders.standardised(x[fit], x[chosen])
    probe, trials = encoders.Logistic(x.shape[1], y.shape[1], multi), {}
    for l2 in DECAYS:  # each starts from the last solution
        result = scored(probe.fit(inner, y[fit], l2).scores(outer), y[chosen])
        trials[l2] = result["map" if multi else "accuracy"]
    l2 = max(trials, key=trials.__getitem__)  # the first, and so the greatest, of the best
    probe = encoders.Logistic(x.shape[1], y.shape[1], multi).fit(known, y[train], l2)
    found["linear"] = scored(probe.scores(asked), y[test]) | {"l2": l2}
    return found


def scored(scores: Tensor, target: Tensor) -> dict[str, float]:
    """Return the fraction of clips whose likeliest class is right, and mean average precision."""
    from audiomask.tasks.classify import accuracy_of, average_precision

    precision = average_precision(scores, target).mean()
    return {"accuracy": float(accuracy_of(scores, target)), "map": float(precision)}
