"""Pack codes into the bytes of an `.amk` file or pipe, and find them again.

    packer = Packer(header)
    send(packer.head())
    for codes in blocks:                    # [streams x books, frames], any number of them
        send(packer.push(codes))            # the packets that are complete
    send(packer.finish(samples))            # the last packet and the end, with the exact length

    unpacker = Unpacker()
    for data in received:                   # any number of bytes
        for record in unpacker.push(data):  # Header, Packet or End
            ...

All numbers are little-endian; docs/codec.md has the tables. A file is a header, packets and an end, each with
a CRC-32. Nothing is ever sought back to, so all of it goes through a pipe. The CRC of a packet begins with
the header's, so it belongs to no other file. Bytes that are no record are skipped: the search goes on at the
next byte.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from audiomask.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioError
from audiomask.runtime.codes.coders import CODERS, Coder, Likely, coder_of
from audiomask.runtime.codes.probabilities import HASH, Probabilities

MAGIC, MARK, LAST = b"AMK\x01", b"\xb5K", b"AMKE"  # of header (with the version), packet and end
HEAD = struct.Struct("<4sBBBBBHIHI8sB")
PACKET = struct.Struct("<2sIBBH")
END = struct.Struct("<4sQIHH")
WORD, PLACE = struct.Struct("<I"), struct.Struct("<Q")
MAX_PAYLOAD = 8192  # bytes: 128 channels of 32 books have 5,120 in a frame
NUMBERS = 2**32  # after the last packet comes 0
EVERY, COARSEST = 16, 2**15  # packets from entry to entry of the index, at first and at most
ENTRIES = 4096  # of an index at most
FRAMES_S = 0.5  # of sound in a packet, if nobody asks for another number of frames
_BEGINS = re.compile(b"|".join(map(re.escape, (MAGIC, LAST, MARK))))


class NotCodesError(AudioError):
    """An error that bytes are no file of codes."""


@dataclass(frozen=True)
class Header:
    """A header that says what codes are of, and what is needed to make sound of them.

    Args:
        name, hash: Of the codec, see `catalogue.codec_hash`.
        clock, stride: Rate in Hz that the codec works at, and its samples in a frame of codes.
        rate, channels: Rate in Hz and channels of the sound that was encoded.
        streams: Streams of codes: one for each channel, or one for all.
        books, levels: Codebooks of a stream and codes of a book.
        frames: Frames of a packet; the last one may have fewer.
        coder: One of `CODERS`.
        probabilities: Hash of those that packets are coded by, if coder is `Likely`.

    Raises ValueError for values that nobody can decode.
    """

    name: str
    hash: bytes
    clock: int
    stride: int
    rate: int
    channels: int
    streams: int
    books: int
    levels: int
    frames: int
    coder: int = 0
    probabilities: bytes = b""

    def __post_init__(self) -> None:
        bounds = {
            "clock": (MIN_RATE, MAX_RATE), "stride": (1, 65535), "rate": (MIN_RATE, MAX_RATE),
            "channels": (1, MAX_CHANNELS), "streams": (1, self.channels), "books": (1, 255),
            "levels": (2, 65536), "frames": (1, 255),
        }  # fmt: skip
        for key, (low, high) in bounds.items():
            if not low <= getattr(self, key) <= high:
                raise ValueError(f"{key} {getattr(self, key)} is outside {low} to {high}")
        if self.channels % self.streams:
            raise ValueError(
                f"{self.channels} channels are no whole number for each of {self.streams} streams"
            )
        if self.coder not in CODERS:
            raise ValueError(
                f"its packets are coded in a way ({self.coder}) that only a newer audiomask knows"
            )
        if len(self.probabilities) != (HASH if self.coder == Likely.number else 0):
            raise ValueError(f"{len(self.probabilities)} bytes are no hash of probabilities")
        if not 1 <= len(self.name.encode()) <= 255 or not self.name.isprintable():
            raise ValueError(f"{self.name!r} is no name of a codec")
        most = self.coder_of().most((self.streams, self.books, self.frames))
        if most > MAX_PAYLOAD:
            raise ValueError(
                f"a packet of {self.frames} frames may have {most} bytes, and holds {MAX_PAYLOAD}"
            )

    def coder_of(self, probabilities: Probabilities | None = None) -> Coder:
        """Return what packs and unpacks codes; without probabilities it may know sizes only."""
        return coder_of(self.coder, self.levels, probabilities)

    @property
    def kbps(self) -> float:
        """Return the kbit/s of one book of one stream, plainly coded."""
        return self.clock / self.stride * (self.levels - 1).bit_length() / 1000

    def samples(self, frames: int) -> int:
        """Return how many samples of the sound so many frames cover, rounded up."""
        return -(-frames * self.stride * self.rate // self.clock)

    def needs(self, samples: int) -> int:
        """Return how many frames so many samples of the sound become."""
        return -(-samples * self.clock // (self.rate * self.stride))

    @property
    def seed(self) -> int:
        """Return the header's CRC, which those of its packets begin with."""
        return WORD.unpack(self.to_bytes()[-WORD.size :])[0]

    def to_bytes(self) -> bytes:
        name = self.name.encode()
        fields = (self.coder, self.channels, self.streams, self.books, self.frames, self.levels - 1)
        more = (self.clock, self.stride, self.rate, self.hash, len(name))
        data = HEAD.pack(MAGIC, *fields, *more) + name + self.probabilities
        return data + WORD.pack(crc32(data))


