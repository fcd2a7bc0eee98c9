"""One live signal through one model: blocks of any size, any sample rate, any number of channels.

    session = Session("denoise", sample_rate=48000, channels=2)
    for block in blocks:                # [2, T], any T
        play(session.feed(block))       # what is ready
    play(session.flush())               # the rest: as many samples came out as went in, aligned

Around the graph lie, in order: cleaning of NaN, conversion to the model's rate, collection into hops, the
graph, the cut of its delay, conversion back, and the mix with the dry signal.
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
from audiomask.runtime.engine import Engine, Plan
from audiomask.runtime.polyphase import Polyphase

# Hops per call of the graph when a block brings as many: a second of sound; more is not faster. And hops
# times channels: about 100 MB of activations.
BULK_HOPS, BULK_ROWS = 64, 256


@dataclass(frozen=True)
class Snapshot:
    """The whole memory of a session, to be restored into one of the same model, rate and channels."""

    key: tuple
    states: list[np.ndarray]
    constants: dict[str, np.ndarray]
    rest: dict[str, Any]


class Session:
    """``model``: an `Artifact`, or what `resolve` takes (of a family, the member that fits ``sample_rate`` is
    chosen).

    ``sample_rate``: of the blocks, in Hz; default the model's. ``channels`` become independent rows of the
    batch of a mono model; a model of M channels takes M, which is the default, and gives as many or one.
    ``dry``: share 0..1 of the untouched signal in the output, delayed alike; where M channels become one, of
    the reference channel. ``constants``: values of the model's controls, as in `set`. ``threads``: of the
    graph.

    ``trim=True``: the first sample out belongs to the first one in, however late it comes, and `flush`
    completes the length. ``trim=False``, for sound cards: each `feed` returns exactly as many samples as it
    got, `lag` later; ``block``: promise that blocks are multiples of this, which may shorten the lag.

    Attributes: ``outputs``: channels that come out; ``hop`` (samples that advance the model by one step,
    rounded up), ``delay`` and ``latency`` = delay + hop in samples of ``sample_rate``, rate conversion
    included; ``cleaned``: input samples that were NaN or infinite; ``faults``: blocks in which the model
    itself failed (muted, its state started anew).

    Errors: `ArtifactError` for a model that cannot be found or run or a control out of range; ValueError for
    blocks of a wrong shape.
    """

    def __init__(
        self,
        model: str | Path | Artifact | None = None,
        *,
        sample_rate: int | None = None,
        channels: int | None = None,
        threads: int = 1,
        dry: float = 0.0,
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
        if len(artifact.streams) != 1 or not pcm:
            raise ArtifactError(f"{artifact.name}: is no audio-to-audio model; a session cannot play it")
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
        self.engine = Engine(artifact, channels // width, threads)
        self._in, self._out = audio.name, pcm[0].name
        self._up = self._down = None
        if self.sample_rate != artifact.sample_rate:
            self._up = Polyphase(self.sample_rate, artifact.sample_rate, channels)
            self._down = Polyphase(artifact.sample_rate, self.sample_rate, self.outputs)
        before, after = (self._up.half, self._down.half) if self._up and self._down else (0, 0)
        ratio = self.sample_rate / artifact.sample_rate
        self.latency = ceil(before + (artifact.delay + artifact.hop + after) * ratio - 1e-6)
        self.hop = ceil(artifact.hop * ratio - 1e-6)
        self.delay = self.latency - self.hop
        self.lag = 0 if trim else self._lag(block)
        self._dry = 0.0
        self.cleaned = self.faults = 0
        self._one = self._views(self.engine.plan(1))
        self.set(dry=dry, **constants)
        self.reset()

    def _views(self, plan: Plan) -> tuple[Plan, np.ndarray, np.ndarray]:
        """A plan with its input as ``[channels, T]`` and its output as ``[outputs, T]``."""
        return plan, plan.x[self._in].reshape(self.channels, -1), plan.y[self._out].reshape(self.outputs, -1)

    def _ready(self, fed):
        """Samples that can be out once ``fed`` are in (integer arrays)."""
        inner = self._up.ready(fed) if self._up else fed
        inner = np.maximum(0, inner // self.artifact.hop * self.artifact.hop - self.artifact.delay)
        return self._down.ready(inner) if self._down else inner

    def _lag(self, block: int) -> int:
        # What is ready repeats once the blocks end where a hop of the model ends too.
        up, down = (self._up.up, self._up.down) if self._up else (1, 1)
        period = self.artifact.hop * down // gcd(self.artifact.hop * down, up)
        count = period // gcd(period, block) + ceil(self.latency / block)
        if count > 2**18:  # odd rates: the bound for all of them
            return self.latency
        fed = np.arange(1, count + 1, dtype=np.int64) * block
        return int((fed - self._ready(fed)).max())

    def set(self, **values: Any) -> None:
        """Change controls while running: ``dry`` and the model's constant ports (``strength``,
        ``atten_lim``)."""
        for name, value in values.items():
            if name == "dry":
                if not 0 <= float(value) <= 1:
                    raise ArtifactError(f"dry = {value} is outside 0 to 1")
                self._dry = float(value)
            else:
                self.engine.set(name, value)

    def reset(self) -> None:
        """Start a new signal; controls keep their values."""
        self.engine.reset()
        for converter in (self._up, self._down):
            if converter:
                converter.reset()
        self._fill = 0  # samples that wait in the one-hop input for the rest of their hop
        self._skip = self.artifact.delay  # outputs of the graph that lie before the signal's start
        self._fed = self._aligned = 0
        self._late = np.zeros((self.outputs, 0), np.float32)  # dry signal whose wet part is not out yet
        self._held = np.zeros((self.outputs, self.lag), np.float32)

    def snapshot(self) -> Snapshot:
        """A copy of everything that the next output depends on."""
        rest = {name: copy.deepcopy(getattr(self, name)) for name in self._REST}
        rest["pending"] = self._one[1][:, : self._fill].copy()
        rest["converters"] = [copy.deepcopy(c.state) if c else None for c in (self._up, self._down)]
        states = [value.copy() for value in self.engine.state]
        return Snapshot(self._key, states, {k: v.copy() for k, v in self.engine.constants.items()}, rest)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot. Errors: ValueError if it comes from another model, rate or number of
        channels."""
        if snapshot.key != self._key:
            raise ValueError(f"a snapshot of {snapshot.key} does not fit a session of {self._key}")
        for value, saved in zip(self.engine.state, snapshot.states, strict=True):
            value[:] = saved
        for name, saved in snapshot.constants.items():
            self.engine.constants[name][:] = saved
        for name in self._REST:
            setattr(self, name, copy.deepcopy(snapshot.rest[name]))
        self._one[1][:, : self._fill] = snapshot.rest["pending"]
        for converter, state in zip((self._up, self._down), snapshot.rest["converters"], strict=True):
            if converter:
                converter.state = copy.deepcopy(state)

    _REST = ("_fill", "_skip", "_fed", "_aligned", "_dry", "_late", "_held")

    @property
    def _key(self) -> tuple:
        return self.artifact.name, self.artifact.meta.get("hash"), self.sample_rate, self.channels, self.lag

    def feed(self, block: np.ndarray) -> np.ndarray:
        """``block [T]`` (one channel) or ``[C, T]``, any T, to the samples that are ready: ``[n]``, or
        ``[outputs, n]``."""
        x = np.asarray(block, dtype=np.float32)
        mono = x.ndim == 1
        if mono:
            x = x[None]
        if x.ndim != 2 or x.shape[0] != self.channels:
            raise ValueError(f"a block of shape {np.shape(block)} does not fit [{self.channels}, T]")
        if x.shape[1] == 0:
            return np.zeros(0 if mono else (self.outputs, 0), np.float32)
        # One product finds a NaN or infinity anywhere; sums that overflow are looked at more closely.
        if not np.vdot(x, x) < np.inf:
            finite = np.isfinite(x)
            self.cleaned += int(x.size - finite.sum())
            x = np.where(finite, x, np.float32(0))
        self._fed += x.shape[1]
        y = self._push(x)
        if not self.trim:
            self._held = np.concatenate((self._held, y), axis=1)
            y, self._held = self._held[:, : x.shape[1]], self._held[:, x.shape[1] :]
        return y[0] if mono else y

    def flush(self) -> np.ndarray:
        """The rest of the signal ``[outputs, n]`` (``[n]`` for one channel in). Then the session is as after
        `reset`."""
        wanted = self._fed - self._aligned
        parts = [np.zeros((self.outputs, 0), np.float32)]
        while (missing := wanted - sum(p.shape[1] for p in parts)) > 0:
            parts.append(
                self._push(np.zeros((self.channels, max(missing, self.hop)), np.float32))[:, :missing]
            )
        y = np.concatenate((self._held, *parts), axis=1)
        self.reset()
        return y[0] if self.channels == 1 else y

    def _push(self, x: np.ndarray) -> np.ndarray:
        """Outer ``[C, T]`` to the aligned outer ``[outputs, n]`` that it completes."""
        y = self._hops(self._up.push(x) if self._up else x)
        if self._down:
            y = self._down.push(y)
        self._aligned += y.shape[1]
        # The dry path is kept even at dry = 0, so that the mix can be turned at any moment.
        late = np.concatenate((self._late, x[self._dried]), axis=1)
        n = y.shape[1]
        if self._dry:
            y = (1 - self._dry) * y + self._dry * late[:, :n]
        self._late = late[:, n:]
        return y

    def _hops(self, x: np.ndarray) -> np.ndarray:
        """Model-rate ``[C, T]`` through the graph, hop by hop or many at once, without its delay:
        ``[outputs, n]``."""
        hop, total = self.artifact.hop, x.shape[1]
        parts, at = [], 0
        while at < total:
            bulk = min((total - at) // hop, BULK_HOPS, max(1, BULK_ROWS // self.channels))
            if self._fill or bulk <= 1:
                view = self._one
                take = min(hop - self._fill, total - at)
                view[1][:, self._fill : self._fill + take] = x[:, at : at + take]
                self._fill += take
                at += take
                if self._fill < hop:
                    break
                self._fill = 0
            else:
                bulk = 1 << bulk.bit_length() - 1  # few different lengths, so that their memory stays bound
                view = self._views(self.engine.plan(bulk))
                view[1][:] = x[:, at : at + bulk * hop]
                at += bulk * hop
            parts.append(self._run(*view))
        if not parts:
            return np.zeros((self.outputs, 0), np.float32)
        y = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if self._skip:
            cut = min(self._skip, y.shape[1])
            self._skip -= cut
            y = y[:, cut:]
        return y

    def _run(self, plan: Plan, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        self.engine.step(plan)
        y = y.copy()
        if not np.vdot(y, y) < np.inf and not (rows := np.isfinite(y).all(axis=1)).all():
            # A state that holds a NaN would never recover. Mute the block, start the row anew, and say so.
            self.faults += 1
            y[~rows] = 0
            self.engine.reset(~rows if self.engine.batch == self.channels else slice(None))
        return y


def run(session: Session, blocks: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """Blocks ``[C, T]`` through a session to its end, as blocks ``[outputs, n]``."""
    for block in blocks:
        if (y := session.feed(block)).shape[-1]:
            yield y
    if (y := session.flush()).shape[-1]:
        yield np.atleast_2d(y)
