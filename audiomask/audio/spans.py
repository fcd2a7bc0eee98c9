"""A part of a file that is read as a file, and a record of what its bytes say.

with Span("joined.ogg", 1000, 5000) as file:
    file.patches = {4: b"\\0\\0"}       # libsndfile is given other bytes than those of the disk
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PIECE = 2**20  # bytes that are looked at in one go


class Span(io.RawIOBase):
    """A range of bytes of a file, some of them replaced, that libsndfile reads as a file."""

    def __init__(self, path: str | Path, start: int = 0, stop: int | None = None):
        self.file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 - the name as typed; closed below
        self.start = start
        self.size = (os.fstat(self.file.fileno()).st_size if stop is None else stop) - start
        self.patches: dict[int, bytes] = {}
        self.prefix = b""  # comes before the range
        self.padding = 0  # zero bytes behind it
        self.at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + (0, self.at, len(self.prefix) + self.size + self.padding)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = bytearray(self.prefix[self.at : self.at + len(buffer)])
        place = max(0, self.at - len(self.prefix))
        if place < self.size:  # else perhaps beyond what a file can have
            self.file.seek(self.start + place)
            data += self.file.read(max(0, min(len(buffer) - len(data), self.size - place)))
        if self.padding and self.at + len(data) >= (end := len(self.prefix) + self.size):
            data += bytes(max(0, min(len(buffer) - len(data), end + self.padding - self.at - len(data))))
        for offset, new in self.patches.items():
            low, high = max(0, offset - self.at), min(len(data), offset - self.at + len(new))
            if low < high:
                data[low:high] = new[low + self.at - offset : high + self.at - offset]
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def peek(self, at: int, count: int) -> bytes:
        """Return so many bytes from `at`, fewer at the end."""
        self.seek(at)
        return self.read(count) or b""

    def close(self) -> None:
        self.file.close()
        super().close()


@dataclass
class Scan:
    """A record of what bytes say of the samples of a file, or the first of several joined ones.

    Attributes:
        size: The number of bytes.
        end: Where the file ends; another one may begin there.
        patches: Bytes that replace those of the header, by offset, which counts `prefix`.
        prefix: Bytes that come before those of the file.
        padding: The number of zero bytes that fill up its last block, which is cut.
        shorten: Leaves out the last frame of a FLAC file, for when it turns out to be cut.
        warning: What is missing or stale, for the user.
        refused: Why the file cannot be read though something could be made of it.
        frames: The number of samples of a channel, where libsndfile cannot know it.
        mask: The speakers of a `WAVE_FORMAT_EXTENSIBLE` header, as its bits; 0 where there is none.
        kind: The container: wav, aiff, au, sphere, w64, caf, flac, ogg, mp3, media for what phones and videos
            use, or "" for any other.
        codec: In Ogg, what the first stream is: vorbis, opus, flac or "".
        format: FFmpeg's name of the container, where a few frames do not tell it.
    """

    size: int
    end: int = 0
    patches: dict[int, bytes] = field(default_factory=dict)
    prefix: bytes = b""
    padding: int = 0
    shorten: Callable[[], None] | None = None
    warning: str | None = None
    refused: str | None = None
    frames: int | None = None
    mask: int = 0
    kind: str = ""
    codec: str = ""
    format: str | None = None
