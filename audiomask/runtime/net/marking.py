"""Mark sound, or detect marks in it, for a socket whose hello says `mark`.

A key is a secret: no text that goes to a client, a log or the metrics repeats it, nor any value that was
given in its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from audiomask.runtime.artifact import Artifact
from audiomask.runtime.marks.carrier import BITS, PERIOD, Carrier, parse_key
from audiomask.runtime.marks.carrier import RATE as CARRIER_RATE
from audiomask.runtime.marks.report import document, spell
from audiomask.runtime.net.requests import BadValue, rest
from audiomask.runtime.pcm import Pcm
from audiomask.runtime.session import Session

HOPS = 4  # of a detector in a second: sound that is ahead of real time is taken hop by hop
EVERY_S, EVERY_LIMITS_S = 5.0, (1.0, 3600.0)  # of sound, between two reports
APART = 0.02  # least distance of reports, of the sound so far: one takes the longer, the more there is
# Of the hello's mark: types, values where none is given, and whether it is a secret.
FIELDS: dict[str, tuple] = {
    "do": (str, "mark"),
    "key": (str, None, True),
    "message": (str, None),
    "strength": ((int, float), None),
    "every": ((int, float), None),
}


def is_marker(artifact: Artifact) -> bool:
    """Return whether a model marks sound by a carrier, which a key and a message make."""
    carrier = artifact.controls.get("carrier")
    return artifact.task == "mark" and carrier is not None and carrier.channels == PERIOD // 2


class Finder:
    """A session that detects marks: fed as a `Player` is, it gives reports, texts of JSON."""

    outputs = faults = 0
    ports = ()

    def __init__(self, key: bytes, sample_rate: int, channels: int, every: float = EVERY_S):
        from audiomask.runtime.marks.detector import WINDOW, Detector  # slow to load, and few detect

        self.sample_rate = self.rate_out = sample_rate
        self.channels = channels
        self.hop, self.latency = -(-sample_rate // HOPS), WINDOW * sample_rate // CARRIER_RATE
        self.delay = self.latency - self.hop
        self.engine = SimpleNamespace(batch=channels)  # rows of a hop, as work is counted
        self._detector, self._every = Detector(key, sample_rate, channels), every * sample_rate
        self._begin()

    @property
    def cleaned(self) -> int:
        return self._detector.cleaned

    def _begin(self) -> None:
        self._fed, self._next = 0, self._every

    def set(self, controls: Mapping[str, Any] | None = None, *, dry: Any = None, bypass: Any = None) -> None:
        """Raise ValueError for anything, as there is nothing that could be changed."""
        if controls or dry is not None or bypass is not None:
            raise ValueError("who detects has no controls; leave out controls, dry and bypass")

    def feeding(self, x: np.ndarray, lost: Any = None) -> Generator[Any, None, str]:
        """Take a block `[channels, T]`, and return a report, or "" while none is due."""
        yield from ()
        self._detector.feed(x)
        self._fed += x.shape[1]
        if self._fed < self._next:
            return ""
        self._next = self._fed + max(self._every, APART * self._fed)
        return self._report(self._detector.found())

    def flushing(self) -> Generator[Any, None, str]:
        """Return the report on all of the signal."""
        yield from ()
        self._begin()
        return self._report(self._detector.flush())

    @staticmethod
    def _report(found: Any) -> str:
        return json.dumps({"type": "detected", **document(found)})


def marking(
    markers: Mapping[str, Artifact],
    model: str | None,
    rate: int,
    channels: int | None,
    form: str,
    wanted: dict[str, Any],
) -> tuple[Session | Finder, Pcm, dict[str, Any]]:
    """Return the session of a hello, what takes its bytes apart, and what the answer says of it."""
    if set(wanted) - set(FIELDS):
        raise BadValue(f"mark has {' '.join(FIELDS)}, and nothing else")
    asked = rest(dict(wanted), **FIELDS)
    if not markers:
        raise BadValue("no marks are offered here")
    name = model or next(iter(markers))
    if name not in markers:
        raise BadValue(f"model {name[:50]!r} does not mark by a key; these do: {' '.join(markers)}")
    key, message, strength, every = (asked[k] for k in ("key", "message", "strength", "every"))
    if (secret := parse_key(key or "")) is None:
        raise BadValue("key is not 32 hex digits, as audiomask mark --new-key FILE writes them")
    if asked["do"] == "detect":
        if message is not None or strength is not None:
            raise BadValue("message and strength are of who marks; leave them out")
        every, (low, high) = EVERY_S if every is None else every, EVERY_LIMITS_S
        if not low <= every <= high:
            raise BadValue(f"every {every:g} s is outside {low:g} to {high:g} s")
        finder = Finder(secret, rate, channels or 1, every)
        return finder, Pcm(form, finder.channels), {"do": "detect", "every": every}
    if asked["do"] != "mark":
        raise BadValue("do is none of mark detect")
    if every is not None:
        raise BadValue("every is of who detects; leave it out")
    if not re.fullmatch(f"[0-9a-fA-F]{{1,{BITS // 4}}}", message or ""):
        raise BadValue(f"message is not 1 to {BITS // 4} hex digits")
    controls: dict[str, Any] = {"carrier": Carrier(secret).wave(int(message, 16))}
    if strength is not None:
        controls["strength"] = strength
    session = Session(markers[name], sample_rate=rate, channels=channels, controls=controls)
    return session, Pcm(form, session.channels), {"do": "mark", "message": spell(int(message, 16))}
