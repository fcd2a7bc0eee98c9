"""Make examples: signals that a network is given, and signals that are wanted of it.

A `Simulation` turns raw rows (recordings as the loader cuts them) into an `Example` on the training device,
named as the network's ports. Its choice in a recipe says what is trained: denoising or concealment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from audiomask.audio import AudioError


@dataclass(frozen=True)
class Example:
    """A batch to learn from."""

    given: Mapping[str, Tensor]  # signals `[B, C, T]`, controls `[B]` by input; unknown ones are ignored
    wanted: Mapping[str, Tensor]  # signals `[B, C, T]` by output; a single one is that of the first output
    level: Tensor  # RMS `[B, 1, 1]` that rows are divided by when compared, so loud and quiet count alike
    where: Tensor | None = None  # float `[B, T]`, 1 where something is to be estimated; None: everywhere


def rms(x: Tensor) -> Tensor:
    """Return the RMS `[B, 1, 1]` of `x [B, T]`, 1e-4 (-80 dBFS) at least."""
    return x.float().square().mean(-1).sqrt().clamp(min=1e-4)[:, None, None]


class Simulation(nn.Module):
    """A base that makes examples of a noisy signal, of which the clean one is wanted.

    `reference` is the microphone of M that the target belongs to. Rows have `segment` samples at
    `sample_rate` Hz; a recipe writes neither, as they are the network's rate and `data.segment`.
    """

    reference = 0

    def __init__(self, sample_rate: int | None, segment: int | None):
        super().__init__()
        if not sample_rate or not segment:
            raise AudioError(f"{type(self).__name__}: give sample_rate (Hz) and segment (samples)")
        self.sample_rate, self.segment = sample_rate, segment

    @property
    def crop(self) -> int:
        """Return the samples of raw material that a row needs."""
        return self.segment

    def forward(self, speech: Tensor, noise: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Mix `speech [B, L]`, `noise [B, K, L]` to noisy `[B, T]` or `[B, M, T]`, clean `[B, T]`."""
        raise NotImplementedError

    def example(self, batch: Mapping[str, Tensor]) -> Example:
        """Return the example of a batch of raw rows or of the fixed pairs of a validation."""
        if "clean" in batch:
            noisy, clean = batch["noisy"], batch["clean"]
        else:
            noisy, clean = self(batch["speech"], batch["noise"], batch["seed"])
        noisy = noisy[:, None] if noisy.ndim == 2 else noisy
        return Example({"audio": noisy}, {"clean": clean[:, None]}, rms(noisy[:, self.reference]))
