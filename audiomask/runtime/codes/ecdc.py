"""Read and write `.ecdc` files of EnCodec, with and without its language model.

    file = EcdcFile("speech.ecdc")
    for scale, codes in file.segments():     # [books, frames]; the scale is None at 24 kHz

A file (github.com/facebookresearch/encodec, `binary.py` and `compress.py`) is, in big-endian order: "ECDC", a
byte 0, the length of the header in 4 bytes, the header in JSON, then the segments. The header is `{"m":
model, "al": samples, "nc": books, "lm": false}`. A segment is its scale as a float32, of the 48 kHz model
only, and its codes, frame after frame: of 10 bits, the lowest bit first, or, with `"lm": true`, in as many as
`arithmetic` needs by the probabilities of a language model, which begins anew. It is filled up to a byte.
There is no sum that would show damage.

The number of a segment's frames is ceil(samples / 320). The authors' reader computes it in floats and refuses
files of .28, .56, .68 s and others for a frame too many; this one reads them. How many bytes a segment with
the language model has is known when it has been read, so such a file, cut, may promise more than it holds.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from audiomask.audio import AudioError, AudioInfo
from audiomask.audio.reader import check_readable
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.codes.arithmetic import ArithmeticReader, ArithmeticWriter, quantized
from audiomask.runtime.codes.coders import Plain
from audiomask.runtime.codes.container import NotCodesError
from audiomask.runtime.codes.files import CodesFile, Piece

HEAD, SCALE = struct.Struct("!4sBI"), struct.Struct("!f")
MAX_HEAD = 4096  # bytes of JSON; the authors' files have 60
STRIDE, LEVELS = 320, 1024
WIDTH = 20  # digits that a writer leaves for the length, which it learns at the end
FRAMES = 4096  # that are read at once; a multiple of 4, so that they are whole bytes
# Frames that the bytes of a file with the language model may promise: ten seconds, and a hundred a byte.
SOME, EACH = 750, 100
AT_ONCE = 150  # frames that are read with the language model before they are played: a segment of 48 kHz
LOUD = 1e4  # no level of a segment is greater: full scale is 1


class Language(Protocol):
    """A model that predicts the codes of a frame, such as `models.encodec_lm.Predictions`."""

    books: int
    levels: int

    def begin(self) -> None:
        """Go to the start of a segment."""

    def after(self, codes: np.ndarray) -> np.ndarray:
        """Return probabilities `[n, levels]` after a frame of codes `[n]`, -1 before the first."""


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
    """An `.ecdc` file of so many `samples`, coded by `books` books of `model`.

    One with `lm` is read once it is given a `language`. `blocks` gives as many rows as the model has books
    and, at 48 kHz, one segment after the other with its `scale` and its `length` in samples. Raises
    `NotCodesError` for what is no such file, `AudioError` for one that cannot be read.
    """

    padded = False

    def __init__(self, path: str | Path, *, name: str | None = None):
        self.path, self.name = str(path), name or str(path)
        self.language: Language | None = None
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
            self.lm = entry["lm"]
            if type(self.lm) is not bool:
                raise ValueError(f"says {self.lm!r} where it is to say whether it has a language model")
        except KeyError as error:
            raise NotCodesError(f"{self.name}: its header lacks {error}; write it again") from None
        except ValueError as error:
            raise NotCodesError(
                f"{self.name}: {error}; write it again, with: encodec FILE OUT.ecdc"
            ) from None
        kind = self.kind
        # No memory or time is taken for samples that are promised and are not there.
        size -= self._start
        self.held = (
            min(self.samples, (SOME + EACH * size) * STRIDE * bool(size)) if self.lm else self._held(size)
        )
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

        The only segment of the 24 kHz model comes in parts. A cut file ends with its last whole frame. Raises
        `AudioError` where a language model is needed that has not been given.
        """
        kind, step = self.kind, self.kind.stride or self.samples
        if self.lm and self.language is None:
            raise AudioError(f"{self.name}: is coded by EnCodec's language model; name its folder with --lm")
        with open(self.path, "rb") as file:  # noqa: PTH123
            file.seek(self._start)
            total = min(self.samples, self.held) if self.lm else self.samples
            for at in range(0, total, step):
                scale = None
                if kind.segment:
                    data = file.read(SCALE.size)
                    if len(data) < SCALE.size:
                        return
                    (scale,) = SCALE.unpack(data)
                frames = left = -(-min(total - at, kind.segment or total) // STRIDE)
                for codes in self._predicted(file, frames) if self.lm else self._plain(file, frames):
                    left -= codes.shape[1]
                    yield scale, codes
                if left:
                    return

    def _plain(self, file: BinaryIO, frames: int) -> Iterator[np.ndarray]:
        """Yield a segment, in parts, as far as it is there."""
        plain = Plain(LEVELS)
        for at in range(0, frames, FRAMES):
            n = min(frames - at, FRAMES)
            data = file.read(plain.most((1, self.books, n)))
            whole = min(n, len(data) * 8 // (10 * self.books))
            if whole:
                yield plain.decode(data[: plain.most((1, self.books, whole))], (1, self.books, whole))[0]
            if whole < n:
                return

    def _predicted(self, file: BinaryIO, frames: int) -> Iterator[np.ndarray]:
        """Yield a segment in parts, as far as there are bits, by the language model."""
        assert self.language
        self.language.begin()
        reader, codes, waiting = ArithmeticReader(file), np.full(self.books, -1, np.int64), []
        for _ in range(frames):
            ends, codes = quantized(self.language.after(codes)), np.empty(self.books, np.int64)
            for book in range(self.books):
                code = reader.pull(ends[book])
                if code is None:  # the end, or damage
                    frames = 0
                    break
                codes[book] = code
            if not frames:
                break
            waiting.append(codes)
            if len(waiting) == AT_ONCE:
                yield np.stack(waiting, 1)
                waiting = []
        if waiting:
            yield np.stack(waiting, 1)

    def pieces(self) -> Iterator[Piece]:
        reached = 0
        for _, codes in self.segments():
            reached += codes.shape[1]
            yield self._rows(codes, codes.shape[1])
        self.held = min(self.held, reached * STRIDE)

    def _rows(self, codes: np.ndarray, frames: int) -> np.ndarray:
        """Return so many frames of all books of the model, -1 where there are none."""
        padded = np.full((self.kind.books, frames), -1, np.int64)
        padded[: self.books, : codes.shape[1]] = codes
        return padded

    def blocks(self, hops: int, per_hop: Mapping[str, int]) -> Iterator[dict[str, np.ndarray]]:
        kind = self.kind
        if not kind.segment:
            yield from super().blocks(hops, per_hop)
            return
        at = reached = 0
        for scale, codes in self.segments():  # each comes in one part
            length = min(codes.shape[1] * STRIDE, self.samples - at)
            level = scale if scale is not None and abs(scale) < LOUD else 0.0  # not so for NaN
            yield {
                "codes": self._rows(codes, kind.segment // STRIDE),
                "scale": np.full((1, 1), level, np.float32),
                "length": np.full((1, 1), length, np.int64),
            }
            reached, at = at + min(length, kind.stride), at + kind.stride
            self.position = min(self.info.frames, at)
        self.held, self.position = min(self.held, reached), self.info.frames

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

    def __init__(self, file: BinaryIO, model: str, books: int, language: Language | None = None):
        self._file, self.model, self.books, self._language = file, model, books, language
        most = min(KINDS[model].books, language.books if language else books)
        if not 1 <= books <= most:
            raise ValueError(f"{books} books are outside 1 to {most}")
        self._plain, self._waiting = Plain(LEVELS), np.zeros((books, 0), np.int64)
        self._begin()
        file.write(self._head(0))

    def _begin(self) -> None:
        self._arithmetic, self._before = ArithmeticWriter(self._file), np.full(self.books, -1, np.int64)
        if self._language:
            self._language.begin()

    def _head(self, samples: int) -> bytes:
        entry = {"m": self.model, "al": samples, "nc": self.books, "lm": self._language is not None}
        text = json.dumps(entry).replace(f'"al": {samples}', f'"al": {samples:{WIDTH}d}').encode()
        return HEAD.pack(b"ECDC", 0, len(text)) + text

    def push(self, codes: np.ndarray) -> None:
        """Append codes `[books, frames]` to the segment."""
        if self._language:
            for frame in codes.T:
                ends, self._before = quantized(self._language.after(self._before)), frame
                for code, row in zip(frame.tolist(), ends, strict=True):
                    self._arithmetic.push(code, row)
            return
        self._waiting = np.concatenate((self._waiting, codes), axis=1)
        whole = self._waiting.shape[1] // 4 * 4  # frames of whole bytes
        self._write(self._waiting[:, :whole])
        self._waiting = self._waiting[:, whole:]

    def _write(self, codes: np.ndarray) -> None:
        self._file.write(self._plain.encode(codes[None]))

    def close_segment(self) -> None:
        """Fill the segment up to a byte."""
        if self._language:
            self._arithmetic.finish()
            self._begin()
            return
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


def kind_of(part: Artifact) -> str:
    """Return the model whose files hold a part's codes; raise `AudioError` for none."""
    ports = {port.name: port for port in (*part.streams, *part.outputs)}
    codes = next((port for port in ports.values() if port.type == "codes"), None)
    sound = next((port for port in ports.values() if port.type == "pcm"), None)
    for name, kind in KINDS.items():
        rate = Fraction(kind.segment // STRIDE, kind.stride) if kind.segment else Fraction(1, STRIDE)
        wanted = kind.rate, kind.books, LEVELS, rate, kind.channels, kind.segment
        if codes and sound and wanted == (
            part.sample_rate, codes.channels, codes.levels, codes.rate, sound.channels, segment_of(part),
        ):  # fmt: skip
            return name
    raise AudioError(
        f"{part.name}: an .ecdc file holds codes of EnCodec at 24 or 48 kHz only; write .amk instead"
    )


def segment_of(part: Artifact) -> int:
    """Return the samples of segments that a part is told the `length` of; 0 for none."""
    return next((p.levels - 1 for p in part.streams if p.name == "length" and p.type == "int"), 0)
