"""Convert bare samples, as sockets carry them: interleaved bytes to `[C, T]` and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from audiomask.audio.beginnings import is_file

HEAD = 4096  # bytes that are looked at for the header of a file

FORMATS: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}


class Pcm:
    """A converter between bytes in a `format` of FORMATS and samples of so many `channels`."""

    def __init__(self, format: str, channels: int):
        self.dtype, self.channels = FORMATS[format], channels
        self.frame = self.dtype.itemsize * channels  # bytes of one sample of every channel
        self.clipped = 0  # samples clamped at full scale (s16le only)
        self._head = b""

    def begins_file(self, data: bytes) -> bool:
        """Return whether what came so far, ending with `data`, begins like a file and is no samples."""
        if len(self._head) >= HEAD:
            return False
        self._head += data[:HEAD]
        return is_file(self._head)

    def decode(self, data: bytes | bytearray) -> np.ndarray:
        """Return whole frames as `[channels, T]` float32."""
        x = np.frombuffer(data, self.dtype).reshape(-1, self.channels).T
        return x.astype(np.float32) * np.float32(1 / 32768) if self.dtype.kind == "i" else x

    def encode(self, y: np.ndarray) -> bytes:
        """Return `[C, T]` float32, any C, as interleaved bytes."""
        if self.dtype.kind == "f":
            return y.T.astype(self.dtype, copy=False).tobytes()
        scaled = np.rint(y.T * np.float32(32768))
        fits = np.clip(scaled, -32768, 32767)
        self.clipped += int((np.abs(y) > 1).sum())
        return fits.astype(self.dtype).tobytes()
