"""Say how likely each code of a packet is, in whole numbers that every machine agrees on.

    probabilities = Probabilities.load("gist_prob.safetensors")
    weights, before, totals = probabilities.weigh(codes)     # [streams, frames, books], all known: to encode
    for frame in probabilities.frames():                     # one after the other: to decode
        frame.weights()                                      # [levels], of the next book
        frame.take(code)

The network is small: `models/hunch.py` trains it and docs/codec.md has its table. A code is looked up as a
vector; the vectors of a group's books are added up to the frame's. A layer over the frames before it in the
packet, a layer for each book that also sees the books before it, and one that gives a score for each code:

    y  = r(P [v(t - 1), v(t - 2), ...] + p)             v of frames before the packet: the start's
    x  = r(A_book y + B_book v(t) + a_book)             v(t) of the books before this one
    s  = O_book x + o_book,   weight = table[(max s - s) / 2^n]

Weights are of 8 bits, and r(z) is z / 2^n, rounded and held to 0..255. All sums stay below 2^24, which is
checked when a file is loaded: so float32 holds them exactly, whoever adds them in whatever order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio import AudioError

HASH = 8  # bytes
MOST_BYTES = 2**24  # of a file
EXACT = 2**24  # whole numbers below it are float32
CEILING = 255  # of what a layer gives; vectors are held to it on both sides
ROWS = 256  # books of frames that are weighed at once: what lies between layers stays in a cache
TOP = 2**16  # of the table: the likeliest code has this weight, and every code 1 at least
_TYPES: dict[str, np.dtype] = {"I8": np.dtype("<i1"), "I32": np.dtype("<i4")}
KEY = "probabilities"  # of the metadata: a JSON object with name, codec and numbers
NUMBERS = ("groups", "past_shift", "into_shift", "score_shift")


class ProbabilitiesError(AudioError):
    """An error that a file holds no probabilities that can be used."""


@dataclass(frozen=True, eq=False)
class Probabilities:
    """A network that weighs codes; see the head of the module.

    Args:
        name, codec: Name of the codec, and the hash of whose codes it weighs (`catalogue.codec_hash`).
        hash: Of the file.
        groups: Groups of codebooks; book b is of group b mod groups.
        past_shift, into_shift, score_shift: Bits n by which sums are shifted.
        embed: Vectors `[books, levels, D]`.
        start: Vectors of the frames before a packet, the nearest first, `[frames, groups D]`.
        past, past_bias: P `[H, frames groups D]` and p.
        into, into_bias: A and B side by side, `[books, R, H + groups D]`, and a.
        score, score_bias: O `[books, levels, R]` and o.
        table: Weights by how far a score is below the greatest.
    """

    name: str
    codec: bytes
    hash: bytes
    groups: int
    past_shift: int
    into_shift: int
    score_shift: int
    embed: np.ndarray = field(repr=False)
    start: np.ndarray = field(repr=False)
    past: np.ndarray = field(repr=False)
    past_bias: np.ndarray = field(repr=False)
    into: np.ndarray = field(repr=False)
    into_bias: np.ndarray = field(repr=False)
    score: np.ndarray = field(repr=False)
    score_bias: np.ndarray = field(repr=False)
    table: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        """Raise ValueError for shapes that do not fit, and for sums that might not be exact."""
        books, levels, width = self.embed.shape
        frames, wide = self.start.shape
        hidden, rest = len(self.past), self.score.shape[2]
        wanted = {
            "embed": (books, levels, width), "start": (frames, self.groups * width),
            "past": (hidden, frames * wide), "past_bias": (hidden,),
            "into": (books, rest, hidden + wide), "into_bias": (books, rest),
            "score": (books, levels, rest), "score_bias": (books, levels), "table": (len(self.table),),
        }  # fmt: skip
        for key, shape in wanted.items():
            if getattr(self, key).shape != shape or not prod(shape):
                raise ValueError(f"{key} has the shape {getattr(self, key).shape}, and {shape} is wanted")
        for key in ("past_shift", "into_shift", "score_shift"):
            if not 0 <= getattr(self, key) <= 20:
                raise ValueError(f"{key} {getattr(self, key)} is outside 0 to 20")
        if not 1 <= self.table.min() <= self.table.max() <= TOP:
            raise ValueError(f"weights are outside 1 to {TOP}")
        largest = [
            CEILING * np.abs(w.astype(np.int64)).sum(-1) + np.abs(b.astype(np.int64)) + 2**shift
            for w, b, shift in (
                (self.past, self.past_bias, self.past_shift),
                (self.into, self.into_bias, self.into_shift),
                (self.score, self.score_bias, 0),
            )
        ]
        if max(int(sums.max()) for sums in largest) >= EXACT // 2:  # the difference of two scores is one too
            raise ValueError("its sums may pass 2^23")

    @property
    def books(self) -> int:
        return len(self.embed)

    @property
    def levels(self) -> int:
        return self.embed.shape[1]

    @classmethod
    def load(cls, path: str | Path) -> Probabilities:
        """Read a file of safetensors, or raise `ProbabilitiesError`."""
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - Path would lose the text the user typed
                data = file.read(MOST_BYTES + 1)
            facts, arrays = _parse(data)
            made: dict[str, Any] = arrays | {key: int(facts[key]) for key in NUMBERS}
            made |= {"name": str(facts["name"]), "codec": bytes.fromhex(facts["codec"])}
            return cls(hash=hashlib.sha256(data).digest()[:HASH], **made)
        except OSError as error:
            raise ProbabilitiesError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise ProbabilitiesError(
                f"{path}: holds no probabilities of codes ({error}); export them again"
            ) from None

    @cached_property
    def _wide(self) -> dict[str, np.ndarray]:
        """Return the tensors of layers as float32, which hold the same whole numbers, and the table.

        Matrices of books are transposed. Scores are over 2^score_shift: this power of two only moves a point.
        """
        hidden, as_float = len(self.past), lambda x: np.ascontiguousarray(x, np.float32)
        step = np.float32(2.0**-self.score_shift)
        return {
            "past": as_float(self.past),
            "past_bias": as_float(self.past_bias + self._half(self.past_shift)),
            "after": as_float(self.into[:, :, :hidden].swapaxes(1, 2)),
            "after_bias": as_float(self.into_bias + self._half(self.into_shift)),
            "beside": as_float(self.into[:, :, hidden:].swapaxes(1, 2)),
            "score": as_float(self.score.swapaxes(1, 2)) * step,
            "score_bias": as_float(self.score_bias) * step,
            "start": as_float(self.start),
            "embed": as_float(self.embed),
            "table": self.table.astype(np.int64),
        }

    @staticmethod
    def _half(shift: int) -> int:
        return 2**shift // 2

    @staticmethod
    def _held(sums: np.ndarray, shift: int) -> np.ndarray:
        """Return r(z) of sums that half a step was added to."""
        return np.clip(np.floor(sums * np.float32(2.0**-shift)), 0, CEILING)

    def _weights(self, scores: np.ndarray) -> np.ndarray:
        """Return weights of the codes by their scores `[..., levels]`, each over 2^score_shift."""
        places = (scores.max(-1, keepdims=True) - scores).astype(np.int32)
        return self._wide["table"].take(places, mode="clip")

    def weigh(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return weights of codes `[streams, frames, books]`, the sums before them, and of all."""
        w, wide = self._wide, self.start.shape[1]
        streams, frames, books = codes.shape
        order = np.arange(books)
        sums = np.zeros((streams, frames, books + 1, self.groups, self.embed.shape[2]), np.float32)
        sums[:, :, order + 1, order % self.groups] = w["embed"][order, codes]
        sums = np.clip(sums.cumsum(2), -CEILING, CEILING).reshape(streams, frames, books + 1, wide)
        before = np.concatenate((np.repeat(w["start"][None, ::-1], streams, 0), sums[:, :-1, books]), axis=1)
        reach = len(self.start)
        seen = np.concatenate([before[:, reach - 1 - n : reach - 1 - n + frames] for n in range(reach)], -1)
        y = self._held(seen.reshape(-1, reach * wide) @ w["past"].T + w["past_bias"], self.past_shift)
        # by books: numpy multiplies the matrices of all of them in one call, which a single frame needs
        beside = np.ascontiguousarray(sums[:, :, :books].reshape(-1, books, wide).swapaxes(0, 1))
        x = y @ w["after"][:books] + beside @ w["beside"][:books] + w["after_bias"][:books, None]
        x, code = self._held(x, self.into_shift), codes.reshape(-1, books).T
        found = np.empty((3, books, len(y)), np.int64)
        turn = max(1, ROWS // books)
        for at in range(0, len(y), turn):
            rows = slice(at, at + turn)
            weights = self._weights(x[:, rows] @ w["score"][:books] + w["score_bias"][:books, None])
            first = np.arange(0, weights.size, self.levels).reshape(books, -1)
            place, flat = first + code[:, rows], weights.ravel()
            # the sum of those before a code, and of the rest; `reduceat` gives one weight for a sum of none
            parts = np.add.reduceat(flat, np.stack((first, place), 2).ravel()).reshape(*place.shape, 2)
            start = np.where(place > first, parts[..., 0], 0)
            found[:, :, rows] = flat[place], start, start + parts[..., 1]
        weight, start, total = found.swapaxes(1, 2).reshape(3, streams, frames, books)
        return weight, start, total

    def frames(self) -> Iterator[Frame]:
        """Yield the frames of a packet, each of which takes its codes before the next one comes."""
        before = self._wide["start"]
        while True:
            frame = Frame(self, before)
            yield frame
            before = np.concatenate((frame.vector[None], before[:-1]))


class Frame:
    """A frame that weighs the codes of its books one after the other."""

    def __init__(self, of: Probabilities, before: np.ndarray):
        self._of, self._book = of, 0
        w = of._wide
        y = of._held(w["past"] @ before.ravel() + w["past_bias"], of.past_shift)
        self._after = y @ w["after"] + w["after_bias"]
        self._sums = np.zeros((of.groups, of.embed.shape[2]), np.float32)

    @property
    def vector(self) -> np.ndarray:
        return np.clip(self._sums, -CEILING, CEILING).ravel()

    def weights(self) -> np.ndarray:
        """Return the weights `[levels]` of the next book's codes."""
        of, book = self._of, self._book
        w = of._wide
        x = of._held(self._after[book] + self.vector @ w["beside"][book], of.into_shift)
        return of._weights(x @ w["score"][book] + w["score_bias"][book])

    def take(self, code: int) -> None:
        """Go on to the next book; this one's code is `code`."""
        self._sums[self._book % self._of.groups] += self._of._wide["embed"][self._book, code]
        self._book += 1


def _parse(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return facts and tensors of safetensors; ValueError or KeyError if they are damaged."""
    size = int.from_bytes(data[:8], "little")
    if not 8 < len(data) <= MOST_BYTES or size > len(data) - 8:
        raise ValueError(f"{len(data)} bytes")
    entries = json.loads(data[8 : 8 + size])
    arrays = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        kind, shape = _TYPES[entry["dtype"]], entry["shape"]
        if not 0 <= first <= last <= len(data) - 8 - size or prod(shape) * kind.itemsize != last - first:
            raise ValueError(f"tensor {name} is not where it should be")
        arrays[name] = np.frombuffer(data[8 + size + first : 8 + size + last], kind).reshape(shape)
    return json.loads(entries["__metadata__"][KEY]), arrays
