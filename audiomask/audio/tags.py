"""Carry what a file says about its sound to another: title, time reference, cues, speakers.

libsndfile holds the texts of `TEXTS` in WAV, AIFF, CAF, FLAC, Ogg and MP3. The chunks of WAV that recorders
write (`headers.CHUNKS`) are copied to WAV and RF64 as they are, but for times in samples, which follow the
sample rate. What a format cannot hold is named.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import soundfile as sf

from audiomask.audio.atomic import replacing

TEXTS = ("title", "copyright", "artist", "comment", "date", "album", "license", "tracknumber", "genre")
TIME_REFERENCE = 338  # of bext (EBU Tech 3285): samples since midnight, 64 bits


@dataclass
class Tags:
    """A record of texts and chunks of a file, the rate of their times, the path if it is media."""

    texts: Mapping[str, str] = field(default_factory=dict)
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)
    rate: int = 0
    source: str | None = None

    @property
    def names(self) -> list[str]:
        """Return the names of the chunks, for messages."""
        return [name.decode().strip() for name in self.chunks]

    def write(self, file: sf.SoundFile) -> list[str]:
        """Give a file that is being written the texts; return those that it cannot hold."""
        dropped = []
        for name, text in self.texts.items():
            try:
                setattr(file, name, text)
            except (sf.LibsndfileError, RuntimeError):
                dropped.append(name)
        return dropped

    def append(self, path: Path, rate: int) -> None:
        """Append the chunks to a WAV or RF64 file that is complete."""
        with path.open("r+b") as file:
            magic = file.read(4)
            for name, content in self.chunks.items():
                content = scaled(name, content, Fraction(rate, self.rate or rate))
                file.seek(0, 2)
                file.write(b"\0" * (file.tell() % 2))
                file.write(struct.pack("<4sI", name, len(content)) + content + b"\0" * (len(content) % 2))
            size = file.tell() - 8
            if magic == b"RF64":
                file.seek(20)  # in ds64, which comes first
                file.write(struct.pack("<Q", size))
            else:
                file.seek(4)
                file.write(struct.pack("<I", size))


def name_speakers(path: Path, mask: int) -> None:
    """Name the speakers of the channels of a whole FLAC file, by the tag of RFC 9639, 8.6.2."""
    entry = b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x%04X" % mask
    with replacing(path) as part, path.open("rb") as file, part.open("wb") as out:
        out.write(file.read(4))
        blocks, last = [], False
        while not last:
            head = file.read(4)
            last = head[0] & 128 > 0
            blocks.append((head[0] & 127, file.read(int.from_bytes(head[1:], "big"))))
        vendor, texts = b"audiomask", list[bytes]()
        for kind, content in blocks:
            if kind == 4:
                (length,) = struct.unpack_from("<I", content)
                vendor, at = content[4 : 4 + length], 8 + length  # past the number of texts
                while at + 4 <= len(content):
                    (length,) = struct.unpack_from("<I", content, at)
                    texts.append(content[at + 4 : at + 4 + length])
                    at += 4 + length
        texts.append(entry)
        comment = struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", len(texts))
        comment += b"".join(struct.pack("<I", len(text)) + text for text in texts)
        blocks = [(kind, content) for kind, content in blocks if kind != 4] + [(4, comment)]
        for i, (kind, content) in enumerate(blocks):
            out.write(
                bytes([kind | 128 * (i + 1 == len(blocks))]) + len(content).to_bytes(3, "big") + content
            )
        shutil.copyfileobj(file, out, 2**20)


def scaled(name: bytes, content: bytes, factor: Fraction) -> bytes:
    """Return a chunk with its times in samples multiplied by `factor`."""
    data = bytearray(content)
    if name == b"bext" and len(data) >= TIME_REFERENCE + 8:
        (time,) = struct.unpack_from("<Q", data, TIME_REFERENCE)
        struct.pack_into("<Q", data, TIME_REFERENCE, round(time * factor))
    elif name == b"cue ":
        for at in range(4, len(data) - 23, 24):
            for offset in (4, 20):  # the place in the play order, and in the samples
                (sample,) = struct.unpack_from("<I", data, at + offset)
                struct.pack_into("<I", data, at + offset, min(round(sample * factor), 2**32 - 1))
    return bytes(data)
