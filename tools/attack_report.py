"""Print what of a watermark survives which attack, and whether one hears it.

    python tools/attack_report.py speech/ music/ --marker perth --clips 20 --attacks survival --json p.json
    python tools/attack_report.py speech/ --marker exp/mini/watermark
    python tools/attack_report.py speech/ --marker aware --attacks opus:12 crop:1+noise:20 --picture roc.png

marks a clip of each recording (mono, `--clips` of them spread over the recordings), attacks it and the
untouched clip alike, and looks for the mark in both. Attacks are those of docs/attacks.md: specs, or names of
suites. The table says for each attack

    found, false    how often the marker says yes, to marked and to unmarked clips
    message         how often it is found and all bits are right
    bits            the fraction of right bits, in whatever it gives for a message; half where it gives none
    marked, unmarked    the mean score
    AUC             how often a marked clip has a higher score than an unmarked one: 1 is perfect, .5 chance

and above it stand the marked clips beside the untouched ones: PESQ-WB, the SNR after the gain that fits best,
that gain, the bins in which what was added is stronger than the threshold of `masks.hearing.Model1`, and how
many times faster than real time the marker is in one thread, by processor time, the median over clips.
`--picture` draws the ROC of each attack.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: the speed is that of one thread

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from mark_peers import MARKERS, Marker, MissingPeer, Refused, marker_of

from audiomask import audio, metrics
from audiomask.audio import AudioError, check_writable, replacing
from audiomask.audio.sources import Source, find_audio
from audiomask.cli._figures import image_format, save
from audiomask.data.kaldi.directory import resampled
from audiomask.data.simulate.attacks import SUITES, Attack, AttackError
from audiomask.frontend.stft import Analysis, power
from audiomask.masks.hearing import Model1

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNTOUCHED = "none"  # the first row of the table
PLACES, AUDIBLE_DB = 8, -50.0  # of a recording that are tried, until one is so loud (RMS, full scale is 0)
LONGEST_S = 600  # of a recording that are read
QUALITY = {"pesq_wb": ("PESQ-WB", "", min), "snr_db": ("SNR", " dB", min),
           "gain_db": ("gain", " dB", partial(max, key=abs)),
           "over": ("bins over the masking threshold", " %", max)}  # fmt: skip


class Clip(NamedTuple):
    """A stretch of a recording."""

    file: str
    begin: float  # in seconds
    audio: np.ndarray  # [T]
    rate: int


def beginning(source: Source) -> tuple[np.ndarray, int]:
    """Return the first `LONGEST_S` seconds of a recording, in one channel `[T]`, and its rate."""
    parts: list[np.ndarray] = []
    with source.open() as reader:
        rate = reader.info.rate
        for x in reader.blocks():
            parts.append(x)
            if reader.position >= LONGEST_S * rate:
                break
    return audio.mixed(np.concatenate(parts, 1), rate), rate


def clips(sources: Sequence[Source], seconds: float, rate: int | None, seed: int) -> Iterator[Clip]:
    """Yield a clip of each recording, from a random place where it is not silent; say which have none."""
    for number, source in enumerate(sources):
        x, given = beginning(source)
        length, random = math.ceil(seconds * given), np.random.default_rng([seed, number])
        for _ in range(PLACES):
            begin = int(random.integers(max(1, len(x) - length + 1)))
            y = x[begin : begin + length]
            if len(y) == length and 10 * math.log10(np.square(y).mean() + 1e-20) > AUDIBLE_DB:
                y = resampled(y[None], given, rate or given)[0]
                yield Clip(str(source), begin / given, y.astype(np.float32), rate or given)
                break
        else:
            print(f"attack_report: {source}: left out, as good as silent", file=sys.stderr)


def long_enough(inputs: Sequence[str], seconds: float, count: int | None) -> list[Source]:
    """Return the recordings that hold a clip, `count` of them spread over all; AudioError if none does."""
    sources = []
    for source in find_audio(inputs):
        with source.open() as reader:
            if reader.info.seconds >= seconds:
                sources.append(source)
    if not sources:
        raise AudioError(f"{' '.join(inputs)}: no recording is {seconds:g} s long; give fewer --seconds")
    if count is None or count >= len(sources):
        return sources
    return [sources[i] for i in np.linspace(0, len(sources) - 1, count).round().astype(int)]


@lru_cache(4)
def _ear(rate: int) -> tuple[Analysis, Model1]:
    size = 2 * round(0.016 * rate)
    return Analysis(size, size // 2, "hann"), Model1(rate, size)


def quality(x: np.ndarray, y: np.ndarray, rate: int) -> dict[str, float]:
    """Return what is heard of the mark in `y`, for sound `x` of the same length; see `QUALITY`."""
    gain = float(x @ y / (x @ x))
    scores = metrics.score(x, y, rate, ["pesq_wb", "si_sdr"])
    analysis, ear = _ear(rate)
    with torch.no_grad():
        spectra = [analysis(torch.from_numpy(s)[None, None]) for s in (x, y - np.float32(gain) * x)]
        threshold, _ = ear.step(spectra[0], None)
        over = float((power(spectra[1]) > threshold).float().mean())
    gain_db = 20 * math.log10(abs(gain) + 1e-10)
    return {"pesq_wb": scores["pesq_wb"], "snr_db": scores["si_sdr"], "gain_db": gain_db, "over": 100 * over}


class Timed:
    """A marker, timed: `speeds` are seconds of sound for each of the processor's, of every call."""

    def __init__(self, marker: Marker):
        self.marker = marker
        self.speeds: dict[str, list[float]] = {"mark": [], "detect": []}

    def __call__(self, what: str, x: np.ndarray, rate: int, *more: Any) -> Any:
        begin = time.process_time()
        made = getattr(self.marker, what)(x, rate, *more)
        self.speeds[what].append(len(x) / rate / max(time.process_time() - begin, 1e-9))
        return made


