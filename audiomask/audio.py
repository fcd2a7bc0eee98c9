"""Read, write and find audio files, whole or in blocks; signals are `[C, T]` float32.

Whatever is wrong with a file ends in one `AudioError` that names the file, the value and the remedy. A file
under its final name is always whole: samples go to a hidden temporary name in the same folder, which is
renamed at `Writer.close` and removed on any failure or interrupt. No level changes in silence: the clip
policy treats samples beyond full scale, and `Writer.notes` says what was done.
"""

from __future__ import annotations

import glob as globbing
import os
import shutil
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

MIN_RATE, MAX_RATE = 4000, 768_000  # telephone band with margin; twice the fastest converter on the market
MAX_CHANNELS = 128  # tenth-order ambisonics has 121; libsndfile itself allows 1024
MAX_RIFF_BYTES = 2**32 - 2**20  # a WAV's 32-bit sizes, less room for its headers
CLIP_POLICIES = ("rescale", "clamp", "none")

# Formats by suffix, and the subtypes that suffixes imply.
FORMATS = {
    f".{name.lower()}": name for name in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64")
}
FORMATS |= {".oga": "OGG", ".opus": "OGG", ".aif": "AIFF", ".snd": "AU", ".sph": "NIST"}
IMPLIED_SUBTYPE = {".ogg": "VORBIS", ".oga": "VORBIS", ".opus": "OPUS"}
_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}
_FLOATS = ("FLOAT", "DOUBLE")


class AudioError(Exception):
    """An error for a file or request that cannot be served; its text is the user's message."""


class AudioWarning(UserWarning):
    """A warning that something about a file was mended."""


@dataclass(frozen=True)
class AudioInfo:
    """A file's header, which only promises its `frames`: damaged files hold fewer."""

    path: str
    rate: int
    channels: int
    frames: int
    format: str
    subtype: str

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


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


def choose_format(
    path: str | Path, *, subtype: str | None = None, like: AudioInfo | None = None
) -> tuple[str, str]:
    """Return format and subtype, in libsndfile's names, for an output file.

    The suffix gives the format; the coding is that of the input `like` where both can hold it. Raises
    `AudioError` for an unknown suffix or a subtype that the format cannot hold.
    """
    suffix = Path(path).suffix.lower()
    format = FORMATS.get(suffix)
    if format is None:
        raise AudioError(f"{path}: unknown suffix '{suffix}'; use one of {' '.join(sorted(FORMATS))}")
    if like is not None and format == "WAV" and like.format in ("WAVEX", "RF64"):
        format = like.format  # the same container with room for more channels or bytes
    if subtype is not None:
        subtype = subtype.upper()
        if subtype not in sf.available_subtypes(format):
            held = " ".join(sf.available_subtypes(format))
            raise AudioError(f"{path}: {format} cannot hold subtype {subtype}; it can hold: {held}")
        return format, subtype
    if suffix in IMPLIED_SUBTYPE:
        implied = IMPLIED_SUBTYPE[suffix]
        same = like is not None and like.format == "OGG" and suffix != ".opus"
        return format, like.subtype if same and like is not None else implied
    plain = like is not None and (like.format == format or like.subtype in (*_BYTES, *_FLOATS))
    if like is not None and plain and sf.check_format(format, like.subtype):
        return format, like.subtype
    if like is not None and like.subtype in (*_FLOATS, "PCM_32") and sf.check_format(format, "PCM_24"):
        return format, "PCM_24"  # FLAC holds no floats; 24 bits are what float32's mantissa holds
    return format, sf.default_subtype(format)


