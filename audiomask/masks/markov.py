"""Sample Markov chains that lose packets, and describe them in closed form.

Every function takes numpy arrays or torch tensors and returns the same kind, on the tensor's device, with
equal flags for equal seeds; torch is not imported. `audiomask.masks.packets` has the named models.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Array = Any  # np.ndarray, or torch.Tensor


def module_of(x: Array) -> Any:
    """Return numpy or torch, whichever made x; torch is never imported for it."""
    return sys.modules["torch"] if type(x).__module__.partition(".")[0] == "torch" else np


def like(values: Any, other: Array) -> Array:
    """Return `values` as an array of the kind of `other`, on its device."""
    array, module = np.asarray(values), module_of(other)
    return array if module is np else module.as_tensor(array, device=other.device)


def _join(a: Array, b: Array) -> Array:
    return module_of(a).concatenate([a, b], 1)


def mixed(z: Array) -> Array:
    """Hash int64 to int64, one to one: SplitMix64's finalizer (Steele, Lea, Flood 2014)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor  # the shift is arithmetic, so it is masked
    return z ^ (z >> 31 & (1 << 33) - 1)


def uniform(seeds: Array, count: int, stream: int = 0) -> Array:
    """Return `[B, count]` float32, random in [0, 1), from `seeds [B]` int64 and stream 0 to 3."""
    position = like(4 * np.arange(count, dtype=np.int64) + stream + 1, seeds)
    z = mixed(mixed(seeds[:, None]) + position * -0x61C8864680B583EB)
    bits = z >> 40 & 0xFFFFFF
    return (bits.astype(np.float32) if isinstance(bits, np.ndarray) else bits.float()) * 2.0**-24


def follow(successors: list[Array], start: Array) -> Array:
    """Return the states `[B, N]` int8 of a chain that is in state `start [B]` at packet 0.

    `successors` holds, for each of the K states, `[B, N]` int8: the state that follows it at packet n (that
    of packet 0 is not used). Steps are functions of states, so they are composed in pairs, pairs of pairs and
    so on: log2(N) operations on whole batches instead of N small ones.
    """
    f, step = [_join(start[:, None], after[:, 1:]) for after in successors], 1
    while step < f[0].shape[1]:
        onward, composed = [after[:, step:] for after in f], []
        for before in f:
            state = onward[0]
            for k in range(1, len(f)):
                state = state + (before[:, :-step] >= k) * (onward[k] - onward[k - 1])
            composed.append(_join(before[:, :step], state))
        f, step = composed, 2 * step
    return f[0]


class Chain:
    """A Markov chain that loses packets with a probability that depends on its state."""

    transition: np.ndarray  # [K, K], in row i the probabilities of the states after i
    loss: np.ndarray  # [K], the fraction of packets that each state loses

    def _set(self, transition: Any, loss: Any) -> None:
        object.__setattr__(self, "transition", np.array(transition))  # subclasses are frozen dataclasses
        object.__setattr__(self, "loss", np.array(loss))

    def sample(self, seeds: Array, packets: int) -> Array:
        """Return `[B, packets]` bool, true where lost, from `seeds [B]` int64."""

        one = like(np.int8(1), seeds)

        def state(u: Array, probabilities: np.ndarray) -> Array:  # the state in whose interval u lies
            inside = (u < 0) * one
            for edge in np.cumsum(probabilities)[:-1].astype(np.float32):
                inside = inside + (u >= float(edge)) * one
            return inside

        u, v = (uniform(seeds, max(packets, 1), stream) for stream in (0, 1))
        states = follow([state(u, row) for row in self.transition], state(u[:, 0], self.stationary))
        lost = v < 0
        for k, share in enumerate(self.loss.astype(np.float32)):
            lost = lost | (states == k) & (v < float(share))
        return lost[:, :packets]

    @property
    def stationary(self) -> np.ndarray:
        """Return the fraction of time `[K]` spent in each state in the long run."""
        k = len(self.loss)
        balance = np.vstack([self.transition.T - np.eye(k), np.ones(k)])
        return np.linalg.lstsq(balance, np.eye(k + 1)[k], rcond=None)[0].clip(0, 1)

    @property
    def loss_rate(self) -> float:
        """Return the fraction of packets lost in the long run."""
        return float(self.stationary @ self.loss)

    def _burst_starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities `[K]` of a burst's first state, and `[K, K]` of a further loss."""
        onward = self.transition * self.loss
        starts = (self.stationary * (1 - self.loss)) @ onward
        return starts / starts.sum() if starts.sum() > 0 else starts * np.nan, onward

    def burst_lengths(self, longest: int) -> np.ndarray:
        """Return the probabilities `[longest]` of bursts of 1, 2, ... packets; NaN without bursts."""
        state, onward = self._burst_starts()
        going_on = []
        for _ in range(longest + 1):
            going_on.append(state.sum())
            state = state @ onward
        return -np.diff(going_on)

    @property
    def mean_burst(self) -> float:
        """Return the mean packets of a burst; NaN for a chain without bursts."""
        state, onward = self._burst_starts()
        return float(state @ np.linalg.solve(np.eye(len(state)) - onward, np.ones(len(state))))
