"""Pass a socket's numbered packets through a `JitterBuffer` into the inbox of its stream."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import Any

from audiomask.runtime.net.batching import Stream
from audiomask.runtime.net.requests import BadValue, Refusal, rest
from audiomask.runtime.packets.jitter_buffer import NUMBER, Counts, JitterBuffer, shape

# Of the hello's packets: types, and values where none is given.
FIELDS = {"ms": ((int, float), 20), "jitter_ms": ((int, float), 60), "realtime": (bool, True)}


class Intake:
    """The packet mode of a socket, which belongs to the event loop.

    `blank` are the bytes that take the place of a packet that did not come.

    `wanted` is what the hello says of packets, `facts` the answer. Values that make no sense raise `Refusal`.
    """

    def __init__(self, wanted: dict[str, Any], stream: Stream, room: int):
        session = stream.session
        ms, jitter_ms, realtime = rest(wanted, **FIELDS).values()
        try:
            self.size, depth = shape(ms, jitter_ms, session.sample_rate)
        except ValueError as error:
            raise BadValue(str(error)) from None
        self._prepare(stream, room, JitterBuffer(depth, self.size / session.sample_rate, realtime=realtime))
        self.blank = bytes(self.size * stream.pcm.frame)
        self.facts = {
            "size": self.size,
            "jitter": depth * self.size,
            "delay": depth * self.size + session.lag_of(self.size),
            "realtime": realtime,
            "told": session.artifact.lost is not None,
        }

    def _prepare(self, stream: Stream, room: int, jitter: JitterBuffer) -> None:
        self.stream, self.room, self.jitter = stream, room, jitter
        self._loop = asyncio.get_running_loop()
        self._due: deque[bytes | None] = deque()  # packets for which the inbox had no room yet
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._told: dict[str, Counts] = {}

    def arrived(self, data: bytes, now: float) -> None:
        """Take a message, or raise `Refusal` if its size is not that of a packet."""
        size = NUMBER.size + self.size * self.stream.pcm.frame
        if len(data) != size:
            words = f"a packet of {len(data)} bytes; a number and {self.size} samples are {size}"
            raise Refusal("bad_packet", 1007, words)
        self.jitter.put(NUMBER.unpack_from(data)[0], data[NUMBER.size :], now)
        self._play()

    def _play(self) -> None:
        """Move packets that the buffer releases to the inbox; run again when the next one is due."""
        if self._closed:
            return
        now = self._loop.time()
        self._due.extend(self.jitter.take(now))
        while self._due and len(self.stream.inbox) <= self.room:
            payload = self._due.popleft()
            data = payload or self.blank
            flags = bytes([payload is None]) * (len(data) // self.stream.pcm.frame)
            self.stream.worker.put(self.stream, data, now, flags)
        if self._timer:
            self._timer.cancel()
        if (due := self.jitter.due()) < float("inf"):
            self._timer = self._loop.call_later(max(0.001, due - now), self._play)

    async def settled(self) -> None:
        """Wait until the inbox holds all packets that the buffer has released."""
        while self._due and not self._closed:
            await self.stream.move()
            self._play()

    async def flush(self) -> None:
        """End the signal: all that came is in the inbox then, and numbers may begin anywhere."""
        self._due.extend(self.jitter.flush())
        self._play()
        await self.settled()

    def close(self) -> None:
        """Release nothing more; the caller has to wake whoever waits for `Stream.moved`."""
        self._closed = True
        if self._timer:
            self._timer.cancel()

    def news(self, whom: str) -> dict[str, int]:
        """Return what became of packets since the last news for `whom`."""
        before, self._told[whom] = self._told.get(whom, Counts()), replace(self.jitter.counts)
        return self._told[whom].since(before)
