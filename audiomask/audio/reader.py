"""Read audio files, in blocks or whole, and say what had to be mended."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile as sf

from audiomask.audio import chunks, headers, layout, media
from audiomask.audio.formats import (
    BYTES,
    FLOATS,
    MAX_CHANNELS,
    MAX_RATE,
    MIN_RATE,
    AudioError,
    AudioInfo,
    AudioWarning,
)
from audiomask.audio.spans import Span
from audiomask.audio.tags import TEXTS, Tags

OVER_S = 0.5  # that a stretch may end past its recording
NAMED = ("aiff", "caf", "w64")  # what names speakers in ways that libsndfile does not know
EMPTY = "holds no samples (0 frames)"
INTEGERS = 64.0  # a peak of floats above it is not loud sound, but another scale
MISSING = ("truncated", "cut off", "damaged")  # how notes about samples that are not there begin


def end_of(start: float, end: float | None, seconds: float) -> float | None:
    """Return where a stretch of a recording of `seconds` ends, or None if it lies outside.

    Half a second past the end is cut off, as Kaldi's extract-segments does.
    """
    end = seconds if end is None else end
    return min(end, seconds) if 0 <= start < min(end, seconds) and end <= seconds + OVER_S else None


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


class _Forward(sf.SoundFile):
    """A file of libsndfile's that is read from its beginning to its end, never by a seek.

    With libsndfile 1.2.2 samples are wrong after a seek in MP3, Vorbis and Opus, and soundfile 0.14 seeks
    after each read. One seek, to the beginning, is made: in Opus files whose time does not begin at 0 nothing
    else finds it.
    """

    def __init__(self, file: str | Span):
        self._begun = False
        super().__init__(file)
        self.seek(0)
        self._begun = True

    def seekable(self) -> bool:
        return not self._begun and super().seekable()

    def go(self, frame: int) -> None:
        """Seek, in a coding that can."""
        self._begun = False
        self.seek(frame)
        self._begun = True


class Reader(AbstractContextManager["Reader"]):
    """A file that is read block by block; `notes` says what had to be mended.

    Files that were joined (`cat a.ogg b.ogg`) are read as one. Channels come in the order of WAV, whatever
    the format's own; `info.mask` says which speakers they are for, where that is known.

    Raises `AudioError` for everything that can be wrong with `path`.
    """

    def __init__(
        self, path: str | Path, *, name: str | None = None, begin: float = 0.0, end: float | None = None
    ):
        """Open `path`, or an entry of a Kaldi archive (`wav.ark:1234`).

        Args:
            path: The file.
            name: Its name in messages (the path of a spooled standard input is ugly).
            begin: Where to begin to read, in seconds.
            end: Where to end, None for the end; half a second past it means the end too, as for Kaldi.
        """
        self._real, self.name = str(path), name or str(path)
        entry = headers.in_archive(self._real)
        self._real, start = entry or (self._real, 0)
        self._file: sf.SoundFile | media.Decoder | None = None
        self._span: Span | None = None
        self._rest = 0  # samples that are left in the open part of a joined file, if that is known
        self.cleaned = 0  # samples that were NaN or infinite
        self.peak = 0.0  # of floats
        self.position = 0
        self._faults: list[str] = []
        check_readable(self._real)
        try:
            self._parts = headers.archived(self._real, start) if entry else headers.scan(self._real)
            scans = [one for _, one in self._parts]
            infos = self._infos()
            self._faults[:0] = [one.warning for one in scans if one.warning]
            self.info = infos[-1]
            for other in infos[-2::-1]:
                if (other.rate, other.channels) != (self.info.rate, self.info.channels):
                    raise AudioError(
                        f"{self.name}: joined from files of {self.info.rate} Hz with {self.info.channels} "
                        f"channels, and {other.rate} Hz with {other.channels}; take it apart, as in: "
                        f"ffmpeg -i {self.name} out.wav"
                    )
                self.info = replace(self.info, frames=self.info.frames + other.frames)
            self._part = 0
            self._check_header()
            self._offset, self._stretch = 0, False
            if begin or end is not None:
                self._cut(begin, end)
        except ValueError as error:
            self.close()
            raise AudioError(f"{self.name}: {error}") from None
        except BaseException:
            self.close()
            raise

    def _infos(self) -> list[AudioInfo]:
        """Open all parts, the first one last, which stays open; leave out what nothing can read."""
        infos = []
        full = [(start, one) for start, one in self._parts if one.frames != 0]
        self._parts = full or self._parts[:1]
        for part in reversed(range(len(self._parts))):
            try:
                infos.append(self._info(part))
            except AudioError as error:
                if part == 0:
                    raise
                reason = str(error).removeprefix(f"{self.name}: ")
                self._faults.append(f"left out: what is joined at byte {self._parts[part][0]} is {reason}")
                del self._parts[part]
        return infos

    def _info(self, part: int) -> AudioInfo:
        """Open a part and return what is known of it."""
        self.close()
        start, found = self._parts[part]
        if found.refused:
            raise AudioError(f"{self.name}: {found.refused}")
        if found.frames == 0:
            raise AudioError(f"{self.name}: {found.warning or EMPTY}; record or copy it again")
        try:
            within = len(self._parts) > 1 or start or 0 < found.end < found.size
            # An MP3 that is opened by its name is looked for beside it too, in what a Mac leaves on a foreign
            # disk (._NAME), and then refused.
            if within or found.patches or found.prefix or found.padding or found.kind == "mp3":
                self._span = Span(self._real, start, start + found.end)
                self._span.patches, self._span.prefix = found.patches, found.prefix
                self._span.padding = found.padding
            if found.kind == "media" or found.codec not in ("", "vorbis", "opus"):
                raise ValueError("a container that libsndfile does not know")
            self._file = _Forward(self._span or self._real)
            if (self._file.format, self._file.subtype) == ("RAW", "ULAW"):  # by the names .au and .snd alone
                raise ValueError("its header is missing")
        except (sf.LibsndfileError, TypeError, ValueError, RuntimeError, OSError) as error:
            if found.shorten is not None:  # FLAC whose only frame is cut
                found.shorten()
                found.shorten = None
                return self._info(part)
            of_several = self._span if len(self._parts) > 1 or start else None
            self._file = self._other(error, of_several or self._real, found.format)
        file = self._file
        frames = max(file.frames, 0) if found.frames is None else found.frames
        self._rest = 2**62 if found.kind in ("", "mp3", "ogg", "media") else frames
        names, mask = self._noted(part).speakers if found.kind in NAMED else [], found.mask
        names = names if len(names) == file.channels else []
        if isinstance(file, media.Decoder):
            mask = file.mask
        elif found.codec:
            names = layout.VORBIS.get(file.channels, "").split()
        elif not mask and not names:
            names = layout.of_file(file)
        mask = mask or layout.mask_of(" ".join(names)) or layout.implied(found.kind, file.channels)
        self._order = layout.to_wav(names) if names else None
        return AudioInfo(self.name, file.samplerate, file.channels, frames, file.format, file.subtype, mask)

    def _noted(self, part: int) -> chunks.Notes:
        """Return what a part says besides its texts."""
        start, found = self._parts[part]
        size = found.end if len(self._parts) > 1 else found.size
        with Span(self._real, start, start + size) as span:
            return chunks.read(span, found.kind if found.codec in ("", "vorbis", "opus") else "")

    def _cut(self, begin: float, end: float | None) -> None:
        """Leave only a stretch, in seconds."""
        info = self.info
        last = end_of(begin, end, info.seconds)
        start, stop = round(begin * info.rate), round((last or 0) * info.rate)
        if start >= stop:
            raise AudioError(
                f"{self.name}: the stretch from {begin:g} to {'the end' if end is None else f'{end:g} s'} is "
                f"not in its {info.seconds:.2f} s; mend segments"
            )
        self.skip(start)
        self.position, self._offset, self._stretch = 0, start, True
        self.info = replace(info, frames=stop - start)

    def _other(self, error: Exception, file: str | Span, format: str | None) -> media.Decoder:
        """Return a decoder by FFmpeg for what libsndfile could not open."""
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        try:
            return media.Decoder(file, format)
        except media.NotInstalledError as missing:
            raise AudioError(
                f"{self.name}: not audio that libsndfile can read ({reason}); {missing}"
            ) from None
        except media.NotMediaError as why:
            raise AudioError(
                f"{self.name}: not audio that libsndfile or FFmpeg can read ({reason}; {why}); is it audio?"
            ) from None

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
            raise AudioError(f"{self.name}: {EMPTY}; record or export it again")

    @property
    def _exact(self) -> bool:
        """Whether the number of samples is known beforehand, and must not be exceeded."""
        found = self._parts[0][1]
        known = found.frames is not None or found.kind not in ("", "mp3", "ogg", "media")
        return len(self._parts) == 1 and known and isinstance(self._file, _Forward)

    def read(self, frames: int) -> np.ndarray:
        """Return the next samples `[C, <= frames]`, none at the end; NaN and infinities become 0."""
        if self._file is None:
            raise ValueError(f"{self.name}: is closed")
        left = self.info.frames - self.position
        if (self._exact or self._stretch) and left < 2**62:
            frames = min(frames, left)
        try:
            x = self._next(frames)
            while not x.shape[1] and frames and self._part + 1 < len(self._parts):
                self._part += 1
                self._info(self._part)
                x = self._next(frames)
        except (sf.LibsndfileError, RuntimeError) as error:
            found = self._parts[self._part][1]
            if found.shorten is None or len(self._parts) > 1 or isinstance(self._file, media.Decoder):
                raise AudioError(
                    f"{self.name}: damaged after {self.position / self.info.rate:.2f} s ({error}); copy it "
                    f"again; ffmpeg -i {self.name} out.wav saves what can be read"
                ) from None
            found.shorten()  # perhaps its last frame is cut
            found.shorten = None
            offset, behind, stretch = self._offset, self._offset + self.position, self.info
            self.info, self.position, self._offset = self._info(0), 0, 0
            self._faults.append(found.warning or "")
            self.skip(behind)
            self.position, self._offset = behind - offset, offset
            self.info = replace(stretch, frames=min(stretch.frames, self.info.frames - offset))
            return self.read(frames)
        if self._order:
            x = x[self._order]
        finite = np.isfinite(x)
        if not finite.all():
            self.cleaned += int(x.size - finite.sum())
            x = np.where(finite, x, np.float32(0))
        if self.info.subtype in FLOATS and x.size:
            self.peak = max(self.peak, float(x.max()), -float(x.min()))
        self.position += x.shape[1]
        return x

    def _next(self, frames: int) -> np.ndarray:
        """Return the next samples of the open part as float32, none at its end.

        Of ADPCM libsndfile 1.2.2 gives nothing where more is wanted than is there, and that fills its buffer.
        """
        assert self._file is not None
        if len(self._parts) > 1:
            frames = min(frames, self._rest)
        x: np.ndarray = self._file.read(frames, dtype="float32", always_2d=True).T
        self._rest -= x.shape[1]
        return x

    def skip(self, frames: int) -> None:
        """Go on `frames` samples later, by a seek where that is exact, else by decoding."""
        file, seeks = self._file, self._exact and self.info.subtype in (*BYTES, *FLOATS)
        if seeks and len(self._parts) == 1 and isinstance(file, _Forward):
            try:
                file.go(self._offset + self.position + frames)
                self.position += frames
                return
            except (sf.LibsndfileError, RuntimeError):  # FLAC that is cut: from the beginning
                self._info(0)
                frames, self.position = frames + self.position + self._offset, -self._offset
        while frames and (x := self.read(min(frames, 65536))).shape[1]:
            frames -= x.shape[1]

    def blocks(self, frames: int = 65536) -> Iterator[np.ndarray]:
        """Yield the rest as blocks `[C, <= frames]`; raise if the file held not one sample."""
        while (x := self.read(frames)).shape[1]:
            yield x
        if not self.position:
            raise AudioError(f"{self.name}: damaged, not one sample of it can be decoded; copy it again")
        if (
            not self._faults
            and (
                self._exact or (self._parts[0][1].kind in ("ogg", "mp3") and isinstance(self._file, _Forward))
            )
            and not self._stretch
            and self.position < self.info.frames < 2**62
        ):
            self._faults.append(
                f"truncated: its header promises {self.info.frames} samples, {self.position} are there"
            )

    @property
    def tags(self) -> Tags:
        """Return what the file says about its sound, for the file that it becomes."""
        file = self._file
        noted = self._noted(0)
        if self._stretch:
            noted = noted.cut(self._offset, self.info.frames)
        texts = getattr(file, "texts", {}) if not isinstance(file, _Forward) else file.copy_metadata()
        source = None
        if isinstance(file, media.Decoder):
            source = self._real if len(self._parts) == 1 else None  # the pictures of joined films are lost
            noted.others = file.others + ["pictures"] * (file.pictures and source is None)
        return Tags({k: v for k, v in texts.items() if k in TEXTS}, noted, self.info.rate, source)

    @property
    def notes(self) -> list[str]:
        """Return notes about this file for the user, complete once it was read to the end."""
        notes = [
            f"{self.name}: {fault}" + ("; what is there was used" if fault.startswith(MISSING) else "")
            for fault in [*self._faults, *getattr(self._file, "faults", [])]
        ]
        if self.cleaned:
            notes.append(f"{self.name}: {self.cleaned} samples were NaN or infinite and were set to 0")
        if self.peak > INTEGERS:
            notes.append(
                f"{self.name}: its peak is {self.peak:.0f}, where floats have a full scale of 1: "
                "perhaps integers of 16 bits; divide them by 32768"
            )
        return notes

    def close(self) -> None:
        """Close the file."""
        for file in (self._file, self._span):
            if file is not None:
                file.close()
        self._file = self._span = None

    def __exit__(self, *exc: object) -> None:
        self.close()


def verify(path: str | Path) -> AudioInfo:
    """Return the header if the samples that it promises are there; raise `AudioError` if not."""
    with Reader(path) as reader:
        info, decoded = reader.info, isinstance(reader._file, media.Decoder)
        if decoded:  # nothing but decoding says how long it is
            for _ in reader.blocks():
                pass
            info = replace(info, frames=reader.position)
        elif info.format == "FLAC":
            reader.skip(info.frames - 1)
            list(reader.blocks())
        short = [fault for fault in reader._faults if fault.startswith(MISSING)]
    if short:
        raise AudioError(f"{path}: {short[0]}; copy or unpack it again")
    return info


def info(path: str | Path) -> AudioInfo:
    """Return rate, channels, length and coding; raise `AudioError` if it is no readable audio."""
    with Reader(path) as reader:
        return reader.info


def read(path: str | Path, start: int = 0, frames: int = -1) -> tuple[np.ndarray, int]:
    """Return a file, or `frames` samples from `start`, as `[C, T]` float32, and its rate in Hz."""
    with Reader(path) as reader:
        if start:
            if not 0 <= start < reader.info.frames:
                raise AudioError(f"{path}: start {start} is outside its {reader.info.frames} samples")
            reader.skip(start)
        parts = [reader.read(0)] if frames == 0 else []
        if frames < 0:
            parts += reader.blocks(max(65536, min(reader.info.frames, 2**24)) if reader._exact else 65536)
        while frames > 0 and (x := reader.read(min(frames, 65536))).shape[1]:
            parts.append(x)
            frames -= x.shape[1]
        for note in reader.notes:
            warnings.warn(note, AudioWarning, stacklevel=2)
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts or [reader.read(0)], axis=1)
        return np.ascontiguousarray(whole), reader.info.rate
