"""List the models that ship, or show the card of one."""

from __future__ import annotations

import argparse
import json

from audiomask.cli import Adder
from audiomask.cli._common import table
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import resolve, shipped


def add_arguments(add: Adder) -> None:
    add("model NAME|FILE|DIR", "show this one's card", nargs="?")
    add("--json", "for programs")


def run(args: argparse.Namespace) -> int:
    artifacts = resolve(args.model) if args.model else shipped()
    if args.json:
        print(json.dumps([_facts(a) for a in artifacts], indent=2))
    elif args.model:
        print("\n\n".join(map(_card, artifacts)))
    elif not artifacts:
        print("no models ship with this audiomask; make one with: audiomask train, audiomask export")
    else:
        head = ("name", "task", "Hz", "latency ms", "kB", "licence", "description")
        print(table(head, [_row(a) for a in artifacts]))
    return 0


def _row(a: Artifact) -> tuple:
    ms = round(1000 * a.latency / a.sample_rate, 1)
    size = round(len(a.data) / 1000)
    about = (a.meta.get("licence", ""), a.meta.get("description", ""))
    return (a.path.stem, a.task, a.sample_rate, ms, size, *about)


def _facts(a: Artifact) -> dict:
    """Return the metadata without the state's initial values, which are only for machines."""
    states = [{k: v for k, v in s.items() if k not in ("initial", "layout")} for s in a.meta["states"]]
    sizes = {"bytes": len(a.data), "state_bytes": a.state_bytes}
    return a.meta | {"states": states, "path": str(a.path)} | sizes


def _card(a: Artifact) -> str:
    """Return the card beside the model, or, for a model without one, what its metadata says."""
    beside = a.path.with_suffix(".md")
    if beside.is_file():
        return beside.read_text(encoding="utf-8").rstrip()
    ms = 1000 / a.sample_rate
    lines = [
        f"# {a.name}",
        a.meta.get("description", ""),
        f"task {a.task}, {a.sample_rate} Hz, {len(a.data) / 1e6:.2f} MB, "
        f"licence {a.meta.get('licence', 'unknown')}",
        f"latency {a.latency * ms:.1f} ms (delay {a.delay * ms:.1f} + hop {a.hop * ms:.1f}), "
        f"{a.state_bytes / 1000:.1f} kB of state per channel",
    ]
    if a.lost:
        lines.append(
            f"conceals losses that it is told of ({a.lost.name}): audiomask conceal, stream --packets, serve"
        )
    for port in a.outputs:
        if port.labels:
            few = ", ".join(port.labels[:8]) + ", ..." * (len(port.labels) > 8)
            lines.append(f"{port.name} of {len(port.labels)} labels: {few}")
    for port in a.controls.values():
        bounds = f"{port.minimum} to {port.maximum} {port.unit}".rstrip()
        lines.append(f"control {port.name}: {bounds}, default {port.default}. {port.doc}".rstrip(" ."))
    for key in ("training", "scores", "variant"):
        if a.meta.get(key):
            lines.append(f"{key}: {json.dumps(a.meta[key])}")
    return "\n".join(line for line in lines if line)
