"""Lose packets of recordings, and conceal losses of whole recordings without a model.

The flags of what is lost come beside the sound, block by block:

    loss = Loss(loss_models("gilbert:0.05,0.5"), seed=1)
    losses = loss.of(source, reader.info)
    for x, lost in losses.heard(reader.blocks()):    # x has zeros in lost places; lost [T] flags them
        play(session.feed(x, lost))
    print(losses.bursts().rate)
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from audiomask.audio import MAX_RATE, AudioError, AudioInfo
from audiomask.audio.sources import Source, read_scp
from audiomask.masks.packets import Bursts, LossModel, Trace, packets, parse_loss, read_trace, statistics
from audiomask.ports import Port
from audiomask.runtime.packets.classical import METHODS, gaps

PACKETS = 2**16  # packets sampled at once: 20 minutes of 20 ms
NAMES = {"g711": "repeat_pitch", **{name: name for name in METHODS}}  # names that `classical` takes


def loss_models(spec: str) -> Callable[[Source], LossModel]:
    """Return a function that gives the loss model of a recording, by `spec`.

    It is `gilbert:P,Q`, `drop:RATE`, or a trace: a file, a folder of one for each recording, found by its
    stem, or a table of them, a `.scp` (or a data directory's utt2trace) of lines `name path`. Raises as
    `parse_loss` does, ValueError or `AudioError`; the function raises `AudioError` if there is no trace.
    """
    if os.path.isdir(spec):  # noqa: PTH112 - Path's test raises for names that are too long
        entries = [(path.stem, path) for path in sorted(Path(spec).iterdir()) if path.is_file()]
    elif Path(spec).suffix.lower() == ".scp" or Path(spec).name == "utt2trace":
        entries = [(s.key or "", Path(s.path)) for s in read_scp(Path(spec)) if not s.command]
    else:
        model = parse_loss(spec)
        return lambda source: model
    traces: dict[str, Path] = {}
    for name, path in entries:
        if name in traces:
            raise AudioError(f"{spec}: {traces[name]} and {path} are both for {name}; keep one")
        traces[name] = path

    def find(source: Source) -> LossModel:
        name = source.key or Path(source.relative).stem
        if name not in traces:
            raise AudioError(
                f"{source}: {spec} has no trace of the name {name}; add it, or leave out the file"
            )
        return Trace(read_trace(traces[name]), str(traces[name]))

    return find


@dataclass(frozen=True)
class Loss:
    """The losses of recordings, where each depends on `seed` and the recording's name only."""

    models: Callable[[Source], LossModel] | None = None  # None: nothing is lost but what is missing already
    packet_ms: float = 20.0
    seed: int = 0
    told: bool = True  # the flags are those of the loss; else `Silence` predicts them from the sound

    def of(self, source: Source, info: AudioInfo) -> Losses:
        """Return the losses of one recording, or raise `AudioError` if it has no trace."""
        count, size = packets(info.frames, info.rate, self.packet_ms)
        if not self.models:
            return Losses(None, size, False)
        model = self.models(source)
        name = str(source.key or source.relative).encode("utf-8", "surrogateescape")
        seeds = np.array([self.seed << 32 | crc32(name)], np.int64)
        return Losses(lambda n: model.sample(seeds, n)[0], size, self.told, count)


class Losses:
    """The losses of one recording, whose header says that it has `count` packets.

    `sample(n)` returns flags of the first n packets, of `size` samples each; None loses nothing more.
    """

    copy: Callable[[np.ndarray], None] | None = None  # is called with all sound that `heard` yields

    def __init__(self, sample: Callable[[int], np.ndarray] | None, size: int, told: bool, count: int = 0):
        self.size, self._sample, self._count = size, sample, count
        self._lost = np.zeros(0, bool)
        self._silence = None if told else Silence(size)
        self._at = 0

    def _flags(self, samples: int) -> np.ndarray:
        """Return the next flags `[samples]`, or raise `AudioError` for a trace that is too short."""
        if not self._sample:
            return np.zeros(samples, bool)
        place = np.arange(self._at, self._at + samples) // self.size
        need = int(place[-1]) + 1 if samples else 0
        if need > len(self._lost):  # a header may promise anything
            self._lost = self._sample(max(need, min(self._count, need + PACKETS)))
        return self._lost[place]

    def heard(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield blocks `[C, T]` after losses, with flags `[T]`; `AudioError` for too short a trace."""
        for block in blocks:
            flags = self._flags(block.shape[1])
            self._at += block.shape[1]
            x = np.where(flags, np.float32(0), block)
            if self.copy:
                self.copy(x)
            yield self._silence.push(x) if self._silence else (x, flags)
        if self._silence:
            yield self._silence.flush()

    def bursts(self) -> Bursts:
        """Return the statistics of the packets that went through `heard`."""
        count = -(-self._at // self.size)
        if self._sample:
            return statistics(self._lost[:count])
        assert self._silence
        lengths = np.maximum(1, np.rint(np.array(self._silence.runs) / self.size)).astype(int)
        return Bursts(count, np.bincount(lengths, minlength=1))


class Silence:
    """A predictor that takes `least` or more samples of one value in all channels for lost.

    The value is 0 where a receiver put zeros, the smallest step in A-law, which has no 0, and whatever offset
    a converter adds. What may yet become such a run is held back until it shows how long it is.
    """

    def __init__(self, least: int):
        self.least = least
        self.runs: list[int] = []
        self._held: np.ndarray | None = None
        self._last: np.ndarray | None = None  # of the sound that was returned, where it ends inside of a run

    def push(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take `x [C, T]`, and return sound `[C, n]`, 0 where it is lost, and its flags `[n]`."""
        x = x if self._held is None else np.concatenate((self._held, x), axis=1)
        lost = np.zeros(x.shape[1], bool)
        if not x.shape[1]:
            return x, lost
        on = self._last is not None and np.array_equal(x[:, 0], self._last)
        same = np.concatenate(([on], (x[:, 1:] == x[:, :-1]).all(axis=0)))
        stop = x.shape[1] - 1
        for start, end in gaps(same):
            start -= start > 0 or not on
            if (start == 0 and on) or end - start >= self.least:
                lost[start:end] = True
                if start == 0 and on:
                    self.runs[-1] += end
                else:
                    self.runs.append(end - start)
            elif end == x.shape[1]:
                stop = start
        stop += bool(lost[-1])
        self._held, self._last = x[:, stop:].copy(), x[:, -1].copy() if lost[-1] else None
        return np.where(lost, np.float32(0), x)[:, :stop], lost[:stop]

    def flush(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples that are held back, which were too few to be a loss."""
        held, self._held = self._held, None
        held = np.zeros((1, 0), np.float32) if held is None else held
        return held, np.zeros(held.shape[1], bool)


class Classical:
    """A method of `packets.classical` in place of a model; it holds whole recordings in memory."""

    sample_rate, hop = MAX_RATE, MAX_RATE // 64  # nothing is lost of any rate; blocks of a second
    lost = None
    streams, outputs = (Port("audio"),), (Port("concealed"),)

    def __init__(self, name: str, packet_ms: float):
        self.name, self._method = name, METHODS[NAMES[name]]
        if "packet_ms" in inspect.signature(self._method).parameters:
            self._method = partial(self._method, **{"packet_ms": packet_ms})

    def open(self, rate: int, channels: int) -> Whole:
        """Return a player of one recording, like a `Session`."""
        return Whole(self._method, rate, channels)


class Whole:
    """A player that applies a function to a whole signal."""

    faults, ports = 0, Classical.outputs

    def __init__(self, method: Callable[..., np.ndarray], rate: int, channels: int):
        self._method, self._rate = method, rate
        self.rows, self.rates = {"concealed": channels}, {"concealed": Fraction(rate)}
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []

    def feed(self, x: np.ndarray, lost: np.ndarray | None = None) -> np.ndarray:
        """Take `x [C, T]` and `lost [T]`, and return nothing yet, `[C, 0]`."""
        self._blocks.append((x, np.zeros(x.shape[1], bool) if lost is None else lost))
        return x[:, :0]

    def flush(self) -> np.ndarray:
        """Return the whole signal, or raise `AudioError` for a rate that the method is not made for."""
        x, lost = (np.concatenate(parts, axis=-1) for parts in zip(*self._blocks, strict=True))
        try:
            return np.stack([self._method(row, lost, self._rate) for row in x])
        except ValueError as error:
            raise AudioError(f"{error}; convert it first, or choose a model with -m") from None


def entry(source: Source, output: Path | str, bursts: Bursts) -> dict[str, Any]:
    """Return what a report says of a recording."""
    lengths = {str(n): int(count) for n, count in enumerate(bursts.histogram) if n and count}
    return {
        "input": str(source),
        "output": str(output),
        "packets": bursts.packets,
        "loss_rate": bursts.rate if bursts.packets else 0.0,
        "mean_burst": None if math.isnan(bursts.mean) else bursts.mean,
        "longest_burst": bursts.longest,
        "bursts": lengths,
    }
