"""Read, write, split and combine Kaldi data directories: tables of recordings and speakers.

    wav.scp     RECORDING  file, or a command ending in "|" that writes a wav file to its output
    clean.scp   RECORDING  the same moment without noise; noise.scp: without speech; STEM.scp: one source
    rir.scp     ROOM       room impulse responses, a pool with keys of its own
    segments    UTTERANCE  RECORDING START END in seconds, END -1: to the end; absent: it is the recording
    utt2spk     UTTERANCE  speaker, or the kind of noise; spk2utt is the same turned round
    reco2dur    RECORDING  seconds
    utt2trace   UTTERANCE  file of lost packets: a line each, 1 where it is lost and else 0 (masks/packets.py)
    utt2label, text, other utt2*, spk2*, reco2*: keyed as the name says

Keys hold no white space; every table is sorted by key (by code point, which is the C locale's order) and has
each key once. A relative path is looked for in the data directory itself, so that a directory can travel with
its audio, and otherwise, as in Kaldi, from the working directory. Feature tables (feats.scp, cmvn.scp,
vad.scp) are not ours: they are neither read nor written.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr

from audiomask import audio
from audiomask.audio import AudioError, make_folder, replacing
from audiomask.audio.headers import in_archive
from audiomask.audio.sources import BLANKS, segment

Table = dict[str, str]
NOT_OURS = {"feats.scp", "cmvn.scp", "vad.scp"}
POOLS = {"rir.scp"}
NOT_A_DIRECTORY = "not a data directory, it has no wav.scp; `audiomask data import` makes one"
MAY_BE_EMPTY = {"text"}  # a transcript may say that nothing was said


class DataError(AudioError):
    """An error of a data directory that names the file, the line and the remedy."""


@dataclass(frozen=True)
class Problem:
    """A finding of `validate`; `line` is 1-based, 0 for the file as a whole."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(frozen=True)
class Utterance:
    """A stretch of a recording in seconds, with its .scp entries by table ("wav", "clean", ...)."""

    key: str
    recording: str
    speaker: str | None
    start: float
    end: float | None
    sources: Mapping[str, str]


def keyed_by(name: str) -> str | None:
    """Return a table's keys: "recording", "utterance", "speaker", "pool"; None if not ours."""
    if name in NOT_OURS or name.startswith("."):
        return None
    if name in POOLS:
        return "pool"
    if name in ("segments", "text") or name.startswith("utt2"):
        return "utterance"
    if name.endswith(".scp") or name.startswith("reco2"):
        return "recording"
    return "speaker" if name.startswith("spk2") else None


def names_files(name: str) -> bool:
    """Return whether a table's values are files, whose paths may be relative."""
    return name.endswith(".scp") or name in ("utt2trace", "utt2score")


def read_text(path: Path, remedy: str) -> str:
    """Return the text of a file; DataError with the remedy if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read ({error}); {remedy}") from None


def scan_table(path: Path) -> tuple[list[tuple[int, str, str]], list[Problem]]:
    """Return (line, key, value) of a table's lines, and its problems; DataError if not UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; convert it with iconv") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror})") from error
    rows: list[tuple[int, str, str]] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    previous = ""

    def found(line: int, message: str) -> None:
        problems.append(Problem(path.name, line, message))

    if text.startswith("\ufeff"):
        text = text.removeprefix("\ufeff")
        found(1, "a byte order mark at the start of the file")
    if text and not text.endswith("\n"):
        found(text.count("\n") + 1, "the last line has no end")
    for number, raw in enumerate(text.split("\n")[: -1 if text.endswith("\n") else None], 1):
        line = raw.strip(BLANKS)  # of ASCII, as for Kaldi; other white space belongs to a name
        key, _, value = line.replace("\t", " ").partition(" ")
        value = value.strip(BLANKS)
        if raw != line:
            found(number, "white space or a carriage return at the start or end of the line")
        if not key:
            found(number, "empty line")
        elif not value and path.name not in MAY_BE_EMPTY:
            found(number, f"{key} has no value")
        elif key in seen:
            same = "" if seen[key] == value else f", with another value ({value!r}, before {seen[key]!r})"
            found(number, f"{key} appears twice{same}")
        else:
            if key < previous:
                found(number, f"not sorted: {key} after {previous}")
            seen[key] = value
            previous = key
            rows.append((number, key, value))
    return rows, problems


def invert(utt2spk: Mapping[str, str]) -> Table:
    """Return spk2utt of utt2spk."""
    speakers: dict[str, list[str]] = {}
    for utterance in sorted(utt2spk):
        speakers.setdefault(utt2spk[utterance], []).append(utterance)
    return {speaker: " ".join(names) for speaker, names in sorted(speakers.items())}


