"""Carry what a file says about its sound to another: title, time, markers, speakers.

libsndfile holds the texts of `TEXTS` in WAV, AIFF, CAF, FLAC, Ogg and MP3; for all else see `audio.chunks`.
Times in samples follow the sample rate. What a format cannot hold is named.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import soundfile as sf

from audiomask.audio import chunks, media
from audiomask.audio.atomic import replacing

TEXTS = media.TEXTS


@dataclass
class Tags:
    """A record of texts and other notes of a file, their sample rate, the path if it is media."""

    texts: Mapping[str, str] = field(default_factory=dict)
    notes: chunks.Notes = field(default_factory=chunks.Notes)
    rate: int = 0
    source: str | None = None

    def write(self, file: sf.SoundFile) -> None:
        """Give a file that is being written the texts that it can hold."""
        for name, text in self.texts.items():
            with suppress(sf.LibsndfileError, RuntimeError):
                setattr(file, name, text)

    def left_out(self, path: Path, format: str) -> list[str]:
        """Return what a whole file of a format lacks."""
        texts: Mapping[str, str] = {}
        if self.texts:
            with sf.SoundFile(str(path)) as file:
                texts = file.copy_metadata()
        return [name for name in self.texts if name not in texts] + self.lost(format)

    def lost(self, format: str) -> list[str]:
        """Return the names of all but texts that a format cannot hold."""
        held, notes = chunks.held(format), self.notes
        lost = [name.decode().strip() for name in notes.chunks if name not in held]
        marked = notes.markers and b"cue " not in notes.chunks and b"cue " not in held
        others = sorted(set(notes.others)) if format != "MEDIA" or self.source is None else []
        return lost + ["markers"] * bool(marked) + others

    def append(self, path: Path, format: str, rate: int, mask: int) -> None:
        """Append to a whole file what it can hold, and name the speakers of AIFF and CAF."""
        factor = Fraction(rate, self.rate or rate)
        content = {name: chunks.scaled(name, x, factor) for name, x in self.notes.chunks.items()}
        markers = [(min(round(at * factor), 2**32 - 1), label) for at, label in self.notes.markers]
        chunks.append(path, format, mask, content, markers)


def name_in_w64(path: Path, mask: int) -> None:
    """Name the speakers of a whole W64 file, by the longer form of its `fmt` chunk."""
    with replacing(path) as part, path.open("rb") as file, part.open("wb") as out:
        head = file.read(80)  # riff, wave and a `fmt ` of 40 bytes, as libsndfile writes them
        tag, bits = struct.unpack_from("<H12xH", head, 64)
        form = struct.pack("<H", 0xFFFE) + head[66:80] + struct.pack("<HHI", 22, bits, mask)
        form += struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")  # the coding as a GUID
        (size,) = struct.unpack_from("<Q", head, 16)
        out.write(head[:16] + struct.pack("<Q", size + len(form) - 16) + head[24:56])
        out.write(struct.pack("<Q", 24 + len(form)) + form)
        shutil.copyfileobj(file, out, 2**20)


def name_in_flac(path: Path, mask: int) -> None:
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


NAMING = {"FLAC": name_in_flac, "W64": name_in_w64}
