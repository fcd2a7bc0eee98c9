"""Write the probabilities of codes for the runtime, in whole numbers, and check them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from audiomask.audio import replacing
from audiomask.export.packing import ExportError
from audiomask.models.hunch import FINE, MOST, SCORE, UNIT, Hunch
from audiomask.runtime.codes.probabilities import KEY, TOP, Probabilities

STEPS = 64  # of the table for each bit
TOLERANCE = 0.01  # of the bits that torch and the runtime may differ by: the table is coarse and has a floor


def export(model: Hunch, out: Path) -> Probabilities:
    """Write a network's probabilities; `ExportError` if the runtime disagrees with torch."""
    wide, shift = UNIT * FINE, (UNIT * SCORE // STEPS).bit_length() - 1

    def whole(x: Tensor, scale: int, most: float = math.inf) -> np.ndarray:
        kind = np.int32 if most == math.inf else np.int8
        return (x.detach() * scale + 0.5).floor().clamp(-most, most).numpy().astype(kind)

    bits = np.arange(STEPS * (TOP.bit_length() - 1) + STEPS + 1) / STEPS
    tensors = {
        "embed": whole(model.embed, UNIT, MOST),
        "start": whole(model.start, UNIT, MOST),
        "past": whole(model.past, FINE, MOST),
        "past_bias": whole(model.past_bias, wide),
        "into": whole(model.into, FINE, MOST),
        "into_bias": whole(model.into_bias, wide),
        "score": whole(model.score, SCORE, MOST),
        "score_bias": whole(model.score_bias, UNIT * SCORE),
        "table": np.maximum(1, np.round(TOP * 2.0**-bits)).astype(np.int32),
    }
    facts: dict[str, Any] = {"name": model.name, "codec": model.codec, "groups": model.groups}
    facts |= {"past_shift": FINE.bit_length() - 1, "into_shift": FINE.bit_length() - 1, "score_shift": shift}
    with replacing(out) as part:
        part.write_bytes(save(tensors, {KEY: json.dumps(facts, sort_keys=True)}))
        made = Probabilities.load(part)
        _prove(model, made)
    return made


def _prove(model: Hunch, made: Probabilities) -> None:
    """Compare the bits of codes that are as likely as the runtime says they are."""
    rng, codes = np.random.default_rng(0), np.empty((1, 25, made.books), np.int64)
    for row, frame in zip(codes[0], made.frames(), strict=False):
        for book in range(made.books):
            ends = frame.weights().cumsum()
            row[book] = ends.searchsorted(rng.integers(ends[-1]), "right")
            frame.take(row[book])
    weights, _, totals = made.weigh(codes)
    ours = float(np.log2(totals / weights).mean())
    with torch.no_grad():
        theirs = float(model(torch.from_numpy(codes.swapaxes(1, 2))).mean())
    if abs(ours - theirs) > TOLERANCE * theirs:
        raise ExportError(f"the runtime takes {ours:.3f} bits for a code and torch {theirs:.3f}")
