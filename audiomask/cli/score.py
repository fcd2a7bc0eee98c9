"""Measure quality: PESQ, STOI, SDR, SI-SDR, DNSMOS and more, with confidence intervals.

  audiomask score --ref clean/ --est enhanced/ --noisy noisy/ -j 2 --json scores.json
  audiomask score --est enhanced.wav --metrics dnsmos plcmos
  audiomask score --ref songs/ --est separated/ --stems --metrics sdr,csdr     SONG/STEM.wav on both sides
  audiomask score --ref songs/ --oracles                    what ideal masks reach on the sum of the stems

With --stems there is a row for each stem, and one for the mean of their means. It and --oracles take folders
of SONG/STEM.wav, or Kaldi data directories that have a table for each stem beside wav.scp.

Folders are paired by file name without suffix, .scp files and Kaldi data directories by utterance name.
Recordings that cannot be scored (silence, too short, other length) are counted in the table with their
reason. The exit code is 1 if a file could not be read or has no partner.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unicodedata import normalize

from audiomask import metrics
from audiomask.audio import AudioError, check_writable, replacing
from audiomask.audio.sources import Source, find_audio
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import cores, note, positive, table
from audiomask.cli._oracles import Summaries, lines, songs, stems_of_directory, tables
from audiomask.masks.oracles import NAMES, WINDOW
from audiomask.metrics import Table, plain_summaries


def add_arguments(add: Adder) -> None:
    inputs = "file, folder, glob, .scp or Kaldi data directory"
    add("--ref IN", f"clean references: {inputs}", nargs="+")
    add("--est IN", f"what is judged: {inputs}", nargs="+")
    add("--noisy IN", "unprocessed signals, scored beside the estimates", nargs="+")
    stems = (
        "judge separated sounds, SONG/STEM.wav; NAMES: these, comma-separated (default: those of both sides)"
    )
    add("--stems NAMES", stems, nargs="?", const="")
    oracles = f"score ideal masks; MASKS: of {' '.join(NAMES)}, comma-separated (default: all)"
    add("--oracles MASKS", oracles, nargs="?", const=",".join(NAMES))
    add("--window SAMPLES", "of the transform that --oracles masks", type=positive, default=WINDOW)
    add("--metrics NAME", "default: all usual ones; 'list' lists them", nargs="+")
    add("--json FILE", "write all figures, per file too", type=Path)
    add("-f --force", "overwrite the JSON file")
    add("--allow-pipes", "run the shell commands of a .scp")
    add("-j --jobs", "processes (default: one a core)", type=positive, default=cores())


def run(args: argparse.Namespace) -> int:
    if args.metrics == ["list"]:
        print(metrics.__doc__)
        return 0
    names = [name for given in args.metrics or () for name in given.split(",") if name]
    if not args.metrics:
        usual = metrics.DEFAULT if args.stems is None and args.oracles is None else metrics.STEMS
        names = [n for n in usual if args.ref or not metrics.METRICS[n].reference]
        if "csdr" in names and importlib.util.find_spec("museval") is None:
            names.remove("csdr")
            note("csdr is left out, which needs museval: pip install --no-deps museval scipy")
    if not args.est and args.oracles is None:
        raise UsageError("there is nothing to judge; give --est")
    try:
        metrics.columns(names)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.oracles is not None:
        return _oracles(args, names)
    if args.stems is not None and (args.noisy or not args.ref):
        raise UsageError("--stems compares --ref with --est, without --noisy")
    wanting = [n for n in names if metrics.METRICS[n].reference]
    if wanting and not args.ref:
        raise UsageError(f"{', '.join(wanting)} need references; give --ref, or --metrics dnsmos plcmos")
    if args.json:
        check_writable(args.json, overwrite=args.force)

    with metrics.workers(args.jobs) as mapper:
        estimate = _score(args, args.est, names, mapper, "estimate")
        noisy = _score(args, args.noisy, names, mapper, "noisy") if args.noisy else None
    if args.stems is not None:
        _show_stems(estimate)
    else:
        _show(estimate, noisy)
    if args.json:
        _write(args.json, estimate, noisy, names, stems=args.stems is not None)
    return 1 if estimate.errors or (noisy and noisy.errors) else 0


def _score(
    args: argparse.Namespace, est: Sequence[str], names: Sequence[str], mapper: Callable[..., Any], what: str
) -> Table:
    """Pair by key, score, and enter recordings without a partner as errors."""
    from rich.console import Console
    from rich.progress import Progress

    read = _by_key if args.stems is None else _by_song
    estimates = read(est, args.allow_pipes)
    references = read(args.ref, args.allow_pipes) if args.ref else None
    if references is not None and len(references) == len(estimates) == 1:
        # Two files are a pair, whatever their names.
        references = dict(zip(estimates, references.values(), strict=True))
    if args.stems is not None:
        references, estimates = _of_stems(args.stems, references or {}, estimates)
    pairs = [
        (key, references[key] if references else None, estimates[key])
        for key in estimates
        if references is None or key in references
    ]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"scoring {what}", total=len(pairs))
        table = metrics.score_files(pairs, names, mapper, on_file=lambda key: progress.advance(task))
    if references is not None:
        for key in estimates.keys() - references.keys():
            table.fail(key, f"{estimates[key]}: there is no reference named {key}")
        for key in references.keys() - estimates.keys():
            table.fail(key, f"{references[key]}: there is no {what} named {key}")
    return table


def _by_key(inputs: Sequence[str], allow_pipes: bool) -> dict[str, Source]:
    found = find_audio(inputs, allow_pipes=allow_pipes)
    return _unique((source.key or str(Path(source.relative).with_suffix("")), source) for source in found)


def _by_song(inputs: Sequence[str], allow_pipes: bool) -> dict[str, Source]:
    """Return files by SONG/STEM, and what data directories list in tables of stems."""
    directories = [given for given in inputs if (Path(given) / "wav.scp").is_file()]
    others = [given for given in inputs if given not in directories]
    found = [_by_key(others, allow_pipes)] if others else []
    found += [stems_of_directory(Path(given), allow_pipes) for given in directories]
    return _unique(item for sources in found for item in sources.items())


def _unique(found: Iterable[tuple[str, Source]]) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for key, source in found:
        name = normalize("NFC", key)  # a file system may take names apart (NFD), as Apple's does
        if name in sources:
            raise AudioError(f"{source}: there are two recordings named {name}, the other is {sources[name]}")
        sources[name] = source
    return sources


def _of_stems(
    names: str, references: dict[str, Source], estimates: dict[str, Source]
) -> tuple[dict[str, Source], dict[str, Source]]:
    """Return the references and estimates of the stems named, or of those that both have."""
    sides = []
    for side in (references, estimates):
        for key, source in side.items():
            if "/" not in key:
                raise AudioError(
                    f"{source}: --stems compares SONG/STEM.wav, and this lies in no song's folder"
                )
        sides.append({key.rpartition("/")[2] for key in side})
    chosen = {name for name in names.split(",") if name} or sides[0] & sides[1]
    if lacking := chosen - sides[0]:
        raise UsageError(f"--stems: no {', '.join(sorted(lacking))} among the references")
    if not chosen:
        raise AudioError(
            f"no stem on both sides: {', '.join(sorted(sides[0]))}; {', '.join(sorted(sides[1]))}"
        )
    if others := (sides[0] | sides[1]) - chosen:
        note(f"not scored: {', '.join(sorted(others))}")
    first, second = (
        {k: v for k, v in x.items() if k.rpartition("/")[2] in chosen} for x in (references, estimates)
    )
    return first, second


def _oracles(args: argparse.Namespace, names: Sequence[str]) -> int:
    """Score ideal masks on the stems of `--ref`."""
    from rich.console import Console
    from rich.progress import Progress

    masks = args.oracles.split(",")
    if unknown := set(masks) - set(NAMES):
        raise UsageError(f"--oracles: no mask {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if args.est or args.noisy or not args.ref:
        raise UsageError("--oracles takes --ref, the stems, and no --est or --noisy")
    if args.window < 16 or args.window % 4:
        raise UsageError(f"--window {args.window}: must be a multiple of 4, 16 at least")
    if args.json:
        check_writable(args.json, overwrite=args.force)
    found = songs(
        _by_song(args.ref, args.allow_pipes), [name for name in (args.stems or "").split(",") if name]
    )
    with metrics.workers(args.jobs) as mapper, Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring ideal masks", total=len(found))
        made = tables(found, masks, names, args.window, mapper, lambda song: bar.advance(task))
    first = next(iter(made.values()))
    by_stem = {mask: scored.by_stem() for mask, scored in made.items()}
    print(
        f"{len(found)} songs; mean over songs, then over stems, with its 95 % bootstrap interval over songs"
    )
    for column in first.columns:
        print("\n" + table(*lines(by_stem, column)))
    _explain(Console(highlight=False), {"oracles": first})
    if args.json:
        data = {mask: plain_stems(by_stem[mask]) | made[mask].to_json() for mask in made}
        _save(args.json, {"metrics": list(names), "window": args.window, "oracles": data})
    return 1 if first.errors else 0


def plain_stems(by_stem: Summaries) -> dict[str, Any]:
    """Return the summaries of `Table.by_stem` as plain data."""
    return {"stems": {stem: plain_summaries(rows) for stem, rows in by_stem.items()}}


def _show_stems(table: Table) -> None:
    """Print a row for each stem and metric, and one for the mean over stems."""
    from rich.console import Console
    from rich.table import Table as RichTable

    songs = {key.rpartition("/")[0] for key in table.rows}
    view = RichTable(title=f"{len(songs)} songs, mean and 95 % bootstrap interval over songs")
    for head in ("metric", "stem", "mean", "95 %", "median", "songs", "none"):
        view.add_column(head, justify="left" if head in ("metric", "stem") else "right", no_wrap=True)
    stems = table.by_stem()
    for column in table.columns:
        for stem, summaries in stems.items():
            s = summaries[column]
            cells = [f"{s.mean:.3f}", f"{s.low:.3f} .. {s.high:.3f}", f"{s.median:.3f}", f"{s.n}"]
            view.add_row(column, stem, *cells, str(s.failed or "-"), end_section=stem == "mean")
    console = Console(highlight=False)
    console.print(view)
    _explain(console, {"estimate": table})


def _show(estimate: Table, noisy: Table | None) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False)
    view = RichTable(title=f"{len(estimate.rows)} files, mean and 95 % bootstrap interval")
    heads = ["metric", "noisy", "estimate", "95 %", "change", "files", "none"]
    for head in heads if noisy else [h for h in heads if h not in ("noisy", "change")]:
        view.add_column(head, justify="left" if head == "metric" else "right", no_wrap=True)
    before = noisy.summary() if noisy else {}
    for column, s in estimate.summary().items():
        row = [column, f"{s.mean:.3f}", f"{s.low:.3f} .. {s.high:.3f}", str(s.n), str(s.failed or "-")]
        if noisy:
            row.insert(1, f"{before[column].mean:.3f}")
            row.insert(4, f"{_change(estimate, noisy, column):+.3f}")
        view.add_row(*row)
    console.print(view)
    if noisy:
        console.print("change: mean over the files that have both values; none: files without a value")
    _explain(console, {"estimate": estimate} | ({"noisy": noisy} if noisy else {}))


def _explain(console: Any, scores: dict[str, Table]) -> None:
    """Print why values are missing, and what was wrong with files."""
    for name, scored in scores.items():
        for (columns, reason), keys in scored.reasons().items():
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            console.print(f"{name}: no {columns} for {keys[0]}{more}: {reason}", soft_wrap=True)
        for line in [text for notes in scored.notes.values() for text in notes]:
            print(f"audiomask: warning: {line}", file=sys.stderr)
        for line in scored.errors.values():
            print(f"audiomask: {line}", file=sys.stderr)


def _change(estimate: Table, noisy: Table, column: str) -> float:
    common = estimate.rows.keys() & noisy.rows.keys()
    return metrics.summarize(
        (estimate.rows[k][column] - noisy.rows[k][column] for k in sorted(common)), resamples=1
    ).mean


def _write(
    path: Path, estimate: Table, noisy: Table | None, names: Sequence[str], *, stems: bool = False
) -> None:
    versions: dict[str, str | None] = {}
    for package in ("audiomask", "pesq", "pystoi", "speechmos", "museval", "onnxruntime", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    data = {"metrics": list(names), "versions": versions, "estimate": estimate.to_json()}
    if noisy:
        data["noisy"] = noisy.to_json()
    if stems:
        data |= plain_stems(estimate.by_stem())
    _save(path, data)


def _save(path: Path, data: dict[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
