"""Pretrain by masking: predict hidden patches of the log-mel spectrograms of any sound.

`Pretrain` is the task; the data are `data.modules.Sounds`, crops of recordings without labels.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from audiomask.audio import AudioError
from audiomask.frontend.logmel import LogMel
from audiomask.masks.patches.patterns import Random, tokens
from audiomask.masks.patches.scored import columns
from audiomask.models.audio_mae import AudioMae
from audiomask.nn.latent import follow
from audiomask.nn.vit import ViT
from audiomask.tasks.task import Task


class Mask(Protocol):
    """A mask that hides patches (`audiomask.masks.patches.patterns`).

    It may have `scored`, which scores it takes, and `look(levels, size)`, which makes them from a
    spectrogram; `at(step)`, the mask at a step of the training; and `masks`, how many it draws of one clip.
    """

    def sample(self, seeds: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return `[B, time, freq]` bool from `seeds [B]` int64, true where hidden.

        All rows hide equally many. Kinds with `masks` return `[B, masks, time, freq]`; those with `scored`
        take the scores third.
        """


def check_sizes(frontend: LogMel, model: ViT) -> None:
    """Raise AudioError where the front end's bands and patches are not the network's."""
    if (frontend.bands, frontend.patch) != (model.bands, model.patch):
        raise AudioError(
            f"frontend has {frontend.bands} bands and patches of {frontend.patch}, the model "
            f"{model.bands} and {model.patch}; make them equal"
        )


def some(hidden: Tensor, share: float, seeds: Tensor) -> Tensor:
    """Return a random part of `hidden [B, M]`, round(share M) of a row, in order; at least one."""
    count = max(1, round(share * hidden.shape[1]))
    if count == hidden.shape[1]:
        return hidden
    draws = [torch.Generator().manual_seed(seed ^ 0x50A3) for seed in seeds.tolist()]  # not the mask's
    keys = [torch.rand(hidden.shape[1], generator=draw) for draw in draws]
    chosen = torch.stack(keys).argsort(1)[:, :count].sort(1).values
    return hidden.gather(1, chosen.to(hidden.device))


