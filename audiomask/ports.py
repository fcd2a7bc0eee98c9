"""Name the inputs and outputs on which a model, its file, a player and the page agree.

    Port("audio")                                                  # a stream of sound
    Port("codes", type="codes", rate="1/320", channels=8, levels=1024)
    Port("strength", "control", default=1.0, minimum=0.0, maximum=1.0)

A stream has `rate` frames per sample of the model's clock, which runs at its `sample_rate`; a control holds
one value until it is set anew. `type`, an entry of `TYPES`, says what is carried. No torch is needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

_FLOAT, _INT = np.dtype(np.float32), np.dtype(np.int64)


@dataclass(frozen=True)
class Type:
    """A type that says how values are held, and what a stream holds where none is given."""

    dtype: np.dtype = _FLOAT
    neutral: float | None = 0  # None: drawn, see `gaussian`


TYPES: dict[str, Type] = {
    "pcm": Type(),  # samples of sound, full scale 1
    "lost": Type(),  # 1 where a frame did not arrive, else 0
    "noise": Type(neutral=None),  # Gaussian, of variance 1
    "codes": Type(_INT, -1),  # indices below `levels`; below 0 for none
    "bits": Type(_INT),  # 0 or 1
    "probabilities": Type(),
    "embedding": Type(),
    "text": Type(_INT),  # Unicode code points, 0 where nothing is said
    "float": Type(),
    "int": Type(_INT),
}
_RENAMED = {"mask": "lost", "constant": "control"}  # in artifacts of format 1


@dataclass(frozen=True)
class Port:
    """A named input or output: a stream in time, or a control that holds until it changes.

    A control of one channel is an array `[B]`, others `[B, channels]`; a stream is `[B, channels, frames]`.

    Args:
        type: a key of `TYPES`; by default "pcm" for a stream and "float" for a control.
        rate: frames per sample of the reference clock.
        reference: of a stream of several channels that becomes one, the channel that this one belongs to.
        labels: what the channels stand for.
        span: of an output, how many samples a frame is made from, the last ones up to its time; 0 for
            unlimited or unknown.
        levels: of codes, how many there are; 0 for unknown.
        added: of an output of sound, that it is to be added to the sound that came in, which players do at
            the rate of that sound.
        default: of a control, a number or one for each channel; None where it must be given.

    Raises ValueError for values that do not fit together.
    """

    name: str
    kind: Literal["stream", "control"] = "stream"
    type: str = ""
    rate: Fraction = Fraction(1)
    channels: int = 1
    reference: int = 0
    labels: tuple[str, ...] = ()
    span: int = 0
    levels: int = 0
    added: bool = False
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    doc: str = ""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "type", self.type or ("pcm" if self.kind == "stream" else "float"))
        put(self, "rate", Fraction(self.rate))
        put(self, "labels", tuple(map(str, self.labels)))
        if isinstance(self.default, list):
            put(self, "default", tuple(self.default))
        wrong = None
        if self.kind not in ("stream", "control"):
            wrong = f"kind {self.kind!r} is neither stream nor control"
        elif self.type not in TYPES:
            wrong = f"type {self.type!r} is none of {' '.join(TYPES)}; a newer audiomask may know it"
        elif self.rate <= 0 or self.channels < 1:
            wrong = "rate and channels must be positive"
        elif not 0 <= self.reference < self.channels:
            wrong = f"reference {self.reference} is none of its channels"
        elif len(self.labels) not in (0, self.channels):
            wrong = f"{len(self.labels)} labels for {self.channels} channels"
        elif not isinstance(self.span, int) or self.span < 0:
            wrong = f"span {self.span!r} is no number of samples"
        elif not isinstance(self.levels, int) or self.levels < 0:
            wrong = f"levels {self.levels!r} is no number of codes"
        elif np.size(self.default) not in (1, self.channels):
            wrong = f"{np.size(self.default)} defaults for {self.channels} channels"
        if wrong:
            raise ValueError(f"port {self.name}: {wrong}")

    @property
    def is_stream(self) -> bool:
        return self.kind == "stream"

    @property
    def dtype(self) -> np.dtype:
        return TYPES[self.type].dtype

    def per_hop(self, hop: int) -> int:
        """Return the frames in `hop` samples of the clock; raise ValueError if it is not whole."""
        frames = hop * self.rate
        if frames.denominator != 1:
            raise ValueError(f"port {self.name}: rate {self.rate} gives no whole frames in {hop} samples")
        return int(frames)

    def neutral(self, rows: int, frames: int, start: int = 0) -> np.ndarray:
        """Return the values `[rows, channels, frames]` that a stream holds if nobody fills it."""
        value = TYPES[self.type].neutral
        if value is None:
            return gaussian(rows * self.channels, frames, start).reshape(rows, self.channels, frames)
        return np.full((rows, self.channels, frames), value, self.dtype)

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Port:
        """Return the port of an entry of an artifact's document; raise ValueError or KeyError."""
        known = {key: value for key, value in entry.items() if key in cls.__dataclass_fields__}
        for key in ("kind", "type"):
            known[key] = _RENAMED.get(entry[key], entry[key]) if key in entry or key == "kind" else ""
        return cls(**known)

    def document(self) -> dict[str, Any]:
        """Return the entry of an artifact's document that `parse` reads."""
        entry: dict[str, Any] = {key: getattr(self, key) for key in ("name", "kind", "type", "channels")}
        if self.is_stream:
            entry["rate"] = str(self.rate)
            if self.channels > 1:
                entry["reference"] = self.reference
        else:
            entry |= {key: getattr(self, key) for key in ("default", "minimum", "maximum", "unit")}
        entry |= {key: getattr(self, key) for key in ("span", "levels", "added", "doc") if getattr(self, key)}
        return entry | ({"labels": list(self.labels)} if self.labels else {})


def gaussian(rows: int, frames: int, start: int = 0, seed: int = 0) -> np.ndarray:
    """Return noise `[rows, frames]` of variance 1, a function of row, frame and seed alone.

    It is equal at any split into blocks, in Python and in the browser. The frame's number goes through a
    hash of 32 bits (the constants are C. Wellons' "lowbias32"), twice, for the two uniform numbers of Box
    and Muller's transform (1958).
    """
    n = np.arange(start, start + frames, dtype=np.uint64)
    low, high = n.astype(np.uint32), (n >> np.uint64(32)).astype(np.uint32)
    key = _hash(np.uint32(seed) + np.arange(rows, dtype=np.uint32)[:, None] * np.uint32(0x9E3779B9))
    base = _hash(low ^ _hash(high ^ key))
    radius = (_hash(base) + 0.5) / 2**32
    return (np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * (base / 2**32))).astype(np.float32)


def _hash(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
