"""What receivers make of a trace of packets: our jitter buffer, a plain one, and a simulation of NetEq.

Each function plays a `Trace` and returns what was `Played`. Nothing here has sound: packets are numbers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, inf

import numpy as np
from packet_traces import Array, Trace

from audiomask.runtime.packets.jitter_buffer import JitterBuffer, shape


@dataclass
class Played:
    """When each place of a trace began to sound (`at` [s], NaN: never), and what was made up or stretched."""

    at: Array
    concealed: float = 0.0  # seconds of sound that was made up
    stretched: float = 0.0  # seconds that were put in or taken out, so that the sound goes on at another time
    late: int = 0  # packets that arrived and were dropped
    end: float = 0.0


def ours(trace: Trace, jitter_ms: float = 60) -> Played:
    """Play by `JitterBuffer` with a clock, as a socket's `Intake` does.

    Sound comes out when a place is given up. What plays it at its own rate has to stretch by the difference
    between a place's time and a packet's length, so that counts as stretched, clock drift too.
    """
    size, depth = shape(trace.period * 1000, jitter_ms, 16000)
    buffer = JitterBuffer(depth, size / 16000, realtime=True)
    played, out = Played(np.full(len(trace.place), np.nan)), []

    def until(now: float) -> None:
        while (due := buffer.due()) <= now:
            out.extend((due, row) for row in buffer.take(due))

    for row in trace.arrivals():
        now = float(trace.arrived[row])
        until(now)
        buffer.put(int(trace.number[row]) % 2**32, int(row), now)
        out.extend((now, payload) for payload in buffer.take(now))
    until(now + (depth + 1) * trace.period)
    last = max(i for i, (_, row) in enumerate(out) if row is not None)
    out = out[: last + 1]
    for at, row in out:
        if row is not None:
            played.at[row] = at
    times = np.array([at for at, _ in out])
    played.concealed = sum(row is None for _, row in out) * trace.period
    played.stretched = float(np.abs(np.diff(times) - trace.period).sum())
    played.late, played.end = buffer.counts.late, times[-1]
    return played


def plain(trace: Trace, jitter_ms: float = 60) -> Played:
    """Play each number at a fixed time after the first packet, as if the sender's clock and ours were one.

    A number whose time is more than 10 s away is dropped.
    """
    rows = trace.arrivals()
    first = rows[0]
    due = trace.arrived[first] + jitter_ms / 1000 + (trace.number - trace.number[first]) * trace.period
    heard = np.flatnonzero((trace.arrived <= due) & (due < trace.arrived + 10))
    _, kept = np.unique(trace.number[heard], return_index=True)  # a number is played once
    played = Played(np.full(len(due), np.nan), late=len(rows) - len(kept))
    played.at[heard[kept]] = due[heard[kept]]
    played.end = max(float(np.nanmax(played.at)) + trace.period, float(trace.arrived[rows[-1]]))
    played.concealed = played.end - float(np.nanmin(played.at)) - len(kept) * trace.period
    return played


TICK = 0.01
BUCKETS, BUCKET_S = 100, 0.02


@dataclass
class Delays:
    """NetEq's target delay: a quantile of how much later than the fastest packets the slowest come.

    Of every half second the largest delay, relative to the fastest packet of the last 2 s, goes into a
    histogram that forgets; the target is the upper end of the bucket at its 95 % quantile, 80 ms at first.
    """

    quantile: float = 0.95
    forget: float = 0.983
    target: float = 0.08
    histogram: Array = field(default_factory=lambda: np.zeros(BUCKETS))
    added: int = 0
    recent: deque[tuple[float, float]] = field(default_factory=deque)
    since: float = -inf
    largest: float = 0.0

    def arrived(self, media: float, now: float) -> None:
        """Take a packet of this time in the sound, that is newer than all others."""
        self.recent.append((now, now - media))
        while self.recent[0][0] < now - 2:
            self.recent.popleft()
        if now - self.since > 0.5:
            if self.since > -inf:
                self._add(min(BUCKETS - 1, int(self.largest / BUCKET_S + 1e-9)))
            self.since, self.largest = now, 0.0
        self.largest = max(self.largest, now - media - min(off for _, off in self.recent))

    def _add(self, bucket: int) -> None:
        self.added += 1
        forget = min(self.forget, max(0.0, 1 - 2 / (self.added + 1)))  # the first ones weigh more
        self.histogram *= forget
        self.histogram[bucket] += 1 - forget
        at = int(np.searchsorted(np.cumsum(self.histogram), self.quantile * self.histogram.sum() - 1e-12))
        self.target = (1 + at) * BUCKET_S


def neteq(trace: Trace, stretch_ms: float = 8, capacity: int = 200) -> Played:
    """Play as WebRTC's NetEq decides, every 10 ms; docs/conceal.md names the sources and what is left out.

    `stretch_ms`: what is taken out or put in at once, a pitch period. `capacity` in packets.
    """
    rows = deque(int(row) for row in trace.arrivals())
    played, delays = Played(np.full(len(trace.place), np.nan)), Delays()
    stretch, length, origin = stretch_ms / 1000, trace.period, trace.place - trace.number
    waiting: dict[int, int] = {}  # place: row
    target = int(trace.place[rows[0]])  # the place to be decoded next
    stream, newest = origin[rows[0]], -1
    ready = level = made = changed = 0.0  # decoded and not played; filtered; made up in a row; just stretched
    rest, now = 0, ceil(trace.arrived[rows[0]] / TICK) * TICK

    def decode() -> float:
        nonlocal target
        row = waiting.pop(target)
        played.at[row] = now + ready
        target += 1
        return length

    while rows or waiting or ready >= TICK:
        while rows and trace.arrived[rows[0]] <= now + 1e-9:
            row = rows.popleft()
            place = int(trace.place[row])
            if origin[row] != stream:
                delays = Delays()
            if origin[row] != stream or len(waiting) >= capacity:  # a new stream, or too much: begin anew
                played.late += len(waiting)
                waiting.clear()
                stream, target = origin[row], place
            if place < target or place in waiting:
                played.late += place < target
                continue
            waiting[place] = row
            if place > newest:
                newest = place
                delays.arrived(place * length, now)
        span = (max(waiting) - min(waiting) + 1) * length if waiting else 0.0
        keep = (251 + np.searchsorted((0.02, 0.06, 0.14), delays.target - 1e-9)) / 256
        if not made:
            level = max(0.0, keep * level + (1 - keep) * span - changed)
        changed, rest = 0.0, rest - 1
        low = max(0.75 * delays.target, delays.target - 0.085)
        high = max(delays.target, low + 0.02)
        if target in waiting:
            may = not made and (rest <= 0 or level >= 4 * high)
            if may and level >= high:
                while ready < 0.03 - 1e-9 and target in waiting:
                    ready += decode()
                if ready >= 0.03 - 1e-9:
                    changed = stretch
            elif may and level < low:
                changed = -stretch
        elif waiting and made:  # a later one is there: go on with it once what lacks is made up
            lacks = (min(waiting) - target) * length
            if lacks >= 1 or made >= 0.1 or made >= lacks - 1e-9 or level >= delays.target:
                target = min(waiting)
        while ready < TICK - 1e-9 and target in waiting:
            ready += decode()
        if changed:
            ready -= changed
            played.stretched += abs(changed)
            rest = 5
        if ready >= TICK - 1e-9:
            ready, made = ready - TICK, 0.0
        else:
            made += TICK
            played.concealed += TICK
        now += TICK
    played.end = now
    return played
