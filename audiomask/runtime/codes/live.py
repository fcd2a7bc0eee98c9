"""Play packets of codes as they come, of which some may be missing, late or double.

received = Received(60, decoder_of)
for data in pipe:
    play(received.push(data))          # [channels, samples] that are known
play(received.flush())
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np

from audiomask.runtime.artifact import Artifact
from audiomask.runtime.codes.coders import Coder
from audiomask.runtime.codes.container import End, Header, NotCodesError, Packet, Unpacker
from audiomask.runtime.packets.jitter_buffer import LEAP_S, Counts, JitterBuffer
from audiomask.runtime.player import Player


class Received:
    """A player of an `.amk` stream that comes piece by piece.

    Packets go through a `JitterBuffer` that waits `jitter_ms` for each. `decoder_of` finds the decoder of a
    header and what unpacks its codes, or raises `AudioError`. Attributes: `header`, once it has come;
    `counts` of packets.
    """

    def __init__(
        self, jitter_ms: float, decoder_of: Callable[[Header], tuple[Artifact, Coder]], threads: int = 1
    ):
        self.jitter_ms, self._decoder_of, self._threads = jitter_ms, decoder_of, threads
        self._unpacker = Unpacker()
        self.header: Header | None = None
        self._player: Player | None = None
        self._buffer: JitterBuffer | None = None
        self._end: End | None = None
        self._began = False
        self._reached = 0  # frames from the beginning of the file to the end of the last packet
        self.concealed = self._damaged = 0

    @property
    def counts(self) -> Counts:
        return self._buffer.counts if self._buffer else Counts()

    def push(self, data: bytes, *, last: bool = False) -> np.ndarray:
        """Take bytes and return the sound `[channels, samples]` that they complete."""
        parts = [np.zeros((0, 0), np.float32)]
        for record in self._unpacker.push(data, last=last):
            if self.header is None:
                self._begin(self._unpacker.header)
            if isinstance(record, End):
                self._end = self._end or record
            elif isinstance(record, Packet):
                assert self._buffer
                self._buffer.put(record.number, record)
                parts += self._play(self._buffer.take())
        return _joined(parts)

    def flush(self) -> np.ndarray:
        """Return the rest; raise `NotCodesError` if no header came."""
        parts = [self.push(b"", last=True)]
        if self.header is None or self._player is None or self._buffer is None:
            raise NotCodesError("standard input: is no .amk; make one with: audiomask encode")
        parts += self._play(self._buffer.flush())
        if not self._began:
            return _joined(parts)
        header, cut = self.header, 0
        if self._end:
            missing = header.needs(self._end.samples) - self._reached
            if 0 < missing <= LEAP_S * header.clock / header.stride:
                parts.append(self._frames(None, missing))
                self._reached += missing
            cut = max(0, header.samples(self._reached) - self._end.samples)
        (y,) = self._player.flush().values()
        parts.append(y[:, : max(0, y.shape[1] - cut)])
        return _joined(parts)

    def _begin(self, header: Header | None) -> None:
        assert header
        artifact, self._coder = self._decoder_of(header)
        rows = header.streams * header.books
        self._player = Player(artifact, sample_rate=header.rate, channels=rows, threads=self._threads)
        period = header.frames * header.stride / header.clock
        self._buffer = JitterBuffer(ceil(self.jitter_ms / 1000 / period - 1e-6), period)
        self.header = header

    def _play(self, packets: list[Packet | None]) -> list[np.ndarray]:
        assert self.header
        size, parts = self.header.frames, []
        for packet in packets:
            if packet is None:
                parts.append(self._frames(None, size))
                self._reached += size
                continue
            start = packet.number * size
            if not self._began and start <= LEAP_S * self.header.clock / self.header.stride:
                parts.append(self._frames(None, start))  # the first ones were lost; else we join late
            self._began = True
            try:
                parts.append(self._frames(packet.codes(self.header, self._coder), packet.frames))
            except ValueError:
                self._damaged += 1
                parts.append(self._frames(None, packet.frames))
            self._reached = start + packet.frames
        return parts

    def _frames(self, codes: np.ndarray | None, count: int) -> np.ndarray:
        """Return what so many frames become, lost ones if there are no codes."""
        assert self._player
        lost = self._player.artifact.lost
        if codes is None:
            codes = np.full((self._player.channels, count), -1, np.int64)
            flags = np.ones((1, count), np.float32)
            self.concealed += count
        else:
            flags = np.zeros((1, count), np.float32)
        (y,) = self._player.feed(codes, **({lost.name: flags} if lost else {})).values()
        return y

    @property
    def notes(self) -> list[str]:
        """Return notes for the user on what was wrong."""
        header, found = self.header, []
        if header and self._end is None:
            found.append("truncated: its end is missing")
        if self._unpacker.skipped or self._damaged:
            found.append(f"damaged: {self._unpacker.skipped} bytes are no packet; what is whole was decoded")
        if header and self.concealed:
            seconds = self.concealed * header.stride / header.clock
            found.append(f"{seconds:.2f} s of codes are missing, and were concealed")
        if self._player and self._player.faults:
            found.append(f"the model failed in {self._player.faults} blocks, which were muted")
        return [f"standard input: {text}" for text in found]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    parts = [part for part in parts if part.size] or parts[-1:]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
