"""Probabilities of random codes, for the tests of what is packed by them: 6 books of 16 codes, 3 groups."""

import json

import numpy as np
from safetensors.numpy import save_file

from audiomask.runtime.codes.probabilities import KEY, Probabilities

SHIFTS = {"past_shift": 8, "into_shift": 8, "score_shift": 5}


def write(
    path, codec=bytes(8), books=6, levels=16, seed=0, name="tiny", width=4, hidden=16, inner=8, **changes
):
    """Write a file of them, and read it again."""
    rng, groups, past = np.random.default_rng(seed), 3, 2
    wide = groups * width

    def drawn(*shape, kind=np.int8, most=127):
        return rng.integers(-most, most + 1, shape).astype(kind)

    tensors = {
        "embed": drawn(books, levels, width),
        "start": drawn(past, wide),
        "past": drawn(hidden, past * wide),
        "past_bias": drawn(hidden, kind=np.int32, most=20000),
        "into": drawn(books, inner, hidden + wide),
        "into_bias": drawn(books, inner, kind=np.int32, most=20000),
        "score": drawn(books, levels, inner, most=20),
        "score_bias": drawn(books, levels, kind=np.int32, most=2000),
        "table": np.maximum(1, np.round(2.0 ** (16 - np.arange(1090) / 64))).astype(np.int32),
    }
    facts = {"name": name, "codec": codec.hex(), "groups": groups} | SHIFTS | changes.pop("facts", {})
    save_file(tensors | changes, path, {KEY: json.dumps(facts)})
    return Probabilities.load(path)


def drawn(probabilities, shape, seed=0, likeliest=0.9):
    """Codes `[streams, books, frames]`, so large a fraction of which are the likeliest at their place."""
    rng, found = np.random.default_rng(seed), np.empty(shape, np.int64)
    for stream in found.swapaxes(1, 2):
        for codes, frame in zip(stream, probabilities.frames(), strict=False):
            for book in range(shape[1]):
                best = int(frame.weights().argmax())
                codes[book] = best if rng.random() < likeliest else rng.integers(probabilities.levels)
                frame.take(codes[book])
    return found
