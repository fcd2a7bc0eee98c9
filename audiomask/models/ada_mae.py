"""Pretrain a masked autoencoder whose second network chooses the visible patches: AdaMAE.

Bandara et al., "Adaptive Masking for Efficient Spatiotemporal Learning with Masked Autoencoders" (CVPR 2023),
on spectrograms. The second network, the sampler, is small:

    embedded patches -> linear to 384 -> 2 blocks of attention -> norm -> linear -> softmax over patches: p

Visible patches are drawn by p, without replacement (`masks.patches.learned.Likely`). The sampler learns as a
policy does (REINFORCE), rewarded where the patches it left hidden are hard to predict, so that it shows more
of them:

    loss = - weight * mean over hidden patches i of  L_i log p_i

with L the reconstruction losses, through which no gradient goes; weight 1e-4. At size B the sampler has
3,845,377 parameters (2 blocks, 384 channels, 6 heads) beside Audio-MAE's.

Differences:

- The authors' released code has one block at the encoder's width there, and learned positions for it; here
  are the 2 layers of 384 channels of the paper, with the encoder's fixed positions.
- Their sampler's loss also trains the encoder, through the embedding of patches; here it trains the sampler.
- Their videos, tubes of two frames and masks of .9 to .95 have no counterpart here.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiomask.models.audio_mae import AudioMae
from audiomask.nn.vit import EPS, stack


class AdaMae(AudioMae):
    """An encoder, a decoder and a sampler, which are pretrained together.

    `sampler_*` are the sampler's size, and `weight` its loss'; the other arguments are `AudioMae`'s.
    """

    def __init__(
        self,
        sampler_width: int = 384,
        sampler_depth: int = 2,
        sampler_heads: int = 6,
        weight: float = 1e-4,
        decoder: Literal["window", "global", "cross"] = "global",
        decoder_depth: int = 8,
        **mae: Any,
    ) -> None:
        super().__init__(decoder=decoder, decoder_depth=decoder_depth, **mae)
        self.weight = weight
        self.sampler_embed = nn.Linear(self.width, sampler_width)
        self.sampler_blocks = stack(sampler_depth, sampler_width, sampler_heads)
        self.sampler_norm = nn.LayerNorm(sampler_width, EPS)
        self.sampler_pred = nn.Linear(sampler_width, 1)
        self.initialise()

    def log_probabilities(self, x: Tensor) -> Tensor:
        """Return log p of every patch of `x [B, frames, bands]`, `[B, T F]`."""
        y = self.sampler_blocks(self.sampler_embed(self.embed(x)[:, 1:].detach()))
        return self.sampler_pred(self.sampler_norm(y))[:, :, 0].float().log_softmax(1)

    def forward(self, x: Tensor, visible: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Return the result of `AudioMae`, and log p of the patches `hidden`, `[B, M]`."""
        guess, target = super().forward(x, visible, hidden)
        return guess, target, self.log_probabilities(x).gather(1, hidden)

    def guidance(self, errors: Tensor, log_probability: Tensor) -> Tensor:
        """Return the sampler's loss from the hidden patches' own, `errors [B, M]`."""
        return -self.weight * (errors * log_probability).mean()

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Return p of the patches of `x [B, frames, bands]`, `[B, time, freq]`."""
        return self.log_probabilities(x).exp().view(-1, *self.grid_of(x))
