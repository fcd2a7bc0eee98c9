"""Put numbered packets in order: missing, late, double or shuffled in, each place once out.

    buffer = JitterBuffer(depth=3)
    for number, payload in arrivals:
        buffer.put(number, payload)
        for payload in buffer.take():      # None: lost
            play(payload)
    for payload in buffer.flush():         # the end: what still waits
        play(payload)

A place is given up once a packet `depth` places further on has arrived, so order within `depth` does not
matter, and the same packets give the same output at whatever speed they come. In real time, a clock runs too,
and a place is given up when it is due, whether or not anything arrives:

    due = start + place period + depth period + patience

`start` is the sender's start as the fastest packet of the last `RECENT_S` shows it, so a sender is followed
whose clock is slower or faster than ours. (One that sleeps between packets is slow by per cents.) A place
whose packet is there needs no `patience`. One whose packet is missing is waited for by as much as others of
the last `PATIENCE_S` were later than the budget, but no longer than until a packet `depth` places further
on has arrived. So a packet in time waits `depth` periods and hardly more, and after a spike so do the next.

Numbers wrap: a number is read as the candidate nearest to the highest so far. A packet far from it
(`LEAP_S`), or that comes too early by `PAUSE_S`, counts as a stray; if the next number follows it, the
sender has begun anew, at the next place. So do packets in a row, for `AGAIN_S`, that are past: a sender
that begins anew within `LEAP_S`, or one that paused without using up numbers and has been overtaken by the
clock by `PAUSE_S`. (A network that held packets up, or sends them twice, does so faster than a talker
speaks, or has new ones between them.)
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import Any

NUMBER = struct.Struct("<I")  # before the samples of a packet in a websocket's message
RECORD = struct.Struct("<IH")  # before them in a pipe: number, bytes of samples
NUMBERS = 2**32  # after the last one comes 0
PACKET_MS, JITTER_MS = (1.0, 200.0), (0.0, 2000.0)  # a conversation bears less; the bound is for memory
LEAP_S = 10.0  # RFC 3550 takes 60 s (MAX_DROPOUT, 3000 packets); a lost second costs a computed one here
PAUSE_S = 1.0  # few networks hold packets up for so long and then hand them over at a talker's pace
RECENT_S = 0.4  # of packets show where the sender is: fewer follow its clock faster, more bear more jitter
PATIENCE_S = 1.5  # of packets show how late others may be
AGAIN_S = 0.08  # of past packets in a row: a sender that begins anew is heard after this and the budget
HISTORY = 1024  # played places to remember, to tell a duplicate from a late one: 20 s of 20 ms


def shape(packet_ms: float, jitter_ms: float, sample_rate: int) -> tuple[int, int]:
    """Return a packet's samples and how many cover `jitter_ms`; ValueError beyond the bounds."""
    for what, ms, (low, high) in (("packets", packet_ms, PACKET_MS), ("jitter", jitter_ms, JITTER_MS)):
        if not low <= ms <= high:
            raise ValueError(f"{what} of {ms:g} ms are outside {low:g} to {high:g} ms")
    size = max(1, round(packet_ms * sample_rate / 1000))
    return size, ceil(jitter_ms * sample_rate / 1000 / size - 1e-6)


@dataclass
class Counts:
    """Counts of packets and of places."""

    received: int = 0  # packets that came
    lost: int = 0  # places without their packet
    late: int = 0  # dropped, since their place was given up
    duplicated: int = 0  # dropped, since their place had its packet
    reordered: int = 0  # after a later one, yet in time
    stray: int = 0  # dropped, since far from all others
    played: int = 0  # all places

    def since(self, earlier: Counts) -> dict[str, int]:
        """Return what has been added, by name."""
        return {name: value - getattr(earlier, name) for name, value in vars(self).items()}

    def __str__(self) -> str:
        share = self.lost / max(1, self.played)
        return (
            f"{self.played} packets, {self.lost} lost ({share:.1%}); {self.received} received, of which "
            f"{self.late} late, {self.duplicated} duplicated, {self.reordered} reordered, {self.stray} stray"
        )


