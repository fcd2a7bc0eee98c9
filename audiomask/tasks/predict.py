"""Masked pretraining in latent space: a network predicts what an average of itself makes of what is hidden.

`Predict` is the task, for A-JEPA and EAT; the data are `data.modules.Sounds`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from audiomask.audio import AudioError
from audiomask.data.picture_augment import draws
from audiomask.frontend.logmel import LogMel
from audiomask.masks.patches import Grid, Random, tokens
from audiomask.masks.patches_jepa import Curriculum, level
from audiomask.nn.latent import Latent
from audiomask.tasks.pretrain import Mask
from audiomask.tasks.task import Task


def varied(x: Tensor, seeds: Tensor, gain_db: float, cyclic: bool) -> Tensor:
    """`x [B, T]` rolled round by any number of samples, and louder or quieter by up to `gain_db`, each row by
    its own seed.
    """
    numbers = draws(seeds, 2, 20)
    if cyclic:
        start = (numbers[:, :1] * x.shape[1]).long()
        x = x.gather(1, (torch.arange(x.shape[1], device=x.device) + start) % x.shape[1])
    return x * 10 ** (gain_db * (2 * numbers[:, 1:] - 1) / 20) if gain_db else x


def blocks(masks: Tensor, seeds: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Indices of the context, `[B, 1, V]`, and of the target blocks, `[B, K, M]` for all of one size, out of
    masks `[B, 1 + K, time, freq]` of `Curriculum`.
    """
    visible = tokens(level(masks[:, 0], seeds))[0]
    sizes: dict[int, list[Tensor]] = {}
    for mask in masks[:, 1:].unbind(1):
        index = tokens(mask)[1]
        sizes.setdefault(index.shape[1], []).append(index)
    return visible[:, None], [torch.stack(found, 1) for found in sizes.values()]


def views(mask: Mask, seeds: Tensor, grid: Grid, count: int) -> tuple[Tensor, list[Tensor]]:
    """Indices of the visible and hidden patches of `count` masks of each clip, `[B, R, V]` and `[B, R, M]`.
    The first is that of the clip's own seed. A kind that draws several masks (`Disjoint`) gives as many more.
    """
    steps = torch.arange(count, device=seeds.device) * 0x5851F42D4C957F2D  # wraps round
    masks = mask.sample((seeds[:, None] + steps).flatten(), grid)
    visible, hidden = tokens(masks.reshape(-1, *grid))
    return visible.unflatten(0, (len(seeds), -1)), [hidden.unflatten(0, (len(seeds), -1))]


