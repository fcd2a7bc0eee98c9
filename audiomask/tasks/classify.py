"""Fine-tuning a pretrained encoder to tag clips, or training a probe on it.

`Classify` is the LightningModule, `LabelledSounds` the data: data directories with `utt2label`, the labels of
each utterance with commas between them. `knn` judges features without training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.kaldi import DataDir
from audiomask.data.loading import PackedAudio, cut
from audiomask.data.picture_augment import draws, randomized_quantization, spec_augment
from audiomask.frontend.logmel import LogMel
from audiomask.models.vit_tagger import ViTTagger, begin_from
from audiomask.tasks.enhance import batches, warmup_stable_decay
from audiomask.tasks.pretrain import Clips, Sounds


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Of each class that has a positive: mean precision at the ranks of its positives. `scores`, `targets [N,
    K]` -> `[K']`. Clips of equal score share one rank, the last.
    """
    found = []
    for column, truth in zip(scores.T, targets.T > 0.5, strict=True):
        if truth.any():
            order = column.argsort(descending=True)
            hits, ordered = truth[order].cumsum(0).double(), column[order]
            last = torch.searchsorted(-ordered, -ordered, right=True) - 1  # of the clips with this score
            precision = hits[last] / (last + 1)
            found.append(precision[truth[order]].mean())
    return torch.stack(found) if found else scores.new_zeros(0).double()


