"""Draw a burst of lost packets: what was sent, and what concealers make of it.

    python tools/compare/burst_picture.py CLEAN.wav --loss gilbert:.05,.3 --methods zero repeat g711 opus darn
    \\
        -o burst.png

One column for the recording and for each method, waveform above spectrogram, scales shared; what was lost is
shaded, and lies between the lines in the spectrograms. Methods are those of concealers.py: zero,
repeat, repeat_faded, g711, opus (run whole, since it cannot conceal what it did not code), or artifacts, and
each hears the whole recording. Without --at it is the longest burst, in the middle of the picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
from concealers import PACKET_MS, method, runs
from opus_peer import MissingPeer

from audiomask.audio import AudioError, check_writable, read
from audiomask.cli._figures import save
from audiomask.cli.plot import recording_figure
from audiomask.masks import packets

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def burst_figure(
    parts: Sequence[tuple[str, np.ndarray]],
    lost: np.ndarray,
    rate: int,
    at: float | None,
    seconds: float,
    window_ms: float,
) -> Figure:
    """`parts`: titles and whole recordings `[T]`; `seconds` of them around the moment `at`, or around the
    middle of the longest run of `lost [T]`. ValueError if nothing is lost there.
    """
    if at is None:
        start, end = max(runs(lost), key=lambda run: run[1] - run[0], default=(0, 0))
        at = (start + end) / 2 / rate
    first, margin = max(0, round((at - seconds / 2) * rate)), round(window_ms * rate / 1000)
    last = min(len(lost), first + round(seconds * rate))
    if not lost[first:last].any():
        raise ValueError(
            f"nothing is lost for {seconds:g} s from {first / rate:.2f} s on; choose another --at"
        )
    cut = slice(max(0, first - margin), last + margin)  # windows at the sides see no edges
    figure = recording_figure([(title, x[cut], rate) for title, x in parts], window_ms, cut.start / rate)
    figure.axes[0].set_xlim(first / rate, last / rate)  # the columns share it
    figure.set_size_inches(1 + 2.8 * len(parts), 4.5)
    waves, pictures = figure.axes[: len(parts)], figure.axes[len(parts) : 2 * len(parts)]
    for start, end in runs(lost[first:last]):
        span = (first + start) / rate, (first + end) / rate
        for wave, picture in zip(waves, pictures, strict=True):
            wave.axvspan(*span, color="tab:red", alpha=0.2, linewidth=0)
            for time in span:
                picture.axvline(time, color="white", linewidth=0.6, linestyle=":")
    for axis in waves[1:] + pictures[1:]:  # the first column's hold for all
        axis.tick_params(labelleft=False)
    return figure


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clean", type=Path, metavar="CLEAN", help="recording; its first channel is taken")
    parser.add_argument("--loss", required=True, help="TRACE, gilbert:P,Q or drop:RATE")
    parser.add_argument("--methods", nargs="+", required=True, metavar="NAME|FILE")
    parser.add_argument("--at", type=float, metavar="S", help="moment in the middle of the picture")
    parser.add_argument("--seconds", type=float, default=0.6, metavar="S", help="to draw (%(default)s)")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="PICTURE", help=".png, .pdf or .svg")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite the picture")
    parser.add_argument("--rate", type=int, metavar="HZ", help="convert it first (default: the recording's)")
    parser.add_argument("--seed", type=int, default=0, help="of the loss")
    parser.add_argument("--kbps", type=float, default=32.0, help="of Opus (%(default)s)")
    parser.add_argument("--window-ms", type=float, default=16.0, help="of the spectrograms (%(default)s)")
    parser.add_argument("--dpi", type=int, default=110)
    args = parser.parse_args(argv)
    try:
        check_writable(args.out, overwrite=args.force)
        if args.seconds <= 0:
            raise ValueError(f"--seconds {args.seconds:g}: want more than 0")
        sound, rate = read(args.clean)
        x = soxr.resample(sound[0], rate, args.rate, quality="HQ") if args.rate else sound[0]
        rate = args.rate or rate
        count, size = packets.packets(len(x), rate, PACKET_MS)
        gone = packets.parse_loss(args.loss).sample(np.array([args.seed]), count)[0]
        lost = packets.per_sample(gone, len(x), size)
        known = [method(name, args.kbps, rate) for name in args.methods]
        parts = [("sent", x)] + [(name, conceal(x, lost, rate)) for name, conceal in known]
        save(burst_figure(parts, lost, rate, args.at, args.seconds, args.window_ms), args.out, args.dpi)
    except (AudioError, MissingPeer, ValueError) as error:
        print(f"burst_picture: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
