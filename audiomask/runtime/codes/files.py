"""Read files of codes, whatever became of them, for what plays codes.

    with AmkFile("speech.amk") as file:
        for given in file.blocks(64, {"codes": 1, "lost": 1}):      # frames of the streams of a decoder
            play(player.feed(**given))

Packets are put in their order, and frames that no packet brings are flagged as lost. A file goes through in
constant memory, twice: first to see how long it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from math import ceil
from pathlib import Path

import numpy as np

from audiomask.audio import AudioInfo
from audiomask.audio.reader import check_readable
from audiomask.runtime.codes.container import (
    MAGIC,
    MAX_END,
    PACKET,
    WORD,
    End,
    Header,
    NotCodesError,
    Packet,
    Unpacker,
    find_end,
    parse_header,
)

READ_BYTES = 65536
BLOCK = 2**22  # samples of all channels that are decoded at once: 16 MB
WINDOW = 1024  # packets that wait for one that comes later in the file: at most 8 MB
# A file may say that it has lost so much: ten minutes, and ten times what its bytes could hold. More would be
# hours of concealment of a few bytes.
GAP_S, GAP_TIMES = 600, 10

Piece = np.ndarray | int  # codes `[rows, frames]`, or a number of frames that are lost


class CodesFile(AbstractContextManager["CodesFile"]):
    """A file of codes that is used like an `audio.Reader`; `info` says what sound they are of.

    As `info.channels` it has the rows of codes. `lost [frames]` may be set to flags of what shall be lost
    besides. `notes` is complete once the file has been read to the end.
    """

    name: str
    info: AudioInfo
    frames: int  # of codes
    most = 2**30  # frames that are worth handing over at once
    padded = True  # with lost frames, where `pieces` ends before all of them
    lost: np.ndarray | None = None
    position = 0  # in samples of the sound
    concealed = 0  # frames that were missing or damaged

    def pieces(self) -> Iterator[Piece]:
        """Yield all frames in their order."""
        raise NotImplementedError

    def blocks(self, hops: int, per_hop: Mapping[str, int]) -> Iterator[dict[str, np.ndarray]]:
        """Yield frames of codes, and flags of those that are lost, by name, so many hops at a time."""
        (codes, size), *others = per_hop.items()
        at, take = 0, size * max(1, min(hops, self.most // size))
        for x, lost in _joined(self.pieces(), self.info.channels, take, self.frames, self.padded):
            if self.lost is not None:
                lost = lost | self.lost[at : at + len(lost)]
                x = np.where(lost, -1, x)
            at += len(lost)
            self.position = self.info.frames * at // self.frames
            flags = {name: lost[None].astype(np.float32) for name, n in others if n == size}
            yield {codes: x, **flags}

    @property
    def notes(self) -> list[str]:
        """Return notes for the user on what was wrong."""
        return []

    def __exit__(self, *exc: object) -> None:
        """Do nothing: the file is open only while it is read."""


def _joined(
    pieces: Iterable[Piece], rows: int, size: int, total: int, padded: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield codes `[rows, size]` and flags `[size]`; if `padded`, missing frames are lost."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    held = done = 0

    def split(piece: Piece) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if isinstance(piece, np.ndarray):
            for at in range(0, max(1, piece.shape[1]), size):
                part = piece[:, at : at + size]
                yield part, np.zeros(part.shape[1], bool)
        else:
            for at in range(0, piece, size):
                n = min(size, piece - at)
                yield np.full((rows, n), -1, np.int64), np.ones(n, bool)

    def rest() -> Iterator[Piece]:
        nonlocal total
        yield from pieces
        if not padded:
            total = done + held
            yield np.zeros((rows, 0), np.int64)
        yield total - done - held

    for piece in rest():
        for x, lost in split(piece):
            left = total - done - held
            waiting.append((x[:, :left], lost[:left]))
            held += min(left, len(lost))
            if held >= size or done + held == total:
                codes, flags = (np.concatenate(parts, axis=-1) for parts in zip(*waiting, strict=True))
                while held >= size or (held and done + held == total):
                    n = min(size, held)
                    yield codes[:, :n], flags[:n]
                    codes, flags = codes[:, n:], flags[n:]
                    done, held = done + n, held - n
                waiting = [(codes, flags)] if held else []


def in_order(packets: Iterable[Packet], window: int = WINDOW) -> Iterator[Packet]:
    """Yield packets by rising number, without double ones and those beyond `window` late."""
    waiting: list[tuple[int, int, Packet]] = []
    after = count = 0  # the number after the last one that was given

    for count, packet in enumerate(packets):
        if packet.number >= after:
            heapq.heappush(waiting, (packet.number, count, packet))
        while waiting and (waiting[0][0] <= after or len(waiting) > window):
            number, _, first = heapq.heappop(waiting)
            if number >= after:
                after = number + 1
                yield first
    while waiting:
        number, _, first = heapq.heappop(waiting)
        if number >= after:
            after = number + 1
            yield first


class AmkFile(CodesFile):
    """An `.amk` file, of which everything that is whole is found.

    `header` is that at its beginning, the copy at its end, or whichever is found. `end` is None for a file
    that was cut: then it is as long as its packets are. Messages call it `name`. Raises `NotCodesError` for a
    file without a header or without a packet, `AudioError` for one that cannot be read.
    """

    def __init__(self, path: str | Path, *, name: str | None = None):
        self.path, self.name = str(path), name or str(path)
        check_readable(self.path)
        with open(self.path, "rb") as file:  # noqa: PTH123 - Path would lose the text the user typed
            head = file.read(READ_BYTES)
            size = file.seek(0, 2)
            file.seek(max(0, size - MAX_END))
            self.end = find_end(file.read())
        header = parse_header(head)[0] or (self.end.header if self.end else None)
        if header is None:  # perhaps bytes came in before and after
            found = next(self._records(Unpacker()), None)
            header = found.header if isinstance(found, End) else found  # type: ignore[assignment]
        if header is None:
            if head[:3] == MAGIC[:3] and head[3:4] != MAGIC[3:]:
                words = f"has version {head[3]} of the format; install the audiomask that wrote it"
            elif head[:3] == MAGIC[:3]:
                words = "its header is damaged, and so is its copy; copy it again"
            else:
                words = "is no .amk file; make one with: audiomask encode"
            raise NotCodesError(f"{self.name}: {words}")
        self.header: Header = header
        self.coder = header.coder_of()
        if self.end and self.end.header != header:  # of another file, that was appended
            self.end = None
        least = PACKET.size + WORD.size + self.coder.least((header.streams, 1, header.frames))
        bound = GAP_S * header.clock // header.stride + GAP_TIMES * header.frames * ceil(size / least)
        self._bound = bound if self.end is None else min(bound, header.needs(self.end.samples))
        self._survey()
        rows, rate = header.streams * header.books, header.rate
        self.most = max(1, BLOCK // (header.channels * header.samples(1)))
        self.info = AudioInfo(self.name, rate, rows, self._samples, "AMK", "CODES")

    def _survey(self) -> None:
        """Read all of the file to see how long it is."""
        self._skipped = reached = 0
        self._damaged = self._joined = 0
        header, found, end = self.header, 0, None
        for record in self._records(self._unpacker()):
            if isinstance(record, End):
                end = end or record
            elif isinstance(record, Packet) and self._fits(record):
                found += 1
                self._joined += end is not None and record.number * header.frames < reached
                reached = max(reached, record.number * header.frames + record.frames)
        self.end = end or self.end
        self.frames, self._samples = reached, header.samples(reached)
        self._cut = self.end is None
        if self.end:
            frames = header.needs(self.end.samples)
            if frames <= self._bound or frames <= reached:
                self.frames, self._samples = frames, self.end.samples
            else:
                self._cut = True
        if not found or not self._samples:
            raise NotCodesError(
                f"{self.name}: holds no whole packet, so there is no sound in it; copy it again"
            )

    def _unpacker(self) -> Unpacker:
        return Unpacker(self.header)

    def _fits(self, packet: Packet) -> bool:
        return packet.number * self.header.frames + packet.frames <= self._bound

    def _records(self, unpacker: Unpacker, at: int = 0) -> Iterator[Header | Packet | End]:
        unpacker.seek(at)
        with open(self.path, "rb") as file:  # noqa: PTH123
            file.seek(at)
            while data := file.read(READ_BYTES):
                yield from unpacker.push(data)
            yield from unpacker.push(b"", last=True)
        self._skipped = unpacker.skipped

    def packets(self, first: int = 0) -> Iterator[Packet]:
        """Yield the whole packets by rising number, from number `first` on, which the index finds."""
        at = 0
        if self.end and (entry := min(first // self.end.every, len(self.end.places))) > 0:
            at = self.end.places[entry - 1]
            near = next(self._records(self._unpacker(), at), None)
            if not isinstance(near, Packet) or (near.at, near.number) != (at, entry * self.end.every):
                at = 0  # bytes were lost or came in
        records = self._records(self._unpacker(), at)
        found = (r for r in records if isinstance(r, Packet) and r.number >= first and self._fits(r))
        return in_order(found)

    def pieces(self) -> Iterator[Piece]:
        at, size = 0, self.header.frames
        self.concealed = self._damaged = 0
        for packet in self.packets():
            start = packet.number * size
            if start >= self.frames:
                break
            if start > at:
                yield start - at
                self.concealed += start - at
            at = start + packet.frames
            try:
                yield packet.codes(self.header, self.coder)
            except ValueError:  # its sum is right, and its codes are none: nobody's encoder wrote it
                self._damaged += 1
                self.concealed += packet.frames
                yield packet.frames
        self.concealed += max(0, self.frames - at)

    @property
    def notes(self) -> list[str]:
        header, found = self.header, []
        if self._cut:
            promised = f" of {self.end.samples / header.rate:.2f} s" if self.end else ""
            found.append(f"truncated: its end is missing; {self.info.seconds:.2f} s{promised} were decoded")
        if self._joined:
            found.append(
                f"{self._joined} packets after its end were left out; decode joined files one by one"
            )
        if self._skipped or self._damaged:
            found.append(f"damaged: {self._skipped} bytes are no packet; what is whole was decoded")
        if self.concealed:
            seconds = self.concealed * header.stride / header.clock
            found.append(f"{seconds:.2f} s of codes are missing, and were concealed")
        return [f"{self.name}: {text}" for text in found]