def judged(marker: Timed, clip: Clip, attacks: Sequence[str], seed: int, number: int) -> dict[str, Any]:
    """Return all that is measured of one clip; may raise `Refused`."""
    message = np.random.default_rng([seed, number]).random(marker.marker.bits) < 0.5
    y = np.asarray(marker("mark", clip.audio, clip.rate, message), np.float32)
    length = min(len(y), len(clip.audio))
    pair = torch.from_numpy(np.stack([y[:length], clip.audio[:length]]))[:, None]
    row: dict[str, Any] = {"file": clip.file, "begin": clip.begin, "rate": clip.rate}
    row |= quality(clip.audio[:length], y[:length], clip.rate)
    row["attacks"] = {}
    for spec in attacks:
        # Both have the same seed, so the same is done to both, noise and all.
        seeds = torch.tensor([seed << 32 | number] * 2)
        z = pair
        if spec != UNTOUCHED:
            z = Attack(spec)(pair, clip.rate, seeds, other=pair[1:].expand(2, -1, -1))
        heard, given = marker("detect", z[0, 0].numpy(), clip.rate)
        false, _ = marker("detect", z[1, 0].numpy(), clip.rate)
        right = None
        if marker.marker.bits:
            right = 0.5 if given is None else float(np.mean(np.asarray(given, bool) == message))
        row["attacks"][spec] = {"marked": heard, "unmarked": false, "bits": right}
    return row


def roc(marked: np.ndarray, unmarked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the fractions of unmarked and of marked clips that are found, at falling thresholds."""
    levels = np.unique(np.concatenate([marked, unmarked]))[::-1]
    return tuple(np.array([0.0, *((x >= level).mean() for level in levels)]) for x in (unmarked, marked))


def scores_of(rows: Sequence[dict[str, Any]], spec: str, which: str) -> np.ndarray:
    """Return the scores of all clips; one that is NaN is lower than any, as it is no yes."""
    scores = np.array([row["attacks"][spec][which] for row in rows])
    return np.where(np.isnan(scores), -np.inf, scores)


def mean(values: Sequence[float]) -> float:
    """Return the mean of those that are numbers, NaN where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def summary(rows: Sequence[dict[str, Any]], spec: str, threshold: float) -> dict[str, float | None]:
    """Return a row of the table."""
    marked, unmarked = (scores_of(rows, spec, which) for which in ("marked", "unmarked"))
    bits = [row["attacks"][spec]["bits"] for row in rows]
    false, true = roc(marked, unmarked)
    return {
        "found": float((marked >= threshold).mean()),
        "false": float((unmarked >= threshold).mean()),
        "message": None if None in bits else float(((marked >= threshold) & (np.array(bits) == 1)).mean()),
        "bits": None if None in bits else float(np.mean(bits)),
        "marked": mean([row["attacks"][spec]["marked"] for row in rows]),
        "unmarked": mean([row["attacks"][spec]["unmarked"] for row in rows]),
        "AUC": float(np.trapezoid(true, false)),
    }


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.0f} %"


def table(found: dict[str, dict[str, float | None]]) -> str:
    """Return markdown, a line for each attack."""
    head = ("attack", "found", "false", "message", "bits", "marked", "unmarked", "AUC")
    lines = [head, ("---",) * len(head)]
    for spec, row in found.items():
        bits = "-" if row["bits"] is None else f"{row['bits']:.3f}"
        scores = (f"{row[key]:.3f}" for key in ("marked", "unmarked", "AUC"))
        lines.append((f"`{spec}`", *(percent(row[k]) for k in ("found", "false", "message")), bits, *scores))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def curves(title: str, rows: Sequence[dict[str, Any]], found: dict[str, dict[str, float | None]]) -> Figure:
    """Draw the ROC of each attack in a panel of its own."""
    from matplotlib.figure import Figure

    columns = min(6, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(2 * columns, 2.2 * lines + 0.4), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes, (spec, row) in zip(panels, found.items(), strict=False):
        axes.plot(*roc(*(scores_of(rows, spec, which) for which in ("marked", "unmarked"))), clip_on=False)
        axes.plot([0, 1], [0, 1], ":", color="gray")
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 1), yticks=(0, 1), aspect="equal")
        axes.set_title(f"{spec}, {row['AUC']:.2f}", fontsize="small")
    for axes in panels[len(found) :]:
        axes.remove()
    figure.suptitle(title)
    figure.supxlabel("unmarked clips that are found")
    figure.supylabel("marked clips")
    return figure


