"""Simulate late packets and the buffer that waits for them, to see which a decoder loses.

A packet's delay, in ms, is its arrival less its sending, and infinite for one that never arrives. Only
differences of delays count, so clocks need not agree. Packet n of a sender is sent at n `packet_ms`. As in
`masks.packets`, functions return the kind of array they take, numpy or torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from audiomask.masks.markov import Array, like, module_of, uniform
from audiomask.masks.packets import LossModel


@dataclass(frozen=True)
class Network:
    """A path whose queues fill, and now and then stall.

    Every packet is delayed by an exponential time with mean `jitter_ms`. At each packet the path stops with
    probability `stall_rate`, for an exponential time with mean `stall_ms`. Packets sent meanwhile arrive at
    once when it goes on, so delays jump and then fall by `packet_ms` a packet, as in the spikes that Ramjee
    et al. describe (INFOCOM 1994). `loss` loses further packets.
    """

    packet_ms: float = 20.0
    jitter_ms: float = 5.0
    stall_rate: float = 0.005
    stall_ms: float = 80.0
    loss: LossModel | None = None

    def delays(self, seeds: Array, packets: int) -> Array:
        """Return delays `[B, packets]` float32, in ms above the least, from `seeds [B]` int64."""
        log = module_of(seeds).log
        jitter, stall = (uniform(seeds, packets, stream) for stream in (2, 3))
        sent = like(np.arange(packets, dtype=np.float32) * np.float32(self.packet_ms), seeds)
        least = 2.0**-25  # half of the smallest step of the draws, whose logarithm would be infinite
        stalled = stall < self.stall_rate
        height = -log((stall + least) / max(self.stall_rate, least)).clip(None, 0.0) * self.stall_ms
        free = height * stalled + sent  # when the path is free again: a running maximum
        free = np.maximum.accumulate(free, -1) if isinstance(free, np.ndarray) else free.cummax(-1).values
        delay = free - sent - log(jitter + least) * self.jitter_ms
        if self.loss is not None:
            never = like(np.array([0.0, math.inf], np.float32), delay)
            delay = delay + never[self.loss.sample(seeds, packets) * 1]
        return delay


@dataclass(frozen=True)
class Late:
    """A loss model for packets that come over `network` too late for a buffer of `depth_ms`."""

    network: Network
    depth_ms: float

    def sample(self, seeds: Array, packets: int) -> Array:
        return fixed(self.network.delays(seeds, packets), self.depth_ms, self.network.packet_ms)


def fixed(delay_ms: Array, depth_ms: float, packet_ms: float = 20.0) -> Array:
    """Return which packets `[..., N]`, bool, a buffer of constant depth loses.

    The first packet to arrive is played `depth_ms` later, which sets the time of all others.
    """
    sent = like(np.arange(delay_ms.shape[-1], dtype=np.float32) * np.float32(packet_ms), delay_ms)
    first = (delay_ms + sent).argmin(-1)[..., None]
    if isinstance(delay_ms, np.ndarray):
        base = np.take_along_axis(delay_ms, first, -1)
    else:
        base = delay_ms.take_along_dim(first, -1)
    return ~(delay_ms <= base + depth_ms) | (delay_ms == math.inf)
