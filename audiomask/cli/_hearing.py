"""Draw what a recording masks: `audiomask plot masks FILE --kind hearing`.

That is the threshold of `audiomask.masks.hearing` under which other sound is not heard beside the recording.
It needs torch.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from audiomask.audio import check_writable
from audiomask.cli._figures import read_part, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR_DB, TOP_DB = -20.0, 90.0  # dB SPL; below the lowest absolute threshold up to a sine near full scale


def run(args: argparse.Namespace) -> int:
    """Draw the threshold; the arguments are checked."""
    out = args.out.with_name(args.out.name.replace("{kind}", "hearing"))
    check_writable(out, overwrite=args.force)
    save(figure(*read_part(args.files[0], args), args.window_ms, args.start), out, args.dpi)
    return 0


def figure(x: np.ndarray, rate: int, window_ms: float = 32.0, start: float = 0.0) -> Figure:
    """Return a figure of the spectrogram and threshold of `x [T]`, and of the loudest frame."""
    import torch
    from matplotlib.figure import Figure

    from audiomask.frontend.stft import Analysis, power
    from audiomask.masks.hearing import Johnston, Model1

    size = max(16, 2 * round(rate * window_ms / 2000))
    hop, johnston, model1 = size // 2, Johnston(rate, size), Model1(rate, size)
    with torch.inference_mode():
        samples = torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None]
        spectrum = Analysis(size, hop, "hann")(samples)
        lines = power(spectrum) * johnston.scale
        loudest = int(lines[0, 0].sum(1).argmax())
        curves = {
            "the sound": lines[0, 0, loudest],
            "threshold, model 1": model1.threshold(lines[:, :, loudest])[0, 0],
            "threshold, Johnston": johnston.threshold(lines[:, :, loudest])[0, 0],
            "threshold in silence": johnston.quiet,
        }
        panels = {"the sound": lines[0, 0], "what it masks (Johnston)": johnston.threshold(lines)[0, 0]}
    made = Figure(figsize=(11, 5.5), layout="constrained")
    axes = made.subplot_mosaic([["sound", "frame"], ["mask", "frame"]], width_ratios=[1, 1.2])
    # the middle of frame n is the sample n * hop
    seconds, moment = len(lines[0, 0]) * hop / rate, start + loudest * hop / rate
    image: Any = None
    for name, (title, level) in zip(("sound", "mask"), panels.items(), strict=True):
        axis = axes[name]
        span = (start, start + seconds, 0.0, rate / 2000)
        image = axis.imshow(
            _db(level.T.numpy()),
            origin="lower",
            aspect="auto",
            extent=span,
            cmap="magma",
            vmin=FLOOR_DB,
            vmax=TOP_DB,
        )
        axis.axvline(moment, color="white", linewidth=0.8, linestyle=":")
        axis.set(title=title, ylabel="frequency (kHz)")
    axes["mask"].set(xlabel="time (s)")
    made.colorbar(image, ax=[axes["sound"], axes["mask"]], label=f"dB SPL in {johnston.spacing:.0f} Hz")
    axis, styles = axes["frame"], (("0.6", "-"), ("tab:orange", "-"), ("tab:blue", "-"), ("k", ":"))
    for (name, level), (color, line) in zip(curves.items(), styles, strict=True):
        db = _db(level[1:].numpy())
        axis.plot(johnston.hz[1:] / 1000, db, line, color=color, label=name, linewidth=1.2)
    axis.set(xscale="log", ylim=(FLOOR_DB, None), xlim=(johnston.hz[1] / 1000, rate / 2000))
    axis.set(
        title=f"at {moment:.2f} s", xlabel="frequency (kHz)", ylabel=f"dB SPL in {johnston.spacing:.0f} Hz"
    )
    axis.legend(loc="upper right", fontsize="small")
    return made


def _db(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))