@dataclass(frozen=True)
class Packet:
    """A packet of `frames` of the first `books`; it begins at byte `at` of the file."""

    number: int
    books: int
    frames: int
    payload: bytes
    at: int = 0

    def codes(self, header: Header, coder: Coder | None = None) -> np.ndarray:
        """Return codes `[streams x books, frames]`, -1 for none; ValueError for a bad payload.

        The `coder` is the header's `coder_of`, which may need probabilities.
        """
        coder = coder or header.coder_of()
        shape = (header.streams, self.books, self.frames)
        codes = np.full((header.streams, header.books, self.frames), -1, np.int64)
        codes[:, : self.books] = coder.decode(self.payload, shape)
        return codes.reshape(-1, self.frames)


@dataclass(frozen=True)
class End:
    """The end of a file: its length, and where packets `every`, 2 `every`, ... begin."""

    header: Header
    samples: int
    packets: int
    every: int = EVERY
    places: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        head = self.header.to_bytes()
        data = END.pack(LAST, self.samples, self.packets, self.every, len(self.places))
        data += b"".join(map(PLACE.pack, self.places)) + head
        data += WORD.pack(len(data) + 2 * WORD.size)
        return data + WORD.pack(crc32(data))


Record = Header | Packet | End
MAX_END = END.size + ENTRIES * PLACE.size + HEAD.size + 255 + HASH + 3 * WORD.size


class Packer:
    """A maker of the bytes of one file, which gives them as soon as they are known."""

    def __init__(self, header: Header, probabilities: Probabilities | None = None):
        self.header, self._head = header, header.to_bytes()
        self._coder, self._seed = header.coder_of(probabilities), header.seed
        self._waiting = np.zeros((header.streams, header.books, 0), np.int64)
        self.packets, self.size, self._every = 0, 0, EVERY
        self._places: list[int] = []

    def head(self) -> bytes:
        """Return the header, which comes first."""
        self.size += len(self._head)
        return self._head

    def push(self, codes: np.ndarray) -> bytes:
        """Take codes `[streams x books, frames]` and return the packets that they complete.

        A code below 0 stands for none. A packet has the books that all of its frames have.
        """
        header = self.header
        codes = codes.reshape(header.streams, header.books, -1)
        self._waiting = np.concatenate((self._waiting, codes), axis=2) if codes.size else self._waiting
        made = []
        while self._waiting.shape[2] >= header.frames:
            made.append(self._packet(header.frames))
        return b"".join(made)

    def finish(self, samples: int) -> bytes:
        """Return the rest of the file, whose sound had so many samples."""
        data = self._packet(left) if (left := self._waiting.shape[2]) else b""
        return data + End(self.header, samples, self.packets, self._every, tuple(self._places)).to_bytes()

    def _packet(self, frames: int) -> bytes:
        codes, self._waiting = self._waiting[:, :, :frames], self._waiting[:, :, frames:]
        books = int((codes >= 0).all(axis=(0, 2)).cumprod().sum())
        if not books:
            raise ValueError("frames without a code cannot be packed")
        payload = self._coder.encode(codes[:, :books])
        if self.packets and self.packets % self._every == 0:
            self._enter()
        data = PACKET.pack(MARK, self.packets % NUMBERS, books, frames, len(payload))
        data += WORD.pack(crc32(payload, crc32(data, self._seed))) + payload
        self.packets += 1
        self.size += len(data)
        return data

    def _enter(self) -> None:
        """Enter the next packet into the index, which becomes coarser when it is full."""
        if len(self._places) == ENTRIES:
            if self._every == COARSEST:
                return
            self._places, self._every = self._places[1::2], 2 * self._every
        if self.packets % self._every == 0:
            self._places.append(self.size)


