"""Tag clips by a vision transformer, fine-tuned from an encoder such as Audio-MAE's.

    [B, frames, bands] -> patches -> ViT (nn.vit) -> mean of the patches' tokens -> norm -> linear to classes

It is trained on spectrograms of whole clips; `models.tagger` is this network with its front end, on samples.

It has 85,659,407 parameters at size B with the 527 classes of AudioSet, as published; the fixed positions are
no parameters. Names and shapes are those of timm's `VisionTransformer` with `global_pool="avg"`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiomask.models.audio_mae import AUTHORS_FRONTEND as AUDIO_MAE_FRONTEND
from audiomask.models.audio_mae import AUTHORS_LICENCE as AUDIO_MAE_LICENCE
from audiomask.models.audio_mae import encoder_arguments
from audiomask.nn.vit import EPS, ViT, sincos

AUTHORS_CLASS, AUTHORS_LICENCE, AUTHORS_FRONTEND = "ViTTagger", AUDIO_MAE_LICENCE, AUDIO_MAE_FRONTEND


class ViTTagger(ViT):
    """A tagger that maps log-mel spectrograms `[B, frames, bands]` to logits `[B, classes]`.

    `labels`, the names of the classes in order, are kept with the weights. With `exclusive` a clip has one
    label, so probabilities are a softmax; else any number, a sigmoid each. `pool` "mean" classifies the mean
    of the patches' tokens, "cls" the cls token, as EAT does. `vit` is `ViT`'s.
    """

    parts = {"": "audiomask.models.tagger.Tagger"}

    def __init__(
        self,
        classes: int,
        labels: list[str] | None = None,
        exclusive: bool = False,
        pool: Literal["mean", "cls"] = "mean",
        **vit: Any,
    ) -> None:
        super().__init__(**vit)
        if labels is not None and len(labels) != classes:
            raise ValueError(f"{len(labels)} labels for {classes} classes")
        self.labels, self.exclusive, self.pool = labels, exclusive, pool
        self.fc_norm, self.head = nn.LayerNorm(self.width, EPS), nn.Linear(self.width, classes)
        self.initialise()
        nn.init.trunc_normal_(self.head.weight, std=0.02)

    def features(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return normalised tokens `[B, 1 + V, C]` of `[B, frames, bands]`, the cls token first."""
        return self.fc_norm(self.encode(x, visible))

    def pooled(self, x: Tensor, visible: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        """Return the normalised mean of the tokens, or the cls token, `[B, C]`.

        `visible [B, V]`: the patches that are seen, all if None; `keys`: see `ViT.encode`.
        """
        tokens = self.encode(x, visible, keys)
        return self.fc_norm(tokens[:, 1:].mean(1) if self.pool == "mean" else tokens[:, 0])

    def forward(self, x: Tensor, visible: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        return self.head(self.pooled(x, visible, keys))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities `[..., classes]` of logits of that shape."""
        return logits.softmax(-1) if self.exclusive else logits.sigmoid()


def from_authors(source: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and tensors of a fine-tuned checkpoint of Audio-MAE, or of timm's port."""
    return {**encoder_arguments(source), "classes": len(source["head.weight"])}, dict(source)


def begin_from(model: ViT, state: dict[str, Tensor]) -> None:
    """Put the encoder of `state`, a pretrained model's or timm's, into `model`.

    Positions are copied for clips of the model's length; for others the fixed ones are the same.
    ValueError for positions that are not the fixed ones, and where weights do not fit.
    """
    parts = ("cls_token", "patch_embed.", "norm_pre.", "blocks.")
    own = {"pos_embed"} | {key for key in model.state_dict() if key.startswith(parts)}
    post, ours = ("norm_pre.weight" in found for found in (state, own))
    if post != ours:
        raise ValueError(
            f"weights of {'post' if post else 'pre'}-norm blocks, which the model's are not; "
            f"make it with post_norm {str(post).lower()}"
        )
    missing = sorted(own - set(state))
    if missing:
        raise ValueError(f"not weights of this encoder: {missing[0]} is missing ({len(missing)} in all)")
    with torch.no_grad():
        for key in sorted(own - {"pos_embed"}):
            target = model.get_parameter(key)
            if target.shape != state[key].shape:
                raise ValueError(f"{key}: shape {tuple(state[key].shape)}, here {tuple(target.shape)}")
            target.copy_(state[key])
        table = state["pos_embed"]
        if table.shape == model.pos_embed.shape:
            model.pos_embed.copy_(table)
            return
        time = (table.shape[1] - 1) // model.grid[1]
        fixed = sincos((time, model.grid[1]), model.width)
        if fixed.shape != table[0, 1:].shape or not torch.allclose(table[0, 1:], fixed.to(table), atol=1e-4):
            raise ValueError(
                f"pos_embed: positions of its own, for {table.shape[1] - 1} patches; "
                f"make the model for as many, not {model.pos_embed.shape[1] - 1}"
            )
