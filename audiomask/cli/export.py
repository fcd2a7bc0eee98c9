"""Turn a trained model into one self-describing ONNX file, and check it.

The graph is run against torch before anything is written, and refused where they differ. --check also opens
the written file with the runtime and plays noise through it in blocks of random sizes.

audiomask export exp/denoise -o denoise.onnx --check
audiomask export exp/denoise -o denoise_48k.onnx --arg sample_rate=48000 --card card.json

A variant has other numbers inside: int8 (large products in eight bits) or float16 (weights stored in two
bytes). Its error, PESQ and speed are measured on real speech, and it is refused where it does not pay. A file
that ends in .pt2 is a torch program, for servers with a GPU. STEM_prob.safetensors packs codes of the codec
STEM.

audiomask export denoise.onnx -o denoise_int8.onnx --variant int8
audiomask export exp/denoise -o denoise.pt2 --hops 4
audiomask export exp/hunch -o gist_prob.safetensors
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from audiomask.cli import Adder, UsageError
from audiomask.cli._common import parse_changes, positive

CARD = ("version", "description", "licence", "training", "scores", "default")


def add_arguments(add: Adder) -> None:
    source = "a training run, or a folder with its weights; for a variant also an artifact"
    add("model RUN|DIR|ONNX", source, type=Path)
    add("-o --out FILE", "the .onnx, .pt2 or .safetensors file to write", type=Path, required=True)
    add("-f --force", "overwrite the file")
    add("--check", "also play the file with the runtime and compare")
    add("--card JSON", "what it says of itself: " + ", ".join(CARD), type=Path)
    change = "change an argument of the model's class; the weights must still fit"
    add("--arg NAME=VALUE", change, action="append")
    add("--part NAME", "this one of a network's parts (default: all of them)")
    add("--variant {int8,float16}", "other numbers inside")
    corpus = "what a variant is measured on, speech/valid and noise/valid in it (default: egs/mini)"
    add("--corpus DIR", corpus, type=Path)
    add("--ungated", "write a variant that does not pay, with its figures")
    add("--hops N", "hops in a step of a .pt2, fixed in it (default 1)", type=positive)


def _card(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--card {path}: {error}") from error
    if not isinstance(card, dict) or set(card) - set(CARD):
        raise UsageError(f"--card {path}: a JSON object with none but {', '.join(CARD)}")
    return card


def _free(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise UsageError(f"{out} exists; -f overwrites it")


def _usage(args: argparse.Namespace) -> None:
    if args.out.suffix not in (".onnx", ".pt2", ".safetensors"):
        raise UsageError(
            f"{args.out}: the name of a model ends in .onnx, of a torch program in .pt2, of probabilities of "
            "codes in .safetensors"
        )
    program, artifact = args.out.suffix == ".pt2", args.model.suffix == ".onnx"
    graph = args.out.suffix == ".onnx"
    for option, value, fits, what in (
        ("--hops", args.hops, program, "is for .pt2 files"),
        ("--variant", args.variant, graph, "is for .onnx files"),
        ("--check", args.check, graph and not args.variant, "is for plain .onnx files"),
        ("--corpus", args.corpus, args.variant, "is for --variant"),
        ("--ungated", args.ungated, args.variant, "is for --variant"),
        ("--card", args.card, graph or program, "is for .onnx and .pt2 files"),
        ("--part", args.part, not artifact, "is for a run; an artifact is one part"),
        ("--card", args.card, not artifact, "is for a run; an artifact keeps its card"),
        ("--arg", args.arg, not artifact, "is for a run; an artifact's weights are fixed"),
    ):
        if value and not fits:
            raise UsageError(f"{option}: {what}")
    if artifact and not args.variant:
        raise UsageError(f"{args.model}: is exported already; from an artifact only a --variant can be made")


def run(args: argparse.Namespace) -> int:
    card = _card(args.card)
    changes = parse_changes(args.arg)
    _usage(args)
    if args.model.suffix == ".onnx":
        _free(args.out, args.force)
        _variant(args, args.model, args.out)
        return 0

    if args.out.suffix == ".safetensors":
        return _probabilities(args)
    from audiomask import weights
    from audiomask.export.packing import ExportError
    from audiomask.streaming import StreamingModel

    parts = weights.load_parts(args.model, **changes)
    for model, config in parts.values():
        if not isinstance(model, StreamingModel):
            raise ExportError(
                f"{args.model}: {config['class_path']} has no ports to stream through: it is a part of a "
                "model, or one to train from"
            )
    if args.part is not None and args.part not in parts:
        raise UsageError(f"--part {args.part}: there are: {' '.join(filter(None, parts)) or 'none'}")
    if len(parts) > 1:  # they belong together, and say so
        card["parts"] = {name: weights.fingerprint(*part) for name, part in parts.items()}
    outs = {name: args.out.with_name(f"{args.out.stem}_{name}{args.out.suffix}") for name in parts}
    if len(parts) == 1 or args.part is not None:
        outs = {args.part or next(iter(parts)): args.out}
    for out in outs.values():
        _free(out, args.force)
    for name, out in outs.items():
        _export(args, *parts[name], out, card)
    return 0


def _probabilities(args: argparse.Namespace) -> int:
    from audiomask import weights
    from audiomask.export.packing import ExportError
    from audiomask.export.probabilities import export
    from audiomask.models.hunch import Hunch

    model, config = weights.load(args.model, **parse_changes(args.arg))
    if not isinstance(model, Hunch):
        raise ExportError(
            f"{args.model}: {config['class_path']} knows no probabilities of codes; name an .onnx file"
        )
    _free(args.out, args.force)
    made = export(model, args.out)
    size = args.out.stat().st_size / 1e6
    print(
        f"{args.out}: probabilities of {made.name}, {made.books} books of {made.levels} codes, {size:.2f} MB"
    )
    return 0


def _export(args: argparse.Namespace, model: Any, config: dict[str, Any], out: Path, card: dict) -> None:
    from audiomask.export.onnx_file import export
    from audiomask.export.proof import check_file

    if args.variant:
        with tempfile.TemporaryDirectory() as folder:
            original = Path(folder) / out.name
            export(model, original, config, **card)
            return _variant(args, original, out)
    if out.suffix == ".pt2":
        from audiomask.export import torch_program

        document = torch_program.export(model, out, config, args.hops or 1, **card)
    else:
        document = export(model, out, config, **card)
    size = out.stat().st_size / 1e6
    rate, latency, equality = document["sample_rate"], document["latency"], document["equality"]
    print(f"{out}: {document['name']}, {rate} Hz, latency {latency} samples, {size:.2f} MB")
    what = f"a step of {document['program']['hops']} hops" if "program" in document else "the graph"
    print(f"{out}: {what} equals torch to {equality:.1e} of the peak")
    if args.check:
        error = check_file(model, out)
        print(f"{out}: the runtime equals torch to {error:.1e} of the peak")


def _variant(args: argparse.Namespace, original: Path, out: Path) -> None:
    from audiomask.export.variant_cost import words
    from audiomask.export.variants import export_variant
    from audiomask.runtime.artifact import Artifact

    entry = export_variant(Artifact.load(original), out, args.variant, args.corpus, args.ungated)
    print(f"{out}: {args.variant}, {words(entry)}")