class Writer(AbstractContextManager["Writer"]):
    """A writer of blocks `[C, T]` whose file appears under its name only when it is whole.

    Leaving the context by an exception (an interrupt too) removes every trace.

    `clip` says what happens beyond full scale: `clamp`, the default, cuts; `rescale` turns the whole file
    down until its peak fits (spooled as float first, so memory stays constant); `none` leaves it to the
    format. Floats need no policy and get none unless asked. `frames` is the expected length: a WAV that
    would not fit 4 GiB becomes RF64, which has the same suffix.
    """

    def __init__(
        self,
        path: str | Path,
        rate: int,
        channels: int,
        *,
        format: str | None = None,
        subtype: str | None = None,
        clip: str | None = None,
        overwrite: bool = False,
        frames: int | None = None,
    ):
        if format is None or subtype is None:
            format, subtype = choose_format(path, subtype=subtype)
        if clip is not None and clip not in CLIP_POLICIES:
            raise AudioError(f"{path}: unknown clip policy {clip!r}; use one of {' '.join(CLIP_POLICIES)}")
        self.name = str(path)
        self.path = Path(os.path.realpath(path))  # through links: the rename must not replace the link
        check_writable(self.path, overwrite=overwrite)
        self.rate, self.channels, self.subtype = rate, channels, subtype
        limit = MAX_RIFF_BYTES // max(1, _BYTES.get(subtype, 8) * channels)
        too_long = frames is not None and limit < frames < 2**62
        self.format = "RF64" if format in ("WAV", "WAVEX") and too_long else format
        self._limit = limit if self.format in ("WAV", "WAVEX", "AIFF") else None
        self.clip = clip or ("none" if subtype in _FLOATS else "clamp")
        self.frames = self.clipped = 0
        self.peak = 0.0
        self.gain = 1.0
        self._file: sf.SoundFile | None = None
        self._temporary: list[Path] = []
        try:
            if self.clip == "rescale":
                self._file, self._spool = self._create("RF64", "FLOAT")
            else:
                self._file, self._part = self._create(self.format, subtype)
        except BaseException:
            self.abort()
            raise

    def _create(self, format: str, subtype: str) -> tuple[sf.SoundFile, Path]:
        part = hidden(self.path)
        self._temporary.append(part)
        try:
            # libsndfile reports a missing right or a full disk as "System error"; opening it here says which.
            part.touch(exist_ok=False)
            return sf.SoundFile(str(part), "w", self.rate, self.channels, subtype, format=format), part
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be written ({error.strerror}); {_remedy(error)}") from None
        except (sf.LibsndfileError, ValueError, TypeError, RuntimeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise AudioError(
                f"{self.name}: {format} {subtype} with {self.channels} channels at {self.rate} Hz cannot be "
                f"written ({reason}); choose another format, as in: -o out.wav"
            ) from None

    def write(self, x: np.ndarray) -> None:
        """Append `x [C, T]` (float, full scale 1)."""
        if self._file is None:
            raise ValueError(f"{self.name}: is closed")
        if x.size == 0:
            return
        peak = float(np.abs(x).max())
        self.peak = max(self.peak, peak)
        if self.clip == "rescale":
            self._put(self._file, x, "FLOAT")
            self.frames += x.shape[1]
            return
        if self._limit is not None and self.frames + x.shape[1] > self._limit:
            raise AudioError(
                f"{self.name}: more than 4 GiB, which {self.format} cannot hold; write .rf64 or .w64"
            )
        if peak > 1:
            self.clipped += int((np.abs(x) > 1).sum())
            x = np.clip(x, -1, 1) if self.clip == "clamp" else x
        self._put(self._file, x, self.subtype)
        self.frames += x.shape[1]  # counted once it is there, so that a file can be closed after a full disk

    def _put(self, file: sf.SoundFile, x: np.ndarray, subtype: str) -> None:
        # libsndfile cuts the bits below the last one off, half a step too low on average; this rounds.
        if subtype == "PCM_16":
            data = np.clip(np.rint(x * 32768.0), -32768, 32767).astype(np.int16)
        elif subtype == "PCM_24":
            data = np.clip(np.rint(x * 8388608.0), -8388608, 8388607).astype(np.int32) << 8
        else:
            data = x
        try:
            file.write(np.ascontiguousarray(data.T))
        except (sf.LibsndfileError, AssertionError, RuntimeError, OSError) as error:
            raise self._full(str(error)) from None

    def _full(self, detail: str) -> AudioError:
        try:
            left = f"{shutil.disk_usage(self.path.parent).free / 2**20:.0f} MiB are free on the disk"
        except OSError as error:  # a disk was pulled out
            left = f"its folder cannot be reached ({error.strerror})"
        detail = f" ({detail})" if detail else ""
        return AudioError(
            f"{self.name}: writing failed after {self.frames / self.rate:.1f} s{detail}, {left}; make room, "
            "or choose another folder with -o"
        )

    def finish(self) -> None:
        """Write all that is missing, still under the hidden name; after a failure nothing is left."""
        if self._file is None:
            return
        try:
            self._file.close()
            self._file = None
            if self.clip == "rescale":
                self._rescale()
            # A full disk can show first when the last buffer is flushed, which libsndfile does not report.
            written = self._part.stat().st_size
            lossless = self.subtype in _BYTES or self.subtype == "DOUBLE"
            if written == 0 or (lossless and self.frames and sf.info(str(self._part)).frames < self.frames):
                raise self._full("the end of it is missing")
        except (sf.LibsndfileError, OSError) as error:
            self.abort()
            raise self._full(str(error)) from None
        except BaseException:
            self.abort()
            raise

    def close(self) -> None:
        """Finish the file and give it its name; a failure leaves nothing, and an old file stays."""
        self.finish()
        if self._temporary:
            try:
                self._part.replace(self.path)
            except OSError as error:
                raise self._full(str(error)) from None
            finally:
                self._remove()

    def _rescale(self) -> None:
        # One 16-bit step below full scale, so that rounding does not clip again.
        self.gain = 1.0 if self.peak <= 1 else (1 - 2**-15) / self.peak
        output, self._part = self._create(self.format, self.subtype)
        with output, sf.SoundFile(str(self._spool)) as spool:
            while (x := spool.read(65536, dtype="float32", always_2d=True)).shape[0]:
                self._put(output, x.T * np.float32(self.gain), self.subtype)

    def abort(self) -> None:
        """Forget the file: close and remove whatever was written."""
        if self._file is not None:
            try:
                self._file.close()
            except (sf.LibsndfileError, OSError):
                pass  # a full disk again; the file goes away now
            finally:
                self._file = None
        self._remove()

    def _remove(self) -> None:
        for part in self._temporary:
            part.unlink(missing_ok=True)
        self._temporary = []

    def __del__(self) -> None:
        # An interrupt can strike between __init__ and __enter__.
        if getattr(self, "_temporary", None):
            self.abort()

    @property
    def notes(self) -> list[str]:
        """Return notes for the user on what happened to the level."""
        if self.clip == "rescale" and self.gain < 1:
            return [
                f"{self.name}: peak {self.peak:.3f}, so turned down by {-20 * np.log10(self.gain):.2f} dB"
            ]
        if self.clipped and (self.clip == "clamp" or self.subtype not in _FLOATS):  # floats lose nothing
            remedy = (
                "--clip rescale keeps its shape" if self.clip == "clamp" else "--clip clamp would cut them"
            )
            return [f"{self.name}: {self.clipped} samples beyond full scale (peak {self.peak:.3f}); {remedy}"]
        return []

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def hidden(path: Path) -> Path:
    """Return a new name beside `path`, for a file that becomes `path` once it is whole."""
    return path.with_name(f".{path.name[:100]}.{os.urandom(4).hex()}.part")


@contextmanager
def replacing(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Give a hidden path beside `path` to write to, and rename it to `path` at the end.

        with replacing("scores.json") as part:
            part.write_text(text)

    An exception removes the hidden file, and an old file stays as it was. Raises `AudioError` for a path
    that cannot be written, or that exists without `overwrite`.
    """
    path = Path(os.path.realpath(path))  # through links: the rename must not replace the link
    check_writable(path, overwrite=overwrite)
    part = hidden(path)
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename not in (None, str(part)):
            raise  # something else that the caller did meanwhile has failed
        raise AudioError(f"{path}: cannot be written ({error.strerror}); {_remedy(error)}") from None
    finally:
        part.unlink(missing_ok=True)


def remove_parts(path: str | Path) -> None:
    """Remove what `replacing` or a `Writer` left beside `path` when its process was killed.

    It must not be called while another process may still be writing there.
    """
    path = Path(os.path.realpath(path))
    if len(path.name) <= 100:  # longer names are cut, and may be somebody else's
        for part in path.parent.glob(f".{globbing.escape(path.name)}.{'[0-9a-f]' * 8}.part"):
            part.unlink(missing_ok=True)


def _remedy(error: OSError) -> str:
    return (
        "check the rights of the folder" if isinstance(error, PermissionError) else "choose another with -o"
    )


def check_writable(path: str | Path, *, overwrite: bool) -> None:
    """Raise `AudioError` unless `path` may become an output.

    Its folder must exist, and it must be new, or a regular file with `overwrite` set.
    """
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise AudioError(f"{path}: cannot be written ({error.strerror}); {_remedy(error)}") from None
    if status is not None:
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"{path}: is a folder, and a file is wanted; name a file in it")
        if not stat.S_ISREG(status.st_mode):  # a rename would replace the device itself
            raise AudioError(f"{path}: is a device or a pipe; give '-' to write to standard output")
        if not overwrite:
            raise AudioError(f"{path}: exists already; give -f to overwrite it, or another name with -o")
    folder = path.parent
    if not folder.is_dir():
        raise AudioError(f"{path}: its folder does not exist; mkdir -p {folder}")


def write(path: str | Path, x: np.ndarray, rate: int, **options) -> None:
    """Write `x [C, T]` or `[T]` with the options of `Writer`; warn of changes of the level."""
    x = np.atleast_2d(np.asarray(x, dtype=np.float32))
    with Writer(path, rate, x.shape[0], frames=x.shape[1], **options) as writer:
        writer.write(x)
    for note in writer.notes:
        warnings.warn(note, AudioWarning, stacklevel=2)
