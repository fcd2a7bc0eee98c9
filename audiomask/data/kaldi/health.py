"""Check a data directory and mend what needs no human: `audiomask data validate` and `fix`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.audio.reader import end_of
from audiomask.audio.sources import segment
from audiomask.data.kaldi.directory import (
    NOT_A_DIRECTORY,
    DataDir,
    DataError,
    Problem,
    invert,
    keyed_by,
    scan_table,
    source_file,
)
from audiomask.masks.packets import TRACE_MS, Trace, packets, read_trace

DURATION_TOLERANCE_S = 0.05  # reco2dur is often rounded to hundredths, and codecs pad a frame


class _Scan:
    """The tables of a directory, the line that each key stands on, and the problems found."""

    def __init__(self, path: Path):
        if not path.is_dir():
            raise DataError(f"{path}: no such folder")
        self.tables: dict[str, dict[str, str]] = {}
        self.line_of: dict[str, dict[str, int]] = {}
        self.problems: list[Problem] = []
        self.bad: list[tuple[str, str]] = []  # table and key of each problem of an entry
        self.stretches: dict[str, tuple[str, float, float | None]] = {}
        self.seconds: dict[str, float] = {}  # by reco2dur
        self.over: dict[str, str] = {}  # segments that end a little past their recording, cut there
        for name in DataDir.table_names(path):
            rows, found = scan_table(path / name)
            self.problems += found
            self.tables[name] = {key: value for _, key, value in rows}
            self.line_of[name] = {key: number for number, key, _ in rows}
        if "wav.scp" not in self.tables:
            raise DataError(f"{path}: {NOT_A_DIRECTORY}")
        self.data = DataDir(self.tables, path)

    def found(self, name: str, key: str, message: str) -> None:
        self.problems.append(Problem(name, self.line_of[name][key], message))
        self.bad.append((name, key))

    def check_numbers(self) -> None:
        for key, value in self.tables.get("segments", {}).items():
            try:
                self.stretches[key] = segment(key, value)
            except ValueError as error:
                self.found("segments", key, str(error))
                continue
            if (recording := self.stretches[key][0]) not in self.tables["wav.scp"]:
                self.found("segments", key, f"{recording} is not in wav.scp")
        for key, value in self.tables.get("reco2dur", {}).items():
            if (seconds := _number(value)) is None:
                self.found("reco2dur", key, f"{key}: {value!r} is not a duration in seconds")
            else:
                self.seconds[key] = seconds

    def check_audio(self, allow_pipes: bool) -> None:
        seen: dict[str, tuple[int, float]] = {}
        # wav.scp first: the others are compared with it
        scps = [name for name in self.tables if name.endswith(".scp")]
        for name in sorted(scps, key=lambda n: n != "wav.scp"):
            for key, entry in self.tables[name].items():
                try:
                    with source_file(self.data, entry, allow_pipes) as path:
                        info = audio.info(path)
                except AudioError as error:
                    self.found(name, key, f"{key}: {error}")
                    continue
                if name == "wav.scp":
                    seen[key] = (info.rate, info.seconds)
                elif keyed_by(name) == "recording" and key in seen:
                    rate, seconds = seen[key]
                    if info.rate != rate or abs(info.seconds - seconds) * rate > 1:
                        here = f"{info.seconds:.4f} s at {info.rate} Hz"
                        self.found(name, key, f"{key}: {here}, in wav.scp {seconds:.4f} s at {rate} Hz")
        for key, said in self.seconds.items():
            if key in seen and abs(said - seen[key][1]) > DURATION_TOLERANCE_S:
                value = self.tables["reco2dur"][key]
                self.found("reco2dur", key, f"{key}: says {value} s, the file has {seen[key][1]:.2f} s")
        for key, (recording, start, end) in self.stretches.items():
            if recording not in seen:
                continue
            seconds = seen[recording][1]
            if (there := end_of(start, end, seconds)) is None:
                ends = f"{start:g} s to {'the end' if end is None else f'{end:g} s'}"
                self.found("segments", key, f"{key}: {ends}, but its recording ends at {seconds:.2f} s")
            elif end is not None and end > there + DURATION_TOLERANCE_S:
                self.over[key] = f"{recording} {start:.4f} {there:.4f}"
                words = f"{key}: ends {end - seconds:.2f} s past its recording; it is cut there"
                self.problems.append(Problem("segments", self.line_of["segments"][key], words))
        for key, entry in self.tables.get("utt2trace", {}).items():
            try:
                trace = Trace(read_trace(self.data.resolve(entry)), entry)
                if key in seen and "segments" not in self.tables:
                    rate, seconds = seen[key]
                    trace.sample(np.zeros(1, int), packets(round(rate * seconds), rate, TRACE_MS)[0])
            except AudioError as error:
                self.found("utt2trace", key, f"{key}: {error}")


def _number(text: str) -> float | None:
    """Return `text` as a positive finite number, else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def validate(path: str | Path, check_audio: bool = True, allow_pipes: bool = False) -> list[Problem]:
    """Return the problems of a directory; an empty list means that any reader can use it.

    Checked are text (UTF-8, sorted, each key once, no empty values), keys (every table has the keys it should
    and no others, spk2utt inverts utt2spk), numbers (segments inside their recording, reco2dur close to the
    truth) and, unless `check_audio` is off, that each file exists, can be opened, and has the rate and length
    of its partners. Raises DataError only if there is no data directory at all.
    """
    scan = _Scan(Path(path))
    tables, problems = scan.tables, scan.problems
    if not tables["wav.scp"]:
        problems.append(Problem("wav.scp", 0, "lists nothing"))
    named = {
        "recording": ("wav.scp", set(tables["wav.scp"])),
        "utterance": ("segments or wav.scp", set(scan.data.utterance_keys)),
        "speaker": ("utt2spk", set(tables.get("utt2spk", {}).values())),
    }
    for name, table in tables.items():
        kind = str(keyed_by(name))
        if kind == "speaker" and "utt2spk" not in tables:
            problems.append(Problem(name, 0, "there is no utt2spk that it could belong to"))
        elif kind in named:
            place, keys = named[kind]
            for key in sorted(set(table) - keys):
                scan.found(name, key, f"{key} is not in {place}")
            if absent := sorted(keys - set(table)):
                more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
                problems.append(Problem(name, 0, f"{absent[0]}{more} of {place} is missing"))
    if "spk2utt" in tables and "utt2spk" in tables:
        right = invert(tables["utt2spk"])
        for speaker, names in tables["spk2utt"].items():
            if speaker in right and names.split() != right[speaker].split():
                scan.found("spk2utt", speaker, f"{speaker}: not what utt2spk says")
    scan.check_numbers()
    if check_audio:
        scan.check_audio(allow_pipes)
    return problems


