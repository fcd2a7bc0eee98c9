"""Compare concealers on clean speech: the classical floors, libopus's own, and artifacts of ours.

    python tools/compare_concealers.py CLEAN/*.wav --loss gilbert:.05,.5 trace.txt --model darn --words

prints PESQ-WB, ESTOI and PLCMOS (v2) of every method for every loss, with --words also how many of the words
that pocketsphinx (its own English model) hears in the clean recording it gets wrong, in %, and the real-time
factor, one packet of 20 ms at a time on one thread, with the 99th percentile of a packet (`Session.feed`).

Opus cannot conceal a signal that it did not code, so it is run whole, encoder and decoder, at a rate that
leaves speech as good as clean; its row "opus, no loss" is what its other rows should be judged by. Its output
is aligned: the encoder's look-ahead is trimmed. A model of loss with seeds draws other losses for each file,
the same ones for each method; a trace is played from its beginning and must be as long as the longest file.

libopus comes from the package av (PyAV), whose wheels bundle it, or from the system (Debian: libopus0).
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr

from audiomask import metrics
from audiomask.masks import packets
from audiomask.runtime.artifact import choose, resolve
from audiomask.runtime.classical import METHODS
from audiomask.runtime.losses import NAMES
from audiomask.runtime.session import Session

RATE, PACKET_MS = 16000, 20.0
METRICS = ("pesq_wb", "estoi", "plcmos")
VOIP, LONGEST_PACKET = 2048, 4000  # opus_defines.h; bytes that suffice for any packet
BITRATE, INBAND_FEC, DTX, LOOKAHEAD = 4002, 4012, 4016, 4027  # requests
FLOAT_P = ctypes.POINTER(ctypes.c_float)


class MissingPeer(RuntimeError):
    """The library is not installed; the message says how to get it."""


def find_opus() -> ctypes.CDLL:
    """libopus, from the package av or else from the system."""
    spec = importlib.util.find_spec("av")
    bundled = Path(spec.origin).parents[1] / "av.libs" if spec and spec.origin else Path("av.libs")
    names = [*map(str, sorted(bundled.glob("libopus-*"))), ctypes.util.find_library("opus")]
    for name in filter(None, names):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.opus_get_version_string.restype = ctypes.c_char_p
        for side in ("encoder", "decoder"):
            getattr(library, f"opus_{side}_create").restype = ctypes.c_void_p
            getattr(library, f"opus_{side}_destroy").argtypes = [ctypes.c_void_p]
        library.opus_encode_float.argtypes = [
            *(ctypes.c_void_p, FLOAT_P, ctypes.c_int, ctypes.c_char_p, ctypes.c_int32)
        ]
        library.opus_decode_float.argtypes = [
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, FLOAT_P, ctypes.c_int, ctypes.c_int)
        ]
        return library
    raise MissingPeer("libopus is not installed; pip install av, or apt install libopus0")


class Opus:
    """libopus, coding and concealing: speech mode, no forward error correction, no discontinuous sending.

    Args:
        kbps: kilobits a second. packet_ms: 10, 20, 40 or 60.

    The network that libopus 1.5 and later can be built to conceal with is in neither of the libraries that
    `find_opus` knows: with the decoder's complexity at 10, the output was the same.
    """

    def __init__(self, kbps: float = 32.0, packet_ms: float = PACKET_MS):
        self.library = find_opus()
        self.kbps, self.packet_ms = kbps, packet_ms
        self.name = self.library.opus_get_version_string().decode()

    def _create(self, side: str, sample_rate: int, *more: int) -> ctypes.c_void_p:
        status = ctypes.c_int()
        state = getattr(self.library, f"opus_{side}_create")(sample_rate, 1, *more, ctypes.byref(status))
        if status.value:
            raise ValueError(f"{self.name} takes 8, 12, 16, 24 and 48 kHz, not {sample_rate} Hz")
        return ctypes.c_void_p(state)

    def conceal(self, x: np.ndarray, lost: np.ndarray, sample_rate: int) -> np.ndarray:
        """`x [T]` coded, decoded without the packets that are `lost [T]`, and aligned: `[T]` float32."""
        count, size = packets.packets(len(x), sample_rate, self.packet_ms)
        gone = np.append(lost, np.zeros(count * size - len(x), bool)).reshape(count, size)[:, 0]
        if not np.array_equal(packets.per_sample(gone, len(x), size), lost):
            raise ValueError(f"the flags are not those of packets of {self.packet_ms:g} ms")
        encoder = self._create("encoder", sample_rate, VOIP)
        decoder = self._create("decoder", sample_rate)
        try:
            for request, value in ((BITRATE, round(1000 * self.kbps)), (INBAND_FEC, 0), (DTX, 0)):
                if status := self.library.opus_encoder_ctl(encoder, request, ctypes.c_int(value)):
                    raise ValueError(f"{self.name} refuses {value} for request {request} (status {status})")
            delay = ctypes.c_int()
            self.library.opus_encoder_ctl(encoder, LOOKAHEAD, ctypes.byref(delay))
            total = -(-(len(x) + delay.value) // size)  # packets, with those that flush the look-ahead
            padded = np.zeros(total * size, np.float32)
            padded[: len(x)] = x
            out, data = np.empty_like(padded), ctypes.create_string_buffer(LONGEST_PACKET)
            for n, (block, made) in enumerate(
                zip(padded.reshape(-1, size), out.reshape(-1, size), strict=True)
            ):
                length = self.library.opus_encode_float(
                    encoder, block.ctypes.data_as(FLOAT_P), size, data, LONGEST_PACKET
                )
                if length < 0:
                    raise ValueError(f"{self.name} cannot code packets of {size} samples (status {length})")
                missing = n < count and gone[n]
                packet, length = (None, 0) if missing else (data, length)
                self.library.opus_decode_float(decoder, packet, length, made.ctypes.data_as(FLOAT_P), size, 0)
            return out[delay.value : delay.value + len(x)]
        finally:
            self.library.opus_encoder_destroy(encoder)
            self.library.opus_decoder_destroy(decoder)


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
    holds in lost places is not heard: Opus codes it and then loses the packet, for others it is zeros.
    """
    if name == "opus":
        return name, Opus(kbps).conceal
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
            print(f"compare_concealers: {error}; its rows are left out", file=sys.stderr)
        else:
            out[name] = conceal
    return out


