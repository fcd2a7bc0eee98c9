"""codec2, the parametric speech codec of radio amateurs, from Debian's libcodec2 (8 kHz, LGPL-2.1)."""

from __future__ import annotations

import ctypes
import ctypes.util

import numpy as np
import soxr
from opus_peer import MissingPeer

RATE = 8000
MODES = {3.2: 0, 2.4: 1, 1.6: 2, 1.4: 3, 1.3: 4, 1.2: 5, 0.7: 8}  # kbit/s: CODEC2_MODE_* of codec2.h


class Codec2:
    """codec2 at one of `MODES`; `bytes` are those of all frames so far."""

    def __init__(self, kbps: float, library: str | None = None):
        name = library or ctypes.util.find_library("codec2")
        if name is None:
            raise MissingPeer("codec2 is not installed; apt install libcodec2-1.0 (or --codec2 FILE)")
        self.library, self.kbps, self.bytes = ctypes.CDLL(name), kbps, 0
        self.library.codec2_create.restype = ctypes.c_void_p

    def __call__(self, x: np.ndarray, rate: int) -> np.ndarray:
        """Return `x [T]` coded and decoded, `[T]`; its delay of a frame is trimmed by the best match."""
        narrow = soxr.resample(x, rate, RATE, quality="HQ")
        state = ctypes.c_void_p(self.library.codec2_create(MODES[self.kbps]))
        size = self.library.codec2_samples_per_frame(state)
        bits = self.library.codec2_bits_per_frame(state)
        data = ctypes.create_string_buffer((bits + 7) // 8)
        pad = -len(narrow) % size + 2 * size  # its look-ahead comes out later
        speech = np.round(np.pad(narrow, (0, pad)).clip(-1, 1) * 32767).astype(np.int16)
        made = np.empty_like(speech)
        for block, out in zip(speech.reshape(-1, size), made.reshape(-1, size), strict=True):
            self.library.codec2_encode(state, data, block.ctypes.data_as(ctypes.c_void_p))
            self.library.codec2_decode(state, out.ctypes.data_as(ctypes.c_void_p), data)
        self.library.codec2_destroy(state)
        self.bytes += bits * (len(speech) // size) // 8
        y = soxr.resample(made.astype(np.float32) / 32768, RATE, rate, quality="HQ")
        late = best_lag(y, x, rate // 8)
        return np.pad(y[late:], (0, max(0, len(x) - len(y) + late)))[: len(x)]


def best_lag(y: np.ndarray, x: np.ndarray, most: int) -> int:
    """Return by how many samples, 0 to `most`, the envelope of `y` lags that of `x`."""
    envelopes = [np.convolve(np.abs(each), np.ones(160) / 160, "same")[: len(x)] for each in (x, y)]
    a, b = (np.pad(each, (0, len(x) - len(each))) for each in envelopes)
    return max(range(0, most, 8), key=lambda lag: float(a[: len(a) - lag] @ b[lag:]))
