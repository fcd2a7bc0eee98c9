"""turn recordings into vectors: one each, or one every so often

The model is a tagger's .onnx, or, where torch is installed, a folder of weights: a training run of
recipes/pretrain or recipes/classify.

  audiomask embed recordings/ -m tagger.onnx -o scenes.npz         # names [n], embeddings [n, D]
  audiomask embed recordings/ -m exp/audio_mae -o vectors/         # NAME.npy [D] each
  audiomask embed recordings/ -m exp/audio_mae -o v.npz --timestamps

With --timestamps there are several rows a recording, and times_ms [N], the middle of what each row tells of;
in a .npz of all, offsets [n + 1] say which rows are whose; in a folder each recording has a NAME.npz of
embeddings and times_ms. Channels are mixed into one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from audiomask.audio import AudioError, Reader
from audiomask.cli import UsageError
from audiomask.cli._results import Batch, Progress, add_result_arguments, report, whole_file
from audiomask.runtime.artifact import choose, resolve
from audiomask.runtime.files import Job, Report
from audiomask.runtime.polyphase import Polyphase
from audiomask.runtime.tagging import Clock, Whole, listener, rows
from audiomask.sources import Source

Vectors: TypeAlias = tuple[np.ndarray, np.ndarray]  # embeddings [n, D], times in ms [n]
Work: TypeAlias = Callable[[Job, Progress], tuple[Report, Vectors]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_result_arguments(
        parser,
        "file, folder, glob, .scp, data directory, or - for an audio file",
        "a .npz for all, or a folder of a file each",
    )
    parser.add_argument("--timestamps", action="store_true", help="a row every so often, with its time")


def run(args: argparse.Namespace) -> int:
    if not args.out or args.out == "-":
        raise UsageError("say where to write with -o: FILE.npz for all inputs, or a folder")
    together = Path(args.out).suffix.lower() == ".npz"
    work = (_from_weights if _is_folder_of_weights(args.model) else _from_artifact)(args)
    batch: Batch[Vectors] = Batch(args, "" if together else ".npz" if args.timestamps else ".npy")
    found: list[tuple[Source, Vectors]] = []

    def take(job: Job, vectors: Vectors) -> None:
        if together:
            found.append((job.source, vectors))
            return
        with whole_file(job.output, force=args.force, mode="wb") as file:
            if args.timestamps:
                np.savez(file, embeddings=vectors[0], times_ms=vectors[1])
            else:
                np.save(file, vectors[0][0])

    if not together:
        return batch.run(work, take)
    with whole_file(Path(args.out), force=args.force, mode="wb") as file:
        code = batch.run(work, take)
        if not found:
            raise AudioError(f"{args.out}: not written, since no input could be embedded")
        arrays = {
            "names": np.array([str(source) for source, _ in found]),
            "embeddings": np.concatenate([values for _, (values, _) in found]),
        }
        if args.timestamps:
            arrays["times_ms"] = np.concatenate([times for _, (_, times) in found])
            arrays["offsets"] = np.cumsum([0, *(len(times) for _, (_, times) in found)])
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return code


def _is_folder_of_weights(model: str | None) -> bool:
    return model is not None and Path(model).is_dir() and not list(Path(model).glob("*.onnx"))


def _from_artifact(args: argparse.Namespace) -> Work:
    family = resolve(args.model, task="tag")
    for artifact in family:
        listener(artifact, "embedding")

    def work(job: Job, progress: Progress) -> tuple[Report, Vectors]:
        start = time.perf_counter()
        with job.source.open() as reader:
            artifact = choose(family, reader.info.rate)
            extractor = listener(artifact, "embedding", reader.info.rate, args.threads)
            every, whole, values = Clock(extractor).every, Whole(), []
            for row in rows(reader, extractor, progress):
                whole.add(row)
                if args.timestamps:
                    values.append(row.values)
            if not args.timestamps:
                values = [whole.row().values]
            times = (np.arange(len(values), dtype=np.float32) + 0.5) * np.float32(1000 * every)
            return report(job, reader, extractor, start), (np.stack(values).astype(np.float32), times)

    return work


def _from_weights(args: argparse.Namespace) -> Work:
    import torch

    from audiomask import hear

    torch.set_num_threads(args.threads)
    model = hear.load_model(args.model)

    def work(job: Job, progress: Progress) -> tuple[Report, Vectors]:
        start = time.perf_counter()
        with job.source.open() as reader:
            x = torch.from_numpy(_mono(reader, model.sample_rate, progress))[None]
            if args.timestamps:
                values, times = hear.get_timestamp_embeddings(x, model)
                found = values[0].numpy(), times[0].numpy()
            else:
                found = hear.get_scene_embeddings(x, model).numpy(), np.zeros(1, np.float32)
            seconds, elapsed = reader.position / reader.info.rate, time.perf_counter() - start
            return Report(job, Path(args.model).name, seconds, elapsed, reader.notes), found

    return work


def _mono(reader: Reader, rate: int, progress: Progress) -> np.ndarray:
    """All of a recording, mixed into one channel, at ``rate`` Hz: ``[T]``."""
    info, parts = reader.info, []
    convert = Polyphase(info.rate, rate, 1) if info.rate != rate else None
    for block in reader.blocks(info.rate * 10):
        x = block.mean(axis=0, keepdims=True)
        parts.append(convert.push(x) if convert else x)
        progress(reader.position / info.rate, info.seconds)
    if convert:
        parts.append(convert.push(np.zeros((1, 2 * convert.half), np.float32)))
    return np.concatenate(parts, axis=1)[0, : -(-reader.position * rate // info.rate)]
