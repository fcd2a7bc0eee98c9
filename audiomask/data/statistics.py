"""Measure a corpus' log-mel mean and standard deviation, used by `frontend.logmel`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from audiomask.audio import AudioError
from audiomask.data.kaldi.directory import DataDir, Utterance, read_mono
from audiomask.frontend.logmel import LogMel


@dataclass(frozen=True)
class Moments:
    """A mean and a standard deviation over all bands of `frames` frames."""

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
    """Return the moments of what `frontend` computes before it normalises, and the failures.

    Utterances are cut to `piece` samples, as long as clips in training, since the front end removes each
    mean. `utterances` are some of those of `data`; None: all. AudioError if none could be read.
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
    """Return `count` utterances drawn with `seed`; all if there are no more."""
    utterances = list(data.utterances())
    order = np.random.default_rng(seed).permutation(len(utterances))
    return [utterances[i] for i in sorted(order[:count])]
