"""Pretrain an encoder to predict embeddings of hidden patches and of clips: EAT.

Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer" (IJCAI 2024): data2vec 2.0
(Baevski et al. 2023) on spectrograms, with a loss on the clip:

    [B, 1024, 128] -> patches [B, 64 x 8, 256], fixed positions, cls token -> norm -> 12 post-norm blocks
      target: all patches, once a clip. What the MLP of each block adds, every channel normalised over the
        patches of the clip; the mean over the blocks, normalised over channels: y
      student: 16 views of a clip, each the visible patches of a mask of its own (inverse blocks, .8 hidden)
        -> in their places, noise of deviation .01 where patches are hidden
        -> 6 x (x + gelu(layer norm(3 x 3 convolution, 16 groups))) -> linear: predictions p
    loss: |p - y|^2 / sqrt(768), mean over hidden patches, + |cls - mean of y|^2 / sqrt(768)

The target's weights are the moving average of the student's, patch embedding included. 87,840,000 parameters
are trained at size B (the paper: 88 M), 85,254,144 of them in the encoder; the target has as many.
The student is the network itself, the target is under `target`: `models.vit_tagger.begin_from` takes the
student, as the authors' fine-tuning does, into a tagger with `post_norm: true` (and `pool: cls`, theirs).

Differences:

- The second loss has the weight 1 as a mean over the rows, which is the paper's formula; the authors' code
  sums it over the rows of a process, 192 of them.
- Weights begin as Audio-MAE's do, and the cls token with a deviation of .02; the authors' as BERT's, and 1.
- All target blocks of a view (masks of A-JEPA) count alike. Noise is drawn in training only.
- No limit on the deviation of targets ends the run; it is logged.
- Positions are made for the clip, of any length; their table has 2 minutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiomask.nn.latent import Latent, error, spread
from audiomask.nn.vit import Grid, PostBlock, ViT, take


class ConvDecoder(nn.Module):
    """A stack of convolutions that predicts all places of a grid, `[B, N, C]` -> `[B, N, C]`."""

    def __init__(self, channels: int, width: int, depth: int, kernel: int, groups: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel}: must be odd, to keep the grid")
        self.convs = nn.ModuleList(
            nn.Conv2d(width if i else channels, width, kernel, padding=kernel // 2, groups=groups)
            for i in range(depth)
        )
        self.proj = nn.Linear(width, channels)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x.unflatten(1, grid)  # [B, time, freq, C]: to torch a channels-last image
        for conv in self.convs:
            y = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            y = F.gelu(F.layer_norm(y, y.shape[-1:]))
            x = x + y if x.shape == y.shape else y
        return self.proj(x.flatten(1, 2))


class Eat(Latent):
    """A student, a target encoder and a decoder, which are pretrained together.

    The decoder's arguments are those of its convolutions (L has depth 3, kernel 5). `noise` is the deviation
    of what stands for hidden patches, `utterance` the weight of the loss on the clip, and `vit` both
    encoders', see `ViT`; blocks are post-norm.
    """

    def __init__(
        self,
        decoder_width: int = 768,
        decoder_depth: int = 6,
        kernel: int = 3,
        groups: int = 16,
        noise: float = 0.01,
        utterance: float = 1.0,
        **vit: Any,
    ) -> None:
        super().__init__(drop_path=0.0, post_norm=True, **vit)
        self.noise, self.utterance = noise, utterance
        self.target = ViT(post_norm=True, **vit).requires_grad_(False)
        self.decoder = ConvDecoder(self.width, decoder_width, decoder_depth, kernel, groups)
        self.initialise()
        self.follow(0)

    def encoders(self) -> tuple[ViT, ViT]:
        return self.target, self

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        tokens, layers = self.target.embed(x), []
        for block in self.target.blocks:
            assert isinstance(block, PostBlock)
            tokens, added = block.both(tokens)
            layers.append(F.instance_norm(added[:, 1:].float().transpose(1, 2)))
        return F.layer_norm(torch.stack(layers).mean(0).transpose(1, 2), (self.width,))

    def decode(self, tokens: Tensor, visible: Tensor, grid: Grid) -> Tensor:
        """Predict embeddings of all places, `[B, N, C]`, from `tokens [B, V, C]` of visible ones."""
        whole = tokens.new_zeros(len(tokens), grid[0] * grid[1], self.width)
        if self.training:
            whole = whole.normal_(0, self.noise)
        index = visible[:, :, None].expand_as(tokens)
        return self.decoder(whole.scatter(1, index, tokens), grid)

    def _guesses(self, tokens: Tensor, visible: Tensor, hidden: Sequence[Tensor], grid: Grid) -> list[Tensor]:
        """Predict as `Latent.guesses` does, from the encoder's `tokens [B R, 1 + V, C]`."""
        predicted = self.decode(tokens[:, 1:], visible.flatten(0, 1), grid)
        views = predicted.unflatten(0, visible.shape[:2])
        return [take(views, index) for index in hidden]

    def guesses(self, x: Tensor, visible: Tensor, hidden: Sequence[Tensor]) -> list[Tensor]:
        return self._guesses(self.encode(x, visible), visible, hidden, self.grid_of(x))

    def forward(self, x: Tensor, visible: Tensor, hidden: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return `loss` (see `Latent`), its parts `patch` and `utterance`, and targets' `spread`."""
        scale = math.sqrt(self.width)  # the sum over channels, over their root
        targets, tokens = self.targets(x), self.encode(x, visible)
        guesses = self._guesses(tokens, visible, hidden, self.grid_of(x))
        patch = scale * error(guesses, targets, hidden)
        cls = tokens[:, 0].unflatten(0, visible.shape[:2]).float()
        utterance = scale * (cls - targets.mean(1, keepdim=True)).square().mean()
        return {
            "loss": patch + self.utterance * utterance,
            "patch": patch,
            "utterance": utterance,
            "target_std": spread(targets),
        }
