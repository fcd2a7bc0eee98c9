"""Draw recordings as spectrograms, before and after.

  audiomask plot spectrogram noisy.wav enhanced.wav -o comparison.png     waveform above, side by side
  audiomask plot masks clean.wav noisy.wav -o masks.png       the ideal masks of clean in noisy
  audiomask plot masks talk.wav -o hidden.png --kind block    what masked pretraining hides of one recording
  audiomask plot masks talk.wav -o heard.png --kind hearing   what one recording hides from the ear
  audiomask plot reconstruction exp/audio_mae talk.wav -o guessed.png     and what a network makes of it

All panels of a figure share their scales, so that levels can be compared.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiomask.audio import check_writable
from audiomask.cli import Adder, UsageError, _figures, _hearing, _patches, _reconstruction
from audiomask.cli._figures import read_part, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEARING = "hearing"  # the kind of mask that hides nothing from a network, but sound from the ear
FLOOR_DB, TOP_DB = -100.0, -20.0  # re a full-scale sine: a 16-bit file's noise up to loud speech


def add_arguments(add: Adder) -> None:
    picture, made = add.actions("PICTURE"), "what a pretrained network makes of what is hidden"
    for name, (add_own, text) in {
        "spectrogram": (_add_files, "waveform and spectrogram of each recording, side by side"),
        "masks": (
            _add_masks,
            "ideal masks of two recordings; what pretraining hides of one, or what it masks",
        ),
        "reconstruction": (_reconstruction.add_arguments, made),
    }.items():
        add = picture(name, text, picture=name)
        add_own(add)
        _figures.add_arguments(add)


def _add_files(add: Adder) -> None:
    add("files FILE", nargs="+")
    add("--window-ms MS", "spectrogram window", default=32.0)


def _add_masks(add: Adder) -> None:
    _add_files(add)
    hidden = "patches that pretraining hides of one recording"
    heard = f"; or {HEARING}: how strong a sound may be before it is heard beside the recording"
    _patches.add_arguments(Adder(add.parser.add_argument_group(hidden)), heard)
    add("--save MASK", "write the mask too, as .npz; with one --kind", type=Path)


def _title(file: str) -> str:
    """Return a file's name as matplotlib draws it: bytes that are no text replaced, no formulas."""
    return os.fsencode(Path(file).name).decode("utf-8", "replace").replace("$", r"\$")


def run(args: argparse.Namespace) -> int:
    if args.start < 0 or args.seconds <= 0 or args.channel < 0 or args.dpi <= 0:
        raise UsageError("--start and --channel must be 0 or more, --seconds and --dpi above 0")
    if getattr(args, "window_ms", 1) <= 0:
        raise UsageError("--window-ms must be above 0")
    if args.picture == "reconstruction":
        return _reconstruction.run(args)
    masks, count = args.picture == "masks", len(args.files)
    if masks:
        if count > 2:
            raise UsageError(f"masks takes one recording, or a clean and a noisy one; {count} were given")
        _patches.check(args, count == 1, [HEARING])
        if count == 1:
            return (_hearing if args.kind == HEARING else _patches).run(args)
    check_writable(args.out, overwrite=args.force)
    parts = [(_title(file), *read_part(file, args)) for file in args.files]
    if masks:
        (_, clean, rate), (_, noisy, noisy_rate) = parts
        if rate != noisy_rate or len(clean) != len(noisy):
            raise UsageError(
                f"{args.files[0]}: {len(clean)} samples at {rate} Hz, {args.files[1]}: {len(noisy)} at "
                f"{noisy_rate}; masks need two files that fit each other"
            )
        figure = mask_figure(clean, noisy, rate, args.window_ms)
    else:
        figure = recording_figure(parts, args.window_ms, args.start)
    save(figure, args.out, args.dpi)
    return 0


def spectrogram_db(x: np.ndarray, rate: int, window_ms: float = 32.0) -> tuple[np.ndarray, int]:
    """Return dB levels `[F, frames]` of `x [T]` re full-scale sine (Hann), and hop in samples."""
    size = max(16, 2 * round(rate * window_ms / 2000))
    hop = size // 4
    window = np.hanning(size + 1)[:-1]
    padded = np.pad(x, (size // 2, size // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    magnitude = np.abs(np.fft.rfft(frames * window)) * (2 / window.sum())
    return 20 * np.log10(np.maximum(magnitude.T, 10 ** (FLOOR_DB / 20))), hop


def _show(axis: Any, x: np.ndarray, rate: int, window_ms: float, start: float) -> Any:
    level, hop = spectrogram_db(x, rate, window_ms)
    span = (start, start + level.shape[1] * hop / rate, 0.0, rate / 2000)
    return axis.imshow(
        level, origin="lower", aspect="auto", extent=span, cmap="magma", vmin=FLOOR_DB, vmax=TOP_DB
    )


def recording_figure(
    parts: Sequence[tuple[str, np.ndarray, int]], window_ms: float = 32.0, start: float = 0.0
) -> Figure:
    """Return a column per recording (title, samples `[T]`, rate): waveform above spectrogram."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 5.0 * len(parts)), 5.5), layout="constrained")
    axes: Any = figure.subplots(2, len(parts), squeeze=False, sharex=True, height_ratios=[1, 3])
    peak = max(1e-4, *(float(np.abs(x).max()) for _, x, _ in parts))
    top = max(rate for _, _, rate in parts) / 2000
    image: Any = None
    for (wave, picture), (title, x, rate) in zip(axes.T, parts, strict=True):
        # a line of some thousand points: the extremes of each stretch, as a wave editor draws it
        step = max(1, len(x) // 2000)
        folded = x[: len(x) // step * step].reshape(-1, step)
        time = start + np.arange(len(folded)) * step / rate
        wave.fill_between(time, folded.min(1), folded.max(1), linewidth=0.6, color="tab:blue")
        wave.set(title=title, ylim=(-1.05 * peak, 1.05 * peak))
        image = _show(picture, x, rate, window_ms, start)
        picture.set(xlabel="time (s)", ylim=(0, top))
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("frequency (kHz)")
    figure.colorbar(image, ax=list(axes[1]), label="dB re full-scale sine")
    return figure


def mask_figure(clean: np.ndarray, noisy: np.ndarray, rate: int, window_ms: float = 32.0) -> Figure:
    """Return a figure of the mixture and the ideal masks of `clean [T]` in `noisy [T]`."""
    from matplotlib.figure import Figure
    from scipy.signal import ShortTimeFFT

    from audiomask.masks import gains

    size = max(16, 2 * round(rate * window_ms / 2000))
    transform = ShortTimeFFT(np.sqrt(np.hanning(size + 1)[:-1]), size // 2, rate)
    speech = transform.stft(clean.astype(np.float64))
    mixture = transform.stft(noisy.astype(np.float64))
    ideal = gains.ideal(speech, mixture - speech)
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, math.ceil((len(ideal) + 1) / 2), sharex=True, sharey=True).ravel()
    _show(axes[0], noisy, rate, window_ms, 0.0)
    axes[0].set(title="mixture", xlabel="time (s)", ylabel="frequency (kHz)")
    for axis, (name, mask) in zip(axes[1:], ideal.items(), strict=False):
        gains.draw(mask, axis, rate, size // 2, name.replace("_", " "), top=2.0 if name == "complex" else 1.0)
    for axis in axes[len(ideal) + 1 :]:
        axis.set_axis_off()
    return figure
