"""Mix the sources of music anew, in batches on the training device, for codecs.

The rows are those of `data.modules.Music`. `Gains` mixes as the authors of EnCodec do, `Remix` as those of
WaLLoC.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from audiomask.data.example import Example, Simulation, rms
from audiomask.data.simulate.degrade import RowDraws


class Mixing(Simulation):
    """A base that makes one sound `[B, C, T]`, given and wanted, of `sources [B, S, C, T]`."""

    def mix(self, sources: Tensor, draws: RowDraws) -> Tensor:
        """Return the mixes `[B, C, T]`."""
        raise NotImplementedError

    def example(self, batch: Mapping[str, Tensor]) -> Example:
        """Return the example of raw rows, or of recordings `audio [B, C, T]` as they are."""
        if "audio" in batch:
            sound = batch["audio"]
        else:
            sources = batch["sources"][..., : self.segment]
            sound = self.mix(sources, RowDraws(batch["seed"], sources.shape[1], sources.device))
        return Example({"audio": sound}, {"decoded": sound}, rms(sound.flatten(1)))


class Gains(Mixing):
    """Adds sources, each at a gain drawn for it (EnCodec, Défossez et al. 2023, section 4.1).

    The authors reject what clips; here it is turned down. Their reverberation is left out.

    Args:
        sample_rate, segment: See `Simulation`.
        gain_db: Range of the gains.
    """

    def __init__(
        self,
        sample_rate: int | None = None,
        segment: int | None = None,
        gain_db: tuple[float, float] = (-10.0, 6.0),
    ):
        super().__init__(sample_rate, segment)
        self.gain_db = gain_db

    def mix(self, sources: Tensor, draws: RowDraws) -> Tensor:
        gains = 10 ** (draws.uniform(*self.gain_db, sources.shape[1]) / 20)
        x = (sources * gains[:, :, None, None]).sum(1)
        return x / x.abs().amax((1, 2), keepdim=True).clamp_min(1.0)


class Remix(Mixing):
    """Adds the stems of a song by one of 21 sets of weights for four stems (WaLLoC's training).

    These are all stems as they are; some of them alone, in each choice of one, two or three; and all, two of
    them at 1.5 and the others at .5. The mix has no constant part, and a peak of `peak` (the authors' 1/2
    within the network is full scale for the codec).
    """

    def __init__(self, sample_rate: int | None = None, segment: int | None = None, peak: float = 1.0):
        super().__init__(sample_rate, segment)
        self.peak = peak

    @staticmethod
    def weights(stems: int) -> Tensor:
        """Return the sets of weights `[N, stems]`."""

        def sets(size: int, chosen: float, rest: float) -> list[list[float]]:
            return [
                [chosen if i in some else rest for i in range(stems)]
                for some in itertools.combinations(range(stems), size)
            ]

        alone = [row for size in range(1, stems) for row in sets(size, 1.0, 0.0)]
        louder = sets(stems // 2, 1.5, 0.5) if stems > 1 else []
        return torch.tensor([[1.0] * stems, *alone, *louder])

    def mix(self, sources: Tensor, draws: RowDraws) -> Tensor:
        table = self.weights(sources.shape[1]).to(sources)
        weights = table[(draws.uniform(0, len(table)).long()).clamp_max(len(table) - 1)]
        x = (sources * weights[:, :, None, None]).sum(1)
        x = x - x.mean((1, 2), keepdim=True)
        return x * (self.peak / x.abs().amax((1, 2), keepdim=True).clamp_min(1e-4))
