"""Mean and standard deviation of a corpus' log-mel values, by which `frontend.logmel` normalises."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from audiomask.audio import AudioError
from audiomask.data.kaldi import DataDir, Utterance
from audiomask.data.loading import read_mono
from audiomask.frontend.logmel import LogMel


@dataclass(frozen=True)
class Moments:
    """`mean` and `std` over all bands of `frames` frames."""

    mean: float
    std: float
    frames: int


def log_mel(
    data: DataDir,
    frontend: LogMel,
    piece: int,
    utterances: Iterable[Utterance] | None = None,
    allow_pipes: bool = False,
) -> tuple[Moments, list[AudioError]]:
    """The moments of the values that `frontend` computes, before it pads or normalises; and what failed.

    Args:
        piece: samples of the stretches that utterances are cut into, as long as the clips of the training,
            for the front end takes off the mean of each. What is left at the end counts if it has a frame.
        utterances: some of them; None: all.

    AudioError if none of them could be read.
    """
    total, squares, frames, failed = 0.0, 0.0, 0, []
    for u in data.utterances() if utterances is None else utterances:
        try:
            x = torch.from_numpy(read_mono(data, u, frontend.sample_rate, allow_pipes=allow_pipes))
        except AudioError as error:
            failed.append(error)
            continue
        for part in x.split(piece):
            if frontend.fbank.complete(len(part)):
                y = frontend.raw(part[None])[0].double()
                total += float(y.sum())
                squares += float(y.square().sum())
                frames += len(y)
    if not frames:
        raise AudioError(f"{data.path}: no audio to measure; `audiomask data validate` says why")
    count = frames * frontend.bands
    mean = total / count
    return Moments(mean, math.sqrt(max(0.0, squares / count - mean * mean)), frames), failed


def some(data: DataDir, count: int, seed: int) -> list[Utterance]:
    """`count` utterances, drawn with `seed`; all if there are no more."""
    utterances = list(data.utterances())
    order = np.random.default_rng(seed).permutation(len(utterances))
    return [utterances[i] for i in sorted(order[:count])]
