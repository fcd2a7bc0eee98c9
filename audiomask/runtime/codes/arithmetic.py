"""Code symbols by given probabilities, bit for bit as the package encodec does.

    writer = ArithmeticWriter(file)
    for code, row in zip(codes, quantized(probabilities)):      # [n], [n, levels]
        writer.push(code, row)
    writer.finish()

    code = ArithmeticReader(file).pull(row)                      # None where the bits end or make no sense

An interval of integers is divided by the probabilities, the part of a symbol becomes the next interval, and
leading bits that its ends share go out. The parts are rounded inwards, so there are gaps that no writer uses.
Bits are packed lowest first. The package divides in double precision, and so does this.
"""

from __future__ import annotations

from math import ceil, floor
from typing import BinaryIO

import numpy as np

BITS, LEAST, ROUND = 24, 2, np.float32(1e-8)  # of an interval at least; of a part at least; of probabilities
WHOLE = 2**BITS


def quantized(probabilities: np.ndarray) -> np.ndarray:
    """Return the ends `[n, levels]` of the parts of `WHOLE`, of probabilities `[n, levels]`."""
    known = np.floor(probabilities / ROUND) * ROUND
    scale = np.float32((1 - LEAST * probabilities.shape[1] / WHOLE) * WHOLE)
    return np.cumsum(np.floor(scale * known).astype(np.int64) + LEAST, axis=1)


class _Interval:
    """An interval of `bits` bits from `low` to `high`."""

    def __init__(self) -> None:
        self.low = self.high = self.bits = 0

    def widen(self) -> bool:
        """Double the interval if it is too small to be divided; say whether it was."""
        if self.high - self.low + 1 >= WHOLE:
            return False
        self.low, self.high, self.bits = 2 * self.low, 2 * self.high + 1, self.bits + 1
        return True

    def part(self, code: int, ends: np.ndarray) -> tuple[int, int]:
        """Return the first and the last number of a symbol's part."""
        first, last = (int(ends[code - 1]) if code else 0), int(ends[code]) - 1
        unit = (self.high - self.low + 1) / WHOLE
        return self.low + ceil(first * unit), self.low + floor(last * unit)

    def shared(self) -> int | None:
        """Take off the leading bit that both ends share, and return it; None if they differ."""
        if not self.bits or self.low >> (self.bits - 1) != self.high >> (self.bits - 1):
            return None
        self.bits -= 1
        bit = self.low >> self.bits
        self.low -= bit << self.bits
        self.high -= bit << self.bits
        return bit


class ArithmeticWriter:
    """A writer of symbols into a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._interval = file, _Interval()
        self._byte = self._count = 0

    def push(self, code: int, ends: np.ndarray) -> None:
        """Write a symbol, whose part is one of those that end at `ends [levels]`."""
        interval = self._interval
        while interval.widen():
            pass
        interval.low, interval.high = interval.part(code, ends)
        while (bit := interval.shared()) is not None:
            self._put(bit)

    def finish(self) -> None:
        """Write what tells the last symbols, and fill up a byte."""
        interval = self._interval
        for place in range(interval.bits - 1, -1, -1):
            self._put(interval.low >> place & 1)
        while self._count:
            self._put(0)

    def _put(self, bit: int) -> None:
        self._byte |= bit << self._count
        self._count += 1
        if self._count == 8:
            self._file.write(bytes([self._byte]))
            self._byte = self._count = 0


class ArithmeticReader:
    """A reader of symbols from a file, of which it reads no byte more than was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._interval, self._value = file, _Interval(), 0
        self._byte = self._count = 0

    def pull(self, ends: np.ndarray) -> int | None:
        """Return the next symbol; None if the file ends, or holds what no writer writes."""
        interval = self._interval
        while interval.widen():
            bit = self._get()
            if bit is None:
                return None
            self._value = 2 * self._value + bit
        unit = (interval.high - interval.low + 1) / WHOLE
        code = int(np.searchsorted(np.floor((ends - 1) * unit), float(self._value - interval.low)))
        for near in (code, code - 1, code + 1):  # doubles tell no neighbours apart beyond 2^53
            if 0 <= near < len(ends):
                first, last = interval.part(near, ends)
                if first <= self._value <= last:
                    interval.low, interval.high = first, last
                    while (bit := interval.shared()) is not None:
                        self._value -= bit << interval.bits
                    return near
        return None

    def _get(self) -> int | None:
        if not self._count:
            data = self._file.read(1)
            if not data:
                return None
            self._byte, self._count = data[0], 8
        self._count -= 1
        bit, self._byte = self._byte & 1, self._byte >> 1
        return bit