@dataclass
class DataDir:
    """A data directory with all its tables: `tables["wav.scp"][recording] = entry`."""

    tables: dict[str, Table]
    path: Path = field(default_factory=Path)  # where relative entries may lie

    @classmethod
    def read(cls, path: str | Path) -> DataDir:
        """Read every table in any order; DataError if an entry is ambiguous."""
        path = Path(path)
        if not (path / "wav.scp").is_file():
            raise DataError(f"{path}: {NOT_A_DIRECTORY}")
        tables: dict[str, Table] = {}
        for file in (path / name for name in cls.table_names(path)):
            rows, problems = scan_table(file)
            bad = [p for p in problems if "appears twice, with" in p.message or "no value" in p.message]
            if bad:
                raise DataError(f"{path}/{bad[0]}; `audiomask data fix` drops such lines")
            tables[file.name] = {key: value for _, key, value in rows}
        return cls(tables, path)

    @staticmethod
    def table_names(path: Path) -> list[str]:
        """Return the tables that lie in a folder."""
        return sorted(f.name for f in path.iterdir() if f.is_file() and keyed_by(f.name) is not None)

    def write(self, path: str | Path) -> None:
        """Write every table, sorted, each under a temporary name first; spk2utt follows utt2spk."""
        path = Path(path)
        make_folder(path)
        tables = dict(self.tables)
        if "utt2spk" in tables:
            tables["spk2utt"] = invert(tables["utt2spk"])
        for name, table in tables.items():
            if keyed_by(name) is None:
                raise DataError(f"{path}/{name}: not the name of a table of a data directory")
            lines = []
            for key in sorted(table):
                value = self.relocated(table[key], path) if names_files(name) else table[key]
                lines.append(f"{key} {value}".rstrip() + "\n")
            with replacing(path / name) as part:
                part.write_text("".join(lines), encoding="utf-8", newline="\n")

    def relocated(self, entry: str, target: Path) -> str:
        """Return `entry` as a directory at `target` must write it to mean the same file."""
        if entry.endswith("|") or target.resolve() == self.path.resolve():
            return entry
        return str(self.resolve(entry))

    @property
    def recordings(self) -> list[str]:
        return sorted(self.tables["wav.scp"])

    @property
    def utterance_keys(self) -> list[str]:
        return sorted(self.tables["segments"] if "segments" in self.tables else self.tables["wav.scp"])

    @property
    def speakers(self) -> list[str]:
        return sorted(set(self.tables.get("utt2spk", {}).values()))

    def utterances(self) -> Iterator[Utterance]:
        """Yield every utterance; DataError for a segment of no recording or a table with a hole."""
        scps = {n: t for n, t in self.tables.items() if keyed_by(n) == "recording" and n.endswith(".scp")}
        for key in self.utterance_keys:
            recording, start, end = key, 0.0, None
            if "segments" in self.tables:
                try:
                    recording, start, end = segment(key, self.tables["segments"][key])
                except ValueError as error:
                    raise DataError(f"{self.path}/segments: {error}") from error
            sources = {}
            for name, table in scps.items():
                if recording not in table:
                    raise DataError(
                        f"{self.path}/{name}: no entry for {recording}; `audiomask data fix` drops it"
                    )
                sources[name.removesuffix(".scp")] = table[recording]
            yield Utterance(key, recording, self.tables.get("utt2spk", {}).get(key), start, end, sources)

    def resolve(self, entry: str) -> Path:
        """Return the file of an .scp entry: in the data directory, else from the working directory."""
        inside = self.path / entry  # an absolute entry wins over self.path by pathlib's rule
        return inside if inside.exists() or in_archive(str(inside)) else Path(entry)

    def load(
        self, utterance: Utterance, table: str = "wav", allow_pipes: bool = False
    ) -> tuple[np.ndarray, int]:
        """Return samples `[C, T]` float32 and the rate in Hz; DataError names the entry."""
        with source_file(self, utterance.sources[table], allow_pipes) as path:
            if not utterance.start and utterance.end is None:
                return audio.read(path)
            with audio.Reader(
                path, name=f"{path} ({utterance.key})", begin=utterance.start, end=utterance.end
            ) as reader:
                return np.concatenate(list(reader.blocks()), axis=1), reader.info.rate

    def subset(self, keys: Iterable[str]) -> DataDir:
        """Return these utterances with their recordings and speakers; DataError for unknown keys."""
        utterances = set(keys)
        unknown = utterances - set(self.utterance_keys)
        if unknown:
            raise DataError(f"{self.path}: no utterance {min(unknown)} ({len(unknown)} unknown in all)")
        recordings = utterances
        if "segments" in self.tables:
            recordings = {self.tables["segments"][u].split()[0] for u in utterances}
        speakers = {s for u, s in self.tables.get("utt2spk", {}).items() if u in utterances}
        wanted = {"utterance": utterances, "recording": recordings, "speaker": speakers}
        out = {}
        for name, table in self.tables.items():
            kind = keyed_by(name)
            out[name] = {k: v for k, v in table.items() if kind == "pool" or k in wanted[str(kind)]}
        if "utt2spk" in out:
            out["spk2utt"] = invert(out["utt2spk"])
        return DataDir(out, self.path)

    def durations(self, allow_pipes: bool = False) -> dict[str, float]:
        """Return the seconds of every recording, read from the files."""
        out = {}
        for recording, entry in self.tables["wav.scp"].items():
            with source_file(self, entry, allow_pipes) as path:
                out[recording] = audio.info(path).seconds
        return out


