"""Microphone to loudspeaker through a `Session`, at a lag that stays what it was set to.

    live = Live(session, block=256, buffer=640)
    live.start(microphone, loudspeaker)     # two `Device`s; their threads call `capture` and `play`
    live.work(stop)                         # a thread of its own: the model runs here
    live.stop()

The callbacks of the devices only copy into and out of rings. What keeps the lag:

- **In flight** are the samples that were captured and neither played nor dropped. A device hands them over in
  chunks, so the one that is being recorded counts by the time since the last: what is left is smooth, and the
  time that a sample spends between the two devices is what is in flight plus the session's own lag.
- The loudspeaker starts, and starts again after it ran dry, once ``buffer`` samples are in flight, and passes
  over what is more. So a stall of the model, or of a device, costs the sound that came too late, and no more.
- When the middle of the last half second is off by more than 20 ms (a loudspeaker that stalled), it does that
  at once: fade out, skip or wait, fade in.
- When the middle of the last 4 seconds is off by more than 2 ms (two clocks that drift apart), that much of
  the output is left out or repeated by a crossfade, where it is quiet or repeats itself; no resampling, so
  all other samples are as the model made them.
- Input that is older than the buffer when the model comes to it is dropped before the model, which is then
  back in time however slow it is. (What waits for the loudspeaker is then older by what was cut behind it,
  until it is played.)
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from audiomask.audio import AudioError
from audiomask.runtime.recorder import Recorder
from audiomask.runtime.ring import Ring, mismatch, ramp, splice
from audiomask.runtime.session import Session

FADE_S = 0.004  # of every splice, start and stop: long enough for a step to be no click
NEAR_S, FAR_S = 0.002, 0.020  # deviations of the lag that a splice mends, and that a new start mends
SHORT_S, LONG_S = 0.5, 4.0  # what "the middle" is taken over: long, since callbacks come late by milliseconds
QUIET = 1e-3  # a splice waits for a place where its sides differ by 30 dB less than the sound of late has ...
POWER_S = 3.0  # ... taken over so long; twice the deviation no longer waits
BUSY = 0.5  # of the time of a block, that the model needs: with less it catches up as fast as sound comes
GONE_S = 2.0  # a device that has not called for so long is gone; the longest buffers are well under 1 s
SPARE_S = 2.0  # room in the rings beyond the buffer
HISTORY = 1024  # callbacks remembered, 4 s at 256 a second


class DeviceError(AudioError):
    """A sound device that cannot be opened, or left."""


class Device(Protocol):
    """One direction of a sound card. ``latency``: seconds of sound in its own and the system's buffers."""

    name: str
    latency: float

    def start(self, callback: Callable[[np.ndarray, bool], None], ended: Callable[[], None]) -> None:
        """Call ``callback(chunk [channels, n], xrun)`` from now on, to read or to fill; ``xrun``: samples
        were lost before it. ``ended()`` if that stops by itself."""

    def stop(self) -> None:
        """No more calls. Never raises: the device may be gone."""


@dataclass
class Counts:
    """What went wrong so far. In samples of one channel: ``lost_in``, ``lost_out`` (dropped to keep the lag)
    and ``silent`` (played for want of sound, the start not counted)."""

    overflows: int = 0  # input that the system or a full ring lost
    underflows: int = 0  # output that was not there in time
    recovered: int = 0  # times the lag was brought back by a cut of the input or a new start of the output
    splices: int = 0  # corrections of drift
    lost_in: int = 0
    lost_out: int = 0
    silent: int = 0


@dataclass(frozen=True)
class Status:
    """A moment. ``peak_in``, ``peak_out``: since the last one, full scale 1; ``lag`` in samples; ``speed``:
    time per block by its duration, smoothed."""

    peak_in: float
    peak_out: float
    lag: float
    speed: float
    running: bool


def least_buffer(block: int, chunk_in: int, chunk_out: int, *, even: bool = True) -> int:
    """Samples that must be in flight for a loudspeaker that takes ``chunk_out`` at once: those, a chunk of
    the microphone that is not there yet, and what waits for the rest of its block unless chunks are
    ``even``, whole blocks."""
    return chunk_in + chunk_out + (0 if even else block - 1)