def heading(rows: Sequence[dict[str, Any]]) -> str:
    """Return the sentence about how the marked clips sound."""
    parts = []
    for key, (name, unit, worst) in QUALITY.items():
        values = [row[key] for row in rows if not math.isnan(row[key])]
        if values:
            parts.append(f"{name} {mean(values):.2f}{unit} ({worst(values):.2f} at worst)")
        if len(values) < len(rows):
            parts.append(f"no {name} of {len(rows) - len(values)} of {len(rows)} clips")
    return ", ".join(parts)


def plain(value: Any) -> Any:
    """Return a value for JSON, which knows no NaN."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    return number


def expanded(names: Sequence[str]) -> list[str]:
    """Return specs for names of suites and specs, the untouched sound first; AttackError for others."""
    specs = [spec for name in names for spec in SUITES.get(name, (name,))]
    return list(dict.fromkeys([UNTOUCHED, *(str(Attack(spec)) for spec in specs if spec != UNTOUCHED)]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="recordings, folders of them or globs")
    parser.add_argument(
        "--marker",
        required=True,
        metavar="NAME",
        help=f"the watermark: {', '.join(MARKERS)}, or STEM of exported parts STEM_mark and STEM_detect.onnx",
    )
    parser.add_argument(
        "--attacks",
        nargs="+",
        default=["survival"],
        metavar="SPEC",
        help=f"or {', '.join(SUITES)} (survival)",
    )
    parser.add_argument("--seconds", type=positive(float), default=5.0, help="of a clip (%(default)g)")
    parser.add_argument("--clips", type=positive(int), metavar="N", help="how many (one of each recording)")
    parser.add_argument("--rate", type=positive(int), metavar="HZ", help="bring clips to it (as recorded)")
    parser.add_argument("--seed", type=int, default=0, help="of places, messages and attacks (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores of every clip")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the ROC of each attack")
    args = parser.parse_args(argv)
    try:
        specs = expanded(args.attacks)
    except AttackError as error:
        parser.error(f"--attacks {error}")
    torch.set_num_threads(1)
    try:
        for path in filter(None, (args.json, args.picture)):
            check_writable(path, overwrite=True)
        if args.picture:
            image_format(args.picture)
        marker = marker_of(args.marker)
        if args.rate and marker.rate and args.rate != marker.rate:
            parser.error(f"--rate {args.rate}: {marker.name} takes {marker.rate} Hz")
        sources = long_enough(args.inputs, args.seconds, args.clips)
        timed, rows, refused = Timed(marker), [], 0
        for i, clip in enumerate(clips(sources, args.seconds, args.rate or marker.rate, args.seed)):
            if not i:  # an attack that cannot be had says so before the work
                for spec in specs[1:]:
                    x = torch.from_numpy(clip.audio)[None, None]
                    Attack(spec)(x, clip.rate, other=x)
            try:
                rows.append(judged(timed, clip, specs, args.seed, i))
            except Refused as error:
                refused += 1
                print(f"attack_report: {clip.file}: not marked: {error}", file=sys.stderr)
            print(f"attack_report: {i + 1} of {len(sources)}: {clip.file}", file=sys.stderr)
        if not rows:
            raise AudioError(f"{marker.name}: marked none of {len(sources)} clips")
    except (AudioError, MissingPeer) as error:
        print(f"attack_report: error: {error}", file=sys.stderr)
        return 1
    found = {spec: summary(rows, spec, marker.threshold) for spec in specs}
    speed = {what: float(np.median(values)) for what, values in timed.speeds.items()}
    bits = f"{marker.bits} bits" if marker.bits else "presence alone"
    print(f"{marker.name}, {bits}: {len(rows)} clips of {args.seconds:g} s, {refused} refused\n")
    print(f"Marked: {heading(rows)}.")
    print(f"Speed: marks {speed['mark']:.3g} and detects {speed['detect']:.3g} times as fast as real time.\n")
    print(table(found))
    if args.json:
        about = {
            "marker": marker.name, "bits": marker.bits, "threshold": marker.threshold,
            "seconds": args.seconds, "seed": args.seed, "refused": refused, "speed": speed, "attacks": found,
            "clips": rows,
        }  # fmt: skip
        with replacing(args.json) as part:
            part.write_text(json.dumps(plain(about), indent=1, allow_nan=False) + "\n")
    if args.picture:
        save(curves(f"{marker.name}: area under the ROC", rows, found), args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
