"""Lyra v2, the speech codec of Google (`audiomask.data.simulate.lyra`), as a peer in comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from opus_peer import MissingPeer

from audiomask.audio import AudioError
from audiomask.data.simulate import lyra


class Lyra:
    """Lyra v2 at `kbps`, given clips of which the power is `level` dB below full scale (None: as they are).

    `bytes` are those of all frames so far.
    """

    def __init__(self, kbps: float, models: Path | None, level: float | None = None):
        if models is None:
            raise MissingPeer("Lyra needs the folder lyra/model_coeffs of its repository: --lyra-models DIR")
        try:
            self.coder = lyra.Lyra(kbps, models)
        except AudioError as error:
            raise MissingPeer(str(error)) from None
        self.level, self.bytes = level, 0.0

    def __call__(self, x: np.ndarray, rate: int) -> np.ndarray:
        """Return `x [T]` at 16 kHz coded and decoded, `[T]`, which has no delay."""
        self.coder.start()
        gain = 1.0 if self.level is None else 10 ** (self.level / 20) / max(1e-9, np.sqrt(np.mean(x**2)))
        y = self.coder(np.pad(x * gain, (0, -len(x) % lyra.FRAME))) / gain
        self.bytes += len(y) // lyra.FRAME * self.coder.stages * lyra.BITS / 8
        return y[: len(x)]
