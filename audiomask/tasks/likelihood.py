"""Train a network that says how likely the codes of a codec are.

In a recipe, with `data.modules.Codes`:

    model:
      class_path: audiomask.tasks.likelihood.Likelihood
      init_args:
        model: {class_path: audiomask.models.hunch.Hunch}
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from audiomask.models.hunch import Hunch
from audiomask.runtime.catalogue import codec_hash
from audiomask.tasks.task import Task


class Likelihood(Task):
    """Trains a network to expect the codes of packets, in bits.

    Args:
        model: Network to train.
        books: Numbers of codebooks that packets may have, one of which is drawn for each batch.
        scored: Books of a batch, at random, whose bits are computed: they cost most of the time.
        judged: Number of codebooks to validate with.
        lr, betas, weight_decay, training: See `Task`.

    The weights kept are those that save the most bits, of those that plain codes take (`val/saved`).
    """

    floor = 0.01

    def __init__(
        self,
        model: Hunch,
        books: Sequence[int] = (3, 6, 12, 12, 12, 18),
        scored: int = 4,
        judged: int = 12,
        lr: float = 4e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.0,
        **training: Any,
    ):
        super().__init__(model, lr=lr, betas=betas, weight_decay=weight_decay, **training)
        self.books, self.scored, self.judged = tuple(books), scored, judged

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def arguments(self) -> dict[str, Any]:
        encoder = self._data.encoder
        return {"codec": codec_hash(encoder).hex(), "name": encoder.name}

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self.global_step:
            self.model.begin(torch.from_numpy(self._data.counts()))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        codes, random = batch["codes"], torch.Generator().manual_seed(int(batch["seed"][0]))
        count = min(self.books[int(torch.randint(len(self.books), (), generator=random))], codes.shape[1])
        scored = torch.randperm(count, generator=random)[: self.scored].tolist()
        loss = self.model(codes[:, :count], scored).mean()
        self.record("train", {"bits": loss}, len(codes))
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        codes = batch["codes"][0, :, : self.judged]
        with self.as_kept():
            bits = self.model(codes)
        saved = 1 - bits.mean() / math.log2(self.model.levels)
        found = {f"bits_{book}": bits[:, book].mean() for book in range(bits.shape[1])}
        self.record("val", {"saved": saved, "select": saved, **found}, len(codes))
