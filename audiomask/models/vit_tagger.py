"""A vision transformer that tags clips: what a pretrained encoder, such as Audio-MAE's, is fine-tuned to.

    [B, frames, bands] -> patches -> ViT (nn.vit) -> mean of the patches' tokens -> norm -> linear to classes

85,659,407 parameters at size B with the 527 classes of AudioSet, as published; the fixed positions are no
parameters. Names and shapes are those of timm's `VisionTransformer` with `global_pool="avg"`.

It is trained, and runs, on whole clips; a tagger that streams is another model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audiomask.models.audio_mae import AUTHORS_LICENCE as AUDIO_MAE_LICENCE
from audiomask.models.audio_mae import encoder_arguments
from audiomask.nn.vit import EPS, ViT

AUTHORS_CLASS, AUTHORS_LICENCE = "ViTTagger", AUDIO_MAE_LICENCE


class ViTTagger(ViT):
    """`[B, frames, bands]` log-mel -> `[B, classes]` logits.

    Args:
        classes: how many. labels: their names in order, kept with the weights; or none.
        The others are `ViT`'s.
    """

    def __init__(
        self,
        classes: int,
        frames: int = 1024,
        bands: int = 128,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        drop_path: float = 0.0,
        labels: list[str] | None = None,
    ) -> None:
        super().__init__(frames, bands, patch, width, depth, heads, drop_path)
        if labels is not None and len(labels) != classes:
            raise ValueError(f"{len(labels)} labels for {classes} classes")
        self.labels = labels
        self.fc_norm, self.head = nn.LayerNorm(width, EPS), nn.Linear(width, classes)
        self.initialise()
        nn.init.trunc_normal_(self.head.weight, std=0.02)

    def pooled(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """The mean of the tokens of the patches `visible [B, V]` (all if None), normalised: `[B, C]`."""
        return self.fc_norm(self.encode(x, visible)[:, 1:].mean(1))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        return self.head(self.pooled(x, visible))


def from_authors(source: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments and tensors of a fine-tuned checkpoint of Audio-MAE, or of timm's port of it."""
    return {**encoder_arguments(source), "classes": len(source["head.weight"])}, dict(source)


def begin_from(model: ViT, state: dict[str, Tensor]) -> None:
    """Put the encoder of `state` (a pretrained model's, or timm's) into `model`; its head stays as it is.

    Fixed positions are the model's own, for its own length of clips. ValueError where weights do not fit.
    """
    own = {key for key in model.state_dict() if key.startswith(("cls_token", "patch_embed.", "blocks."))}
    missing = sorted(own - set(state))
    if missing:
        raise ValueError(f"not weights of this encoder: {missing[0]} is missing ({len(missing)} in all)")
    with torch.no_grad():
        for key in own:
            target = model.get_parameter(key)
            if target.shape != state[key].shape:
                raise ValueError(f"{key}: shape {tuple(state[key].shape)}, here {tuple(target.shape)}")
            target.copy_(state[key])
