"""A real recording, and a key in a file, for the tests of the verbs that mark and detect."""

from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

SPEECH = Path(__file__).parents[1] / "egs/mini/denoise/corpus/demo/mixture_clean.flac"
KEY = "000102030405060708090a0b0c0d0e0f"


def speech(seconds=2.0, rate=16000, channels=1, start=0.5):
    """Return speech `[T, channels]` at `rate` Hz; channels are of different places."""
    x, own = sf.read(SPEECH, dtype="float32")
    parts = [x[int((start + n) * own) :][: int(seconds * own)] for n in range(channels)]
    return soxr.resample(np.stack(parts, 1), own, rate)


def wav(path, seconds=2.0, rate=16000, channels=1, start=0.5, **how):
    """Write such speech, and return it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    x = speech(seconds, rate, channels, start)
    sf.write(path, x, rate, **how)
    return x
