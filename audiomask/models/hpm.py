"""Pretrain a masked autoencoder that predicts which patches are hard and hides them: HPM.

Wang et al., "Hard Patches Mining for Masked Image Modeling" (CVPR 2023), on spectrograms:

    encoder (as Audio-MAE's), visible patches -+-> decoder ---------> values of the hidden patches
                                               +-> loss predictor --> one number for each patch, y

The predictor is built like the decoder with ordinary attention, and begins like it: from `decoder_embed`, the
mask token and the positions, with the cls token. It learns to put the patches in order: over all pairs (i, j)
of hidden patches of a clip whose reconstruction losses L differ,

    loss = - mean over i, j of  [L_i > L_j] log s(y_i - y_j) + [L_i < L_j] log(1 - s(y_i - y_j))

with s the logistic function. A moving average of the network, the `teacher`, sees the whole clip and chooses
the patches to hide in the next steps (`masks.patches.learned.Hardest`); `tasks.pretrain` keeps it.

As published, the encoder has 12 blocks of 768 channels, decoder and predictor 8 blocks each of 512 channels
and 16 heads: 85,254,144, 25,745,664 and 25,220,609 parameters.

Differences: the published predictor gives a number for each value of a patch and takes their mean, which one
linear output equals. Its logarithms have 1e-6 added; ours are exact.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiomask.models.audio_mae import AudioMae, normalised
from audiomask.nn.vit import EPS, Grid, stack, take


def ranking(predicted: Tensor, errors: Tensor) -> Tensor:
    """Return the loss above of `predicted [B, M]` for patches whose losses are `errors [B, M]`."""
    harder = errors[:, :, None] > errors[:, None]
    pairs = harder | harder.mT
    difference = (predicted[:, :, None] - predicted[:, None]).float()
    loss = F.binary_cross_entropy_with_logits(difference, harder.float(), reduction="none")
    return (loss * pairs).sum() / pairs.sum().clamp_min(1)


class HPM(AudioMae):
    """An encoder, a decoder and a loss predictor, which are pretrained together.

    The loss predictor has `predictor_depth` blocks; other arguments are `AudioMae`'s, without `mixes`.
    """

    def __init__(
        self,
        predictor_depth: int = 8,
        decoder: Literal["window", "global", "cross"] = "global",
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        **mae: Any,
    ) -> None:
        super().__init__(decoder, decoder_width, decoder_depth, decoder_heads, mixes=False, **mae)
        self.predictor_blocks = stack(predictor_depth, decoder_width, decoder_heads)
        self.predictor_norm = nn.LayerNorm(decoder_width, EPS)
        self.predictor_pred = nn.Linear(decoder_width, 1)
        self.initialise()

    def predict(self, tokens: Tensor, visible: Tensor, grid: Grid) -> Tensor:
        """Predict how hard each patch is, `[B, T F]`, from the `features` of the `visible` ones."""
        x = self.attended(self.decoder_embed(tokens), visible, grid, self.predictor_blocks)
        return self.predictor_pred(self.predictor_norm(x))[:, :, 0].float()

    def forward(self, x: Tensor, visible: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Return the result of `AudioMae`, and predictions `[B, M]` of how hard `hidden` ones are."""
        grid, tokens = self.grid_of(x), self.features(x, visible)
        guess = self.decode(tokens, visible, hidden, grid)
        hardness = self.predict(tokens, visible, grid).gather(1, hidden)
        return guess, normalised(take(self.patches(x).float(), hidden)), hardness

    def guidance(self, errors: Tensor, hardness: Tensor) -> Tensor:
        """Return the predictor's loss from the hidden patches' own, `errors [B, M]`."""
        return ranking(hardness, errors)

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Predict how hard the patches of `x [B, frames, bands]`, all seen, are: `[B, time, freq]`."""
        grid = self.grid_of(x)
        everything = torch.arange(grid[0] * grid[1], device=x.device).expand(len(x), -1)
        return self.predict(self.features(x), everything, grid).view(-1, *grid)

    def teacher(self) -> HPM:
        """Return a copy without the decoder, which is not trained and only gives `scores`."""
        teacher = copy.deepcopy(self)
        del teacher.decoder_blocks, teacher.decoder_norm, teacher.decoder_pred
        return teacher.requires_grad_(False).eval()
