"""Masked pretraining: crops of any sound, a mask over the patches of their log-mel picture, one network that
guesses what is hidden.

`Pretrain` is the LightningModule, `Sounds` the data: recordings of any kind, without labels, from Kaldi data
directories or shards.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.kaldi import DataDir
from audiomask.data.loading import Corpus, PackedAudio, read_mono
from audiomask.data.shards import INDEX, ShardedAudio
from audiomask.frontend.logmel import LogMel
from audiomask.masks.patches import Random, tokens
from audiomask.masks.patches_scored import columns
from audiomask.models.audio_mae import AudioMae
from audiomask.tasks.enhance import batches, packed, warmup_stable_decay
from audiomask.tasks.muon import Muon, groups


class Mask(Protocol):
    """What hides patches (`audiomask.masks.patches`).

    It may have `scored`, what scores it takes, and `look(levels, size)`, which makes them of a spectrogram;
    `at(step)`, the same mask as it is at a step of the training; and `masks`, how many it draws of one clip.
    """

    def sample(self, seeds: Tensor, grid: tuple[int, int]) -> Tensor:
        """`[B, time, freq]` bool, true where hidden, as many in each row, from `seeds [B]` int64; or
        `[B, masks, time, freq]`. Kinds with `scored` take the scores third.
        """


def some(hidden: Tensor, share: float, seeds: Tensor) -> Tensor:
    """A random part of the indices `hidden [B, M]`, round(share M) of each row, in order; at least one."""
    count = max(1, round(share * hidden.shape[1]))
    if count == hidden.shape[1]:
        return hidden
    keys = [
        torch.rand(hidden.shape[1], generator=torch.Generator().manual_seed(seed ^ 0x50A3))  # not the mask's
        for seed in seeds.tolist()
    ]
    chosen = torch.stack(keys).argsort(1)[:, :count].sort(1).values
    return hidden.gather(1, chosen.to(hidden.device))


def _sampled(mask: Any, seeds: Tensor, grid: tuple[int, int], scores: Tensor | None) -> Tensor:
    return mask.sample(seeds, grid) if scores is None else mask.sample(seeds, grid, scores)


def show(task: pl.LightningModule, name: str, x: Tensor, low: Tensor, high: Tensor) -> None:
    """`x [frames, bands]` as a picture for TensorBoard, black at `low`, white at `high`, low bands below."""
    if isinstance(task.logger, TensorBoardLogger):
        grey = ((x - low) / (high - low).clamp_min(1e-6)).clamp(0, 1).T.flip(0)
        task.logger.experiment.add_image(name, grey[None], task.global_step)


class Pretrain(pl.LightningModule):
    """Trains an autoencoder to guess hidden patches.

    Args:
        model: what is trained. mask: which patches are hidden from it, see below. frontend: makes the
            pictures.
        share: of the hidden patches that are guessed in training, a random part of each row; less than 1 is
            for the decoder "cross", which computes nothing else (CrossMAE: .25 to .75).
        optimizer: "adamw", or "muon": that for the weight matrices (see `tasks.muon`), AdamW for the rest.
        lr, betas, weight_decay: of it; biases, norms and whatever else has one axis are not decayed. The
            papers give a base rate for batches of 256: lr = base * batch / 256, over all processes.
        warmup: steps in which the rate rises; decay: share of the run in which it falls, as half a cosine; 1:
            all that is left, as published.
        start_from: folder with weights of the same architecture to go on from.
        shown: validation clips that go to TensorBoard as pictures.
        compile: train through `torch.compile`; validation runs the network as it is.
        momentum, momentum_steps: of the moving average that scores patches, for models that have a `teacher`
            (HPM): from the first to the second in so many steps, in a straight line.

    The loss is the mean square over hidden patches of normalised values (see `AudioMae`). In validation every
    hidden patch is guessed, under masks that are the same each time.

    Masks that take scores get them from the clip's picture, where they can `look` at one; else from the
    model, if it makes `scores` (HPM, AdaMAE), whose `guidance` is then added to the loss; else from the data
    (`confidence` of `Sounds`). Masks that change with the training or are led by the model are `Random` ones
    of the same ratio in validation, so that its losses can be compared. Of several masks of a clip
    (Disjoint), each is a row of the batch.
    """

    def __init__(
        self,
        model: AudioMae,
        mask: Mask,
        frontend: LogMel,
        share: float = 1.0,
        optimizer: Literal["adamw", "muon"] = "adamw",
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 1e-4,
        warmup: int = 11500,
        decay: float = 1.0,
        start_from: str | None = None,
        shown: int = 3,
        compile: bool = False,
        momentum: tuple[float, float] = (0.999, 0.9999),
        momentum_steps: int = 1,
    ):
        super().__init__()
        if (frontend.bands, frontend.patch) != (model.bands, model.patch):
            raise AudioError(
                f"frontend has {frontend.bands} bands and patches of {frontend.patch}, the model "
                f"{model.bands} and {model.patch}; make them equal"
            )
        if not 0 < share <= 1:
            raise AudioError(f"share {share}: of the hidden patches, above 0 and at most 1")
        if share < 1 and model.decoder != "cross":
            raise AudioError(
                f"share {share}: the decoder {model.decoder!r} computes all patches; take 1, or decoder cross"
            )
        self.model, self.mask, self.frontend, self.share = model, mask, frontend, share
        self.optimizer, self.lr, self.betas, self.weight_decay = optimizer, lr, betas, weight_decay
        self.warmup, self.decay, self.shown = warmup, decay, shown
        self.momentum, self.momentum_steps = momentum, momentum_steps
        if not all(0 <= m < 1 for m in momentum) or momentum_steps < 1:
            raise AudioError(
                f"momentum {momentum}, momentum_steps {momentum_steps}: want shares below 1, steps from 1"
            )
        self.source = self._source()
        self.judge = self._tried()
        if start_from is not None:
            model.load_state_dict(weights.load(start_from)[0].state_dict())
        self.teacher: Any = model.teacher() if hasattr(model, "teacher") else None  # type: ignore[operator]
        if compile:
            model.compile()  # in place: the names of the parameters stay

    def _source(self) -> str:
        """Where the scores of the mask come from: "picture", "model", "data", or "" for a mask without."""
        scored = getattr(self.mask, "scored", "")
        if not scored or hasattr(self.mask, "look"):
            return "picture" if scored else ""
        if hasattr(self.model, "scores"):
            return "model"
        if "freq" in scored:
            raise AudioError(
                f"mask {type(self.mask).__name__} needs scores {scored}, which {type(self.model).__name__} "
                "does not make; take a model that does: HPM for Hardest, AdaMae for Likely"
            )
        return "data"

    def _tried(self) -> Mask:
        """The mask of validation. AudioError if the one of training cannot be drawn."""
        mask: Any = self.mask.at(0) if hasattr(self.mask, "at") else self.mask
        grid = self.model.grid
        scores = {
            "picture": lambda: self._look(mask, torch.zeros(1, grid[0] * self.model.patch, self.model.bands)),
            "model": lambda: torch.zeros(1, *grid),
            "data": lambda: torch.zeros(1, grid[0]),
            "": lambda: None,
        }[self.source]()
        try:
            self._flat(_sampled(mask, torch.zeros(1, dtype=torch.int64), grid, scores))
        except ValueError as error:
            raise AudioError(f"mask {type(mask).__name__}: {error}") from None
        changes = hasattr(mask, "at") or self.source == "model"
        return Random(mask.ratio) if changes else mask

    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.source == "data" and not getattr(data, "confidence", False):
            raise AudioError(
                f"mask {type(self.mask).__name__} needs scores {self.mask.scored}; "  # type: ignore[attr-defined]
                "with --data.confidence true they come from utt2confidence in the data directories"
            )

    def _look(self, mask: Any, levels: Tensor) -> Tensor:
        """What `mask` sees in `levels [B, frames, bands]`."""
        return mask.look(levels, (self.model.patch, self.model.patch))

    def _columns(self, confidence: Tensor, x: Tensor) -> Tensor:
        """Means `[B, time]` over the columns of the pictures `x`, of `confidence [B, T]`, one for a sample. A
        column lasts as its frames' hops do; past the end nothing is sure.
        """
        time, width = self.model.grid_of(x)[0], self.model.patch * self.frontend.fbank.hop
        return columns(F.pad(confidence, (0, time * width - confidence.shape[1])), time)

    def _levels(self, x: Tensor, samples: int) -> Tensor:
        """Logarithms of energies of the pictures `x` of so many samples; past the end, where the picture has
        zeros, they are those of the quietest frame.
        """
        levels = x * (2 * self.frontend.std) + self.frontend.mean
        count = self.frontend.fbank.complete(samples)
        if count < x.shape[1]:
            quietest = levels[:, :count].logsumexp(2).argmin(1)
            levels[:, count:] = levels[torch.arange(len(levels), device=x.device), quietest][:, None]
        return levels

    def _flat(self, masks: Tensor) -> Tensor:
        """Masks `[B, time, freq]`, or `[B masks, time, freq]` of `[B, masks, time, freq]`."""
        if masks.ndim == 3:
            return masks
        if masks.shape[1] != getattr(self.mask, "masks", 0):
            raise ValueError(
                "its masks are a context and targets, for prediction in latent space; take Staged"
            )
        return masks.flatten(0, 1)

    def _hide(
        self, batch: dict[str, Tensor], x: Tensor, training: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures `[B, frames, bands]`, a row for every mask of a clip, their seeds, and the indices of the
        visible and of the hidden patches.
        """
        mask, seeds = (self.mask if training else self.judge), batch["seed"]
        mask = mask.at(self.global_step) if hasattr(mask, "at") else mask
        grid, source = self.model.grid_of(x), self.source if getattr(mask, "scored", "") else ""
        scores = None
        if source == "picture":
            scores = self._look(mask, self._levels(x, batch["audio"].shape[1]))
        elif source == "model":
            critic: Any = self.model if self.teacher is None else self.teacher
            scores = critic.scores(x)
        elif source == "data":
            scores = self._columns(batch["confidence"], x)
        flat = self._flat(_sampled(mask, seeds, grid, scores))
        views = len(flat) // len(x)
        if views > 1:
            x = x.repeat_interleave(views, 0)
            seeds = (seeds[:, None] + torch.arange(views, device=seeds.device)).flatten()
        return x, seeds, *tokens(flat)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        torch.manual_seed(
            int(batch["seed"][0])
        )  # of whatever is random inside: a resumed run goes on as before
        with torch.no_grad():
            x = self.frontend(batch["audio"])
            x, seeds, visible, hidden = self._hide(batch, x)
            hidden = some(hidden, self.share, seeds)
        guess, target, *said = self.model(x, visible, hidden)
        errors = (guess.float() - target).square().mean(2)
        loss = errors.mean()
        self.log("train/loss", loss, batch_size=len(x))
        if said:
            guide: Any = self.model
            guidance = guide.guidance(errors.detach(), *said)
            self.log("train/guidance", guidance, batch_size=len(x))
            loss = loss + guidance
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.teacher is None:
            return
        first, last = self.momentum
        momentum = first + (last - first) * min(1.0, self.global_step / self.momentum_steps)
        new = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, average in self.teacher.named_parameters():
                average.lerp_(new[name], 1 - momentum)

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        # As kept: in float32, and not compiled, which would be done again for other lengths and counts.
        with torch.autocast(self.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            x = self.frontend(batch["audio"])
            x, _, visible, hidden = self._hide(batch, x, training=False)
            guess, target, *_ = self.model(x, visible, hidden)
        loss = (guess - target).square().mean()
        self.log_dict({"val/loss": loss, "val/select": -loss}, batch_size=len(x), sync_dist=True)
        if index < self.shown:
            least = float(x[0].min())
            self._show(
                f"{index}",
                {
                    "original": x[0],
                    "masked": self.model.hide(x[:1], hidden[:1], least)[0],
                    "reconstructed": self.model.restored(x[:1], guess[:1], hidden[:1])[0],
                },
            )

    def _show(self, name: str, pictures: dict[str, Tensor]) -> None:
        """Log-mel pictures `[frames, bands]` on the scale of the original."""
        low, high = pictures["original"].aminmax()
        for kind, x in pictures.items():
            if kind == "reconstructed" or self.global_step == 0 or self.current_epoch == 0:
                show(self, f"{name}/{kind}", x, low, high)  # the others do not change

    def configure_optimizers(self) -> Any:
        matrices = self.optimizer == "muon"
        optimizer = Muon(groups(self.model, self.weight_decay, matrices), self.lr, self.betas)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_stable_decay(step, self.warmup, total, self.decay, floor=0.0)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Crops(Dataset[dict[str, Tensor]]):
    """Row `n` of random crops of a corpus, seeded with `(seed, n)` as in `data.loading`.

    Args:
        corpus: packed or in shards. length: samples; a shorter recording is repeated.
        augment: as Audio-MAE: the crop is rolled round by any number of samples, times .5 + Beta(10, 10).
        beside: numbers for the samples of `corpus`, packed alike; the crops of it are at the same places.

    Item: `audio [L]` float32, `seed` int64 (of the mask); with `beside` its `confidence [L]` too.
    """

    def __init__(
        self, corpus: Corpus, length: int, augment: bool = True, seed: int = 0, beside: Corpus | None = None
    ):
        self.corpus, self.length, self.augment, self.seed = corpus, length, augment, seed
        self.beside = beside

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, row])
        self.corpus.seek(row)
        same = copy.deepcopy(rng)
        x, by, gain = self.corpus.crop(rng, self.length), 0, np.float32(1)
        if self.augment:
            by, gain = int(rng.integers(self.length)), np.float32(0.5 + rng.beta(10, 10))
        item = {"audio": torch.from_numpy(np.roll(x, by) * gain)}
        if self.beside is not None:
            item["confidence"] = torch.from_numpy(np.roll(self.beside.crop(same, self.length), by))
        return item | {"seed": torch.tensor(int(rng.integers(2**62)))}