class Predict(Task):
    """Trains a network to predict its own embeddings of hidden patches.

    Args:
        model: what is trained. mask: `masks.patches_jepa.Curriculum`, or any other kind that takes no scores;
            one that changes with the training (`at`) goes on with its steps. frontend: makes the pictures.
        clones: masks of a clip, each a view to predict from; the targets are computed once. Of the
            curriculum there is one view with several targets.
        momentum: of the average that the target encoder is, w <- m w + (1 - m) w', at the first step and at
            the last of `momentum_steps` (0: of the run), linear between them. From .996 to 1 in I-JEPA, after
            which A-JEPA is made; .9998 to .99999 over 100,000 steps in EAT.
        gain_db: clips are made louder or quieter by up to as much. cyclic: they are rolled round. Both are
            A-JEPA's; the data's own `augment` is Audio-MAE's.
        shown: validation clips that go to TensorBoard as pictures: the clip, the same under a random mask of
            .8, and the error of the prediction of each hidden patch, white being twice the mean.
        training: see `Task`.

    The losses of two runs, and of two times in a run, are not of the same target: a lower one is no better
    network, so the last weights are kept. `train/target_std` tells whether the embeddings collapse: see
    `nn.latent.spread`. Validation has the same masks each time, one view of a clip; of the curriculum, clips
    in turn with random and with time-frequency-aware blocks.
    """

    monitor = None

    def __init__(
        self,
        model: Latent,
        mask: Mask,
        frontend: LogMel,
        clones: int = 1,
        momentum: tuple[float, float] = (0.996, 1.0),
        momentum_steps: int = 0,
        gain_db: float = 0.0,
        cyclic: bool = False,
        shown: int = 3,
        **training: Any,
    ):
        super().__init__(model, **training)
        if (frontend.bands, frontend.patch) != (model.bands, model.patch):
            raise AudioError(
                f"frontend has {frontend.bands} bands and patches of {frontend.patch}, the model "
                f"{model.bands} and {model.patch}; make them equal"
            )
        if not 0 <= momentum[0] <= momentum[1] <= 1:
            raise AudioError(
                f"momentum {momentum[0]:g} to {momentum[1]:g}: want two rising numbers in 0 to 1"
            )
        if clones < 1 or (clones > 1 and isinstance(mask, Curriculum)):
            raise AudioError(f"clones is {clones}; want 1 or more, and 1 with the curriculum")
        if getattr(mask, "scored", ""):
            raise AudioError(f"mask {type(mask).__name__} needs scores; take one that looks at nothing")
        self.mask, self.frontend, self.clones, self.shown = mask, frontend, clones, shown
        self.momentum, self.momentum_steps = momentum, momentum_steps
        self.gain_db, self.cyclic = gain_db, cyclic

    def _places(self, x: Tensor, seeds: Tensor, mask: Any, clones: int) -> tuple[Tensor, list[Tensor]]:
        """Indices of the visible patches of `x [B, frames, bands]` and of those to predict, see `Latent`."""
        grid = self.model.grid_of(x)
        if isinstance(mask, Curriculum):
            return blocks(mask.sample(seeds, grid), seeds)
        return views(mask, seeds, grid, clones)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        seeds, mask = batch["seed"], self.mask
        torch.manual_seed(int(seeds[0]))  # of noise inside: a resumed run goes on as before
        with torch.no_grad():
            x = self.frontend(varied(batch["audio"], seeds, self.gain_db, self.cyclic))
            mask = mask.at(self.global_step) if hasattr(mask, "at") else mask
            visible, hidden = self._places(x, seeds, mask, self.clones)
        found = self.model(x, visible, hidden)
        self.log_dict({f"train/{name}": value for name, value in found.items()}, batch_size=len(x))
        return found["loss"]

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        mask: Any = self.mask
        if isinstance(mask, Curriculum):
            mask = replace(mask, step=0, start=index % 2, seed=index)
        with self.as_kept():
            x = self.frontend(batch["audio"])
            found = self.model(x, *self._places(x, batch["seed"], mask, 1))
            if index < self.shown:
                self._show(str(index), x[:1], batch["seed"][:1])
        found.pop("target_std")  # of one clip
        losses = {f"val/{name}": value for name, value in found.items()}
        self.log_dict(losses, batch_size=len(x), sync_dist=True)

    def _show(self, name: str, x: Tensor, seed: Tensor) -> None:
        """The picture `x [1, frames, bands]` and how wrong the network is about its patches."""
        mask, (low, high) = Random().sample(seed, self.model.grid_of(x)), x.aminmax()
        errors = self.model.errors(x, *tokens(mask))[0]

        def large(cells: Tensor) -> Tensor:
            patch = self.model.patch
            return cells.repeat_interleave(patch, 0).repeat_interleave(patch, 1)

        wrong = errors.new_zeros(mask[0].shape).masked_scatter(mask[0], errors)
        self.picture(f"{name}/original", x[0], low, high)
        self.picture(f"{name}/masked", x[0].where(~large(mask[0]), low), low, high)
        self.picture(f"{name}/error", large(wrong), errors.new_zeros(()), 2 * errors.mean())

    def momentum_at(self, step: int) -> float:
        """The average's momentum at a step, counted from 0."""
        first, last = self.momentum
        total = self.momentum_steps or int(self.trainer.estimated_stepping_batches)
        return first + (last - first) * min(1.0, step / total)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.global_step  # which the optimizer raises
        super().optimizer_step(*args, **kwargs)
        self.model.follow(self.momentum_at(step))
