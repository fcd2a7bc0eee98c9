"""Import ESC-50, environmental sounds in five folds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from audiomask.data.kaldi.collector import Collector, as_key, audio_files, csv_rows
from audiomask.data.kaldi.directory import DataDir, DataError


def read(folder: str | Path, skipped: list[str] | None = None, esc10: bool = False) -> dict[str, DataDir]:
    """Return a directory for each fold of ESC-50 or ESC-10, fold1 to fold5.

    ESC-50 is audio/FOLD-SOURCE-TAKE-CLASS.wav with meta/esc50.csv. `esc10` takes the ten classes of its
    column of that name, or ESC-10 as it was before, a folder for each class
    (`001 - Dog bark/FOLD-SOURCE-TAKE.ogg`). The speaker is the recording that a clip was cut from,
    FOLD-SOURCE; the folds share none, and a name that says otherwise is a fault. Labels are the categories of
    the table, or the folder's name in small letters without its number.
    """
    folder = Path(folder)
    tables = [folder / "meta/esc50.csv", *sorted(folder.glob("*/meta/esc50.csv"))]
    table = next((path for path in tables if path.is_file()), None)
    if table is None and not esc10:
        raise DataError(f"{folder}: no meta/esc50.csv; this is not the layout of ESC-50")
    found = Collector(folder, skipped, {})
    fold_of: dict[str, str] = {}  # a recording of Freesound is in one fold
    for path, fold, label in _listed(table, esc10, found) if table else _folders(folder):
        match = re.fullmatch(r"([1-5])-(\d+)-[A-Z](-\d+)?", path.stem)
        if not match or fold not in ("", match[1]):
            named = f" and fold {fold}" if fold else ""
            found.fault(f"{path}: its name{named} are not FOLD-SOURCE-TAKE of ESC; remove it")
        elif fold_of.setdefault(match[2], match[1]) != match[1]:
            found.fault(f"{path}: recording {match[2]} is in fold {fold_of[match[2]]} too; remove one")
        else:
            found.add(path.stem, f"{match[1]}-{match[2]}", path, label)
    data = found.finish()
    folds: dict[str, list[str]] = {}
    for key in data.utterance_keys:
        folds.setdefault(f"fold{key[0]}", []).append(key)
    return {fold: data.subset(keys) for fold, keys in folds.items()}


def _listed(table: Path, esc10: bool, found: Collector) -> Iterator[tuple[Path, str, str]]:
    """Yield file, fold and label of each line; a line or a file without the other is a fault."""
    audio, listed = table.parents[1] / "audio", set()
    for row in csv_rows(table):
        try:
            path, wanted = audio / row["filename"], not esc10 or row["esc10"] == "True"
            fold, label = row["fold"], row["category"]
        except KeyError as error:
            raise DataError(f"{table}: has no column {error}; unpack the corpus again") from None
        listed.add(path)
        if wanted and not path.is_file():
            found.fault(f"{path}: is listed in {table.name} and missing; unpack the corpus again")
        elif wanted:
            yield path, fold, label
    for path in [] if esc10 else audio_files(audio):
        if path not in listed:
            found.fault(f"{path}: is not listed in {table.name}; remove it")


def _folders(folder: Path) -> Iterator[tuple[Path, str, str]]:
    for path in audio_files(folder):
        kind = re.sub(r"^\d+[\s_-]+", "", path.parent.name)
        yield path, "", as_key(kind).lower()
