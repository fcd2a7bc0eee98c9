"""Read and write `.ecdc` files of EnCodec, plain ones, without its language model.

    file = EcdcFile("speech.ecdc")
    for scale, codes in file.segments():     # [books, frames]; the scale is None at 24 kHz

A file (github.com/facebookresearch/encodec, `binary.py` and `compress.py`) is, in big-endian order: "ECDC", a
byte 0, the length of the header in 4 bytes, the header in JSON, then the segments. The header is `{"m":
model, "al": samples, "nc": books, "lm": false}`. A segment is its scale as a float32, of the 48 kHz model
only, and its codes of 10 bits, frame after frame, the lowest bit first, filled up to a byte. There is no sum
that would show damage.

The number of a segment's frames is ceil(samples / 320). The authors' reader computes it in floats and refuses
files of .28, .56, .68 s and others for a frame too many; this one reads them.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from audiomask.audio import AudioError, AudioInfo
from audiomask.audio.reader import check_readable
from audiomask.runtime.codes.coders import Plain
from audiomask.runtime.codes.container import NotCodesError
from audiomask.runtime.codes.files import CodesFile, Piece

HEAD, SCALE = struct.Struct("!4sBI"), struct.Struct("!f")
MAX_HEAD = 4096  # bytes of JSON; the authors' files have 60
STRIDE, LEVELS = 320, 1024
WIDTH = 20  # digits that a writer leaves for the length, which it learns at the end
FRAMES = 4096  # that are read at once; a multiple of 4, so that they are whole bytes


@dataclass(frozen=True)
class Kind:
    """A model of EnCodec's; `segment` are samples of one, `stride` those between two, 0 for one."""

    rate: int
    channels: int
    books: int
    segment: int = 0
    stride: int = 0


KINDS = {"encodec_24khz": Kind(24000, 1, 32), "encodec_48khz": Kind(48000, 2, 16, 48000, 47520)}


