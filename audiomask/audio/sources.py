"""Find audio in files, folders, globs, Kaldi `.scp` files and directories, standard input.

Each input on a command line becomes a list of `Source`. A bad source is found out when it is opened, so that
a batch goes on past it.
"""

from __future__ import annotations

import glob as globbing
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from audiomask.audio.formats import FORMATS, AudioError
from audiomask.audio.headers import in_archive
from audiomask.audio.reader import Reader

# Suffixes of the files that are taken from a folder. A file that is itself named may have any.
BLANKS = " \t\r"  # between the fields of a table
MORE = (
    ".wv .wv1 .wv2 .voc .paf .ircam .mat4 .mat5 .mp1 .mp2 .m2a .weba .m4b .amr .wma .ac3 .avi .mpg .mpeg .ts"
)
SUFFIXES = frozenset(FORMATS) | set(MORE.split())


@dataclass(frozen=True)
class Source:
    """A recording that knows where it is and how its output is to be called.

    `path` is a file, `-`, or a Kaldi command (`command` is set) whose standard output is the file. The
    command runs only if `allowed`, since who writes an `.scp` could otherwise run anything. `relative` is the
    place below the folder it was found in. `key` is Kaldi's name of the recording, or of the utterance if it
    is a stretch of one, from `begin` to `end` seconds.
    """

    path: str
    relative: str
    key: str | None = None
    command: bool = False
    allowed: bool = False
    begin: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        return self.key or ("standard input" if self.path == "-" else self.path)

    @contextmanager
    def open(self, read: Callable[..., Any] = Reader) -> Iterator[Any]:
        """Open the recording as a `Reader`, or by another `read(path, name=...)`.

        Pipes are spooled to disk first: headers need seeking, and memory stays constant.
        """
        how = {"begin": self.begin, "end": self.end} if self.begin or self.end is not None else {}
        if self.path != "-" and not self.command:
            with read(self.path, **how) as reader:
                yield reader
            return
        if self.command and not self.allowed:
            raise AudioError(
                f"{self}: is a shell command ({self.path}); --allow-pipes runs it, if you trust its .scp"
            )
        with tempfile.NamedTemporaryFile(prefix="audiomask-", suffix=".spool") as spool:
            try:
                if self.command:
                    done = subprocess.run(self.path, shell=True, stdout=spool, stderr=subprocess.PIPE)
                    if done.returncode:
                        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
                        raise AudioError(
                            f"{self}: its command in the .scp ended with {done.returncode} "
                            f"({' '.join(words)}); try it in a shell: {self.path}"
                        )
                else:
                    shutil.copyfileobj(sys.stdin.buffer, spool, 2**20)
                spool.flush()
            except OSError as error:
                raise AudioError(
                    f"{self}: cannot be spooled to {spool.name} ({error.strerror}); set TMPDIR"
                ) from None
            if os.path.getsize(spool.name) == 0:  # noqa: PTH202
                raise AudioError(f"{self}: is empty (0 bytes); feed it an audio file")
            try:
                with read(spool.name, name=str(self), **how) as reader:
                    yield reader
            except AudioError as error:
                if self.path == "-" and "not audio" in str(error):
                    raise AudioError(f"{error}; bare samples go through audiomask stream, or --raw") from None
                raise


def find_audio(
    inputs: Iterable[str | Path],
    *,
    exclude: str | Path | None = None,
    allow_pipes: bool = False,
    suffixes: Collection[str] = SUFFIXES,
    passed: list[str] | None = None,
) -> list[Source]:
    """Return all recordings that `inputs` name, in order, without duplicates.

    A folder is searched recursively, through links too, for files of `suffixes` (hidden ones and those under
    `exclude`, the output folder, are left out; `passed` gets a line about others that are passed over)
    unless it is a Kaldi data directory (it has a `wav.scp`). Globs are expanded here too, for shells that do
    not. A name that does not exist becomes a source that fails when
    opened, and so does a command in an `.scp` without `allow_pipes`.

    Raises `AudioError` for a folder without audio, a glob without a match, a bad `.scp`.
    """
    found: dict[tuple[str, str | None], Source] = {}
    for text in map(str, inputs):
        out = Path(exclude).resolve() if exclude is not None else None
        for source in _expand(text, out, suffixes, [] if passed is None else passed):
            if source.command:
                source = replace(source, allowed=allow_pipes)
            found.setdefault((source.path, source.key), source)
    return list(found.values())


