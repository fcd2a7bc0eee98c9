"""Code speech by Lyra v2 of Google (Apache-2.0), under LiteRT with its model files.

    y = Lyra(6.0, Path("lyra/model_coeffs"))(x)      # x [T] at 16 kHz

They are `soundstream_encoder.tflite`, `quantizer.tflite` and `lyragan.tflite` of lyra/model_coeffs in its
repository. A frame of 20 ms at 16 kHz is 64 features, quantized by 46 stages of 4 bits, of which 16, 30 and
46 are sent at 3.2, 6 and 9.2 kbit/s. How well it codes hangs on the level of its input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from audiomask.audio import AudioError

RATE, FRAME, STAGES, BITS = 16000, 320, 46, 4
FILES = ("soundstream_encoder", "quantizer", "lyragan")


class Lyra:
    """A coder and decoder at `kbps`, of the files in `models`, without a delay.

    Raises `AudioError` where the files or LiteRT are missing, or for a rate that is no number of stages.
    """

    def __init__(self, kbps: float, models: Path):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise AudioError("lyra: needs LiteRT; pip install ai-edge-litert") from None
        self.stages = round(kbps * FRAME / RATE * 1000 / BITS)
        if not 1 <= self.stages <= STAGES:
            raise AudioError(f"lyra: {kbps:g} kbit/s are {self.stages} stages of {BITS} bits, of {STAGES}")
        for name in FILES:
            if not (models / f"{name}.tflite").is_file():
                raise AudioError(
                    f"{models}: holds no {name}.tflite; give lyra/model_coeffs of its repository"
                )
        self._network = lambda name: Interpreter(str(models / f"{name}.tflite"), num_threads=1)
        self.start()

    def start(self) -> None:
        """Begin a signal: only new interpreters forget the one before."""
        runners = {name: self._network(name) for name in FILES}
        for each in runners.values():
            each.allocate_tensors()
        self._encoder = runners["soundstream_encoder"].get_signature_runner()
        self._quantize = runners["quantizer"].get_signature_runner("encode")
        self._dequantize = runners["quantizer"].get_signature_runner("decode")
        self._decoder = runners["lyragan"].get_signature_runner()
        self._kept = runners  # a runner does not keep its interpreter alive

    def encode(self, frame: np.ndarray) -> np.ndarray:
        """Return the indices `[46, 1, 1]`, -1 for those that are not sent, of a frame `[320]`."""
        features = self._encoder(input_audio=frame[None])["output_0"]
        index = self._quantize(input_frames=features, num_quantizers=np.int32(self.stages))["output_0"]
        return np.where(np.arange(STAGES)[:, None, None] < self.stages, index, -1).astype(np.int32)

    def decode(self, index: np.ndarray) -> np.ndarray:
        """Return a frame `[320]` of its indices."""
        features = self._dequantize(encoding_indices=index)["output_0"]
        return self._decoder(input_audio=features)["output_0"][0]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return whole frames of `x [320 n]`, of a signal that goes on until `start`."""
        given = np.clip(x, -1, 1).astype(np.float32).reshape(-1, FRAME)
        return np.concatenate([self.decode(self.encode(frame)) for frame in given])
