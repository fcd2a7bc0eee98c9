"""Read audio files, in blocks or whole, and say what had to be mended."""

from __future__ import annotations

import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import soundfile as sf

from audiomask.audio.formats import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioError, AudioInfo, AudioWarning


def check_readable(path: str) -> None:
    """Raise `AudioError` unless `path` is a readable regular file that is not empty."""
    try:
        status = os.stat(path)  # noqa: PTH116 - Path would lose the text the user typed
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the spelling and the folder") from None
    except PermissionError:
        raise AudioError(f"{path}: no permission to look at it; check the rights of its folder") from None
    except (OSError, ValueError) as error:  # name too long, loop of links, NUL inside the name
        raise AudioError(f"{path}: cannot be opened ({error}); check the name") from None
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{path}: is a folder, and a file is wanted; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{path}: is a device or a pipe; give '-' and feed it to standard input")
    if status.st_size == 0:
        raise AudioError(f"{path}: is empty (0 bytes); record or copy it again")
    try:
        with open(path, "rb"):  # noqa: PTH123
            pass
    except OSError as error:
        raise AudioError(
            f"{path}: cannot be read ({error.strerror}); chmod +r it, or run as its owner"
        ) from None


def _riff_promise(path: str) -> tuple[int, int] | None:
    """Return the bytes of samples that a RIFF header promises and those there; else None.

    libsndfile cuts an overlong data chunk to the file without a word. Programs that cannot seek back (ffmpeg
    into a pipe) write sizes of 0 or about 2^32-1, which promise nothing.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        size = os.fstat(file.fileno()).st_size
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                return None if length == 0 or length >= 0x7FFF0000 else (length, size - file.tell())
            file.seek(length + length % 2, os.SEEK_CUR)
    return None


class Reader(AbstractContextManager["Reader"]):
    """A file that is read block by block; `notes` says what had to be mended.

    Raises `AudioError` for everything that can be wrong with `path`.
    """

    def __init__(self, path: str | Path, *, name: str | None = None):
        """Open `path`; messages call it `name` (the path of a spooled standard input is ugly)."""
        real, self.name = str(path), name or str(path)
        self._file: sf.SoundFile | None = None
        self.cleaned = 0  # samples that were NaN or infinite
        self.position = 0
        self._short: str | None = None
        check_readable(real)
        try:
            self._file = sf.SoundFile(real)
        except (sf.LibsndfileError, TypeError, ValueError, RuntimeError, OSError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise AudioError(
                f"{self.name}: not audio that libsndfile can read ({reason}); "
                f"convert it first, as in: ffmpeg -i {self.name} out.wav"
            ) from None
        try:
            file = self._file
            self.info = AudioInfo(
                self.name, file.samplerate, file.channels, max(file.frames, 0), file.format, file.subtype
            )
            self._check_header()
            promise = _riff_promise(real)
            if promise and promise[0] > promise[1]:
                self._short = (
                    f"its header promises {promise[0]} bytes of samples, {max(promise[1], 0)} are there"
                )
        except BaseException:
            self.close()
            raise

    def _check_header(self) -> None:
        rate, channels = self.info.rate, self.info.channels
        if not MIN_RATE <= rate <= MAX_RATE:
            raise AudioError(
                f"{self.name}: sample rate {rate} Hz is outside {MIN_RATE} to {MAX_RATE}; "
                "if the header is wrong, mend it, as in: sox -r 16000 in.wav out.wav"
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{self.name}: {channels} channels are more than {MAX_CHANNELS}; split the file")
        if self.info.frames == 0:
            raise AudioError(f"{self.name}: holds no samples (0 frames); record or export it again")

    def read(self, frames: int) -> np.ndarray:
        """Return the next samples `[C, <= frames]`, none at the end; NaN and infinities become 0."""
        if self._file is None:
            raise ValueError(f"{self.name}: is closed")
        try:
            x = self._file.read(frames, dtype="float32", always_2d=True).T
        except (sf.LibsndfileError, RuntimeError) as error:
            raise AudioError(
                f"{self.name}: damaged after {self.position / self.info.rate:.2f} s ({error}); copy it "
                f"again; ffmpeg -i {self.name} out.wav saves what can be read"
            ) from None
        finite = np.isfinite(x)
        if not finite.all():
            self.cleaned += int(x.size - finite.sum())
            x = np.where(finite, x, np.float32(0))
        self.position += x.shape[1]
        return x

    def blocks(self, frames: int = 65536) -> Iterator[np.ndarray]:
        """Yield the rest as blocks `[C, <= frames]`; raise if the file held not one sample."""
        while (x := self.read(frames)).shape[1]:
            yield x
        if not self.position:
            raise AudioError(f"{self.name}: damaged, not one sample of it can be decoded; copy it again")
        if not self._short and 0 < self.position < self.info.frames < 2**62:
            self._short = f"its header promises {self.info.frames} samples, {self.position} are there"

    @property
    def notes(self) -> list[str]:
        """Return notes about this file for the user, complete once it was read to the end."""
        notes = []
        if self._short:
            notes.append(f"{self.name}: truncated: {self._short}; what is there was used")
        if self.cleaned:
            notes.append(f"{self.name}: {self.cleaned} samples were NaN or infinite and were set to 0")
        return notes

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __exit__(self, *exc: object) -> None:
        self.close()


def verify(path: str | Path) -> AudioInfo:
    """Return the header if the samples that it promises are there; raise `AudioError` if not."""
    with Reader(path) as reader:
        short = reader._short
        if reader.info.format == "FLAC" and reader._file is not None:
            try:
                reader._file.seek(reader.info.frames - 1)
                whole = reader.read(1).shape[1] == 1
            except (RuntimeError, AudioError):  # libsndfile cannot seek beyond the samples that are there
                whole = False
            short = None if whole else f"its last sample, number {reader.info.frames}, cannot be read"
    if short:
        raise AudioError(f"{path}: truncated: {short}; copy or unpack it again")
    return reader.info


def info(path: str | Path) -> AudioInfo:
    """Return rate, channels, length and coding; raise `AudioError` if it is no readable audio."""
    with Reader(path) as reader:
        return reader.info


def read(path: str | Path, start: int = 0, frames: int = -1) -> tuple[np.ndarray, int]:
    """Return a file, or `frames` samples from `start`, as `[C, T]` float32, and its rate in Hz."""
    with Reader(path) as reader:
        if start:
            if not 0 <= start < reader.info.frames or reader._file is None:
                raise AudioError(f"{path}: start {start} is outside its {reader.info.frames} samples")
            reader._file.seek(start)
        if frames >= 0:
            parts = [reader.read(frames)]
        else:
            reader.position = start
            parts = list(reader.blocks())
        for note in reader.notes:
            warnings.warn(note, AudioWarning, stacklevel=2)
        return np.ascontiguousarray(np.concatenate(parts, axis=1)), reader.info.rate
