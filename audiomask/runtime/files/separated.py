"""Take the sounds of recordings apart, or turn them within the recording.

    Separate(None, Options())(job, tick)                                # speech, music and effects
    Separate(None, Options(), Wanted(("vocals",), rest="no_vocals"))    # two files that sum to the input
    Separate(None, Options(), Wanted(gains={"vocals": -20}))            # one file

A stem has the channels, the rate and the length of the recording, whatever the model takes (see `seats`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from audiomask.audio import AudioError, AudioInfo
from audiomask.audio.formats import FLOATS
from audiomask.ports import Port
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import separators
from audiomask.runtime.files.play import Enhance, Options
from audiomask.runtime.files.sinks import Output
from audiomask.runtime.session import REMIX, Session

WINDOW, WINDOWS = 2048, 64  # samples of the spectra in which a residual is shared; of them at once
SILENT = 1e-20  # power that every stem is given, so that what no stem claims goes to all alike
RESIDUAL = "residual"


@dataclass(frozen=True)
class Wanted:
    """A choice of what is made of a recording.

    `stems`: these, or all. `rest`: name of one more sound, what they leave of the recording. `shared`: that
    is shared among all stems of the model, so that they sum to the recording. `gains`: in decibels by stem,
    of one sound in place of the stems. `exact`: files hold the sums to 1e-6.
    """

    stems: tuple[str, ...] = ()
    rest: str | None = None
    shared: bool = False
    gains: Mapping[str, float] | None = None
    exact: bool = False


class Separate(Enhance):
    """Work that takes recordings apart; `AudioError` if no model makes what is wanted."""

    def __init__(self, model: str | None, options: Options, wanted: Wanted = Wanted()):
        self.wanted = wanted
        self.whole = wanted.shared or wanted.rest is not None or wanted.gains is not None
        super().__init__(separators(model, wanted.gains or wanted.stems), options)

    def outputs_of(self, model: Any) -> list[Output]:
        if self.wanted.gains is not None:
            names = [REMIX]
        else:
            names = [*(self.wanted.stems or [port.name for port in model.outputs])]
            names += [self.wanted.rest] if self.wanted.rest else []
        return [Output(name, (Port(name),)) for name in names]

    def format_of(self, path: Path, info: AudioInfo) -> tuple[str, str]:
        format, subtype = super().format_of(path, info)
        if not self.wanted.exact or self.options.subtype is not None or subtype in (*FLOATS, "PCM_32"):
            return format, subtype
        held = [] if format == "MEDIA" else sf.available_subtypes(format)
        for fine in ("FLOAT", "PCM_24"):
            if fine in held:
                return format, fine
        raise AudioError(f"{path}: cannot hold sounds that sum to the input exactly; give --format wav")

    def _open(self, model: Any, reader: Any) -> Any:
        info = reader.info
        return self._player(model, sample_rate=info.rate, channels=info.channels, speakers=info.mask)

    def _player(self, model: Artifact, **given: Any) -> Session:
        wanted = self.wanted
        if wanted.gains is not None:
            how: dict[str, Any] = {"gains": wanted.gains}
        elif wanted.shared:
            how = {"residual": RESIDUAL}
        else:
            how = {"output": wanted.stems or None, "residual": wanted.rest}
        return Session(model, threads=self.options.threads, **how, **given)

    def _frames(self, reader: Any, *given: Any) -> Iterator[dict[str, np.ndarray]]:
        frames = super()._frames(reader, *given)
        yield from shared(frames, RESIDUAL) if self.wanted.shared else frames


def shared(frames: Iterable[dict[str, np.ndarray]], name: str) -> Iterator[dict[str, np.ndarray]]:
    """Yield sounds `[C, n]` by name, that of `name` shared among the others, somewhat later.

    In each bin of the spectra of sine windows that overlap by half, the residual goes to stems by their
    energy; the squares of such windows sum to 1, and so do the fractions.
    """
    hop, window = WINDOW // 2, np.sin(np.pi * (np.arange(WINDOW) + 0.5) / WINDOW).astype(np.float32)
    x, tail = np.zeros((0, 0, hop), np.float32), np.zeros((1, 1, hop))
    left, skip = 0, hop
    stems: list[str] = []
    for found in chain(frames, [None]):
        if found is not None:
            stems = [key for key in found if key != name]
            now = np.stack([found[key] for key in (*stems, name)])
            left += now.shape[2]
        else:  # the end, after which there is silence
            now = np.zeros((*x.shape[:2], WINDOW), np.float32)
        x = np.concatenate((x if x.size else np.zeros((*now.shape[:2], hop), np.float32), now), axis=2)
        while (count := min(WINDOWS, x.shape[2] // hop - 1)) > 0:
            views = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis=2)[:, :, : count * hop : hop]
            spectra = np.fft.rfft(window * views)
            energy = np.square(np.abs(spectra[:-1])) + SILENT
            parts = window * np.fft.irfft(energy / energy.sum(axis=0) * spectra[-1])
            begins, ends = (half.reshape(*x[:-1].shape[:2], -1) for half in np.split(parts, 2, axis=3))
            ready = x[:-1, :, : count * hop] + begins
            ready[:, :, :hop] += tail
            ready[:, :, hop:] += ends[:, :, :-hop]
            tail, x = ends[:, :, -hop:].copy(), x[:, :, count * hop :]
            ready, skip = ready[:, :, skip : skip + left], 0
            left -= ready.shape[2]
            yield {key: y.astype(np.float32) for key, y in zip(stems, ready, strict=True)}
