"""Compare concealers on clean speech: the classical floors, libopus's own, and artifacts of ours.

    python tools/compare/concealers.py CLEAN/*.wav --loss gilbert:.05,.5 trace.txt --model darn --words

prints PESQ-WB, ESTOI and PLCMOS (v2) of every method for every loss, with --words also how many of the words
that pocketsphinx (its own English model) hears in the clean recording it gets wrong, in %, and the real-time
factor, one packet of 20 ms at a time on one thread, with the 99th percentile of a packet (`Session.feed`).

    python tools/compare/concealers.py CLEAN/*.wav --loss 'traces/*.txt' traces/ --by-burst
    python tools/compare/concealers.py s?_clean.wav --lossy s?_lossy.wav --rate 48000 \\
        --others FRN=s1_frn.wav s2_frn.wav s3_frn.wav

A glob in quotes deals its traces to the files, one each, from the beginning again after the last; a folder
or a table of traces has one for each file's name, as in audiomask conceal. --lossy gives what a call left of
each file: runs of zeros are what was lost, as in audiomask conceal without --loss. --others judges what
somebody else made of it. Scores are those of 16 kHz whatever --rate is; --by-burst gives them also for the
files whose longest loss falls into each of the PLC Challenge's classes.

Opus cannot conceal a signal that it did not code, so it is run whole, encoder and decoder, at a rate that
leaves speech as good as clean; its row "none opus" is what its other rows should be judged by. Its output is
aligned: the encoder's look-ahead is trimmed. A model of loss with seeds draws other losses for each file, the
same ones for each method; a trace is played from its beginning and must be as long as its file.
"""

from __future__ import annotations

import argparse
import glob
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import soxr
from opus_peer import MissingPeer, Opus

from audiomask import metrics
from audiomask.audio import AudioError, read
from audiomask.audio.sources import Source
from audiomask.masks import packets
from audiomask.runtime.catalogue import choose, resolve
from audiomask.runtime.files.packet_loss import NAMES, Silence, loss_models
from audiomask.runtime.packets.classical import METHODS
from audiomask.runtime.session import Session

RATE, PACKET_MS = 16000, 20.0
BURSTS = ("to 120 ms", "to 320 ms", "to 1 s", "above 1 s")  # of `packets.burst_class`
METRICS = ("pesq_wb", "estoi", "plcmos")


class Ours:
    """The artifact of a family for sound at `rate` Hz, packet by packet; `times`: seconds of each."""

    def __init__(self, model: str, rate: int = RATE):
        self.artifact = choose(resolve(model, task="conceal"), rate)
        self.times: list[float] = []

    def conceal(self, x: np.ndarray, lost: np.ndarray, sample_rate: int) -> np.ndarray:
        session, out = Session(self.artifact, sample_rate=sample_rate), []
        size = int(PACKET_MS * sample_rate / 1000)
        for at in range(0, len(x), size):
            begin = time.perf_counter()
            out.append(session.feed(x[at : at + size], lost[at : at + size]))
            self.times.append(time.perf_counter() - begin)
        return np.concatenate([*out, session.flush()])


Method = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # `x [T]`, `lost [T]`, rate in Hz -> `[T]`


def method(name: str, kbps: float, rate: int = RATE) -> tuple[str, Method]:
    """A classical method, opus, or an artifact of ours for sound at `rate` Hz, and what to call it. What `x`
    holds in lost places is not heard: for others it is zeros, Opus codes it and then loses the packets, those
    of which the greater part is lost.
    """
    if name == "opus":
        opus = Opus(kbps)

        def whole(x: np.ndarray, lost: np.ndarray, rate: int) -> np.ndarray:
            count, size = packets.packets(len(x), rate, PACKET_MS)
            parts = np.pad(lost, (0, count * size - len(x)), mode="edge").reshape(count, size)
            return opus.conceal(x, packets.per_sample(parts.mean(1) > 0.5, len(x), size), rate)

        return name, whole
    if name in NAMES:
        conceal: Method = METHODS[NAMES[name]]
    else:
        ours = Ours(name, rate)
        name, conceal = ours.artifact.name, ours.conceal
    return name, lambda x, lost, rate: conceal(np.where(lost, 0, x), lost, rate)


def methods(kbps: float, models: Sequence[str] = (), rate: int = RATE) -> dict[str, Method]:
    """Every method by its name in the table; libopus where it is."""
    out = {}
    for name in (*METHODS, "opus", *models):
        try:
            name, conceal = method(name, kbps, rate)
        except MissingPeer as error:
            print(f"concealers: {error}; its rows are left out", file=sys.stderr)
        else:
            out[name] = conceal
    return out


