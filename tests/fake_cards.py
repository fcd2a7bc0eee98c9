"""Sound cards on simulated time, for the tests of live sound: late, stalled, fast, gone, and never random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

UNIT = 2.0**-24  # the sound is a count of samples, exact in float32: what is played says when it was recorded


class Simulation:
    """``cards`` call back in the order of their time; after each, ``worker()`` runs unless it is in one of
    ``stalls`` (start, end)."""

    def __init__(self):
        self.now, self._working = 0.0, False
        self.cards: list[FakeCard] = []
        self.worker: Callable[[], object] = lambda: None
        self.stalls: list[tuple[float, float]] = []

    def clock(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass; a worker that takes time may call it too."""
        end = self.now + seconds
        while due := [c for c in self.cards if c.due is not None and c.due <= end]:
            card = min(due, key=lambda c: c.due)
            self.now = max(self.now, card.due)
            card.fire()
            self._work()
        self.now = max(self.now, end)
        self._work()

    def _work(self) -> None:
        if not self._working and not any(a <= self.now < b for a, b in self.stalls):
            self._working = True
            try:
                self.worker()
            finally:
                self._working = False


class FakeCard:
    """A `Device`. ``kind``: "input" gives the count of its samples times UNIT, from 1; "output" keeps what it
    is given in ``played``, NaN where its clock went on without asking.

    ``chunk``: samples per call, in turn; ``ppm``: its clock is fast; ``jitter``: seconds by which calls are
    late at random; ``late``, ``lost`` (start, end): calls come after the end, at once, or never; ``dies`` at
    that time, and ``tells`` or not.
    """

    def __init__(
        self,
        sim: Simulation,
        kind: str,
        *,
        rate: int = 16000,
        channels: int = 1,
        chunk: tuple[int, ...] = (256,),
        ppm: float = 0.0,
        jitter: float = 0.0,
        late: tuple[float, float] = (0, 0),
        lost: tuple[float, float] = (0, 0),
        dies: float = np.inf,
        tells: bool = True,
        phase: float = 0.0,
        seed: int = 0,
        sound: Callable[[np.ndarray], np.ndarray] | None = None,
        name: str | None = None,
    ):
        self.sim, self.kind, self.channels, self.chunk = sim, kind, channels, chunk
        self.name, self.latency = name or f"fake {kind}", 0.004
        self.rate = rate * (1 + ppm * 1e-6)
        self.jitter, self.late, self.lost, self.dies, self.tells = jitter, late, lost, dies, tells
        self.phase, self.sound = phase, sound or (lambda n: (n + 1) * UNIT)
        self.rng = np.random.default_rng(seed)
        self.position = self.calls = 0
        self.due: float | None = None
        self.played: list[np.ndarray] = []

    def start(self, callback, ended) -> None:
        self.callback, self.ended = callback, ended
        self.begin = self.sim.now + self.phase
        self.sim.cards.append(self)
        self.due = self.begin
        self._next()

    def stop(self) -> None:
        self.due = None
        if self in self.sim.cards:
            self.sim.cards.remove(self)

    def _next(self) -> None:
        self.size = self.chunk[self.calls % len(self.chunk)]
        done = self.position + (self.size if self.kind == "input" else 0)
        at = self.begin + done / self.rate
        if self.late[0] <= at < self.late[1]:
            at = self.late[1]
        self.due = max(self.due, at + self.jitter * self.rng.random())

    def fire(self) -> None:
        if self.sim.now >= self.dies:
            self.due = None
            if self.tells:
                self.ended()
            return
        count = np.arange(self.position, self.position + self.size)
        self.position += self.size
        self.calls += 1
        lost = self.lost[0] <= self.sim.now < self.lost[1]
        if self.kind == "input":
            if not lost:
                self.callback(np.tile(self.sound(count), (self.channels, 1)).astype(np.float32), False)
        else:
            y = np.full((self.channels, self.size), np.nan, np.float32)
            if not lost:
                self.callback(y, False)
                assert np.isfinite(y).all()
            self.played.append(y)
        self._next()

    def output(self) -> np.ndarray:
        """All that was played, the first channel."""
        return np.concatenate(self.played, axis=1)[0]


def lags(source: FakeCard, sink: FakeCard) -> np.ndarray:
    """Seconds from the record to the play of each sample played, by the true time of both; NaN for none."""
    y = sink.output()
    recorded = source.begin + (np.rint(y.astype(np.float64) / UNIT) - 1) / source.rate
    return np.where(y > 0, sink.begin + np.arange(len(y)) / sink.rate - recorded, np.nan)
