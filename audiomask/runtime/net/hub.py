"""Hold what the sockets of a server share: settings, models, counters and computing threads."""

from __future__ import annotations

import hmac
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import family
from audiomask.runtime.net.batching import Worker
from audiomask.runtime.net.counters import Counters


@dataclass(frozen=True)
class Settings:
    """The settings that all sockets of a server share."""

    token: str | None = None
    origins: tuple[str, ...] = ()  # origins of web pages that may open sockets, besides the server's own
    loopback: bool = True  # only this machine is served: a request under another name is a trick with DNS
    max_sockets: int = 64
    max_rate: float = 20.0  # seconds of sound per second that a socket may send for long
    idle_s: float = 60.0
    threads: int = 1
    page: Path | None = None  # the folder of the web page


class Hub:
    """A hub that knows the models on offer and who may use them.

    `models` maps what a hello may name (file, model, family) to the family or the one member.
    """

    def __init__(
        self,
        families: list[list[Artifact]],
        settings: Settings,
        report: Callable[[BaseException], None] = traceback.print_exception,
    ):
        self.settings, self.report, self.counters = settings, report, Counters()
        self.artifacts = {a.path.stem: a for group in families for a in group}
        self.families, self.default = families, families[0]
        self.models: dict[str, list[Artifact]] = {}
        for group in families:
            self.models.setdefault(family(group[0]), group)
        for artifact in self.artifacts.values():
            self.models.setdefault(artifact.path.stem, [artifact])
            self.models.setdefault(artifact.name, [artifact])
        self.workers: list[Worker] = []

    def fits(self, token: str | None) -> bool:
        """Return whether a client may come in; this takes as long for every token of one length."""
        wanted = self.settings.token
        return wanted is None or hmac.compare_digest((token or "").encode(errors="replace"), wanted.encode())

    def preferred(self, packets: bool) -> list[Artifact]:
        """Return the family for a hello without a model; for packets an informed one, if any is."""
        told = [group for group in self.families if group[0].lost] if packets else []
        return (told or [self.default])[0]
