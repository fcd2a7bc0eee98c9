"""Masks of the harmonics of notes, by their numbers in MIDI, of which a piano has 88."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST, NOTES = 21, 88
NARROW = 0.03  # half of the width of a harmonic, of its frequency: half a semitone


def harmonics(sample_rate: int, size: int) -> Tensor:
    """Return 1 where a bin is in a harmonic of a note, `[88, F]`, as wide as a Hann window's."""
    f = torch.arange(size // 2 + 1) * sample_rate / size
    first = 440.0 * 2 ** ((torch.arange(NOTES) + LOWEST - 69.0) / 12)
    number = (f / first[:, None]).round().clamp_min(1)
    away = (f - number * first[:, None]).abs()
    wide = (NARROW * number * first[:, None]).clamp(min=2 * sample_rate / size)
    return (away <= torch.minimum(wide, first[:, None] / 2)).float()
