"""Play any model block by block: streams in and out by port name, whatever they carry.

    player = Player("codec_enc", sample_rate=48000)
    for block in blocks:                                # [1, T], any T
        send(player.feed(block)["codes"])               # [n_q, frames] that are complete
    send(player.flush()["codes"])

Around the graph lie, in order: cleaning of NaN, conversion to the model's rate, collection into hops, the
graph, the cut of its delay, and conversion back. Many players share the calls of a graph through `feed_all`.
`Session` is the player for listening, with a dry path and changes that do not click.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio.mixing import Mixer
from audiomask.ports import TYPES, Port
from audiomask.runtime.artifact import Artifact, ArtifactError, failure
from audiomask.runtime.catalogue import choose, resolve
from audiomask.runtime.engine import Engine, Step
from audiomask.runtime.engine import run as run_steps
from audiomask.runtime.polyphase import Polyphase, Spread

# Hops per call of the graph when a block brings as many: a second of sound; more is not faster. Hops times
# rows: about 100 MB of activations. Models without sound process long windows; attention takes memory.
BULK_HOPS, BULK_ROWS, BULK_SILENT = 64, 256, 8
BULK_SECONDS = 8  # for hops that are long windows of sound
# Even 32-bit integers taken for samples are smaller; larger values are garbage, which models do not forget.
GARBAGE = 2.0**32

Frames = dict[str, np.ndarray]  # by port name, each `[rows, frames]`
Given = np.ndarray | None  # frames of a stream, or nothing
Work = Generator[list[Step], None, Any]  # steps that wait to be run, then a result


@dataclass(frozen=True)
class Snapshot:
    """The whole memory of a player, to restore into one with the same model, rate and channels."""

    key: tuple
    memory: list[tuple[list[np.ndarray], dict[str, np.ndarray]]]
    rest: dict[str, Any]


class Player:
    """A player of one signal through one model, block by block.

    Args:
        model: an `Artifact`, or what `resolve` takes; from a family, the member that fits `sample_rate`.
        sample_rate: rate in Hz of the sound that goes in and out; default the model's. A port of sound at
            another rate than the model's clock keeps its own, see `rates`.
        channels: channels of a block. For a model of one channel they are independent rows; a model of M
            channels takes M, which is the default, and multiples if it gives M back.
        mix: mix the channels of a block into one row, see `audio.mixing`.
        threads: threads of the graph.
        outputs: names of the output ports that are wanted; default all.
        controls: values of the model's controls, as in `set`.

    Attributes: `first`, the port of `block`; `ports`, the output ports; `rows` and `rates` (frames per
    second, exact) by port; `hop` (samples that advance the model by one step, rounded up), `delay` and
    `latency` = delay + hop in samples of `sample_rate`, conversion included; `cleaned`: input samples that
    were NaN, infinite or beyond `GARBAGE`, and became 0; `faults`: calls in which the model itself failed
    (muted, its state started anew).

    Raises `ArtifactError` for a model that cannot be found or run or a control out of range; ValueError for
    blocks of a wrong shape; RuntimeError for a player that another thread is feeding.
    """

    def __init__(
        self,
        model: str | Path | Artifact | None = None,
        *,
        sample_rate: int | None = None,
        channels: int | None = None,
        mix: bool = False,
        threads: int = 1,
        outputs: Sequence[str] | None = None,
        controls: Mapping[str, Any] | None = None,
    ):
        artifact = self.artifact = find(model, sample_rate)
        self.threads = threads
        if sample_rate is not None and sample_rate < 1:
            raise ArtifactError(f"sample rate {sample_rate} Hz is not positive")
        self.sample_rate = sample_rate or artifact.sample_rate
        self.first, width = artifact.streams[0], artifact.streams[0].channels
        self.channels, self.mix = width if channels is None else channels, mix and width == 1
        self._dtype, self._sound = self.first.dtype, self.first.type == "pcm"
        names = outputs or [port.name for port in artifact.outputs]
        self.ports = tuple(output_port(artifact, name) for name in names)
        # Codes of several recordings, and pairs of channels that become pairs, may be stacked as rows.
        one = self._sound and width > 1 and not artifact.alike
        if self.channels < 1 or (self.channels != width if one else self.channels % width):
            each = ", one for each of its microphones" if one else ""
            raise ArtifactError(f"{artifact.name}: takes {width} channels, not {self.channels}{each}")
        self._mixer = Mixer(self.sample_rate)
        batch = 1 if self.mix else self.channels // width
        self.engine = Engine(artifact, batch, threads, [port.name for port in self.ports])
        ports = (*artifact.streams, *self.ports)
        self._rows = {p.name: batch * p.channels for p in ports}  # of the graph
        self.rows = dict(self._rows)
        bulk = BULK_HOPS if any(p.type == "pcm" for p in self.ports) else BULK_SILENT
        self.bulk = max(1, min(bulk, BULK_SECONDS * artifact.sample_rate // artifact.hop))
        # Flags that come with the samples of a sound; at another clock they are a stream like any other.
        self._lost = artifact.lost
        self._lost_name = self._lost.name if self._lost else "lost"
        self._flagged = self._sound and (
            self._lost is None or (self._lost.rate, self._lost.channels) == (self.first.rate, 1)
        )
        self._none = {p.name: np.zeros((self._rows[p.name], 0), p.dtype) for p in ports}
        self._convert()
        self.cleaned = self.faults = 0
        self._busy = self._changed = False
        self._target = {name: value.copy() for name, value in self.engine.controls.items()}
        Player.set(self, controls or {})
        self.reset()

    def _convert(self) -> None:
        """Make the converters between `sample_rate` and the model's clock, and set what follows."""
        artifact, rate = self.artifact, self.sample_rate
        self._in: dict[str, Polyphase] = {}
        self._out: dict[str, Polyphase] = {}
        self.rates = {p.name: p.rate * artifact.sample_rate for p in (*artifact.streams, *self.ports)}
        ratio = Fraction(rate, artifact.sample_rate)
        if rate != artifact.sample_rate:
            if self.first.type == "pcm" and self.first.rate == 1:
                up = Polyphase(rate, artifact.sample_rate, self._rows[self.first.name])
                self._in[self.first.name] = up
                if self._flagged and self._lost:
                    self._in[self._lost.name] = Spread(up, self._rows[self._lost.name])
            for port in self.ports:
                if port.type == "pcm" and port.rate == 1:
                    self._out[port.name] = Polyphase(artifact.sample_rate, rate, self._rows[port.name])
            self.rates |= dict.fromkeys((*self._in, *self._out), Fraction(rate))
        before = self._in[self.first.name].half if self._in else 0
        after = max((down.half for down in self._out.values()), default=0)
        self.latency = ceil(before + (artifact.latency + after) * ratio)
        self.hop = ceil(artifact.hop * ratio)
        plain = not (self.mix or self._in or self._out)
        zeros = all(TYPES[port.type].neutral == 0 for port in artifact.streams[1:])  # where not given
        self._one = (self.channels, self.engine.frames[self.first.name]) if plain and zeros else None
        self.delay = self.latency - self.hop

    def set(self, controls: Mapping[str, Any]) -> None:
        """Change controls from the next hop on, in any thread; `ArtifactError` leaves all unchanged."""
        made = {name: self.engine.control(name, value) for name, value in controls.items()}
        target = {**self._target, **made}
        if _differ(target, self._target):
            self._target, self._changed = target, True

    def reset(self) -> None:
        """Start a new signal; controls keep their values."""
        self.engine.reset()
        for converter in self._converters:
            converter.reset()
        self._mixer.reset()
        self._held = {name: self._none[name] for name in self.engine.frames}  # wait for the rest of their hop
        # Frames before the start.
        self._skip = {p.name: int(self.artifact.delay * p.rate) for p in self.ports}
        self._given = dict.fromkeys(self._held, 0)  # frames of each stream so far, as they came
        self._inner = 0  # frames of the first stream at the model's rate
        self._done = dict.fromkeys(self._skip, 0)  # frames of each output that are out
        self._stepped = 0

    @property
    def _converters(self) -> tuple[Polyphase, ...]:
        return (*self._in.values(), *self._out.values())

    _REST = ["_target", "_changed", "_held", "_skip", "_given", "_inner", "_done", "_stepped"]

    @property
    def _engines(self) -> list[Engine]:
        return [self.engine]

    @property
    def _key(self) -> tuple:
        artifact = self.artifact
        return type(self).__name__, artifact.name, artifact.meta.get("hash"), self.sample_rate, self.channels

    def snapshot(self) -> Snapshot:
        """Return a copy of everything that the next output depends on."""
        rest = {name: copy.deepcopy(getattr(self, name)) for name in self._REST}
        rest["converters"] = [copy.deepcopy(converter.state) for converter in self._converters]
        rest["mixer"] = copy.deepcopy(self._mixer.state)
        return Snapshot(self._key, [engine.save() for engine in self._engines], rest)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot; ValueError if it is of another model, rate or number of channels."""
        if snapshot.key != self._key:
            raise ValueError(f"a snapshot of {snapshot.key} does not fit a player of {self._key}")
        for name in self._REST:
            setattr(self, name, copy.deepcopy(snapshot.rest[name]))
        for engine, memory in zip(self._engines, snapshot.memory, strict=True):
            engine.load(memory)
        for converter, state in zip(self._converters, snapshot.rest["converters"], strict=True):
            converter.state = copy.deepcopy(state)
        self._mixer.state = copy.deepcopy(snapshot.rest["mixer"])

    def feed(self, block: Given = None, lost: Given = None, **streams: Given) -> Frames:
        """Take a block `[channels, n]` (`[n]` for one channel), any n; return the complete frames.

        `block` belongs to the first input. The others are given by name, `[rows, n]` or `[n]` for all rows; a
        stream that is left out holds its neutral value for this time, and one at another rate than the first
        may run ahead or behind by less than a frame. In `lost`, anything but 0 means lost, and the sound
        there becomes 0. A model of several microphones lacks a sample when any of them does. At another rate
        than the model's, every sample that a lost one contributes to is lost, see `polyphase.Spread`.
        """
        if lost is None and not streams and (y := self._hop(block)) is not None:
            return y
        return alone(self.feeding(block, lost, **streams))

    def _hop(self, block: Given) -> Frames | None:
        """Do what `feed` does with just the next hop; None where anything else is to be done.

        This is the most frequent call by far, and in caches that the weights have been through, each function
        that it calls costs as much as a small operator of the graph.
        """
        if (
            type(block) is not np.ndarray
            or block.shape != self._one
            or block.dtype != self._dtype
            or self._changed
            or self._busy
            or (self._sound and not np.vdot(block, block) < GARBAGE**2)
        ):
            return None
        for held in self._held.values():
            if held.shape[1]:
                return None
        self._busy, engine = True, self.engine
        try:
            y, broken = engine.hop({self.first.name: block.reshape(engine.batch, -1, block.shape[1])})
        except Exception as error:  # see Artifact.session
            raise failure(self.artifact.path, "failed while running", error) from error
        finally:
            self._busy = False
        self._stepped += 1
        self.faults += broken is not None
        for name, frames in engine.frames.items():
            self._given[name] += frames
        self._inner += block.shape[1]
        for name, part in y.items():
            part = part.reshape(self._rows[name], -1)
            y[name] = part = self._trimmed(name, part) if self._skip[name] else part
            self._done[name] += part.shape[1]
        return y

    def flush(self) -> Frames:
        """Return the rest of the signal, ceil(T rate) frames in all, then reset."""
        return alone(self.flushing())

    def feeding(self, block: Given = None, lost: Given = None, **streams: Given) -> Work:
        """Do `feed` as work whose steps somebody else runs, see `drive`."""
        if lost is not None:
            streams[self._lost_name] = lost
        x, lost = self._checked(block, streams)
        if x.shape[1] == 0:
            y = self._mixed({port.name: self._none[port.name] for port in self.ports}, x)
        else:
            self._begin()
            try:
                x = self._mixer.push(x) if self.mix else x
                y = yield from self._push(x, lost, streams)
            finally:
                self._busy = False
        return self._handed(y, block)

    def flushing(self) -> Work:
        """Do `flush` as work whose steps somebody else runs."""
        self._begin()
        try:
            y = yield from self._end()
        finally:
            self._busy = False
        y = self._handed(y, None)
        self.reset()
        return y

    def _handed(self, y: Frames, block: np.ndarray | None) -> Any:
        """Return what `feed` gives for a block, or `flush` for None."""
        return y

    def _mixed(self, y: Frames, x: np.ndarray) -> Frames:
        """Return aligned frames of each output, `x` having come in."""
        return y

    def _seated(self, x: np.ndarray) -> np.ndarray:
        """Return what the graph hears of a block."""
        return x

    def _silence(self, n: int) -> np.ndarray:
        """Return the block of `n` frames that comes after the end."""
        return self.first.neutral(self.engine.batch, n, self._inner).reshape(-1, n)

    def _begin(self) -> None:
        if self._busy:
            raise RuntimeError("this session is being fed already; it belongs to one thread at a time")
        self._busy = True

    def _checked(self, block: Given, streams: dict[str, Given]) -> tuple[np.ndarray, Given]:
        """Return the cleaned block `[channels, n]`, and its flags of loss, taken out of `streams`."""
        if block is None:
            block = streams.pop(self.first.name, None)
            if block is None:
                raise ValueError(f"nothing is given for {self.first.name}, the first stream")
        x = np.asarray(block, dtype=self._dtype)
        if x.ndim == 1:
            x = x[None]
        if x.ndim != 2 or not (x.shape[0] if self.mix else x.shape[0] == self.channels):
            raise ValueError(f"a block of shape {np.shape(block)} does not fit [{self.channels}, T]")
        lost = streams.pop(self._lost_name, None) if self._flagged else None
        if lost is not None:
            lost = np.atleast_2d(np.asarray(lost)) != 0
            if lost.shape not in ((1, x.shape[1]), x.shape):
                raise ValueError(
                    f"lost of shape {lost.shape} does not fit a block of shape {np.shape(block)}"
                )
            x = np.where(lost, np.float32(0), x)
            rows, batch = self._seated(np.broadcast_to(lost, x.shape)), self.engine.batch
            lost = np.asarray(rows.reshape(batch, len(rows) // batch, x.shape[1]).any(axis=1))
        if streams and (unknown := sorted(set(streams) - set(self._held))):
            raise ValueError(
                f"{self.artifact.name} has no stream {unknown[0]}; it has {' '.join(self._held)}"
            )
        if not self._sound:
            return x, lost
        # One product finds a NaN or garbage anywhere; many loud samples are looked at more closely.
        if not np.vdot(x, x) < GARBAGE**2:
            good = np.abs(x) <= GARBAGE  # not so for NaN
            self.cleaned += int(x.size - good.sum())
            x = np.where(good, x, np.float32(0))
        return x, lost

    def _push(self, x: np.ndarray, lost: Given = None, streams: Mapping[str, Given] | None = None) -> Work:
        """Take a checked block and give the aligned frames that it completes, by port."""
        given = {self.first.name: self._seated(x)}
        if len(self._held) > 1:  # all of it is checked before anything is taken
            given |= self._others(x.shape[1], lost, streams or {})
        for name, frames in given.items():
            self._given[name] += frames.shape[1]
            if name in self._in:
                given[name] = self._in[name].push(frames)
        self._inner += given[self.first.name].shape[1]
        y = yield from self._hops(given)
        for name, down in self._out.items():
            y[name] = down.push(y[name])
        y = self._mixed(y, x)
        for name, frames in y.items():
            self._done[name] += frames.shape[1]
        return y

    def _others(self, n: int, lost: Given, streams: Mapping[str, Given]) -> Frames:
        """Return what the other streams bring beside `n` frames of the first."""
        batch, parts = self.engine.batch, {}
        for port in self.artifact.streams[1:]:
            name, start = port.name, self._given[port.name]
            clock, first = self.rates[name], self.rates[self.first.name]
            end = start + n if clock == first else (self._given[self.first.name] + n) * clock / first
            x = lost if self._flagged and port is self._lost else streams.get(name)
            if x is None:
                count = max(0, int(end) - start)
                x = port.neutral(batch, count, start).reshape(self._rows[name], count)
            else:
                x = np.atleast_2d(np.asarray(x, port.dtype))
                if x.ndim != 2 or len(x) not in (1, self._rows[name]):
                    raise ValueError(f"{name} of shape {x.shape} does not fit [{self._rows[name]}, T]")
                if abs(start + x.shape[1] - end) >= 1:
                    raise ValueError(
                        f"{name} has {x.shape[1]} frames, not the {float(end) - start:g} that go with {n} of "
                        f"{self.first.name}"
                    )
                x = np.broadcast_to(x, (self._rows[name], x.shape[1]))
            parts[name] = x
        return parts

    def _end(self) -> Work:
        """Give what is missing of each output, with the silence after the end put in."""
        first, clock = self.first, self.rates[self.first.name]
        time = self._given[first.name] / clock  # seconds
        samples = ceil(time * self.artifact.sample_rate)  # of the model's clock
        due = {
            p.name: ceil(time * self.rates[p.name] if p.type == "pcm" else samples * p.rate)
            for p in self.ports
        }
        up = self._in.get(first.name)
        if up and not self._out:  # a model that makes no sound gets no ringing of the converter
            tail = up.push(np.zeros((up.channels, 2 * up.half + up.down), np.float32))
            kept = self._in, self.rates
            self._in, self.rates = {}, {**self.rates, first.name: Fraction(self.artifact.sample_rate)}
            self._given[first.name] = self._inner
            try:
                parts = [(yield from self._push(tail[:, : samples - self._inner]))]
                parts += yield from self._rest(due)
            finally:
                self._in, self.rates = kept
        else:
            parts = yield from self._rest(due)
        left = {}
        for name, n in due.items():
            none = np.zeros((self.rows[name], 0), self._none[name].dtype)
            y = np.concatenate([none, *(part[name] for part in parts)], axis=1)
            left[name] = y[:, : max(0, n - self._done[name] + y.shape[1])]
        return left

    def _rest(self, due: dict[str, int]) -> Work:
        """Push neutral frames until each output has had as many frames as are due."""
        clock, parts = self.rates[self.first.name], []
        hop = Fraction(self.artifact.hop, self.artifact.sample_rate)
        while (missing := max((n - self._done[name]) / self.rates[name] for name, n in due.items())) > 0:
            n = ceil(max(missing, hop) * clock)
            parts.append((yield from self._push(self._silence(n))))
        return parts

    def _hops(self, given: Frames) -> Work:
        """Take frames at the model's rates; give what their whole hops make, less the delay."""
        engine, held, hops = self.engine, self._held, -1
        for name, x in given.items():
            if held[name].shape[1]:
                x = given[name] = np.concatenate((held[name], x), axis=1)
            ready = x.shape[1] // engine.frames[name]
            hops = ready if hops < 0 else min(hops, ready)
        runs, at = [], 0
        while at < hops:
            bulk, piece = self._many(hops - at), {}
            for name, x in given.items():
                n = engine.frames[name]
                piece[name] = x[:, at * n : (at + bulk) * n].reshape(engine.batch, -1, bulk * n)
            runs.append((yield from self._step(piece, bulk)))
            at += bulk
        for name, x in given.items():
            used = hops * engine.frames[name]
            held[name] = x[:, used:].copy() if used < x.shape[1] else self._none[name]
        return {port.name: self._cut(port, runs) for port in self.ports}

    def _cut(self, port: Port, runs: list[dict[str, np.ndarray]]) -> np.ndarray:
        """Join what several calls gave of an output, without its frames before the signal."""
        name = port.name
        if not runs:
            return self._none[name]
        y = runs[0][name] if len(runs) == 1 else np.concatenate([run[name] for run in runs], axis=2)
        return self._trimmed(name, y.reshape(self._rows[name], -1))

    def _trimmed(self, name: str, y: np.ndarray) -> np.ndarray:
        """Return an output `[rows, frames]` without its frames before the signal."""
        cut = min(self._skip[name], y.shape[1])
        self._skip[name] -= cut
        return y[:, cut:]

    def _many(self, hops: int) -> int:
        """Return how many hops the next call takes: few lengths, to bound ONNX Runtime's memory."""
        return 1 << min(hops, self.bulk, max(1, BULK_ROWS // self.engine.batch)).bit_length() - 1

    def _step(self, piece: dict[str, np.ndarray], hops: int) -> Work:
        """Run whole hops `[batch, channels, frames]` through the graph and give its outputs by port."""
        if self._changed:
            self._changed = False  # first: another thread may call `set` here
            self.engine.turn(self._target)
        step = Step(self.engine, piece, hops)
        yield [step]
        self._stepped += 1
        return self._result(step)

    def _result(self, *steps: Step) -> dict[str, np.ndarray]:
        """Return the outputs of the first of some steps that were run; raise the error of any."""
        broken = 0
        for step in steps:
            if step.error:
                raise step.error
            if step.broken is not None:
                broken = 1
        self.faults += broken
        assert steps[0].outputs is not None
        return steps[0].outputs


def _differ(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return any(not np.array_equal(value, b[name]) for name, value in a.items())


def find(model: str | Path | Artifact | None, rate: int | None = None) -> Artifact:
    """Return an artifact, or the member of a family (see `resolve`) that fits `rate`."""
    if isinstance(model, Artifact):
        return model
    family = resolve(model)
    return choose(family, rate or family[-1].sample_rate)


def output_port(artifact: Artifact, name: str) -> Port:
    """Return the output of a name, or else of a type; raise `ArtifactError` where there is none."""
    found = [p for p in artifact.outputs if p.name == name] or [p for p in artifact.outputs if p.type == name]
    if found:
        return found[0]
    raise ArtifactError(
        f"{artifact.name}: is a model to {artifact.task}, whose output is "
        f"{' '.join(p.type for p in artifact.outputs)}, not {name}; choose another with -m"
    )


def feed_all(requests: Sequence[tuple]) -> list[Any]:
    """Return what each player gives for its block, many of them in one call of the graph.

    A request is `(player, block)` or `(player, block, lost)`; the block None ends the signal as `flush` does.
    Players stack that were made of the same `Artifact` object with the same `threads` and outputs, and have
    the same number of hops to do at a time; any others run in calls of their own. Rates, channels, controls
    and lengths of blocks may differ. Stacked, players share the fixed cost of a call, which is about half of
    the time of a small model (tools/bench/sessions.py).

    A result is within 1e-5 of the peak of what `feed` gives, or the exception that it raises: ValueError for
    a block of a wrong shape, `ArtifactError` for a graph that fails, after which that player has to be reset;
    RuntimeError for a player that is in use already, twice in the list or in another thread. No player feels
    the errors of another. Lists without a common player may run at once.
    """
    works = [p.flushing() if block is None else p.feeding(block, *lost) for p, block, *lost in requests]
    return drive(works)


def drive(works: Sequence[Work]) -> list[Any]:
    """Run all works to their ends, with their steps stacked; an exception is a result."""
    results: list[Any] = [None] * len(works)
    waiting = dict(enumerate(works))
    while waiting:
        steps: list[Step] = []
        for n, work in list(waiting.items()):
            try:
                steps += next(work)
                continue
            except StopIteration as end:
                results[n] = end.value
            except Exception as error:  # one player fails; the others go on
                results[n] = error
            del waiting[n]
        run_steps(steps)
    return results


def alone(work: Work) -> Any:
    """Run one work to its end; raise what it raises."""
    try:
        while True:
            run_steps(next(work))
    except StopIteration as end:
        return end.value
