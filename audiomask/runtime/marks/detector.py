"""Tell whether sound is marked, block by block: with which message, where, how surely.

    detector = Detector(read_key("me.key"), sample_rate=48000, channels=2)
    for block in blocks:                    # [2, T], any T
        detector.feed(block)
    found = detector.flush()
    found.present, found.p, found.message, found.segments

Windows of 5 s, 2.5 s apart, are searched (`search`): at the speed of the last mark first, then at all. The
p-value of a window comes from its score S, a sum of terms of independent random phase of the key:

    p = 1 - exp(-N Q(S)),      N = min(MOST, TRIALS e^(GROWTH (S - 6.5)))

Q is the tail of a Gaussian variable, which S without a mark is taken for, and MOST the number of places,
drifts, speeds and messages that could be tried: with it p is a bound. As only the best places are asked for a
message, small scores are seen less often: N of these is fitted to unmarked sound
(tools/bench/false_alarms.py), so that p is about uniform there. That of n windows is 1 - (1 - min p)^n.

Within a marked window and beside it the carrier is known, so that every 25 ms can be asked for it. Their log
likelihoods, marked against unmarked, go through the Viterbi algorithm, which seldom changes its mind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import soxr

from audiomask.runtime.marks.carrier import BITS, PARTS, PERIOD, RATE, Carrier
from audiomask.runtime.marks.search import Found, search, whitened
from audiomask.runtime.player import GARBAGE
from audiomask.runtime.polyphase import Polyphase

WINDOW, EVERY = 5 * RATE, 5 * RATE // 2
BESIDE = 4 * EVERY  # samples before a window and after it that are asked for its mark
LEAST = RATE  # samples of sound that are enough to search
TRIALS, GROWTH = 4.6e9, 1.29
MOST = 2.9e10  # 2 weights, 27 drifts of 7 speeds, 8192 places, 65536 messages
ALARM = 1e-6  # the greatest p of what counts as marked
FRAME = RATE // 40  # 25 ms
CHANGE = 8.0  # log likelihood that a change of mind costs
SILENT = 0.3  # the part of marked frames that may show nothing of the mark
UNSEARCHED = math.log(SILENT)  # log likelihood of a frame that is far from all marked windows


@dataclass
class Detection:
    """All that was found in a signal.

    Attributes: `message` and `speed` are None, `bits` and `segments` empty where no mark is. `bits`: for each
    bit of the message, the highest one first, its value and the probability that it is right. `segments`:
    beginnings and ends in seconds. `others`: further messages. `seconds` of sound were heard.
    """

    present: bool = False
    p: float = 1.0
    message: int | None = None
    bits: list[tuple[int, float]] = field(default_factory=list)
    segments: list[tuple[float, float]] = field(default_factory=list)
    speed: float | None = None
    others: list[int] = field(default_factory=list)
    seconds: float = 0.0


def p_value(score: float, searches: int = 1) -> float:
    """Return the probability of such a score in so many searches of unmarked sound."""
    trials = min(MOST, TRIALS * math.exp(GROWTH * (score - 6.5)))
    return -math.expm1(-searches * trials * 0.5 * math.erfc(score / math.sqrt(2)))


class Detector:
    """A detector of the marks of one key, in sound of any rate and number of channels.

    Channels are searched together, and where nothing is found each by itself, at one speed alone: a mark in
    one channel is found in the sum, too, but those of channels of opposite polarity cancel. `cleaned` samples
    were NaN, infinite or garbage, and became 0.
    """

    def __init__(self, key: bytes, sample_rate: int = RATE, channels: int = 1):
        self.carrier, self.sample_rate, self.channels = Carrier(key), sample_rate, channels
        self._in = Polyphase(sample_rate, RATE, channels) if sample_rate != RATE else None
        self.cleaned = 0
        self.reset()

    def reset(self) -> None:
        """Start a new signal."""
        if self._in:
            self._in.reset()
        self._held = np.zeros((self.channels, 0), np.float32)  # from sample `_at` on, at 16 kHz
        self._before = np.zeros(0, np.float32)  # the whitened sound before that
        self._at = self._taken = self._searches = 0
        self._score = 0.0
        self._last: tuple[Found, int] | None = None  # the last mark, and `_at` then
        self._marks: dict[int, Found] = {}  # the best of each message
        self._evidence = np.zeros(0, np.float32)  # log likelihoods of frames

    def feed(self, block: np.ndarray) -> None:
        """Take `block [T]` or `[C, T]`, any T."""
        x = np.atleast_2d(np.asarray(block, np.float32))
        if x.ndim != 2 or len(x) != self.channels:
            raise ValueError(f"a block of shape {np.shape(block)} does not fit [{self.channels}, T]")
        good = np.abs(x) <= GARBAGE  # not so for NaN
        self.cleaned += int(x.size - good.sum())
        x = np.where(good, x, np.float32(0))
        self._taken += x.shape[1]
        self._push(self._in.push(x) if self._in else x)

    def flush(self) -> Detection:
        """Return what was found in all of the signal; then the detector is as after `reset`."""
        if self._in:
            left = -(-self._taken * RATE // self.sample_rate) - self._at - self._held.shape[1]
            silence = np.zeros((self.channels, 2 * self._in.half + self._in.down), np.float32)
            self._push(self._in.push(silence)[:, : max(0, left)])
        if self._held.shape[1] >= LEAST and (not self._at or self._held.shape[1] > WINDOW - EVERY):
            self._judge(self._held)
        found = self.found()
        self.reset()
        return found

    def found(self) -> Detection:
        """Return what was found so far."""
        seconds = self._taken / self.sample_rate
        p = p_value(self._score, self._searches) if self._searches else 1.0
        if p > ALARM:
            return Detection(p=p, seconds=seconds)
        first, *others = sorted(self._marks.values(), key=lambda mark: -mark.score)
        return Detection(
            present=True,
            p=p,
            message=first.message,
            bits=self._bits(first),
            segments=[(start, min(end, seconds)) for start, end in self._segments()],
            speed=first.speed / (1 + first.drift / PERIOD),
            others=[mark.message for mark in others],
            seconds=seconds,
        )

    def _push(self, x: np.ndarray) -> None:
        self._held = np.concatenate((self._held, x), 1)
        while self._held.shape[1] >= WINDOW:
            self._judge(self._held[:, :WINDOW])
            self._held, self._at = self._held[:, EVERY:], self._at + EVERY

    def _judge(self, x: np.ndarray) -> None:
        """Search a window `[C, T]`."""
        self._searches += 1
        if not x.any():
            self._before = np.concatenate((self._before, x[0, :EVERY]))[-BESIDE:]
            return
        speed = self._last[0].speed if self._last else 1.0
        white = np.array([whitened(row) for row in x])
        v = white.sum(0)
        found, searches = search(v, self.carrier, speed), 1
        if self.channels > 1 and p_value(found.score) > ALARM:
            for row in white:
                one = search(row, self.carrier, speed, sure=0)
                if one.score > found.score:
                    found, v = one, row
            searches += self.channels
        self._searches += searches - 1
        self._score = max(self._score, found.score)
        if p_value(found.score, searches) <= ALARM:
            self._last = found, self._at
            if found.message not in self._marks or self._marks[found.message].score < found.score:
                self._marks[found.message] = found
            self._weigh(np.concatenate((self._before, v)), self._at - len(self._before), found, self._at)
        elif self._last and self._at - self._last[1] <= BESIDE:
            self._weigh(v, self._at, *self._last)
        self._before = np.concatenate((self._before, v[:EVERY]))[-BESIDE:]

    def _weigh(self, v: np.ndarray, start: int, found: Found, at: int) -> None:
        """Ask frames of whitened sound from sample `start` on for a mark that was found at `at`."""
        frames = self._likelihoods(v, found, start - at)
        first = start // FRAME
        more = first + len(frames) - len(self._evidence)
        self._evidence = np.pad(self._evidence, (0, max(0, more)), constant_values=UNSEARCHED)
        there = self._evidence[first : first + len(frames)]
        np.maximum(there, frames, out=there)

    def _likelihoods(self, v: np.ndarray, found: Found, start: int) -> np.ndarray:
        """Return for frames of whitened sound how much likelier it is, in log, that they are marked.

        They begin `start` samples after the window in which the mark was found.
        """
        slow = v if found.speed == 1 else soxr.resample(v, RATE, RATE * found.speed, quality="HQ")
        t = np.arange(len(slow)) + start * found.speed
        half = self.carrier.wave(found.message)
        place = np.rint(t - found.start - found.drift * (t // PERIOD)).astype(np.int64) % PERIOD
        products = slow * np.concatenate((half, -half))[place]
        edges = np.rint(np.arange(0, len(v) + FRAME, FRAME) * found.speed).astype(np.int64)
        sums, power = (
            np.diff(np.concatenate(([0], np.cumsum(each, dtype=np.float64)))[np.minimum(edges, len(slow))])
            for each in (products, np.square(slow))
        )
        u = sums / np.sqrt(power * np.square(half).mean() + 1e-12)  # of variance 1
        mean = max(1.0, found.score / math.sqrt(WINDOW / FRAME))
        for _ in range(3):
            there = viterbi(_log_likelihoods(u, mean))
            mean = max(1.0, float(u[there].mean())) if there.any() else mean
        return np.where(power > 0, _log_likelihoods(u, mean), 0)

    def _segments(self) -> list[tuple[float, float]]:
        edges = np.flatnonzero(np.diff(np.pad(viterbi(self._evidence), 1).astype(int))) * (FRAME / RATE)
        return [(float(start), float(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]

    def _bits(self, found: Found) -> list[tuple[int, float]]:
        sums = self.carrier.sums(found.soft)
        height = max(sums[found.message] / PARTS, 0.0)  # of a part, in deviations
        numbers = np.arange(len(sums))
        bits = []
        for i in reversed(range(BITS)):
            bit = found.message >> i & 1
            against = sums[numbers >> i & 1 != bit].max()
            bits.append((bit, float(1 / (1 + math.exp(-height * (sums[found.message] - against))))))
        return bits


def _log_likelihoods(u: np.ndarray, mean: float) -> np.ndarray:
    """Return log likelihoods of u: of variance 1, and `mean` where it is marked and not silent."""
    return np.log(SILENT + (1 - SILENT) * np.exp(mean * u - mean**2 / 2))


def viterbi(evidence: np.ndarray) -> np.ndarray:
    """Return which frames are marked, by log likelihoods `[T]` of marked against unmarked."""
    on = off = 0.0
    from_on, from_off = np.zeros(len(evidence), bool), np.zeros(len(evidence), bool)
    for n, e in enumerate(evidence.tolist()):
        from_on[n], from_off[n] = off - CHANGE > on, on - CHANGE > off  # whether the other one came before
        on, off = max(on, off - CHANGE) + e, max(off, on - CHANGE)
    marked, now = np.zeros(len(evidence), bool), on > off
    for n in reversed(range(len(evidence))):
        marked[n] = now
        now = not now if (from_on if now else from_off)[n] else now
    return marked
