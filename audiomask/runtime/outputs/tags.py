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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from audiomask.audio import Reader, mono
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
    for block in mono(reader.blocks(max(1, int(FED_S * info.rate))), info.rate):
        yield from clock.rows(player.feed(block)[name])
        if progress:
            progress(reader.position / info.rate, info.seconds)
    yield from clock.rows(player.flush()[name], reader.position / info.rate)


def pooled(rows: Iterable[Row], largest: bool = False) -> Row:
    """Return a recording as one row: the mean or maximum over rows whose window was full.

    If there are none, it is the last row without added silence, else the first; ValueError for no rows.
    """
    kept: Any = None
    count, end = 0, 0.0
    for row in rows:
        values, end = row.values.astype(np.float64), max(end, row.end)
        if row.whole and row.full:
            if count:
                values = np.maximum(kept, values) if largest else kept + values
            kept, count = values, count + 1
        elif not count and (row.whole or kept is None):
            kept = values
    if kept is None:
        raise ValueError("no sound")
    return Row(0.0, end, kept / (1 if largest else max(1, count)))


def top(row: Row, labels: tuple[str, ...], count: int, threshold: float) -> Tags:
    """Return the `count` likeliest labels of a row that reach `threshold`."""
    order = np.argsort(-row.values, kind="stable")[:count]
    found = tuple((labels[i], float(row.values[i])) for i in order if row.values[i] >= threshold)
    return Tags(row.start, row.end, found)


def segmented(rows: Iterable[Row], labels: tuple[str, ...], threshold: float, every: float) -> Iterator[Tags]:
    """Yield stretches in which a label reaches `threshold`, with its greatest probability."""
    on: dict[int, tuple[float, float, float]] = {}  # start, start of the last window, probability
    end = 0.0
    for row in rows:
        for i in [i for i in on if row.values[i] < threshold]:
            start, last, p = on.pop(i)
            yield Tags(start, max(start, last) + every, ((labels[i], p),))
        begun, end = max(row.start, row.end - every), row.end
        for i in np.flatnonzero(row.values >= threshold).tolist():
            start, _, p = on.get(i, (begun, 0.0, 0.0))
            on[i] = start, row.start, max(p, float(row.values[i]))
    for i, (start, _, p) in sorted(on.items()):  # they go on to the end of the recording
        yield Tags(start, end, ((labels[i], p),))


def listed(
    rows: Iterator[Row],
    player: Player,
    count: int,
    threshold: float,
    *,
    every: float | None = None,
    segments: bool = False,
    largest: bool = False,
) -> Iterator[Tags]:
    """Yield the tags of a recording, one every so many seconds, as soon as they are known.

    Without `every` there is one of the whole recording, see `pooled`; for `segments` see `segmented`.
    """
    labels, hop = player.ports[0].labels, Clock(player).every
    if segments:
        yield from segmented(rows, labels, threshold, hop)
        return
    if every is None:
        first = list(islice(rows, 1))
        rows = iter([pooled(chain(first, rows), largest)] if first else ())
    nth, at = max(1, round((every or 0) / hop)), 0
    for at, row in enumerate(rows, 1):
        if at % nth == 0:
            yield top(row, labels, count, threshold)
    if at % nth:
        yield top(row, labels, count, threshold)


def listener(artifact: Artifact, type: str = TYPE, rate: int | None = None, threads: int = 1) -> Player:
    """Return a player of one type of output that mixes channels; may raise `ArtifactError`."""
    name = output_port(artifact, type).name
    return Player(artifact, sample_rate=rate, mix=True, threads=threads, outputs=[name])


def hops_of(player: Player, samples: np.ndarray) -> Iterator[Row]:
    """Yield the rows of a signal `[T]` that is in memory."""
    clock, name = Clock(player), player.ports[0].name
    yield from clock.rows(player.feed(samples)[name])
    yield from clock.rows(player.flush()[name], len(samples) / player.sample_rate)
