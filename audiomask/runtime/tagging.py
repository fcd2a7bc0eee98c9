"""Turn a tagger's probabilities into tags of a whole recording, of regular rows or segments.

Row j of a tagger is at the time t_j, the end of its hop, and tells what is in the last `span` samples up to
there (fewer at the start)::

    sound     |------------|XXXXX dog XXXXX|------------------|
    rows       .  .  .  .  .  on on on on on on on  .  .  .  .     one at the end of each hop
    the last one that is on tells of      [ span  ]

A label comes on with the hop that a sound begins in, and goes off when the window has left the sound behind.
So a segment begins where the hop that turned it on does, and ends with the first hop of the window of its
last row; if it is on at the end of the recording, it ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from audiomask.audio import Reader
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.player import Player, output_port

TYPE = "probabilities"
FED_S = 10.0  # seconds of a file that are read at a time


@dataclass(frozen=True)
class Row:
    """Probabilities or an embedding of the sound from `start` to `end`, in seconds."""

    start: float
    end: float
    values: np.ndarray  # [K]
    whole: bool = True  # no silence was added at its end
    full: bool = False  # the window was full


@dataclass(frozen=True)
class Tags:
    """The labels heard from `start` to `end`: (label, probability), the likeliest first."""

    start: float
    end: float
    tags: tuple[tuple[str, float], ...]

    def entry(self, source: str) -> dict[str, Any]:
        """Return the tags as a dict for JSON."""
        tags = [{"label": label, "probability": round(p, 6)} for label, p in self.tags]
        return {"file": source, "start": round(self.start, 3), "end": round(self.end, 3), "tags": tags}


class Clock:
    """A clock that gives the frames of a player's first output their times."""

    def __init__(self, player: Player):
        artifact, port = player.artifact, player.ports[0]
        self.every = float(1 / port.rate) / artifact.sample_rate  # seconds
        self.span = port.span / artifact.sample_rate or float("inf")
        self.count = 0

    def rows(self, frames: np.ndarray, end: float = float("inf")) -> Iterator[Row]:
        """Yield the rows of the next frames `[K, n]`; the recording ends at `end`, if that is known."""
        for values in frames.T:
            self.count += 1
            time = self.count * self.every
            whole, full = time <= end + 1e-9, time >= self.span
            yield Row(max(0.0, min(time, end) - self.span), min(time, end), values, whole, full)


def rows(
    reader: Reader, player: Player, progress: Callable[[float, float], None] | None = None
) -> Iterator[Row]:
    """Yield a recording's rows to its end; `progress(seconds done, seconds by the header)`."""
    clock, info, name = Clock(player), reader.info, player.ports[0].name
    for block in reader.blocks(max(1, int(FED_S * info.rate))):
        yield from clock.rows(player.feed(block)[name])
        if progress:
            progress(reader.position / info.rate, info.seconds)
    yield from clock.rows(player.flush()[name], reader.position / info.rate)


class Whole:
    """A whole recording as one row: the mean or maximum over the rows whose window was full.

    Where no window was full it is the last row that no silence was added to; where all had silence, the
    first.
    """

    def __init__(self, largest: bool = False):
        self.largest, self.end, self._count = largest, 0.0, 0
        self._kept: np.ndarray | None = None

    def add(self, row: Row) -> None:
        values = row.values.astype(np.float64)
        self.end = max(self.end, row.end)
        if row.whole and row.full:
            if not self._count:
                self._kept = values
            elif self._kept is not None:
                self._kept = np.maximum(self._kept, values) if self.largest else self._kept + values
            self._count += 1
        elif not self._count and (row.whole or self._kept is None):
            self._kept = values

    def row(self) -> Row:
        """Return the row of the recording; ValueError where there was none."""
        if self._kept is None:
            raise ValueError("no sound")
        return Row(0.0, self.end, self._kept / (1 if self.largest else max(1, self._count)))


def top(row: Row, labels: tuple[str, ...], count: int, threshold: float) -> Tags:
    """Return the `count` likeliest labels of a row that reach `threshold`."""
    order = np.argsort(-row.values, kind="stable")[:count]
    found = tuple((labels[i], float(row.values[i])) for i in order if row.values[i] >= threshold)
    return Tags(row.start, row.end, found)


class Segments:
    """Stretches in which a label reaches `threshold`, with its greatest probability there."""

    def __init__(self, labels: tuple[str, ...], threshold: float, every: float):
        self.labels, self.threshold, self.every = labels, threshold, every
        self._on: dict[int, tuple[float, float, float]] = {}  # start, start of the last window, probability

    def add(self, row: Row) -> Iterator[Tags]:
        """Yield the segments that a row ends."""
        for i in [i for i in self._on if row.values[i] < self.threshold]:
            start, last, p = self._on.pop(i)
            yield Tags(start, max(start, last) + self.every, ((self.labels[i], p),))
        begun = max(row.start, row.end - self.every)
        for i in np.flatnonzero(row.values >= self.threshold).tolist():
            start, _, p = self._on.get(i, (begun, 0.0, 0.0))
            self._on[i] = start, row.start, max(p, float(row.values[i]))

    def end(self, end: float) -> Iterator[Tags]:
        """Yield the segments that go on to the end of the recording."""
        for i, (start, _, p) in sorted(self._on.items()):
            yield Tags(start, end, ((self.labels[i], p),))
        self._on.clear()


class Listing:
    """A converter of rows to tags, one every so many seconds; `every=None`: the whole recording.

    `segments`: see `Segments`.
    """

    def __init__(
        self,
        player: Player,
        count: int,
        threshold: float,
        every: float | None = None,
        segments: bool = False,
        largest: bool = False,
    ):
        self.labels, self.count, self.threshold = player.ports[0].labels, count, threshold
        hop = Clock(player).every
        self._nth = max(1, round(every / hop)) if every is not None else 0
        self._segments = Segments(self.labels, threshold, hop) if segments else None
        self._whole = Whole(largest)
        self._at, self._end = 0, 0.0
        self._left: Row | None = None

    def add(self, row: Row) -> Iterator[Tags]:
        self._at, self._end, self._left = self._at + 1, row.end, None
        if self._segments:
            yield from self._segments.add(row)
        elif not self._nth:
            self._whole.add(row)
        elif self._at % self._nth == 0:
            yield top(row, self.labels, self.count, self.threshold)
        else:
            self._left = row

    def end(self) -> Iterator[Tags]:
        """Yield what is left after the last row."""
        if self._segments:
            yield from self._segments.end(self._end)
        elif not self._nth and self._at:
            yield top(self._whole.row(), self.labels, self.count, self.threshold)
        elif self._left:
            yield top(self._left, self.labels, self.count, self.threshold)


def listener(artifact: Artifact, type: str = TYPE, rate: int | None = None, threads: int = 1) -> Player:
    """Return a player of a "probabilities" or "embedding" output for the mean of all channels.

    Raises `ArtifactError` for a model without one.
    """
    name = output_port(artifact, type).name
    return Player(artifact, sample_rate=rate, mix=True, threads=threads, outputs=[name])


def hops_of(player: Player, samples: np.ndarray) -> Iterator[Row]:
    """Yield the rows of a signal `[T]` that is in memory."""
    clock, name = Clock(player), player.ports[0].name
    yield from clock.rows(player.feed(samples)[name])
    yield from clock.rows(player.flush()[name], len(samples) / player.sample_rate)
