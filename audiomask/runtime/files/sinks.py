"""Write a model's outputs to files: sound, frames of codes, lines of probabilities, text.

`outputs_of` says which: four stems are four files, a codec's codes are one. A sink is written block by block
under a hidden name. `finish` does all that can fail (`AudioError`), and `close` gives the file its name, so
that all files of a job appear or none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio import MAX_RATE, MIN_RATE, AudioError, AudioInfo, Writer, check_writable
from audiomask.audio.atomic import hidden, rename
from audiomask.audio.reader import check_readable
from audiomask.ports import Port
from audiomask.runtime.artifact import ArtifactError
from audiomask.runtime.polyphase import Polyphase

SUFFIXES = {"pcm": "", "probabilities": ".jsonl", "text": ".txt"}  # other types: .npz
FACTS = ("sample_rate", "frames", "model", "hash", "clock")  # in an .npz, beside the arrays
MAX_BYTES = 2**30  # of arrays in an .npz: a day of 8 codes 75 times a second takes half of it


@dataclass(frozen=True)
class Output:
    """A file per recording: its ports, suffix ("" for sound) and name (for `{source}`)."""

    name: str
    ports: tuple[Port, ...]
    suffix: str = ""


def outputs_of(model: Any, wanted: str | None = None) -> list[Output]:
    """Return a model's files, or the one of output `wanted`; may raise `ArtifactError`."""
    ports = [port for port in model.outputs if wanted in (None, port.name)]
    if not ports:
        has = " ".join(port.name for port in model.outputs)
        raise ArtifactError(f"{model.name}: has no output {wanted!r}; it has: {has}")
    found = [Output(p.name, (p,), SUFFIXES[p.type]) for p in ports if p.type in SUFFIXES]
    if rest := tuple(port for port in ports if port.type not in SUFFIXES):
        found.append(Output(rest[0].name if len(rest) == 1 else "frames", rest, ".npz"))
    return found


def needed(streams: Sequence[Port]) -> list[Port]:
    """Return the streams that somebody must give: all but those with a meaning when left alone."""
    return [streams[0], *(port for port in streams[1:] if port.type not in ("lost", "noise", "int"))]