def _expand(
    text: str, exclude: Path | None, suffixes: Collection[str], passed: list[str]
) -> Iterator[Source]:
    path = Path(text)
    # os.path's tests, since Path's raise for a name that is too long or a folder that may not be looked into.
    if text == "-":
        yield Source("-", "stdin.wav")
    elif os.path.isdir(text):  # noqa: PTH112
        scp = os.path.isfile(path / "wav.scp")  # noqa: PTH113
        yield from utterances(path) if scp else walk(path, exclude, suffixes, passed)
    elif path.suffix.lower() == ".scp" and os.path.isfile(text):  # noqa: PTH113
        yield from read_scp(path)
    elif not os.path.lexists(text) and globbing.has_magic(text):
        matches = sorted(globbing.glob(text, recursive=True))  # noqa: PTH207 - patterns may be absolute
        if not matches:
            raise AudioError(f"{text}: matches no file; check the pattern")
        for match in matches:
            if Path(match).is_dir():
                yield from walk(Path(match), exclude, suffixes, passed, required=False)
            else:
                yield Source(match, Path(match).name)
    else:
        yield Source(text, path.name)


def walk(
    folder: Path, exclude: Path | None, suffixes: Collection[str], passed: list[str], required: bool = True
) -> list[Source]:
    """Return the files of a folder, as `find_audio`; `AudioError` if some are `required`."""
    found, others, been = [], Counter[str](), {folder.resolve(), exclude}
    for root, folders, files in os.walk(folder, followlinks=True):
        inside, folders[:] = sorted(f for f in folders if f[0] != "."), []
        for name in inside:
            if (place := (Path(root) / name).resolve()) not in been:  # links may lead back
                folders.append(name)
                been.add(place)
        for path in (Path(root) / name for name in sorted(files) if name[0] != "."):
            if path.suffix.lower() in suffixes:
                found.append(Source(str(path), str(path.relative_to(folder))))
            else:
                others[path.suffix.lower() or path.name] += 1
    if others:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in others.most_common(8))
        passed.append(f"{folder}: passed over {others.total()} files, no audio by their names: {kinds}")
    if required and not found:
        raise AudioError(f"{folder}: holds no audio files; looked for {' '.join(sorted(suffixes))}")
    return found


def utterances(folder: Path) -> Iterator[Source]:
    """Yield the utterances of a Kaldi data directory: by `segments`, or else its recordings."""
    recordings = read_scp(folder / "wav.scp")
    if not (folder / "segments").is_file():
        yield from recordings
        return
    known = {str(source.key): source for source in recordings}
    for number, line in _lines((folder / "segments").read_text("utf-8")):
        key, *rest = re.split(f"[{BLANKS}]+", line, maxsplit=1)
        try:
            recording, begin, end = segment(key, "".join(rest))
        except ValueError as error:
            raise AudioError(f"{folder}/segments:{number}: {error}; audiomask data fix drops it") from None
        if recording not in known:
            raise AudioError(f"{folder}/segments:{number}: {recording} is not in wav.scp; add it there")
        source = known[recording]
        relative = _safe(key) + Path(source.relative).suffix
        yield replace(source, relative=relative, key=key, begin=begin, end=end)


def segment(key: str, value: str) -> tuple[str, float, float | None]:
    """Return (recording, start, end) of a line of `segments`; ValueError with the reason."""
    parts = [part for part in re.split(f"[{BLANKS}]+", value) if part]
    if len(parts) != 3:
        raise ValueError(f"{key}: want RECORDING START END, got {value!r}")
    start, end = float(parts[1]), float(parts[2])
    if not (math.isfinite(start) and math.isfinite(end)) or start < 0 or (end != -1 and end <= start):
        raise ValueError(f"{key}: START {parts[1]} and END {parts[2]} are not a stretch of time")
    return parts[0], start, None if end == -1 else end


def _safe(key: str) -> str:
    """Return a key as a file name: it must not lead out of the output folder."""
    return key.replace("/", "_").lstrip(".") or "_"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and content of a table's lines, without white space of ASCII round them."""
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if line := line.strip(BLANKS):
            yield number, line


def read_scp(scp: Path) -> Iterator[Source]:
    """Yield the sources of a file of lines `key path` or `key command |`.

    A relative path is looked for in the folder of the `.scp` first, so that a data directory can be moved,
    then in the working folder (`data.kaldi` does the same).
    """
    try:
        text = scp.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"{scp}: cannot be read ({error}); it must be UTF-8 text") from None
    if not text.strip():
        raise AudioError(f"{scp}: is empty; expected lines 'name path'")
    for number, line in _lines(text):
        key, *rest = re.split(f"[{BLANKS}]+", line, maxsplit=1)
        if not rest:
            raise AudioError(f"{scp}:{number}: {line!r} is not 'name path'; mend the line")
        (value,) = rest
        if value.endswith("|"):
            yield Source(value[:-1].strip(), f"{_safe(key)}.wav", key, command=True)
            continue
        inside = str(scp.parent / value)
        if os.path.exists(inside) or in_archive(inside):  # noqa: PTH110
            value = inside
        archived = in_archive(value) is not None
        yield Source(value, _safe(key) + (".wav" if archived else Path(value).suffix or ".wav"), key)
