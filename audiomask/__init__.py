"""Mask, enhance and tag audio with one model for files, live sound, servers and browsers.

    from audiomask import Session
    clean = Session("sieve", sample_rate=48000).feed(noisy)

The names of `__all__` are imported when they are first used, and need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiomask.runtime.artifact import Artifact
    from audiomask.runtime.catalogue import shipped
    from audiomask.runtime.player import Player
    from audiomask.runtime.session import Session

__version__ = "0.1.0"
__all__ = ["Artifact", "Player", "Session", "shipped"]

_PLACES = {"Artifact": "artifact", "Player": "player", "Session": "session", "shipped": "catalogue"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"audiomask.runtime.{_PLACES[name]}"), name)
