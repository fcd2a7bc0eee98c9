"""Grow trained weights of Sieve into a larger one that computes the same, to train on from there.

    python tools/grow_sieve.py audiomask/pretrained/sieve --channels 48 --blocks 4 --heads 6 --full 480 \\
        --squeeze 192 --ahead 2 --out exp/grown
    audiomask train recipes/denoise/sieve_medium.yaml --model.start_from exp/grown ...

New units hear the old ones and write nothing to them, new blocks add nothing, and frames ahead are not
listened to: until training changes that, the larger network's output is the smaller one's, later by `ahead`
frames (after Chen et al. 2016, "Net2Net", with zeros where they share weights out).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.models.sieve import Sieve

SIZES = ("channels", "blocks", "heads", "full", "squeeze", "ahead")


def grouped(name: str, parameter: Tensor, bands: int) -> tuple[Tensor, int]:
    """A view of `parameter` in which each axis of units is an axis of its own (gates and bands lie beside
    each other in one), and the number of the axis of the units that it feeds."""
    if ".gru." in name or "full_gru" in name or ".qkv." in name:
        return parameter.unflatten(0, (3, -1)), 1
    if "full_out" in name:
        return parameter.unflatten(0, (bands, -1)), 1
    if name.endswith("full_in.weight"):
        return parameter.unflatten(1, (bands, -1)), 0
    return parameter, int(name.endswith("embedding"))


def grow(small: Sieve, large: Sieve) -> None:
    """Write the weights of `small` into `large`, which keeps its own for its new units."""
    old = small.state_dict()
    for name, parameter in large.state_dict().items():
        if name not in old:  # of a new block
            if name.endswith("_norm.weight"):
                parameter.zero_()
            continue
        (into, axis), (known, _) = (grouped(name, p, large.net.bands) for p in (parameter, old[name]))
        if into.ndim > axis + 1:
            into.narrow(axis, 0, known.shape[axis]).zero_()
        into[tuple(slice(n) for n in known.shape)] = known


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="folder with trained weights of Sieve")
    for size in SIZES:
        parser.add_argument(f"--{size}", type=int, metavar="N", help="of the larger one (default: as it is)")
    parser.add_argument("--seed", type=int, default=0, help="of the new units (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    try:
        small, config = weights.load(args.weights)
        if not isinstance(small, Sieve):
            raise AudioError(f"{args.weights}: holds a {type(small).__name__}; this grows Sieve only")
        sizes = dict(config["init_args"])
        sizes |= {size: getattr(args, size) for size in SIZES if getattr(args, size) is not None}
        torch.manual_seed(args.seed)
        large = Sieve(**sizes)
        ours, theirs = (net.channels / net.blocks[0].heads for net in (small.net, large.net))
        if ours != theirs:
            raise AudioError(
                f"heads of {theirs:g} channels, and those of {args.weights} have {ours:g}: choose --channels "
                f"and --heads in that proportion"
            )
        new, old = large.state_dict(), small.state_dict()
        less = [
            k
            for k, v in old.items()
            if k not in new or any(m < n for m, n in zip(new[k].shape, v.shape, strict=True))
        ]
        if less:
            raise AudioError(f"{less[0]} would shrink: every size has to be at least that of {args.weights}")
        grow(small, large)
        weights.save(args.out, large, {"class_path": config["class_path"], "init_args": sizes})
    except AudioError as error:
        sys.exit(f"grow_sieve: {error}")
    counts = [sum(p.numel() for p in model.parameters()) for model in (small, large)]
    print(f"{args.out}: {counts[1]:,} parameters, from {counts[0]:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
