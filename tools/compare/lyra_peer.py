"""Lyra v2, the speech codec of Google (Apache-2.0), under LiteRT with the model files of its repository.

The files are `soundstream_encoder.tflite`, `quantizer.tflite` and `lyragan.tflite` of lyra/model_coeffs. A
frame of 20 ms at 16 kHz is 64 features, quantized by 46 stages of 4 bits, of which 16, 30 and 46 are sent at
3.2, 6 and 9.2 kbit/s. How well it codes hangs on the level of its input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from codec2_peer import best_lag
from opus_peer import MissingPeer

RATE, FRAME, STAGES, BITS = 16000, 320, 46, 4


class Lyra:
    """Lyra v2 at `kbps`, given clips of which the power is `level` dB below full scale (None: as they are).

    `bytes` are those of all frames so far.
    """

    def __init__(self, kbps: float, models: Path | None, level: float | None = None):
        if models is None:
            raise MissingPeer("Lyra needs the folder lyra/model_coeffs of its repository: --lyra-models DIR")
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise MissingPeer("Lyra needs LiteRT: pip install ai-edge-litert") from None
        self.network = lambda name: Interpreter(str(models / f"{name}.tflite"), num_threads=1)
        self.stages, self.level, self.bytes = round(kbps * FRAME / RATE * 1000 / BITS), level, 0.0

    def start(self) -> None:
        """Begin a signal: only new interpreters forget the one before."""
        runners = {name: self.network(name) for name in ("soundstream_encoder", "quantizer", "lyragan")}
        for each in runners.values():
            each.allocate_tensors()
        self.encoder = runners["soundstream_encoder"].get_signature_runner()
        self.quantize = runners["quantizer"].get_signature_runner("encode")
        self.dequantize = runners["quantizer"].get_signature_runner("decode")
        self.decoder = runners["lyragan"].get_signature_runner()
        self.kept = runners  # a runner does not keep its interpreter alive

    def encode(self, frame: np.ndarray) -> np.ndarray:
        """Return the indices `[46, 1, 1]`, -1 for those that are not sent, of a frame `[320]`."""
        features = self.encoder(input_audio=frame[None])["output_0"]
        index = self.quantize(input_frames=features, num_quantizers=np.int32(self.stages))["output_0"]
        return np.where(np.arange(STAGES)[:, None, None] < self.stages, index, -1).astype(np.int32)

    def decode(self, index: np.ndarray) -> np.ndarray:
        """Return a frame `[320]` of its indices."""
        features = self.dequantize(encoding_indices=index)["output_0"]
        return self.decoder(input_audio=features)["output_0"][0]

    def __call__(self, x: np.ndarray, rate: int) -> np.ndarray:
        """Return `x [T]` at 16 kHz coded and decoded, `[T]`; its delay is trimmed by the best match."""
        self.start()
        gain = 1.0 if self.level is None else 10 ** (self.level / 20) / max(1e-9, np.sqrt(np.mean(x**2)))
        given = np.pad(x * gain, (0, -len(x) % FRAME + FRAME)).astype(np.float32).clip(-1, 1)
        codes = [self.encode(frame) for frame in given.reshape(-1, FRAME)]
        self.bytes += len(codes) * self.stages * BITS / 8
        y = np.concatenate([self.decode(index) for index in codes]) / gain
        late = best_lag(y, x, 2 * FRAME)
        return np.pad(y[late:], (0, max(0, len(x) - len(y) + late)))[: len(x)]
