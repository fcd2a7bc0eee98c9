"""Attend in shifted windows on a grid of any size, as Swin v2 does (Liu et al. 2022).

Scores are cosines over a learned temperature, plus a bias that a small network makes of the log-spaced
distance in the window (continuous position bias):

    a_ij = cos(q_i, k_j) / tau + mlp(sign(d) log(1 + |d|)),   d = (time, frequency) from j to i

Every other block shifts its windows: the grid is rolled, and the tokens that the roll brings together from
the two ends do not see each other, nor does padding to whole windows.

        unshifted  |0 1 2 3|4 5 6 7|           shifted by 2  |2 3 4 5|6 7 : 0 1|

Parameters bear the names of timm's first `swin_transformer_v2_cr`, whose temperature is `tau`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiomask.nn.vit import EPS, Grid, Mlp


class WindowAttention(nn.Module):
    """A layer that attends within each of G windows of A tokens, `[B, G, A, C]` -> the same.

    `windows`: (time, frequency) in tokens, A = time * frequency. `hidden`: units of the bias's network.
    """

    offsets: Tensor

    def __init__(self, width: int, heads: int, windows: Grid, hidden: int = 384) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.meta_mlp = Mlp(2, hidden, heads, nn.ReLU)
        self.tau = nn.Parameter(torch.ones(heads))
        place = torch.cartesian_prod(*(torch.arange(float(n)) for n in windows))  # [A, 2]
        distance = place[:, None] - place
        self.register_buffer("offsets", distance.sign() * distance.abs().log1p(), persistent=False)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Attend where `seen [G, A, A]` bool allows: whether token i may look at token j."""
        windows, places = x.shape[1:3]
        q, k, v = self.qkv(x).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.meta_mlp(self.offsets).permute(2, 0, 1)[None]  # [1, heads, A, A]
        bias = bias.expand(windows, -1, -1, -1)
        if seen is not None:
            bias = bias.masked_fill(~seen[:, None], -torch.inf)
        # Windows stand beside the heads, so that one bias serves the whole batch without being copied.
        q, k, v = (part.flatten(1, 2) for part in (q, k, v))  # [B, G heads, A, d]
        scale = self.tau.clamp(min=0.01).reciprocal().repeat(windows)[:, None, None]
        q, k = F.normalize(q, dim=-1, eps=1e-6) * scale, F.normalize(k, dim=-1, eps=1e-6)
        bias = bias.reshape(1, -1, places, places).to(v.dtype)
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, bias, scale=1.0)
        return self.proj(y.unflatten(1, (windows, self.heads)).transpose(2, 3).flatten(3))


class WindowBlock(nn.Module):
    """A block that attends within windows of a grid (T, F) of tokens `[B, T F, C]`.

    It computes x + norm(attention x), then x + norm(mlp x). `window`: tokens of a window in time and in
    frequency; `shift`: by how many they are shifted.
    """

    def __init__(self, width: int, heads: int, window: int = 4, shift: Grid = (0, 0)) -> None:
        super().__init__()
        if not all(0 <= s < window for s in shift):
            raise ValueError(f"windows of {window} tokens shifted by {shift}: less than a window, please")
        self.window, self.shift = window, shift
        self.attn, self.norm1 = WindowAttention(width, heads, (window, window)), nn.LayerNorm(width, EPS)
        self.mlp, self.norm2 = Mlp(width, 4 * width, width), nn.LayerNorm(width, EPS)

    def split(self, x: Tensor) -> Tensor:
        """Cut `[B, T, F, C]` of whole windows into `[B, G, A, C]`."""
        w = self.window
        x = x.unflatten(2, (-1, w)).unflatten(1, (-1, w))  # [B, T/w, w, F/w, w, C]
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def join(self, x: Tensor, grid: Grid) -> Tensor:
        """Invert `split`."""
        w = self.window
        x = x.unflatten(2, (w, w)).unflatten(1, (grid[0] // w, grid[1] // w))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def seen(self, grid: Grid, padded: Grid, device: torch.device) -> Tensor | None:
        """Return which tokens of a window see each other, `[G, A, A]`; None where all do."""
        if grid == padded and self.shift == (0, 0):
            return None
        parts = []
        for size, whole, shift in zip(grid, padded, self.shift, strict=True):
            place = torch.arange(whole, device=device)
            wrapped = (place < shift).long()
            part = torch.where(place < size, wrapped, 2)  # 2: padding
            parts.append(part.roll(-shift))
        part = self.split((3 * parts[0][:, None] + parts[1])[None, :, :, None])[0, :, :, 0]  # [G, A]
        return part[:, :, None] == part[:, None, :]

    def attend(self, x: Tensor, grid: Grid) -> Tensor:
        w = self.window
        padded = (-(-grid[0] // w) * w, -(-grid[1] // w) * w)
        x = F.pad(x.unflatten(1, grid), (0, 0, 0, padded[1] - grid[1], 0, padded[0] - grid[0]))
        x = self.split(x.roll((-self.shift[0], -self.shift[1]), (1, 2)))
        x = self.join(self.attn(x, self.seen(grid, padded, x.device)), padded)
        return x.roll(self.shift, (1, 2))[:, : grid[0], : grid[1]].flatten(1, 2)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + self.norm1(self.attend(x, grid))
        return x + self.norm2(self.mlp(x))
