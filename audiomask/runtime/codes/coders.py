"""Turn the codes of a packet into bytes and back.

    coder = Plain(levels=1024)
    data = coder.encode(codes)                   # [streams, books, frames], indices below `levels`
    codes = coder.decode(data, codes.shape)

A coder knows nothing of other packets, so that one which is lost takes no other with it. A file names it by
its number. `Likely` takes fewer bytes by the probabilities of codes (`probabilities.py`).
"""

from __future__ import annotations

from math import prod
from typing import Protocol

import numpy as np

from audiomask.audio import AudioError
from audiomask.runtime.codes.probabilities import Probabilities

Shape = tuple[int, int, int]  # streams, books, frames


class Coder(Protocol):
    """A coder of packets, each by itself."""

    number: int  # that a file names it by

    def least(self, shape: Shape) -> int:
        """Return the least number of bytes that codes of a shape may take."""

    def most(self, shape: Shape) -> int:
        """Return the greatest number of bytes that codes of a shape may take."""

    def encode(self, codes: np.ndarray) -> bytes:
        """Return the bytes of codes `[streams, books, frames]`."""

    def decode(self, data: bytes, shape: Shape) -> np.ndarray:
        """Return the codes of a shape, or raise ValueError for bytes that are none."""


class Plain:
    """A coder that gives each code the same number of bits, the lowest bit first.

    Streams are one after the other, in each the frames, in a frame the codes of its books.
    """

    number = 0

    def __init__(self, levels: int):
        self.levels, self.bits = levels, max(1, (levels - 1).bit_length())

    def least(self, shape: Shape) -> int:
        return self.most(shape)

    def most(self, shape: Shape) -> int:
        return -(-prod(shape) * self.bits // 8)

    def encode(self, codes: np.ndarray) -> bytes:
        flat = codes.swapaxes(1, 2).reshape(-1, 1)
        bits = (flat >> np.arange(self.bits)) & 1
        return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()

    def decode(self, data: bytes, shape: Shape) -> np.ndarray:
        if len(data) != self.most(shape):
            raise ValueError(f"{len(data)} bytes are no {' x '.join(map(str, shape))} codes")
        streams, books, frames = shape
        count = prod(shape) * self.bits
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")
        flat = bits.reshape(-1, self.bits) @ (1 << np.arange(self.bits, dtype=np.int64))
        if flat.size and flat.max() >= self.levels:
            raise ValueError(f"code {flat.max()} is none of {self.levels}")
        return flat.reshape(streams, frames, books).swapaxes(1, 2)


class Likely:
    """A coder that gives a code the fewer bits, the likelier it is.

    A packet is a fraction v / 256^bytes of 1, by arithmetic coding (Rissanen 1976) in whole numbers of any
    length, so that nothing is rounded. With the weight f of a code, the sum c of those before it and the sum
    m of all, it is the code whose c <= m v < c + f, and (m v - c) / f is the fraction of the codes behind it.
    The shortest fraction is taken, its first byte first. Codes are in the order of `Plain`, which takes the
    place of a fraction that would be as long; it is told by the length.
    """

    number = 1
    LEAST = 16  # codes of a byte: a few bytes stand for no hour of sound

    def __init__(self, levels: int, probabilities: Probabilities | None = None):
        self._plain, self._probabilities = Plain(levels), probabilities

    def least(self, shape: Shape) -> int:
        return min(self.most(shape), -(-prod(shape) // self.LEAST))

    def most(self, shape: Shape) -> int:
        return self._plain.most(shape)

    @property
    def probabilities(self) -> Probabilities:
        if self._probabilities is None:
            raise AudioError("codes are packed by probabilities, and none were given to unpack them")
        return self._probabilities

    def encode(self, codes: np.ndarray) -> bytes:
        weights, before, totals = (x.ravel().tolist() for x in self.probabilities.weigh(codes.swapaxes(1, 2)))
        low, width, whole = 0, 1, 1  # the fractions from low / whole on, below (low + width) / whole
        for weight, start, total in zip(weights, before, totals, strict=True):
            low, width, whole = low * total + start * width, width * weight, whole * total
        size = max(self.least(codes.shape), (whole.bit_length() - width.bit_length()) // 8)
        while size < self.most(codes.shape):
            first = -(-(low << 8 * size) // whole)
            if first * whole < (low + width) << 8 * size:
                return first.to_bytes(size, "big")
            size += 1
        return self._plain.encode(codes)

    def decode(self, data: bytes, shape: Shape) -> np.ndarray:
        if not self.least(shape) <= len(data) < self.most(shape):
            return self._plain.decode(data, shape)
        streams, books, frames = shape
        above, below = int.from_bytes(data, "big"), 1 << 8 * len(data)  # the fraction
        codes = np.empty((streams, frames, books), np.int64)
        for stream in codes:
            for frame, reading in zip(stream, self.probabilities.frames(), strict=False):
                for book in range(books):
                    weights = reading.weights()
                    ends = weights.cumsum()
                    above *= int(ends[-1])
                    code = int(ends.searchsorted(above // below, "right"))
                    weight = int(weights[code])
                    above -= (int(ends[code]) - weight) * below
                    below *= weight
                    frame[book] = code
                    reading.take(code)
        return codes.swapaxes(1, 2)


CODERS = frozenset({Plain.number, Likely.number})


def coder_of(number: int, levels: int, probabilities: Probabilities | None = None) -> Coder:
    """Return the coder that a file names; without its probabilities, it knows sizes only."""
    return Plain(levels) if number == Plain.number else Likely(levels, probabilities)
