"""The vision transformer on spectrograms: patches, fixed positions, pre-norm blocks, fused attention.

Dosovitskiy et al. 2021 with the fixed two-dimensional positions of masked autoencoders (He et al. 2022).
Parameters bear the names and shapes of timm's `VisionTransformer` (in_chans 1, img_size (frames, bands)), so
state dicts go both ways unchanged: `encoder_state` picks them out of a larger model.

A spectrogram `[B, frames, bands]` is cut into patches of `patch` frames by `patch` bands, counted along
frequency first: patch n of a grid (T, F) is at time n // F and frequency n % F.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")  # keys of the encoder
EPS = 1e-6  # of the layer norms

Grid = tuple[int, int]  # patches in time and in frequency


def sincos(grid: Grid, width: int) -> Tensor:
    """Fixed positions `[T F, width]`: the first half of the channels tells frequency, the second time.

    Each half is (sin w p, cos w p) of the place p in patches, w = 10000^(-i / n), i = 0 .. n - 1, where n is
    width / 4.
    """
    if width % 4:
        raise ValueError(f"width {width}: sines and cosines of two coordinates need a multiple of 4")
    rate = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    time, freq = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    angles = [p.reshape(-1, 1) * rate for p in (freq, time)]
    return torch.from_numpy(np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], 1)).float()


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index [B, M]` of `x [B, N, C]`: `[B, M, C]`."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """x, zero for a share `rate` of the rows in training, the others scaled so that the mean stays."""
    if not rate or not training:
        return x
    kept = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) >= rate
    return x * kept / (1 - rate)


class Mlp(nn.Module):
    """`[..., width]` -> `[..., out]` through `hidden` units."""

    def __init__(self, width: int, hidden: int, out: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), act(), nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Attention(nn.Module):
    """All tokens attend to all, or to those where `mask [B, 1, N, N]` is true: `[B, N, C]` -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x). `drop`: rate of dropped paths (Huang et al. 2016)."""

    def __init__(self, width: int, heads: int, drop: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, EPS), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, EPS), Mlp(width, 4 * width, width)
        self.drop = drop

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + drop_path(self.attn(self.norm1(x), mask), self.drop, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop, self.training)


class CrossBlock(nn.Module):
    """x attends to `memory` and not to itself, then the MLP: the decoder block of CrossMAE (Fu et al. 2024).
    `[B, M, C]`, `[B, N, C]` -> `[B, M, C]`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.q, self.kv, self.proj = (nn.Linear(width, n * width) for n in (1, 2, 1))
        self.mlp = Mlp(width, 4 * width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = self.q(self.norm1(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(memory).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches `[B, N, patch^2]` -> `[B, N, width]`. The weight is that of the convolution that does the same
    on the spectrogram; here it touches only the patches that it is given.
    """

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, patch, patch)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class ViT(nn.Module):
    """The encoder. Subclasses add what becomes of its tokens.

    Args:
        frames, bands: size of the spectrogram that `pos_embed` is made for; clips may be shorter, or longer
            where the positions are the fixed ones. patch: frames, and bands, of a patch.
        width, depth, heads: S 384, 12, 6; B 768, 12, 12; L 1024, 24, 16.
        drop_path: rate of dropped paths in the last block, rising linearly from 0 in the first.
    """

    pos_embed: Tensor

    def __init__(
        self,
        frames: int = 1024,
        bands: int = 128,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if frames % patch or bands % patch or not frames or not bands:
            raise ValueError(f"{frames} frames, {bands} bands: both must be multiples of the patch, {patch}")
        self.bands, self.patch, self.width = bands, patch, width
        self.grid = (frames // patch, bands // patch)
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", F.pad(sincos(self.grid, width), (0, 0, 1, 0))[None])
        self.blocks = nn.ModuleList(
            Block(width, heads, drop_path * i / max(1, depth - 1)) for i in range(depth)
        )

    def initialise(self) -> None:
        """Fresh weights as masked autoencoders have them."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)

    def grid_of(self, x: Tensor) -> Grid:
        """Patches in time and frequency of `x [B, frames, bands]`. ValueError if they are not whole."""
        if x.ndim != 3 or x.shape[2] != self.bands or x.shape[1] % self.patch or not x.shape[1]:
            raise ValueError(
                f"a spectrogram of shape {tuple(x.shape)}: need [B, frames, {self.bands}], frames a multiple "
                f"of {self.patch}"
            )
        return x.shape[1] // self.patch, self.grid[1]

    def patches(self, x: Tensor) -> Tensor:
        """`[B, frames, bands]` -> `[B, T F, patch^2]`, in a patch along frequency first."""
        time, freq = self.grid_of(x)
        p = self.patch
        return x.reshape(-1, time, p, freq, p).transpose(2, 3).reshape(-1, time * freq, p * p)

    def picture(self, patches: Tensor) -> Tensor:
        """The inverse of `patches`."""
        p, freq = self.patch, self.grid[1]
        return (
            patches.reshape(-1, patches.shape[1] // freq, freq, p, p).transpose(2, 3).flatten(3).flatten(1, 2)
        )

    def positions(self, grid: Grid, table: Tensor) -> Tensor:
        """`[1, T F, C]` of a table for `self.grid` whose first row is the cls token's. ValueError for a clip
        longer than a table that is not the fixed one.
        """
        count = grid[0] * grid[1]
        if count < table.shape[1]:
            return table[:, 1 : count + 1]
        known = sincos(self.grid, table.shape[2]).to(table)
        if not torch.allclose(table[0, 1:], known, atol=1e-4):
            raise ValueError(
                f"{grid[0]} patches in time: these weights have positions of their own, for {self.grid[0]}"
            )
        return sincos(grid, table.shape[2]).to(table)[None]

    def encode(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Tokens `[B, 1 + V, C]` of the patches `visible [B, V]` of a spectrogram (all of them if None), the
        cls token first, after the last block. What is not visible is not computed.
        """
        patches, place = self.patches(x), self.positions(self.grid_of(x), self.pos_embed)
        if visible is not None:
            patches = take(patches, visible)
            place = take(place.expand(len(x), -1, -1), visible)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        tokens = torch.cat([first, self.patch_embed(patches) + place], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's part of a state dict: what timm's `VisionTransformer` has too."""
    return {key: value for key, value in state.items() if key.startswith(ENCODER)}
