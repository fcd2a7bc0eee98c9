"""What networks share that learn by predicting their own embeddings of what is hidden (A-JEPA, EAT).

One encoder sees a part of the patches and is trained. A second one, whose weights are the exponential moving
average of the first one's, sees them all; what it makes of the hidden patches is to be predicted. It gets no
gradients, and its weights are a part of the state dict like all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audiomask.nn.vit import ViT, take


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index [B, K, M]` of `x [B, N, C]`: `[B, K, M, C]`."""
    return take(x, index.flatten(1)).unflatten(1, index.shape[1:])


def errors(guess: Tensor, target: Tensor) -> Tensor:
    """Mean square over the patches and channels of each target block: `[B, K, M, C]` twice -> `[K]`."""
    return (guess.float() - target).square().mean((0, 2, 3))


def spread(x: Tensor) -> Tensor:
    """Standard deviation over the clips of a batch of the embedding of a place, the mean over places and
    channels of `x [B, N, C]`. Where it nears 0 all clips look alike: the encoder has collapsed.
    """
    return x.var(0, correction=0).sqrt().mean()


class Latent(ViT):
    """A network that is trained to predict its own embeddings."""

    def encoders(self) -> tuple[ViT, ViT]:
        """The encoder that follows, and the one that is trained."""
        raise NotImplementedError

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """t <- m t + (1 - m) w, of the weights that both encoders have."""
        target, trained = (dict(encoder.named_parameters()) for encoder in self.encoders())
        names = [name for name in target if name in trained]
        torch._foreach_lerp_([target[n] for n in names], [trained[n] for n in names], 1 - momentum)

    def targets(self, x: Tensor) -> Tensor:
        """What the embeddings of all patches should be predicted as: `[B, N, C]` float32."""
        raise NotImplementedError

    def guesses(self, x: Tensor, visible: Tensor, hidden: Sequence[Tensor]) -> list[Tensor]:
        """What is predicted instead, `[B, K, M, C]` for each of `hidden`; for arguments see `forward`."""
        raise NotImplementedError

    @torch.no_grad()
    def errors(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Mean square over channels `[B, M]` of the prediction of each patch `hidden [B, M]`, from `visible
        [B, V]`: for pictures.
        """
        (guess,) = self.guesses(x, visible[:, None], [hidden[:, None]])
        return (guess[:, 0].float() - take(self.targets(x), hidden)).square().mean(2)

    def forward(self, x: Tensor, visible: Tensor, hidden: Sequence[Tensor]) -> dict[str, Tensor]:
        """`loss`, and what else is worth a curve, for `x [B, frames, bands]`.

        `visible [B, R, V]`: the patches that each of R views of a clip shows. `hidden`: the blocks to
        predict, `[B, K, M]` for all of one size; block k is predicted from view k, or from the only one.
        """
        raise NotImplementedError