def confidences(data: DataDir, key: str, length: int) -> np.ndarray:
    """Numbers from 0 to 1 for `length` samples of an utterance, `[length]` float32: those of its line in
    `utt2confidence`, as many as there are, each for an equal part. AudioError if there are none.
    """
    line = data.tables.get("utt2confidence", {}).get(key, "")
    try:
        numbers = np.array(line.split(), np.float32)
    except ValueError:
        numbers = np.array([np.nan], np.float32)
    if not len(numbers) or not ((numbers >= 0) & (numbers <= 1)).all():
        raise AudioError(
            f"{data.path}/utt2confidence: {key} has {line[:20]!r}; want numbers from 0 to 1, with spaces "
            "between them, a recogniser's confidence in equal parts of the utterance"
        )
    return numbers[np.arange(length) * len(numbers) // max(1, length)]


class Clips(Dataset[dict[str, Any]]):
    """The utterances of a data directory from their beginning, at most `length` samples (0: whole), for
    validation. Item: `audio [T]`, `seed` (the row's number), `key`; `confidence [T]` if asked for.
    """

    def __init__(self, path: str | Path, sample_rate: int, length: int = 0, confidence: bool = False):
        self.data, self.sample_rate, self.length = DataDir.read(path), sample_rate, length
        self.confidence = confidence
        self.utterances = list(self.data.utterances())

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i: int) -> dict[str, Any]:
        u = self.utterances[i]
        x = read_mono(self.data, u, self.sample_rate)
        end = self.length or len(x)
        item = {"audio": torch.from_numpy(x[:end]), "seed": torch.tensor(i), "key": u.key}
        if self.confidence:
            item["confidence"] = torch.from_numpy(confidences(self.data, u.key, len(x))[:end])
        return item


