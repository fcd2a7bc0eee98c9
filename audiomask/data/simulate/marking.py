"""Train a watermark: sound to be marked, a message for it, and where the mark is to stay."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from audiomask.data.example import Example, Simulation, rms
from audiomask.data.simulate.degrade import RowDraws

APART = 0x3A4C  # from the seeds of what is marked


class Marking(Simulation):
    """Gives a marker the signal that another simulation makes, and a message.

    The signal is wanted back. A detector is to learn where a mark is, so parts of the marked signal are
    replaced: `mask [B, 1, T]` is 0 there, and `fill [B, 1, T]` is what they become (San Roman et al. 2024).
    The message and the mask are drawn for each row; without any of the three, a row stays marked as a whole.

    Args:
        sent: Makes the signal to be marked.
        bits: Bits of a message, or symbols.
        silence_p: Probability that a row becomes silent in its parts.
        replace_p: Probability that another row of the batch takes their place.
        remove_p: Probability that the same row without the mark does.
        windows: Parts of a row at most, of equal length.
        covered: Fraction of a row that they cover, where they do not overlap.
        invert_p: Probability that all but the parts is replaced.
        levels: Number of symbols that a message may be of; they are 0 to levels - 1.
    """

    def __init__(
        self,
        sent: Simulation,
        bits: int = 16,
        silence_p: float = 0.2,
        replace_p: float = 0.2,
        remove_p: float = 0.4,
        windows: int = 5,
        covered: float = 0.5,
        invert_p: float = 0.5,
        levels: int = 2,
    ):
        super().__init__(sent.sample_rate, sent.segment)
        if min(silence_p, replace_p, remove_p) < 0 or silence_p + replace_p + remove_p > 1:
            raise ValueError(
                f"silence_p {silence_p}, replace_p {replace_p}, remove_p {remove_p}: want probabilities "
                "whose sum is 1 at most"
            )
        if levels < 2:
            raise ValueError(f"{levels} levels: want two at least")
        if windows < 1 or not 0 < covered < 1:
            raise ValueError(f"{windows} windows that cover {covered}: want one at least, and a fraction")
        self.sent, self.bits, self.windows, self.covered = sent, bits, windows, covered
        self.silence_p, self.replace_p, self.remove_p = silence_p, replace_p, remove_p
        self.invert_p, self.levels = invert_p, levels

    @property
    def crop(self) -> int:
        return self.sent.crop

    def example(self, batch: Mapping[str, Tensor]) -> Example:
        """Return the example of raw rows, or of whole recordings (`data.crops.clips.Clips`)."""
        if "audio" in batch:
            x = batch["audio"]
            x = x[:, None] if x.ndim == 2 else x
            seeds = torch.full((len(x),), x.shape[2]) + torch.arange(len(x))
        else:
            x, seeds = self.sent.example(batch).given["audio"], batch["seed"]
        draws = RowDraws(seeds ^ APART, self.bits + 3 + self.windows, x.device)
        message = draws.uniform(0, self.levels, self.bits).long().clamp(max=self.levels - 1)
        kind = draws.uniform(0, 1, 1, 1)
        mask = self._mask(draws, x.shape[2])
        whole = kind >= self.silence_p + self.replace_p + self.remove_p
        fill = torch.where(kind < self.silence_p + self.replace_p, x.roll(1, 0), x)
        fill = torch.where(kind < self.silence_p, 0.0, fill)
        given = {"audio": x, "message": message, "mask": torch.where(whole, 1.0, mask), "fill": fill}
        return Example(given, {"marked": x}, rms(x.flatten(1)))

    def _mask(self, draws: RowDraws, length: int) -> Tensor:
        """Return a mask `[B, 1, length]` for each row."""
        count = draws.uniform(1, self.windows + 1, 1).long().clamp(max=self.windows)  # [B, 1]
        size = (self.covered * length / count).long()
        start = (draws.uniform(0, 1, self.windows) * (length - size + 1)).long()
        start = torch.where(torch.arange(self.windows, device=count.device) < count, start, length)
        place = torch.arange(length, device=count.device)
        inside = (place >= start[..., None]) & (place < (start + size)[..., None])  # [B, windows, length]
        replaced = inside.any(1, keepdim=True) ^ draws.chance(self.invert_p, 1, 1)
        return (~replaced).float()