class Sound(Writer):
    """A sink of sound of a port at `rate`, converted to `rate_out`; `options` are of `Writer`."""

    def __init__(
        self, path: Path, port: Port, rows: int, rate: Fraction, rate_out: int | None, **options: Any
    ):
        if rate.denominator != 1:
            raise AudioError(
                f"{path}: {port.name} has {float(rate):g} samples a second, which no file can hold"
            )
        self.port, self._rate_in, self._taken = port, int(rate), 0
        same = rate_out in (None, self._rate_in)
        self._converter = None if same else Polyphase(self._rate_in, rate_out or 0, rows)
        super().__init__(path, rate_out or self._rate_in, rows, **options)

    def write(self, frames: Mapping[str, np.ndarray]) -> None:  # type: ignore[override]
        x = frames[self.port.name]
        self._taken += x.shape[1]
        super().write(self._converter.push(x) if self._converter else x)

    def finish(self) -> None:
        if self._converter:
            # ceil(T rate): a port's length by the contract; zeros push the converter's look-ahead out.
            rest = -(-self._taken * self.rate // self._rate_in) - self.frames
            silence = np.zeros((self.channels, 2 * self._converter.half), np.float32)
            super().write(self._converter.push(silence)[:, :rest])
            self._converter = None  # `close` finishes again
        super().finish()


class Frames:
    """A sink that keeps its ports' frames until the end and writes them beside `FACTS`."""

    notes: list[str] = []

    def __init__(self, path: Path, ports: Sequence[Port], facts: Mapping[str, Any], overwrite: bool):
        check_writable(path, overwrite=overwrite)
        self._overwrite = overwrite
        self.path, self.ports, self.facts = Path(os.path.realpath(path)), tuple(ports), facts
        self._part = hidden(self.path)
        self._parts: dict[str, list[np.ndarray]] = {port.name: [] for port in ports}
        if clash := self._parts.keys() & set(FACTS):
            raise ArtifactError(f"{facts['model']}: an .npz cannot hold a port of the name {min(clash)}")

    def write(self, frames: Mapping[str, np.ndarray]) -> None:
        for name, parts in self._parts.items():
            parts.append(frames[name])

    def finish(self) -> None:
        try:
            self._save({name: np.concatenate(parts, axis=1) for name, parts in self._parts.items()})
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be written ({error.strerror}); make room") from None

    def _save(self, frames: Mapping[str, np.ndarray]) -> None:
        with self._part.open("wb") as file:
            np.savez_compressed(file, **frames, **self.facts)  # type: ignore[arg-type]

    def close(self) -> None:
        rename(self._part, self.path, overwrite=self._overwrite)

    def abort(self) -> None:
        self._part.unlink(missing_ok=True)


class Lines(Frames):
    """A sink of JSON lines, one per frame and channel: its time in seconds, its values by label."""

    def _save(self, frames: Mapping[str, np.ndarray]) -> None:
        (port,) = self.ports
        step = 1 / (float(port.rate) * self.facts["clock"])
        seconds = self.facts["frames"] / self.facts["sample_rate"]
        rows = frames[port.name]
        with self._part.open("w", encoding="utf-8") as file:
            for n, values in enumerate(rows.T.reshape(-1, len(rows) // port.channels, port.channels)):
                span = {"start": round(n * step, 4), "end": round(min((n + 1) * step, seconds), 4)}
                for channel, row in enumerate(values.tolist()):
                    where = span | ({"channel": channel} if len(values) > 1 else {})
                    found = dict(zip(port.labels, row, strict=True)) if port.labels else row
                    file.write(json.dumps(where | {port.name: found}, ensure_ascii=False) + "\n")


class Text(Frames):
    """A sink of Unicode code points: a line for each row, without its zeros."""

    def _save(self, frames: Mapping[str, np.ndarray]) -> None:
        (rows,) = frames.values()
        lines = ("".join(map(chr, row[row > 0].tolist())) + "\n" for row in rows)
        self._part.write_text("".join(lines), encoding="utf-8")


class Codes(AbstractContextManager):
    """A reader of frames that a model made, held in an `.npz`, used like an `audio.Reader`.

    Blocks are of the first of the `streams`, which the file may hold under another name if it holds one array
    only. `info` says the rate and length of the sound that they were made of, and as `channels` the rows of
    the first stream. Raises `AudioError`, which calls the file `name`, if it holds something else.
    """

    notes: list[str] = []

    def __init__(self, path: str | Path, streams: Sequence[Port], *, name: str | None = None):
        self.name, self.position = name or str(path), 0
        check_readable(str(path))
        import zipfile  # here, since start-up is faster without
        import zlib

        try:
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                    raise ValueError(f"it holds more than {MAX_BYTES >> 20} MiB")
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            rate, frames = int(arrays["sample_rate"]), int(arrays["frames"])
            for key in FACTS:
                arrays.pop(key, None)
            if len(arrays) == 1 and streams[0].name not in arrays:
                arrays = {streams[0].name: arrays.popitem()[1]}
            self.arrays = {port.name: _fitting(port, arrays) for port in streams if port.name in arrays}
            for port in needed(streams):
                if port.name not in self.arrays:
                    raise ValueError(f"it holds {' '.join(arrays) or 'nothing'}, not {port.name}")
            if not MIN_RATE <= rate <= MAX_RATE or frames < 1:
                raise ValueError(f"{frames} frames at {rate} Hz are no sound")
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise AudioError(
                f"{self.name}: is no .npz of codes ({error}); make one with: audiomask enhance -m ENCODER"
            ) from None
        rows = len(self.arrays[streams[0].name])
        self.info = AudioInfo(self.name, rate, rows, frames, "NPZ", "INT")

    def blocks(self, hops: int, per_hop: Mapping[str, int]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the streams `[rows, n]` by name, so many hops of the model at a time."""
        count = max(-(-x.shape[1] // per_hop[name]) for name, x in self.arrays.items())
        for at in range(0, count, hops):
            self.position = min(self.info.frames, self.info.frames * (at + hops) // count)
            cut = {name: slice(at * n, (at + hops) * n) for name, n in per_hop.items()}
            yield {name: x[:, cut[name]] for name, x in self.arrays.items()}

    def __exit__(self, *exc: object) -> None:
        """Do nothing: the file was closed when it had been read."""


def _fitting(port: Port, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    x = arrays[port.name]
    if x.dtype.kind not in ("iu" if port.dtype.kind == "i" else "fiu") or x.ndim != 2 or not x.size:
        raise ValueError(f"{port.name} of {x.dtype} {list(x.shape)} are no frames of {port.type}")
    if len(x) % port.channels:
        raise ValueError(f"{port.name} has {len(x)} rows, and the model takes {port.channels}")
    if port.levels and not (x.min() >= 0 and x.max() < port.levels):
        raise ValueError(
            f"{port.name} goes from {x.min()} to {x.max()}, and the model has {port.levels} levels"
        )
    if not np.isfinite(x).all():
        raise ValueError(f"{port.name} holds what is no number")
    return x.astype(port.dtype)
