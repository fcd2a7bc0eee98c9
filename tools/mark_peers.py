"""The watermarks that are compared, each behind one small interface: ours, and those of other packages."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from audiomask.runtime.artifact import Artifact
from audiomask.runtime.marks.carrier import BITS, Carrier
from audiomask.runtime.marks.detector import ALARM, Detector
from audiomask.runtime.marks.report import LEAST_P
from audiomask.runtime.player import Player
from audiomask.runtime.session import Session


class MissingPeer(RuntimeError):
    """The package of a watermark is not installed; the message says how to get it."""


class Refused(ValueError):
    """A clip that the watermark does not take; the message says why."""


class Marker:
    """A watermark for mono sound `[T]` float32."""

    name: str  # with the version
    bits: int  # of a message; 0 where it says only that there is a mark
    rate: int | None  # of the sound that it takes, in Hz; None: any
    threshold: float  # a score as high as that is a mark found

    def mark(self, x: np.ndarray, rate: int, message: np.ndarray) -> np.ndarray:
        """Return `x` with a message, bool `[bits]`; may raise `Refused`."""
        raise NotImplementedError

    def detect(self, x: np.ndarray, rate: int) -> tuple[float, np.ndarray | None]:
        """Return a score, higher where a mark is likelier, and the message, bool `[bits]`, if any."""
        raise NotImplementedError


def _package(distribution: str, module: str, install: str) -> tuple[Any, str]:
    """Return an imported module and the version of its distribution, or raise `MissingPeer`."""
    try:
        return importlib.import_module(module), version(distribution)
    except (ImportError, PackageNotFoundError) as error:
        raise MissingPeer(f"{distribution} does not import ({error}); pip install {install}") from error


class Hallmark(Marker):
    """Our own: its score is -log10 p, and a mark is found at p of at most 1e-6."""

    name, bits, rate = "Hallmark", BITS, None
    threshold = -math.log10(ALARM)
    KEY = bytes(range(16))

    def mark(self, x: np.ndarray, rate: int, message: np.ndarray) -> np.ndarray:
        number = int(np.packbits(message).view(">u2")[0])
        session = Session("hallmark", sample_rate=rate, controls={"carrier": Carrier(self.KEY).wave(number)})
        return np.concatenate((session.feed(x), session.flush()))

    def detect(self, x: np.ndarray, rate: int) -> tuple[float, np.ndarray | None]:
        detector = Detector(self.KEY, rate)
        detector.feed(x)
        found = detector.flush()
        bits = np.array([bit for bit, _ in found.bits], bool) if found.present else None
        return -math.log10(max(found.p, LEAST_P)), bits


class Perth(Marker):
    """Perth's implicit watermark, as Chatterbox uses it: presence alone, by networks at 32 kHz."""

    bits, rate, threshold = 0, None, 0.5  # it rounds the score, and brings sound to its own rate and back
    INSTALL = "resemble-perth librosa torchaudio 'setuptools<81'"

    def __init__(self) -> None:
        # It imports torchaudio, for what is pure Python there.
        _package("torchaudio", "audiomask.frontend.torchaudio_import", self.INSTALL)
        # The package itself hides why an import failed: then its class is None.
        inner = "perth.perth_net.perth_net_implicit.perth_watermarker"
        module, found = _package("resemble-perth", inner, self.INSTALL)
        with contextlib.redirect_stdout(sys.stderr):  # it prints which checkpoint it loads
            self.marker = module.PerthImplicitWatermarker()
        self.name = f"Perth (resemble-perth {found})"

    def mark(self, x: np.ndarray, rate: int, message: np.ndarray) -> np.ndarray:
        return self.marker.apply_watermark(x, sample_rate=rate)

    def detect(self, x: np.ndarray, rate: int) -> tuple[float, None]:
        return float(self.marker.get_watermark(x, sample_rate=rate, round=False)), None


class Aware(Marker):
    """AWARE over the whole clip: its sound is optimised until a network with random weights reads 20 bits."""

    bits, rate, threshold = 20, 16000, 0.5
    # Without its own pins: the package asks for torch 2.7.1 and numpy 1.26.4, but runs with newer ones.
    INSTALL = "librosa resampy webrtcvad-wheels 'setuptools<81'; pip install --no-deps aware"

    def __init__(self) -> None:
        models, found = _package("aware", "aware.utils.models", self.INSTALL)
        self.service, _ = _package("aware", "aware.service", self.INSTALL)
        self.embedder, self.detector = models.load("AWARE")
        self.name = f"AWARE (aware {found})"

    def mark(self, x: np.ndarray, rate: int, message: np.ndarray) -> np.ndarray:
        try:
            return self.service.embed_watermark(x, rate, message.astype(np.int32), self.embedder)
        except ValueError as error:  # its voice detector heard no speech
            raise Refused(str(error)) from error

    def detect(self, x: np.ndarray, rate: int) -> tuple[float, np.ndarray]:
        bits, confidence = self.service.detect_watermark(x, rate, self.detector)
        return float(confidence), bits.astype(bool)


class Exported(Marker):
    """A network for marks of which both parts were exported: STEM_mark.onnx and STEM_detect.onnx.

    The detector puts out `present` and `message` for each sample, as AudioSeal's. The score is the fraction
    of samples that are held for marked.
    """

    threshold = 0.5

    def __init__(self, stem: str) -> None:
        self.marker, self.detector = (Artifact.load(f"{stem}_{part}.onnx") for part in ("mark", "detect"))
        (self.message,) = (port for port in self.marker.controls.values() if port.type == "bits")
        self.name, self.bits, self.rate = self.marker.name, self.message.channels, self.marker.sample_rate

    @staticmethod
    def played(part: Artifact, x: np.ndarray, **controls: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs of a part for x `[T]`."""
        player = Player(part, controls=controls)
        ended = [player.feed(x[None]), player.flush()]
        return {name: np.concatenate([made[name] for made in ended], 1) for name in ended[0]}

    def mark(self, x: np.ndarray, rate: int, message: np.ndarray) -> np.ndarray:
        return self.played(self.marker, x, **{self.message.name: message.astype(int)})["marked"][0]

    def detect(self, x: np.ndarray, rate: int) -> tuple[float, np.ndarray]:
        made = self.played(self.detector, x)
        return float((made["present"] > 0.5).mean()), made["message"].mean(1) > 0


MARKERS: dict[str, Callable[[], Marker]] = {"hallmark": Hallmark, "perth": Perth, "aware": Aware}


def marker_of(name: str) -> Marker:
    """Return one of `MARKERS` by its name, or that of a stem; may raise `MissingPeer` and `AudioError`."""
    return MARKERS[name]() if name in MARKERS else Exported(name)
