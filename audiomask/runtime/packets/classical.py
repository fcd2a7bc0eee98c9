"""Conceal losses without a network: by silence, repetition, or repetition by pitch periods.

Each function takes `x [T]` in which `lost [T]` (bool) flags samples that never came and are not used, and
`sample_rate` in Hz, and returns `[T]`. They raise ValueError for arrays that do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

SHORTEST_S, LONGEST_S = 0.005, 0.015  # range of the pitch periods that are searched: 200 down to 67 Hz
WINDOW_S = 0.020  # length of the correlation
COARSE_HZ = 4000  # rate of the first search
FRAME_S = 0.010  # the unit in which the Appendix counts what is lost
FADE_PER_FRAME = 0.2
GROWTH_S = 0.004  # growth of the overlap at the end, for every further frame lost
REPEATED_S, SILENT_S = 0.020, 0.100  # a repeated packet fades between these ages


def zero_fill(x: np.ndarray, lost: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the signal with silence in place of what is lost."""
    return _received(x, lost, sample_rate)


def repeat(x: np.ndarray, lost: np.ndarray, sample_rate: int, packet_ms: float = 20.0) -> np.ndarray:
    """Fill each gap with the last `packet_ms` before it, over and over, at their full level."""
    out = _received(x, lost, sample_rate)
    size = max(1, round(packet_ms * sample_rate / 1000))
    for start, end in gaps(lost):
        out[start:end] = np.resize(_before(out, start, size), end - start)
    return out


def repeat_faded(x: np.ndarray, lost: np.ndarray, sample_rate: int, packet_ms: float = 20.0) -> np.ndarray:
    """Fill gaps like `repeat`, but fade from 20 ms on to silence after 100 ms, as LPCNet does."""
    out = repeat(x, lost, sample_rate, packet_ms)
    for start, end in gaps(lost):
        age = np.arange(end - start) / sample_rate
        out[start:end] *= ((SILENT_S - age) / (SILENT_S - REPEATED_S)).clip(0, 1)
    return out