class Live:
    """``session``: made with ``trim=False, block=block``. ``block``: samples per call of it. ``buffer``:
    samples to keep in flight outside of it, at least what `least_buffer` says of the devices' chunks (else it
    is raised to that once they are seen); ``lag = buffer + session.lag``. ``clock``: seconds, for tests.

    Attributes: ``counts``; ``seconds`` of sound captured so far."""

    def __init__(
        self,
        session: Session,
        block: int,
        buffer: int,
        *,
        record_in: Recorder | None = None,
        record_out: Recorder | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        if session.trim:
            raise ValueError("a live session returns as many samples as it gets: trim=False")
        self.session, self.block, self.buffer, self.clock = session, block, buffer, clock
        self.rate = session.sample_rate
        self.record_in, self.record_out = record_in, record_out
        self.counts = Counts()
        self._x = np.zeros((session.channels, block), np.float32)
        self._fade = ramp(max(1, round(FADE_S * self.rate)))
        self._changes: deque[dict[str, Any]] = deque()
        self._devices: list[Device] = []
        self._ready = threading.Event()
        self._stepping = threading.Lock()  # a block belongs to the rings that it began with
        self._failure: BaseException | None = None
        self._earlier = 0
        self._peaks, self._speed, self._power = [0.0, 0.0], 0.0, 0.0
        self._rings()
        self._restart()

    def _rings(self) -> None:
        room = self.buffer + 2 * self.block + round(SPARE_S * self.rate)
        self._in, self._out = Ring(self.session.channels, room), Ring(self.session.outputs, room)

    def _restart(self) -> None:
        self._earlier += self._in.written
        self._rings()
        self._removed = 0  # samples that the worker dropped, less those that it repeated
        self._gone: str | None = None
        self._captured_at = self._played_at = self.clock()
        self._period = self.block  # samples of the last play
        self._chunks, self._even = [0, 0], True  # the largest of captures and plays; captures of whole blocks
        self._playing = self._begun = self._again = False
        self._history = np.zeros(HISTORY)
        self._plays = 0  # entries of the history since the last start

    @property
    def lag(self) -> int:
        """Samples between a capture and the play of the same sound, as set."""
        return self.buffer + self.session.lag

    # The two callbacks, on the threads of the devices.

    def capture(self, x: np.ndarray, xrun: bool) -> None:
        """``x [channels, n]`` from the microphone."""
        missed = x.shape[1] - self._in.write(x)
        if xrun or missed:
            self.counts.overflows += 1
            self.counts.lost_in += missed
        self._captured_at = self.clock()
        self._fit(0, x.shape[1])
        self._ready.set()

    def play(self, y: np.ndarray, xrun: bool) -> None:
        """Fill ``y [any number of channels, n]`` for the loudspeaker."""
        n = y.shape[1]
        flight = self.flight()
        self._played_at, self._period = self.clock(), n
        self._fit(1, n)
        self.counts.underflows += xrun
        if self._playing and not self._again and self._out.fill >= n:
            self._out.read(y)
            self._history[self._plays % HISTORY] = flight
            self._plays += 1
            return
        y[:] = 0
        if self._playing:  # ran dry, or is to start anew
            if self._again:
                self.counts.recovered += 1
            else:
                self.counts.underflows += 1
            got = self._out.read(y)
            self.counts.silent += n - got
            fade = min(got, len(self._fade))
            y[:, got - fade : got] *= 1 - self._fade[:fade]
            self._plays, self._playing, self._again = 0, False, False
            return
        excess = int(flight) - self.buffer
        if excess < 0 or self._out.fill < excess + n:
            self.counts.silent += n * self._begun
            return
        passed = self._out.skip(excess)
        self.counts.lost_out += passed * self._begun
        self._out.read(y)
        fade = min(n, len(self._fade))
        y[:, :fade] *= self._fade[:fade]
        self._plays, self._playing, self._begun, self._again = 0, True, True, False

    def _fit(self, side: int, n: int) -> None:
        even = self._even and (side == 1 or n % self.block == 0)
        if n > self._chunks[side] or even != self._even:
            self._chunks[side], self._even = max(n, self._chunks[side]), even
            self.buffer = max(self.buffer, least_buffer(self.block, *self._chunks, even=even))

    def flight(self) -> float:
        """Samples between the two devices, the session's lag not counted."""
        recording = min(max(0.0, self.clock() - self._captured_at) * self.rate, self._chunks[0])
        return self._in.written - self._out.taken - self._removed + recording

    # The worker.

    def work(self, stop: threading.Event) -> None:
        """Run the model on what is captured, until ``stop`` is set. For a thread of its own; `check` raises
        what it raises."""
        try:
            while not stop.is_set():
                self._ready.wait(0.1)
                self._ready.clear()
                while not stop.is_set() and self.step():
                    pass
            self.pump()
        except BaseException as error:
            self._failure = error

    def pump(self) -> None:
        """All whole blocks that wait."""
        while self.step():
            pass

    def step(self) -> bool:
        """One block, if a whole one waits; whether it did."""
        with self._stepping:
            return self._in.fill >= self.block and self._step()

    def _step(self) -> bool:
        while self._changes:
            self.session.set(**self._changes.popleft())
        keep, more = self.buffer, self.block  # what is older than the buffer cannot be played in time
        if not self._playing and self._speed > BUSY:  # nor can a slow model work off what waits
            keep, more = self.block, self.block // 4
        if self._in.fill >= keep + more:
            self._cut(self._in.fill - keep)
        else:
            self._take(self._x)
        start = self.clock()
        y = np.atleast_2d(self.session.feed(self._x))
        share = (self.clock() - start) * self.rate / self.block
        self._speed = share if not self._speed else 0.95 * self._speed + 0.05 * share
        y = self._steady(y)
        self._meet(1, y)
        if self.record_out:
            self.record_out.write(y)
        full = y.shape[1] - self._out.write(y)  # the loudspeaker has not called for seconds
        self._removed += full
        self.counts.lost_out += full
        return True

    def _take(self, x: np.ndarray) -> None:
        self._in.read(x)
        self._meet(0, x)
        if self.record_in:
            self.record_in.write(x)

    def _meet(self, side: int, x: np.ndarray) -> None:
        peak = float(np.abs(x).max())
        if peak < np.inf:  # no NaN either
            self._peaks[side] = max(self._peaks[side], peak)

    def _cut(self, late: int) -> None:
        """Drop ``late`` samples of the input, across a crossfade."""
        old = np.empty((self.session.channels, late), np.float32)
        self._take(old)
        self._take(self._x)
        fade = min(late, self.block, len(self._fade))
        rise = ramp(fade)
        self._x[:, :fade] = old[:, :fade] * (1 - rise) + self._x[:, :fade] * rise
        self._removed += late
        self.counts.lost_in += late
        self.counts.recovered += 1

    def _middle(self, seconds: float) -> float:
        """By how many samples the median of what was in flight is off, 0 until there is enough of it."""
        need = min(HISTORY, max(8, int(seconds * self.rate / self._period)))
        if self._plays < need:
            return 0.0
        last = np.arange(self._plays - need, self._plays) % HISTORY
        return float(np.median(self._history[last])) - self.buffer

    def _steady(self, y: np.ndarray) -> np.ndarray:
        """The output ``[C, T]``, with a splice in it where the lag asks for one."""
        self._power += (float((y * y).mean()) - self._power) * min(1.0, self.block / (POWER_S * self.rate))
        if abs(self._middle(SHORT_S)) > FAR_S * self.rate:
            self._again = True
            return y
        off = self._middle(LONG_S)
        if abs(off) <= NEAR_S * self.rate:
            return y
        # Short blocks hold short splices.
        shift = int(np.clip(off, -(y.shape[1] // 2), y.shape[1] // 2))
        fade = min(len(self._fade), (y.shape[1] - abs(shift)) // 2)
        if not shift or not fade:
            return y
        cost = mismatch(y, shift, fade)
        place = int(cost.argmin())
        if cost[place] > QUIET * self._power and abs(off) < 2 * NEAR_S * self.rate:
            return y
        self._history -= shift
        self._removed += shift
        self.counts.splices += 1
        return splice(y, shift, fade, place)

    # The owner's side.

    def set(self, **values: Any) -> None:
        """Controls of the session, changed before its next block."""
        self._changes.append(values)

    def start(self, source: Device, sink: Device) -> None:
        """From ``source`` to ``sink``; again after `stop`, with others if need be. Errors: `DeviceError`."""
        with self._stepping:
            self._restart()
        self._devices = [source, sink]
        try:
            for device, callback in ((source, self.capture), (sink, self.play)):
                device.start(callback, partial(self._ended, device.name))
        except BaseException:
            self.stop()
            raise
        self._captured_at = self._played_at = self.clock()

    def _ended(self, name: str) -> None:
        self._gone = name

    def check(self) -> None:
        """Errors: `DeviceError` if one of the devices is gone; whatever ended `work`."""
        if self._failure is not None:
            raise self._failure
        gone, now = self._gone, self.clock()
        for device, last in zip(self._devices, (self._captured_at, self._played_at), strict=False):
            if now - last > GONE_S and not gone:
                gone = device.name
        if gone:
            raise DeviceError(
                f"{gone}: the sound device is gone or stands still; plug it in again, or choose another "
                "(audiomask live --list-devices); --reconnect waits for it"
            )

    def status(self) -> Status:
        """How it goes."""
        peaks, self._peaks = self._peaks, [0.0, 0.0]
        flight = self._middle(SHORT_S) + self.buffer if self._playing else self.flight()
        return Status(peaks[0], peaks[1], flight + self.session.lag, self._speed, self._playing)

    @property
    def seconds(self) -> float:
        return (self._earlier + self._in.written) / self.rate

    def stop(self) -> None:
        """Let the devices go."""
        devices, self._devices = self._devices, []
        for device in devices:
            device.stop()
        self._gone = None  # the system may call a device that was stopped one that has ended
