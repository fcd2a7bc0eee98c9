"""Collect speech, music and effects to train on, from Debian's packages and from folders that one has.

    python tools/get_training_corpus.py data/corpus --have ~/recordings
    python tools/get_training_corpus.py data/corpus --only libri 0ad_effects --have ~/recordings
    python tools/get_training_corpus.py data/corpus --list

OUT/train and OUT/valid get a Kaldi data directory for each kind, speech, music and effects, as `StemSounds`
of recipes/separate reads them; sources.tsv beside them says what each holds and its licence. Groups
(speakers, songs, kinds) are in one of both, always in the same one, and what is drawn is drawn by their
names: another run makes the same files.

What there is to find stands in tools/corpora/training_sources.yaml. Packages are loaded with `apt-get
download` to OUT/packages and unpacked there without being installed. Other sources are looked for below each
--have by the checksum of one of their files, whatever their folders are called. What is missing is listed
with where it comes from, and the rest is collected; the exit code is 1 only if something failed. What a run
has made is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import yaml

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.kaldi.collector import Collector, as_key
from audiomask.data.kaldi.directory import DataDir, combine, resampled

SOURCES = Path(__file__).parent / "corpora/training_sources.yaml"
KINDS, PARTS = ("speech", "music", "effects"), ("train", "valid")
RATE = 48000
VALID = 12  # one group of so many
DIGITS = 16  # of a checksum
PIECE_S = {"joined": 10.0, "scattered": 20.0}
LONG_S = 8.0  # effects as long stay as they are
MOST_S = 240.0  # made of the one-shots of a kind
AGAIN = 6  # as much as there are of them
FADE_S = 0.005
PEAK = 0.9


class Failure(Exception):
    """What went wrong, with the source and the remedy."""


@dataclass(frozen=True)
class Source:
    """An entry of the list; see there."""

    name: str
    kind: str
    licence: str
    files: list[str]
    package: str | None = None
    archive: str | None = None
    root: str = ""
    marker: dict[str, str] = field(default_factory=dict)
    group: str | None = None
    leave: list[str] = field(default_factory=list)
    valid: list[str] | None = None
    how: str = "whole"
    source: str = ""

    @property
    def origin(self) -> str:
        return f"Debian {self.package}" if self.package else self.source


def read_sources(path: Path) -> list[Source]:
    entries: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Source(**entry) for entry in entries]


# --- where they are -----------------------------------------------------------------------------------------


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def found_below(folders: list[Path], sources: list[Source]) -> dict[str, Path]:
    """The roots of sources by name, found by the checksums of their markers."""
    wanted = {digest: (source.name, path) for source in sources for path, digest in source.marker.items()}
    kinds = {Path(path).suffix.lower() for _, path in wanted.values()}
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise Failure(f"--have {folder}: no such folder")
        for path in sorted(folder.rglob("*")):
            if len(found) == len(wanted):
                return found
            if path.suffix.lower() not in kinds or not path.is_file():
                continue
            name, marker = wanted.get(checksum(path), (None, ""))
            if name and name not in found:
                found[name] = path.parents[len(Path(marker).parts) - 1]
    return found


def unpacked(source: Source, out: Path) -> Path:
    """The folder of a package, which is loaded first if it is not there."""
    folder = out / "packages" / str(source.package)
    root = folder / source.root
    if not folder.exists():
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            run(["apt-get", "download", str(source.package)], part)
            (deb,) = part.glob("*.deb")
            run(["dpkg", "-x", str(deb), str(part)], part)
            deb.unlink()
        except (Failure, ValueError) as error:
            shutil.rmtree(part, ignore_errors=True)
            raise Failure(f"{source.name}: {error}") from None
        part.rename(folder)
    if source.archive:
        root = folder / "unpacked"
        if not root.exists():
            part = folder / ".part"
            shutil.rmtree(part, ignore_errors=True)
            with zipfile.ZipFile(folder / source.archive) as archive:
                names = [n for n in archive.namelist() if n.endswith(".ogg")]
                archive.extractall(part, names)  # which drops .. and leading slashes
            part.rename(root)
    return root


def run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}; packages need Debian, or a system like it") from None
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise Failure(f"{' '.join(command[:2])}: {words}")


# --- what is made of them -----------------------------------------------------------------------------------


def grouped(source: Source, root: Path) -> dict[str, list[Path]]:
    """The files of each group, in order."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root).as_posix()
        if not path.is_file() or not any(fnmatch(place, pattern) for pattern in source.files):
            continue
        match = re.search(source.group or r"^(?:(.*)/)?", place)
        if match and (name := match[1] or "") not in source.leave:
            groups[name].append(path)
    return groups


