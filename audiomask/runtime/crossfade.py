"""Change what is heard without a click: by a crossfade of two outputs, by ramps of the mix."""

from __future__ import annotations

from typing import Any

import numpy as np

from audiomask.runtime.player import Frames

RAMP_S = 0.01  # length of a change: too short to wait for, too long to be heard as a click


class Ramp:
    """A value that moves to its `target` by `slope` a sample."""

    def __init__(self, slope: float):
        self.slope, self.now, self.target = slope, 0.0, 0.0

    def take(self, count: int) -> Any:
        """Return the next values `[count]`, or one number if they are equal, or None if that is 0."""
        target = self.target  # another thread may change it
        if self.now == target or not count:
            return self.now or None
        way = target - self.now
        steps = np.minimum(self.slope * np.arange(1, count + 1), abs(way))
        arrived = steps[-1] == abs(way)
        values = (self.now + np.copysign(steps, way)).astype(np.float32)
        self.now = target if arrived else float(self.now + np.copysign(steps[-1], way))
        return values


def crossfade(old: Frames, new: Frames, hop: int, hops: int) -> Frames:
    """Return hop `hop` of a crossfade over `hops` of them, from old outputs `[B, C, n]` to new."""
    faded = {}
    for name, y in new.items():
        n = y.shape[2]
        share = np.arange(hop * n + 1, (hop + 1) * n + 1, dtype=np.float32) / (hops * n)
        faded[name] = old[name] + share * (y - old[name])
    return faded
