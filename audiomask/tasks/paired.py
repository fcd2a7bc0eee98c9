"""Training on the pairs that a corpus gives, in place of mixtures made on the way.

`PairedSpeech` goes with `data.augment.Augment`: it hands over clean speech and the noise that is left when
the clean recording is taken from the noisy one, so that noises can be dealt out anew within a batch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from audiomask.audio import AudioError
from audiomask.data.kaldi import Utterance
from audiomask.data.loading import PackedAudio, cut, read_mono
from audiomask.tasks.enhance import Pairs, batches, packed


class PairCrops(Dataset[dict[str, torch.Tensor]]):
    """Row `n` of random crops from packed pairs, seeded with `(seed, n)` as in `data.loading`.

    Args:
        pairs: packed corpus whose entries are the clean recording followed by the noisy one.
        length: samples of a crop. A shorter pair stands at a random place among zeros.

    Item: `speech [L]`, `noise [1, L]` float32, `seed` int64 (for the augmentation).
    """

    def __init__(self, pairs: PackedAudio, length: int, seed: int = 0):
        self.pairs, self.length, self.seed = pairs, length, seed

    def _crop(self, rng: np.random.Generator) -> np.ndarray:
        """Clean and noisy `[2, L]` of one pair, every second of the corpus as likely."""
        i = self.pairs.draw(rng)
        n = self.pairs.lengths[i] // 2
        start = self.pairs.offsets[i]
        pair = self.pairs.samples[start : start + 2 * n].reshape(2, n)

        def read(at: int, count: int) -> np.ndarray:
            return pair[:, at : at + count].astype(np.float32) / 32768

        return cut(read, int(n), rng, self.length, "pad")

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, row])
        clean, noisy = torch.from_numpy(self._crop(rng))
        return {
            "speech": clean,
            "noise": (noisy - clean)[None],
            "seed": torch.tensor(int(rng.integers(2**62))),
        }


class PairedSpeech(pl.LightningDataModule):
    """Pairs of noisy and clean recordings, for training and for validation.

    Args:
        train, valid: data directories of pairs (`wav.scp` noisy, `clean.scp` clean, of the same length).
        cache, batch_size, steps, segment, seed, workers: as in `tasks.enhance.NoisySpeech`.
    """

    def __init__(
        self,
        train: str,
        valid: str,
        cache: str = "exp/cache",
        sample_rate: int = 16000,
        batch_size: int = 16,
        steps: int = 500,
        segment: int = 32000,
        seed: int = 0,
        workers: int = 1,
    ):
        super().__init__()
        self.train_dir, self.valid_dir, self.cache = train, valid, Path(cache)
        self.sample_rate, self.batch_size, self.steps, self.segment = sample_rate, batch_size, steps, segment
        self.seed, self.workers = seed, workers

    def _pack(self) -> Path:
        pairs = Pairs(self.train_dir, self.sample_rate)  # says so if there is no clean.scp

        def read(u: Utterance) -> np.ndarray:
            """Clean, then noisy: in one entry, so that packing scales both alike where one would clip."""
            clean, noisy = (read_mono(pairs.data, u, self.sample_rate, t) for t in ("clean", "wav"))
            if len(clean) != len(noisy):
                raise AudioError(
                    f"{u.key}: noisy has {len(noisy)} samples and clean {len(clean)}; pair them anew"
                )
            return np.concatenate([clean, noisy])

        return packed(pairs.data, self.cache, self.sample_rate, read, "wav,clean")

    def prepare_data(self) -> None:
        self._pack()

    def train_dataloader(self) -> DataLoader:
        pairs = PackedAudio(self._pack())
        crops = PairCrops(pairs, self.segment, self.seed)
        return batches(self.trainer, crops, self.steps, self.batch_size, self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Pairs(self.valid_dir, self.sample_rate), batch_size=1)
