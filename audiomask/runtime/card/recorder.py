"""Record live sound: a thread of its own writes the file, so that the disk holds nobody up."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import numpy as np

from audiomask.audio import AudioError, Writer

WAIT_S = 60.0  # seconds of sound that may wait for a slow disk
SUFFIXES = (".wav", ".w64", ".rf64")  # plain samples: what is there can be read whenever the end comes


class Recorder:
    """A writer of blocks `[C, n]` to a file that appears under its name at `close`.

    Until then it is hidden, `.NAME.xxxxxxxx.part` in the same folder, and complete up to the last block on
    the disk: what a crash leaves can be read, as by `audiomask enhance`. A full disk ends the recording, not
    the sound, and what fitted is kept; so does the limit of 4 GiB of a WAV, which a .w64 does not have.
    `block` is the samples per write. Raises `AudioError` if the file cannot be begun, or has another format.
    """

    def __init__(
        self, path: str | Path, rate: int, channels: int, *, block: int = 256, overwrite: bool = False
    ):
        if Path(path).suffix.lower() not in SUFFIXES:
            raise AudioError(f"{path}: is recorded as one of {' '.join(SUFFIXES)}; convert it afterwards")
        self._writer = Writer(path, rate, channels, overwrite=overwrite)
        self.error: AudioError | None = None
        self.lost = 0  # samples that the disk was too slow for
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(max(8, round(WAIT_S * rate / block)))
        self._thread = threading.Thread(target=self._run, name=f"record {path}", daemon=True)
        self._thread.start()

    def write(self, x: np.ndarray) -> None:
        """Append a copy of `x [C, n]`, NaN and infinities as 0; return at once."""
        try:
            self._queue.put_nowait(np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0))
        except queue.Full:
            self.lost += x.shape[1]

    def _run(self) -> None:
        while (x := self._queue.get()) is not None:
            if self.error is None:
                try:
                    self._writer.write(x)
                except AudioError as error:
                    self.error = error

    def close(self) -> list[str]:
        """Name the file, if any sound came, and return notes for the user; may raise `AudioError`."""
        self._queue.put(None)
        self._thread.join()
        if not self._writer.frames:
            self._writer.abort()
            return [f"warning: {self.error or f'{self._writer.name}: there was no sound to record'}"]
        self._writer.close()
        seconds = self._writer.frames / self._writer.rate
        notes = [f"{self._writer.name}: {seconds:.1f} s", *self._writer.notes]
        if self.error is not None:
            notes.append(f"warning: {self.error}; what was recorded before is kept")
        if self.lost:
            name = self._writer.name
            notes.append(f"warning: {name}: {self.lost} samples are missing, the disk was too slow")
        return notes
