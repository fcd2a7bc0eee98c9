"""Import AudioSet: its tables, and the clips that one has."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from audiomask.data.kaldi.collector import Collector, audio_files, csv_rows
from audiomask.data.kaldi.directory import DataDir, DataError, Table, read_text

SHOWN = 3  # missing clips of AudioSet that a message names
OPTIONS = {"clips": ("DIR", "where they are (default: below source)", Path)}


def read(
    folder: str | Path, skipped: list[str] | None = None, *, clips: str | Path | None = None
) -> dict[str, DataDir]:
    """Return a directory for each table of AudioSet, with keys YTID.

    Tables are balanced_train, unbalanced_train and eval_segments.csv, as many as there are, with
    class_labels_indices.csv or ontology.json for the names of the labels. Labels are these names, with
    semicolons for their commas ("Male speech; man speaking").

    The clips are those one has, below `clips` (default: below `folder`) at any depth: YTID.EXT,
    YTID_START.EXT, YTID_START_END.EXT, or one of these behind a Y. Clips that are no longer available are
    common: those missing of a table are one fault, with their number. A file longer than its segment by over
    a second is a fault too: it is the whole video. Files that no table lists are ignored.
    """
    folder = Path(folder)
    names = _names(folder)
    tables = sorted(folder.glob("*_segments.csv"))
    if not tables:
        raise DataError(f"{folder}: no *_segments.csv; name the folder of AudioSet's tables")
    root = Path(clips) if clips is not None else folder
    files: dict[str, list[Path]] = {}
    for path in audio_files(root):
        if match := re.fullmatch(r"Y?([\w-]{11})(?:_[\d.]+){0,2}", path.stem):
            files.setdefault(match[1], []).append(path)
    out: dict[str, DataDir] = {}
    for table in tables:
        found, missing = Collector(root, skipped, {}), []
        lines = list(_segments(table))
        for key, seconds, mids in lines:
            unknown = [mid for mid in mids if mid not in names]
            inside = [part for part, data in out.items() if key in data.tables["wav.scp"]]
            paths = files.get(key, [])
            if unknown:
                found.fault(f"{table}: {key} has the label {unknown[0]}, which has no name")
            elif inside or key in found.tables["wav.scp"]:
                found.fault(f"{table}: {key} is in {(inside or [table.name])[0]} too; remove one")
            elif not paths:
                missing.append(key)
            elif len(paths) > 1:
                found.fault(f"{paths[1]}: the same clip as {paths[0]}; remove one of them")
            elif found.add(key, key, paths[0], ",".join(names[mid] for mid in mids)):
                length = float(found.tables["reco2dur"][key])
                if length > seconds + 1:
                    found.fault(f"{paths[0]}: {length:.1f} s, its segment {seconds:g} s; cut it out")
                    for kept in found.tables.values():
                        del kept[key]
        if missing:
            found.fault(
                f"{table}: {len(missing)} of {len(lines)} clips have no file below {root} "
                f"({', '.join(missing[:SHOWN])}{' ...' if len(missing) > SHOWN else ''})"
            )
        out[table.name.removesuffix("_segments.csv")] = found.finish()
    return out


def _names(folder: Path) -> Table:
    """Return names, fit for utt2label, by machine id; DataError if two labels have one name."""
    indices, ontology = folder / "class_labels_indices.csv", folder / "ontology.json"
    try:
        if indices.is_file():
            pairs = [(row["mid"], row["display_name"]) for row in csv_rows(indices)]
        else:
            pairs = [(item["id"], item["name"]) for item in json.loads(ontology.read_text("utf-8"))]
    except FileNotFoundError:
        raise DataError(f"{folder}: neither {indices.name} nor {ontology.name}; copy one there") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: its names of labels cannot be read ({error!r})") from None
    return {mid: re.sub(r"\s*,\s*", "; ", name.strip()) for mid, name in pairs}


def _segments(table: Path) -> Iterator[tuple[str, float, list[str]]]:
    """Yield YTID, seconds, machine ids of each line; lines that begin with # are comments."""
    lines = io.StringIO(read_text(table, "load it again"))
    try:
        for number, row in enumerate(csv.reader(lines, skipinitialspace=True), 1):
            if not row or row[0].startswith("#"):
                continue
            try:
                key, start, end, mids = row
                yield key, float(end) - float(start), [m.strip() for m in mids.split(",") if m.strip()]
            except ValueError:
                want = 'want YTID, START, END, "LABELS"'
                raise DataError(f"{table}:{number}: {want}, got {', '.join(row)!r}") from None
    except csv.Error as error:
        raise DataError(f"{table}: cannot read ({error}); load it again") from None
