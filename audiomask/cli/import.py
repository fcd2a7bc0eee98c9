"""Take over a checkpoint of its authors: demucs, cleanunet, gtcrn, dtln and others.

Its weights go into our class of the same network, which streams; the network becomes one ONNX file, checked
against torch as in `audiomask export`. Nothing in the checkpoint is run. Mind the licence of the weights,
which is printed and kept in the file.

audiomask import dtln model_1.onnx model_2.onnx -o dtln.onnx
audiomask import demucs dns48-11decc9d8e3f0998.th -o dns48.onnx --weights exp/dns48
audiomask import audio_mae pretrained.pth --weights exp/audio_mae
audiomask import encodec encodec_24khz-d7cc33bc.th -o encodec.onnx
audiomask import dac weights_24khz.pth -o dac.onnx
audiomask import mimi tokenizer-e351c8d8-checkpoint125.safetensors -o mimi.onnx
audiomask import silentcipher 44_1_khz/73999_iteration -o silentcipher.onnx
audiomask import audioseal generator_base.pth -o audioseal_generator.onnx
audiomask import htdemucs 955717e8-8726e21a.th -o htdemucs.onnx
audiomask import open_unmix vocals-b62c91ce.pth drums-9619578f.pth bass-8d85a5bd.pth -o umx.onnx

A network that only serves to train from, such as audio_mae, has no ONNX file. One that has parts has a file
for each: `-o NAME.onnx` writes NAME_enc.onnx and NAME_dec.onnx of a codec, and NAME_mark.onnx and
NAME_detect.onnx of a marker.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from audiomask.cli import Adder, UsageError
from audiomask.cli._common import parse_changes


def add_arguments(add: Adder) -> None:
    add("family FAMILY", "the network's name")
    add(
        "files FILE",
        "the checkpoint; for dtln two ONNX files, for silentcipher its folder, for open_unmix a file a stem",
        nargs="+",
    )
    add("-o --out FILE", "the ONNX file to write", type=Path)
    add("-f --force", "overwrite the file")
    add("--weights DIR", "also keep config and weights here, to train on from them", type=Path)
    argument = "an argument of the model's class that the weights do not tell, such as stride=2"
    add("--arg NAME=VALUE", argument, action="append")


def run(args: argparse.Namespace) -> int:
    changes = parse_changes(args.arg)
    if not args.out and not args.weights:
        raise UsageError("nothing to write: give -o FILE.onnx, --weights DIR, or both")
    if args.out and args.out.suffix != ".onnx":
        raise UsageError(f"{args.out}: the name of a model ends in .onnx")
    for path in (args.out, args.weights and args.weights / "config.json"):
        if path and path.exists() and not args.force:
            raise UsageError(f"{path} exists; -f overwrites it")

    from audiomask import checkpoints, weights
    from audiomask.export.onnx_file import export
    from audiomask.export.proof import check_file
    from audiomask.streaming import StreamingModel

    model, config, card = checkpoints.load(args.family, args.files, **changes)
    if args.out and not isinstance(model, StreamingModel):
        raise UsageError(f"{args.family} is to train from and has no ONNX file; give --weights DIR, not -o")
    count = sum(p.numel() for p in model.parameters())
    print(f"{args.family}: {count:,} parameters; licence of the weights: {card['licence']}")
    if args.weights:
        weights.save(args.weights, model, config)
        print(f"{args.weights}: config and weights")
    if not isinstance(model, StreamingModel) or not args.out:
        return 0
    state, models, outs = model.state_dict(), {}, {}
    for part, own in weights.part_configs(config).items():
        outs[part] = args.out.with_name(f"{args.out.stem}_{part}.onnx") if part else args.out
        if part and outs[part].exists() and not args.force:
            raise UsageError(f"{outs[part]} exists; -f overwrites it")
        models[part] = weights.load_model(own).eval() if part else model, own
        models[part][0].load_state_dict(weights.part_tensors(state, part))
    if len(models) > 1:  # they belong together, and say so
        card["parts"] = {part: weights.fingerprint(*pair) for part, pair in models.items()}
    for part, (network, own) in models.items():
        out = outs[part]
        document = export(network, out, own, **card)
        error = max(document["equality"], check_file(network, out))
        rate = document["sample_rate"]
        print(f"{out}: {document['name']}, {rate} Hz, equals torch to {error:.1e} of the peak")
    return 0
