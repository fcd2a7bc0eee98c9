"""Turn the codes of a packet into bytes and back.

    coder = CODERS[0](levels=1024)
    data = coder.encode(codes)                   # [streams, books, frames], indices below `levels`
    codes = coder.decode(data, codes.shape)

A coder knows nothing of other packets, so that one which is lost takes no other with it. A new one is an
entry of `CODERS`, under the number that a file names it by.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Protocol

import numpy as np

Shape = tuple[int, int, int]  # streams, books, frames


class Coder(Protocol):
    """A coder of packets, each by itself."""

    number: int  # in `CODERS`

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


CODERS: dict[int, Callable[[int], Coder]] = {Plain.number: Plain}  # each takes the number of levels
