"""Packing codes by Hunch's probabilities, beside the package encodec's language model: time and bytes.

    python tools/bench/probabilities.py WAV... [--model STEM] [--kbps 6] [--frames 25] [--rounds 3]

Ours packs the codes that a codec makes of the recordings, packet by packet; the package's language model,
with random weights, packs random codes of 8 books at 75 frames a second, as its `compress` does at 24 kHz and
6 kbit/s. Both with one thread, each in turn in every round; times are those of the processor, the least of
all rounds, for a frame. A table has the bytes of the packets, by probabilities and plain, for each book.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch

import audiomask.frontend.torchaudio_import  # noqa: F401 (encodec imports torchaudio)
from audiomask.audio import read
from audiomask.data.kaldi.directory import resampled
from audiomask.runtime.catalogue import codec_part, probabilities_of
from audiomask.runtime.codes.coders import Likely, Plain
from audiomask.runtime.files.coded import books_of, code_port
from audiomask.runtime.player import Player

THEIRS = 8  # books of EnCodec at 6 kbit/s


class Package:
    """The package's loops of `compress_to_file` and `decompress_from_file`, over codes alone."""

    def __init__(self, frames: int):
        from encodec.model import LMModel

        torch.manual_seed(0)
        self.lm = LMModel(32, 1024, num_layers=5, dim=200, past_context=262).eval()
        self.codes = torch.randint(1024, (1, THEIRS, frames))

    def _run(self, code: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        states, offset, before = None, 0, torch.zeros(1, THEIRS, 1, dtype=torch.long)
        for t in range(self.codes.shape[2]):
            with torch.no_grad():
                odds, states, offset = self.lm(before, states, offset)
            before = 1 + code(odds, t)

    def encode(self) -> None:
        from encodec.quantization.ac import ArithmeticCoder, build_stable_quantized_cdf

        self.file = io.BytesIO()
        coder = ArithmeticCoder(self.file)

        def push(odds: torch.Tensor, t: int) -> torch.Tensor:
            for book, value in enumerate(self.codes[0, :, t].tolist()):
                cdf = build_stable_quantized_cdf(odds[0, :, book, 0], coder.total_range_bits, check=False)
                coder.push(value, cdf)
            return self.codes[:, :, t : t + 1]

        self._run(push)
        coder.flush()

    def decode(self) -> None:
        from encodec.quantization.ac import ArithmeticDecoder, build_stable_quantized_cdf

        self.file.seek(0)
        decoder = ArithmeticDecoder(self.file)

        def pull(odds: torch.Tensor, t: int) -> torch.Tensor:
            found = []
            for book in range(THEIRS):
                cdf = build_stable_quantized_cdf(odds[0, :, book, 0], decoder.total_range_bits, check=False)
                found.append(decoder.pull(cdf))
            assert found == self.codes[0, :, t].tolist()
            return torch.tensor(found)[None, :, None]

        self._run(pull)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wavs", nargs="+")
    parser.add_argument("--model", help="stem of the codec (default: the one that ships)")
    parser.add_argument("--kbps", type=float, default=6.0)
    parser.add_argument("--frames", type=int, default=25, help="frames of a packet")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder = codec_part(args.model, "enc")
    probabilities = probabilities_of(encoder)
    if probabilities is None:
        parser.error(f"{encoder.path}: has no probabilities beside it")
    books, port = books_of(encoder, args.kbps), code_port(encoder)
    player, packets = Player(encoder, outputs=[port.name]), []
    for wav in args.wavs:
        sound, rate = read(wav)
        x = resampled(sound[:1], rate, encoder.sample_rate)
        codes = np.concatenate([player.feed(x)[port.name], player.flush()[port.name]], 1)[:books]
        player.reset()
        packets += [codes[None, :, at : at + args.frames] for at in range(0, codes.shape[1], args.frames)]
    frames = sum(codes.shape[2] for codes in packets)
    likely, plain, package = Likely(port.levels, probabilities), Plain(port.levels), Package(150)
    data: list[bytes] = []

    def encode() -> None:
        data[:] = [likely.encode(codes) for codes in packets]

    def decode() -> None:
        for payload, codes in zip(data, packets, strict=True):
            assert np.array_equal(likely.decode(payload, codes.shape), codes)

    runs = {
        "encode": {"package": (package.encode, 150), "ours": (encode, frames)},
        "decode": {"package": (package.decode, 150), "ours": (decode, frames)},
    }
    print("| side | package, ms a frame | ours | package / ours |")
    print("|---|---|---|---|")
    for side, pair in runs.items():
        least = dict.fromkeys(pair, float("inf"))
        for _ in range(args.rounds):
            for name, (run, count) in pair.items():
                start = time.process_time()
                run()
                least[name] = min(least[name], 1000 * (time.process_time() - start) / count)
        theirs, ours = least["package"], least["ours"]
        print(f"| {side} | {theirs:.2f} | {ours:.3f} | {theirs / ours:.1f} |")
    bits = np.zeros(books)
    for codes in packets:
        weights, _, totals = probabilities.weigh(codes.swapaxes(1, 2))
        bits += np.log2(totals / weights).sum((0, 1))
    small, large = sum(map(len, data)), sum(plain.most(codes.shape) for codes in packets)
    saved = 100 - 100 * small / large
    print(f"\n{frames} frames, {len(packets)} packets: {small} bytes of {large}, {saved:.1f} % saved")
    print("bits of each book:", " ".join(f"{b / frames:.2f}" for b in bits))


if __name__ == "__main__":
    main()
