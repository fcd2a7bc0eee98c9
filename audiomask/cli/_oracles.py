"""Score what ideal masks make of songs whose stems are known, for `score --oracles`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio import AudioError
from audiomask.audio.sources import Source, find_audio
from audiomask.masks.oracles import separated
from audiomask.metrics import Scores, Summary, Table, columns, read_source, score

MIXTURES = ("mixture", "mix")  # songs have it beside their stems
POOLS = ("wav.scp", "rir.scp")  # tables of a data directory that hold no stem

Stems = dict[str, Source]
Summaries = dict[str, dict[str, Summary]]


def stems_of_directory(folder: Path, allow_pipes: bool) -> dict[str, Source]:
    """Return the entries of the stem tables of a Kaldi data directory, by RECORDING/STEM."""
    tables = [path for path in sorted(folder.glob("*.scp")) if path.name not in POOLS]
    if not tables:
        raise AudioError(f"{folder}: no tables of stems beside wav.scp, such as drums.scp")
    return {
        f"{source.key}/{path.stem}": source
        for path in tables
        for source in find_audio([path], allow_pipes=allow_pipes)
    }


def songs(sources: Mapping[str, Source], names: Sequence[str]) -> dict[str, Stems]:
    """Return the stems of each song, of sources by SONG/STEM: those named, or all but mixtures."""
    found: dict[str, Stems] = {}
    for key, source in sources.items():
        song, slash, stem = key.rpartition("/")
        if not slash:
            raise AudioError(f"{source}: --oracles takes SONG/STEM.wav, and this lies in no song's folder")
        if stem in names or (not names and stem not in MIXTURES):
            found.setdefault(song, {})[stem] = source
    for song, stems in found.items():
        if len(stems) < 2:
            raise AudioError(f"{song}: has one stem only, {', '.join(stems)}; a mixture needs two")
    if not found:
        raise AudioError(f"no stem named {', '.join(names)}")
    return found


def _measure(
    masks: Sequence[str], metrics: Sequence[str], window: int, job: tuple[str, Stems]
) -> tuple[str, dict[str, dict[str, Scores]] | str, list[str]]:
    """Return the song, scores by mask and stem or why there are none, and notes on the files."""
    song, stems = job
    notes: list[str] = []
    try:
        parts = [read_source(source, notes) for source in stems.values()]
        if len({(rate, x.shape) for x, rate in parts}) > 1:
            kinds = ", ".join(
                f"{stem} {rate} Hz {x.shape[0]} x {x.shape[1]}"
                for stem, (x, rate) in zip(stems, parts, strict=True)
            )
            raise AudioError(f"{song}: its stems differ in rate, channels or length ({kinds})")
        x, rate = np.stack([x for x, _ in parts]), parts[0][1]
        found: dict[str, dict[str, Scores]] = {}
        for mask in masks:
            made = separated(x, mask, window)
            rows = (score(r, e, rate, metrics) for r, e in zip(x, made, strict=True))
            found[mask] = dict(zip(stems, rows, strict=True))
        return song, found, notes
    except AudioError as error:
        return song, str(error), notes


def tables(
    found: dict[str, Stems],
    masks: Sequence[str],
    metrics: Sequence[str],
    window: int,
    mapper: Callable[..., Iterable[Any]] = map,
    on_song: Callable[[str], None] = lambda song: None,
) -> dict[str, Table]:
    """Return by mask the scores of every SONG/STEM.

    Songs that cannot be read are entered as failed.
    """
    made = {mask: Table(columns(metrics)) for mask in masks}
    measure = partial(_measure, tuple(masks), tuple(metrics), window)
    for song, rows, notes in mapper(measure, list(found.items())):
        for mask, table in made.items():
            for stem in found[song]:
                if isinstance(rows, str):
                    table.fail(f"{song}/{stem}", rows)
                else:
                    table.rows[f"{song}/{stem}"] = rows[mask][stem]
            if notes:
                table.notes[song] = notes
        on_song(song)
    return made


def lines(found: Mapping[str, Summaries], column: str) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a metric's table.

    A row has mean and interval over songs, and the mean of each stem; `found` has `Table.by_stem` by mask.
    """
    stems = [stem for stem in next(iter(found.values())) if stem != "mean"]
    rows = []
    for mask, by_stem in found.items():
        s = by_stem["mean"][column]
        means = [f"{by_stem[stem][column].mean:.2f}" for stem in stems]
        rows.append([mask, f"{s.mean:.2f}", f"{s.low:.2f} .. {s.high:.2f}", *means, str(s.failed or "-")])
    return [column, "mean", "95 %", *stems, "none"], rows
