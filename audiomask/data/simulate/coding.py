"""Train a codec: sound to be coded by some of its codebooks, of which frames are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from audiomask.audio import AudioError
from audiomask.data.example import Example, Simulation, rms
from audiomask.masks.packets import LossModel


class Coding(Simulation):
    """Gives a codec the signal that another simulation makes, which is wanted back.

    Args:
        sent: Makes that signal: speech with the noise that a talker has about him, or mixes of music.
        books: Numbers of codebooks, of which each row or batch draws one (twice as often if given twice).
        losses: Loss models, of which each row draws one; none: all frames arrive.
        stride: Samples of a frame of codes.
        per_batch: Draw the codebooks for a whole batch, as EnCodec does, not for each row.
        judged: Codebooks that the validation uses.
    """

    def __init__(
        self,
        sent: Simulation,
        books: Sequence[int],
        losses: Sequence[LossModel] = (),
        stride: int = 320,
        per_batch: bool = False,
        judged: int | None = None,
    ):
        super().__init__(sent.sample_rate, sent.segment)
        if not books or min(books) < 1:
            raise AudioError(f"books is {list(books)}; name at least one number of codebooks, from 1 up")
        self.sent, self.books, self.losses, self.stride = sent, tuple(books), tuple(losses), stride
        self.per_batch, self.judged = per_batch, judged or max(books)

    @property
    def crop(self) -> int:
        return self.sent.crop

    def example(self, batch: Mapping[str, Tensor]) -> Example:
        """Return the example of raw rows, or of whole recordings (`data.crops.clips.Clips`)."""
        if "audio" in batch:
            sent, books = batch["audio"], [self.judged] * len(batch["audio"])
            sent = sent[:, None] if sent.ndim == 2 else sent
        else:
            sent = self.sent.example(batch).given["audio"]
            seeds = batch["seed"][:1].expand(len(sent)) if self.per_batch else batch["seed"]
            books = [self._draw(self.books, int(seed) ^ 0xB00C5) for seed in seeds]
        lost = sent.new_zeros(len(sent), -(sent.shape[2] // -self.stride))
        if self.losses and "audio" not in batch:
            for row, seed in zip(lost, batch["seed"], strict=True):
                model = self._draw(self.losses, int(seed) ^ 0x10557)
                row.copy_(model.sample(seed[None], len(row))[0])
        given = {
            "audio": sent,
            "lost": lost[:, None],
            "books": torch.tensor(books, device=sent.device),
        }
        return Example(given, {"decoded": sent}, rms(sent.flatten(1)))

    @staticmethod
    def _draw(choices: Sequence[Any], seed: int) -> Any:
        return choices[int(torch.randint(len(choices), (), generator=torch.Generator().manual_seed(seed)))]
