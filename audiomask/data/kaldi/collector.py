"""Collect the recordings of a corpus into a data directory, with the faults of each file.

Entries are paths as found: an absolute folder makes a directory that works from anywhere.
"""

from __future__ import annotations

import csv
import filecmp
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.audio.sources import BLANKS, SUFFIXES, walk
from audiomask.data.kaldi.directory import DataDir, DataError, invert, read_text

SHOWN = 20  # faults in a message; a wrong folder may have thousands


def audio_files(folder: Path, passed: list[str] | None = None) -> list[Path]:
    """Return the audio below `folder`, sorted, without hidden files (macOS writes `._NAME`).

    Links are followed; `passed` gets a line about files that are no audio by their names.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; unpack the corpus, or name the folder that holds it")
    found = walk(folder, None, SUFFIXES, [] if passed is None else passed, required=False)
    files = sorted(Path(source.path) for source in found)
    if not files:
        raise DataError(f"{folder}: no audio files below it ({', '.join(sorted(SUFFIXES))})")
    return files


def as_key(text: str) -> str:
    """Return `text` as a key, without white space or slashes."""
    return re.sub(r"[\s/\\]+", "_", text)


def unwritable(path: str) -> str | None:
    """Return why a path cannot be an entry of a table, or None if it can."""
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        return "its name is not UTF-8"
    if "\n" in path:
        return "its name has a line break"
    if path != path.strip(BLANKS) or path.endswith("|"):
        return "its name begins or ends with white space or |"
    return None


@dataclass
class Collector:
    """A data directory in the making: entries as they are found, with the faults of each file.

    `finish` raises one DataError that lists all faults, so that a corpus is mended in one go.
    """

    folder: Path
    skipped: list[str] | None = None  # if a list, bad entries are left out and their faults appended to it
    seen: dict[tuple[str, int], list[Path]] | None = None  # if shared, recordings in two places are faults

    def __post_init__(self) -> None:
        self.tables: dict[str, dict[str, str]] = {"wav.scp": {}, "utt2spk": {}, "reco2dur": {}}
        self.faults: list[str] = []

    def fault(self, message: str) -> None:
        self.faults.append(message)

    def add(self, key: str, speaker: str, wav: Path, label: str | None = None, **partners: Path) -> bool:
        """Add a recording and `partners` of its rate and length; return False for a fault."""
        if key in self.tables["wav.scp"]:
            self.fault(f"{wav}: makes the same key {key} as {self.tables['wav.scp'][key]}; rename one")
            return False
        before = len(self.faults)
        for path in (wav, *partners.values()):
            if why := unwritable(str(path)):
                self.fault(f"{path}: {why}, which no table can hold; rename it")
                return False
        info = self._info(wav)
        for name, path in partners.items():
            if not path.is_file():
                self.fault(f"{wav}: its {name} partner {path} is missing; unpack the corpus again")
                continue
            other = self._info(path)
            if info and other and (info.rate, info.frames) != (other.rate, other.frames):
                self.fault(
                    f"{path}: {other.frames} samples at {other.rate} Hz, but {wav} has {info.frames} at "
                    f"{info.rate} Hz; unpack both again"
                )
        if self.seen is not None and info:
            same = self.seen.setdefault((wav.name, wav.stat().st_size), [])
            twin = next((p for p in same if filecmp.cmp(p, wav, shallow=False)), None)
            if twin:
                self.fault(f"{wav}: the same recording as {twin}; remove one of them")
            same.append(wav)
        if info is None or len(self.faults) > before:
            return False
        self.tables["wav.scp"][key], self.tables["utt2spk"][key] = str(wav), speaker
        self.tables["reco2dur"][key] = f"{info.seconds:.4f}"
        more = {f"{name}.scp": str(path) for name, path in partners.items()}
        for name, value in (more | ({"utt2label": label} if label is not None else {})).items():
            self.tables.setdefault(name, {})[key] = value
        return True

    def _info(self, path: Path) -> audio.AudioInfo | None:
        try:
            return audio.verify(path)
        except AudioError as error:
            self.fault(str(error))
            return None

    def finish(self, **more: dict[str, str]) -> DataDir:
        """Return the directory with the tables `more`; DataError for faults, and if nothing is left."""
        shown = [f"  {fault}" for fault in self.faults[:SHOWN]]
        if len(self.faults) > SHOWN:
            shown.append(f"  and {len(self.faults) - SHOWN} more")
        if self.faults and self.skipped is None:
            raise DataError(
                f"{self.folder}: {len(self.faults)} of its files cannot be used:\n"
                + "\n".join(shown)
                + "\nmend them, or leave them out with --bad-files skip"
            )
        if self.skipped is not None:
            self.skipped += self.faults
        if not self.tables["wav.scp"]:
            raise DataError(f"{self.folder}: not one of its files can be used\n" + "\n".join(shown))
        return DataDir({**self.tables, "spk2utt": invert(self.tables["utt2spk"]), **more})


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the lines of a table with a header; DataError if it cannot be read."""
    remedy = "unpack the corpus again"
    try:
        yield from csv.DictReader(io.StringIO(read_text(path, remedy)))
    except csv.Error as error:
        raise DataError(f"{path}: cannot read ({error}); {remedy}") from None
