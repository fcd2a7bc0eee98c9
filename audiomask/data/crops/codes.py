"""Cut packets of the codes that a codec makes of packed audio.

All recordings are encoded once, by the artifact that ships, into one file beside the packed audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from audiomask.audio import AudioError, replacing
from audiomask.data.crops.packed import DrawnRows, PackedAudio, drawn
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import codec_hash
from audiomask.runtime.codes.container import Header
from audiomask.runtime.files.coded import code_port, header_of
from audiomask.runtime.player import Player


@dataclass(frozen=True)
class Coded:
    """A file of codes `[frames, books]` of recordings that follow one another."""

    path: Path
    header: Header
    offsets: np.ndarray  # where each begins, in frames, and where the last one ends


def coded(prefix: Path, encoder: Artifact) -> Coded:
    """Return the codes of a packed corpus; make them, if they are missing."""
    port, header = code_port(encoder), header_of(encoder, encoder.sample_rate, encoder.streams[0].channels)
    audio = PackedAudio(prefix)
    lengths = [header.needs(int(length)) for length in audio.lengths]
    path = prefix.with_name(f"{prefix.name}-{codec_hash(encoder).hex()}.npy")
    made = Coded(path, header, np.cumsum([0, *lengths]))
    if path.exists():
        return made
    player = Player(encoder, outputs=[port.name], threads=1)
    with replacing(path) as part, part.open("wb") as file:
        facts = {"descr": "<u2", "fortran_order": False, "shape": (int(made.offsets[-1]), port.channels)}
        np.lib.format.write_array_header_1_0(file, facts)
        for i, (samples, frames) in enumerate(zip(audio.lengths.tolist(), lengths, strict=True)):
            x = audio.read(i, 0, samples)[None]
            parts = [player.feed(x)[port.name], player.flush()[port.name]]
            player.reset()
            file.write(np.concatenate(parts, 1)[:, :frames].T.astype("<u2").tobytes())
    return made


class PackedCodes:
    """The codes of recordings, of which packets of `frames` are cut."""

    def __init__(self, of: Coded, frames: int):
        self.header, self.frames = of.header, frames
        self._codes = np.load(of.path, mmap_mode="r")
        self._starts, lengths = of.offsets[:-1], np.diff(of.offsets)
        self._places = np.maximum(0, lengths - frames + 1)
        self._lengths = lengths
        if not self._places.any():
            raise AudioError(f"{of.path}: no recording has the {frames} frames of a packet")
        self._cdf = np.cumsum(self._places / self._places.sum())

    def counts(self) -> np.ndarray:
        """Return how often each code of each book occurs, `[books, levels]`."""
        return np.stack([np.bincount(book, minlength=self.header.levels) for book in self._codes.T])

    def cut(self, at: int, count: int = 1) -> np.ndarray:
        """Return packets `[count, books, frames]` from a frame on."""
        found = self._codes[at : at + count * self.frames].astype(np.int64)
        return found.reshape(count, self.frames, -1).swapaxes(1, 2)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return a packet `[books, frames]`, all of them alike likely."""
        i = drawn(self._cdf, rng)
        return self.cut(int(self._starts[i] + rng.integers(self._places[i])))[0]

    def whole(self) -> list[np.ndarray]:
        """Return the packets `[count, books, frames]` of each recording that has some."""
        pairs = zip(self._starts.tolist(), (self._lengths // self.frames).tolist(), strict=True)
        return [self.cut(start, count) for start, count in pairs if count]


@dataclass(eq=False)
class DrawnPackets(DrawnRows):
    """Cuts packets `codes [books, frames]` at random."""

    corpus: PackedCodes
    seed: int = 0

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"codes": self.corpus.draw(rng)}


class Packets(Dataset[dict[str, Any]]):
    """Cuts each recording into packets `codes [count, books, frames]`, for validation."""

    def __init__(self, corpus: PackedCodes):
        self._packets = corpus.whole()

    def __len__(self) -> int:
        return len(self._packets)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"codes": torch.from_numpy(self._packets[i])}
