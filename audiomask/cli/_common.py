"""Add a model's options, print messages and format plain tables, for several verbs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from audiomask.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE
from audiomask.cli import UsageError

if TYPE_CHECKING:
    from audiomask.ports import Port
    from audiomask.runtime.artifact import Artifact


def positive(text: str) -> int:
    """Return an integer from 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def between(low: float, high: float, kind: Callable[[str], float] = float) -> Callable[[str], float]:
    """Return a parser of numbers from `low` to `high`, for argparse."""

    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is outside {low} to {high}")
        return value

    parse.__name__ = kind.__name__  # argparse names it
    return parse


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def adder(parser: argparse._ActionsContainer) -> Callable[..., None]:
    """Return `add("-o --out FILE", "help", type=Path)`, for a parser or a group of its options.

    The first words are the argument's names, the others its metavar. An option without a metavar or settings
    is a switch. `action="append"` collects values in a list, which is empty at first.
    """

    def add(form: str, help: str | None = None, **how: Any) -> None:
        words = form.split()
        names = [word for word in words if word.startswith("-")] or words[:1]
        metavar = tuple(words[len(names) :])
        if metavar:
            how["metavar"] = metavar[0] if len(metavar) == 1 else metavar
        elif not how and form.startswith("-"):
            how["action"] = "store_true"
        if how.get("action") == "append":
            how.setdefault("default", [])
        parser.add_argument(*names, help=help, **how)

    return add


def add_model_arguments(parser: argparse.ArgumentParser, *, controls: bool = True) -> None:
    """Add `-m`, `--threads` and the controls."""
    add = adder(parser)
    add("-m --model NAME|FILE|DIR", "a shipped model (audiomask models lists them), or your own")
    add("--threads N", "threads per stream (default 1)", type=positive, default=1)
    if not controls:
        return
    add("--dry 0..1", "fraction of the untouched sound (default 0)", type=between(0, 1), default=0.0)
    add("--strength 0..1", "how much of the mask to apply", type=float)
    add("--atten-lim DB", "attenuate by no more than this", type=float)
    add("--set CONTROL=VALUE", "any other control of the model; its card lists them", action="append")


def controls(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the model's controls that the command line sets."""
    values: dict[str, Any] = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        try:
            values[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise UsageError(f"--set {text}: expected CONTROL=NUMBER, as in --set strength=0.8")
    if args.strength is not None:
        values["strength"] = args.strength
    if args.atten_lim is not None:
        values["atten_lim"] = args.atten_lim
    return values


def parse_changes(pairs: list[str]) -> dict[str, Any]:
    """Return the arguments of a model's class that `--arg NAME=VALUE` sets."""
    changes = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--arg {pair!r}: write NAME=VALUE")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return changes


def check_form(args: argparse.Namespace) -> None:
    """Raise `UsageError` for a --rate or --channels that no sound has."""
    if args.rate and not MIN_RATE <= args.rate <= MAX_RATE:
        raise UsageError(f"--rate {args.rate}: is outside {MIN_RATE} to {MAX_RATE} Hz")
    if args.channels and args.channels > MAX_CHANNELS:
        raise UsageError(f"--channels {args.channels}: are more than {MAX_CHANNELS}")


def refuse_told(artifacts: Iterable[Artifact], remedy: str) -> None:
    """Raise `UsageError` if a model has to be informed of losses, where nobody can do so."""
    for artifact in artifacts:
        if artifact.lost and artifact.streams[0].type == "pcm":  # of frames of codes none is lost
            raise UsageError(f"{artifact.name}: conceals losses that it is told of; {remedy}")


def one_output(artifact: Artifact, name: str | None, option: str = "--output") -> Port:
    """Return the output that `option` names, or the only one of a model, or its only sound.

    Raises `UsageError` where there are several, or none of the name.
    """
    ports = {port.name: port for port in artifact.outputs}
    if name is not None and name not in ports:
        raise UsageError(f"{option} {name}: {artifact.name} has {' '.join(ports)}")
    sounds = [port for port in ports.values() if port.type == "pcm"]
    found = [ports[name]] if name is not None else sounds or list(ports.values())
    if len(found) > 1:
        names = " ".join(port.name for port in found)
        raise UsageError(f"{artifact.name}: makes {names}; choose one with {option}")
    return found[0]


def note(text: str, *, quiet: bool = False) -> None:
    """Print a line for the user on standard error, which never mixes with results."""
    if not quiet:
        print(f"audiomask: {text}", file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return columns under their heads, numbers to the right."""
    cells = [[str(c) for c in row] for row in (head, *rows)]
    width = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, width, right, strict=True)).rstrip()
        for row in cells
    )