def knn(known: Tensor, labels: Tensor, features: Tensor, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Classes `[M]` that the `k` nearest of `known [N, C]`, of classes `labels [N]`, give to `features [M,
    C]`: votes of weight exp(cosine / temperature).
    """
    cosine = F.normalize(features, dim=1) @ F.normalize(known, dim=1).T
    near, index = cosine.topk(min(k, len(known)), 1)
    votes = torch.zeros(len(features), int(labels.max()) + 1, dtype=near.dtype, device=near.device)
    return votes.scatter_add(1, labels[index], (near / temperature).exp()).argmax(1)


def kept(grid: tuple[int, int], seeds: Tensor, time: float, freq: float) -> Tensor:
    """Indices `[B, V]` of the patches that are left when a share of the columns and of the rows is hidden."""
    sides = []
    for purpose, (size, share) in enumerate(zip(grid, (time, freq), strict=True)):
        count = max(1, size - round(share * size))
        sides.append(draws(seeds, size, 10 + purpose).argsort(1)[:, :count].sort(1).values)
    return (sides[0][:, :, None] * grid[1] + sides[1][:, None, :]).flatten(1)


class Classify(pl.LightningModule):
    """Trains a tagger.

    Args:
        model: what is trained. frontend: makes the pictures.
        start_from: folder of weights whose encoder it begins with; none: from scratch.
        loss: "bce", any number of labels a clip; "ce", one.
        frozen: train only the last norm and the classifier: a linear probe.
        lr, betas, weight_decay: of AdamW; the class token and whatever has one axis are not decayed.
        layer_decay: factor on the rate from each block to the one before it; the classifier has `lr`.
        warmup, decay: see `Pretrain`.
        spec_frames, spec_bands: widest stretches that SpecAugment hides. quantize: share of the rows that are
            quantized at random, in 8 regions. mask_time, mask_freq: shares of the columns and rows of
            patches that are left out in training.
        compile: train through `torch.compile`.
    """

    def __init__(
        self,
        model: ViTTagger,
        frontend: LogMel,
        start_from: str | None = None,
        loss: Literal["bce", "ce"] = "bce",
        frozen: bool = False,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 5e-4,
        layer_decay: float = 0.75,
        warmup: int = 1000,
        decay: float = 1.0,
        spec_frames: int = 192,
        spec_bands: int = 48,
        quantize: float = 0.0,
        mask_time: float = 0.2,
        mask_freq: float = 0.2,
        compile: bool = False,
    ):
        super().__init__()
        for name, share in (("mask_time", mask_time), ("mask_freq", mask_freq), ("quantize", quantize)):
            if not 0 <= share <= 1 or (share == 1 and name != "quantize"):
                raise AudioError(f"{name} {share}: a share, from 0 to below 1")
        self.model, self.frontend, self.loss, self.frozen = model, frontend, loss, frozen
        self.lr, self.betas, self.weight_decay, self.layer_decay = lr, betas, weight_decay, layer_decay
        self.warmup, self.decay = warmup, decay
        self.spec_frames, self.spec_bands, self.quantize = spec_frames, spec_bands, quantize
        self.mask_time, self.mask_freq = mask_time, mask_freq
        if start_from is not None:
            begin_from(model, weights.load(start_from)[0].state_dict())
        if frozen:
            for name, p in model.named_parameters():
                p.requires_grad_(name.startswith(("fc_norm.", "head.")))
            model.blocks.eval()
        if compile:
            model.compile()
        self._seen: list[tuple[Tensor, Tensor]] = []

    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        classes = data.classes()
        if self.model.labels is None and len(classes) == self.model.head.out_features:
            self.model.labels = classes
        elif self.model.labels is not None and self.model.labels != classes:
            raise AudioError(
                f"model.labels begins {self.model.labels[:3]} and the training data {classes[:3]}; "
                "give the labels of the data in order of the alphabet, or none"
            )

    def arguments(self) -> dict[str, Any]:
        """What is kept with the weights beside the arguments that the recipe gives the network."""
        return {"labels": self.model.labels, "exclusive": self.loss == "ce"}

    def train(self, mode: bool = True) -> Classify:
        super().train(mode)
        if self.frozen:
            self.model.blocks.eval()  # no dropped paths
        return self

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if target.shape[1] != logits.shape[1]:
            raise AudioError(
                f"the data have {target.shape[1]} classes and the model {logits.shape[1]}; "
                f"add --model.model.classes {target.shape[1]}"
            )
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits.float(), target)
        return F.cross_entropy(logits.float(), target / target.sum(1, keepdim=True))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        seeds = batch["seed"]
        torch.manual_seed(int(seeds[0]))  # of the dropped paths: a resumed run goes on as before
        with torch.no_grad():
            x = self.frontend(batch["audio"])
            nothing = -self.frontend.mean / (2 * self.frontend.std)  # 0 before normalisation
            x = spec_augment(x, seeds, self.spec_frames, self.spec_bands, nothing)
            if self.quantize:
                x = randomized_quantization(x, seeds, chance=self.quantize)
            visible = None
            if self.mask_time or self.mask_freq:
                visible = kept(self.model.grid_of(x), seeds, self.mask_time, self.mask_freq)
        loss = self._loss(self.model(x, visible), batch["target"])
        self.log("train/loss", loss, batch_size=len(x))
        return loss

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        with torch.autocast(self.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            logits = self.model(self.frontend(batch["audio"]))
            loss = self._loss(logits, batch["target"])
        self.log("val/loss", loss, batch_size=len(logits), sync_dist=True)
        self._seen.append((logits.cpu(), batch["target"].cpu()))

    def on_validation_epoch_end(self) -> None:
        if not self._seen:
            return
        logits, target = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        best = logits.argmax(1, keepdim=True)
        accuracy = (target.gather(1, best) > 0.5).double().mean()  # the likeliest class is one of the clip's
        precision = average_precision(logits, target).mean()
        select = precision if self.loss == "bce" else accuracy
        self.log_dict({"val/map": precision, "val/accuracy": accuracy, "val/select": select}, sync_dist=True)

    def groups(self) -> list[dict[str, Any]]:
        """Parameters by the rate of their layer and by whether they are decayed."""
        depth = len(self.model.blocks)
        found: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
        for name, p in self.model.named_parameters():
            if not p.requires_grad:
                continue
            layer = depth + 1
            if name.startswith("blocks."):
                layer = int(name.split(".")[1]) + 1
            elif name.startswith(("cls_token", "patch_embed.")):
                layer = 0
            decayed = p.ndim > 1 and name != "cls_token"
            found.setdefault((layer, decayed), []).append(p)
        return [
            {
                "params": ps,
                "lr": self.lr * self.layer_decay ** (depth + 1 - layer),
                "weight_decay": self.weight_decay if decayed else 0.0,
            }
            for (layer, decayed), ps in found.items()
        ]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.groups(), self.lr, self.betas)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_stable_decay(step, self.warmup, total, self.decay, floor=0.0)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def labels_of(data: DataDir) -> dict[str, list[str]]:
    """The labels of every utterance. AudioError where utt2label has none for one."""
    table = data.tables.get("utt2label")
    if table is None:
        raise AudioError(f"{data.path}: no utt2label beside wav.scp, with the labels of each utterance")
    missing = [key for key in data.utterance_keys if not table.get(key, "").strip(", ")]
    if missing:
        raise AudioError(f"{data.path}/utt2label: no label for {missing[0]} ({len(missing)} in all)")
    return {key: [w.strip() for w in table[key].split(",") if w.strip()] for key in data.utterance_keys}


def targets(data: DataDir, classes: list[str]) -> dict[str, np.ndarray]:
    """1 for each label of each utterance, `[K]` float32. AudioError for a label that is no class."""
    place = {name: i for i, name in enumerate(classes)}
    out = {}
    for key, names in labels_of(data).items():
        unknown = [name for name in names if name not in place]
        if unknown:
            raise AudioError(
                f"{data.path}/utt2label: {key} has the label {unknown[0]!r}, which is none of the "
                f"{len(classes)} classes of the training; drop the utterance, or mend the label"
            )
        out[key] = np.zeros(len(classes), np.float32)
        out[key][[place[name] for name in names]] = 1
    return out


class LabelledCrops(Dataset[dict[str, Tensor]]):
    """Row `n` of random crops and their labels, seeded with `(seed, n)` as in `data.loading`.

    Args:
        corpus: packed. target: by utterance, see `targets`. length: samples; a shorter clip is repeated.
        balanced: an utterance is drawn in proportion to the sum of 1 / count of its labels; else all alike.
        mixup: chance that any other clip is mixed in: l x + (1 - l) x', labels likewise, l of Beta(10, 10).

    Item: `audio [L]`, `target [K]` float32, `seed` int64.
    """

    def __init__(
        self,
        corpus: PackedAudio,
        target: dict[str, np.ndarray],
        length: int,
        balanced: bool = False,
        mixup: float = 0.0,
        seed: int = 0,
    ):
        self.corpus, self.length, self.mixup, self.seed = corpus, length, mixup, seed
        self.target = np.stack([target[key] for key in corpus.keys])
        weight = self.target @ (1 / self.target.sum(0).clip(1)) if balanced else np.ones(len(self.target))
        self._cdf = np.cumsum(weight / weight.sum())

    def _crop(self, i: int, rng: np.random.Generator) -> np.ndarray:
        start = self.corpus.offsets[i]

        def read(at: int, count: int) -> np.ndarray:
            return self.corpus.samples[start + at : start + at + count].astype(np.float32) / 32768

        return cut(read, int(self.corpus.lengths[i]), rng, self.length, "loop")

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, row])
        i = min(int(np.searchsorted(self._cdf, rng.random(), side="right")), len(self._cdf) - 1)
        x, target = self._crop(i, rng), self.target[i]
        if rng.random() < self.mixup:
            j, share = int(rng.integers(len(self._cdf))), np.float32(rng.beta(10, 10))
            x = share * x + (1 - share) * self._crop(j, rng)
            target = share * target + (1 - share) * self.target[j]
        seed = torch.tensor(int(rng.integers(2**62)))
        return {"audio": torch.from_numpy(x), "target": torch.from_numpy(target.copy()), "seed": seed}


class LabelledClips(Clips):
    """`Clips` with `target [K]`, for validation."""

    def __init__(self, path: str | Path, sample_rate: int, length: int, classes: list[str]):
        super().__init__(path, sample_rate, length)
        self.target = targets(self.data, classes)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = super().__getitem__(i)
        return {**item, "target": torch.from_numpy(self.target[item["key"]])}


class LabelledSounds(Sounds):
    """Labelled recordings. The classes are the labels of the training directory, in order of the alphabet.

    Args:
        train, valid: data directories with utt2label. balanced, mixup: see `LabelledCrops`.
        cache, sample_rate, batch_size, steps, segment, seed, workers: as in `tasks.pretrain.Sounds`.
    """

    def __init__(
        self,
        train: str,
        valid: str,
        cache: str = "exp/cache",
        sample_rate: int = 16000,
        batch_size: int = 32,
        steps: int = 500,
        segment: int = 160000,
        balanced: bool = True,
        mixup: float = 0.5,
        seed: int = 0,
        workers: int = 1,
    ):
        super().__init__(
            train, valid, cache, sample_rate, batch_size, steps, segment, seed=seed, workers=workers
        )
        self.balanced, self.mixup = balanced, mixup

    def classes(self) -> list[str]:
        return sorted({name for names in labels_of(DataDir.read(self.train_dir)).values() for name in names})

    def prepare_data(self) -> None:
        self.classes()
        self._pack()

    def train_dataloader(self) -> DataLoader:
        target = targets(DataDir.read(self.train_dir), self.classes())
        crops = LabelledCrops(
            PackedAudio(self._pack()), target, self.segment, self.balanced, self.mixup, self.seed
        )
        return batches(self.trainer, crops, self.steps, self.batch_size, self.workers)

    def val_dataloader(self) -> DataLoader:
        clips = LabelledClips(self.valid_dir, self.sample_rate, self.segment, self.classes())
        return DataLoader(clips, batch_size=1)
