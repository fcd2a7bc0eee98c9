"""Train networks to predict their own embeddings of hidden patches (A-JEPA and EAT do).

One encoder sees a part of the patches and is trained. A second one, whose weights are the exponential moving
average of the first one's, sees them all, and its embeddings of the hidden patches are predicted. Its weights
are in the state dict too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiomask.nn.vit import ViT, take


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index [B, K, M]` of `x [B, N, C]`, `[B, K, M, C]`."""
    return take(x, index.flatten(1)).unflatten(1, index.shape[1:])


def error(guesses: Sequence[Tensor], targets: Tensor, hidden: Sequence[Tensor]) -> Tensor:
    """Return the mean over blocks of the mean square error of `guesses`, a scalar.

    `guesses [B, K, M, C]` are of the rows `hidden [B, K, M]` of `targets [B, N, C]`.
    """
    pairs = zip(guesses, hidden, strict=True)
    errors = [(x.float() - pick(targets, index)).square().mean((0, 2, 3)) for x, index in pairs]
    return torch.cat(errors).mean()


def spread(x: Tensor) -> Tensor:
    """Return the mean standard deviation of embeddings `x [B, N, C]` over clips.

    Near 0 all clips look alike: the encoder has collapsed.
    """
    return x.var(0, correction=0).sqrt().mean()


@torch.no_grad()
def follow(average: nn.Module, trained: nn.Module, momentum: float) -> None:
    """Update a <- m a + (1 - m) w, for the weights that both networks have."""
    old, new = dict(average.named_parameters()), dict(trained.named_parameters())
    names = [name for name in old if name in new]
    torch._foreach_lerp_([old[n] for n in names], [new[n] for n in names], 1 - momentum)


class Latent(ViT):
    """A network that is trained to predict its own embeddings."""

    def encoders(self) -> tuple[ViT, ViT]:
        """Return the encoder that follows, and the one that is trained."""
        raise NotImplementedError

    def follow(self, momentum: float) -> None:
        """Have the first of the `encoders` follow the second, see `follow`."""
        follow(*self.encoders(), momentum)

    def targets(self, x: Tensor) -> Tensor:
        """Return the embeddings of all patches that are to be predicted, `[B, N, C]` float32."""
        raise NotImplementedError

    def guesses(self, x: Tensor, visible: Tensor, hidden: Sequence[Tensor]) -> list[Tensor]:
        """Return predictions `[B, K, M, C]` for each of `hidden`; see `forward` for arguments."""
        raise NotImplementedError

    @torch.no_grad()
    def errors(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Return errors `[B, M]`, the mean squares over channels, of patches `hidden [B, M]`.

        They are predicted from `visible [B, V]`, for plots.
        """
        (guess,) = self.guesses(x, visible[:, None], [hidden[:, None]])
        return (guess[:, 0].float() - take(self.targets(x), hidden)).square().mean(2)

    def forward(self, x: Tensor, visible: Tensor, hidden: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return a dict with `loss` and other values worth a curve, for `x [B, frames, bands]`.

        `visible [B, R, V]`: the patches that each of R views of a clip shows. `hidden`: the blocks to
        predict, `[B, K, M]` for all of one size; block k is predicted from view k, or from the only one.
        """
        raise NotImplementedError
