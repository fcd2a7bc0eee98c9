"""Import ESC-10, ten classes of ESC-50, from either corpus."""

from __future__ import annotations

from pathlib import Path

from audiomask.data.corpora import esc50
from audiomask.data.kaldi.directory import DataDir


def read(folder: str | Path, skipped: list[str] | None = None) -> dict[str, DataDir]:
    """Return a directory for each fold, fold1 to fold5, see `esc50.read`."""
    return esc50.read(folder, skipped, esc10=True)