class Unpacker:
    """A finder of records in bytes that come piece by piece.

    `header` is that of the stream, known beforehand or found; before it is known there are no packets.
    `skipped` counts bytes that were no record.
    """

    def __init__(self, header: Header | None = None):
        self._seed = 0
        self.header: Header | None = None
        if header:
            self._know(header)
        self._buffer = bytearray()
        self._start = 0  # place of the buffer in the stream
        self.skipped = 0

    def _know(self, header: Header) -> None:
        self.header, self._seed = header, header.seed
        self._coder = header.coder_of()

    def seek(self, at: int) -> None:
        """Go on with bytes from another place of the stream."""
        self._buffer.clear()
        self._start = at

    def push(self, data: bytes, *, last: bool = False) -> Iterator[Record]:
        """Yield the records that `data` completes; with `last`, nothing follows it."""
        buffer = self._buffer
        buffer += data
        at = 0
        while (found := _BEGINS.search(buffer, at)) is not None:
            self.skipped += found.start() - at
            at = found.start()
            record, size = self._record(found.group(), at)
            if size > len(buffer) - at:
                if not last:
                    break
                record, size = None, 0
            if record is None:
                self.skipped += 1
                at += 1
                continue
            at += size
            yield record
        else:
            rest = 0 if last else min(len(buffer) - at, len(MAGIC) - 1)  # perhaps the beginning of a mark
            self.skipped += len(buffer) - at - rest
            at = len(buffer) - rest
        del buffer[:at]
        self._start += at

    def _record(self, kind: bytes, at: int) -> tuple[Record | None, int]:
        """Return the record at a place, or None, and its bytes: more than are there if it is cut."""
        return {MAGIC: self._head, MARK: self._packet, LAST: self._end}[kind](self._buffer, at)

    def _head(self, buffer: bytearray, at: int) -> tuple[Header | None, int]:
        header, size = parse_header(buffer, at)
        if header and not self.header:
            self._know(header)
        return header, size

    def _packet(self, buffer: bytearray, at: int) -> tuple[Packet | None, int]:
        header, body = self.header, at + PACKET.size + WORD.size
        if header is None:
            return None, 0
        if len(buffer) < body:
            return None, body - at
        _, number, books, frames, length = PACKET.unpack_from(buffer, at)
        if not (1 <= books <= header.books and 1 <= frames <= header.frames):
            return None, 0
        shape = header.streams, books, frames
        if not self._coder.least(shape) <= length <= self._coder.most(shape):
            return None, 0
        if len(buffer) < body + length:
            return None, body + length - at
        payload = bytes(buffer[body : body + length])
        checked = crc32(payload, crc32(buffer[at : at + PACKET.size], self._seed))
        if WORD.unpack_from(buffer, at + PACKET.size)[0] != checked:
            return None, 0
        return Packet(number, books, frames, payload, self._start + at), body + length - at

    def _end(self, buffer: bytearray, at: int) -> tuple[End | None, int]:
        end, size = parse_end(buffer, at)
        if end and self.header is None:
            self._know(end.header)
        return (end if end and end.header == self.header else None), size


def parse_header(data: bytes | bytearray, at: int = 0) -> tuple[Header | None, int]:
    """Return the header at a place, or None, and its bytes: more than are there if it is cut."""
    if len(data) < at + HEAD.size:
        return None, HEAD.size
    magic, coder, channels, streams, books, frames, levels, *rest, length = HEAD.unpack_from(data, at)
    clock, stride, rate, hash = rest
    more = at + HEAD.size + length
    stop = more + (HASH if coder == Likely.number else 0)
    if len(data) < stop + WORD.size:
        return None, stop + WORD.size - at
    if magic != MAGIC or WORD.unpack_from(data, stop)[0] != crc32(data[at:stop]):
        return None, 0
    try:
        name, sound = bytes(data[at + HEAD.size : more]).decode(), (clock, stride, rate, channels)
        by = coder, bytes(data[more:stop])
        header = Header(name, hash, *sound, streams, books, levels + 1, frames, *by)
    except ValueError:  # UnicodeDecodeError is one
        return None, 0
    return header, stop + WORD.size - at


def parse_end(data: bytes | bytearray, at: int = 0) -> tuple[End | None, int]:
    """Return the end at a place, or None, and its bytes: more than are there if it is cut."""
    if len(data) < at + END.size:
        return None, END.size
    _, samples, packets, every, entries = END.unpack_from(data, at)
    if entries > ENTRIES or not every or samples >= 2**62:
        return None, 0
    copy = at + END.size + entries * PLACE.size
    header, size = parse_header(data, copy)
    if header is None:
        return None, copy - at + size if size else 0
    stop = copy + size + 2 * WORD.size
    if len(data) < stop:
        return None, stop - at
    if WORD.unpack_from(data, stop - WORD.size)[0] != crc32(data[at : stop - WORD.size]):
        return None, 0
    places = tuple(place for (place,) in PLACE.iter_unpack(data[at + END.size : copy]))
    return End(header, samples, packets, every, places), stop - at


def find_end(tail: bytes) -> End | None:
    """Return the end of a file by its last `MAX_END` bytes, or None if it is damaged."""
    if len(tail) < 2 * WORD.size:
        return None
    at = len(tail) - WORD.unpack_from(tail, len(tail) - 2 * WORD.size)[0]
    if not 0 <= at < len(tail) or not tail.startswith(LAST, at):
        return None
    end, size = parse_end(tail, at)
    return end if at + size == len(tail) else None
