"""Add a model's options, print messages and format plain tables, for several verbs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

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


def unit_interval(text: str) -> float:
    """Return a number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is outside 0 to 1")
    return value


def add_model_arguments(parser: argparse.ArgumentParser, *, controls: bool = True) -> None:
    """Add `-m`, `--threads` and the controls."""
    add = parser.add_argument
    add(
        "-m",
        "--model",
        metavar="NAME|FILE|DIR",
        help="a shipped model (audiomask models lists them), or your own",
    )
    add("--threads", type=positive, default=1, metavar="N", help="threads per stream (default 1)")
    if not controls:
        return
    add(
        "--dry",
        type=unit_interval,
        default=0.0,
        metavar="0..1",
        help="share of the untouched sound (default 0)",
    )
    add("--strength", type=float, metavar="0..1", help="how much of the mask to apply")
    add("--atten-lim", type=float, metavar="DB", help="attenuate by no more than this")
    add(
        "--set",
        action="append",
        default=[],
        metavar="CONTROL=VALUE",
        help="any other control of the model; its card lists them",
    )


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
