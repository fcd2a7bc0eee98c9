"""Pretrain an encoder to restore hidden patches: Audio-MAE, a masked autoencoder.

Huang et al., "Masked Autoencoders that Listen" (NeurIPS 2022). Most patches of a log-mel spectrogram are
hidden; an encoder sees the rest, and a decoder predicts the hidden ones:

    [B, 1024, 128] -> patches [B, 64 x 8, 256] -> the visible ones -> ViT (nn.vit), cls token -> norm
      -> linear to the decoder's width; where a patch is hidden, a learned token; fixed positions on all
      -> 16 shifted-window blocks (nn.swin; windows of 4 x 4 patches, every other block shifted by 2 in time)
      -> norm -> linear to the 256 values of a patch
    loss: mean square over hidden patches, each target normalised by its own mean and deviation

The encoder never computes a hidden patch, nor does the last linear layer compute a visible one. Parameters
bear the published names; the positions, which are fixed, are buffers here, and no parameters.

The decoder "window", the one above, is the paper's default (decoder mode 1 in its code). "global" is mode 0,
blocks of ordinary attention with the cls token (8 of them there). "cross" is CrossMAE's (Fu et al. 2024),
whose hidden patches attend to the visible ones and not to each other, so that a part of them is enough. With
`mixes`, as in the authors' own, block j of that decoder reads a mix of its own of all layers of the encoder,
LN_j(sum over i of w_ji layer_i), at the encoder's width and without the decoder's positions. Without `mixes`
it reads the last layer through `decoder_embed`, with positions. At size B, 12 decoder blocks of 512 channels
and 16 heads have 41,125,776 parameters with mixes and 38,355,200 without.

Differences:

- Window biases have no dropout inside their network; the authors' library had .125.
- A clip may have any number of patches in time; windows are padded and masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiomask.nn.swin import WindowBlock
from audiomask.nn.vit import EPS, Block, CrossBlock, Grid, ViT, table, take

AUTHORS_CLASS = "AudioMae"
AUTHORS_LICENCE = "CC-BY-NC 4.0 (LICENSE file; the authors' README says CC-BY 4.0)"
AUTHORS_FRONTEND = {  # of the released files, which are all of AudioSet
    "class_path": "audiomask.frontend.logmel.LogMel",
    "init_args": {"corpus": "audioset"},
}

SIZES = {  # of the encoder
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
}


def normalised(patches: Tensor) -> Tensor:
    """Return each patch `[..., P]` less its mean, over its deviation; 1e-6 is added inside."""
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


class AudioMae(ViT):
    """An encoder and a decoder, which are pretrained together.

    `decoder`, "window", "global" or "cross", and `mixes` are as above. `window` is patches in each direction;
    every other block shifts its windows by half of that in time. `vit` is the encoder's, see `ViT`.
    """

    decoder_pos_embed: Tensor

    def __init__(
        self,
        decoder: Literal["window", "global", "cross"] = "window",
        decoder_width: int = 512,
        decoder_depth: int = 16,
        decoder_heads: int = 16,
        window: int = 4,
        mixes: bool = False,
        **vit: Any,
    ) -> None:
        super().__init__(**vit)
        if mixes and decoder != "cross":
            raise ValueError(f"mixes are for the decoder 'cross'; {decoder!r} reads the last layer")
        self.decoder, self.mixes, width = decoder, mixes, self.width
        if mixes:  # each has a norm of its own in the place of this one
            self.decoder_mixes = nn.Linear(len(self.blocks), decoder_depth, bias=False)
            self.decoder_norms = nn.ModuleList(nn.LayerNorm(width, EPS) for _ in range(decoder_depth))
        else:
            self.norm = nn.LayerNorm(width, EPS)
            self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.register_buffer("decoder_pos_embed", table(self.grid, decoder_width))
        blocks: list[nn.Module] = []
        for i in range(decoder_depth):
            if decoder == "window":
                blocks.append(WindowBlock(decoder_width, decoder_heads, window, (i % 2 * window // 2, 0)))
            elif decoder == "cross":
                blocks.append(CrossBlock(decoder_width, decoder_heads, width if mixes else None))
            else:
                blocks.append(Block(decoder_width, decoder_heads))
        self.decoder_blocks = nn.Sequential(*blocks)
        self.decoder_norm = nn.LayerNorm(decoder_width, EPS)
        self.decoder_pred = nn.Linear(decoder_width, self.patch**2)
        self.initialise()
        nn.init.normal_(self.mask_token, std=0.02)

    def features(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return normalised tokens `[B, 1 + V, C]` of `[B, frames, bands]`, the cls token first.

        With mixes they are `[blocks, B, 1 + V, C]`, for each block of the decoder.
        """
        if not self.mixes:
            return self.norm(self.encode(x, visible))
        tokens, layers = self.embed(x, visible), []
        for block in self.blocks:
            tokens = block(tokens)
            layers.append(tokens)
        mixed = torch.einsum("ji,ibnc->jbnc", self.decoder_mixes.weight, torch.stack(layers))
        return torch.stack([norm(mix) for norm, mix in zip(self.decoder_norms, mixed, strict=True)])

    def decode(self, tokens: Tensor, visible: Tensor, hidden: Tensor, grid: Grid) -> Tensor:
        """Predict the patches `hidden [B, M]`, `[B, M, patch^2]`, from the encoder's `features`."""
        y = tokens if self.mixes else self.decoder_embed(tokens)
        if self.decoder == "cross":
            place = self.positions(grid, self.decoder_pos_embed).to(y.dtype)
            x = self.mask_token.to(y.dtype) + take(place, hidden)
            if not self.mixes:
                memory = torch.cat([y[:, :1], y[:, 1:] + take(place, visible)], 1)
                y = memory.expand(len(self.decoder_blocks), -1, -1, -1)
            for block, memory in zip(self.decoder_blocks, y, strict=True):
                x = block(x, memory)
            return self.decoder_pred(self.decoder_norm(x))
        if self.decoder == "window":  # the cls token has no place in a window
            x = self.spread(y, visible, grid)
            for block in self.decoder_blocks:
                x = block(x, grid)
        else:
            x = self.attended(y, visible, grid, self.decoder_blocks)
        return self.decoder_pred(self.decoder_norm(take(x, hidden)))

    def spread(self, y: Tensor, visible: Tensor, grid: Grid) -> Tensor:
        """Return `[B, T F, C]`: `y [B, 1 + V, C]` less cls in its places, mask tokens elsewhere."""
        place = self.positions(grid, self.decoder_pos_embed).to(y.dtype).expand(len(y), -1, -1)
        index = visible[:, :, None].expand(-1, -1, y.shape[2])
        return self.mask_token.to(y.dtype).expand_as(place).scatter(1, index, y[:, 1:]) + place

    def attended(self, y: Tensor, visible: Tensor, grid: Grid, blocks: nn.Module) -> Tensor:
        """Run `blocks` over the cls token and `spread` tokens; return the latter, `[B, T F, C]`."""
        first = y[:, :1] + self.decoder_pos_embed[:, :1].to(y.dtype)
        return blocks(torch.cat([first, self.spread(y, visible, grid)], 1))[:, 1:]

    def forward(self, x: Tensor, visible: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions of the patches `hidden` and their targets, both `[B, M, patch^2]`.

        `x [B, frames, bands]`; `visible [B, V]` and `hidden [B, M]` are indices, see `masks.patches.tokens`.
        """
        predicted = self.decode(self.features(x, visible), visible, hidden, self.grid_of(x))
        return predicted, normalised(take(self.patches(x).float(), hidden))

    def errors(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Return the loss of each of the patches `hidden`, `[B, M]`."""
        predicted, target, *_ = self(x, visible, hidden)
        return (predicted.float() - target).square().mean(2)

    def restored(self, x: Tensor, predicted: Tensor, hidden: Tensor) -> Tensor:
        """Return `x [B, frames, bands]` with hidden patches predicted, at their true mean and scale."""
        patches = self.patches(x)
        variance, mean = torch.var_mean(take(patches, hidden), -1, keepdim=True)
        values = predicted.to(x.dtype) * (variance + 1e-6).sqrt() + mean
        index = hidden[:, :, None].expand_as(values)
        return self.picture(patches.scatter(1, index, values))

    def hide(self, x: Tensor, hidden: Tensor, value: float) -> Tensor:
        """Return `x [B, frames, bands]` with `value` in the patches `hidden`."""
        index = hidden[:, :, None].expand(-1, -1, self.patch**2)
        return self.picture(self.patches(x).scatter(1, index, value))


def encoder_arguments(state: Mapping[str, Tensor], bands: int = 128) -> dict[str, Any]:
    """Return the arguments of `ViT` that a published state dict gives; heads have 64 channels."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    places = state["pos_embed"].shape[1] - 1
    return {
        "frames": places * patch * patch // bands,
        "bands": bands,
        "patch": patch,
        "width": width,
        "depth": count(state, "blocks."),
        "heads": max(1, width // 64),
    }


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the numbered modules under a prefix."""
    return 1 + max(int(key[len(prefix) :].partition(".")[0]) for key in state if key.startswith(prefix))


def from_authors(source: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and tensors of a released pretraining checkpoint, whose names are ours."""
    if "head.weight" in source:
        raise ValueError("a fine-tuned file with a head; take the family vit_tagger")
    arguments = encoder_arguments(source)
    arguments["decoder_width"] = source["mask_token"].shape[2]
    arguments["decoder_depth"] = count(source, "decoder_blocks.")
    tau = source.get("decoder_blocks.0.attn.tau")
    arguments["decoder"] = "global" if tau is None else "window"
    # weights of ordinary attention do not give the number of heads; the authors have 16
    arguments["decoder_heads"] = 16 if tau is None else len(tau)
    return arguments, dict(source)
