"""Compare speech codecs at 16 kHz: ours, Opus, codec2 and Lyra, by rate, quality and words.

    python tools/compare/codecs.py CLEAN/*.wav --model gist --kbps 1.5 3 4.5 6 7.5 9 --opus 6 8 9.6 12 16 24
        --codec2 1.6 2.4 3.2 --lyra 3.2 6 9.2 --lyra-models lyra/model_coeffs --lyra-levels -32 -26 -20

prints kbit/s (of the bytes that were made, headers of a container apart; of ours also those of whole .amk
files, plain and packed by probabilities), PESQ-WB, ESTOI and DNSMOS OVRL of every codec, the mean over the
files, and with --words how many of the words that pocketsphinx hears in the clean recording are wrong after
coding, in %. --picture draws the scores over the rates, --spectrograms what is left of the first file, with
--only of those codecs alone. --lost loses packets of 20 ms in ours and in Opus, which both
conceal, and adds ours with what was lost concealed by Darn, and PLCMOS. Below about 9 kbit/s Opus's speech
mode is narrow-band, and codec2 always is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soxr
from codec2_peer import Codec2
from concealers import Ours as Concealer
from concealers import word_errors, words
from lyra_peer import Lyra
from opus_peer import MissingPeer, Opus

from audiomask import audio, metrics
from audiomask.audio import check_writable
from audiomask.cli._figures import save
from audiomask.cli.plot import recording_figure
from audiomask.masks import packets
from audiomask.runtime.catalogue import codec_part, probabilities_of
from audiomask.runtime.codes.container import Packer
from audiomask.runtime.files.coded import header_of
from audiomask.runtime.player import Player

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATE, FRAME = 16000, 320


class Ours:
    """The two artifacts of a codec, hop by hop through the player; and `concealer` for lost frames' sound."""

    def __init__(self, model: str, kbps: float, concealer: str | None = None):
        self.artifacts = [codec_part(model, part) for part in ("enc", "dec")]
        self.concealer = Concealer(concealer) if concealer else None
        self.books, self.bytes = round(kbps * 2), 0
        found = probabilities_of(self.artifacts[0])
        self.packings = [None, *([found] if found else [])]
        self.files = [0] * len(self.packings)  # bytes of the .amk files

    def _pack(self, codes: np.ndarray, samples: int, rate: int) -> None:
        for i, probabilities in enumerate(self.packings):
            packer = Packer(header_of(self.artifacts[0], rate, 1, probabilities=probabilities), probabilities)
            self.files[i] += len(packer.head() + packer.push(codes) + packer.finish(samples))

    def __call__(self, x: np.ndarray, rate: int, lost: np.ndarray | None = None) -> np.ndarray:
        encoder, decoder = map(Player, self.artifacts)
        encoder.set({"books": self.books})
        codes = np.concatenate([encoder.feed(audio=x[None])["codes"], encoder.flush()["codes"]], 1)
        self.bytes += codes.shape[1] * self.books * 10 / 8
        self._pack(codes, len(x), rate)
        flags = np.zeros((1, codes.shape[1]), np.float32) if lost is None else lost[None].astype(np.float32)
        y = [decoder.feed(codes=codes, lost=flags), decoder.flush()]
        sound = np.concatenate([part["decoded"][0] for part in y])[: len(x)]
        if self.concealer is None or lost is None:
            return sound
        gone = packets.per_sample(lost, len(x), FRAME)
        return self.concealer.conceal(np.where(gone, 0, sound), gone, rate)


