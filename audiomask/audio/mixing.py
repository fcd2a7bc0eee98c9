"""Mix the channels of a recording into one, also where they cancel.

    one = mixed(x, rate)                # [C, T] to [T]
    for block in mono(blocks, rate):    # the same of a long recording, [C, n] to [1, n]

It is their mean. But where one of two channels has the opposite polarity (a plug soldered the wrong way
round, a balanced line recorded as two channels), their mean is silence or what little differs: there the
first loud channel is taken instead (not the loudest, so that a noisy recording and its clean one agree).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

FRAME_S = 0.05  # seconds between two decisions, and of a change from the mean to a channel
MEMORY_S = 1.0  # time constant of the powers that decide
# Power of the mean beside that of as many channels without correlation: below the first one they cancel, from
# the second one on they do so no more.
CANCELLED, RESTORED = 0.5, 0.75
QUIET = 1e-9  # fraction of a channel's power below which what moves beside a constant is rounding


class Mixer:
    """A mixer of channels into one, block by block, whatever the size of the blocks.

    The powers of the mean, m, and of the N channels, p, without their constant parts, are followed with a
    memory of a second. Channels cancel when N m < 1/2 p. Before a second of sound was heard the limit is
    lower, the effective fraction of it, p^2 over the mean of squares of p: a tenth of a second of rumble
    may have any correlation.
    """

    def __init__(self, rate: int):
        self.frame, self.decay = max(1, round(FRAME_S * rate)), np.exp(-FRAME_S / MEMORY_S)
        self.reset()

    def reset(self) -> None:
        """Start a new signal."""
        self.state: dict[str, Any] = {}

    def _begin(self, channels: int) -> None:
        sums = {"sum": np.zeros(channels + 1), "square": np.zeros(channels + 1), "count": 0}
        powers = {"power": np.zeros(channels + 1), "spread": 0.0}
        self.state = sums | powers | {"before": False, "one": False, "channel": 0}

    def push(self, x: np.ndarray) -> np.ndarray:
        """Return the next samples `[1, n]` of `[C, n]`."""
        y = x.mean(axis=0, keepdims=True)
        if len(x) == 1 or not x.shape[1]:
            return y
        if len(self.state.get("sum", ())) != len(x) + 1:
            self._begin(len(x))
        state, at = self.state, 0
        while at < x.shape[1]:
            n = min(self.frame - state["count"], x.shape[1] - at)
            part = np.concatenate((x[:, at : at + n], y[:, at : at + n])).astype(np.float64)
            state["sum"] += part.sum(axis=1)
            state["square"] += np.square(part).sum(axis=1)
            if state["before"] or state["one"]:
                ramp = np.arange(state["count"] + 1, state["count"] + n + 1) / self.frame
                share = state["before"] + (state["one"] - state["before"]) * ramp
                y[0, at : at + n] += share * (part[state["channel"]] - part[-1])
            at, state["count"] = at + n, state["count"] + n
            if state["count"] == self.frame:
                self._decide()
        return y

    def rewind(self) -> None:
        """Begin the signal again, with what is known of its channels."""
        if self.state:
            if not self.state["power"].any() and self.state["count"]:
                self._decide()  # on less than a frame
            power = self.state["power"]
            empty = {"sum": np.zeros_like(power), "square": np.zeros_like(power), "count": 0}
            self.state |= empty | {"before": self.state["one"]}

    def _decide(self) -> None:
        """Choose between the mean and a channel for the next frame, at the end of one."""
        state, n = self.state, self.state["count"]
        power = (state["square"] - state["sum"] ** 2 / n) / n
        power = np.where(power > QUIET * state["square"] / n, power, 0)
        state["sum"], state["square"] = np.zeros_like(power), np.zeros_like(power)
        state["count"], state["before"] = 0, state["one"]
        if not power.any():
            return  # digital silence says nothing
        new = power[:-1].mean() ** 2
        state["power"] = power + self.decay * (state["power"] - power)
        state["spread"] = new + self.decay * (state["spread"] - new)
        each, mean = state["power"][:-1], state["power"][-1]
        loud = 4 * each >= each.max()
        if state["one"]:
            heard, limit = loud[state["channel"]], RESTORED
        else:
            heard, limit = True, min(CANCELLED, each.mean() ** 2 / state["spread"])
            state["channel"] = int(loud.argmax())
        state["one"] = bool(heard and len(each) * mean < limit * each.mean())


def mono(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Yield blocks mixed into one channel, `[1, n]`; the first second decides how it begins."""
    mixer = Mixer(rate)
    for i, x in enumerate(blocks):
        if i == 0:
            mixer.push(x[:, :rate])
            mixer.rewind()
        yield mixer.push(x)


def mixed(x: np.ndarray, rate: int) -> np.ndarray:
    """Return a recording `[C, T]` mixed into one channel, `[T]`."""
    return next(mono([x], rate))[0]
