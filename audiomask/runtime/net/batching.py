"""Compute many streams on one thread, in batches, those in real time first.

The event loop puts bytes into a stream's inbox. When the thread is free, everything that is due goes to it as
one batch; what arrives meanwhile waits for the next, so the busier the server, the more streams share one
call of the graph. Batches begin GATHER_S apart at least: one stream never notices, and among many, those
whose blocks arrive close together share a call instead of filling the core one by one.

A stream's `due` is the moment at which the sound taken from it so far would have passed in real time. Streams
that are at most LIVE_S ahead of that all take part in every batch. Others, files that are sent as fast as the
socket takes them, get what EXTRA_S holds, the least advanced first. So a file is read in real time at least
and fast when there is room, and a live stream waits for one batch at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import numpy as np

from audiomask.runtime.net.counters import Counters
from audiomask.runtime.pcm import Pcm
from audiomask.runtime.player import feed_all

TURN_HOPS = 8  # of one stream in one batch: a client's bigger blocks are cut
LIVE_S = 0.25  # ahead of real time and still live: jitter of networks and of clients' timers
EXTRA_S = 0.004  # computing for streams ahead, in one batch: a quarter of the usual block of 16 ms
GATHER_S = 0.003  # from the start of a batch to that of the next: a fifth of the usual block of 16 ms
TURN_JOBS = 16  # changes of controls between two batches


class Stream:
    """A session, its inbox and its clocks; all but `session` and `pcm` belong to the event loop.

    `lost` has a byte for each frame in the inbox, 1 where it did not arrive; it is empty where nothing can be
    lost. `max_rate` is the seconds of sound that may be taken per second, once `burst_s` seconds have been
    taken at once; the rest stays in the inbox. `deliver(data, since)` gets bytes, a text, or the exception
    that ended the stream; `since` is when the oldest of the sound arrived, 0 for a stream that is ahead of
    real time.
    """

    def __init__(
        self,
        session: Any,  # a `Session`, or what is fed alike
        pcm: Pcm,
        worker: Worker,
        deliver: Callable[[bytes | str | Exception, float], None],
        max_rate: float,
        burst_s: float,
    ):
        self.session, self.pcm, self.worker, self.deliver = session, pcm, worker, deliver
        pace = session.sample_rate, session.hop, session.latency
        self.rate, self.hop, self.latency = getattr(session, "pace", pace)  # in frames of `pcm`
        self.max_rate, self.window = max_rate, burst_s / max_rate
        self.inbox, self.lost = bytearray(), bytearray()
        self.taken: bytearray | None = None  # flags of the sound being computed
        self.since = self.due = self.paid = 0.0
        self.flying = self.choked = self.throttled = False
        self.samples_in = self.samples_out = 0
        self.ending: asyncio.Event | None = None  # set when the signal has been flushed
        self.moved = asyncio.Event()  # set after every batch with this stream

    @property
    def whole(self) -> int:
        """Return how many frames wait."""
        return len(self.inbox) // self.pcm.frame

    async def move(self) -> None:
        """Wait for the next batch with this stream, or for its end."""
        self.moved.clear()
        await self.moved.wait()

    def pay(self, frames: int, now: float) -> None:
        self.paid = max(self.paid, now) + frames / self.rate / self.max_rate

    def request(self, data: bytearray | None) -> tuple:
        """Return what `feed_all` takes for this sound, or for the end."""
        if data is None:
            return self.session, None
        lost = None if self.taken is None else np.frombuffer(self.taken, bool)
        return self.session, self.pcm.decode(data), lost

    def take(self, frames: int, now: float) -> bytearray:
        self.due = max(self.due, now) + frames / self.rate
        self.pay(frames, now)
        size = frames * self.pcm.frame
        data = self.inbox[:size]
        self.taken = self.lost[:frames] or None
        del self.inbox[:size], self.lost[:frames]
        self.samples_in += frames
        self.flying = True
        return data


Turn = list[tuple[Stream, bytearray | None, float]]  # sound and its time of arrival, or the end (None)
Job = tuple[Callable[[], Any], Future]


class Worker:
    """A thread that computes, and the event loop's end of it.

    The histograms of the counters have its turns if it is `timed`.
    """

    def __init__(self, counters: Counters, timed: bool = True):
        self.counters, self.timed, self.load = counters, timed, 0
        self._loop = asyncio.get_running_loop()
        self._ready: dict[Stream, None] = {}
        self._jobs: deque[Job] = deque()
        self._turns: SimpleQueue[tuple[Turn, list[Job]] | None] = SimpleQueue()
        self._busy = self._planned = False
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0  # no batch begins before
        self._cost = 0.001  # seconds per row and hop, measured from the first batch on
        self._thread = threading.Thread(target=self._run, name="audiomask-compute", daemon=True)
        self._thread.start()

    def put(self, stream: Stream, data: bytes, now: float, lost: bytes = b"") -> None:
        """Take sound that has arrived, or is missing."""
        if len(stream.inbox) < stream.pcm.frame:
            stream.since = now
        stream.inbox += data
        stream.lost += lost
        self.wake(stream)

    def wake(self, stream: Stream) -> None:
        """Look at a stream again."""
        self._ready[stream] = None
        self._plan()

    def forget(self, stream: Stream) -> None:
        """Compute nothing more of a stream."""
        self._ready.pop(stream, None)
        stream.inbox.clear()
        if stream.ending and not stream.flying:
            self._ended(stream)

    async def flush(self, stream: Stream) -> None:
        """End the signal: the rest is delivered, and a new one may begin."""
        if not stream.ending:
            stream.ending = asyncio.Event()
            self.wake(stream)
        await stream.ending.wait()

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run a function that touches a session where sessions run, between two batches."""
        future: Future = Future()
        self._jobs.append((function, future))
        self._plan()
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """End the thread after what it has."""
        self._turns.put(None)
        self._thread.join(10)

    def _plan(self) -> None:
        # It waits, since everything that this round of the event loop brings belongs to the same batch.
        if not (self._busy or self._planned):
            self._planned = True
            if (wait := self._next - self._loop.time()) > 0:
                self._loop.call_later(wait, self._start)
            else:
                self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._planned = False
        if self._busy:
            return
        turn = self._choose(self._loop.time())
        jobs = [self._jobs.popleft() for _ in range(min(TURN_JOBS, len(self._jobs)))]
        if turn or jobs:
            self._busy = True
            self._next = self._loop.time() + GATHER_S
            self._turns.put((turn, jobs))

    def _choose(self, now: float) -> Turn:
        turn: Turn = []
        ahead: list[Stream] = []
        wait = 0.0
        for stream in list(self._ready):
            whole = stream.whole
            if stream.choked or not (whole or stream.ending):
                del self._ready[stream]  # until there is room, or sound
            elif (excess := stream.paid - now - stream.window) > 0:
                wait = min(wait or excess, excess)
                if not stream.throttled:
                    stream.throttled = True
                    self.counters.add("throttled_total")
            elif not whole:
                stream.inbox.clear()  # drop a frame that was never completed
                stream.pay(stream.latency, now)  # a flush computes so much
                stream.flying = True
                turn.append((stream, None, 0.0))
            elif stream.due - now > LIVE_S:
                ahead.append(stream)
            else:
                stream.throttled &= excess > -stream.window / 2
                since = stream.since
                stream.since = now  # for the sound that stays
                turn.append((stream, stream.take(min(whole, TURN_HOPS * stream.hop), now), since))
        room = EXTRA_S / self._cost
        for stream in sorted(ahead, key=lambda s: s.due):
            batch = stream.session.engine.batch
            if room < batch and turn:
                break
            hops = min(TURN_HOPS, max(1, int(room / batch)))
            room -= hops * batch
            turn.append((stream, stream.take(min(stream.whole, hops * stream.hop), now), 0.0))
        if wait and not turn:
            if self._timer:
                self._timer.cancel()
            self._timer = self._loop.call_later(wait + 0.001, self._plan)
        return turn

    def _run(self) -> None:
        while (item := self._turns.get()) is not None:
            self._compute(*item)
            item = None  # a session that ends now is not kept until the next batch

    def _compute(self, turn: Turn, jobs: list[Job]) -> None:
        start = time.perf_counter()
        outputs: list[bytes | str | Exception]
        try:
            made = feed_all([stream.request(data) for stream, data, _ in turn])
            outputs = [
                y if isinstance(y, Exception | bytes | str) else stream.pcm.encode(np.atleast_2d(y))
                for (stream, _, _), y in zip(turn, made, strict=True)
            ]
        except Exception as error:  # nothing may end this thread, which all streams need
            outputs = [error] * len(turn)
        took = time.perf_counter() - start
        for function, future in jobs:
            if future.set_running_or_notify_cancel():  # else its socket has gone
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)
        with contextlib.suppress(RuntimeError):  # a loop that was stopped in a hurry
            self._loop.call_soon_threadsafe(self._finish, turn, outputs, took)

    @staticmethod
    def _ended(stream: Stream) -> None:
        assert stream.ending
        stream.ending.set()
        stream.ending = None

    def _finish(self, turn: Turn, outputs: list, took: float) -> None:
        self._busy = False
        work = 0.0
        for (stream, data, since), output in zip(turn, outputs, strict=True):
            session = stream.session
            frames = stream.latency if data is None else len(data) // stream.pcm.frame
            work += frames / stream.hop * session.engine.batch
            stream.deliver(output, since)
            stream.flying = False
            if data is not None:
                self.counters.add("audio_seconds_total", frames / stream.rate, "in")
            if stream.ending and (data is None or stream not in self._ready):  # forgotten meanwhile
                self._ended(stream)
            stream.moved.set()
        if turn:
            rows = sum(stream.session.engine.batch for stream, _, _ in turn)
            if self.timed:
                self.counters.histograms["stacked_rows"].observe(rows)
                self.counters.histograms["turn_seconds"].observe(took)
            self._cost += 0.1 * (took / max(work, 1) - self._cost)
        self._plan()