def resampled(x: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return `x [T]` or `[C, T]` at another rate, float32."""
    return x if rate == wanted else np.ascontiguousarray(soxr.resample(x.T, rate, wanted).T, np.float32)


def read_mono(
    data: DataDir, utterance: Utterance, sample_rate: int, table: str = "wav", allow_pipes: bool = False
) -> np.ndarray:
    """Return samples `[T]` float32 of an utterance, mixed to mono, at `sample_rate` Hz."""
    x, rate = data.load(utterance, table, allow_pipes)
    return resampled(audio.mixed(x, rate), rate, sample_rate)


@contextmanager
def source_file(data: DataDir, entry: str, allow_pipes: bool = False) -> Iterator[Path]:
    """Yield an .scp entry's file; a pipe, a shell command, is run only if `allow_pipes`."""
    if not entry.endswith("|"):
        path = data.resolve(entry)
        if not path.is_file() and not in_archive(str(path)):
            raise DataError(
                f"{data.path}: {entry} does not exist; run from where the paths start, or mend the .scp"
            )
        yield path
        return
    if not allow_pipes:
        raise DataError(f"{data.path}: {entry!r} is a shell command; add --allow-pipes if you trust it")
    with tempfile.NamedTemporaryFile(suffix=".wav") as spool:
        done = subprocess.run(entry[:-1], shell=True, stdout=spool, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise DataError(f"{data.path}: the command {entry!r} failed with {done.returncode}: {last}")
        yield Path(spool.name)


def combine(parts: Iterable[DataDir]) -> DataDir:
    """Return all parts in one; DataError if they disagree about a key or differ in their tables."""
    parts = list(parts)
    if not parts:
        raise DataError("nothing to combine: name at least one data directory")
    tables: dict[str, Table] = {name: {} for part in parts for name in part.tables}
    for part in parts:
        for name, merged in tables.items():
            if name not in part.tables:
                if keyed_by(name) == "pool":
                    continue
                raise DataError(
                    f"{part.path}: has no {name}, another part has; add it there or remove it everywhere"
                )
            if name == "spk2utt":
                continue
            for key, value in part.tables[name].items():
                value = part.relocated(value, Path()) if name.endswith(".scp") else value
                if merged.setdefault(key, value) != value:
                    raise DataError(
                        f"{part.path}/{name}: {key} means {value!r}, before {merged[key]!r}; rename one"
                    )
    if "utt2spk" in tables:
        tables["spk2utt"] = invert(tables["utt2spk"])
    return DataDir(tables)


def split_by_jobs(data: DataDir, jobs: int) -> list[DataDir]:
    """Return `jobs` parts of consecutive utterances whose sizes differ by at most one."""
    keys = data.utterance_keys
    if not 1 <= jobs <= len(keys):
        raise DataError(f"{data.path}: cannot split {len(keys)} utterances into {jobs} parts")
    bounds = [len(keys) * i // jobs for i in range(jobs + 1)]
    return [data.subset(keys[a:b]) for a, b in itertools.pairwise(bounds)]


def split_by_ratio(
    data: DataDir, ratios: Mapping[str, float], seed: int = 0, by_speaker: bool = True
) -> dict[str, DataDir]:
    """Return parts by name, in about the given proportion, drawn with `seed`.

    Groups (speakers if `by_speaker`, else recordings) lie in one part each. They are shuffled, then each goes
    to the part that lacks most. Raises DataError if a part would be empty.
    """
    total = sum(ratios.values())
    if not ratios or min(ratios.values()) <= 0:
        raise DataError(f"ratios must be positive, got {dict(ratios)}")
    if by_speaker and "utt2spk" not in data.tables:
        raise DataError(f"{data.path}: no utt2spk, so no split by speaker; add it or split by utterance")
    groups: dict[str, list[str]] = {}
    for u in data.utterances():
        groups.setdefault(str(u.speaker if by_speaker else u.recording), []).append(u.key)
    if len(groups) < len(ratios):
        unit = "speakers" if by_speaker else "recordings"
        raise DataError(f"{data.path}: {len(groups)} {unit} cannot fill {len(ratios)} parts")
    names = sorted(groups)
    count = sum(map(len, groups.values()))
    chosen: dict[str, list[str]] = {part: [] for part in ratios}
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    for position, name in enumerate(order):
        empty = [part for part in chosen if not chosen[part]]
        # The last groups are kept for the parts that would otherwise stay empty.
        among = empty if len(order) - position <= len(empty) else list(ratios)
        lacks = {part: ratios[part] / total * count - len(chosen[part]) for part in among}
        chosen[max(among, key=lambda part: lacks[part])] += groups[name]
    return {part: data.subset(keys) for part, keys in chosen.items()}
