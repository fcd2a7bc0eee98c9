"""Pretrain in latent space: predict what an average of the network makes of hidden patches.

`Predict` is the task, for A-JEPA and EAT; the data are `data.modules.Sounds`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from audiomask.audio import AudioError
from audiomask.data.simulate.spectrogram_augment import draws
from audiomask.frontend.logmel import LogMel
from audiomask.masks.patches.jepa import Curriculum, level
from audiomask.masks.patches.patterns import Grid, Random, tokens
from audiomask.nn.latent import Latent
from audiomask.tasks.pretrain import Mask, check_sizes
from audiomask.tasks.task import Task


def varied(x: Tensor, seeds: Tensor, gain_db: float, cyclic: bool) -> Tensor:
    """Return rows `x [B, T]` rolled round and up to `gain_db` louder or softer, by their seeds."""
    numbers = draws(seeds, 2, 20)
    if cyclic:
        start = (numbers[:, :1] * x.shape[1]).long()
        x = x.gather(1, (torch.arange(x.shape[1], device=x.device) + start) % x.shape[1])
    return x * 10 ** (gain_db * (2 * numbers[:, 1:] - 1) / 20) if gain_db else x


def blocks(masks: Tensor, seeds: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return indices of the context `[B, 1, V]` and of the targets, `[B, K, M]` for each size.

    The masks `[B, 1 + K, time, freq]` are those of `Curriculum`.
    """
    visible = tokens(level(masks[:, 0], seeds))[0]
    sizes: dict[int, list[Tensor]] = {}
    for mask in masks[:, 1:].unbind(1):
        index = tokens(mask)[1]
        sizes.setdefault(index.shape[1], []).append(index)
    return visible[:, None], [torch.stack(found, 1) for found in sizes.values()]


def views(mask: Mask, seeds: Tensor, grid: Grid, count: int) -> tuple[Tensor, list[Tensor]]:
    """Return indices of the visible `[B, R, V]` and the hidden patches `[B, R, M]` of clips.

    Each clip has `count` masks, the first of its own seed; kinds with several (`Disjoint`) give as many more.
    """
    steps = torch.arange(count, device=seeds.device) * 0x5851F42D4C957F2D  # wraps round
    masks = mask.sample((seeds[:, None] + steps).flatten(), grid)
    visible, hidden = tokens(masks.reshape(-1, *grid))
    return visible.unflatten(0, (len(seeds), -1)), [hidden.unflatten(0, (len(seeds), -1))]


class Predict(Task):
    """Trains a network to predict its own embeddings of hidden patches.

    Args:
        model: Network to train.
        mask: `masks.patches.jepa.Curriculum`, or any other kind that takes no scores.
        frontend: Makes the spectrograms.
        clones: Masks of a clip, each a view to predict from; the targets are computed once. The curriculum
            gives one view with several targets.
        momentum: Factor m of the average that is the target encoder, w <- m w + (1 - m) w', at the first step
            and at the last of `momentum_steps` (0: of the run), linear between them. From .996 to 1 in
            I-JEPA, on which A-JEPA is modelled; .9998 to .99999 over 100,000 steps in EAT.
        gain_db, cyclic: Clips are made louder or quieter by at most this, and rolled round, as in A-JEPA; the
            data's own `augment` is Audio-MAE's.
        shown: Validation clips that go to TensorBoard as spectrograms: the clip, the clip under a random mask
            of .8, and the error of the prediction of each hidden patch, white being twice the mean.
        training: See `Task`.

    The targets change with the run, so a lower loss does not mean a better network, and the last weights are
    kept. `train/target_std` shows whether the embeddings collapse (`nn.latent.spread`). Validation has the
    same masks each time, one view of a clip; with the curriculum, clips alternate between random and
    time-frequency-aware blocks.
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
        check_sizes(frontend, model)
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
        """Return indices of the visible patches of `x` and of those to predict; see `Latent`."""
        grid = self.model.grid_of(x)
        if isinstance(mask, Curriculum):
            return blocks(mask.sample(seeds, grid), seeds)
        return views(mask, seeds, grid, clones)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        seeds, mask = batch["seed"], self.mask
        torch.manual_seed(int(seeds[0]))  # for noise inside: a resumed run goes on as before
        with torch.no_grad():
            x = self.frontend(varied(batch["audio"], seeds, self.gain_db, self.cyclic))
            mask = mask.at(self.global_step) if hasattr(mask, "at") else mask
            visible, hidden = self._places(x, seeds, mask, self.clones)
        found = self.model(x, visible, hidden)
        self.record("train", found, len(x))
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
        found.pop("target_std")  # means nothing for one clip
        self.record("val", found, len(x))

    def _show(self, name: str, x: Tensor, seed: Tensor) -> None:
        """Log the spectrogram `x [1, frames, bands]` and how wrong the network is about its patches."""
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
        """Return the average's momentum at a step, counted from 0."""
        first, last = self.momentum
        total = self.momentum_steps or int(self.trainer.estimated_stepping_batches)
        return first + (last - first) * min(1.0, step / total)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.global_step  # the optimizer raises it
        super().optimizer_step(*args, **kwargs)
        self.model.follow(self.momentum_at(step))
