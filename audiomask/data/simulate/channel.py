"""Add wind to the signal of a microphone, and pass signals through codecs.

Waveforms are batched `[B, T]` float32 with parameters `[B]` per row, as in `degrade`, which draws them. The
codecs are those that libsndfile writes and reads back without a shift, row by row on the CPU.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

# name: (container, subtype, least and greatest compression level, None where the codec has one rate)
CODECS: dict[str, tuple[str, str, tuple[float, float] | None]] = {
    "opus": ("OGG", "OPUS", (0.7, 0.97)),  # 90 to 17 kbit/s
    "vorbis": ("OGG", "VORBIS", (0.3, 1.0)),
    "mp3": ("MP3", "MPEG_LAYER_III", (0.3, 0.95)),
    "gsm": ("WAV", "GSM610", None),
    "mulaw": ("WAV", "ULAW", None),
    "adpcm": ("WAV", "IMA_ADPCM", None),
    "g721": ("WAV", "G721_32", None),
}


def unit(x: Tensor) -> Tensor:
    """Return `x [..., T]` at an RMS of 1; silence stays silent."""
    return x / x.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-8)


def wind(white: Tensor, gusts: Tensor, corner_hz: Tensor, sample_rate: int) -> Tensor:
    """Return wind in gusts, RMS 1: noise that falls by 12 dB an octave above `corner_hz [B]`.

    `white [B, T]` is Gaussian noise of variance 1. `gusts [B, P]` are levels in dB, evenly spaced over T and
    interpolated. Most of the energy of recorded wind lies below 500 Hz (Nelke and Vary 2014, "Measurement,
    analysis and simulation of wind noise signals for mobile communication devices").
    """
    n = white.shape[1]
    f = torch.fft.rfftfreq(n, 1 / sample_rate, device=white.device)
    shape = 1 / (1 + (f / corner_hz[:, None]) ** 2) * (f >= 15)
    x = torch.fft.irfft(torch.fft.rfft(white) * shape, n)
    x = x * 10 ** (F.interpolate(gusts[:, None], n, mode="linear", align_corners=True)[:, 0] / 20)
    return unit(x)


def coded(x: np.ndarray, sample_rate: int, codec: str, effort: float) -> np.ndarray:
    """Return `x [T]` after one of `CODECS`, as long; `effort` goes from best (0) to worst (1)."""
    container, subtype, levels = CODECS[codec]
    options = {} if levels is None else {"compression_level": levels[0] + effort * (levels[1] - levels[0])}
    file = io.BytesIO()
    soundfile.write(file, np.clip(x, -1, 1), sample_rate, format=container, subtype=subtype, **options)
    file.seek(0)
    y, _ = soundfile.read(file, dtype="float32")
    return np.pad(y[: len(x)], (0, max(0, len(x) - len(y))))
