#!/usr/bin/env python3
"""Usage: there_and_back.py STEM DATA OUT --books N ... Plays recordings through both parts of a codec.

The parts are STEM_enc.onnx and STEM_dec.onnx. OUT/N/KEY.wav has the rate and the length of the recording, and
OUT/N/kbps says how many kbit/s the codes have as plain bits, with 32 for the scale of a segment. N is a
number of codebooks, or "all". Memory is constant.
"""

import argparse
from pathlib import Path

from audiomask import audio
from audiomask.data.kaldi.directory import DataDir, source_file
from audiomask.runtime.catalogue import codec_part
from audiomask.runtime.player import Player

BLOCK = 65536  # samples


def play(parts, path: Path, out: Path, books: int | None) -> tuple[int, float]:
    """Write `out`; return the bits and the seconds of it."""
    bits = 0
    with audio.Reader(path) as reader:
        rate, channels = reader.info.rate, reader.info.channels
        controls = {} if books is None else {"books": books}
        encoder = Player(parts[0], sample_rate=rate, channels=channels, controls=controls)
        decoder = Player(parts[1], sample_rate=rate)
        levels = {port.name: port.levels for port in encoder.ports}

        def decoded(given):
            nonlocal bits
            for name, x in given.items():
                bits += int((x >= 0).sum()) * ((levels[name] - 1).bit_length() if levels[name] else 32)
            return decoder.feed(**given)["decoded"]

        samples = written = 0
        with audio.Writer(out, rate, channels, overwrite=True, clip="clamp") as writer:
            for block in reader.blocks(BLOCK):
                samples += block.shape[1]
                y = decoded(encoder.feed(block))
                writer.write(y)
                written += y.shape[1]
            for given in (encoder.flush(), None):
                y = decoder.flush()["decoded"] if given is None else decoded(given)
                writer.write(y[:, : samples - written])
                written += min(y.shape[1], samples - written)
    return bits, samples / rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("stem", "data", "out"):
        parser.add_argument(name)
    parser.add_argument("--books", nargs="+", required=True)
    args = parser.parse_args()
    parts, data = [codec_part(args.stem, part) for part in ("enc", "dec")], DataDir.read(args.data)
    for count in args.books:
        folder = Path(args.out) / count
        folder.mkdir(parents=True, exist_ok=True)
        bits, seconds = 0, 0.0
        for recording, entry in sorted(data.tables["wav.scp"].items()):
            with source_file(data, entry) as path:
                wanted = None if count == "all" else int(count)
                more = play(parts, path, folder / f"{recording}.wav", wanted)
            bits, seconds = bits + more[0], seconds + more[1]
        (folder / "kbps").write_text(f"{bits / seconds / 1000:.2f} kbit/s\n")


if __name__ == "__main__":
    main()
