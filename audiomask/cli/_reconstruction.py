"""Draw what a pretrained network makes of hidden patches.

`audiomask plot reconstruction WEIGHTS FILE` draws these panels: the recording as the network would see it
whole, what it is shown, its prediction of the rest, and its error at each patch. A network that predicts
features instead of a spectrogram has no third panel; it only needs `errors(x, visible, hidden) -> [B, M]`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from audiomask.audio import AudioError, check_writable
from audiomask.cli import Adder, UsageError, _patches
from audiomask.cli._figures import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

SEVERAL = ("all", "disjoint", "curriculum")  # more than one mask


def add_arguments(add: Adder) -> None:
    add("weights WEIGHTS", "folder that audiomask train or import wrote")
    add("file FILE", "a recording")
    _patches.add_arguments(add)
    add("--corpus NAME", "constants of the front end (default: as trained)")


def run(args: argparse.Namespace) -> int:
    _patches.check(args, True)
    if args.kind in SEVERAL:
        raise UsageError(f"--kind {args.kind}: reconstruction takes one kind, with one mask of a clip")
    import torch

    from audiomask.masks.patches.patterns import tokens
    from audiomask.tasks import encoders

    check_writable(args.out, overwrite=args.force)
    folder, file = args.weights, args.file
    model, frontend = encoders.load(folder, args.corpus)
    if not hasattr(model, "errors"):
        raise AudioError(
            f"{folder}: a {type(model).__name__} guesses nothing that is hidden; give weights of "
            "pretraining, such as an Audio-MAE's"
        )
    levels = _patches.features_of(args, file, frontend)
    kind, size = args.kind or "random", model.patch
    frames = min(levels.shape[1], model.grid[0] * size)
    seconds = frames * frontend.fbank.hop / frontend.sample_rate
    if levels.shape[1] > frames:
        print(f"{file}: the first {seconds:g} s, which is what the network is made for", file=sys.stderr)
    levels = levels[:, :frames]
    with torch.inference_mode():
        picture = (levels - frontend.mean) / (2 * frontend.std)
        try:
            masked = _patches.mask_of(args, kind, levels, file, size).masked
            if masked.ndim != 3:
                raise AudioError(
                    f"{args.replay}: holds several masks of a clip, and reconstruction takes one"
                )
            visible, hidden = tokens(masked[:1])
        except ValueError as error:
            raise AudioError(f"{file}: {kind}: {error}") from None
        errors = model.errors(picture, visible, hidden)
        guess = None
        if hasattr(model, "restored"):
            guess = model.restored(picture, model(picture, visible, hidden)[0], hidden)[0]
    save(figure(picture[0], masked[0], errors[0], guess, seconds), args.out, args.dpi)
    loss, of = float(errors.mean()), masked[0].numel()
    print(f"{args.out}: loss {loss:.4f} over {hidden.shape[1]} of {of} patches")
    return 0


def figure(picture: Tensor, masked: Tensor, errors: Tensor, guess: Tensor | None, seconds: float) -> Figure:
    """Return panels of a spectrogram, its visible part, its prediction and the errors.

    Shapes: `picture [frames, bands]`, `masked [time, freq]`, `guess [frames, bands]` where there is one, all
    on one scale; `errors [M]` of the hidden patches.
    """
    import torch
    from matplotlib.figure import Figure

    from audiomask.masks.patches.saved import draw

    rows: list[tuple[str, Tensor, Tensor]] = [
        ("original", picture, torch.zeros_like(masked)),
        (f"seen, {100 * float(masked.float().mean()):.0f} % hidden", picture, masked),
    ]
    if guess is not None:
        rows.append(("reconstructed", guess, torch.zeros_like(masked)))
    made = Figure(figsize=(8, 1.6 * (len(rows) + 1)), layout="constrained")
    axes: Any = made.subplots(len(rows) + 1, 1, sharex=True)
    low, high = (float(limit) for limit in picture.aminmax())
    for axis, (title, x, mask) in zip(axes, rows, strict=False):
        image = draw(mask, axis, x, seconds, title)
        image.set_clim(low, high)
        axis.label_outer()
    made.colorbar(image, ax=list(axes[:-1]), label="normalised log energy")
    wrong = torch.zeros(masked.shape).masked_scatter(masked, errors.float())
    image = draw(
        ~masked, axes[-1], wrong, seconds, f"error of each patch, {float(errors.mean()):.3f} on average"
    )
    image.set_clim(0, max(float(errors.max()), 1e-6))
    axes[-1].set(ylabel="patch")
    made.colorbar(image, ax=axes[-1], label="mean square")
    return made
