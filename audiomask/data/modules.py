"""Give each process of a training its batches, from the data that a recipe names.

`NoisySpeech`, `NoisyArray` and `LossySpeech` mix speech and noise, `PairedSpeech` takes the pairs of a
corpus, `Music` takes songs in their channels, `StemSounds` the stems of mixes, `Codes` those of a codec,
`Sounds` and `LabelledSounds` any recordings.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, Sampler

from audiomask.audio import AudioError
from audiomask.data.crops.clips import Clips, Crops, LabelledClips, confidences
from audiomask.data.crops.codes import DrawnPackets, PackedCodes, Packets, coded
from audiomask.data.crops.labels import LabelledCrops, count, labels_of
from audiomask.data.crops.music import MusicClips, MusicCrops, read_stems
from audiomask.data.crops.packed import Corpus, PackedAudio, SpeechAndNoise, pack
from audiomask.data.crops.pairs import PairCrops, Pairs
from audiomask.data.crops.scores import ScoredCrops, read_score
from audiomask.data.crops.shards import ShardedAudio, Share, label_counts, sharded
from audiomask.data.crops.stems import StemCrops
from audiomask.data.kaldi.directory import DataDir, Utterance, read_mono
from audiomask.data.simulate.packet_loss import Traced
from audiomask.masks.packets import TRACE_MS
from audiomask.runtime.catalogue import codec_part


@dataclass(eq=False)
class Batches(Sampler[list[int]]):
    """Numbers the rows of one process' batches, from where the training stands.

    An iteration ends with the epoch, and the rows of a run are counted through. Batch `i` of `world`
    processes is the next `world * batch_size` rows, and each process takes its `batch_size` in the order of
    `rank`: two processes with B rows each train on the rows of one process with 2 B. `position` counts the
    batches trained on; Lightning's epochs are one further in a run resumed from the end of an epoch.
    """

    steps: int
    batch_size: int
    position: Callable[[], int]
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        start = self.position()
        for batch in range(start, start + self.steps - start % self.steps):
            first = (batch * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return self.steps


def packed(
    data: DataDir, cache: Path, sample_rate: int, read: Callable[[Utterance], np.ndarray], tables: str = "wav"
) -> Path:
    """Return the prefix of the packed corpus of `data`; make it, by `read`, if it is missing.

    The prefix contains a hash of its sources: the place of `data`, its `tables` (comma-separated stems), and
    size and time of every file that they name, so that a recording that was replaced is packed anew.
    """
    scps = [f"{stem}.scp" for stem in tables.split(",")]
    entries = {entry for name in scps for entry in data.tables.get(name, {}).values()}
    files = {entry: _stamp(data.resolve(entry)) for entry in entries if not entry.endswith("|")}
    rows = {name: data.tables.get(name) for name in (*scps, "segments", "utt2spk")}
    digest = hashlib.sha256(json.dumps([str(data.path.resolve()), rows, files], sort_keys=True).encode())
    prefix = cache / f"{data.path.resolve().name}-{sample_rate}-{digest.hexdigest()[:12]}"
    if not prefix.with_suffix(".json").exists():
        pack(((u.key, u.speaker or u.key, partial(read, u)) for u in data.utterances()), prefix, sample_rate)
    return prefix


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # reading it will raise
        return None
    return status.st_size, status.st_mtime_ns


class Rows(pl.LightningDataModule):
    """A base of data modules, with numbered rows for training and fixed clips for validation.

    Args:
        train, valid: Data directories; `train` may be a folder of shards (see `crops.shards`).
        cache: Folder for the packed corpora, reused while the recordings and their tables are unchanged.
        sample_rate: Rate in Hz; in a recipe that of the network, which fills it in.
        batch_size, steps: Rows of a batch in each process, batches of an epoch (validation ends it).
        segment, seed: Samples of a training row, and the seed that, with its number, determines it.
        workers: Processes that cut crops; 0 does it in the training process.
    """

    def __init__(
        self,
        train: str,
        valid: str,
        cache: str = "exp/cache",
        sample_rate: int | None = None,
        batch_size: int = 16,
        steps: int = 500,
        segment: int = 32000,
        seed: int = 0,
        workers: int = 1,
    ):
        super().__init__()
        if not sample_rate:
            raise AudioError(f"{type(self).__name__}: give sample_rate, in Hz")
        self.train_dir, self.valid_dir, self.cache, self.sample_rate = train, valid, Path(cache), sample_rate
        self.batch_size, self.steps, self.segment = batch_size, steps, segment
        self.seed, self.workers = seed, workers

    def rows(self) -> Dataset[Any]:
        """Return the training rows by their number."""
        raise NotImplementedError

    def clips(self, path: str) -> Dataset[Any]:
        """Return what a data directory holds to validate with: pairs, where a module says no other."""
        return Pairs(path, self.sample_rate)

    def sources(self) -> list[str]:
        """Return the data directories or folders of shards that training reads."""
        return [self.train_dir]

    @property
    def raw(self) -> int:
        """Return the samples of raw material that the task's simulation makes a row of."""
        simulation = getattr(getattr(self.trainer, "lightning_module", None), "simulation", None)
        return self.segment if simulation is None else simulation.crop

    def _pack(self, path: str) -> Path:
        data = DataDir.read(path)
        return packed(data, self.cache, self.sample_rate, lambda u: read_mono(data, u, self.sample_rate))

    def corpus(
        self, path: str, length: int, share: Share = "samples", weights: dict[str, float] | None = None
    ) -> Corpus:
        """Return the crops of a data directory, or of a folder of shards, which has no weights."""
        if not sharded(path):
            labels = None if share == "samples" else labels_of(DataDir.read(path))
            return PackedAudio(self._pack(path), weights, labels)
        if weights:
            raise AudioError(
                f"{path}: shards are drawn evenly, without weights; name a data directory, or drop them"
            )
        assert self.trainer is not None
        world, rows = self.trainer.world_size, self.batch_size
        return ShardedAudio(path, self.sample_rate, length, rows, world, self.workers, self.seed, share)

    def prepare_data(self) -> None:
        for path in self.sources():
            if not sharded(path):
                self._pack(path)

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None, "the loader belongs to a trainer, whose step says which batch is next"

        def position() -> int:
            return trainer.global_step * trainer.accumulate_grad_batches

        rank, world = trainer.global_rank, trainer.world_size
        sampler = Batches(self.steps, self.batch_size, position, rank, world)
        return DataLoader(self.rows(), batch_sampler=sampler, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.clips(self.valid_dir), batch_size=1)


