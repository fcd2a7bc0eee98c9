"""Play one live sound through one model: any block size, sample rate and number of channels.

    session = Session("denoise", sample_rate=48000, channels=2)
    for block in blocks:                # [2, T], any T
        play(session.feed(block))       # what is ready
    play(session.flush())               # the rest: as many samples came out as went in, aligned

Nothing that is changed while sound is running clicks. The dry fraction and the bypass are ramps of the mix.
The model's controls are constants of a call of the graph, so a change is a crossfade of two runs from the
same state, one with the old values and one with the new, over `RAMP_S` rounded up to whole hops; from there
on the output is exactly that of the new values.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, gcd
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.crossfade import RAMP_S, Ramp, crossfade
from audiomask.runtime.engine import Engine, Step
from audiomask.runtime.player import Frames, Player, Work, _differ, alone, find


class Session(Player):
    """A player for a model that turns sound into sound.

    Args:
        dry: fraction 0..1 of the untouched signal in the output, with the same delay; where M channels become
            one, it is that of the reference channel. All of it is in an output that a model adds to it.
        bypass: play only the untouched signal, with the same delay, while the model goes on processing.
        trim: align the first sample out with the first one in; `flush` completes the length. False, for sound
            cards, makes each `feed` return exactly as many samples as it got, `lag` later.
        block: promise that blocks are multiples of this, which may shorten the lag.
        output: name of the one output of sound that is heard; default all of them.
        The others are those of `Player`.

    Attributes, beside those of `Player`: `outputs`, channels of an output, at `rate_out` Hz; `lag`.
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
        output: str | None = None,
        controls: Mapping[str, Any] | None = None,
    ):
        artifact = find(model, sample_rate)
        self.trim, self.lag, self.outputs, self._fading = trim, 0, 0, 0
        self._before: Engine | None = None  # a change fades out of it
        super().__init__(
            artifact,
            sample_rate=sample_rate,
            channels=channels,
            threads=threads,
            outputs=sounds(artifact, output),
            controls=controls,
        )
        port, rate = self.ports[0], self.rates[self.ports[0].name]
        if len({(self.rates[p.name], p.channels) for p in self.ports}) > 1 or rate.denominator != 1:
            raise ArtifactError(f"{artifact.name}: its outputs differ in rate or channels; name one of them")
        self.outputs, self.rate_out = self.rows[port.name], int(rate)
        self.mixes = self.rate_out == self.sample_rate and port.channels in (1, self.first.channels)
        if not trim and not self.mixes:
            raise ArtifactError(
                f"{artifact.name}: makes {self.outputs} channels at {self.rate_out} Hz of {self.channels} at "
                f"{self.sample_rate} Hz, so it cannot give block for block; play it with trim=True"
            )
        first = self.first.reference  # the first channel of the dry sound
        self._dried = slice(first, first + 1) if self.outputs < self.channels else slice(None)
        self.lag = 0 if trim else self.lag_of(block)
        self.dry, self.bypass = 0.0, False
        self._fades = ceil(RAMP_S * artifact.sample_rate / artifact.hop)  # hops of a change of controls
        self._mix = Ramp(1 / (RAMP_S * self.sample_rate))
        self.set(dry=dry, bypass=bypass)
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
    ) -> None:
        """Change the mix and the controls, in any thread; `ArtifactError` leaves all unchanged."""
        dry = self.dry if dry is None else float(dry)
        bypass = self.bypass if bypass is None else bool(bypass)
        if not 0 <= dry <= 1:
            raise ArtifactError(f"dry = {dry:g} is outside 0 to 1")
        if (dry or bypass) and not self.mixes:
            raise ArtifactError(
                f"{self.artifact.name}: makes {self.outputs} channels at {self.rate_out} Hz of "
                f"{self.channels} at {self.sample_rate} Hz; dry and bypass need the same"
            )
        super().set(controls or {})
        self.dry, self.bypass = dry, bypass
        self._mix.target = 1.0 if bypass else dry

    def reset(self) -> None:
        super().reset()
        self._fading = 0
        self._late = np.zeros((self.outputs, 0), np.float32)  # dry signal whose wet part is not out yet
        self._lagging = {port.name: np.zeros((self.outputs, self.lag), np.float32) for port in self.ports}

    _REST = [*Player._REST, "dry", "bypass", "_mix", "_fading", "_late", "_lagging"]

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
        return *super()._key, self.engine.outputs, self.lag

    def feed(self, block: np.ndarray, lost: np.ndarray | None = None) -> Any:  # type: ignore[override]
        """Take `block [T]` (one channel) or `[C, T]`, any T, and return the samples that are ready.

        A block `[T]` that becomes one channel gives `[n]`, any other `[outputs, n]`; a model with several
        outputs gives a dict of them by port. What is `lost` (see `Player.feed`) is 0 in the dry sound too.
        """
        return alone(self.feeding(block, lost))

    def flush(self) -> Any:
        """Return the rest of the signal, as `feed` does; then the session is as after `reset`."""
        return alone(self.flushing())

    def _handed(self, y: Frames, block: np.ndarray | None) -> Any:
        mono = self.outputs == 1 == (self.channels if block is None else np.ndim(block))
        if not self.trim:
            for name, ready in y.items():
                late = np.concatenate((self._lagging[name], ready), axis=1)
                n = late.shape[1] if block is None else np.shape(block)[-1]
                y[name], self._lagging[name] = late[:, :n], late[:, n:]
        if len(y) == 1:
            (part,) = y.values()
            return part[0] if mono else part
        return {name: part[0] for name, part in y.items()} if mono else y

    def _mixed(self, y: Frames, x: np.ndarray) -> Frames:
        if not self.mixes:
            return y
        # The dry path is kept even at dry = 0, so that the mix can be turned at any moment.
        late = np.concatenate((self._late, x[self._dried]), axis=1)
        name = self.ports[0].name
        n = y[name].shape[1]
        if not self._done[name]:  # nothing has been heard yet that a change could click against
            self._mix.now = self._mix.target
        dry = self._mix.take(n)
        for port in self.ports:
            wet = y[port.name]
            if port.added:
                y[port.name] = late[:, :n] + (wet if dry is None else (1 - dry) * wet)
            elif dry is not None:
                y[port.name] = (1 - dry) * wet + dry * late[:, :n]
        self._late = late[:, n:]
        return y

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


def sounds(artifact: Artifact, output: str | None = None) -> list[str]:
    """Return the outputs of sound, or the one asked for; raise `ArtifactError` if unplayable."""
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
    if output is not None and output not in names:
        raise ArtifactError(f"{artifact.name}: has no output {output!r} of sound; it has: {' '.join(names)}")
    return names if output is None else [output]


def player_of(artifact: Artifact, **options: Any) -> Player:
    """Return a `Session` for a model from sound to sound, else a `Player`; taggers mix channels."""
    if artifact.streams[0].type == "pcm" and any(port.type == "pcm" for port in artifact.outputs):
        return Session(artifact, **options)
    types = {port.type for port in artifact.outputs}
    return Player(artifact, mix=types <= {"probabilities", "embedding"}, **options)
