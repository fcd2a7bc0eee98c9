"""Play one live sound through one model: any block size, sample rate and number of channels.

    session = Session("denoise", sample_rate=48000, channels=2)
    for block in blocks:                # [2, T], any T
        play(session.feed(block))       # what is ready
    play(session.flush())               # the rest: as many samples came out as went in, aligned

Nothing that is changed while sound is running clicks. The dry fraction and the bypass are ramps of the mix.
The model's controls are constants of a call of the graph, so a change is a crossfade of two runs from the
same state, one with the old values and one with the new, over `RAMP_S` rounded up to whole hops; from there
on the output is exactly that of the new values.

A model that separates gives its stems by name, or with `gains` in decibels the sound with its stems turned:

    session = Session("band.onnx", gains={"vocals": -20})       # the others at 0: karaoke
    session.set(gains={"vocals": 0, "drums": -inf})             # -inf: silence
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, gcd
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.crossfade import RAMP_S, Ramp, crossfade
from audiomask.runtime.engine import Engine, Step
from audiomask.runtime.player import Frames, Player, Work, _differ, alone, find
from audiomask.runtime.seats import Seats

REMIX = "remix"  # the output of a session with gains
MOST_DB = 24.0  # of a gain: louder than any mix needs, and a slip of the keyboard is found out


class Session(Player):
    """A player for a model that turns sound into sound.

    Args:
        dry: fraction 0..1 of the untouched signal in the output, with the same delay; where M channels become
            one, it is that of the reference channel. All of it is in an output that a model adds to it.
        bypass: play only the untouched signal, with the same delay, while the model goes on processing.
        trim: align the first sample out with the first one in; `flush` completes the length. False, for sound
            cards, makes each `feed` return exactly as many samples as it got, `lag` later.
        block: promise that blocks are multiples of this, which may shorten the lag.
        output: name of the one output of sound that is heard, or several; default all of them.
        gains: decibels by output, 0 for those that are left out, of one sound in place of the outputs: what
            came in, with each output turned within it. At 0 it is untouched; what belongs to no output stays.
        residual: name of one more output, what the others leave of what came in.
        speakers: the layout of the channels, as the bits of `audio.layout`; 0 for unknown.
        The others are those of `Player`; a model from two channels to two takes any number, see `seats`.

    Attributes, beside those of `Player`: `outputs`, channels of an output, at `rate_out` Hz; `lag`; `heard`,
    the names of what is given.
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
        output: str | Sequence[str] | None = None,
        gains: Mapping[str, float] | None = None,
        residual: str | None = None,
        speakers: int = 0,
        controls: Mapping[str, Any] | None = None,
    ):
        artifact = find(model, sample_rate)
        names, width = sounds(artifact, output), artifact.streams[0].channels
        self._seats = None
        if width <= 2 and artifact.alike:
            seats = Seats(width if channels is None else channels, speakers, width)
            self._seats = None if seats.plain else seats
        every = sounds(artifact)
        self._deep = "effects" if "effects" in every else every[-1]  # gets the low frequency effects
        self._residual = residual
        rest = [] if residual is None else [residual]
        self.heard = [*(names if gains is None else [REMIX]), *rest]
        self.trim, self.lag, self.outputs, self._fading = trim, 0, 0, 0
        self._before: Engine | None = None  # a change fades out of it
        super().__init__(
            artifact,
            sample_rate=sample_rate,
            channels=self._seats.rows if self._seats else channels,
            threads=threads,
            outputs=names,
            controls=controls,
        )
        port, rate = self.ports[0], self.rates[self.ports[0].name]
        if len({(self.rates[p.name], p.channels) for p in self.ports}) > 1 or rate.denominator != 1:
            raise ArtifactError(f"{artifact.name}: its outputs differ in rate or channels; name one of them")
        if self._seats:
            self.channels = self._seats.channels
            self.rows = dict.fromkeys(self.rows, self.channels)
        self.outputs, self.rate_out = self.rows[port.name], int(rate)
        self.mixes = self.rate_out == self.sample_rate and port.channels in (1, self.first.channels)
        if not trim and not self.mixes:
            raise ArtifactError(
                f"{artifact.name}: makes {self.outputs} channels at {self.rate_out} Hz of {self.channels} at "
                f"{self.sample_rate} Hz, so it cannot give block for block; play it with trim=True"
            )
        if (gains is not None or residual is not None) and not artifact.alike:
            raise ArtifactError(
                f"{artifact.name}: does not make of a sound others of its kind; nothing in it can be turned"
            )
        if residual in (*names, REMIX):
            raise ArtifactError(f"{artifact.name}: makes {residual} itself; give the residual another name")
        for name in self.heard:
            self.rows[name], self.rates[name] = self.outputs, rate
        first = self.first.reference  # the first channel of the dry sound
        self._dried = slice(first, first + 1) if self.outputs < self.channels else slice(None)
        self.lag = 0 if trim else self.lag_of(block)
        self.dry, self.bypass = 0.0, False
        self._fades = ceil(RAMP_S * artifact.sample_rate / artifact.hop)  # hops of a change of controls
        self._mix = Ramp(1 / (RAMP_S * self.sample_rate))
        self._turns = gains is not None
        turned = names if self._turns else []
        self.gains: dict[str, float] = dict.fromkeys(turned, 0.0)
        self._ramps = {name: Ramp(self._mix.slope) for name in turned}  # of their factors, less 1
        self.set(dry=dry, bypass=bypass, gains=gains)
        self.reset()

    def _ready(self, fed):
        """Return how many samples can be out once `fed` are in (integer arrays)."""
        artifact, port = self.artifact, self.ports[0]
        up, down = self._in.get(self.first.name), self._out.get(port.name)
        hops = (up.ready(fed) if up else fed) // artifact.hop
        out = np.maximum(0, hops * port.per_hop(artifact.hop) - int(artifact.delay * port.rate))
        return down.ready(out) if down else out

    def lag_of(self, block: int) -> int:
        """Return by how many samples the output may fall behind the input, in blocks of `block`."""
        # The ready samples repeat once the blocks end where a hop of the model ends too.
        converter = self._in.get(self.first.name)
        up, down = (converter.up, converter.down) if converter else (1, 1)
        period = self.artifact.hop * down // gcd(self.artifact.hop * down, up)
        count = period // gcd(period, block) + ceil(self.latency / block)
        if count > 2**18:  # odd rates get the general bound
            return self.latency
        fed = np.arange(1, count + 1, dtype=np.int64) * block
        return int((fed - self._ready(fed)).max())

    def set(
        self,
        controls: Mapping[str, Any] | None = None,
        *,
        dry: float | None = None,
        bypass: bool | None = None,
        gains: Mapping[str, float] | None = None,
    ) -> None:
        """Change the mix and the controls, in any thread; `ArtifactError` leaves all unchanged.

        Gains that are left out stay.
        """
        dry = self.dry if dry is None else float(dry)
        bypass = self.bypass if bypass is None else bool(bypass)
        if not 0 <= dry <= 1:
            raise ArtifactError(f"dry = {dry:g} is outside 0 to 1")
        if (dry or bypass) and not self.mixes:
            raise ArtifactError(
                f"{self.artifact.name}: makes {self.outputs} channels at {self.rate_out} Hz of "
                f"{self.channels} at {self.sample_rate} Hz; dry and bypass need the same"
            )
        turned = {name: float(gain) for name, gain in (gains or {}).items()}
        for name, gain in turned.items():
            if name not in self._ramps:
                which = f"it has: {' '.join(self._ramps)}" if self._ramps else "it was made without gains"
                raise ArtifactError(f"{self.artifact.name}: has no sound {name!r} to turn; {which}")
            if not gain <= MOST_DB:
                raise ArtifactError(f"gain {name} = {gain:g} dB is outside -inf to {MOST_DB:g}")
        super().set(controls or {})
        self.dry, self.bypass = dry, bypass
        self._mix.target = 1.0 if bypass else dry
        for name, gain in turned.items():
            self.gains[name], self._ramps[name].target = gain, 10 ** (gain / 20) - 1

    def reset(self) -> None:
        super().reset()
        self._fading, self._begun = 0, False
        self._late = np.zeros((self.outputs, 0), np.float32)  # dry signal whose wet part is not out yet
        self._lagging = {name: np.zeros((self.outputs, self.lag), np.float32) for name in self.heard}

    _REST = [*Player._REST, "dry", "bypass", "gains", "_mix", "_ramps"]
    _REST += ["_fading", "_begun", "_late", "_lagging"]

    @property
    def _engines(self) -> list[Engine]:
        return [self.engine, self._older()] if self._fading else [self.engine]

    def _older(self) -> Engine:
        """Return the engine that a change fades out of; the first change makes it."""
        if self._before is None:
            self._before = Engine(self.artifact, self.engine.batch, self.threads, self.engine.outputs)
        return self._before

    @property
    def _key(self) -> tuple:
        seats = tuple(self._seats.order) if self._seats else ()
        return *super()._key, self.engine.outputs, tuple(self.heard), seats, self.lag

    def feed(self, block: np.ndarray, lost: np.ndarray | None = None) -> Any:  # type: ignore[override]
        """Take `block [T]` (one channel) or `[C, T]`, any T, and return the samples that are ready.

        A block `[T]` that becomes one channel gives `[n]`, any other `[outputs, n]`; where several are
        `heard`, they are a dict by name. What is `lost` (see `Player.feed`) is 0 in the dry sound too.
        """
        return alone(self.feeding(block, lost))

    def flush(self) -> Any:
        """Return the rest of the signal, as `feed` does; then the session is as after `reset`."""
        return alone(self.flushing())

    def _seated(self, x: np.ndarray) -> np.ndarray:
        return self._seats.seated(x) if self._seats else x

    def _silence(self, n: int) -> np.ndarray:
        return np.zeros((self.channels, n), np.float32)

    def _mixed(self, y: Frames, x: np.ndarray) -> Frames:
        # The dry path is kept even at dry = 0, so that the mix can be turned at any moment.
        if self.mixes:
            self._late = np.concatenate((self._late, x[self._dried]), axis=1)
        return {name: self._seats.gathered(part) for name, part in y.items()} if self._seats else y

    def _handed(self, y: Frames, block: np.ndarray | None) -> Any:
        mono = self.outputs == 1 == (self.channels if block is None else np.ndim(block))
        y = self._turned(y) if self.mixes else y
        if not self.trim:
            for name, ready in y.items():
                late = np.concatenate((self._lagging[name], ready), axis=1)
                n = late.shape[1] if block is None else np.shape(block)[-1]
                y[name], self._lagging[name] = late[:, :n], late[:, n:]
        if len(y) == 1:
            (part,) = y.values()
            return part[0] if mono else part
        return {name: part[0] for name, part in y.items()} if mono else y

    def _turned(self, y: Frames) -> Frames:
        """Return what is heard of aligned outputs, with the dry sound mixed in."""
        n = y[self.ports[0].name].shape[1]
        plain, self._late = self._late[:, :n], self._late[:, n:]
        if self._seats and self._deep in y:
            y[self._deep][self._seats.low] = plain[self._seats.low]
        if not self._begun:  # nothing has been heard yet that a change could click against
            for ramp in (self._mix, *self._ramps.values()):
                ramp.now = ramp.target
        self._begun = self._begun or n > 0
        for port in self.ports:
            if port.added:
                y[port.name] = plain + y[port.name]
        rest = {} if self._residual is None else {self._residual: plain - sum(y.values())}
        if self._turns:
            mix = plain.copy()
            for name, ramp in self._ramps.items():
                if (gain := ramp.take(n)) is not None:
                    mix += gain * y[name]
            y = {REMIX: mix}
        if (dry := self._mix.take(n)) is not None:
            y = {name: (1 - dry) * wet + dry * plain for name, wet in y.items()}
        return y | rest

    def _many(self, hops: int) -> int:
        changing = self._fading or (self._changed and self._stepped)
        return 1 if changing else super()._many(hops)

    def _step(self, piece: dict[str, np.ndarray], hops: int) -> Work:
        if self._changed and not self._fading:
            self._changed = False  # first: another thread may call `set` here
            target = self._target
            if self._stepped and _differ(target, self.engine.controls):
                self._older().load(self.engine.save())
                self._fading = self._fades
            self.engine.turn(target)
        steps = [Step(self.engine, piece, hops)]
        if self._fading:
            steps.append(Step(self._older(), piece, hops))
        yield steps
        self._stepped += 1
        y = self._result(*steps)
        if self._fading:
            y = crossfade(steps[1].outputs or {}, y, self._fades - self._fading, self._fades)
            self._fading -= 1
        return y


