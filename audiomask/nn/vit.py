"""Encode spectrograms by a vision transformer: patches, fixed positions, fused attention.

It is that of Dosovitskiy et al. 2021 (pre-norm blocks) with the fixed two-dimensional positions of masked
autoencoders (He et al. 2022). Parameters bear the names and shapes of timm's `VisionTransformer` (in_chans 1,
img_size (frames, bands)), so state dicts go both ways.

A spectrogram `[B, frames, bands]` is cut into patches of `patch` frames by `patch` bands, counted along
frequency first: patch n of a grid (T, F) is at time n // F and frequency n % F.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6  # of the layer norms

Grid = tuple[int, int]  # patches in time and in frequency


def sincos(grid: Grid, width: int) -> Tensor:
    """Return fixed positions `[T F, width]`: half of the channels for frequency, then for time.

    Each half is (sin w p, cos w p) of the place p in patches, w = 10000^(-i / n), i = 0 .. n - 1, where n is
    width / 4.
    """
    if width % 4:
        raise ValueError(f"width {width}: sines and cosines of two coordinates need a multiple of 4")
    rate = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    time, freq = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    angles = [p.reshape(-1, 1) * rate for p in (freq, time)]
    return torch.from_numpy(np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], 1)).float()


def table(grid: Grid, width: int) -> Tensor:
    """Return the positions of all tokens, `[1, 1 + T F, width]`: 0 for cls, then `sincos`."""
    return F.pad(sincos(grid, width), (0, 0, 1, 0))[None]


def take(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index [..., M]` of `x [..., N, C]`, `[..., M, C]`, with broadcasting."""
    return x.take_along_dim(index[..., None], -2)


def stack(blocks: int, width: int, heads: int) -> nn.Sequential:
    """Return so many `Block`s, one after the other."""
    return nn.Sequential(*(Block(width, heads) for _ in range(blocks)))


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Return x with a fraction `rate` of its rows zeroed in training; scaling keeps the mean."""
    if not rate or not training:
        return x
    kept = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) >= rate
    return x * kept / (1 - rate)


class Mlp(nn.Module):
    """A perceptron that maps `[..., width]` to `[..., out]` through `hidden` units."""

    def __init__(self, width: int, hidden: int, out: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), act(), nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Attention(nn.Module):
    """A layer where tokens `[B, N, C]` attend to each other as `mask [B, 1, N, N]` allows."""

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
    """A pre-norm block that computes x + attention(norm x), then x + mlp(norm x).

    `drop`: rate of dropped paths (Huang et al. 2016).
    """

    def __init__(self, width: int, heads: int, drop: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, EPS), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, EPS), Mlp(width, 4 * width, width)
        self.drop = drop

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + drop_path(self.attn(self.norm1(x), mask), self.drop, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop, self.training)


class PostBlock(Block):
    """A block of norm(x + attention x), then norm(x + mlp x), as BERT and EAT have (Chen 2024)."""

    def both(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output, and what the MLP added to it."""
        x = self.norm1(x + drop_path(self.attn(x, mask), self.drop, self.training))
        added = self.mlp(x)
        return self.norm2(x + drop_path(added, self.drop, self.training)), added

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.both(x, mask)[0]


class CrossBlock(nn.Module):
    """A decoder block of CrossMAE (Fu et al. 2024): x attends to `memory` only, then the MLP.

    It maps `[B, M, width]`, `[B, N, memory]` -> `[B, M, width]`; `memory` is `width` unless given.
    """

    def __init__(self, width: int, heads: int, memory: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.q, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        self.kv = nn.Linear(memory or width, 2 * width)
        self.mlp = Mlp(width, 4 * width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = self.q(self.norm1(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(memory).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """A layer that embeds patches `[B, N, patch^2]` as `[B, N, width]`.

    The weight is that of a convolution of the whole spectrogram; here it touches only the given patches.
    """

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, patch, patch)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class ViT(nn.Module):
    """An encoder that turns spectrograms into tokens.

    Args:
        frames: Length that `pos_embed` is made for; clips may be shorter, or longer where the positions are
            the fixed ones.
        bands, patch: Bands of a spectrogram; frames, and bands, of a patch.
        width, depth, heads: S 384, 12, 6; B 768, 12, 12; L 1024, 24, 16.
        drop_path: Rate of dropped paths in the last block, rising linearly from 0 in the first.
        post_norm: Use `PostBlock`s, and a norm before the first (`norm_pre`), as EAT does.
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
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        if frames % patch or bands % patch or not frames or not bands:
            raise ValueError(f"{frames} frames, {bands} bands: both must be multiples of the patch, {patch}")
        self.bands, self.patch, self.width = bands, patch, width
        self.grid = (frames // patch, bands // patch)
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", table(self.grid, width))
        self.norm_pre = nn.LayerNorm(width, EPS) if post_norm else None
        block = PostBlock if post_norm else Block
        self.blocks = nn.ModuleList(
            block(width, heads, drop_path * i / max(1, depth - 1)) for i in range(depth)
        )

    def initialise(self) -> None:
        """Draw fresh weights as masked autoencoders do."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)

    def grid_of(self, x: Tensor) -> Grid:
        """Return time and frequency patches of `x [B, frames, bands]`; ValueError if not whole."""
        if x.ndim != 3 or x.shape[2] != self.bands or x.shape[1] % self.patch or not x.shape[1]:
            raise ValueError(
                f"a spectrogram of shape {tuple(x.shape)}: need [B, frames, {self.bands}], frames a multiple "
                f"of {self.patch}"
            )
        return x.shape[1] // self.patch, self.grid[1]

    def patches(self, x: Tensor) -> Tensor:
        """Cut `[B, frames, bands]` into `[B, T F, patch^2]`, along frequency first in each patch."""
        time, freq = self.grid_of(x)
        p = self.patch
        return x.reshape(-1, time, p, freq, p).transpose(2, 3).reshape(-1, time * freq, p * p)

    def picture(self, patches: Tensor) -> Tensor:
        """Return the spectrogram of patches: the inverse of `patches`."""
        cells = patches.unflatten(1, (-1, self.grid[1])).unflatten(3, (self.patch, self.patch))
        return cells.transpose(2, 3).flatten(3).flatten(1, 2)

    def positions(self, grid: Grid, table: Tensor) -> Tensor:
        """Return positions `[1, T F, C]` from a table for `self.grid` that begins with cls's.

        Raises ValueError for a clip longer than a table that is not the fixed one.
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

    def embed(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the tokens `[B, 1 + V, C]`, cls first, that enter the first block; see `encode`."""
        patches, place = self.patches(x), self.positions(self.grid_of(x), self.pos_embed)
        if visible is not None:
            index = visible.flatten(1)
            patches, place = take(patches, index), take(place, index)
        tokens = self.patch_embed(patches) + place
        if visible is not None:
            tokens = tokens.reshape(-1, visible.shape[-1], self.width)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = torch.cat([first, tokens], 1)
        return tokens if self.norm_pre is None else self.norm_pre(tokens)

    def encode(self, x: Tensor, visible: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        """Return the tokens `[B, 1 + V, C]` of the patches `visible [B, V]`, all if None, cls first.

        They come from the last block; hidden patches are not computed. With R views of each clip, `visible
        [B, R, V]`, the rows are B R. `keys [B, V]`: true for the patches that tokens may attend to, besides
        cls.
        """
        tokens = self.embed(x, visible)
        mask = None if keys is None else F.pad(keys, (1, 0), value=True)[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, mask)
        return tokens