class Pretrain(Task):
    """Trains an autoencoder to predict hidden patches.

    Args:
        model: Network to train.
        mask: Kind that says which patches are hidden, see below.
        frontend: Makes the spectrograms.
        share: Fraction of the hidden patches, random in each row, that is predicted in training; below 1 only
            for the decoder "cross", which computes nothing else (CrossMAE: .25 to .75).
        shown: Validation clips that go to TensorBoard as spectrograms.
        momentum, momentum_steps: Factor of the moving average that scores patches, for models that have a
            `teacher` (HPM): from the first to the second in so many steps, in a straight line.
        training: See `Task`. The papers give a base rate, lr = base * batch / 256 with the batch of all
            processes, and `decay` 1.

    The loss is the mean square over hidden patches of normalised values (see `AudioMae`). In validation every
    hidden patch is predicted, under masks that are the same each time.

    Masks that take scores get them from the clip's spectrogram if they can `look` at one; else from the
    model, if it makes `scores` (HPM, AdaMAE), whose `guidance` is then added to the loss; else from the data
    (`confidence` of `Sounds`). Masks that change with the training or are led by the model become `Random`
    ones of the same ratio in validation, so that its losses can be compared. If a clip has several masks
    (Disjoint), each is a row of the batch.
    """

    def __init__(
        self,
        model: AudioMae,
        mask: Mask,
        frontend: LogMel,
        share: float = 1.0,
        shown: int = 3,
        momentum: tuple[float, float] = (0.999, 0.9999),
        momentum_steps: int = 1,
        **training: Any,
    ):
        super().__init__(model, **training)
        check_sizes(frontend, model)
        if not 0 < share <= 1:
            raise AudioError(f"share {share}: of the hidden patches, above 0 and at most 1")
        if share < 1 and model.decoder != "cross":
            raise AudioError(
                f"share {share}: the decoder {model.decoder!r} computes all patches; take 1, or decoder cross"
            )
        self.mask, self.frontend, self.share, self.shown = mask, frontend, share, shown
        self.momentum, self.momentum_steps = momentum, momentum_steps
        if not all(0 <= m < 1 for m in momentum) or momentum_steps < 1:
            raise AudioError(
                f"momentum {momentum}, momentum_steps {momentum_steps}: want shares below 1, steps from 1"
            )
        self.source = self._source()
        self.judge = self._tried()
        self.teacher: Any = model.teacher() if hasattr(model, "teacher") else None  # type: ignore[operator]

    def _source(self) -> str:
        """Return the source of the mask's scores: "picture", "model", "data", or "" for none."""
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
        """Return the mask of validation. AudioError if the one of training cannot be drawn."""
        mask: Any = self.mask.at(0) if hasattr(self.mask, "at") else self.mask
        grid = self.model.grid
        scores = {"model": (torch.zeros(1, *grid),), "data": (torch.zeros(1, grid[0]),)}.get(self.source, ())
        if self.source == "picture":
            scores = (self._look(mask, torch.zeros(1, grid[0] * self.model.patch, self.model.bands)),)
        try:
            self._flat(mask.sample(torch.zeros(1, dtype=torch.int64), grid, *scores))
        except ValueError as error:
            raise AudioError(f"mask {type(mask).__name__}: {error}") from None
        changes = hasattr(mask, "at") or self.source == "model"
        return Random(mask.ratio) if changes else mask

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.source == "data" and not getattr(data, "confidence", False):
            raise AudioError(
                f"mask {type(self.mask).__name__} needs scores {self.mask.scored}; "  # type: ignore[attr-defined]
                "with --data.confidence true they come from utt2confidence in the data directories"
            )

    def _look(self, mask: Any, levels: Tensor) -> Tensor:
        """Return the scores that `mask` makes from `levels [B, frames, bands]`."""
        return mask.look(levels, (self.model.patch, self.model.patch))

    def _columns(self, confidence: Tensor, x: Tensor) -> Tensor:
        """Return means `[B, time]` of `confidence [B, T]` over the columns of spectrograms `x`.

        A column lasts as long as its frames' hops; past the end nothing is sure.
        """
        time, width = self.model.grid_of(x)[0], self.model.patch * self.frontend.fbank.hop
        return columns(F.pad(confidence, (0, time * width - confidence.shape[1])), time)

    def _levels(self, x: Tensor, samples: int) -> Tensor:
        """Return log energies of the spectrograms `x`; past the end, those of the quietest frame."""
        levels = x * (2 * self.frontend.std) + self.frontend.mean
        count = self.frontend.fbank.complete(samples)
        if count < x.shape[1]:
            quietest = levels[:, :count].logsumexp(2).argmin(1)
            levels[:, count:] = levels[torch.arange(len(levels), device=x.device), quietest][:, None]
        return levels

    def _flat(self, masks: Tensor) -> Tensor:
        """Return masks `[B, time, freq]`, with `[B, masks, time, freq]` as `[B masks, time, freq]`."""
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
        """Return spectrograms `[B, frames, bands]`, one a mask, seeds, visible and hidden indices."""
        mask: Any = self.mask if training else self.judge
        mask = mask.at(self.global_step) if hasattr(mask, "at") else mask
        seeds = batch["seed"]
        source = self.source if getattr(mask, "scored", "") else ""
        scores = []
        if source == "picture":
            scores.append(self._look(mask, self._levels(x, batch["audio"].shape[1])))
        elif source == "model":
            critic = self.model if self.teacher is None else self.teacher
            scores.append(critic.scores(x))
        elif source == "data":
            scores.append(self._columns(batch["confidence"], x))
        flat = self._flat(mask.sample(seeds, self.model.grid_of(x), *scores))
        views = len(flat) // len(x)
        if views > 1:
            x = x.repeat_interleave(views, 0)
            seeds = (seeds[:, None] + torch.arange(views, device=seeds.device)).flatten()
        return x, seeds, *tokens(flat)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        torch.manual_seed(int(batch["seed"][0]))  # for noise inside: a resumed run goes on as before
        with torch.no_grad():
            x = self.frontend(batch["audio"])
            x, seeds, visible, hidden = self._hide(batch, x)
            hidden = some(hidden, self.share, seeds)
        guess, target, *said = self.model(x, visible, hidden)
        errors = (guess.float() - target).square().mean(2)
        loss = errors.mean()
        self.log("train/loss", loss, batch_size=len(x))
        if said:
            guidance = self.model.guidance(errors.detach(), *said)
            self.log("train/guidance", guidance, batch_size=len(x))
            loss = loss + guidance
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.teacher is None:
            return
        first, last = self.momentum
        momentum = first + (last - first) * min(1.0, self.global_step / self.momentum_steps)
        follow(self.teacher, self.model, momentum)

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        with self.as_kept():
            x = self.frontend(batch["audio"])
            x, _, visible, hidden = self._hide(batch, x, training=False)
            guess, target, *_ = self.model(x, visible, hidden)
        loss = (guess - target).square().mean()
        self.record("val", {"loss": loss, "select": -loss}, len(x))
        if index < self.shown:
            self._show(str(index), x[:1], guess[:1], hidden[:1])

    def _show(self, name: str, x: Tensor, guess: Tensor, hidden: Tensor) -> None:
        """Log the spectrogram `x [1, frames, bands]`, masked and restored, on the scale of x."""
        low, high = x.aminmax()
        if self.global_step == 0 or self.current_epoch == 0:  # these do not change
            self.picture(f"{name}/original", x[0], low, high)
            self.picture(f"{name}/masked", self.model.hide(x, hidden, float(low))[0], low, high)
        self.picture(f"{name}/reconstructed", self.model.restored(x, guess, hidden)[0], low, high)
