"""Import labelled sounds as distributed: ESC-50, ESC-10, Speech Commands, AudioSet.

Functions take the folder of the unpacked corpus, as in `corpora`, and return data directories by name, here
with utt2label; they find missing, corrupt or double entries before anything is written.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from audiomask.data.importers import Collector, as_key, audio_files
from audiomask.data.kaldi import DataDir, DataError, Table, invert, read_text

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
NOISE = "_background_noise_"
SHOWN = 3  # missing clips of AudioSet that a message names


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the lines of a table with a header; DataError if it cannot be read."""
    remedy = "unpack the corpus again"
    try:
        yield from csv.DictReader(io.StringIO(read_text(path, remedy)))
    except csv.Error as error:
        raise DataError(f"{path}: cannot read ({error}); {remedy}") from None


def from_esc(folder: str | Path, esc10: bool = False, skipped: list[str] | None = None) -> dict[str, DataDir]:
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
    for path, fold, label in _esc_listed(table, esc10, found) if table else _esc_folders(folder):
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


def _esc_listed(table: Path, esc10: bool, found: Collector) -> Iterator[tuple[Path, str, str]]:
    """Yield file, fold and label of each line; a line or a file without the other is a fault."""
    audio, listed = table.parents[1] / "audio", set()
    for row in _rows(table):
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


def _esc_folders(folder: Path) -> Iterator[tuple[Path, str, str]]:
    for path in audio_files(folder):
        kind = re.sub(r"^\d+[\s_-]+", "", path.parent.name)
        yield path, "", as_key(kind).lower()


def from_speechcommands(
    folder: str | Path, twelve: bool = False, test: str | Path | None = None, skipped: list[str] | None = None
) -> dict[str, DataDir]:
    """Return train, valid and test of Speech Commands 0.01 or 0.02.

    Files are WORD/SPEAKER_nohash_N.wav, validation_list.txt, testing_list.txt. Each word (30 or 35) is a
    label; background noises are left out. Keys are SPEAKER-WORD-N: speaker and number recur in other words.

    `twelve` gives ten commands, all other words as `_unknown_`, and `_silence_`: the seconds of the
    background noises, those of the last file (running_tap) in valid and all others in train. Published tables
    of the twelve use a separate test archive; `test` is its folder (of 12 folders), and takes the place of
    testing_list.txt, whose test set has no `_silence_`.
    """
    folder = Path(folder)
    part_of: dict[str, str] = {}
    found = Collector(folder, skipped, {})
    for name, part in (("validation_list.txt", "valid"), ("testing_list.txt", "test")):
        for line in read_text(folder / name, "name the folder of the words and lists").split():
            if part_of.setdefault(line, part) != part:
                found.fault(f"{folder / name}: {line} is in the other list too; remove one")
            elif not (folder / line).is_file():
                found.fault(f"{folder / line}: is in {name} and missing; unpack the corpus again")
    keys: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    noises = []
    for path in audio_files(folder):
        inside = path.relative_to(folder).as_posix()
        match = re.fullmatch(r"([^/]+)/([0-9a-f]+)_nohash_(\d+)\.\w+", inside)
        if path.parent.name == NOISE:
            noises.append(path)
        elif not match:
            found.fault(f"{path}: not a name of Speech Commands (WORD/SPEAKER_nohash_N.wav); remove it")
        else:
            key = f"{match[2]}-{match[1]}-{match[3]}"
            label = match[1] if not twelve or match[1] in COMMANDS else "_unknown_"
            if found.add(key, match[2], path, label):
                keys[part_of.get(inside, "train")].append(key)
    silence = [f"noise-{path.stem}" for path in noises] if twelve else []
    for key, path in zip(silence, noises, strict=False):
        found.add(key, key, path)
    data = found.finish()
    if twelve:
        _cut_silence(data, silence, keys)
    parts = {part: data.subset(names) for part, names in keys.items() if names}
    if test is not None:
        parts["test"] = _commands_test(Path(test), skipped)
    return parts


def _cut_silence(data: DataDir, silence: list[str], keys: dict[str, list[str]]) -> None:
    """Cut recordings `silence` into utterances of a second; words get segments of full length."""
    tables = data.tables
    tables["segments"] = {key: f"{key} 0.0000 -1" for key in tables["wav.scp"] if key not in silence}
    for recording in [key for key in silence if key in tables["wav.scp"]]:
        del tables["utt2spk"][recording]
        for second in range(int(float(tables["reco2dur"][recording]))):
            key = f"{recording}-{second:03d}"
            tables["segments"][key] = f"{recording} {second:.4f} {second + 1:.4f}"
            tables["utt2spk"][key], tables["utt2label"][key] = recording, "_silence_"
            keys["valid" if recording == silence[-1] else "train"].append(key)
    tables["spk2utt"] = invert(tables["utt2spk"])


def _commands_test(folder: Path, skipped: list[str] | None) -> DataDir:
    """Return the test archive, which has a folder for each of the twelve labels."""
    found = Collector(folder, skipped, {})
    for path in audio_files(folder):
        label = path.parent.name
        if label not in (*COMMANDS, "_unknown_", "_silence_"):
            found.fault(f"{path}: {label} is none of the twelve labels; is this the test archive?")
            continue
        who, _, rest = path.stem.partition("_nohash_")
        key = as_key(f"{who}-{label}-{rest}" if rest else f"{who}-{label}")
        found.add(key, as_key(who), path, label)
    return found.finish()


def from_audioset(
    folder: str | Path, clips: str | Path | None = None, skipped: list[str] | None = None
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
    names = _audioset_names(folder)
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


def _audioset_names(folder: Path) -> Table:
    """Return names, fit for utt2label, by machine id; DataError if two labels have one name."""
    indices, ontology = folder / "class_labels_indices.csv", folder / "ontology.json"
    try:
        if indices.is_file():
            pairs = [(row["mid"], row["display_name"]) for row in _rows(indices)]
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