def words(x: np.ndarray, rate: int = RATE) -> list[str]:
    """What pocketsphinx hears in `x [T]`, which is all that it has ever heard: it would adapt."""
    import pocketsphinx

    x = x if rate == RATE else soxr.resample(x, rate, RATE, quality="HQ")
    recogniser = pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL")
    recogniser.start_utt()
    recogniser.process_raw(np.round(x.clip(-1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    recogniser.end_utt()
    heard = recogniser.hyp()
    return heard.hypstr.split() if heard else []


def runs(lost: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of each run of true in `lost [T]`."""
    edges = np.flatnonzero(np.diff(lost, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """The least number of words to put in, take out or change (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(reference, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@dataclass(frozen=True)
class Clip:
    """A clean file, the models of loss by their row in the table, the seed for them, what a call left of it,
    and what others made of that."""

    clean: Path
    seed: int
    losses: dict[str, packets.LossModel]
    lossy: Path | None = None
    others: dict[str, Path] = field(default_factory=dict)

    def cases(self, x: np.ndarray, rate: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Of the clean `x [T]`: row, sound `[T]` with anything in lost places, what is lost `[T]`. Errors:
        `AudioError` for a trace or a file that does not fit."""
        count, size = packets.packets(len(x), rate, PACKET_MS)
        yield "none", x, np.zeros(len(x), bool)
        for row, model in self.losses.items():
            gone = model.sample(np.array([self.seed]), count)[0]
            yield row, x, packets.per_sample(gone, len(x), size)
        if self.lossy:
            left = self.read(self.lossy, rate, len(x))
            silence = Silence(size)
            lost = np.concatenate([silence.push(left[None])[1], silence.flush()[1]])
            yield "lossy", np.where(lost, x, left), lost

    def read(self, path: Path, rate: int, samples: int) -> np.ndarray:
        """First channel `[samples]`. Errors: `AudioError` for another rate or length: it would not be the
        sound of `clean`, or have other zeros than were lost."""
        x, its = read(path)
        if (its, x.shape[1]) != (rate, samples):
            raise AudioError(
                f"{path}: {x.shape[1]} samples at {its} Hz, and {self.clean} has {samples} at --rate {rate}"
            )
        return x[0]


def expand(pattern: str) -> list[str]:
    """The files that match, in order."""
    return sorted(glob.glob(pattern))  # noqa: PTH207 - it may be absolute


def losses_of(specs: Sequence[str]) -> Callable[[Path, int], dict[str, packets.LossModel]]:
    """The models of loss of the n-th file. Errors: `AudioError` for a trace that is missing or none,
    ValueError for what is no loss."""
    chosen: dict[str, Callable[[Path, int], packets.LossModel]] = {}
    for spec in specs:
        if glob.has_magic(spec):
            traces = [packets.Trace(packets.read_trace(path), path) for path in expand(spec)]
            if not traces:
                raise AudioError(f"{spec}: matches no trace; check the pattern")
            chosen[spec] = lambda path, n, traces=traces: traces[n % len(traces)]
        else:
            find = loss_models(spec)
            chosen[spec] = lambda path, n, find=find: find(Source(str(path), path.name))
    return lambda path, n: {spec: choice(path, n) for spec, choice in chosen.items()}


def score_clip(
    clip: Clip, kbps: float, models: Sequence[str] = (), speech: bool = False, rate: int = RATE
) -> dict[str, dict[str, float]]:
    """Scores of every method for every loss, by "LOSS METHOD"; "none METHOD" is nothing lost. With them the
    share that is lost and the longest loss in ms."""
    sound, its = read(clip.clean)
    x = sound[0] if its == rate else soxr.resample(sound[0], its, rate, quality="HQ")
    out, known = {}, methods(kbps, models, rate)
    reference = words(x, rate) if speech else []
    for case, heard, lost in clip.cases(x, rate):
        # they are the input where nothing is lost
        names = [n for n in known if case != "none" or n == "zero" or n not in METHODS]
        made = {name: known[name](heard, lost, rate) for name in names}
        if case == "lossy":
            made |= {name: clip.read(path, rate, len(x)) for name, path in clip.others.items()}
        longest = max((end - start for start, end in runs(lost)), default=0)
        facts = {"lost": float(lost.mean()), "longest_ms": 1000 * longest / rate}
        for name, y in made.items():
            row = out[f"{case} {name}"] = dict(metrics.score(x, y, rate, METRICS)) | facts
            if speech:
                row |= {"errors": word_errors(reference, words(y, rate)), "words": len(reference)}
    return out


def speed(
    models: Sequence[str], seconds: float, rate: int = RATE, rounds: int = 5
) -> dict[str, tuple[float, float]]:
    """Real-time factor (median of the rounds) and 99th percentile of a packet in ms, by the model's name."""
    random = np.random.default_rng(0)
    x = 0.1 * random.standard_normal(int(seconds * rate)).astype(np.float32)
    count, size = packets.packets(len(x), rate, PACKET_MS)
    lost = packets.per_sample(random.random(count) < 0.1, len(x), size)
    out = {}
    for ours in (Ours(model, rate) for model in models):
        totals = []
        for _ in range(rounds + 1):  # the first warms caches
            begin = len(ours.times)
            ours.conceal(x, lost, rate)
            totals.append(sum(ours.times[begin:]))
        out[ours.artifact.name] = (
            float(np.median(totals[1:])) / seconds,
            1000 * float(np.percentile(ours.times, 99)),
        )
    return out


def burst_kind(longest_ms: float) -> int | None:
    """Its place in BURSTS; None for nothing lost."""
    return int(packets.burst_class(longest_ms / PACKET_MS, PACKET_MS)) if longest_ms else None


def print_row(wide: int, case: str, name: str, rows: Sequence[dict[str, float]], more: str = "") -> None:
    """Means of files; words are counted over all of them."""
    means = [np.nanmean([row[metric] for row in rows]) for metric in METRICS]
    line = f"{case:{wide}} {name:14} {means[0]:8.3f} {means[1]:7.3f} {means[2]:7.3f}"
    if "words" in rows[0]:
        errors, total = (sum(row[key] for row in rows) for key in ("errors", "words"))
        line += f" {100 * errors / max(1, total):7.1f}"
    print(f"{line} {100 * np.mean([row['lost'] for row in rows]):7.1f} {len(rows):6}{more}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="clean speech")
    parser.add_argument(
        "--loss", nargs="+", default=[], help="TRACE, folder, table or glob of traces, gilbert:P,Q, drop:RATE"
    )
    parser.add_argument("--lossy", nargs="+", type=Path, metavar="FILE", help="what a call left of each file")
    parser.add_argument(
        "--others",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="what somebody else made of each lossy file",
    )
    parser.add_argument("--rate", type=int, default=RATE, metavar="HZ", help="to work at (%(default)s)")
    parser.add_argument("--by-burst", action="store_true", help="also by the length of the longest loss")
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME|FILE", help="artifacts of ours")
    parser.add_argument("--words", action="store_true", help="word errors too, about a second each")
    parser.add_argument("--kbps", type=float, default=32.0, help="of Opus (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first file; the next has the next")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores of every file")
    args = parser.parse_args(argv)
    others: dict[str, list[Path]] = {}
    for files in args.others:
        name = files[0].partition("=")[0]
        files = [file.removeprefix(f"{name}=") for file in files]
        # a shell leaves NAME=*.wav to us
        others[name] = [Path(f) for file in files for f in (expand(file) if glob.has_magic(file) else [file])]
    if not (args.loss or args.lossy):
        parser.error("nothing is lost; give --loss or --lossy")
    if others and not args.lossy:
        parser.error("--others made something of lossy files; name them with --lossy")
    for name, files in {"--lossy": args.lossy or args.files, **others}.items():
        if len(files) != len(args.files):
            parser.error(f"{name}: {len(files)} files, and {len(args.files)} clean ones")
    try:
        losses = losses_of(args.loss)
        clips = [
            Clip(
                path, args.seed + n, losses(path, n), args.lossy and args.lossy[n],
                {name: files[n] for name, files in others.items()},
            )
            for n, path in enumerate(args.files)
        ]  # fmt: skip
        times = speed(args.model, 10.0, args.rate)  # before scoring: its processes would share the cores
        work = partial(
            score_clip, kbps=args.kbps, models=tuple(args.model), speech=args.words, rate=args.rate
        )
        with ProcessPoolExecutor(args.jobs) as pool:
            scores = list(pool.map(work, clips))
    except (AudioError, ValueError) as error:
        print(f"concealers: error: {error}", file=sys.stderr)
        return 1
    if args.json:
        named = dict(zip(map(str, args.files), scores, strict=True))
        args.json.write_text(json.dumps(named, indent=1) + "\n")
    wide = max(len(row.rsplit(" ", 1)[0]) for row in scores[0])
    wrong = " words %" if args.words else ""
    print(f"{'loss':{wide}} {'method':14} {'PESQ-WB':>8} {'ESTOI':>7} {'PLCMOS':>7}{wrong}  lost %  files")
    for row in scores[0]:
        print_row(wide, *row.rsplit(" ", 1), [s[row] for s in scores])
        for kind, label in enumerate(BURSTS if args.by_burst else ()):
            of_kind = [s[row] for s in scores if burst_kind(s[row]["longest_ms"]) == kind]
            if of_kind:
                print_row(wide, *row.rsplit(" ", 1), of_kind, f"  longest loss {label}")
    for name, (rtf, p99) in times.items():
        print(f"{name}: RTF {rtf:.4f}, 99 % of packets within {p99:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