def repeat_pitch(x: np.ndarray, lost: np.ndarray, sample_rate: int) -> np.ndarray:
    """Fill gaps with overlap-added pitch periods, as in ITU-T G.711 Appendix I (1999).

    The last period fills the first 10 ms of a gap, the last two fill the next and the last three the rest,
    since a long repeat of one buzzes. From 10 ms on, they fade by 20 % of the level per 10 ms, to 0 at 60 ms.

        before the gap           in the gap                     after it
        ........[ quarter ]      period, then two, then three   [ overlap ]........
                 \\ and the quarter before the last period,      \\ the repetition goes on and fades out,
                   faded over, so that it joins itself            what came fades in

    All fades are linear. A quarter is one of the pitch period, 3.75 ms at most. The overlap at the end is a
    quarter and 4 ms more for every further 10 ms lost, 10 ms at most and no longer than what was received.

    This differs from the Appendix: times are kept and not numbers of samples, so 16 and 48 kHz repeat the
    same 5 to 15 ms. The first search runs at 4 kHz at every rate, as the Appendix' does at 8 kHz, but on
    means of neighbouring samples; every n-th sample would fold the upper bands of speech at 48 kHz into it. A
    gap may have any length, since packets of other sizes than 10 ms are lost too. The Appendix delays all
    output by 3.75 ms to fade before the gap; here the whole signal is at hand and nothing is delayed.
    """
    out = _received(x, lost, sample_rate)
    frame, longest = round(FRAME_S * sample_rate), round(LONGEST_S * sample_rate)
    for (start, end), (limit, _) in pairwise([*gaps(lost), (len(out), len(out))]):
        history = _before(out, start, 3 * longest + longest // 4).astype(np.float64)
        period = pitch_period(history, sample_rate)
        quarter = period // 4
        further = -(-(end - start) // frame) - 1
        overlap = min(quarter + round(GROWTH_S * sample_rate) * further, frame, limit - end)
        age = np.minimum(np.arange(end - start + overlap), end - start) / frame
        made = _repetition(history, period, quarter, frame, len(age))
        made = made * (1 - FADE_PER_FRAME * (age - 1)).clip(0, 1)
        tail = min(quarter, start)
        out[start - tail : start] = _looped(history, period, quarter)[period - tail :]
        out[start:end] = made[: end - start]
        out[end : end + overlap] = _faded(made[end - start :], out[end : end + overlap])
    return out


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "zero": zero_fill,
    "repeat": repeat,
    "repeat_faded": repeat_faded,
    "repeat_pitch": repeat_pitch,
}


def pitch_period(history: np.ndarray, sample_rate: int) -> int:
    """Return the lag in samples, 5 to 15 ms, at which the last 20 ms agree best with the past.

    Agreement is the correlation over the root of the energy at that lag, as in the Appendix: the energy of
    the last 20 ms is the same for all lags. Silence has the longest period.
    """
    shortest, longest = round(SHORTEST_S * sample_rate), round(LONGEST_S * sample_rate)
    window = round(WINDOW_S * sample_rate)
    step = max(1, sample_rate // COARSE_HZ)
    coarse = history[len(history) % step :].reshape(-1, step).mean(1)
    lag = step * _best_lag(coarse, window // step, shortest // step, longest // step)
    return _best_lag(history, window, max(shortest, lag - step), min(longest, lag + step))


def _best_lag(x: np.ndarray, window: int, shortest: int, longest: int) -> int:
    x = np.concatenate([np.zeros(max(0, window + longest - len(x))), x])
    past = np.lib.stride_tricks.sliding_window_view(x[len(x) - window - longest : len(x) - shortest], window)
    energy = np.square(past).sum(1)
    score = np.where(energy > 0, past @ x[-window:] / np.sqrt(energy + np.finfo(np.float64).tiny), 0)
    return longest - int(score.argmax())


def _faded(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a crossfade from `a` to `b`, which have one length."""
    w = (np.arange(len(a)) + 1) / (len(a) + 1)
    return a * (1 - w) + b * w


def _looped(history: np.ndarray, length: int, quarter: int) -> np.ndarray:
    """Return the last `length` samples, their end faded over to what precedes their beginning."""
    loop = history[-length:].copy()
    before = history[len(history) - length - quarter : len(history) - length]
    loop[length - quarter :] = _faded(loop[length - quarter :], before)
    return loop


def _repetition(history: np.ndarray, period: int, quarter: int, frame: int, count: int) -> np.ndarray:
    """Continue `history` by `count` samples: one period, two from 10 ms, three from 20 ms on."""
    out, at = np.zeros(count + quarter), 0
    for periods, start in enumerate((0, frame, 2 * frame), 1):
        if start >= count:
            break
        loop = _looped(history, periods * period, quarter)
        n = len(out) - start
        new = loop[(at + np.arange(n)) % len(loop)]
        if periods > 1:
            new[:quarter] = _faded(out[start : start + quarter], new[:quarter])
        out[start:] = new
        at = (at + frame) % period  # the same place in the oldest period that will be played
    return out[:count]


def gaps(lost: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return (first, last + 1) of every stretch that is lost."""
    edges = np.flatnonzero(np.diff(lost, prepend=False, append=False)).tolist()
    return zip(edges[::2], edges[1::2], strict=True)


def _before(x: np.ndarray, start: int, size: int) -> np.ndarray:
    """Return the last `size` samples before `start`; before the signal there is silence."""
    return np.concatenate([np.zeros(max(0, size - start), x.dtype), x[max(0, start - size) : start]])


def _received(x: np.ndarray, lost: np.ndarray, sample_rate: int) -> np.ndarray:
    if x.ndim != 1 or x.shape != lost.shape or lost.dtype != bool:
        raise ValueError(
            f"want a signal [T] and bool flags [T] beside it, not {x.dtype} {list(x.shape)} and "
            f"{lost.dtype} {list(lost.shape)}"
        )
    if sample_rate < 2 * COARSE_HZ:
        raise ValueError(f"sample_rate is {sample_rate}; pitch is looked for from {2 * COARSE_HZ} Hz on")
    return np.where(lost, 0, x).astype(x.dtype, copy=False)