class NoisySpeech(Rows):
    """Provides speech and noise for training, fixed pairs for validation.

    Args:
        train, noise, music: Data directories, or folders of shards, of clean speech, of noise, whose kind is
            each recording's speaker (utt2spk), and, optionally, of music.
        crop: Samples of the raw material of a row; 0: 1.5 `segment`, or more if the simulation needs it.
        speech_weights, noise_weights: See `PackedAudio`.
        music_share, babble, synthetic, noises: See `SpeechAndNoise`.
        valid, rest: See `Rows`; `valid` holds pairs.
    """

    def __init__(
        self,
        train: str,
        noise: str,
        valid: str,
        music: str | None = None,
        crop: int = 0,
        speech_weights: dict[str, float] | None = None,
        noise_weights: dict[str, float] | None = None,
        music_share: float = 0.06,
        babble: float = 0.1,
        synthetic: float = 0.08,
        noises: int = 3,
        **rest: Any,
    ):
        super().__init__(train, valid, **rest)
        self.noise_dir, self.music_dir, self.crop = noise, music, crop
        self.speech_weights, self.noise_weights = speech_weights, noise_weights
        self.music_share, self.babble, self.synthetic, self.noises = music_share, babble, synthetic, noises

    def sources(self) -> list[str]:
        return [path for path in (self.train_dir, self.noise_dir, self.music_dir) if path]

    @property
    def raw(self) -> int:
        return self.crop or max(math.ceil(self.segment * 1.5), super().raw)

    def rows(self) -> Dataset[Any]:
        speech = self.corpus(self.train_dir, self.raw, weights=self.speech_weights)
        noise = self.corpus(self.noise_dir, self.raw, weights=self.noise_weights)
        music = self.corpus(self.music_dir, self.raw) if self.music_dir else None
        chances = (self.babble, self.music_share, self.synthetic)
        return SpeechAndNoise(speech, noise, self.raw, music, self.noises, *chances, self.seed)


class NoisyArray(NoisySpeech):
    """Provides `NoisySpeech` validated with the array pairs of `simulate_array.py scenes`."""

    def clips(self, path: str) -> Dataset[Any]:
        return Pairs(path, self.sample_rate, array=True)


