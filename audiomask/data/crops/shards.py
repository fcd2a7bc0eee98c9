"""Write and read tar shards, for corpora too large or too far away for a memory map.

    shards/shard-000000.tar   00000000.flac  00000000.json  00000001.flac ...   (WebDataset's layout)
           shards.json        sample rate, and each shard's utterances and samples

`write` shuffles the utterances over all shards, so that any one shard is a sample of the corpus. Labels
(utt2label) travel in the json of their utterance; shards.json then counts the utterances of each label and
sums each shard's weights (`labels.rarity`). `ShardedAudio` takes the place of `PackedAudio`, with one shard
at a time in memory, as FLAC: it serves as many rows as it has audio for, then the next shard of the pass
comes. A row's number says which shard is its own, so nothing has to be saved to resume.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile as sf

from audiomask.audio import AudioError, make_folder, replacing
from audiomask.data.crops.labels import count, labels_of, rarity
from audiomask.data.crops.packed import Corpus, within_full_scale
from audiomask.data.kaldi.directory import DataDir, DataError, read_mono

INDEX = "shards.json"
Share = Literal["samples", "utterances", "weight"]
REMEDY = "copy it again, or write the shards anew with `audiomask data shard`"


def write(
    data: DataDir,
    out: str | Path,
    sample_rate: int,
    shard_bytes: int = 256 * 2**20,
    seed: int = 0,
    allow_pipes: bool = False,
) -> tuple[int, list[AudioError]]:
    """Write utterances below `out` as mono 16-bit FLAC; return the number of shards and errors.

    The order is drawn with `seed`; a shard is closed when it reaches `shard_bytes`. The index is written
    last, so an interrupted folder is not mistaken for a finished one. AudioError if nothing could be read.
    """
    from webdataset import ShardWriter

    out = Path(out)
    make_folder(out)
    utterances = list(data.utterances())
    labels = labels_of(data) if "utt2label" in data.tables else {}
    written: dict[str, list[tuple[int, list[str]]]] = {}  # samples and labels by shard
    order = np.random.default_rng(seed).permutation(len(utterances))
    failed: list[AudioError] = []
    pattern = str(out).replace("%", "%%") + "/shard-%06d.tar"
    with ShardWriter(pattern, maxcount=2**40, maxsize=shard_bytes, verbose=0, mtime=0) as sink:
        for number, u in enumerate(utterances[i] for i in order):
            try:
                x = within_full_scale(read_mono(data, u, sample_rate, allow_pipes=allow_pipes))
            except AudioError as error:
                failed.append(error)
                continue
            if not len(x):
                continue
            flac = io.BytesIO()
            sf.write(flac, np.round(x * 32767).astype(np.int16), sample_rate, "PCM_16", format="FLAC")
            sound = flac.getvalue()
            facts: dict[str, Any] = {"key": u.key, "group": u.speaker or u.key, "samples": len(x)}
            # libsndfile silently decodes a FLAC frame with a wrong checksum to silence
            facts |= {"crc": zlib.crc32(sound)} | ({"labels": labels[u.key]} if labels else {})
            sink.write({"__key__": f"{number:08d}", "flac": sound, "json": json.dumps(facts).encode()})
            written.setdefault(Path(sink.fname).name, []).append((len(x), labels.get(u.key, [])))
    if not written:
        raise AudioError(f"{data.path}: no audio to write to shards; `audiomask data validate` says why")
    index: dict[str, Any] = {"sample_rate": sample_rate, "seed": seed}
    if labels:
        index["labels"] = count(names for parts in written.values() for _, names in parts)
    index["shards"] = []
    for name, parts in written.items():
        shard = {"name": name, "utterances": len(parts), "samples": sum(samples for samples, _ in parts)}
        weight = {"weight": sum(rarity(names, index["labels"]) for _, names in parts)} if labels else {}
        index["shards"].append(shard | weight)
    with replacing(out / INDEX) as part:
        part.write_text(json.dumps(index, indent=1) + "\n")
    return len(written), failed


def sharded(path: str | Path) -> bool:
    """Return whether `path` is a folder of shards."""
    return (Path(path) / INDEX).exists()


def label_counts(folder: str | Path) -> dict[str, int]:
    """Return how many utterances have each label; DataError if the shards hold no labels."""
    counts = json.loads((Path(folder) / INDEX).read_text()).get("labels")
    if not counts:
        raise DataError(
            f"{folder}: these shards hold no labels; write them with `audiomask data shard` of a directory "
            "that has utt2label"
        )
    return counts


class ShardedAudio(Corpus):
    """A sharded corpus, whose open shard alone is drawn from; `seek` opens that of a row.

    A stream of rows is drawn by one loading process of one rank. With `world` ranks of `workers` each, every
    stream has its own shards, `shards[stream::streams]`, in an order drawn anew for each pass. All seconds of
    the open shard are drawn alike.

    Args:
        folder, sample_rate: Folder written by `write`, and the rate of its shards in Hz.
        length: Samples of the crop of a row: a shard serves its samples / `length` rows.
        batch_size, world, workers, seed: Numbers of the training; the rows of a run depend on all of them.
        share: Quantity to which a shard's rows are proportional: its "samples", its "utterances" (a row
            each), or the "weight" of its labels, by which `labels.rarity` draws all classes alike.
    """

    def __init__(
        self,
        folder: str | Path,
        sample_rate: int,
        length: int,
        batch_size: int,
        world: int = 1,
        workers: int = 1,
        seed: int = 0,
        share: Share = "samples",
    ):
        self.folder = Path(folder)
        index = json.loads((self.folder / INDEX).read_text())
        if index["sample_rate"] != sample_rate:
            raise AudioError(
                f"{self.folder}: its audio has {index['sample_rate']} Hz and the training {sample_rate} Hz; "
                f"write shards with `audiomask data shard --rate {sample_rate}`"
            )
        self.shards: list[dict[str, Any]] = index["shards"]
        self.batch_size, self.world, self.workers, self.seed = batch_size, world, max(1, workers), seed
        self.streams = world * self.workers
        if len(self.shards) < self.streams:
            raise AudioError(
                f"{self.folder}: {len(self.shards)} shards cannot be shared out among {world} processes with "
                f"{self.workers} loading workers each; write smaller ones (`audiomask data shard --size`) or "
                "take fewer --data.workers"
            )
        amount = np.array([s[share] for s in self.shards])
        if share == "samples":
            amount = amount // length
        elif share == "weight":
            amount = amount / amount.sum() * sum(s["utterances"] for s in self.shards)
        self.rows = amount.round().astype(int).clip(1)
        self.name = ""
        self._flac: tuple[bytes, ...] = ()

    def shard_of(self, row: int) -> str:
        """Return the name of the shard that `row` is drawn from (see `data.modules.Batches`)."""
        batch, place = divmod(row, self.batch_size)
        batch, rank = divmod(batch, self.world)
        stream = rank * self.workers + batch % self.workers  # batches go round the workers
        mine = np.arange(stream, len(self.shards), self.streams)
        at = batch // self.workers * self.batch_size + place
        turn, at = divmod(at, int(self.rows[mine].sum()))
        order = np.random.default_rng([self.seed, stream, turn]).permutation(mine)
        return self.shards[order[np.searchsorted(np.cumsum(self.rows[order]), at, side="right")]]["name"]

    def seek(self, row: int) -> None:
        """Open the shard of `row`; AudioError if it is missing, cut short or damaged."""
        if (name := self.shard_of(row)) != self.name:
            flac, facts = zip(*self._read(name), strict=True)
            self.name, self._flac = name, flac
            self.labels = [f.get("labels", []) for f in facts]
            self.lengths = np.array([f["samples"] for f in facts])
            self.cdf = np.cumsum(self.lengths / self.lengths.sum())

    def _read(self, name: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
        from webdataset.tariterators import tarfile_samples

        path = self.folder / name
        wanted = next(s["utterances"] for s in self.shards if s["name"] == name)
        count = 0
        try:
            for sample in tarfile_samples([{"url": str(path)}]):
                flac, facts = sample["flac"], json.loads(sample["json"])
                if zlib.crc32(flac) != facts["crc"]:
                    raise AudioError(f"{path}: damaged at {facts['key']}; {REMEDY}")
                yield flac, facts
                count += 1
        except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
            if isinstance(error, AudioError):
                raise
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error.args[0]
            raise AudioError(f"{path}: cannot be read ({reason}); {REMEDY}") from None
        if count != wanted:
            raise AudioError(f"{path}: ends after {count} of {wanted} utterances; {REMEDY}")

    def read(self, i: int, at: int, count: int) -> np.ndarray:
        with sf.SoundFile(io.BytesIO(self._flac[i])) as file:
            file.seek(at)
            return file.read(count, dtype="float32")
