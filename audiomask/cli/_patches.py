"""Draw what each kind of patch mask hides of a recording: `audiomask plot masks FILE`.

The recording becomes the input of Audio-MAE: 16 kHz, 128 mel bands, 10 ms frames, patches of 16 x 16. That
needs torch.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiomask.audio import AudioError, check_writable
from audiomask.cli import Adder, UsageError
from audiomask.cli._figures import read_part, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from audiomask.frontend.logmel import LogMel
    from audiomask.masks.patches.saved import Drawn

RATE, SIZE, HOP = 16000, 16, 160
PLAIN = ("random", "time", "frequency", "time_frequency", "block", "inverse_block", "strips")
NOISE = ("red", "green", "blue", "purple", "blue_noise")
SCORED = ("dispersion", "speech", "segments", "confidence")
KINDS = (*PLAIN, *NOISE, *SCORED, "disjoint", "curriculum")
FIXED = ("time_frequency", "disjoint", "curriculum")  # their other settings determine what they hide


def add_arguments(add: Adder, others: str = "") -> None:
    """Add the options; `others` says which kinds there are beside patches."""
    add("--kind NAME", f"all (the default), or one of {', '.join(KINDS)}; with {{kind}} in "
        f"the name of the picture, a picture each{others}")  # fmt: skip
    add("--ratio 0..1", "share of patches to hide (default .8)", type=float)
    add("--seed N", "draw another mask (default 0)", type=int)
    add("--replay MASK", "draw a mask that masks --save wrote", type=Path)


def check(args: argparse.Namespace, patches: bool, others: Sequence[str] = ()) -> None:
    """Raise `UsageError` for options that do not go together; `patches`: of one recording.

    `others` are kinds beside those of patches.
    """
    options = ("kind", "ratio", "seed", "save", "replay")
    given = [name for name in options if getattr(args, name, None) is not None]
    if given and not patches:
        raise UsageError(f"--{given[0]} is for the patches of one recording: audiomask plot masks FILE")
    if args.replay is not None and len(given) > 1:
        raise UsageError(
            f"--replay draws what was saved; leave --{next(n for n in given if n != 'replay')} out"
        )
    if args.kind not in (None, "all", *KINDS, *others):
        raise UsageError(f"--kind {args.kind}: there are all, {', '.join((*KINDS, *others))}")
    if args.kind in others and len(given) > 1:
        raise UsageError(f"--{given[1]} is for patches, and --kind {args.kind} has none")
    if args.ratio is not None and (not 0 < args.ratio < 1 or args.kind in FIXED):
        why = f"of {args.kind} is fixed" if args.kind in FIXED else "lies between 0 and 1"
        raise UsageError(f"--ratio {args.ratio:g}: the share that is hidden {why}")
    if args.seed is not None and not -(2**63) <= args.seed < 2**63:
        raise UsageError(f"--seed {args.seed}: is no number of 64 bits")
    if "save" in given and args.kind in (None, "all"):
        raise UsageError("--save writes one mask; say which with --kind")


def run(args: argparse.Namespace) -> int:
    """Draw the masks; the arguments are checked."""
    from audiomask.frontend.logmel import LogMel

    kinds = KINDS if args.kind in (None, "all") else (args.kind,)
    if args.replay is not None:
        kinds = (str(args.replay),)
    each = args.replay is None and "{kind}" in args.out.name
    outs = {k: args.out.with_name(args.out.name.replace("{kind}", k)) if each else args.out for k in kinds}
    for path in dict.fromkeys([*outs.values(), *([args.save] if args.save else [])]):
        check_writable(path, overwrite=args.force)
    (file,) = args.files
    spectrogram = features_of(args, file, LogMel())
    drawn = {}
    for kind in kinds:
        try:
            drawn[kind] = mask_of(args, kind, spectrogram, file)
        except ValueError as error:
            raise AudioError(f"{file}: {kind}: {error}") from None
    if each:
        for kind, path in outs.items():
            save(figure(spectrogram[0], {kind: drawn[kind]}), path, args.dpi)
    else:
        save(figure(spectrogram[0], drawn), args.out, args.dpi)
    if args.save is not None:
        drawn[args.kind].save(args.save)
    return 0


def features(x: np.ndarray, rate: int, frontend: LogMel | None = None) -> Tensor:
    """Return log-mel energies `[1, frames, bands]` of `x [T]`, cut to whole patches."""
    import soxr
    import torch

    from audiomask.frontend.logmel import LogMel

    mel = frontend or LogMel()
    x = soxr.resample(x, rate, mel.sample_rate) if rate != mel.sample_rate else x
    frames = mel.fbank.complete(len(x)) // mel.patch * mel.patch
    if not frames:
        return torch.zeros(1, 0, mel.bands)
    with torch.inference_mode():
        return mel.raw(torch.from_numpy(np.ascontiguousarray(x, np.float32))[None])[:, :frames].clone()


def features_of(args: argparse.Namespace, file: str, frontend: LogMel) -> Tensor:
    """Return `features` of the part of a file that is drawn; AudioError for less than a patch."""
    found = features(*read_part(file, args), frontend)
    if not found.shape[1]:
        patch_s = frontend.patch * frontend.fbank.hop / frontend.sample_rate
        raise AudioError(f"{file}: has no {patch_s:g} s, a patch, from --start on; take a longer recording")
    return found


def mask_of(args: argparse.Namespace, kind: str, spectrogram: Tensor, file: str, size: int = SIZE) -> Drawn:
    """Return the mask that --replay names, or a new one; it must fit the spectrogram of `file`."""
    if args.replay is None:
        return sampled(kind, spectrogram, args.ratio or 0.8, args.seed or 0, size)
    from audiomask.masks.patches.saved import load

    saved, grid = load(args.replay), (spectrogram.shape[1] // size, spectrogram.shape[2] // size)
    if saved.grid != grid:
        raise AudioError(
            f"{args.replay}: its mask is of {saved.grid[0]} x {saved.grid[1]} patches, {file} has "
            f"{grid[0]} x {grid[1]}; give the recording, --start and --seconds that it was made for"
        )
    return saved


def sampled(kind: str, spectrogram: Tensor, ratio: float, seed: int, size: int = SIZE) -> Drawn:
    """Return a mask over patches of `size` for natural-log energies `[1, frames, bands]`."""
    import torch

    from audiomask.masks.patches import jepa, noise, patterns, scored
    from audiomask.masks.patches.saved import KINDS as CLASSES
    from audiomask.masks.patches.saved import Drawn

    time, freq = spectrogram.shape[1] // size, spectrogram.shape[2] // size
    sampler: Any
    if kind in noise.COLOURS:
        sampler = noise.ColourNoise(ratio, kind)
    elif kind == "curriculum":
        # the seed picks a point of the curriculum too, so that every kind of blocks can be seen
        sampler = jepa.Curriculum(steps=4, step=seed % 5, seed=seed % 2**32)
    elif kind == "disjoint":
        sampler = patterns.Disjoint()
    else:
        sampler = CLASSES[kind]() if kind == "time_frequency" else CLASSES[kind](ratio)
    # no recogniser here: loudness stands in for its confidence
    looks = scored.Speech() if kind == "confidence" else sampler
    numbers = looks.look(spectrogram, (size, size)) if hasattr(looks, "look") else None
    return Drawn.of(sampler, torch.tensor([seed]), (time, freq), numbers)


def figure(spectrogram: Tensor, drawn: dict[str, Drawn]) -> Figure:
    """Return a figure of all masks over `spectrogram [frames, bands]`; of a batch the first row."""
    from matplotlib.figure import Figure

    from audiomask.masks.patches.jepa import Curriculum
    from audiomask.masks.patches.saved import draw

    panels: list[tuple[str, Tensor]] = []
    for title, one in drawn.items():
        masks = list(one.masked[0].reshape(-1, *one.grid))
        targets = len(masks) - 1 if isinstance(one.sampler, Curriculum) else 0
        for n, mask in enumerate(masks):
            share = f"{100 * float(mask.float().mean()):.0f} %"
            if targets and n:  # a target shows what must be predicted
                panels.append((f"{title}: target {n}, {share}", ~mask))
            else:
                name = f"{title}: context" if targets else f"{title} {n + 1}" if len(masks) > 1 else title
                panels.append((f"{name}, {share} hidden", mask))
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    made = Figure(figsize=(6.5, 1.7) if columns == 1 else (8, 1.4 * rows), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis, (name, mask) in zip(axes.flat, panels, strict=False):
        seconds = spectrogram.shape[0] * HOP / RATE
        draw(mask, axis, spectrogram, seconds, name)
        axis.label_outer()
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return made