@lru_cache(maxsize=1)
def _recogniser() -> Any:
    import pocketsphinx

    return pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL")


def words(x: np.ndarray) -> list[str]:
    """What pocketsphinx hears in `x [T]`."""
    recogniser = _recogniser()
    recogniser.start_utt()
    recogniser.process_raw(np.round(x.clip(-1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    recogniser.end_utt()
    heard = recogniser.hyp()
    return heard.hypstr.split() if heard else []


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """The least number of words to put in, take out or change (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(reference, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def score_file(
    path: Path, seed: int, specs: Sequence[str], kbps: float, models: Sequence[str] = (), speech: bool = False
) -> dict[str, dict[str, float]]:
    """Scores of every method for every loss, by "LOSS METHOD"; "none METHOD" is nothing lost."""
    x, rate = sf.read(path, dtype="float32", always_2d=True)
    x = x[:, 0] if rate == RATE else soxr.resample(x[:, 0], rate, RATE, quality="HQ")
    count, size = packets.packets(len(x), RATE, PACKET_MS)
    out, known = {}, methods(kbps, models)
    reference = words(x) if speech else []
    flags = {s: packets.parse_loss(s).sample(np.array([seed]), count)[0] for s in specs}
    for spec, gone in {"none": np.zeros(count, bool), **flags}.items():
        lost = packets.per_sample(gone, len(x), size)
        for name, conceal in known.items():
            if spec == "none" and name in METHODS and name != "zero":
                continue  # they are the input
            made = conceal(x, lost, RATE)
            row = out[f"{spec} {name}"] = dict(metrics.score(x, made, RATE, METRICS))
            if speech:
                row |= {"errors": word_errors(reference, words(made)), "words": len(reference)}
    return out


def speed(models: Sequence[str], seconds: float, runs: int = 5) -> dict[str, tuple[float, float]]:
    """Real-time factor (median of the runs) and 99th percentile of a packet in ms, by the artifact's name."""
    random = np.random.default_rng(0)
    x = 0.1 * random.standard_normal(int(seconds * RATE)).astype(np.float32)
    lost = np.repeat(random.random(len(x) // 320 + 1) < 0.1, 320)[: len(x)]
    out = {}
    for ours in map(Ours, models):
        totals = []
        for _ in range(runs + 1):  # the first warms caches
            begin = len(ours.times)
            ours.conceal(x, lost, RATE)
            totals.append(sum(ours.times[begin:]))
        out[ours.artifact.name] = (
            float(np.median(totals[1:])) / seconds,
            1000 * float(np.percentile(ours.times, 99)),
        )
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="clean speech")
    parser.add_argument("--loss", nargs="+", required=True, help="TRACE, gilbert:P,Q or drop:RATE")
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME|FILE", help="artifacts of ours")
    parser.add_argument("--words", action="store_true", help="word errors too, about a second each")
    parser.add_argument("--kbps", type=float, default=32.0, help="of Opus (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first file; the next has the next")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores of every file")
    args = parser.parse_args(argv)
    times = speed(args.model, 10.0)  # before scoring: its processes would share the cores
    seeds = range(args.seed, args.seed + len(args.files))
    work = partial(score_file, specs=args.loss, kbps=args.kbps, models=tuple(args.model), speech=args.words)
    with ProcessPoolExecutor(args.jobs) as pool:
        scores = list(pool.map(work, args.files, seeds))
    if args.json:
        args.json.write_text(
            json.dumps(dict(zip(map(str, args.files), scores, strict=True)), indent=1) + "\n"
        )
    wrong = " words %" if args.words else ""
    print(f"{'loss':24} {'method':14} {'PESQ-WB':>8} {'ESTOI':>7} {'PLCMOS':>7}{wrong}   {len(scores)} files")
    for row in scores[0]:
        spec, name = row.rsplit(" ", 1)
        means = [np.nanmean([s[row][metric] for s in scores]) for metric in METRICS]
        line = f"{spec:24} {name:14} {means[0]:8.3f} {means[1]:7.3f} {means[2]:7.3f}"
        if args.words:
            errors, total = (sum(s[row][key] for s in scores) for key in ("errors", "words"))
            line += f" {100 * errors / max(1, total):7.1f}"
        print(line)
    for name, (rtf, p99) in times.items():
        print(f"{name}: RTF {rtf:.4f}, 99 % of packets within {p99:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
