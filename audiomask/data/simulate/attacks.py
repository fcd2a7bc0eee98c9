"""Attack marked sound, to see what of a mark survives codecs, noise, speed, crops, rooms.

    attack = Attack("opus:12+noise:20")
    y = attack(x, sample_rate=16000, seeds=torch.arange(8))      # x [8, C, T], of any rate

A spec is KIND[:VALUE[:VALUE]], of the kinds of `attack_kinds.KINDS`; a `+` joins several, one after another.
A value LOW..HIGH is drawn evenly, and of A/B/C one is, once for a batch. All else that is random is drawn by
each row from its seed, so a row comes out the same in any batch. Kinds are differentiable, codecs
straight-through: what comes out has been coded, and the gradient is that of the untouched sound.

`Attack.moved` says besides where the sound came from, in time; `Stream` runs through long recordings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from audiomask.audio import AudioError
from audiomask.data.simulate.attack_kinds import KINDS, NUMBERS, SUITES, Kind, Moved, Parameter, Scene
from audiomask.data.simulate.degrade import RowDraws
from audiomask.masks.markov import mixed

STRETCH_S = 30  # of a long recording that is worked on at once, where an attack permits that
MOST = 2**24  # samples of all channels that are held where all are needed: .8 GB, 2.6 for a vocoder


class AttackError(ValueError):
    """A spec that cannot be read; the message says what would do."""


class OneOf(tuple[float, ...]):
    """Values of which one is drawn."""


Value = float | str | OneOf | tuple[float, float]  # a pair: to be drawn between


@dataclass(frozen=True)
class Step:
    """A kind with its values."""

    kind: Kind
    values: tuple[Value, ...]

    def __str__(self) -> str:
        def text(value: Value) -> str:
            if isinstance(value, tuple):
                return ("/" if isinstance(value, OneOf) else "..").join(f"{end:g}" for end in value)
            return value if isinstance(value, str) else f"{value:g}"

        return ":".join([self.kind.name, *(text(value) for value in self.values if value != "")])

    def drawn(self, seed: int) -> Step:
        """Return this step with ranges and choices replaced by values from a seed."""
        numbers = torch.rand(max(1, len(self.values)), generator=torch.Generator().manual_seed(seed)).tolist()
        values: list[Value] = []
        for number, value, parameter in zip(numbers, self.values, self.kind.parameters, strict=False):
            if isinstance(value, OneOf):
                value = value[math.floor(number * len(value))]
            elif isinstance(value, tuple):
                low, high = value
                value = low + number * (high - low)
                if parameter.whole:  # each as often
                    value = min(high, math.floor(low + number * (high - low + 1)))
            values.append(value)
        return Step(self.kind, tuple(values))

    def __call__(self, x: Tensor, rate: int, seeds: Tensor, other: Tensor | None = None) -> Tensor | Moved:
        """Return `x` after this step, whose values are drawn."""
        return self.kind.act(x, Scene(rate, RowDraws(seeds, NUMBERS, x.device), other), *self.values)


def _number(text: str, parameter: Parameter, spec: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    wanted = f"{parameter.low:g} to {parameter.high:g} {parameter.unit}".strip()
    if not parameter.low <= value <= parameter.high:
        raise AttackError(f"{spec}: {parameter.name} {text!r} is no number from {wanted}")
    if parameter.whole and value != int(value):
        raise AttackError(f"{spec}: {parameter.name} {text!r} is no whole number")
    return value


def parse(spec: str) -> list[Step]:
    """Return the steps of a spec, or raise `AttackError`, which says what would do."""
    return [_step(part.strip()) for part in re.split(r"\+(?=\s*[a-z])", spec)]


def _step(spec: str) -> Step:
    name, colon, rest = spec.partition(":")
    if name not in KINDS:
        raise AttackError(f"{spec or 'nothing'}: is no attack; there are {' '.join(KINDS)}")
    kind = KINDS[name]
    # A path comes last, and may hold colons.
    given = rest.split(":", max(0, len(kind.parameters) - 1)) if colon else []
    if len(given) > len(kind.parameters) or (given and not kind.parameters):
        raise AttackError(f"{spec}: {name} takes no value")
    values: list[Value] = []
    for i, parameter in enumerate(kind.parameters):
        text = given[i] if i < len(given) else ""
        if not text:
            if parameter.default is None:
                raise AttackError(f"{spec}: give {form(kind)}")
            values.append(parameter.default)
        elif parameter.is_path:
            values.append(text)
        elif ".." in text:
            low, _, high = text.partition("..")
            pair = _number(low, parameter, spec), _number(high, parameter, spec)
            if pair[0] > pair[1]:
                raise AttackError(f"{spec}: {parameter.name} {text} runs downwards; give the lower one first")
            values.append(pair)
        elif "/" in text:
            values.append(OneOf(_number(one, parameter, spec) for one in text.split("/")))
        else:
            values.append(_number(text, parameter, spec))
    return Step(kind, tuple(values))


def form(kind: Kind) -> str:
    """Return how a kind is written, with optional values in brackets."""
    text = ""
    for parameter in reversed(kind.parameters):
        needed = parameter.default is None or (text and not text.startswith("["))
        text = f":{parameter.name}{text}" if needed else f"[:{parameter.name}{text}]"
    return kind.name + text


def rows() -> list[tuple[str, str, str, str, str]]:
    """Return the table of kinds: how they are written, what they do, values, gradients, source."""
    found = []
    for kind in KINDS.values():
        values = []
        for p in kind.parameters:
            if p.is_path:
                values.append(f"{p.name}: {'a path' if p.default is None else 'a path, optional'}")
            else:
                values.append(f"{p.name} {p.low:g} to {p.high:g} {p.unit}".rstrip() + f" ({p.default:g})")
        found.append((form(kind), kind.doc, "; ".join(values), kind.gradient, kind.source))
    return found


def markdown() -> str:
    """Return the table of kinds as docs/attacks.md has it."""
    head = ("kind", "what it does", "values", "gradient", "in")
    lines = [head, tuple("---" for _ in head), *((f"`{row[0]}`", *row[1:]) for row in rows())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _seeds(seeds: Tensor | int, count: int) -> Tensor:
    """Return a seed for each row, on the CPU; a number gives all rows seeds of their own."""
    if isinstance(seeds, Tensor):
        if seeds.shape != (count,):
            raise ValueError(f"seeds of shape {tuple(seeds.shape)} do not fit {count} rows")
        return seeds.cpu().long()
    return mixed(torch.arange(count) + mixed(torch.tensor(seeds)))


class Attack(nn.Module):
    """An attack, or several one after the other, by a spec; see the head of this file."""

    def __init__(self, spec: str):
        super().__init__()
        self.steps = parse(spec)

    def __str__(self) -> str:
        return "+".join(map(str, self.steps))

    def drawn(self, seed: int) -> list[Step]:
        """Return the steps with ranges and choices replaced by values from a seed."""
        return [step.drawn(int(mixed(torch.tensor(seed + i)))) for i, step in enumerate(self.steps)]

    def forward(
        self, x: Tensor, sample_rate: int, seeds: Tensor | int = 0, other: Tensor | None = None
    ) -> Tensor:
        """Return `x [B, C, T]` after the attack.

        Args:
            x: Marked sound.
            sample_rate: Of x, in Hz.
            seeds: int64 `[B]`, a seed for each row, or one number.
            other: Sound like x that splices put in.
        """
        return self.moved(x, sample_rate, seeds, other).audio

    def moved(
        self, x: Tensor, sample_rate: int, seeds: Tensor | int = 0, other: Tensor | None = None
    ) -> Moved:
        """Return what `forward` does, and where each sample of it was before."""
        if x.ndim != 3 or not x.shape[2]:
            raise ValueError(f"sound of shape {tuple(x.shape)}: want [B, C, T]")
        seeds = _seeds(seeds, len(x))
        all_of_it = Moved(x, torch.zeros(len(x), dtype=torch.float64))
        for i, step in enumerate(self.drawn(int(seeds[0]))):
            there = step(all_of_it.audio, sample_rate, mixed(seeds + i), other)
            all_of_it = _composed(all_of_it, there)
            if other is not None and isinstance(there, Moved) and i + 1 < len(self.steps):
                other = None  # it is aligned with x no more
        return all_of_it


def _composed(first: Moved, then: Tensor | Moved) -> Moved:
    """Return the second of two moves as seen from before the first."""
    if isinstance(then, Tensor):
        return Moved(then, first.begin, first.speed, first.own)
    own = then.own
    if first.own is not None:
        n = torch.arange(then.audio.shape[2], dtype=torch.float64)
        at = (then.begin[:, None] + then.speed * n).round().long().to(first.own.device)
        inside = (at >= 0) & (at < first.own.shape[1])
        before = first.own.gather(1, at.clamp(0, first.own.shape[1] - 1)) | ~inside
        own = before if own is None else own & before
    return Moved(then.audio, first.begin + first.speed * then.begin, first.speed * then.speed, own)


def windowed(
    blocks: Iterable[np.ndarray], size: int, context: int, act: Callable[[np.ndarray, int], np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield `act(window, number)` over a recording `[C, T]`, in stretches of `size` samples.

    A window has up to `context` samples more on either side; what `act` makes of them is left out.
    """
    held, left, number = None, 0, 0
    for x in chain(blocks, [None]):
        if x is not None:
            held = x if held is None else np.concatenate((held, x), axis=1)
        while held is not None and held.shape[1] > left:
            rest = held.shape[1] - left
            if rest < size + context and x is not None:
                break
            n = size if rest >= size + context else rest
            yield act(held[:, : left + n + context], number)[:, left : left + n]
            keep = max(0, left + n - context)
            held, left, number = held[:, keep:], left + n - keep, number + 1