def fix(path: str | Path, check_audio: bool = True, allow_pipes: bool = False) -> tuple[DataDir, list[str]]:
    """Return a sound directory of the usable entries, and a line for each change or loss.

    Sorting, white space and repeated lines are mended; of two different lines with one key the first stays.
    Entries that cannot be used (a file that is missing or unreadable, a segment outside its recording, a key
    that a partner table lacks) are dropped, with all that depends on them. spk2utt and reco2dur are made
    anew. Raises DataError if nothing is left.
    """
    scan = _Scan(Path(path))
    tables, mended = scan.tables, len(scan.problems)
    scan.check_numbers()
    if check_audio:
        scan.check_audio(allow_pipes)
    notes = [f"mended: {problem}" for problem in scan.problems[:mended]]
    later = [p for p in scan.problems[mended:] if p.file != "reco2dur"]  # that is made anew below
    notes += [f"{'mended' if p.message.endswith('it is cut there') else 'dropped'}: {p}" for p in later]
    if scan.over:
        tables["segments"] |= scan.over
    for name, key in scan.bad:
        if name != "reco2dur":
            tables[name].pop(key, None)

    scps = [t for name, t in tables.items() if keyed_by(name) == "recording" and name.endswith(".scp")]
    recordings = set(tables["wav.scp"]).intersection(*scps)
    utterances = recordings
    if "segments" in tables:
        utterances = {u for u, value in tables["segments"].items() if value.split()[0] in recordings}
    utterances = utterances.intersection(*(t for n, t in tables.items() if keyed_by(n) == "utterance"))
    for name in [n for n in tables if n.startswith("spk2")]:
        if "utt2spk" not in tables:
            del tables[name]
            notes.append(f"dropped: {name}: there is no utt2spk that it could belong to")
        elif name != "spk2utt":
            utterances = {u for u in utterances if tables["utt2spk"][u] in tables[name]}
    if not utterances:
        raise DataError(
            f"{path}: nothing is left after dropping what cannot be used; see `audiomask data validate`"
        )
    out = scan.data.subset(utterances)
    if "reco2dur" in out.tables:
        said = out.tables["reco2dur"]
        numbers = {key: scan.seconds[key] for key in said if key in scan.seconds}
        true = out.durations(allow_pipes) if check_audio else numbers
        if not check_audio and set(true) != set(out.recordings):
            raise DataError(
                f"{path}/reco2dur: has holes or nonsense, and only the audio knows; leave --no-audio out"
            )
        close = {k for k, s in true.items() if abs(numbers.get(k, np.inf) - s) <= DURATION_TOLERANCE_S}
        out.tables["reco2dur"] = {k: said[k] if k in close else f"{s:.4f}" for k, s in true.items()}
    for name, table in out.tables.items():
        if len(table) < len(before := scan.line_of.get(name, {})):
            notes.append(f"{name}: {len(table)} of {len(before)} lines kept")
    return out, notes