def opus(kbps: float) -> Callable[..., np.ndarray]:
    peer = Opus(kbps)

    def run(x: np.ndarray, rate: int, lost: np.ndarray | None = None) -> np.ndarray:
        gone = np.zeros(len(x), bool) if lost is None else packets.per_sample(lost, len(x), FRAME)
        y = peer.conceal(x, gone, rate)
        run.bytes = peer.bytes  # type: ignore[attr-defined]
        return y

    run.bytes = 0  # type: ignore[attr-defined]
    return run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="gist")
    for name in ("kbps", "opus", "codec2", "lyra"):
        parser.add_argument(f"--{name}", nargs="*", type=float, default=[])
    parser.add_argument("--codec2-library")
    parser.add_argument("--lyra-models", type=Path, help="folder of its three .tflite files")
    parser.add_argument("--lyra-levels", nargs="+", type=float, help="dBFS that its input is brought to")
    parser.add_argument("--lost", help="loss model, as in audiomask conceal --loss")
    parser.add_argument("--words", action="store_true")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--spectrograms", type=Path)
    parser.add_argument("--only", nargs="+", help="rows of the table that --spectrograms draws")
    args = parser.parse_args()
    for path in (args.picture, args.spectrograms):
        if path:
            check_writable(path, overwrite=True)
    model_name = Path(args.model).name
    made: list[tuple[str, Callable[[], Callable[..., np.ndarray]]]] = []
    made += [(f"{model_name} {kbps:g}", partial(Ours, args.model, kbps)) for kbps in args.kbps]
    if args.lost:
        made += [
            (f"{model_name} {kbps:g}, Darn", partial(Ours, args.model, kbps, "darn")) for kbps in args.kbps
        ]
    made += [(f"Opus {kbps:g}", partial(opus, kbps)) for kbps in args.opus]
    made += [(f"codec2 {kbps:g}", partial(Codec2, kbps, args.codec2_library)) for kbps in args.codec2]
    for level in args.lyra_levels or [None]:
        at = "" if level is None else f" at {level:g} dBFS"
        made += [(f"Lyra {kbps:g}{at}", partial(Lyra, kbps, args.lyra_models, level)) for kbps in args.lyra]
    systems: dict[str, Callable[..., np.ndarray]] = {}
    for name, make in made:
        try:
            systems[name] = make()
        except MissingPeer as error:
            print(f"codecs: {name} is left out: {error}", file=sys.stderr)
    clips = []
    for path in args.files:
        x, rate = audio.read(path)
        clips.append(soxr.resample(x[0], rate, RATE, quality="HQ") if rate != RATE else x[0])
    seconds = sum(map(len, clips)) / RATE
    wanted = ["pesq_wb", "estoi", *(["dnsmos"] if metrics_there() else [])]
    wanted += ["plcmos"] if args.lost and metrics_there() else []
    names = [{"dnsmos": "dnsmos_ovrl"}.get(name, name) for name in wanted]
    heard = [words(x) for x in clips] if args.words else []
    model = packets.parse_loss(args.lost) if args.lost else None
    print(f"{len(clips)} clips, {seconds:.0f} s")
    print(f"| codec | kbit/s | .amk, plain | .amk | {' | '.join(names)} | words wrong % |")
    print("|---" * (len(names) + 5) + "|")
    points: list[Point] = []
    pictures = [("recording", clips[0], RATE)]
    for name, system in systems.items():
        rows, wrong = [], 0
        for i, x in enumerate(clips):
            options = {}
            if model is not None:
                options["lost"] = np.asarray(model.sample(np.array([i]), -(-len(x) // FRAME))[0])
            y = system(x, RATE, **options).astype(np.float32)
            if i == 0 and name in (args.only or systems):
                pictures.append((name, y[: len(x)], RATE))
            rows.append(metrics.score(x, y, RATE, wanted))
            wrong += word_errors(heard[i], words(y)) if heard else 0
        means = [np.nanmean([row[key] for row in rows]) for key in names]
        rate = system.bytes * 8 / seconds / 1000  # type: ignore[attr-defined]
        tail = f"{100 * wrong / max(1, sum(map(len, heard))):.1f}" if heard else "-"
        sizes = [f"{size * 8 / seconds / 1000:.2f}" for size in getattr(system, "files", [])]
        cells = [name, f"{rate:.2f}", *[*sizes, "-", "-"][:2], *(f"{m:.3f}" for m in means), tail]
        print(f"| {' | '.join(cells)} |", flush=True)
        points.append(Point(name, rate, dict(zip(names, means, strict=True))))
    if args.picture:
        save(curves(points, names), args.picture)
    if args.spectrograms:
        figure = recording_figure(pictures, window_ms=32, start=0)
        figure.set_size_inches(1 + 2.8 * len(pictures), 4.5)
        save(figure, args.spectrograms)
    return 0


class Point(NamedTuple):
    """A row of the table."""

    name: str
    kbps: float
    scores: dict[str, float]


def curves(points: Sequence[Point], names: Sequence[str]) -> Figure:
    """Draw each score over the rate, a line for each codec, whose rows are named "CODEC RATE ..."."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(names), 3.5), layout="constrained")
    lines: dict[str, list[Point]] = {}
    for point in points:
        codec, _, *rest = point.name.split(" ")
        lines.setdefault(" ".join([codec, *rest]), []).append(point)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for label, line in lines.items():
            line = sorted(line, key=lambda point: point.kbps)
            axes.plot([p.kbps for p in line], [p.scores[name] for p in line], "o-", label=label)
        axes.set(title=name, xlabel="kbit/s", xlim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return figure


def metrics_there() -> bool:
    try:
        import speechmos  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