def part_of(source: Source, group: str) -> str:
    if source.valid is not None:
        return "valid" if group in source.valid or "*" in source.valid else "train"
    digest = hashlib.md5(f"{source.name} {group}".encode(), usedforsecurity=False).hexdigest()
    return "valid" if int(digest, 16) % VALID == 0 else "train"


def read(path: Path, channels: int) -> np.ndarray | None:
    """Samples `[channels, T]` at 48 kHz; None of what holds no sound."""
    try:
        x, rate = audio.read(path)
    except AudioError:
        return None
    x = x[:channels] if len(x) >= channels else np.broadcast_to(x.mean(0), (channels, x.shape[1]))
    if channels == 1:
        x = x.mean(0, keepdims=True)
    if x.shape[1] < rate // 100 or not np.abs(x).max() > 0.003:
        return None
    return np.array(resampled(x, rate, RATE), np.float32)


def faded(x: np.ndarray) -> np.ndarray:
    n = min(int(FADE_S * RATE), x.shape[1] // 4)
    rise = np.linspace(0, 1, n, dtype=np.float32)
    x[:, :n] *= rise
    x[:, x.shape[1] - n :] *= rise[::-1]
    return x


def joined(paths: list[Path], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Pieces `[1, T]` of words at one level, with pauses of .02 to .4 s; the last one may be short."""
    parts: list[np.ndarray] = []
    for i in rng.permutation(len(paths)):
        x = read(paths[i], 1)
        if x is None:
            continue
        x = faded(x * np.float32(0.1 * 10 ** (rng.uniform(-4, 0) / 20) / max(rms(x), 1e-3)))
        parts += [x, np.zeros((1, int(RATE * rng.uniform(0.02, 0.4))), np.float32)]
        if sum(part.shape[1] for part in parts) > PIECE_S["joined"] * RATE:
            yield np.concatenate(parts, 1)
            parts = []
    if parts:
        yield np.concatenate(parts, 1)


def scattered(sounds: list[np.ndarray], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Pieces `[2, T]` in which one-shots follow each other, at once or after up to 1.5 s."""
    left = min(MOST_S * RATE, AGAIN * sum(x.shape[1] for x in sounds))
    left = max(left, PIECE_S["scattered"] * RATE)
    parts: list[np.ndarray] = []
    pool: list[int] = []
    while left > 0:
        pool = pool or rng.permutation(len(sounds)).tolist()
        x = faded(sounds[pool.pop()].copy())
        x *= np.float32(10 ** (rng.uniform(-8, 0) / 20) / max(float(np.abs(x).max()), 0.05))
        if rng.random() < 0.25:
            x = resampled(x, RATE, round(RATE * rng.uniform(0.7, 1.4)))
        gap = rng.choice([0.0, rng.uniform(0.05, 0.4), rng.uniform(0.4, 1.5)], p=[0.3, 0.45, 0.25])
        parts += [x, np.zeros((2, int(gap * RATE)), np.float32)]
        left -= parts[-2].shape[1] + parts[-1].shape[1]
        if left <= 0 or sum(part.shape[1] for part in parts) > PIECE_S["scattered"] * RATE:
            yield np.concatenate(parts, 1)
            parts = []


def summed(paths: list[Path]) -> np.ndarray | None:
    """What the stems of a song `[2, T]` add up to."""
    stems = [x for x in (read(path, 2) for path in paths) if x is not None]
    if not stems:
        return None
    longest = max(x.shape[1] for x in stems)
    return np.sum([np.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in stems], 0)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def recordings(source: Source, group: str, paths: list[Path], folder: Path) -> list[Path]:
    """The files of a group as they are trained on, those that are made in `folder`."""
    if source.how == "whole":
        return paths
    done = folder / ".done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        seed = hashlib.sha256(f"{source.name} {group}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        kept: list[Path] = []
        if source.how == "joined":
            pieces: Iterator[np.ndarray] = joined(paths, rng)
        elif source.how == "summed":
            whole = summed(paths)
            pieces = iter([] if whole is None else [whole])
        else:
            sounds = []
            for path in paths:
                x = read(path, 2)
                if x is not None and x.shape[1] > LONG_S * RATE:
                    kept.append(path)
                elif x is not None:
                    sounds.append(x)
            pieces = scattered(sounds, rng) if sounds else iter([])
        for n, x in enumerate(pieces):
            peak = max(float(np.abs(x).max()), 1e-9)
            sf.write(folder / f"{n:04d}.flac", (x * np.float32(min(1.0, PEAK / peak))).T, RATE)
        (folder / "whole").write_text("".join(f"{path.resolve()}\n" for path in kept), encoding="utf-8")
        done.touch()
    kept = [Path(line) for line in (folder / "whole").read_text(encoding="utf-8").splitlines()]
    return [*kept, *sorted(folder.glob("*.flac"))]


def collect(source: Source, root: Path, out: Path) -> dict[str, DataDir]:
    """The data directories of a source, by part."""
    groups = grouped(source, root)
    if not groups:
        raise Failure(f"{source.name}: no files like {' '.join(source.files)} below {root}; get it again")
    found: dict[str, DataDir] = {}
    for part in PARTS:
        collector = Collector(root, skipped=[])
        for group, paths in groups.items():
            if part_of(source, group) != part:
                continue
            label = as_key(f"{source.name}_{group}".strip("_"))
            made = recordings(source, group, paths, out / "made" / label)
            for path in made:
                place = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
                collector.add(as_key(f"{label}_{place.with_suffix('')}"), label, path.resolve())
        if collector.tables["wav.scp"]:
            found[part] = collector.finish()
        for fault in collector.skipped or []:
            print(f"left out: {fault}", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--have", type=Path, nargs="+", default=[], metavar="DIR", help="folders to look in")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of the sources")
    parser.add_argument("--list", action="store_true", help="print the sources and do nothing")
    args = parser.parse_args()
    sources = read_sources(SOURCES)
    if unknown := sorted({*args.only} - {source.name for source in sources}):
        parser.error(f"--only {unknown[0]}: no such source; there are {' '.join(s.name for s in sources)}")
    if args.list:
        for source in sources:
            print(f"{source.kind:8} {source.name:26} {source.origin}  ({source.licence})")
        return 0
    chosen = [source for source in sources if not args.only or source.name in args.only]
    failed, missing = False, []
    parts: dict[tuple[str, str], list[DataDir]] = defaultdict(list)
    lines = ["part\tkind\tsource\trecordings\thours\tlicence\torigin"]
    try:
        roots = found_below(args.have, [source for source in chosen if not source.package])
        args.out.mkdir(parents=True, exist_ok=True)
    except (Failure, OSError) as error:
        sys.exit(f"get_training_corpus: {error}")
    for source in chosen:
        try:
            root = unpacked(source, args.out) if source.package else roots.get(source.name)
            if root is None:
                missing.append(source)
                continue
            for part, data in collect(source, root, args.out).items():
                parts[part, source.kind].append(data)
                hours = sum(map(float, data.tables["reco2dur"].values())) / 3600
                count = len(data.tables["wav.scp"])
                facts = [part, source.kind, source.name, count, f"{hours:.2f}", source.licence, source.origin]
                lines.append("\t".join(map(str, facts)))
                print(f"{source.name}, {part}: {count} recordings, {hours:.2f} h", flush=True)
        except (Failure, AudioError, OSError, zipfile.BadZipFile) as error:
            print(f"failed: {error}", file=sys.stderr)
            failed = True
    for (part, kind), found in parts.items():
        combine(found).write(args.out / part / kind)
    (args.out / "sources.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for source in missing:
        print(f"missing: {source.name} ({source.kind}, {source.licence}): {source.origin}", file=sys.stderr)
    return 1 if failed or not parts else 0


if __name__ == "__main__":
    sys.exit(main())
