"""Turn recordings into vectors: one each, or one every so often.

The model is a tagger's .onnx, or, where torch is installed, a folder of weights: a training run of
recipes/pretrain or recipes/classify.

  audiomask embed recordings/ -m tagger.onnx -o scenes.npz         # names [n], embeddings [n, D]
  audiomask embed recordings/ -m exp/audio_mae -o vectors/         # NAME.npy [D] each
  audiomask embed recordings/ -m exp/audio_mae -o v.npz --timestamps

With --timestamps a recording has several rows, and times_ms [N] holds the middle of the sound of each; in a
.npz of all recordings, offsets [n + 1] say which rows belong to which; in a folder each recording has a
NAME.npz of embeddings and times_ms. Channels are mixed into one.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from audiomask.audio import AudioError, Reader, mono, replacing
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import add_model_arguments
from audiomask.cli._files import add_batch_arguments, find, plan, run_batch
from audiomask.runtime.catalogue import choose, resolve
from audiomask.runtime.files.batch import Job, Report, Tick, Work, reported
from audiomask.runtime.files.sinks import Output
from audiomask.runtime.outputs.tags import Clock, listener, pooled, rows
from audiomask.runtime.polyphase import Polyphase

Vectors: TypeAlias = tuple[np.ndarray, np.ndarray]  # embeddings [n, D], times in ms [n]


def add_arguments(add: Adder) -> None:
    inputs = "file, folder, glob, .scp, data directory, or - for an audio file"
    add_batch_arguments(add, inputs, "a .npz for all, or a folder of a file each")
    add_model_arguments(add, controls=False)
    add("--timestamps", "a row every so often, with its time")


class Embedding(Work):
    """A `Work` that makes vectors of recordings by an artifact, as results or files."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.overwrite, self.threads = args, args.force, args.threads
        self.family = resolve(args.model, task="tag")
        for artifact in self.family:
            listener(artifact, "embedding")

    def vectors(self, reader: Reader, tick: Tick) -> tuple[Vectors, int]:
        """Return the vectors of a recording, and in how many blocks the model failed."""
        player = listener(choose(self.family, reader.info.rate), "embedding", reader.info.rate, self.threads)
        found = rows(reader, player, tick)
        values = [row.values for row in (found if self.args.timestamps else [pooled(found)])]
        times = (np.arange(len(values), dtype=np.float32) + 0.5) * np.float32(1000 * Clock(player).every)
        end = 1000 * reader.position / reader.info.rate
        kept = max(1, int((times <= end).sum()))  # as in `hear`: not one whose middle lies past the end
        return (np.stack(values[:kept]).astype(np.float32), times[:kept].clip(max=end)), player.faults

    def do(self, job: Job, reader: Reader, tick: Tick) -> Report:
        found, faults = self.vectors(reader, tick)
        for path in job.files.values():
            with replacing(path, overwrite=self.overwrite) as part, part.open("wb") as file:
                if self.args.timestamps:
                    np.savez(file, embeddings=found[0], times_ms=found[1])
                else:
                    np.save(file, found[0][0])
        return reported(job, reader, self.model_of(reader), faults, result=None if job.files else found)


class OfWeights(Embedding):
    """A `Work` that makes vectors of recordings by a network in torch."""

    def __init__(self, args: argparse.Namespace):
        import torch

        from audiomask import hear

        self.args, self.overwrite, self.threads = args, args.force, args.threads
        torch.set_num_threads(args.threads)
        self.model = hear.load_model(args.model)

    def model_of(self, reader: Reader) -> str:
        return Path(self.args.model).name

    def vectors(self, reader: Reader, tick: Tick) -> tuple[Vectors, int]:
        import torch

        from audiomask import hear

        x = torch.from_numpy(_mono(reader, self.model.sample_rate, tick))[None]
        if not self.args.timestamps:
            return (hear.get_scene_embeddings(x, self.model).numpy(), np.zeros(1, np.float32)), 0
        values, times = hear.get_timestamp_embeddings(x, self.model)
        return (values[0].numpy(), times[0].numpy()), 0


def run(args: argparse.Namespace) -> int:
    if not args.out or args.out == "-":
        raise UsageError("say where to write with -o: FILE.npz for all inputs, or a folder")
    together = Path(args.out).suffix.lower() == ".npz"
    weights = args.model and Path(args.model).is_dir() and not list(Path(args.model).glob("*.onnx"))
    load = partial(OfWeights if weights else Embedding, args)
    work = load()
    sources, failed = find(args)
    output = Output("embeddings", (), ".npz" if args.timestamps else ".npy")
    jobs = plan(args, sources, [] if together else [output], folder=True)
    reports: list[Report] = []
    with replacing(args.out, overwrite=args.force) if together else nullcontext() as part:
        code, _ = run_batch(args, jobs, failed, load, work, take=reports.append)
        if part is None:
            return code
        if not reports:
            raise AudioError(f"{args.out}: not written, since no input could be embedded")
        names = np.array([str(report.job.source) for report in reports])
        values, times = zip(*(report.result for report in reports), strict=True)
        arrays = {"names": names, "embeddings": np.concatenate(values)}
        if args.timestamps:
            arrays |= {"times_ms": np.concatenate(times), "offsets": np.cumsum([0, *map(len, times)])}
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    return code


def _mono(reader: Reader, rate: int, tick: Tick) -> np.ndarray:
    """Return a whole recording, mixed into one channel, at `rate` Hz: `[T]`."""
    info, parts = reader.info, []
    convert = Polyphase(info.rate, rate, 1) if info.rate != rate else None
    for x in mono(reader.blocks(info.rate * 10), info.rate):
        parts.append(convert.push(x) if convert else x)
        tick(reader.position / info.rate, info.seconds)
    if convert:
        parts.append(convert.push(np.zeros((1, 2 * convert.half), np.float32)))
    return np.concatenate(parts, axis=1)[0, : -(-reader.position * rate // info.rate)]
