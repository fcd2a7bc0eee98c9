"""Check a data directory and mend what needs no human: `audiomask data validate` and `fix`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.kaldi import (
    DataDir,
    DataError,
    Problem,
    _segment,
    invert,
    keyed_by,
    scan_table,
    source_file,
)
from audiomask.masks.packets import TRACE_MS, Trace, packets, read_trace

DURATION_TOLERANCE_S = 0.05  # reco2dur is often rounded to hundredths, and codecs pad a frame


def _name_of_key(kind: str) -> str:
    return {"recording": "wav.scp", "utterance": "segments or wav.scp", "speaker": "utt2spk"}[kind]


def _tables(path: Path) -> tuple[dict[str, list[tuple[int, str, str]]], list[Problem]]:
    """Return all tables of the directory with line numbers, and the problems of their lines."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    tables, problems = {}, []
    for name in DataDir.table_names(path):
        tables[name], found = scan_table(path / name)
        problems += found
    if "wav.scp" not in tables:
        raise DataError(f"{path}: not a data directory, it has no wav.scp; `audiomask data import` makes one")
    return tables, problems


def validate(path: str | Path, check_audio: bool = True, allow_pipes: bool = False) -> list[Problem]:
    """Return the problems of a directory; an empty list means that any reader can use it.

    Checked are text (UTF-8, sorted, each key once, no empty values), keys (every table has the keys it should
    and no others, spk2utt inverts utt2spk), numbers (segments inside their recording, reco2dur close to the
    truth) and, unless `check_audio` is off, that each file exists, can be opened, and has the rate and length
    of its partners. Raises DataError only if there is no data directory at all.
    """
    path = Path(path)
    rows, problems = _tables(path)
    tables = {name: {key: value for _, key, value in lines} for name, lines in rows.items()}
    line_of = {name: {key: number for number, key, _ in lines} for name, lines in rows.items()}
    data = DataDir(tables, path)
    if not tables["wav.scp"]:
        problems.append(Problem("wav.scp", 0, "lists nothing"))
    keys = {
        "recording": set(tables["wav.scp"]),
        "utterance": set(data.utterance_keys),
        "speaker": set(tables.get("utt2spk", {}).values()),
    }
    for name, table in tables.items():
        kind = keyed_by(name)
        if kind is None or kind == "pool":
            continue
        if kind == "speaker" and "utt2spk" not in tables:
            problems.append(Problem(name, 0, "there is no utt2spk that it could belong to"))
            continue
        for key in sorted(set(table) - keys[kind]):
            problems.append(Problem(name, line_of[name][key], f"{key} is not in {_name_of_key(kind)}"))
        absent = sorted(keys[kind] - set(table))
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            problems.append(Problem(name, 0, f"{absent[0]}{more} of {_name_of_key(kind)} is missing"))
    if "spk2utt" in tables and "utt2spk" in tables:
        right = invert(tables["utt2spk"])
        for speaker, names in tables["spk2utt"].items():
            if speaker in right and names.split() != right[speaker].split():
                problems.append(
                    Problem("spk2utt", line_of["spk2utt"][speaker], f"{speaker}: not what utt2spk says")
                )
    problems += _check_numbers(tables, line_of)
    if check_audio:
        problems += _check_audio(data, line_of, allow_pipes)
    return problems


def _check_numbers(tables: dict[str, dict[str, str]], line_of: dict[str, dict[str, int]]) -> list[Problem]:
    problems = []
    for key, value in tables.get("segments", {}).items():
        try:
            recording, _, _ = _segment(key, value)
            if recording not in tables["wav.scp"]:
                problems.append(
                    Problem("segments", line_of["segments"][key], f"{recording} is not in wav.scp")
                )
        except ValueError as error:
            problems.append(Problem("segments", line_of["segments"][key], str(error)))
    for key, value in tables.get("reco2dur", {}).items():
        if _number(value) is None:
            problems.append(
                Problem(
                    "reco2dur", line_of["reco2dur"][key], f"{key}: {value!r} is not a duration in seconds"
                )
            )
    return problems


