#!/usr/bin/env python3
"""Usage: check_blocks.py STEM FILE. What both parts put out must not hang on how a recording is cut."""

import sys

import numpy as np

from audiomask import audio
from audiomask.runtime.player import Player


def main(stem: str, file: str) -> None:
    x, rate = audio.read(file)
    x, draw = x[:1, : 4 * rate], np.random.default_rng(0)
    for part in ("mark", "detect"):
        made = []
        for cuts in ([], np.sort(draw.integers(0, x.shape[1], 60))):
            player = Player(f"{stem}_{part}.onnx", sample_rate=rate)
            ended = [*(player.feed(block) for block in np.split(x, cuts, 1)), player.flush()]
            made.append({name: np.concatenate([y[name] for y in ended], 1) for name in ended[0]})
        for name, whole in made[0].items():
            worst = float(np.abs(whole - made[1][name]).max() / np.abs(whole).max())
            print(f"{part}, {name}: blocks equal the whole to {worst:.1e} of its peak")
            assert worst <= 1e-5, f"{part}, {name} differs"


if __name__ == "__main__":
    main(*sys.argv[1:])
