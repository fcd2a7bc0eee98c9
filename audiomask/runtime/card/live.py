"""Run a `Session` from microphone to loudspeaker, at a lag that stays what it was set to.

    live = Live(session, block=256, buffer=640)
    live.start(microphone, loudspeaker)     # two `Device`s, whose threads call `capture` and `play`
    live.work(stop)                         # runs the model, in a thread of its own
    live.stop()

The callbacks of the devices only copy into and out of rings. These rules keep the lag:

- **In flight** are the samples that were captured and neither played nor dropped. A device hands them over in
  chunks, so the one that is being recorded counts by the time since the last. The count is then smooth, and a
  sample needs what is in flight, plus the session's own lag, from one device to the other.
- The loudspeaker starts, and starts again after it ran dry, once `buffer` samples are in flight, and skips
  what is more. So a stall of the model or of a device costs only the sound that came too late.
- When the median lag of the last half second is off by more than 20 ms (a loudspeaker that stalled), the
  output starts again at once: it fades out, skips or waits, and fades in.
- When the median lag of the last 4 seconds is off by more than 2 ms (two clocks that drift), that much of the
  output is left out or repeated by a crossfade, where it is quiet or repeats itself. Nothing is resampled, so
  all other samples are as the model made them.
- Input that is older than the buffer when the model comes to it is dropped before the model, which is then
  back in time however slow it is. (Until it is played, the output that waits is older by what was cut.)
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
from audiomask.runtime.card.recorder import Recorder
from audiomask.runtime.card.ring import Ring, mismatch, ramp, splice
from audiomask.runtime.session import Session

FADE_S = 0.004  # length of every splice, start and stop: long enough for a step to be no click
NEAR_S, FAR_S = 0.002, 0.020  # deviations of the lag that a splice mends, and that a new start mends
SHORT_S, LONG_S = 0.5, 4.0  # lengths of the medians: long, since callbacks come late by milliseconds
QUIET = 1e-3  # a splice waits for a place where its sides differ by 30 dB less than the recent level ...
POWER_S = 3.0  # ... which is taken over so long; at twice the deviation it no longer waits
BUSY = 0.5  # fraction of a block's time that the model needs: below this it catches up as fast as sound comes
GONE_S = 2.0  # a device that has not called for so long is lost; the longest buffers are well under 1 s
SPARE_S = 2.0  # room in the rings beyond the buffer
HISTORY = 1024  # callbacks remembered, 4 s at 256 a second


class DeviceError(AudioError):
    """An error of a sound device that cannot be opened, or is lost."""


class Device(Protocol):
    """One direction of a sound card; it and the system buffer `latency` seconds of sound."""

    name: str
    latency: float

    def start(self, callback: Callable[[np.ndarray, bool], None], ended: Callable[[], None]) -> None:
        """Call `callback(chunk [channels, n], xrun)` from now on, to read or to fill the chunk.

        `xrun` says that samples were lost before it; `ended()` is called if the device stops by itself.
        """

    def stop(self) -> None:
        """Make no more calls; this never raises, since the device may be lost."""


@dataclass
class Counts:
    """Counts of what went wrong so far; the last three are in samples of one channel."""

    overflows: int = 0  # input that the system or a full ring lost
    underflows: int = 0  # output that was not there in time
    recovered: int = 0  # times the lag was brought back by a cut of the input or a new start of the output
    splices: int = 0  # corrections of drift
    lost_in: int = 0  # input that was dropped to keep the lag
    lost_out: int = 0  # output that was dropped to keep the lag
    silent: int = 0  # silence that was played for want of sound, without the start


@dataclass(frozen=True)
class Status:
    """The status of a live session at one moment."""

    peak_in: float  # since the last status; full scale is 1
    peak_out: float
    lag: float  # in samples
    speed: float  # the model's time per block over the block's duration, smoothed
    running: bool


def least_buffer(block: int, chunk_in: int, chunk_out: int, *, even: bool = True) -> int:
    """Return the least number of samples in flight for a loudspeaker to get its chunks in time.

    It takes `chunk_out` at once, and a `chunk_in` of the microphone is not there yet. Unless chunks are
    `even`, which means whole blocks, some samples also wait for the rest of their block.
    """
    return chunk_in + chunk_out + (0 if even else block - 1)


class Live:
    """A live session that keeps its lag, `buffer + session.lag`.

    The `session` is made with `trim=False, block=block`. Outside of it, `buffer` samples are in flight; if
    the devices' chunks need more, by `least_buffer`, it is raised to that once they are seen. The recorders,
    if given, get the input and the output; `clock` returns seconds.
    """

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
        self._restart()

    def _restart(self) -> None:
        room = self.buffer + 2 * self.block + round(SPARE_S * self.rate)
        self._in, self._out = Ring(self.session.channels, room), Ring(self.session.outputs, room)
        self._removed = 0  # samples that the worker dropped, less those that it repeated
        self._gone: str | None = None
        self._captured_at = self._played_at = self.clock()
        self._period = self.block  # samples of the last play
        self._chunks, self._even = [0, 0], True  # largest capture and play; whether captures are whole blocks
        self._playing = self._begun = self._again = False
        self._history = np.zeros(HISTORY)
        self._plays = 0  # entries of the history since the last start

    @property
    def lag(self) -> int:
        """Return the samples between a capture and the play of the same sound, as set."""
        return self.buffer + self.session.lag

    # The two callbacks, on the threads of the devices.

    def capture(self, x: np.ndarray, xrun: bool) -> None:
        """Take `x [channels, n]` from the microphone."""
        missed = x.shape[1] - self._in.write(x)
        if xrun or missed:
            self.counts.overflows += 1
            self.counts.lost_in += missed
        self._captured_at = self.clock()
        self._fit(0, x.shape[1])
        self._ready.set()

    def play(self, y: np.ndarray, xrun: bool) -> None:
        """Fill `y [any number of channels, n]` for the loudspeaker."""
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
        if self._playing:  # it ran dry, or is to start anew
            self.counts.recovered += self._again
            self.counts.underflows += not self._again
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
        """Return the samples between the two devices, without the session's lag."""
        recording = min(max(0.0, self.clock() - self._captured_at) * self.rate, self._chunks[0])
        return self._in.written - self._out.taken - self._removed + recording

    # The worker.

    def work(self, stop: threading.Event) -> None:
        """Run the model in a thread of its own until `stop` is set; `check` raises what this raises."""
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
        """Process all whole blocks that wait."""
        while self.step():
            pass

    def step(self) -> bool:
        """Process one block if a whole one waits, and return whether it did."""
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
        self._heard(1, y)
        full = y.shape[1] - self._out.write(y)  # the loudspeaker has not called for seconds
        self._removed += full
        self.counts.lost_out += full
        return True

    def _take(self, x: np.ndarray) -> None:
        self._in.read(x)
        self._heard(0, x)

    def _heard(self, side: int, x: np.ndarray) -> None:
        peak = float(np.abs(x).max())
        if peak < np.inf:  # false for NaN too
            self._peaks[side] = max(self._peaks[side], peak)
        if recorder := (self.record_in, self.record_out)[side]:
            recorder.write(x)

    def _cut(self, late: int) -> None:
        """Drop `late` samples of the input, across a crossfade."""
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
        """Return by how many samples the median in flight is off, or 0 while there are too few."""
        need = min(HISTORY, max(8, int(seconds * self.rate / self._period)))
        if self._plays < need:
            return 0.0
        last = np.arange(self._plays - need, self._plays) % HISTORY
        return float(np.median(self._history[last])) - self.buffer

    def _steady(self, y: np.ndarray) -> np.ndarray:
        """Return the output `[C, T]`, with a splice in it where the lag requires one."""
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
        """Change controls of the session before its next block."""
        self._changes.append(values)

    def start(self, source: Device, sink: Device) -> None:
        """Start, or start again after `stop`, maybe with other devices; may raise `DeviceError`."""
        with self._stepping:
            self._earlier += self._in.written
            self._restart()
        self._devices = [source, sink]
        try:
            for device, callback in ((source, self.capture), (sink, self.play)):
                device.start(callback, partial(setattr, self, "_gone", device.name))
        except BaseException:
            self.stop()
            raise
        self._captured_at = self._played_at = self.clock()

    def check(self) -> None:
        """Raise `DeviceError` if one of the devices is lost, or whatever ended `work`."""
        if self._failure is not None:
            raise self._failure
        now, ends = self.clock(), (self._captured_at, self._played_at)
        still = (d.name for d, last in zip(self._devices, ends, strict=False) if now - last > GONE_S)
        if gone := self._gone or next(still, None):
            raise DeviceError(
                f"{gone}: the sound device is gone or stands still; plug it in again, or choose another "
                "(audiomask live --list-devices); --reconnect waits for it"
            )

    def status(self) -> Status:
        """Return the status of this moment; the next one's peaks begin here."""
        peaks, self._peaks = self._peaks, [0.0, 0.0]
        flight = self._middle(SHORT_S) + self.buffer if self._playing else self.flight()
        return Status(peaks[0], peaks[1], flight + self.session.lag, self._speed, self._playing)

    @property
    def seconds(self) -> float:
        return (self._earlier + self._in.written) / self.rate

    def stop(self) -> None:
        devices, self._devices = self._devices, []
        for device in devices:
            device.stop()
        self._gone = None  # the system may say that a stopped device has ended
