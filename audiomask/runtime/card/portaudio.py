"""Use sound cards by PortAudio (sounddevice), as a `Device` of `live.py`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from audiomask.runtime.card.live import DeviceError

PIP = "pip install 'audiomask[live]'"
LIBRARY = (  # the wheels for macOS and Windows bring the library; a Linux has its own
    "install PortAudio: apt-get install libportaudio2 (Debian, Ubuntu), dnf install portaudio (Fedora), "
    "brew install portaudio (macOS), pip install --force-reinstall sounddevice (Windows)"
)


def load() -> ModuleType:
    """Return the package sounddevice; `DeviceError` if it, or the library below it, is missing."""
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        if error.name != "sounddevice":
            raise
        more = ", and apt-get install libportaudio2" if sys.platform.startswith("linux") else ""
        raise DeviceError(f"live: needs sounddevice, which is not installed; {PIP}{more}") from None
    except OSError as error:
        raise DeviceError(f"live: sounddevice cannot find its library ({error}); {LIBRARY}") from None
    except Exception as error:  # its import starts PortAudio; where that fails it has no class to name here
        if type(error).__name__ != "PortAudioError":
            raise
        raise _silent(error) from None
    return sounddevice


def _silent(error: Exception) -> DeviceError:
    return DeviceError(f"live: PortAudio cannot reach the sound system ({error}); see that it runs")


def rescan(sd: ModuleType) -> None:
    """Look for devices anew, which PortAudio does only when it starts; raise `DeviceError`."""
    with contextlib.suppress(sd.PortAudioError):  # it is not running, since it did not start last time
        sd._terminate()
    try:
        sd._initialize()
    except sd.PortAudioError as error:
        raise _silent(error) from None


@dataclass(frozen=True)
class Card:
    """A device as PortAudio describes it."""

    index: int
    name: str
    api: str
    inputs: int  # most channels
    outputs: int
    rate: int  # usual, in Hz
    default: str  # "", "in", "out" or "in, out"


def cards(sd: ModuleType) -> list[Card]:
    """Return all devices; `DeviceError` if there is none, or PortAudio fails."""
    try:
        apis, devices = [api["name"] for api in sd.query_hostapis()], sd.query_devices()
    except sd.PortAudioError as error:
        raise _silent(error) from None
    found = [
        Card(
            index,
            d["name"],
            apis[d["hostapi"]],
            d["max_input_channels"],
            d["max_output_channels"],
            round(d["default_samplerate"]),
            ", ".join(w for w, i in zip(("in", "out"), sd.default.device, strict=True) if i == index),
        )
        for index, d in enumerate(devices)
    ]
    if not found:
        raise DeviceError(
            "live: this machine has no sound device (a container or a server over ssh often has none); "
            "audiomask stream takes sound from a pipe"
        )
    return found


def find(sd: ModuleType, wanted: str | None, kind: str) -> Card:
    """Return the device that `wanted` (None: default) means; `DeviceError` unless exactly one."""
    option = "-i" if kind == "input" else "-o"
    usable = [c for c in cards(sd) if (c.inputs if kind == "input" else c.outputs) > 0]
    words = f"{option} {wanted}: is no {kind} device here; there are"
    if wanted is None:
        chosen = [c for c in usable if kind.removesuffix("put") in c.default.split(", ")][:1]
        words = f"live: the system names no {kind} device; name one with {option}"
    elif wanted.isdecimal():
        chosen = [c for c in usable if c.index == int(wanted)]
    else:
        chosen = [c for c in usable if wanted.lower() in f"{c.name}, {c.api}".lower()]
        chosen = [c for c in chosen if c.name.lower() == wanted.lower()] or chosen
    if len(chosen) > 1:
        words = f"{option} {wanted}: fits several devices; give the number of one"
    if len(chosen) != 1:
        raise DeviceError(f"{words}: {_names(chosen or usable)}")
    return chosen[0]


def takes(sd: ModuleType, card: Card, kind: str, rate: int) -> bool:
    """Return whether a device works at `rate` Hz."""
    check = sd.check_input_settings if kind == "input" else sd.check_output_settings
    channels = 1 if kind == "input" else min(2, card.outputs)
    try:
        check(device=card.index, channels=channels, dtype="float32", samplerate=rate)
    except (sd.PortAudioError, ValueError):
        return False
    return True


def _names(cards: list[Card]) -> str:
    return "; ".join(f"{c.index} {c.name} ({c.api})" for c in cards) or "none"


class SoundCard:
    """A `Device`: one direction of a card, which takes or gives `block` samples at a time."""

    def __init__(self, sd: ModuleType, card: Card, kind: str, rate: int, channels: int, block: int):
        self._sd, self._card, self._kind = sd, card, kind
        self._format = {"samplerate": rate, "channels": channels, "blocksize": block, "dtype": "float32"}
        self._stream: Any = None
        self.name, self.latency = card.name, 0.0

    def start(self, callback: Callable[[np.ndarray, bool], None], ended: Callable[[], None]) -> None:
        record = self._kind == "input"
        opened = self._sd.InputStream if record else self._sd.OutputStream
        flag = "input_overflow" if record else "output_underflow"

        def called(data: np.ndarray, frames: int, time: object, status: Any) -> None:
            callback(data.T, bool(getattr(status, flag)))

        try:
            self._stream = opened(
                device=self._card.index,
                latency="low",
                callback=called,
                finished_callback=ended,
                **self._format,
            )
            self.latency = float(self._stream.latency)
            self._stream.start()
        except (self._sd.PortAudioError, ValueError) as error:
            self.stop()
            raise DeviceError(
                f"{self.name}: cannot be opened at {self._format['samplerate']} Hz with "
                f"{self._format['channels']} channel(s) ({error}); its own rate is {self._card.rate} Hz "
                "(--rate), or another program holds it"
            ) from None

    def stop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close(ignore_errors=True)
