"""Masks over packets: which of them a network loses, and what the loss leaves.

Batched waveforms `[B, T]` float32 and per-row parameters `[B]`; true where a packet is lost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bursts(uniform: Tensor, rate: Tensor, length: Tensor) -> Tensor:
    """Which of N packets are lost, `[B, N]` bool, from as many random numbers: Gilbert's two states.

    `rate [B]`: share that is lost in the long run, below 1; `length [B]`: packets of a mean burst, from 1.
    The channel turns bad with p = rate / ((1 - rate) length) and good again with 1 / length.
    """
    worse = (rate / ((1 - rate) * length)).clamp(max=1)
    bad = uniform[:, 0] < rate
    lost = [bad]
    for u in uniform[:, 1:].unbind(1):
        bad = torch.where(bad, u >= 1 / length, u < worse)
        lost.append(bad)
    return torch.stack(lost, 1)


def lose(x: Tensor, lost: Tensor, size: int) -> Tensor:
    """`x [B, T]` with zeros in place of the packets of `size` samples that are `lost [B, ceil(T / size)]`."""
    return torch.where(lost.repeat_interleave(size, 1)[:, : x.shape[1]], 0.0, x)


def packets(samples: int, sample_rate: int, packet_ms: float) -> tuple[int, int]:
    """How many packets carry so many samples, and the samples of one."""
    size = max(1, round(packet_ms * sample_rate / 1000))
    return math.ceil(samples / size), size