def _number(text: str) -> float | None:
    """Return `text` as a positive finite number, else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _check_audio(data: DataDir, line_of: dict[str, dict[str, int]], allow_pipes: bool) -> list[Problem]:
    problems = []
    seen: dict[str, tuple[int, float]] = {}
    for name in sorted(
        data.tables, key=lambda n: n != "wav.scp"
    ):  # wav.scp first: the others are compared with it
        if not name.endswith(".scp"):
            continue
        for key, entry in data.tables[name].items():
            try:
                with source_file(data, entry, allow_pipes) as path:
                    info = audio.info(path)
            except AudioError as error:
                problems.append(Problem(name, line_of[name][key], f"{key}: {error}"))
                continue
            if name == "wav.scp":
                seen[key] = (info.rate, info.seconds)
            elif keyed_by(name) == "recording" and key in seen:
                rate, seconds = seen[key]
                if info.rate != rate or abs(info.seconds - seconds) * rate > 1:
                    what = f"{info.seconds:.4f} s at {info.rate} Hz, in wav.scp {seconds:.4f} s at {rate} Hz"
                    problems.append(Problem(name, line_of[name][key], f"{key}: {what}"))
    for key, value in data.tables.get("reco2dur", {}).items():
        said = _number(value)
        if said is not None and key in seen and abs(said - seen[key][1]) > DURATION_TOLERANCE_S:
            message = f"{key}: says {value} s, the file has {seen[key][1]:.2f} s"
            problems.append(Problem("reco2dur", line_of["reco2dur"][key], message))
    for key, value in data.tables.get("segments", {}).items():
        try:
            recording, start, end = _segment(key, value)
        except ValueError:
            continue  # reported above
        if recording in seen and (end or start) > seen[recording][1] + DURATION_TOLERANCE_S:
            message = f"{key}: ends at {end or start} s, its recording at {seen[recording][1]:.2f} s"
            problems.append(Problem("segments", line_of["segments"][key], message))
    for key, entry in data.tables.get("utt2trace", {}).items():
        try:
            trace = Trace(read_trace(data.resolve(entry)), entry)
            if key in seen and "segments" not in data.tables:
                rate, seconds = seen[key]
                trace.sample(np.zeros(1, int), packets(round(rate * seconds), rate, TRACE_MS)[0])
        except AudioError as error:
            problems.append(Problem("utt2trace", line_of["utt2trace"][key], f"{key}: {error}"))
    return problems


def fix(path: str | Path, check_audio: bool = True, allow_pipes: bool = False) -> tuple[DataDir, list[str]]:
    """Return a sound directory of the usable entries, and a line for each change or loss.

    Sorting, white space and repeated lines are mended; of two different lines with one key the first stays.
    Entries that cannot be used (a file that is missing or unreadable, a segment outside its recording, a key
    that a partner table lacks) are dropped, with all that depends on them. spk2utt and reco2dur are made
    anew. Raises DataError if nothing is left.
    """
    path = Path(path)
    rows, problems = _tables(path)
    notes = [f"mended: {p}" for p in problems]
    tables = {name: {key: value for _, key, value in lines} for name, lines in rows.items()}
    data = DataDir(tables, path)
    line_of = {name: {key: number for number, key, _ in lines} for name, lines in rows.items()}
    bad: dict[str, set[str]] = {name: set() for name in tables}
    number_of = {name: {line: key for key, line in keys.items()} for name, keys in line_of.items()}
    found = _check_numbers(tables, line_of) + (
        _check_audio(data, line_of, allow_pipes) if check_audio else []
    )
    for problem in found:
        if problem.file != "reco2dur":  # made anew below
            bad[problem.file].add(number_of[problem.file][problem.line])
            notes.append(f"dropped: {problem}")
    for name, keys in bad.items():
        for key in keys:
            tables[name].pop(key, None)

    recordings = set(tables["wav.scp"])
    for name, table in tables.items():
        if keyed_by(name) == "recording" and name.endswith(".scp"):
            recordings &= set(table)
    if "segments" in tables:
        utterances = {u for u, value in tables["segments"].items() if value.split()[0] in recordings}
    else:
        utterances = set(recordings)
    speakers_known = "utt2spk" in tables
    for name, table in tables.items():
        if keyed_by(name) == "utterance":
            utterances &= set(table)
    for name, table in tables.items():
        if name.startswith("spk2") and name != "spk2utt" and speakers_known:
            utterances = {u for u in utterances if tables["utt2spk"][u] in table}
    if not utterances:
        raise DataError(
            f"{path}: nothing is left after dropping what cannot be used; see `audiomask data validate`"
        )
    for name in [n for n in tables if n.startswith("spk2") and not speakers_known]:
        del tables[name]
        notes.append(f"dropped: {name}: there is no utt2spk that it could belong to")
    before = {name: len(lines) for name, lines in rows.items()}
    out = DataDir(tables, path).subset(utterances)
    if "reco2dur" in out.tables:
        said = out.tables["reco2dur"]
        true = (
            out.durations(allow_pipes)
            if check_audio
            else {k: float(v) for k, v in said.items() if _number(v)}
        )
        if not check_audio and set(true) != set(out.recordings):
            raise DataError(
                f"{path}/reco2dur: has holes or nonsense, and only the audio knows; leave --no-audio out"
            )
        out.tables["reco2dur"] = {
            key: said[key] if key in said and _close(said[key], seconds) else f"{seconds:.4f}"
            for key, seconds in true.items()
        }
    for name, table in out.tables.items():
        if len(table) < before.get(name, 0):
            notes.append(f"{name}: {len(table)} of {before[name]} lines kept")
    return out, notes


def _close(text: str, seconds: float) -> bool:
    value = _number(text)
    return value is not None and abs(value - seconds) <= DURATION_TOLERANCE_S