class JitterBuffer:
    """A buffer that returns payloads (any object but None) in the order of their numbers.

    Args:
        depth: places that a packet may be behind a later one, from 0.
        period: seconds of a packet, for the bounds above.
        realtime: use a clock; `put` and `take` then want `now` in seconds of one monotonic clock.
    """

    def __init__(self, depth: int, period: float = 0.02, *, realtime: bool = False):
        self.depth, self.period, self.realtime = depth, period, realtime
        self.counts = Counts()
        self.reset()

    def reset(self) -> None:
        """Start a new signal, whose numbers may begin anywhere; the counts go on."""
        self._waiting: dict[int, Any] = {}
        self._had: dict[int, None] = {}  # places played with their packet, the oldest first
        self._ahead: list[Any] = []  # given up already, not yet taken
        self._next = 0  # the place to be played next
        self._begun = False
        self._last: tuple[int, int] | None = None  # the highest (number, place)
        self._stray: int | None = None  # the number that would follow a stray
        self._start: float | None = None  # the sender's, by our clock
        # the start as each of the newest packets shows it
        self._starts: deque[float] = deque(maxlen=max(3, ceil(RECENT_S / self.period)))
        # by how much each came later than the budget
        self._excess: deque[float] = deque(maxlen=max(3, ceil(PATIENCE_S / self.period)))
        self._enough = max(3, ceil(AGAIN_S / self.period))  # packets in a row that show a new beginning
        # number, payload, time and count of packets that are past
        self._again: deque[tuple[int, Any, float, str]] = deque(maxlen=self._enough)

    def put(self, number: int, payload: Any, now: float = 0.0) -> None:
        """Take a packet that has arrived; ValueError for a number of more than 32 bits."""
        if not 0 <= number < NUMBERS:
            raise ValueError(f"packet number {number} is outside 0 to {NUMBERS - 1}")
        self.counts.received += 1
        if self._last is None:
            self._last = number, 0
        ahead = (number - self._last[0] + NUMBERS // 2) % NUMBERS - NUMBERS // 2
        place = self._last[1] + ahead
        early = self._start is not None and self._start + place * self.period - now > PAUSE_S
        if early or abs(ahead) > max(self.depth, LEAP_S / self.period):
            if number != self._stray:
                self._stray = (number + 1) % NUMBERS
                self.counts.stray += 1
                return
            place = self._anew(number)
        self._stray = None
        if not self._begun:  # the first to arrive need not be the first
            self._next = min(self._next, place)
        newest = place > self._last[1]
        past = self._next - place > (PAUSE_S / self.period if newest else 0)
        if self.realtime and not past:
            self._meet(place, now)
        kind = "duplicated" if place in self._waiting or place in self._had else "late"
        if kind == "duplicated" or place < self._next:
            setattr(self.counts, kind, getattr(self.counts, kind) + 1)
        else:
            self.counts.reordered += place < self._last[1]
            self._waiting[place] = payload
        if newest:
            self._last = number, place
        if past:
            self._restarted(number, payload, now, kind)
        elif newest:
            self._again.clear()
        self._give(self._last[1] - self.depth + 1)

    def _restarted(self, number: int, payload: Any, now: float, kind: str) -> None:
        """Begin anew if packets in a row, for `AGAIN_S`, are past; a few may lack."""
        again = self._again
        if again and not 0 < (number - again[-1][0]) % NUMBERS <= self._enough:
            again.clear()
        again.append((number, payload, now, kind))
        few = len(again) < self._enough
        if few or (self.realtime and now - again[0][2] < (self._enough - 1) * self.period / 2):
            return
        base = again[0][0]
        first = self._anew(base)
        for heard, waiting, at, counted in again:
            place = first + (heard - base) % NUMBERS
            self._last = heard, place
            self._waiting[place] = waiting
            setattr(self.counts, counted, getattr(self.counts, counted) - 1)  # it is heard after all
            if self.realtime:
                self._meet(place, at)
        again.clear()

    def _anew(self, number: int) -> int:
        """Play out what waits, give `number` the place after it, and return that place."""
        assert self._last
        self._give(self._last[1] + 1)
        self._last, self._start = (number, self._next), None
        self._starts.clear()
        self._excess.clear()
        return self._next

    def _meet(self, place: int, now: float) -> None:
        """Correct the sender's start by a packet that has arrived."""
        start = now - place * self.period
        excess = start - (start if self._start is None else self._start) - self.depth * self.period
        self._excess.append(min(max(0.0, excess), PAUSE_S))
        self._starts.append(start)
        self._start = min(self._starts)

    def _give(self, stop: int) -> None:
        """Give up all places below `stop`."""
        while self._next < stop:
            payload = self._waiting.pop(self._next, None)
            self.counts.played += 1
            if payload is None:
                self.counts.lost += 1
            else:
                self._had[self._next] = None
                if len(self._had) > HISTORY:
                    del self._had[next(iter(self._had))]
            self._ahead.append(payload)
            self._next += 1
            self._begun = True

    def take(self, now: float = 0.0) -> list[Any]:
        """Return the payloads of the places given up by now, in order, None for a lost one."""
        while now >= self.due():
            self._give(self._next + 1)
        taken, self._ahead = self._ahead, []
        return taken

    def due(self) -> float:
        """Return the latest time at which the next place is given up, infinity where none is set."""
        if self._start is None:
            return float("inf")
        patience = 0.0 if self._next in self._waiting else max(self._excess)
        return self._start + (self._next + self.depth) * self.period + patience

    def flush(self) -> list[Any]:
        """End the signal: return all that waits, up to the highest number, then reset."""
        if self._last:
            self._give(self._last[1] + 1)
        taken, self._ahead = self._ahead, []
        self.reset()
        return taken