class Stream:
    """An attack on one recording of any length, block by block.

    stream = Stream(Attack("opus:12"), 16000, seed=1); for y in stream(blocks): write(y)

    Recordings of up to 30 s come out as from `Attack`. Of longer ones, what looks no further than a few
    seconds is done in stretches of 30 s, and codecs go on as they would. What needs the whole (speed, crops,
    an SNR) holds it, and raises `AudioError` beyond `MOST` samples.

    Attributes: `begin`, `speed`, `other`: as in `Moved`, in seconds, once all is read; `other` are the
    stretches of the output, from and to, that are of another sound.
    """

    def __init__(self, attack: Attack, sample_rate: int, seed: int = 0):
        self.rate, self.seed = sample_rate, seed
        self.steps = attack.drawn(seed)
        self._moved: Moved | None = None

    @property
    def spec(self) -> str:
        """Return the spec with the values that were drawn."""
        return "+".join(map(str, self.steps))

    def __call__(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield blocks `[C, n]` of a recording after the attack."""
        for i, step in enumerate(self.steps):
            blocks = self._stage(step, int(mixed(torch.tensor(self.seed) + i)), blocks)
        return iter(blocks)

    def _stage(self, step: Step, seed: int, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        kind = step.kind
        if kind.flow is not None:
            return kind.flow(blocks, self.rate, *step.values)
        if kind.reach is None:
            return self._whole(step, seed, blocks)
        act = partial(self._local, step, seed)
        return windowed(blocks, STRETCH_S * self.rate, kind.reach * self.rate, act)

    def _local(self, step: Step, seed: int, window: np.ndarray, number: int) -> np.ndarray:
        seeds = torch.tensor([seed])
        if step.kind.fresh and number:
            seeds = mixed(seeds + number)
        y = step(torch.from_numpy(np.ascontiguousarray(window, np.float32))[None], self.rate, seeds)
        assert isinstance(y, Tensor)
        return y[0].numpy()

    def _whole(self, step: Step, seed: int, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        parts, samples = [], 0
        for x in blocks:
            parts.append(x)
            samples += x.size
            if samples > MOST:
                raise AudioError(
                    f"{step}: needs the whole recording at once, and takes {MOST} samples of all channels "
                    f"({MOST / len(x) / self.rate / 60:.1f} minutes here); cut it before"
                )
        if not parts:
            return
        whole = torch.from_numpy(np.concatenate(parts, axis=1))[None].float()
        parts.clear()
        y = step(whole, self.rate, torch.tensor([seed]))
        if isinstance(y, Moved):
            before = self._moved or Moved(whole, torch.zeros(1, dtype=torch.float64))
            self._moved = _composed(before, y)
            y = y.audio
        yield y[0].numpy()

    @property
    def begin(self) -> float:
        return float(self._moved.begin[0]) / self.rate if self._moved else 0.0

    @property
    def speed(self) -> float:
        return self._moved.speed if self._moved else 1.0

    @property
    def other(self) -> list[tuple[float, float]]:
        if self._moved is None or self._moved.own is None:
            return []
        strange = np.pad(~self._moved.own[0].numpy(), 1).astype(np.int8)
        edges = np.flatnonzero(np.diff(strange)) / self.rate
        return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


__all__ = [
    "KINDS",
    "SUITES",
    "Attack",
    "AttackError",
    "Kind",
    "Moved",
    "Stream",
    "form",
    "markdown",
    "parse",
    "rows",
]