def sounds(artifact: Artifact, output: str | Sequence[str] | None = None) -> list[str]:
    """Return the outputs of sound, or those asked for; raise `ArtifactError` if unplayable."""
    names = [port.name for port in artifact.outputs if port.type == "pcm"]
    others = [p for p in artifact.streams[1:] if p.type not in ("lost", "noise")]
    if artifact.streams[0].type != "pcm" or not names or others:
        raise ArtifactError(
            f"{artifact.name}: is no audio-to-audio model, so a session cannot play it; its task is "
            f"{artifact.task}: see audiomask {artifact.task} --help"
        )
    lost = artifact.lost
    if lost and (lost.rate, lost.channels) != (1, 1):
        raise ArtifactError(
            f"{artifact.name}: {lost.name} has {lost.channels} channels at rate {lost.rate}; a session gives "
            "one flag for each sample"
        )
    wanted = [output] if isinstance(output, str) else names if output is None else [*dict.fromkeys(output)]
    if missing := [name for name in wanted if name not in names]:
        raise ArtifactError(
            f"{artifact.name}: has no output {missing[0]!r} of sound; it has: {' '.join(names)}"
        )
    return wanted


def player_of(artifact: Artifact, **options: Any) -> Player:
    """Return a `Session` for a model from sound to sound, else a `Player`; taggers mix channels."""
    if artifact.streams[0].type == "pcm" and any(port.type == "pcm" for port in artifact.outputs):
        return Session(artifact, **options)
    types = {port.type for port in artifact.outputs}
    return Player(artifact, mix=types <= {"probabilities", "embedding"}, **options)
