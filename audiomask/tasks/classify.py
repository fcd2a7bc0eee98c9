"""Fine-tune a pretrained encoder to tag clips, or train a probe on it.

`Classify` is the task; the data are `data.modules.LabelledSounds`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from audiomask.audio import AudioError
from audiomask.data.simulate.spectrogram_augment import draws, randomized_quantization, spec_augment
from audiomask.frontend.logmel import LogMel
from audiomask.models.vit_tagger import ViTTagger, begin_from
from audiomask.tasks.task import Task


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean precision `[K']` at the ranks of the positives, for classes that have any.

    `scores` and `targets` are `[N, K]`; clips of equal score share the last of their ranks.
    """
    found = []
    for column, truth in zip(scores.T, targets.T > 0.5, strict=True):
        if truth.any():
            order = column.argsort(descending=True)
            hits, ordered = truth[order].cumsum(0).double(), column[order]
            last = torch.searchsorted(-ordered, -ordered, right=True) - 1  # the last clip with this score
            precision = hits[last] / (last + 1)
            found.append(precision[truth[order]].mean())
    return torch.stack(found) if found else scores.new_zeros(0).double()


def accuracy_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the fraction of clips `[N, K]` whose likeliest class is one of theirs."""
    return (targets.gather(1, scores.argmax(1, keepdim=True)) > 0.5).double().mean()


def kept(grid: tuple[int, int], seeds: Tensor, time: float, freq: float) -> Tensor:
    """Return indices `[B, V]` of the patches left when fractions of columns and rows are hidden."""
    sides = []
    for purpose, (size, share) in enumerate(zip(grid, (time, freq), strict=True)):
        count = max(1, size - round(share * size))
        sides.append(draws(seeds, size, 10 + purpose).argsort(1)[:, :count].sort(1).values)
    return (sides[0][:, :, None] * grid[1] + sides[1][:, None, :]).flatten(1)


def heard(count: int, seeds: Tensor, share: float) -> Tensor:
    """Return `[B, count]` bool, false at round(share count) tokens a row that nobody attends to."""
    return draws(seeds, count, 12).argsort(1).argsort(1) >= round(share * count)


class Classify(Task):
    """Trains a tagger.

    Args:
        model: Network to train.
        frontend: Makes the spectrograms.
        loss: "bce" for any number of labels a clip; "ce" for one.
        smoothing: Fraction of the target of "ce" that is spread over all classes in training.
        frozen: Train only the last norm and the classifier: a linear probe.
        layer_decay: Factor on the rate from each block to the one before it; the classifier has `lr`.
        spec_frames, spec_bands: Widest stretches that SpecAugment hides.
        quantize: Fraction of the rows that are quantized at random, in 8 regions.
        mask_time, mask_freq: Fractions of the columns and rows of patches that are left out in training.
        suppress: Fraction of the others, drawn for each row, that no token may attend to in training; .1 is
            A-JEPA's regularised masking.
        shortest: Half of the batches keep only the beginning of the spectrograms, at least this fraction of
            the columns: all that a streaming tagger gets at first. 1: all are whole.
        training: See `Task`; `start_from` gives the encoder. The class token and vectors are not decayed.
    """

    def __init__(
        self,
        model: ViTTagger,
        frontend: LogMel,
        loss: Literal["bce", "ce"] = "bce",
        smoothing: float = 0.0,
        frozen: bool = False,
        layer_decay: float = 0.75,
        spec_frames: int = 192,
        spec_bands: int = 48,
        quantize: float = 0.0,
        mask_time: float = 0.2,
        mask_freq: float = 0.2,
        suppress: float = 0.0,
        shortest: float = 1.0,
        **training: Any,
    ):
        super().__init__(model, **training)
        shares = {"mask_time": mask_time, "mask_freq": mask_freq, "suppress": suppress, "quantize": quantize}
        for name, share in shares.items():
            if not 0 <= share <= 1 or (share == 1 and name != "quantize"):
                raise AudioError(f"{name} {share}: a share, from 0 to below 1")
        if not 0 < shortest <= 1:
            raise AudioError(f"shortest {shortest}: a share of the columns, above 0 and at most 1")
        if smoothing and (loss == "bce" or not 0 < smoothing < 1):
            raise AudioError(f"smoothing {smoothing}: a share, from 0 to below 1, of the targets of loss ce")
        self.frontend, self.loss, self.frozen = frontend, loss, frozen
        self.smoothing, self.layer_decay = smoothing, layer_decay
        self.spec_frames, self.spec_bands, self.quantize = spec_frames, spec_bands, quantize
        self.mask_time, self.mask_freq, self.suppress = mask_time, mask_freq, suppress
        self.shortest = shortest
        if frozen:
            for name, p in model.named_parameters():
                p.requires_grad_(name.startswith(("fc_norm.", "head.")))
            model.blocks.eval()
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._tested: dict[str, tuple[Tensor, Tensor]] = {}

    def begin(self, state: dict[str, Tensor]) -> None:
        begin_from(self.model, state)

    def on_fit_start(self) -> None:
        super().on_fit_start()
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
        smoothing = self.smoothing if self.training else 0.0
        return F.cross_entropy(
            logits.float(), target / target.sum(1, keepdim=True), label_smoothing=smoothing
        )

    def _beginning(self, x: Tensor, seeds: Tensor) -> Tensor:
        """Return the first columns of `x [B, frames, bands]`, or all; see `shortest`."""
        if self.shortest == 1:
            return x
        patch = self.model.patch
        columns = x.shape[1] // patch
        least = max(1, round(self.shortest * columns))
        chance = min(1.0, 2 * float(draws(seeds[:1], 1, 13)))
        return x[:, : round(least + chance * (columns - least)) * patch]

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        seeds = batch["seed"]
        torch.manual_seed(int(seeds[0]))  # for dropped paths: a resumed run goes on as before
        with torch.no_grad():
            x = self._beginning(self.frontend(batch["audio"]), seeds)
            nothing = -self.frontend.mean / (2 * self.frontend.std)  # 0 before normalisation
            x = spec_augment(x, seeds, self.spec_frames, self.spec_bands, nothing)
            if self.quantize:
                x = randomized_quantization(x, seeds, chance=self.quantize)
            visible, keys = None, None
            if self.mask_time or self.mask_freq:
                visible = kept(self.model.grid_of(x), seeds, self.mask_time, self.mask_freq)
            if self.suppress:
                time, freq = self.model.grid_of(x)
                count = time * freq if visible is None else visible.shape[1]
                keys = heard(count, seeds, self.suppress)
        loss = self._loss(self.model(x, visible, keys), batch["target"])
        self.log("train/loss", loss, batch_size=len(x))
        return loss

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        with self.as_kept():
            logits = self.model(self.frontend(batch["audio"]))
            loss = self._loss(logits, batch["target"])
        self.log("val/loss", loss, batch_size=len(logits), sync_dist=True)
        self._seen.append((logits.cpu(), batch["target"].cpu()))

    def on_validation_epoch_end(self) -> None:
        if not self._seen:
            return
        logits, target = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        accuracy, precision = accuracy_of(logits, target), average_precision(logits, target).mean()
        select = precision if self.loss == "bce" else accuracy
        self.log_dict({"val/map": precision, "val/accuracy": accuracy, "val/select": select}, sync_dist=True)

    def test_step(self, batch: dict[str, Any], index: int) -> None:
        with self.as_kept():
            logits = self.model(self.frontend(batch["audio"]))
        self._tested[batch["key"][0]] = (logits[0].float().cpu(), batch["target"][0].cpu())

    def report(self, classes: list[str], top: int = 5) -> dict[str, Any]:
        """Return the test's results for a JSON file: accuracy, mean average precision, and clips.

        Each clip has its labels and the `top` likeliest classes with their probabilities.
        """
        logits, target = (torch.stack(parts) for parts in zip(*self._tested.values(), strict=True))
        chances = logits.sigmoid() if self.loss == "bce" else logits.softmax(1)
        best = chances.topk(min(top, len(classes)), 1)
        clips = {
            key: {
                "labels": [classes[i] for i in (truth > 0.5).nonzero()[:, 0]],
                "likeliest": {classes[i]: round(p, 5) for i, p in zip(index, values, strict=True)},
            }
            for key, truth, index, values in zip(
                self._tested, target, best.indices.tolist(), best.values.tolist(), strict=True
            )
        }
        return {
            "accuracy": float(accuracy_of(logits, target)),
            "map": float(average_precision(logits, target).mean()),
            "clips": clips,
        }

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters by the rate of their layer, whether they are decayed, and for Muon."""
        depth = len(self.model.blocks)
        maps = {id(p): group["maps"] for group in super().groups() for p in group["params"]}
        found: dict[tuple[int, bool, int], list[torch.nn.Parameter]] = {}
        for name, p in self.model.named_parameters():
            if not p.requires_grad:
                continue
            layer = depth + 1
            if name.startswith("blocks."):
                layer = int(name.split(".")[1]) + 1
            elif name.startswith(("cls_token", "patch_embed.")):
                layer = 0
            decayed = p.ndim > 1 and name != "cls_token"
            found.setdefault((layer, decayed, maps[id(p)]), []).append(p)
        return [
            {
                "params": ps,
                "lr": self.lr * self.layer_decay ** (depth + 1 - layer),
                "weight_decay": self.weight_decay if decayed else 0.0,
                "maps": stacked,
            }
            for (layer, decayed, stacked), ps in found.items()
        ]
