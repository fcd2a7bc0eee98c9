"""Write audio files, in blocks or whole, which appear under their name when they are whole.

No level changes in silence: the clip policy treats samples beyond full scale, and `Writer.notes` says what
was done.
"""

from __future__ import annotations

import os
import shutil
import warnings
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import soundfile as sf

from audiomask.audio import layout, media
from audiomask.audio.atomic import check_writable, hidden, remedy, rename
from audiomask.audio.formats import (
    BYTES,
    CLIP_POLICIES,
    FLOATS,
    MAX_RIFF_BYTES,
    AudioError,
    AudioWarning,
    choose_format,
)
from audiomask.audio.tags import NAMING, Tags

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


class Writer(AbstractContextManager["Writer"]):
    """A writer of blocks `[C, T]` whose file appears under its name only when it is whole.

    Leaving the context by an exception (an interrupt too) removes every trace.

    `clip` says what happens beyond full scale: `clamp`, the default, cuts; `rescale` turns the whole file
    down until its peak fits (spooled as float first, so memory stays constant); `none` leaves it to the
    format. Floats need no policy and get none unless asked. `frames` is the expected length: a WAV that
    would not fit 4 GiB becomes RF64, which has the same suffix. `mask` are the speakers of the channels,
    which come in the order of WAV (`audio.layout`), and `tags` what else the file shall say; `notes` names
    what the format cannot hold.
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
        mask: int = 0,
        tags: Tags | None = None,
    ):
        if format is None or subtype is None:
            format, subtype = choose_format(path, subtype=subtype)
        if clip is not None and clip not in CLIP_POLICIES:
            raise AudioError(f"{path}: unknown clip policy {clip!r}; use one of {' '.join(CLIP_POLICIES)}")
        if subtype == "OPUS" and rate not in OPUS_RATES:
            held = ", ".join(map(str, OPUS_RATES))
            raise AudioError(f"{path}: Opus holds {held} Hz, not {rate}; add --rate 48000")
        self.name = str(path)
        self.path = Path(os.path.realpath(path))  # through links: the rename must not replace the link
        check_writable(self.path, overwrite=overwrite)
        self._overwrite = overwrite
        self.rate, self.channels, self.subtype = rate, channels, subtype
        limit = MAX_RIFF_BYTES // max(1, BYTES.get(subtype, 8) * channels)
        too_long = frames is not None and limit < frames < 2**62
        self.mask = mask if len(layout.names_of(mask)) == channels else 0
        self.tags = tags or Tags()
        if format == "WAV" and self.mask not in (0, *layout.PLAIN):
            format = "WAVEX"
        self.format = "RF64" if format in ("WAV", "WAVEX") and too_long else format
        self._limit = limit if self.format in ("WAV", "WAVEX", "AIFF") else None
        self.clip = clip or ("none" if subtype in FLOATS and format != "MEDIA" else "clamp")
        self.frames = self.clipped = 0
        self.peak = 0.0
        self.gain = 1.0
        self._file: sf.SoundFile | None = None
        self._temporary: list[Path] = []
        try:
            if self.format == "MEDIA":
                media.library()
            # a gain is known at the end only
            kind = ("RF64", "FLOAT") if self.clip == "rescale" else (self.format, subtype)
            self._file, self._part = self._create(*kind)
        except media.NotInstalledError as missing:
            raise AudioError(f"{self.name}: {missing}") from None
        except BaseException:
            self.abort()
            raise

    def _create(self, format: str, subtype: str) -> tuple[sf.SoundFile, Path]:
        format = "RF64" if format == "MEDIA" else format  # encoded once it is whole
        part = hidden(self.path)
        self._temporary.append(part)
        try:
            # libsndfile reports a missing right or a full disk as "System error"; opening it here says which.
            part.touch(exist_ok=False)
            file = sf.SoundFile(str(part), "w", self.rate, self.channels, subtype, format=format)
            return self._described(file, format), part
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be written ({error.strerror}); {remedy(error)}") from None
        except (sf.LibsndfileError, ValueError, TypeError, RuntimeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise AudioError(
                f"{self.name}: {format} {subtype} with {self.channels} channels at {self.rate} Hz cannot be "
                f"written ({reason}); choose another format, as in: -o out.wav"
            ) from None

    def _described(self, file: sf.SoundFile, format: str) -> sf.SoundFile:
        """Say in a new file's header what its channels and its sound are."""
        self._order, kept = None, True
        self.tags.write(file)
        if self.subtype in ("VORBIS", "OPUS"):
            names = layout.VORBIS.get(self.channels, "").split()
            order = layout.to_wav(names)
            self._order = [order.index(place) for place in range(len(names))] if names else None
            kept = not self.mask or layout.back(self.mask) == layout.mask_of(" ".join(names))
        elif format in ("FLAC", "AIFF", "CAF", "W64"):
            # `finish` names them; libsndfile takes every extended coding of W64 for PCM.
            kept = {"FLAC": self.channels <= 8, "W64": self.subtype.startswith("PCM")}.get(format, True)
            kept = kept or self.mask in (0, *layout.PLAIN)
        else:
            kept = self.mask in (0, *layout.PLAIN) or layout.set_in(file, self.mask)
        self._named = kept
        self._lost = [] if kept else [f"speakers {' '.join(layout.names_of(self.mask))}"]
        return file

    def write(self, x: np.ndarray) -> None:
        """Append `x [C, T]` (float, full scale 1)."""
        if self._file is None:
            raise ValueError(f"{self.name}: is closed")
        if x.size == 0:
            return
        x = x if self._order is None else x[self._order]
        peak = float(np.abs(x).max())
        self.peak = max(self.peak, peak)
        if self._limit is not None and self.frames + x.shape[1] > self._limit:
            raise AudioError(
                f"{self.name}: more than 4 GiB, which {self.format} cannot hold; write .rf64 or .w64"
            )
        if peak > 1 and self.clip != "rescale":
            self.clipped += int((np.abs(x) > 1).sum())
            x = np.clip(x, -1, 1) if self.clip == "clamp" else x
        self._put(self._file, x)
        self.frames += x.shape[1]  # counted once it is there, so that a file can be closed after a full disk

    def _put(self, file: sf.SoundFile, x: np.ndarray) -> None:
        if bits := {"PCM_16": 16, "PCM_24": 24}.get(file.subtype):
            # libsndfile cuts the bits below the last one off, half a step too low on average; this rounds.
            full = 2.0 ** (bits - 1)
            x = np.clip(np.rint(x * full), -full, full - 1).astype(np.int32) << (32 - bits)
        elif file.subtype in ("ULAW", "ALAW"):  # beyond full scale, libsndfile reads beyond its table
            x = np.clip(x, -1, 1)
        try:
            file.write(np.ascontiguousarray(x.T))
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
            if self.format == "MEDIA":
                self._encode()
            mask = 0 if self.mask in layout.PLAIN or not self._named else self.mask
            if mask and self.format in NAMING:
                NAMING[self.format](self._part, mask)
            if self.format != "MEDIA":
                self.tags.append(self._part, self.format, self.rate, mask)
                self._lost += self.tags.left_out(self._part, self.format)
            # A full disk can show first when the last buffer is flushed, which libsndfile does not report.
            written = self._part.stat().st_size
            lossless = self.format != "MEDIA" and (self.subtype in BYTES or self.subtype == "DOUBLE")
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
                rename(self._part, self.path, overwrite=self._overwrite)
            except OSError as error:
                raise self._full(str(error)) from None
            finally:
                self._remove()

    def _rescale(self) -> None:
        # One 16-bit step below full scale, so that rounding does not clip again.
        self.gain = 1.0 if self.peak <= 1 else (1 - 2**-15) / self.peak
        spooled = self._part
        output, self._part = self._create(self.format, self.subtype)
        with output, sf.SoundFile(str(spooled)) as spool:
            while (x := spool.read(65536, dtype="float32", always_2d=True)).shape[0]:
                self._put(output, x.T * np.float32(self.gain))

    def _encode(self) -> None:
        sound, self._part = self._part, hidden(self.path)
        self._temporary.append(self._part)
        suffix, tags = self.path.suffix.lower(), self.tags
        try:
            self._lost = tags.lost("MEDIA") + media.write_sound(
                sound, self._part, suffix, self.rate, self.mask, tags.texts, tags.source
            )
        except media.NotMediaError as why:
            held = f"{self.channels} channels at {self.rate} Hz cannot be encoded ({why})"
            raise AudioError(f"{self.name}: {held}; choose another format, as in: -o out.wav") from None

    def abort(self) -> None:
        """Forget the file: close and remove whatever was written."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(sf.LibsndfileError, OSError):  # a full disk again; the file goes away now
                file.close()
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
        """Return notes on what happened to the level, and on what the format cannot hold."""
        lost = ", ".join(self._lost)
        what = self.path.suffix if self.format == "MEDIA" else self.format
        return [f"{self.name}: {what} cannot hold {lost}; left out"] * bool(lost) + self._level()

    def _level(self) -> list[str]:
        if self.gain < 1:
            down = -20 * np.log10(self.gain)
            return [f"{self.name}: peak {self.peak:.3f}, so turned down by {down:.2f} dB"]
        if self.clipped and (self.clip == "clamp" or self.subtype not in FLOATS):  # floats lose nothing
            better = "rescale keeps its shape" if self.clip == "clamp" else "clamp would cut them"
            beyond = f"{self.clipped} samples beyond full scale (peak {self.peak:.3f})"
            return [f"{self.name}: {beyond}; --clip {better}"]
        return []

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write(path: str | Path, x: np.ndarray, rate: int, **options) -> None:
    """Write `x [C, T]` or `[T]` with the options of `Writer`; warn of changes of the level."""
    x = np.atleast_2d(np.asarray(x, dtype=np.float32))
    with Writer(path, rate, x.shape[0], frames=x.shape[1], **options) as writer:
        writer.write(x)
    for note in writer.notes:
        warnings.warn(note, AudioWarning, stacklevel=2)
