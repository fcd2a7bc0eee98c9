"""Read recordings to draw, add the options of every figure, and write figures to files."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiomask.audio import AudioError, info, read, replacing
from audiomask.cli import Adder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_arguments(add: Adder) -> None:
    add("-o --out", "picture: .png, .pdf, .svg or .jpg", type=Path, required=True)
    add("-f --force", "overwrite the picture")
    add("--start S", "draw from here, in seconds", default=0.0)
    add("--seconds S", "draw at most so much", default=30.0)
    add("--channel", "which channel, 0 is the first", default=0)
    add("--dpi", default=110)


def read_part(file: str, args: argparse.Namespace) -> tuple[np.ndarray, int]:
    """Return the channel `[T]` of the part that is drawn and its rate; `AudioError` if empty."""
    about = info(file)
    if args.channel >= about.channels:
        raise AudioError(f"{file}: has {about.channels} channels, so there is no channel {args.channel}")
    x, rate = read(file, round(args.start * about.rate), math.ceil(args.seconds * about.rate))
    if x.shape[1] == 0:
        raise AudioError(f"{file}: there is nothing at {args.start} s to draw")
    return x[args.channel], rate


def image_format(path: Path) -> str:
    """Return the image format of a path; `AudioError` for a suffix that is none."""
    from matplotlib.backend_bases import FigureCanvasBase

    kind = path.suffix[1:].lower()
    if kind not in FigureCanvasBase.get_supported_filetypes():
        raise AudioError(f"{path}: '{path.suffix}' is not a picture; use .png, .pdf, .svg or .jpg")
    return kind


def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure, which appears whole; `AudioError` for a suffix that is no image format."""
    kind = image_format(path)
    with replacing(path) as part:
        figure.savefig(part, format=kind, dpi=dpi)
