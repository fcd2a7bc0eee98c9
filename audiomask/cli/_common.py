"""Add a model's options, print messages and format plain tables, for several verbs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from audiomask.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE
from audiomask.cli import Adder, UsageError, trace

if TYPE_CHECKING:
    from audiomask.ports import Port
    from audiomask.runtime.artifact import Artifact

FINITE = sys.float_info.max


def between(
    low: float, high: float = FINITE, kind: Callable = float, unit: str = "", *, above: bool = False
) -> Callable[[str], float]:
    """Return a parser of finite numbers from `low`, or `above` it, to `high`, for argparse."""

    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high or (above and value == low):
            raise argparse.ArgumentTypeError(f"{text} is {wrong}")
        return value

    wrong = f"outside {low} to {high} {unit}".rstrip()
    if high == FINITE:
        wrong = f"not above {low}" if above else f"less than {low}"
    parse.__name__ = kind.__name__  # argparse names it
    return parse


positive = between(1, kind=int)


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def add_model_arguments(add: Adder, *, controls: bool = True, rate: str = "", channels: str = "") -> None:
    """Add `-m`, `--threads`, the controls, and by their help `--rate` and `--channels`."""
    add("-m --model NAME|FILE|DIR", "a shipped model (audiomask models lists them), or your own")
    add("--threads N", "threads per stream", type=positive, default=1)
    if controls:
        add("--dry 0..1", "fraction of the untouched sound", type=between(0, 1), default=0.0)
        add("--strength 0..1", "how much of the mask to apply", type=float)
        add("--atten-lim DB", "attenuate by no more than this", type=float)
        add("--set CONTROL=VALUE", "any other control of the model; its card lists them", action="append")
    if rate:
        add("--rate HZ", rate, type=between(MIN_RATE, MAX_RATE, int, "Hz"))
        add("--channels N", channels, type=between(1, MAX_CHANNELS, int))


def assigned(option: str, texts: Iterable[str], parse: Callable[[str], Any], example: str) -> dict[str, Any]:
    """Return the values of an option that takes NAME=VALUE; `UsageError` names an `example`."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            values[name.strip()] = parse(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise UsageError(f"{option} {text}: expected {example}")
    return values


def controls(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the model's controls that the command line sets."""
    given = {"strength": args.strength, "atten_lim": args.atten_lim}
    values = assigned("--set", args.set, float, "CONTROL=NUMBER, as in --set strength=0.8")
    return values | {name: value for name, value in given.items() if value is not None}


def parse_gains(texts: Iterable[str]) -> dict[str, float]:
    """Return decibels by stem of `--gains NAME=DB,NAME=DB`; may raise `UsageError`."""
    return assigned("--gains", ",".join(texts).split(","), float, "NAME=DB, as in --gains vocals=-20")


def add_gains(add: Adder) -> None:
    """Add `--gains`, of a live sound; see `gains_of`."""
    add("--gains NAME=DB,NAME=DB", "play the input with these sounds of the model turned", action="append")


def gains_of(args: argparse.Namespace, output: str | None, option: str) -> dict[str, float] | None:
    """Return what `--gains` says, None if it is not given; `UsageError` beside an `output`."""
    if args.gains and output is not None:
        raise UsageError(f"{option} {output}: is one sound by itself; leave it out, or --gains")
    return parse_gains(args.gains) if args.gains else None


def parse_changes(pairs: list[str]) -> dict[str, Any]:
    """Return the arguments of a model's class that `--arg NAME=VALUE` sets, by JSON or as text."""

    def parse(text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text

    return assigned("--arg", pairs, parse, "NAME=VALUE")


def refuse_told(artifacts: Iterable[Artifact], remedy: str) -> None:
    """Raise `UsageError` if a model has to be informed of losses, where nobody can do so."""
    for artifact in artifacts:
        if artifact.lost and artifact.streams[0].type == "pcm":  # of frames of codes none is lost
            raise UsageError(f"{artifact.name}: conceals losses that it is told of; {remedy}")


def refuse_unset(artifacts: Iterable[Artifact], given: Container[str]) -> None:
    """Raise `UsageError` if a model has a control without a default that is not `given`."""
    for artifact in artifacts:
        for port in artifact.unset(given):
            remedy = f"give --set {port.name}=VALUE"
            if port.channels > 1:  # which no option here can give
                remedy = f"its task is {artifact.task}: see audiomask {artifact.task} --help"
            raise UsageError(f"{artifact.name}: cannot run without its control {port.name}; {remedy}")


def one_output(artifact: Artifact, name: str | None, option: str = "--output") -> Port:
    """Return the output named, or the only one or only sound of a model; else `UsageError`."""
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


def failures(failed: Sequence[Exception], count: int) -> int:
    """Print a line for each of the failures among `count`, and return the exit code."""
    if failed and count > 1:
        note(f"{len(failed)} of {count} failed:")
    for error in failed:
        note(f"error: {error}")
        trace(error)
    return int(bool(failed))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return columns under their heads, numbers to the right."""
    cells = [[str(c) for c in row] for row in (head, *rows)]
    width = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, width, right, strict=True)).rstrip()
        for row in cells
    )
