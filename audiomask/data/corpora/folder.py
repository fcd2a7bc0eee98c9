"""Import any folder of audio, recursively, as a data directory."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

from audiomask.audio import AudioWarning
from audiomask.data.kaldi.collector import Collector, as_key, audio_files
from audiomask.data.kaldi.directory import DataDir, DataError

OPTIONS = {
    "speaker": (
        "folder|file|REGEX",
        "who speaks: the folder, each file its own, or group 1 of REGEX in the path (default: folder)",
        str,
    ),
    "label": ("folder|file|REGEX", "write utt2label, as for --speaker", str),
}


def _naming(what: str, how: str) -> Callable[[Path], str]:
    """Return a function from a file's path to its speaker (or label), see `read`."""
    if how in ("folder", "file"):
        return lambda inside: inside.parent.name if how == "folder" else str(inside.with_suffix(""))
    try:
        pattern = re.compile(how)
    except re.error as error:
        raise DataError(f"{what} pattern {how!r}: {error}") from error
    if pattern.groups < 1:
        raise DataError(f"{what} pattern {how!r} has no group; put ( ) round the {what}, as in '([^/-]+)-'")

    def name(inside: Path) -> str:
        match = pattern.search(inside.as_posix())
        if not match or not match.group(1):
            raise DataError(f"{inside}: the {what} pattern {how!r} does not match")
        return match.group(1)

    return name


def read(
    folder: str | Path,
    skipped: list[str] | None = None,
    *,
    speaker: str = "folder",
    label: str | None = None,
) -> DataDir:
    """Return any folder of audio, recursively, as a data directory.

    `speaker` (the kind, for noise) is "folder", the folder of the file; "file", each file its own; or a
    regular expression, searched in the path below `folder`, whose first group it is. Keys are SPEAKER-PATH,
    so that they are sorted by speaker, which Kaldi's tools need. `label` makes utt2label in the same ways.
    """
    folder = Path(folder)
    speaker_of, label_of = _naming("speaker", speaker), _naming("label", label) if label else None
    found = Collector(folder, skipped)
    passed: list[str] = []
    for path in audio_files(folder, passed):
        inside = path.relative_to(folder)
        stem = as_key(str(inside.with_suffix("")))
        who = as_key(speaker_of(inside) or folder.resolve().name)
        key = stem if stem.startswith(who) else f"{who}-{stem}"
        found.add(key, who, path, (label_of(inside) or folder.resolve().name) if label_of else None)
    for line in passed:
        warnings.warn(line, AudioWarning, stacklevel=2)
    return found.finish()
