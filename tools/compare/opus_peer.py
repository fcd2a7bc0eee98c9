"""libopus, the codec with its own concealment, from wherever it is installed.

It comes from the package av (PyAV), whose wheels bundle it, or from the system (Debian: libopus0).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from pathlib import Path

import numpy as np

from audiomask.masks import packets

VOIP, LONGEST_PACKET = 2048, 4000  # opus_defines.h; bytes that suffice for any packet
BITRATE, INBAND_FEC, DTX, LOOKAHEAD = 4002, 4012, 4016, 4027  # requests
FLOAT_P = ctypes.POINTER(ctypes.c_float)


class MissingPeer(RuntimeError):
    """The library is not installed; the message says how to get it."""


def find_opus() -> ctypes.CDLL:
    """libopus, from the package av or else from the system."""
    spec = importlib.util.find_spec("av")
    bundled = Path(spec.origin).parents[1] / "av.libs" if spec and spec.origin else Path("av.libs")
    names = [*map(str, sorted(bundled.glob("libopus-*"))), ctypes.util.find_library("opus")]
    for name in filter(None, names):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.opus_get_version_string.restype = ctypes.c_char_p
        for side in ("encoder", "decoder"):
            getattr(library, f"opus_{side}_create").restype = ctypes.c_void_p
            getattr(library, f"opus_{side}_destroy").argtypes = [ctypes.c_void_p]
        library.opus_encode_float.argtypes = [
            *(ctypes.c_void_p, FLOAT_P, ctypes.c_int, ctypes.c_char_p, ctypes.c_int32)
        ]
        library.opus_decode_float.argtypes = [
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, FLOAT_P, ctypes.c_int, ctypes.c_int)
        ]
        return library
    raise MissingPeer("libopus is not installed; pip install av, or apt install libopus0")


class Opus:
    """libopus, coding and concealing: speech mode, no forward error correction, no discontinuous sending.

    Args:
        kbps: kilobits a second. packet_ms: 10, 20, 40 or 60.

    The network that libopus 1.5 and later can be built to conceal with is in neither of the libraries that
    `find_opus` knows: with the decoder's complexity at 10, the output was the same.
    """

    def __init__(self, kbps: float = 32.0, packet_ms: float = 20.0):
        self.library = find_opus()
        self.kbps, self.packet_ms = kbps, packet_ms
        self.bytes = 0  # of all packets so far
        self.name = self.library.opus_get_version_string().decode()

    def _create(self, side: str, sample_rate: int, *more: int) -> ctypes.c_void_p:
        status = ctypes.c_int()
        state = getattr(self.library, f"opus_{side}_create")(sample_rate, 1, *more, ctypes.byref(status))
        if status.value:
            raise ValueError(f"{self.name} takes 8, 12, 16, 24 and 48 kHz, not {sample_rate} Hz")
        return ctypes.c_void_p(state)

    def conceal(self, x: np.ndarray, lost: np.ndarray, sample_rate: int) -> np.ndarray:
        """`x [T]` coded, decoded without the packets that are `lost [T]`, and aligned: `[T]` float32."""
        count, size = packets.packets(len(x), sample_rate, self.packet_ms)
        gone = np.append(lost, np.zeros(count * size - len(x), bool)).reshape(count, size)[:, 0]
        if not np.array_equal(packets.per_sample(gone, len(x), size), lost):
            raise ValueError(f"the flags are not those of packets of {self.packet_ms:g} ms")
        encoder = self._create("encoder", sample_rate, VOIP)
        decoder = self._create("decoder", sample_rate)
        try:
            for request, value in ((BITRATE, round(1000 * self.kbps)), (INBAND_FEC, 0), (DTX, 0)):
                if status := self.library.opus_encoder_ctl(encoder, request, ctypes.c_int(value)):
                    raise ValueError(f"{self.name} refuses {value} for request {request} (status {status})")
            delay = ctypes.c_int()
            self.library.opus_encoder_ctl(encoder, LOOKAHEAD, ctypes.byref(delay))
            total = -(-(len(x) + delay.value) // size)  # packets, with those that flush the look-ahead
            padded = np.zeros(total * size, np.float32)
            padded[: len(x)] = x
            out, data = np.empty_like(padded), ctypes.create_string_buffer(LONGEST_PACKET)
            for n, (block, made) in enumerate(
                zip(padded.reshape(-1, size), out.reshape(-1, size), strict=True)
            ):
                length = self.library.opus_encode_float(
                    encoder, block.ctypes.data_as(FLOAT_P), size, data, LONGEST_PACKET
                )
                if length < 0:
                    raise ValueError(f"{self.name} cannot code packets of {size} samples (status {length})")
                self.bytes += length
                missing = n < count and gone[n]
                packet, length = (None, 0) if missing else (data, length)
                self.library.opus_decode_float(decoder, packet, length, made.ctypes.data_as(FLOAT_P), size, 0)
            return out[delay.value : delay.value + len(x)]
        finally:
            self.library.opus_encoder_destroy(encoder)
            self.library.opus_decoder_destroy(decoder)
