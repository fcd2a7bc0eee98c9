"""Rooms with a microphone array for training, and fixed scenes in them for validation.

    python tools/corpora/simulate_array.py rooms data/rooms.safetensors --count 500
    python tools/corpora/simulate_array.py rooms data/rooms_valid.safetensors --count 100 --seed 1
    python tools/corpora/simulate_array.py scenes data/rooms_valid.safetensors SPEECH NOISE data/array_valid

The array is a grid of two rows of three microphones, 10 cm apart, the rows 19 cm (about that of CHiME-3's
tablet), unless --microphones gives other places.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from audiomask.audio import AudioError
from audiomask.data.kaldi.directory import DataDir, DataError

GRID = [[x, 0.0, z] for z in (0.19, 0.0) for x in (0.0, 0.10, 0.20)]


def places(text: str) -> list[list[float]]:
    """ "x,y,z x,y,z ..." in metres."""
    rows = [[float(x) for x in place.split(",")] for place in text.split()]
    if not rows or any(len(row) != 3 for row in rows):
        raise argparse.ArgumentTypeError(f"{text!r}: want X,Y,Z for each microphone, in metres")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    rooms = verbs.add_parser("rooms", help="simulate a bank of rooms")
    rooms.add_argument("out", type=Path, metavar="FILE")
    rooms.add_argument("--count", type=int, default=500, metavar="N", help="rooms (default: %(default)s)")
    rooms.add_argument(
        "--noises", type=int, default=3, metavar="N", help="point sources (default: %(default)s)"
    )
    rooms.add_argument(
        "--microphones", type=places, default=GRID, metavar="'X,Y,Z ...'", help="in metres, quoted"
    )
    rooms.add_argument("--rt60", type=float, nargs=2, default=(0.15, 0.5), metavar=("MIN", "MAX"))
    rooms.add_argument("--rate", type=int, default=16000, metavar="HZ")
    rooms.add_argument("--seed", type=int, default=0)
    scenes = verbs.add_parser("scenes", help="write fixed scenes of speech and noise")
    scenes.add_argument("rooms", metavar="FILE")
    scenes.add_argument("speech", type=Path, metavar="SPEECH")
    scenes.add_argument("noise", type=Path, metavar="NOISE")
    scenes.add_argument("out", type=Path, metavar="OUT")
    scenes.add_argument("--count", type=int, default=100, metavar="N", help="scenes (default: %(default)s)")
    scenes.add_argument("--snr", type=float, nargs=2, default=(-5.0, 10.0), metavar=("MIN", "MAX"))
    scenes.add_argument("--reference", type=int, default=0, metavar="N", help="microphone, from 0")
    scenes.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from audiomask.data.simulate.microphones import ArrayScenes, Rooms, simulate_rooms, write_scenes

    try:
        if args.verb == "rooms":
            bank = simulate_rooms(
                np.array(args.microphones),
                args.count,
                args.noises,
                args.rate,
                rt60_s=tuple(args.rt60),
                seed=args.seed,
            )
            bank.save(args.out)
            print(f"{args.out}: {args.count} rooms, {len(args.microphones)} microphones")
            return 0
        if (args.out / "wav.scp").exists():
            raise DataError(f"{args.out}: holds scenes, which must never change; choose another OUT")
        bank = Rooms.load(args.rooms)
        rate = bank.sample_rate
        made = ArrayScenes(bank, rate, rate, reference=args.reference, snr_db=tuple(args.snr), clean=0.0)
        speech, noise = DataDir.read(args.speech), DataDir.read(args.noise)
        write_scenes(made, speech, noise, args.out, args.count, args.seed)
    except AudioError as error:
        sys.exit(f"simulate_array: {error}")
    print(f"{args.out}: {args.count} scenes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
