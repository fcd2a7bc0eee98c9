"""One live signal through one model: blocks of any size, any sample rate, any number of channels.

    session = Session("denoise", sample_rate=48000, channels=2)
    for block in blocks:                # [2, T], any T
        play(session.feed(block))       # what is ready
    play(session.flush())               # the rest: as many samples came out as went in, aligned

A model that is told what a network lost (its second stream is a mask) hears of it in `feed(block, lost)`; any
other model gets zeros there.

Around the graph lie, in order: cleaning of NaN, conversion to the model's rate, collection into hops, the
graph, the cut of its delay, conversion back, and the mix with the dry signal. Many sessions share the calls
of a graph through `audiomask.runtime.stack.feed_all`; `feed` is the same for one.

Nothing that is changed while sound is running clicks. The dry share and the bypass are ramps of the mix. The
model's controls are constants of a call of the graph, so a change is a crossfade of two runs, of the old
values and of the new ones, from the same state on, over `RAMP_S` rounded up to whole hops; from there on the
output is exactly that of the new values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.runtime.artifact import Artifact, ArtifactError, choose, resolve
from audiomask.runtime.engine import Engine, Step
from audiomask.runtime.engine import run as run_steps
from audiomask.runtime.polyphase import Polyphase, Spread
from audiomask.runtime.stack import Work

# Hops per call of the graph when a block brings as many: a second of sound; more is not faster. And hops
# times channels: about 100 MB of activations.
BULK_HOPS, BULK_ROWS = 64, 256
RAMP_S = 0.01  # of a change: too short to wait for, too long to be heard as a click
# Even 32-bit integers taken for samples are smaller; what is beyond is garbage, which models do not forget.
GARBAGE = 2.0**32


class Ramp:
    """A value that moves to its ``target`` by ``slope`` a sample."""

    def __init__(self, slope: float):
        self.slope, self.now, self.target = slope, 0.0, 0.0

    def take(self, count: int) -> Any:
        """The next ``count`` values ``[count]``, or a number if they are all the same, or None if that is
        0."""
        target = self.target  # another thread may change it
        if self.now == target or not count:
            return self.now or None
        way = target - self.now
        steps = np.minimum(self.slope * np.arange(1, count + 1), abs(way))
        arrived = steps[-1] == abs(way)
        values = (self.now + np.copysign(steps, way)).astype(np.float32)
        self.now = target if arrived else float(self.now + np.copysign(steps[-1], way))
        return values


@dataclass(frozen=True)
class Snapshot:
    """The whole memory of a session, to be restored into one of the same model, rate and channels."""

    key: tuple
    memory: list[tuple[list[np.ndarray], dict[str, np.ndarray]]]
    rest: dict[str, Any]


class Session:
    """``model``: an `Artifact`, or what `resolve` takes (of a family, the member that fits ``sample_rate`` is
    chosen).

    ``sample_rate``: of the blocks, in Hz; default the model's. ``channels`` become independent rows of the
    batch of a mono model; a model of M channels takes M, which is the default, and gives as many or one.
    ``dry``: share 0..1 of the untouched signal in the output, delayed alike; where M channels become one, of
    the reference channel. ``bypass``: the untouched signal only, delayed alike, while the model goes on
    listening. ``constants``: values of the model's controls, as in `set`. ``threads``: of the graph.

    ``trim=True``: the first sample out belongs to the first one in, however late it comes, and `flush`
    completes the length. ``trim=False``, for sound cards: each `feed` returns exactly as many samples as it
    got, `lag` later; ``block``: promise that blocks are multiples of this, which may shorten the lag.

    Attributes: ``outputs``: channels that come out; ``hop`` (samples that advance the model by one step,
    rounded up), ``delay`` and ``latency`` = delay + hop in samples of ``sample_rate``, rate conversion
    included; ``cleaned``: input samples that were NaN, infinite or beyond `GARBAGE`, and became 0;
    ``faults``: blocks in which the model itself failed (muted, its state started anew).

    Errors: `ArtifactError` for a model that cannot be found or run or a control out of range; ValueError for
    blocks of a wrong shape; RuntimeError for a session that another thread is feeding.
    """

    def __init__(
        self,
        model: str | Path | Artifact | None = None,
        *,
        sample_rate: int | None = None,
        channels: int | None = None,
        threads: int = 1,
        dry: float = 0.0,
        bypass: bool = False,
        trim: bool = True,
        block: int = 1,
        **constants: Any,
    ):
        if isinstance(model, Artifact):
            artifact = model
        else:
            family = resolve(model)
            artifact = choose(family, sample_rate or family[-1].sample_rate)
        pcm = [p for p in artifact.outputs if p.type == "pcm" and p.rate == 1]
        if len(artifact.streams) > 1 + (artifact.mask is not None) or not pcm:
            raise ArtifactError(
                f"{artifact.name}: is no audio-to-audio model, so a session cannot play it; its task is "
                f"{artifact.task}: see audiomask {artifact.task} --help"
            )
        if artifact.mask and (artifact.mask.rate, artifact.mask.channels) != (1, 1):
            raise ArtifactError(
                f"{artifact.name}: {artifact.mask.name} has {artifact.mask.channels} channels at rate "
                f"{artifact.mask.rate}; a session gives one flag for each sample"
            )
        audio = artifact.streams[0]
        width = audio.channels
        channels = width if channels is None else channels
        if pcm[0].channels not in (1, width):
            raise ArtifactError(
                f"{artifact.name}: makes {pcm[0].channels} channels of {width}; a session plays models that "
                "keep the number or make one"
            )
        if channels < 1 or (width != 1 and channels != width):
            each = ", one for each of its microphones" if width > 1 else ""
            raise ArtifactError(f"{artifact.name}: takes {width} channels, not {channels}{each}")
        if sample_rate is not None and sample_rate < 1:
            raise ArtifactError(f"sample rate {sample_rate} Hz is not positive")
        self.artifact = artifact
        self.sample_rate = sample_rate or artifact.sample_rate
        self.channels, self.trim = channels, trim
        self.outputs = channels // width * pcm[0].channels
        first = audio.reference  # of the channels that the dry sound is made of
        self._dried = slice(first, first + 1) if self.outputs < channels else slice(None)
        self.engine = Engine(artifact, channels // width, threads, pcm[0].name)
        self._before = Engine(artifact, channels // width, threads, pcm[0].name)  # a change fades out of it
        self._target = {name: value.copy() for name, value in self.engine.constants.items()}
        self._flags = self.engine.batch * bool(self.engine.mask)  # rows of what is lost, below the sound's
        self._up = self._down = self._spread = None
        if self.sample_rate != artifact.sample_rate:
            self._up = Polyphase(self.sample_rate, artifact.sample_rate, channels)
            self._down = Polyphase(artifact.sample_rate, self.sample_rate, self.outputs)
            self._spread = Spread(self._up, self._flags) if self._flags else None
        before, after = (self._up.half, self._down.half) if self._up and self._down else (0, 0)
        ratio = self.sample_rate / artifact.sample_rate
        self.latency = ceil(before + (artifact.delay + artifact.hop + after) * ratio - 1e-6)
        self.hop = ceil(artifact.hop * ratio - 1e-6)
        self.delay = self.latency - self.hop
        self.lag = 0 if trim else self.lag_of(block)
        self.cleaned = self.faults = 0
        self._busy = self._changed = False
        self.dry, self.bypass = 0.0, False
        self._fades = ceil(RAMP_S * artifact.sample_rate / artifact.hop)  # hops of a change of controls
        self._hop = np.zeros((channels + self._flags, artifact.hop), np.float32)
        self._mix = Ramp(1 / (RAMP_S * self.sample_rate))
        self.set(dry=dry, bypass=bypass, **constants)
        self.reset()

    def _ready(self, fed):
        """Samples that can be out once ``fed`` are in (integer arrays)."""
        inner = self._up.ready(fed) if self._up else fed
        inner = np.maximum(0, inner // self.artifact.hop * self.artifact.hop - self.artifact.delay)
        return self._down.ready(inner) if self._down else inner

    def lag_of(self, block: int) -> int:
        """By how many samples what has come out may fall behind what went in, in blocks of ``block``."""
        # What is ready repeats once the blocks end where a hop of the model ends too.
        up, down = (self._up.up, self._up.down) if self._up else (1, 1)
        period = self.artifact.hop * down // gcd(self.artifact.hop * down, up)
        count = period // gcd(period, block) + ceil(self.latency / block)
        if count > 2**18:  # odd rates: the bound for all of them
            return self.latency
        fed = np.arange(1, count + 1, dtype=np.int64) * block
        return int((fed - self._ready(fed)).max())

    def set(self, **values: Any) -> None:
        """Change controls while running: ``dry``, ``bypass`` and the model's constant ports (``strength``,
        ``atten_lim``). Any thread may do so. Errors: `ArtifactError`; then nothing is changed."""
        target = dict(self._target)
        dry, bypass = values.pop("dry", self.dry), bool(values.pop("bypass", self.bypass))
        if not 0 <= float(dry) <= 1:
            raise ArtifactError(f"dry = {dry} is outside 0 to 1")
        for name, value in values.items():
            target[name] = self.engine.constant(name, value)
        changed = _differ(target, self._target)
        self.dry, self.bypass, self._target = float(dry), bypass, target
        self._mix.target = 1.0 if bypass else self.dry
        if changed:
            self._changed = True

    def reset(self) -> None:
        """Start a new signal; controls keep their values."""
        self.engine.reset()
        for converter in self._converters:
            if converter:
                converter.reset()
        self._fill = 0  # samples that wait in `_hop` for the rest of their hop
        self._skip = self.artifact.delay  # outputs of the graph that lie before the signal's start
        self._fed = self._aligned = self._stepped = self._fading = 0
        self._late = np.zeros((self.outputs, 0), np.float32)  # dry signal whose wet part is not out yet
        self._held = np.zeros((self.outputs, self.lag), np.float32)

    @property
    def _converters(self) -> tuple[Polyphase | None, ...]:
        return self._up, self._down, self._spread

    def snapshot(self) -> Snapshot:
        """A copy of everything that the next output depends on."""
        rest = {name: copy.deepcopy(getattr(self, name)) for name in self._REST}
        rest["converters"] = [copy.deepcopy(c.state) if c else None for c in self._converters]
        return Snapshot(self._key, [self.engine.save(), self._before.save()], rest)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot. Errors: ValueError if it comes from another model, rate or number of
        channels."""
        if snapshot.key != self._key:
            raise ValueError(f"a snapshot of {snapshot.key} does not fit a session of {self._key}")
        for engine, memory in zip((self.engine, self._before), snapshot.memory, strict=True):
            engine.load(memory)
        for name in self._REST:
            setattr(self, name, copy.deepcopy(snapshot.rest[name]))
        for converter, state in zip(self._converters, snapshot.rest["converters"], strict=True):
            if converter:
                converter.state = copy.deepcopy(state)

    _REST: tuple[str, ...] = (
        "dry",
        "bypass",
        "_target",
        "_mix",
        "_hop",
        "_fill",
        "_skip",
        "_fed",
        "_aligned",
    )
    _REST += ("_stepped", "_fading", "_changed", "_late", "_held")

    @property
    def _key(self) -> tuple:
        return self.artifact.name, self.artifact.meta.get("hash"), self.sample_rate, self.channels, self.lag

    def feed(self, block: np.ndarray, lost: np.ndarray | None = None) -> np.ndarray:
        """``block [T]`` (one channel) or ``[C, T]``, any T, to the samples that are ready: ``[n]``, or
        ``[outputs, n]``.

        ``lost [T]``, or ``[C, T]`` for each channel: other than 0 where a sample did not arrive, None for
        nothing. What the block holds there is ignored: it becomes 0, in the dry sound too. For a model of
        several microphones a sample is lost when any of them lacks it. At another rate than the model's, what
        a lost sample has a part in is lost, see `polyphase.Spread`.
        """
        return _alone(self.feeding(block, lost))

    def flush(self) -> np.ndarray:
        """The rest of the signal ``[outputs, n]`` (``[n]`` for one channel in). Then the session is as after
        `reset`."""
        return _alone(self.flushing())

    def feeding(self, block: np.ndarray, lost: np.ndarray | None = None) -> Work:
        """`feed` as work whose steps somebody else runs, see `stack.drive`."""
        x = np.asarray(block, dtype=np.float32)
        mono = x.ndim == 1
        if mono:
            x = x[None]
        if x.ndim != 2 or x.shape[0] != self.channels:
            raise ValueError(f"a block of shape {np.shape(block)} does not fit [{self.channels}, T]")
        gone = None
        if lost is not None:
            gone = np.atleast_2d(np.asarray(lost)) != 0
            if gone.shape not in ((1, x.shape[1]), x.shape):
                raise ValueError(
                    f"flags of shape {np.shape(lost)} do not fit a block of shape {np.shape(block)}"
                )
        if x.shape[1] == 0:
            return np.zeros(0 if mono else (self.outputs, 0), np.float32)
        if gone is not None:
            x = np.where(gone, np.float32(0), x)
        # One product finds a NaN or garbage anywhere; many loud samples are looked at more closely.
        if not np.vdot(x, x) < GARBAGE**2:
            good = np.abs(x) <= GARBAGE
            self.cleaned += int(x.size - good.sum())
            x = np.where(good, x, np.float32(0))
        self._begin()
        try:
            self._fed += x.shape[1]
            y = yield from self._push(x, gone)
        finally:
            self._busy = False
        if not self.trim:
            self._held = np.concatenate((self._held, y), axis=1)
            y, self._held = self._held[:, : x.shape[1]], self._held[:, x.shape[1] :]
        return y[0] if mono else y

    def flushing(self) -> Work:
        """`flush` as work whose steps somebody else runs."""
        self._begin()
        try:
            parts, missing = [self._held], self._fed - self._aligned
            while missing > 0:
                zeros = np.zeros((self.channels, max(missing, self.hop)), np.float32)
                parts.append((yield from self._push(zeros))[:, :missing])
                missing -= parts[-1].shape[1]
        finally:
            self._busy = False
        self.reset()
        y = np.concatenate(parts, axis=1)
        return y[0] if self.channels == 1 else y

    def _begin(self) -> None:
        if self._busy:
            raise RuntimeError("this session is being fed already; it belongs to one thread at a time")
        self._busy = True

    def _push(self, x: np.ndarray, gone: np.ndarray | None = None) -> Work:
        """Outer ``[C, T]``, of which ``gone [1 or C, T]`` is lost, to the aligned outer ``[outputs, n]`` that
        it completes."""
        inner = self._up.push(x) if self._up else x
        if self._flags:
            flags = np.zeros((self._flags, x.shape[1]), np.float32)
            if gone is not None:
                flags[:] = np.broadcast_to(gone, x.shape).reshape(self._flags, -1, x.shape[1]).any(axis=1)
            inner = np.concatenate((inner, self._spread.push(flags) if self._spread else flags))
        y = yield from self._hops(inner)
        if self._down:
            y = self._down.push(y)
        # The dry path is kept even at dry = 0, so that the mix can be turned at any moment.
        late = np.concatenate((self._late, x[self._dried]), axis=1)
        n = y.shape[1]
        if not self._aligned:  # nothing has been heard yet that a change could click against
            self._mix.now = self._mix.target
        self._aligned += n
        dry = self._mix.take(n)
        if dry is not None:
            y = (1 - dry) * y + dry * late[:, :n]
        self._late = late[:, n:]
        return y

    def _hops(self, x: np.ndarray) -> Work:
        """Model-rate ``[C + flags, T]`` through the graph, hop by hop or many at once, without its delay:
        ``[outputs, n]``."""
        hop, total = self.artifact.hop, x.shape[1]
        parts, at = [], 0
        while at < total:
            bulk = min((total - at) // hop, BULK_HOPS, max(1, BULK_ROWS // self.channels))
            alone = self._fading or (self._changed and self._stepped)  # a hop in which controls change
            if self._fill or bulk <= 1 or alone:
                take = min(hop - self._fill, total - at)
                self._hop[:, self._fill : self._fill + take] = x[:, at : at + take]
                self._fill = (self._fill + take) % hop
                at += take
                if self._fill:
                    break
                piece = self._hop
            else:
                # Few different lengths, so that the memory of ONNX Runtime stays bound.
                bulk = 1 << bulk.bit_length() - 1
                piece = x[:, at : at + bulk * hop]
                at += bulk * hop
            parts.append((yield from self._step(piece)))
        if not parts:
            return np.zeros((self.outputs, 0), np.float32)
        y = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if self._skip:
            cut = min(self._skip, y.shape[1])
            self._skip -= cut
            y = y[:, cut:]
        return y

    def _step(self, piece: np.ndarray) -> Work:
        """``piece [C + flags, T]``, whole hops, through the graph: ``[outputs, T]``."""
        batch, length = self.engine.batch, piece.shape[1]
        x = piece[: self.channels].reshape(batch, -1, length)
        lost = piece[self.channels :].reshape(batch, 1, length) if self._flags else None
        if self._changed and not self._fading:
            self._changed = False  # first: another thread may call `set` here
            target = self._target
            if self._stepped and _differ(target, self.engine.constants):
                self._before.load(self.engine.save())
                self._fading = self._fades
            self.engine.turn(target)
        steps = [Step(self.engine, x, lost)] + [Step(self._before, x, lost)] * bool(self._fading)
        yield steps
        for step in steps:
            if step.error:
                raise step.error
        self.faults += any(step.broken is not None for step in steps)
        self._stepped += 1
        y = _flat(steps[0], self.outputs)
        if self._fading:
            old, length = _flat(steps[1], self.outputs), self._fades * self.artifact.hop
            done = (self._fades - self._fading) * self.artifact.hop
            y = old + np.arange(done + 1, done + y.shape[1] + 1, dtype=np.float32) / length * (y - old)
            self._fading -= 1
        return y


def _differ(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return any(not np.array_equal(value, b[name]) for name, value in a.items())


def _flat(step: Step, outputs: int) -> np.ndarray:
    assert step.y is not None
    return step.y.reshape(outputs, -1)


def _alone(work: Work) -> np.ndarray:
    """As `stack.drive` for one."""
    try:
        while True:
            run_steps(next(work))
    except StopIteration as end:
        return end.value


def run(session: Session, blocks: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """Blocks ``[C, T]`` through a session to its end, as blocks ``[outputs, n]``."""
    for block in blocks:
        if (y := session.feed(block)).shape[-1]:
            yield y
    if (y := session.flush()).shape[-1]:
        yield np.atleast_2d(y)
