"""Masked pretraining: crops of any sound, a mask over the patches of their log-mel picture, one network that
guesses what is hidden.

`Pretrain` is the LightningModule, `Sounds` the data: recordings of any kind, without labels, from Kaldi data
directories or shards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.kaldi import DataDir
from audiomask.data.loading import Corpus, PackedAudio, read_mono
from audiomask.data.shards import INDEX, ShardedAudio
from audiomask.frontend.logmel import LogMel
from audiomask.masks.patches import tokens
from audiomask.models.audio_mae import AudioMae
from audiomask.tasks.enhance import batches, packed, warmup_stable_decay
from audiomask.tasks.muon import Muon, groups


class Mask(Protocol):
    """What hides patches (`audiomask.masks.patches`)."""

    def sample(self, seeds: Tensor, grid: tuple[int, int]) -> Tensor:
        """`[B, time, freq]` bool, true where hidden, as many in each row, from `seeds [B]` int64."""


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


class Pretrain(pl.LightningModule):
    """Trains an autoencoder to guess hidden patches.

    Args:
        model: what is trained. mask: which patches are hidden from it. frontend: makes the pictures.
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

    The loss is the mean square over hidden patches of normalised values (see `AudioMae`). In validation every
    hidden patch is guessed, under masks that are the same each time.
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
        if start_from is not None:
            model.load_state_dict(weights.load(start_from)[0].state_dict())
        if compile:
            model.compile()  # in place: the names of the parameters stay

    def _hide(self, x: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of visible and hidden patches of `x [B, frames, bands]`."""
        return tokens(self.mask.sample(seeds, self.model.grid_of(x)))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        torch.manual_seed(
            int(batch["seed"][0])
        )  # of whatever is random inside: a resumed run goes on as before
        with torch.no_grad():
            x = self.frontend(batch["audio"])
            visible, hidden = self._hide(x, batch["seed"])
            hidden = some(hidden, self.share, batch["seed"])
        guess, target = self.model(x, visible, hidden)
        loss = (guess.float() - target).square().mean()
        self.log("train/loss", loss, batch_size=len(x))
        return loss

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        # As kept: in float32, and not compiled, which would be done again for other lengths and counts.
        with torch.autocast(self.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            x = self.frontend(batch["audio"])
            visible, hidden = self._hide(x, batch["seed"])
            guess, target = self.model(x, visible, hidden)
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
        """Log-mel pictures `[frames, bands]`, low bands below, from the least of the original to its most."""
        if not isinstance(self.logger, TensorBoardLogger):
            return
        low, high = pictures["original"].aminmax()
        for kind, x in pictures.items():
            if kind != "reconstructed" and self.global_step > 0 and self.current_epoch > 0:
                continue  # they do not change
            picture = ((x - low) / (high - low).clamp_min(1e-6)).clamp(0, 1).T.flip(0)
            self.logger.experiment.add_image(f"{name}/{kind}", picture[None], self.global_step)

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

    Item: `audio [L]` float32, `seed` int64 (of the mask).
    """

    def __init__(self, corpus: Corpus, length: int, augment: bool = True, seed: int = 0):
        self.corpus, self.length, self.augment, self.seed = corpus, length, augment, seed

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, row])
        self.corpus.seek(row)
        x = self.corpus.crop(rng, self.length)
        if self.augment:
            x = np.roll(x, rng.integers(self.length)) * np.float32(0.5 + rng.beta(10, 10))
        return {"audio": torch.from_numpy(x), "seed": torch.tensor(int(rng.integers(2**62)))}


class Clips(Dataset[dict[str, Any]]):
    """The utterances of a data directory from their beginning, at most `length` samples (0: whole), for
    validation. Item: `audio [T]`, `seed` (the row's number), `key`.
    """

    def __init__(self, path: str | Path, sample_rate: int, length: int = 0):
        self.data, self.sample_rate, self.length = DataDir.read(path), sample_rate, length
        self.utterances = list(self.data.utterances())

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i: int) -> dict[str, Any]:
        u = self.utterances[i]
        x = read_mono(self.data, u, self.sample_rate)[: self.length or None]
        return {"audio": torch.from_numpy(x), "seed": torch.tensor(i), "key": u.key}


class Sounds(pl.LightningDataModule):
    """Recordings of any kind, for training and for validation.

    Args:
        train: data directory, or a folder of shards (see `data.shards`). valid: data directory.
        cache: folder for the packed corpus (see `data.loading`).
        sample_rate: Hz. batch_size, steps: rows of a batch in each process, batches of an epoch (validation
            and checkpoints come at its end).
        segment: samples of a crop: with 10 s, the front end's 1024 frames are 998 and silence.
        augment, seed: see `Crops`. workers: processes that cut crops.
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
    ):
        super().__init__()
        self.train_dir, self.valid_dir, self.cache = train, valid, Path(cache)
        self.sample_rate, self.batch_size, self.steps, self.segment = sample_rate, batch_size, steps, segment
        self.augment, self.seed, self.workers = augment, seed, workers

    def _pack(self) -> Path:
        """The packed corpus of the training directory; made if missing."""
        data = DataDir.read(self.train_dir)
        return packed(data, self.cache, self.sample_rate, lambda u: read_mono(data, u, self.sample_rate))

    def prepare_data(self) -> None:
        if not (Path(self.train_dir) / INDEX).exists():
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
        crops = Crops(self._corpus(), self.segment, self.augment, self.seed)
        return batches(self.trainer, crops, self.steps, self.batch_size, self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Clips(self.valid_dir, self.sample_rate, self.segment), batch_size=1)
