"""Pretrain an encoder to predict the embeddings of hidden patches: A-JEPA.

Fei et al., "A-JEPA: Joint-Embedding Predictive Architecture Can Listen" (arXiv 2311.15830), after I-JEPA
(Assran et al. 2023), for spectrograms:

    [B, 1024, 128] -> patches [B, 64 x 8, 256]
      all of them -> target encoder: ViT (nn.vit), norm -> layer norm without weights -> of each target block
      the context  -> context encoder: ViT, norm -> linear to the predictor's width, fixed positions
         + for each patch of a target block a learned token with its position
         -> 16 blocks of attention over context and block -> norm -> linear to the encoder's width
    loss: mean square of prediction less target, of each block; the mean over the blocks of a clip

The context encoder computes the patches of the context only, once for all blocks; blocks of equal size go
through the predictor together, each as a row of its own. `masks.patches.jepa` draws context and blocks.

Size B has two encoders of 85,254,144 parameters and a predictor of 51,227,392; S 21,393,408 and 50,833,792;
L 302,575,616 and 51,489,792. The network itself is the **target** encoder, which is kept for other tasks
(`models.vit_tagger.begin_from`), as in I-JEPA's evaluation; the context encoder is under `context`.

The authors published neither code nor weights. Differences, and our choices where we know none of theirs:

- Targets are normalised over their channels, as in I-JEPA's code; without it both encoders could shrink the
  error by shrinking. The paper's loss is the mean L2 distance; we take the square, as I-JEPA's formula does,
  its mean over patches and channels.
- The momentum of the average is I-JEPA's, which rises from .996 to 1 over the run (`tasks.predict`).
- The predictor has 16 heads, as Audio-MAE's decoder of that width.
- Both encoders have a cls token, as Audio-MAE's has; it has no loss, and the predictor never sees it.
- Weights begin as Audio-MAE's do; I-JEPA scales those at the end of each block down by its depth.
- A clip may have any number of patches in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiomask.nn.latent import Latent, error, spread
from audiomask.nn.vit import EPS, ViT, stack, table, take


class Encoder(ViT):
    """A transformer that ends with a norm. Its arguments are those of `ViT`."""

    def __init__(self, **vit: Any) -> None:
        super().__init__(**vit)
        self.norm = nn.LayerNorm(self.width, EPS)

    def features(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return normalised tokens `[B, 1 + V, C]` of `[B, frames, bands]`; see `encode`."""
        return self.norm(self.encode(x, visible))


class AJepa(Latent, Encoder):
    """A target encoder, a context encoder and a predictor, which are pretrained together.

    Arguments `predictor_*` are the predictor's size; `vit` is both encoders', see `ViT`.
    """

    predictor_pos_embed: Tensor

    def __init__(
        self, predictor_width: int = 512, predictor_depth: int = 16, predictor_heads: int = 16, **vit: Any
    ) -> None:
        super().__init__(drop_path=0.0, **vit)
        self.requires_grad_(False)
        self.context = Encoder(**vit)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, predictor_width))
        self.predictor_embed = nn.Linear(self.width, predictor_width)
        self.register_buffer("predictor_pos_embed", table(self.grid, predictor_width))
        self.predictor_blocks = stack(predictor_depth, predictor_width, predictor_heads)
        self.predictor_norm = nn.LayerNorm(predictor_width, EPS)
        self.predictor_proj = nn.Linear(predictor_width, self.width)
        self.initialise()
        self.context.initialise()
        nn.init.normal_(self.mask_token, std=0.02)
        self.follow(0)

    def encoders(self) -> tuple[ViT, ViT]:
        return self, self.context

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        return F.layer_norm(self.features(x)[:, 1:].float(), (self.width,))

    def predict(self, memory: Tensor, place: Tensor, hidden: Tensor) -> Tensor:
        """Predict the embeddings `[B, K, M, C]` of the blocks `hidden [B, K, M]`.

        `memory [B, R, V, P]` is the context, R = K or 1, and `place [1, 1, N, P]` the positions.
        """
        unknown = self.mask_token + take(place, hidden)
        known = memory.expand(-1, hidden.shape[1], -1, -1)
        y = self.predictor_blocks(torch.cat([known, unknown], 2).flatten(0, 1))
        predicted = self.predictor_proj(self.predictor_norm(y[:, known.shape[2] :]))
        return predicted.unflatten(0, hidden.shape[:2])

    def guesses(self, x: Tensor, visible: Tensor, hidden: Sequence[Tensor]) -> list[Tensor]:
        place = self.positions(self.grid_of(x), self.predictor_pos_embed)[None]
        context = self.predictor_embed(self.context.features(x, visible)[:, 1:])
        memory = context.unflatten(0, visible.shape[:2]) + take(place, visible)
        return [self.predict(memory, place, index) for index in hidden]

    def forward(self, x: Tensor, visible: Tensor, hidden: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return `loss`, see `Latent`, and `target_std`, the `spread` of the targets."""
        targets = self.targets(x)
        loss = error(self.guesses(x, visible, hidden), targets, hidden)
        return {"loss": loss, "target_std": spread(targets)}
