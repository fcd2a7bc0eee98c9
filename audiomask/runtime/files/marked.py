"""Mark recordings, and look for marks in recordings and streams.

    Mark(None, read_key("me.key"), 0xBEEF, Options())(job, tick)        # a.wav -> b.wav
    Detect(read_key("me.key"))(job, tick).result                        # [Heard(...)]

A mark is that of `models.hallmark`, found again by `marks.detector`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio import AudioError
from audiomask.audio.sources import Source
from audiomask.runtime.artifact import ArtifactError
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.files.batch import Job, Report, Tick, Work, reported
from audiomask.runtime.files.play import Enhance, Options
from audiomask.runtime.marks.carrier import BITS, RATE, Carrier
from audiomask.runtime.marks.detector import LEAST, Detection, Detector
from audiomask.runtime.marks.report import document

BLOCK = 65536  # samples that are read at once
DIGITS = BITS // 4
LEAST_S = LEAST / RATE
SHOWN = 6  # segments in a line for people


def parse_message(text: str) -> int:
    """Return the message of 1 to 4 hex digits, which may begin with 0x; may raise ValueError."""
    if not re.fullmatch(rf"(0[xX])?[0-9a-fA-F]{{1,{DIGITS}}}", text):
        raise ValueError(f"{text!r} is no message: 1 to {DIGITS} hex digits, as in beef")
    return int(text, 16)


def read_messages(path: str | Path) -> dict[str, int]:
    """Return the messages of a table of lines `NAME HEX`; may raise `AudioError`."""
    try:
        lines = Path(path).read_text("utf-8-sig", "surrogateescape").splitlines()
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}); check the name") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *message = line.strip().rsplit(maxsplit=1)
        try:
            if not message:
                raise ValueError(f"{name!r} is not 'NAME HEX'")
            if name in found:
                raise ValueError(f"{name} appears twice")
            found[name] = parse_message(message[0])
        except ValueError as error:
            raise AudioError(f"{path}:{number}: {error}; mend the line") from None
    return found


class Mark(Enhance):
    """Work that marks recordings by a key: with one message, or each with its own of a table.

    In the table a recording is called by its key of Kaldi's, or by its file: the place below the folder that
    was searched, the name, or the name without the suffix, whichever is there.
    """

    def __init__(
        self,
        model: str | None,
        key: bytes,
        messages: int | Mapping[str, int],
        options: Options,
        table: str = "",
    ):
        self.carrier, self.messages, self.table = Carrier(key), messages, table
        self.silent = True  # of one recording, see `do`
        super().__init__(resolve(model, task="mark"), options)
        for artifact in self.family:
            port = artifact.controls.get("carrier")
            if port is None or port.channels != len(self.carrier.wave(0)):
                raise ArtifactError(f"{artifact.name}: takes no carrier of this kind of mark; leave out -m")

    def message_of(self, source: Source) -> int:
        """Return the message of a recording; `AudioError` if the table has none."""
        if isinstance(self.messages, int):
            return self.messages
        path = Path(source.relative)
        names = [source.key] if source.key else [source.relative, path.name, path.stem]
        for name in names:
            if name in self.messages:
                return self.messages[name]
        raise AudioError(f"{source}: {self.table} has no message for it; add a line: {names[-1]} HEX")

    def controls_of(self, message: int) -> dict[str, Any]:
        """Return the values of the model's controls for a message."""
        return {**self.options.controls, "carrier": self.carrier.wave(message)}

    def do(self, job: Job, reader: Any, tick: Tick) -> Report:
        one = copy(self)  # since other threads do other jobs
        one.options = replace(self.options, controls=self.controls_of(self.message_of(job.source)))
        report = super(Mark, one).do(job, reader, tick)
        report.notes += unmarkable(job.source, report.seconds, one.silent)
        return report

    def _frames(self, *given: Any) -> Iterator[dict[str, np.ndarray]]:
        for frames in super()._frames(*given):
            self.silent = self.silent and not any(y.any() for y in frames.values())
            yield frames


def unmarkable(source: Source | str, seconds: float, silent: bool) -> list[str]:
    """Return a note on sound in which no mark can be found, even if somebody put one there."""
    if silent:
        return [f"{source}: is silent, and there is no mark in silence"]
    if seconds < LEAST_S:
        return [f"{source}: is {seconds:.2f} s long, and no mark can be found in less than {LEAST_S:g} s"]
    return []


@dataclass(frozen=True)
class Heard:
    """All that was found in a recording, or between `start` and `end` in seconds.

    `silent`: not one sample was other than 0. `cleaned`: see `Detector`.
    """

    found: Detection
    silent: bool
    start: float | None = None
    end: float | None = None
    cleaned: int = 0

    def entry(self, source: str) -> dict[str, Any]:
        """Return the object of --json."""
        start = self.start or 0.0
        stretch = {} if self.end is None else {"from": round(start, 3), "to": round(self.end, 3)}
        return {"file": source, **stretch, **document(self.found, start)}

    def line(self, source: str) -> str:
        """Return a line for people."""
        facts = self.entry(source)
        name = source if self.end is None else f"{source}, {facts['from']:.1f}-{facts['to']:.1f} s"
        if not facts["present"]:
            return f"{name}: no mark (p = {facts['p']:.1g})"
        words = [f"message {facts['message']}", f"p = {facts['p']:.1g}"]
        if spans := [f"{start:.1f}-{end:.1f}" for start, end in facts["segments"]]:
            more = f" and {len(spans) - SHOWN} more" if len(spans) > SHOWN else ""
            words.append(f"{', '.join(spans[:SHOWN])}{more} s")
        if facts["speed"] is not None:
            words.append(f"speed {facts['speed']:.4g}")
        if others := facts["others"]:
            words.append(f"other messages {' '.join(others)}")
        return f"{name}: marked, {', '.join(words)}"


def listen(
    blocks: Iterable[np.ndarray], key: bytes, rate: int, channels: int, every: float | None = None
) -> Iterator[Heard]:
    """Yield what is found in blocks `[C, T]`, at their end.

    With `every`, each stretch of so many seconds is also looked at by itself, as soon as it is over.
    """
    whole, part = (Detector(key, rate, channels) for _ in range(2))
    size = max(1, round(every * rate)) if every else 0
    start = taken = 0
    loud = loud_part = False

    def stretch() -> Heard:
        return Heard(part.flush(), not loud_part, start / rate, taken / rate)

    for x in blocks:
        whole.feed(x)
        loud = loud or bool(x.any())
        while size and x.shape[1]:
            now, x = np.split(x, [start + size - taken], axis=1)
            part.feed(now)
            taken += now.shape[1]
            loud_part = loud_part or bool(now.any())
            if taken == start + size:
                yield stretch()
                start, loud_part = taken, False
    if taken > start:
        yield stretch()
    yield Heard(whole.flush(), not loud, cleaned=whole.cleaned)


class Detect(Work):
    """Work that looks for the marks of a key; the `result` of a report is a list of `Heard`."""

    def __init__(self, key: bytes, every: float | None = None):
        self.key, self.every = key, every

    def model_of(self, reader: Any) -> str:
        return "hallmark"

    def do(self, job: Job, reader: Any, tick: Tick) -> Report:
        info = reader.info

        def blocks() -> Iterator[np.ndarray]:
            for x in reader.blocks(BLOCK):
                yield x
                tick(reader.position / info.rate, info.seconds)

        heard = list(listen(blocks(), self.key, info.rate, info.channels, self.every))
        report = reported(job, reader, self.model_of(reader), result=heard)
        report.notes += unmarkable(job.source, report.seconds, heard[-1].silent)
        return report