class EcdcFile(CodesFile):
    """A plain `.ecdc` file of so many `samples`, coded by `books` books of `model`.

    As a `CodesFile`, which may be decoded, it has to be of the 24 kHz model, and gives as many rows as that
    has books. Raises `NotCodesError` for what is no such file, `AudioError` for one that cannot be read.
    """

    def __init__(self, path: str | Path, *, name: str | None = None):
        self.path, self.name = str(path), name or str(path)
        check_readable(self.path)
        with open(self.path, "rb") as file:  # noqa: PTH123 - Path would lose the text the user typed
            head = file.read(HEAD.size + MAX_HEAD)
            size = file.seek(0, os.SEEK_END)
        try:
            entry, self._start = _parse(head)
            self.model, self.samples, self.books = entry["m"], entry["al"], entry["nc"]
            if not isinstance(self.model, str) or self.model not in KINDS:
                raise ValueError(f"is of {self.model!r}, none of {' '.join(KINDS)}")
            self.kind = KINDS[self.model]
            if type(self.samples) is not int or not 0 < self.samples < 2**62:
                raise ValueError(f"says that it has {self.samples!r} samples")
            if type(self.books) is not int or not 1 <= self.books <= self.kind.books:
                raise ValueError(f"says that it has {self.books!r} books, of 1 to {self.kind.books}")
            if entry["lm"] is not False:
                raise ValueError("is coded by EnCodec's language model, which is not read here")
        except KeyError as error:
            raise NotCodesError(f"{self.name}: its header lacks {error}; write it again") from None
        except ValueError as error:
            raise NotCodesError(
                f"{self.name}: {error}; write it again, with: encodec FILE OUT.ecdc"
            ) from None
        kind = self.kind
        # No memory or time is taken for samples that are promised and are not there.
        self.held = self._held(size - self._start)
        if not self.held:
            raise NotCodesError(f"{self.name}: holds no codes; copy it again")
        self.frames = -(-self.held // STRIDE)
        self.info = AudioInfo(self.name, kind.rate, kind.books, self.held, "ECDC", "CODES")

    def _held(self, size: int) -> int:
        """Return how many samples so many bytes of segments hold, whole frames of them."""
        kind, step = self.kind, self.kind.stride or self.samples
        length = kind.segment or self.samples
        full = (self.samples - length) // step + 1 if self.samples >= length else 0
        rest = range(full * step, self.samples, step)  # one or two short ones
        needs = full * self._bytes(length) + sum(self._bytes(self.samples - at) for at in rest)
        if size >= needs:
            return self.samples
        whole, size = divmod(size, self._bytes(length)) if kind.segment else (0, size)
        size -= SCALE.size if kind.segment else 0
        return whole * step + max(0, size) * 8 // (10 * self.books) * STRIDE

    def _bytes(self, samples: int) -> int:
        shape = (1, self.books, -(-samples // STRIDE))
        return Plain(LEVELS).most(shape) + (SCALE.size if self.kind.segment else 0)

    def segments(self) -> Iterator[tuple[float | None, np.ndarray]]:
        """Yield the scale of each segment, if it has one, and its codes `[books, frames]`.

        The only segment of the 24 kHz model comes in parts. A cut file ends with its last whole frame.
        """
        kind, plain = self.kind, Plain(LEVELS)
        step = kind.stride or self.samples
        with open(self.path, "rb") as file:  # noqa: PTH123
            file.seek(self._start)
            for at in range(0, self.samples, step):
                scale = None
                if kind.segment:
                    data = file.read(SCALE.size)
                    if len(data) < SCALE.size:
                        return
                    (scale,) = SCALE.unpack(data)
                left = -(-min(self.samples - at, kind.segment or self.samples) // STRIDE)
                while left:
                    n = min(left, FRAMES)
                    data = file.read(plain.most((1, self.books, n)))
                    whole = min(n, len(data) * 8 // (10 * self.books))
                    if whole:
                        data = data[: plain.most((1, self.books, whole))]
                        yield scale, plain.decode(data, (1, self.books, whole))[0]
                    if whole < n:
                        return
                    left -= n

    def pieces(self) -> Iterator[Piece]:
        for _, codes in self.segments():
            padded = np.full((self.kind.books, codes.shape[1]), -1, np.int64)
            padded[: self.books] = codes
            yield padded

    @property
    def notes(self) -> list[str]:
        if self.held == self.samples:
            return []
        seconds, all_of_it = (n / self.kind.rate for n in (self.held, self.samples))
        return [f"{self.name}: truncated: its header promises {all_of_it:.2f} s, {seconds:.2f} s are there"]


def _parse(head: bytes) -> tuple[dict, int]:
    """Return the entries of a header and where the codes begin; ValueError with the reason."""
    if len(head) < HEAD.size or not head.startswith(b"ECDC"):
        raise ValueError("is no .ecdc file")
    _, version, length = HEAD.unpack_from(head)
    if version or length > MAX_HEAD or HEAD.size + length > len(head):
        raise ValueError(f"its header is damaged (version {version}, {length} bytes)")
    try:
        entry = json.loads(head[HEAD.size : HEAD.size + length])
    except (ValueError, RecursionError):
        raise ValueError("its header is damaged (no JSON)") from None
    if not isinstance(entry, dict):
        raise ValueError("its header is damaged (no object)")
    return entry, HEAD.size + length


class EcdcWriter:
    """A writer of an `.ecdc` file of `books` books into a `file` that can seek.

    The header leaves room for the length, which `finish` fills in.
    """

    def __init__(self, file: BinaryIO, model: str, books: int):
        self._file, self.model, self.books = file, model, books
        if not 1 <= books <= KINDS[model].books:
            raise ValueError(f"{books} books are outside 1 to {KINDS[model].books}")
        self._plain, self._waiting = Plain(LEVELS), np.zeros((books, 0), np.int64)
        file.write(self._head(0))

    def _head(self, samples: int) -> bytes:
        entry = {"m": self.model, "al": samples, "nc": self.books, "lm": False}
        text = json.dumps(entry).replace(f'"al": {samples}', f'"al": {samples:{WIDTH}d}').encode()
        return HEAD.pack(b"ECDC", 0, len(text)) + text

    def push(self, codes: np.ndarray) -> None:
        """Append codes `[books, frames]` to the segment."""
        self._waiting = np.concatenate((self._waiting, codes), axis=1)
        whole = self._waiting.shape[1] // 4 * 4  # frames of whole bytes
        self._write(self._waiting[:, :whole])
        self._waiting = self._waiting[:, whole:]

    def _write(self, codes: np.ndarray) -> None:
        self._file.write(self._plain.encode(codes[None]))

    def close_segment(self) -> None:
        """Fill the segment up to a byte."""
        self._write(self._waiting)
        self._waiting = self._waiting[:, :0]

    def open_segment(self, scale: float) -> None:
        """Begin the next segment of the 48 kHz model."""
        self._file.write(SCALE.pack(scale))

    def finish(self, samples: int) -> None:
        """Close the segment and enter the length, in samples of the model's rate."""
        self.close_segment()
        self._file.seek(0)
        self._file.write(self._head(samples))


def kind_of(facts: Mapping[str, object]) -> str:
    """Return the model whose files hold an encoder's codes; raise `AudioError` for none."""
    for name, kind in KINDS.items():
        wanted = {"clock": kind.rate, "stride": STRIDE, "levels": LEVELS, "books": kind.books}
        if not kind.segment and all(facts[key] == value for key, value in wanted.items()):
            return name
    raise AudioError(
        f"{facts['model']}: an .ecdc file holds codes of EnCodec at 24 kHz only; write .amk instead"
    )
