"""Offer the corpora of `audiomask data import`, each a module of `audiomask.data.corpora`."""

from __future__ import annotations

import pkgutil
from argparse import Namespace, RawDescriptionHelpFormatter
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from audiomask.cli import Adder, UsageError
from audiomask.cli._common import note
from audiomask.data import corpora
from audiomask.data.kaldi.directory import DataDir


@cache
def _layouts() -> dict[str, Any]:
    names = [module.name for module in pkgutil.iter_modules(corpora.__path__)]
    return {name: import_module(f"{corpora.__name__}.{name}") for name in names}


def _takers() -> dict[str, list[str]]:
    """Return the layouts that take each option."""
    takers: dict[str, list[str]] = {}
    for name, module in _layouts().items():
        for option in getattr(module, "OPTIONS", {}):
            takers.setdefault(option, []).append(name)
    return takers


def add_arguments(add: Adder) -> None:
    """Add all options but -f."""
    layouts = _layouts()
    add.parser.formatter_class = RawDescriptionHelpFormatter
    lines = [f"  {name:15}{module.__doc__.splitlines()[0]}" for name, module in layouts.items()]
    add.parser.epilog = "layouts:\n" + "\n".join(lines)
    add("layout", "how the corpus lies on disk, see below", choices=tuple(layouts), metavar="layout")
    add("source", "folder, or the recordings.jsonl[.gz] of lhotse", type=Path)
    add("out", "data directory; one below it for each part of a corpus that has parts (or folds)", type=Path)
    bad = "corrupt, double, without a partner: list them and stop, or leave them out"
    add("--bad-files {stop,skip}", bad, default="stop")
    for option, names in _takers().items():
        about = [layouts[name].OPTIONS[option] for name in names]
        texts = [f"{name}: {text}" for name, (_, text, _) in zip(names, about, strict=True)]
        add(f"--{option} {about[0][0]}", f"layout {'; '.join(texts)}", type=about[0][2])


def read(args: Namespace) -> dict[str, DataDir]:
    """Return the data directories of the corpus, by name, "" for the only one."""
    given = {option: getattr(args, option) for option in _takers() if getattr(args, option) is not None}
    for option in given:
        if args.layout not in _takers()[option]:
            known = " or ".join(_takers()[option])
            raise UsageError(f"--{option} goes with the layout {known}, not {args.layout}")
    skipped: list[str] | None = [] if args.bad_files == "skip" else None
    try:
        parts = _layouts()[args.layout].read(args.source, skipped, **given)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for fault in skipped or []:
        note(f"left out: {fault}")
    return parts if isinstance(parts, dict) else {"": parts}