class LossySpeech(NoisySpeech):
    """Provides `NoisySpeech` validated with `Traced`: recordings, and traces at `packet_ms`."""

    def __init__(self, *args: Any, packet_ms: float = TRACE_MS, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.packet_ms = packet_ms

    def clips(self, path: str) -> Dataset[Any]:
        return Traced(path, self.sample_rate, self.packet_ms)


class CodedSpeech(NoisySpeech):
    """Provides `NoisySpeech` for a codec, validated with recordings as they are."""

    def clips(self, path: str) -> Dataset[Any]:
        return Clips(path, self.sample_rate)


class Music(Rows):
    """Provides songs in their channels for `simulate.remix`, and clips of songs for validation.

    Args:
        train, valid: Data directories.
        others: A data directory of whatever is no music, which is mixed with it; see `MusicCrops`.
        channels: Channels of the sound.
        stems: Tables of `train` with the sources of a song, such as drums and vocals; none: wav.scp.
        heard: Samples from the middle of each recording that the validation hears; 0: all.
        rest: See `Rows`.
    """

    def __init__(
        self,
        train: str,
        valid: str,
        others: str | None = None,
        channels: int = 2,
        stems: Sequence[str] = (),
        heard: int = 480000,
        **rest: Any,
    ):
        super().__init__(train, valid, **rest)
        if others and stems:
            raise AudioError("others are mixed with whole songs; leave out data.stems, or data.others")
        self.others_dir, self.channels, self.stems, self.heard = others, channels, tuple(stems), heard

    def sources(self) -> list[str]:
        return [path for path in (self.train_dir, self.others_dir) if path]

    def _pack(self, path: str) -> Path:
        if sharded(path):
            raise AudioError(f"{path}: shards are mono; give a data directory")
        data = DataDir.read(path)
        tables = self.stems or ("wav",)
        if missing := [table for table in tables if f"{table}.scp" not in data.tables]:
            raise AudioError(f"{path}: no {missing[0]}.scp; leave out data.stems to take whole songs")
        cache = self.cache / f"music_{self.channels}"

        def read(u: Utterance) -> np.ndarray:
            return read_stems(data, u, self.sample_rate, self.channels, tables)

        return packed(data, cache, self.sample_rate, read, ",".join(tables))

    def prepare_data(self) -> None:
        for path in self.sources():
            self._pack(path)

    def rows(self) -> Dataset[Any]:
        others = PackedAudio(self._pack(self.others_dir)) if self.others_dir else None
        music = PackedAudio(self._pack(self.train_dir))
        return MusicCrops(music, self.raw, self.channels, max(1, len(self.stems)), others, self.seed)

    def clips(self, path: str) -> Dataset[Any]:
        return MusicClips(path, self.sample_rate, self.channels, self.heard)


class StemSounds(Rows):
    """Provides recordings of stems for `simulate.stems`; validation rows never change.

    Args:
        train, valid: Data directories with a table STEM.scp for each stem; or folders with a data directory
            STEM for each, whose wav.scp is taken.
        stems: Names of the stems; in a recipe those of the network, which fills them in.
        channels: Channels of the sound.
        mono: Stems that stand in the middle, whose recordings are mixed to one channel.
        layers, together: See `StemCrops`.
        clips: Rows of a validation.
        rest: See `Rows`.
    """

    def __init__(
        self,
        train: str,
        valid: str,
        stems: Sequence[str] | None = None,
        channels: int = 2,
        mono: Sequence[str] = (),
        layers: dict[str, float] | None = None,
        together: float = 0.0,
        clips: int = 200,
        **rest: Any,
    ):
        super().__init__(train, valid, **rest)
        if not stems:
            raise AudioError(f"{type(self).__name__}: give stems, by name")
        self.stems, self.channels, self.together, self.count = tuple(stems), channels, together, clips
        self.held = {stem: 1 if stem in mono else channels for stem in self.stems}
        self.layers = dict(layers or {})
        if unknown := sorted({*mono, *self.layers} - set(self.stems)):
            raise AudioError(f"mono and layers name {unknown[0]}, and the stems are {' '.join(self.stems)}")

    def _stem(self, path: str, stem: str) -> Path:
        """Return the prefix of the packed recordings of a stem; make it if it is missing."""
        if sharded(path):
            raise AudioError(f"{path}: shards have no stems; give data directories")
        folder, table = Path(path) / stem, "wav"
        if not folder.is_dir():
            folder, table = Path(path), stem
        data = DataDir.read(folder)
        listed = data.tables.get(f"{table}.scp")
        if not listed:
            raise AudioError(f"{path}: has neither {stem}.scp nor a data directory {stem}; see data.stems")
        # Other stems may have other songs.
        tables = {"wav.scp": listed, "utt2spk": data.tables.get("utt2spk", {})}
        if cuts := data.tables.get("segments"):
            tables["segments"] = {key: cut for key, cut in cuts.items() if cut.split()[0] in listed}
        data = DataDir(tables, data.path)
        channels = self.held[stem]

        def read(u: Utterance) -> np.ndarray:
            return read_stems(data, u, self.sample_rate, channels, ("wav",))

        return packed(data, self.cache / f"{stem}_{channels}", self.sample_rate, read)

    def prepare_data(self) -> None:
        for path in (self.train_dir, self.valid_dir):
            for stem in self.stems:
                self._stem(path, stem)

    def _crops(self, path: str, **more: Any) -> StemCrops:
        corpora = {stem: PackedAudio(self._stem(path, stem)) for stem in self.stems}
        given = (corpora, self.held, self.raw, self.channels, self.layers, self.together)
        return StemCrops(*given, seed=self.seed, **more)

    def rows(self) -> Dataset[Any]:
        return self._crops(self.train_dir)

    def clips(self, path: str) -> Dataset[Any]:
        return self._crops(path, count=self.count)


class ScoredSongs(Rows):
    """Provides mixtures of songs with their scores, for `tasks.scores`; see `crops.scores`.

    Args:
        train, valid: Data directories with a table utt2score.
        stems: Names of the stems; in a recipe those of the network, which fills them in.
        hop_length: Samples between the frames of a score, those of the network.
        clips: Rows of a validation.
        rest: See `Rows`.
    """

    def __init__(
        self,
        train: str,
        valid: str,
        stems: Sequence[str] | None = None,
        hop_length: int = 256,
        clips: int = 50,
        **rest: Any,
    ):
        super().__init__(train, valid, **rest)
        if not stems:
            raise AudioError(f"{type(self).__name__}: give stems, by name")
        self.stems, self.hop_length, self.count = tuple(stems), hop_length, clips

    def _crops(self, path: str, count: int = 0) -> ScoredCrops:
        data = DataDir.read(path)
        named = data.tables.get("utt2score", {})
        if missing := [key for key in data.utterance_keys if key not in named]:
            raise AudioError(
                f"{path}: utt2score lacks the score of {missing[0]}; tools/corpora/render_stems.py makes both"
            )
        scores = {key: read_score(data.resolve(entry)) for key, entry in named.items()}
        songs = PackedAudio(self._pack(path))
        given = (songs, scores, self.stems, self.segment, self.hop_length, self.sample_rate)
        return ScoredCrops(*given, count=count, seed=self.seed)

    def prepare_data(self) -> None:
        for path in (self.train_dir, self.valid_dir):
            self._pack(path)

    def rows(self) -> Dataset[Any]:
        return self._crops(self.train_dir)

    def clips(self, path: str) -> Dataset[Any]:
        return self._crops(path, self.count)


class Codes(Rows):
    """Provides packets of the codes that a codec makes of recordings.

    Args:
        train, valid: Data directories.
        codec: See `catalogue.codec_part`; None for the shipped one.
        segment: Frames of a packet.
        rest: See `Rows`; the sample rate is the codec's.
    """

    def __init__(self, train: str, valid: str, codec: str | None = None, segment: int = 25, **rest: Any):
        self.encoder = codec_part(codec, "enc")
        super().__init__(train, valid, sample_rate=self.encoder.sample_rate, segment=segment, **rest)

    def _coded(self, path: str) -> PackedCodes:
        """Return the codes of a data directory; make them if they are missing."""
        if sharded(path):
            raise AudioError(f"{path}: shards are not coded here; name a data directory")
        return PackedCodes(coded(self._pack(path), self.encoder), self.segment)

    def prepare_data(self) -> None:
        for path in (self.train_dir, self.valid_dir):
            self._coded(path)

    def counts(self) -> np.ndarray:
        """Return how often each code of each book is in the training data, `[books, levels]`."""
        return self._coded(self.train_dir).counts()

    def rows(self) -> Dataset[Any]:
        return DrawnPackets(self._coded(self.train_dir), self.seed)

    def clips(self, path: str) -> Dataset[Any]:
        return Packets(self._coded(path))


class PairedSpeech(Rows):
    """Provides pairs of noisy and clean recordings, for `augment.Augment` and validation.

    The data directories list noisy recordings in wav.scp and clean ones of the same length in clean.scp.
    """

    def _pack(self, path: str) -> Path:
        pairs = Pairs(path, self.sample_rate)  # raises if there is no clean.scp

        def read(u: Utterance) -> np.ndarray:
            """Return clean, then noisy, in one entry: packing scales both alike where one would clip."""
            pair = pairs.signals(u)
            return np.concatenate([pair["clean"], pair["noisy"]])

        return packed(pairs.data, self.cache, self.sample_rate, read, "wav,clean")

    def rows(self) -> Dataset[Any]:
        return PairCrops(PackedAudio(self._pack(self.train_dir)), self.raw, self.seed)


class Sounds(Rows):
    """Provides recordings of any kind, for training and for validation.

    Args:
        segment: Samples of a crop: with 10 s, the front end's 1024 frames are 998 and silence.
        confidence: Give `confidences` too, for the mask Confidence; shards have none.
        augment, rest: See `Crops` and `Rows`.
    """

    def __init__(self, train: str, valid: str, augment: bool = True, confidence: bool = False, **rest: Any):
        super().__init__(train, valid, **rest)
        self.augment, self.confidence = augment, confidence

    def _pack_confidence(self) -> Path:
        data, corpus = DataDir.read(self.train_dir), PackedAudio(self._pack(self.train_dir))
        lengths = dict(zip(corpus.keys, corpus.lengths.tolist(), strict=True))
        for key in lengths:
            confidences(data, key, 1)  # raises before any is written
        table = json.dumps(data.tables["utt2confidence"], sort_keys=True)
        cache = self.cache / f"confidence-{hashlib.sha256(table.encode()).hexdigest()[:12]}"
        return packed(data, cache, self.sample_rate, lambda u: confidences(data, u.key, lengths[u.key]))

    def prepare_data(self) -> None:
        if self.confidence and sharded(self.train_dir):
            raise AudioError(f"{self.train_dir}: shards have no confidences; give a data directory")
        super().prepare_data()
        if self.confidence:
            self._pack_confidence()

    def rows(self) -> Dataset[Any]:
        beside = PackedAudio(self._pack_confidence()) if self.confidence else None
        corpus = self.corpus(self.train_dir, self.segment)
        return Crops(corpus, self.segment, self.augment, self.seed, beside)

    def clips(self, path: str) -> Dataset[Any]:
        return Clips(path, self.sample_rate, self.segment, self.confidence)


class LabelledSounds(Rows):
    """Provides labelled recordings, whose classes are the sorted labels of the training data.

    Args:
        train: Data directory with utt2label, or a folder of shards made of one.
        valid, test: Data directories for validation, and to judge the weights kept after the training.
        balanced, mixup, rest: See `LabelledCrops` and `Rows`.
    """

    def __init__(
        self,
        train: str,
        valid: str,
        test: str | None = None,
        balanced: bool = True,
        mixup: float = 0.5,
        **rest: Any,
    ):
        super().__init__(train, valid, **rest)
        self.test_dir, self.balanced, self.mixup = test, balanced, mixup

    def counts(self) -> dict[str, int]:
        """Return how many recordings have each class."""
        if sharded(self.train_dir):
            return label_counts(self.train_dir)
        return count(labels_of(DataDir.read(self.train_dir)).values())

    def classes(self) -> list[str]:
        return list(self.counts())

    def prepare_data(self) -> None:
        self.counts()
        super().prepare_data()

    def rows(self) -> Dataset[Any]:
        corpus = self.corpus(self.train_dir, self.segment, "weight" if self.balanced else "utterances")
        return LabelledCrops(corpus, self.counts(), self.segment, self.balanced, self.mixup, self.seed)

    def clips(self, path: str) -> Dataset[Any]:
        return LabelledClips(path, self.sample_rate, self.segment, self.classes())

    def test_dataloader(self) -> DataLoader:
        assert self.test_dir is not None, "there is nothing to test on; give --data.test"
        return DataLoader(self.clips(self.test_dir), batch_size=1)
