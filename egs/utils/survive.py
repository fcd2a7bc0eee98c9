#!/usr/bin/env python3
"""Usage: survive.py STEM DATA --attacks SPEC ... [--json FILE] Marks recordings, attacks them, and listens.

The parts are STEM_mark.onnx and STEM_detect.onnx, whose detector puts out `present` and `message` for each
sample, as AudioSeal's. A recording is marked with a message of its own, which hangs on its key. For each
attack, "none" before all, and SNR of the mark in dB:

    found     fraction of marked recordings of which most samples are held for marked
    false     the same of the recordings before they were marked, after the same attack
    bits      fraction of the bits of all messages that are read right
    messages  fraction of messages without a wrong bit
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from audiomask.audio import replacing
from audiomask.data.kaldi.directory import DataDir, read_mono
from audiomask.data.simulate.attacks import Attack
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.player import Player


def played(part: Artifact, x: np.ndarray, **controls) -> dict[str, np.ndarray]:
    """Return the outputs of a part for x `[T]`."""
    player = Player(part, controls=controls)
    ended = [player.feed(x[None]), player.flush()]
    return {name: np.concatenate([made[name] for made in ended], 1) for name in ended[0]}


def heard(detector: Artifact, x: np.ndarray) -> tuple[bool, np.ndarray]:
    """Return whether x `[T]` is held for marked, and the bits."""
    made = played(detector, x)
    return bool((made["present"] > 0.5).mean() > 0.5), made["message"].mean(1) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stem")
    parser.add_argument("data", type=DataDir.read)
    parser.add_argument("--attacks", nargs="+", default=[])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    marker, detector = (Artifact.load(f"{args.stem}_{part}.onnx") for part in ("mark", "detect"))
    (port,) = (port for port in marker.controls.values() if port.type == "bits")
    rows: dict[str, list[list[float]]] = {spec: [] for spec in ("none", *args.attacks)}
    snr = []
    for utterance in args.data.utterances():
        x = read_mono(args.data, utterance, marker.sample_rate)
        seed = crc32(utterance.key.encode())
        bits = np.random.default_rng(seed).integers(0, 2, port.channels)
        y = played(marker, x, **{port.name: bits})["marked"][0]
        snr.append(10 * math.log10(float(np.square(x).sum() / max(np.square(y - x).sum(), 1e-20)) + 1e-20))
        for spec, row in rows.items():
            both = torch.from_numpy(np.stack([y, x])[:, None])
            if spec != "none":
                both = Attack(spec)(both, marker.sample_rate, torch.tensor([seed, seed]))
            (found, read), (false, _) = (heard(detector, z) for z in both[:, 0].numpy())
            right = read == (bits > 0)
            row.append([found, false, right.mean(), right.all()])
    names = ("found", "false", "bits", "messages")
    table = {spec: dict(zip(names, np.mean(row, 0).tolist(), strict=True)) for spec, row in rows.items()}
    print(f"{len(snr)} recordings, SNR of the mark {np.mean(snr):.1f} dB")
    print(f"{'attack':24}" + "".join(f"{name:>10}" for name in names))
    for spec, values in table.items():
        print(f"{spec:24}" + "".join(f"{value:10.3f}" for value in values.values()))
    if args.json:
        with replacing(args.json) as part:
            part.write_text(json.dumps({"snr": snr, "attacks": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