class Sounds(pl.LightningDataModule):
    """Recordings of any kind, for training and for validation.

    Args:
        train: data directory, or a folder of shards (see `data.shards`). valid: data directory.
        cache: folder for the packed corpus (see `data.loading`).
        sample_rate: Hz. batch_size, steps: rows of a batch in each process, batches of an epoch (validation
            and checkpoints come at its end).
        segment: samples of a crop: with 10 s, the front end's 1024 frames are 998 and silence.
        augment, seed: see `Crops`. workers: processes that cut crops.
        confidence: give the numbers of `utt2confidence` too (see `confidences`), for the mask Confidence. Not
            for shards.
    """

    def __init__(
        self,
        train: str,
        valid: str,
        cache: str = "exp/cache",
        sample_rate: int = 16000,
        batch_size: int = 64,
        steps: int = 500,
        segment: int = 160000,
        augment: bool = True,
        seed: int = 0,
        workers: int = 1,
        confidence: bool = False,
    ):
        super().__init__()
        self.confidence = confidence
        self.train_dir, self.valid_dir, self.cache = train, valid, Path(cache)
        self.sample_rate, self.batch_size, self.steps, self.segment = sample_rate, batch_size, steps, segment
        self.augment, self.seed, self.workers = augment, seed, workers

    def _pack(self) -> Path:
        """The packed corpus of the training directory; made if missing."""
        data = DataDir.read(self.train_dir)
        return packed(data, self.cache, self.sample_rate, lambda u: read_mono(data, u, self.sample_rate))

    def _pack_confidence(self) -> Path:
        """The same of the confidences."""
        data, corpus = DataDir.read(self.train_dir), PackedAudio(self._pack())
        lengths = dict(zip(corpus.keys, corpus.lengths.tolist(), strict=True))
        for key in lengths:
            confidences(data, key, 1)  # before any is written
        table = json.dumps(data.tables["utt2confidence"], sort_keys=True)
        cache = self.cache / f"confidence-{hashlib.sha256(table.encode()).hexdigest()[:12]}"
        return packed(data, cache, self.sample_rate, lambda u: confidences(data, u.key, lengths[u.key]))

    def prepare_data(self) -> None:
        if (Path(self.train_dir) / INDEX).exists():
            if self.confidence:
                raise AudioError(f"{self.train_dir}: shards have no confidences; give a data directory")
        elif self.confidence:
            self._pack_confidence()
        else:
            self._pack()

    def _corpus(self) -> Corpus:
        if not (Path(self.train_dir) / INDEX).exists():
            return PackedAudio(self._pack())
        assert self.trainer is not None
        world, rows = self.trainer.world_size, self.batch_size
        return ShardedAudio(
            self.train_dir, self.sample_rate, self.segment, rows, world, self.workers, self.seed
        )

    def train_dataloader(self) -> DataLoader:
        beside = PackedAudio(self._pack_confidence()) if self.confidence else None
        crops = Crops(self._corpus(), self.segment, self.augment, self.seed, beside)
        return batches(self.trainer, crops, self.steps, self.batch_size, self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(
            Clips(self.valid_dir, self.sample_rate, self.segment, self.confidence), batch_size=1
        )
