"""Transform streams by layers that attend to a bounded window, with positions by rotation.

    block = RotaryTransformer(channels=512, heads=8, hidden=2048, layers=8, window=250)
    y = block(x)                                      # [B, 512, T] -> [B, 512, T]

Layers are pre-norm, with layer scale (Touvron et al. 2021):

    x <- x + s1 attention(norm x),        x <- x + s2 down(gelu(up(norm x)))

Rotary positions (Su et al. 2021): channels i and i + d / 2 of a head's d are turned, in queries and keys, by
the angle place * base^(-2 i / d), so that a product of both depends on the distance of their places only.
Places are therefore counted from the frame at which a step begins, and the state keeps keys that are not
turned: an angle stays small, and exact, however long the stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiomask.nn.attention import attend, visible
from audiomask.streaming import State, Streaming


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `x [..., T, d]`, whose halves are coordinates, turned by angles `[T, d / 2]`."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class RotaryLayer(nn.Module):
    """A layer of a `RotaryTransformer`."""

    def __init__(self, channels: int, heads: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)
        self.up = nn.Linear(channels, hidden, bias=False)
        self.down = nn.Linear(hidden, channels, bias=False)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((channels,), scale)) for _ in range(2))

    def forward(
        self, x: Tensor, ring: Tensor, cos: Tensor, sin: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the output `[B, T, C]` for x, and the ring after it.

        `ring [B, 2 H, W - 1, d]` has the last keys and values; angles are those of all `W - 1 + T` places.
        """
        frames = x.shape[1]
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        kept = torch.cat([ring, torch.cat([k, v], 1)], 2)
        k, v = kept.chunk(2, 1)
        past = ring.shape[2]
        y = attend(turned(q, cos[past:], sin[past:]), turned(k, cos, sin), v, mask)
        x = x + self.scale1 * self.out(y)
        return x + self.scale2 * self.down(F.gelu(self.up(self.norm2(x)))), kept[:, :, frames:]


class RotaryTransformer(Streaming):
    """A transformer over `[B, C, T]`, whose frames see `window` frames, themselves the last.

    Args:
        channels: Channels C.
        heads: Heads of the attention.
        hidden: Width of the perceptrons.
        layers: Layers.
        window: Frames that one sees at most.
        scale: Layer scale at first.
        base: Base of the rotations' periods.
    """

    rates: Tensor

    def __init__(
        self,
        channels: int,
        heads: int,
        hidden: int,
        layers: int,
        window: int,
        scale: float = 0.01,
        base: float = 10000.0,
    ) -> None:
        super().__init__()
        if channels % (2 * heads):
            raise ValueError(f"{channels} channels do not divide into {heads} heads of an even width")
        self.layers = nn.ModuleList(RotaryLayer(channels, heads, hidden, scale) for _ in range(layers))
        self.window, self.ring = window, (2 * heads, window - 1, channels // heads)
        rates = 1 / base ** (torch.arange(0, self.ring[2], 2).float() / self.ring[2])
        self.register_buffer("rates", rates, persistent=False)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        rings = tuple(torch.zeros(batch, *self.ring, device=device, dtype=dtype) for _ in self.layers)
        return {"rings": rings, "seen": torch.zeros(batch, dtype=torch.int64, device=device)}

    def step(self, x, state, **controls):
        if not torch.compiler.is_exporting() and x.shape[2] > self.window:  # scores grow with the square
            parts = []
            for part in x.split(self.window, 2):
                y, state = self.step(part, state)
                parts.append(y)
            return torch.cat(parts, 2), state
        x, _ = self.gate(x, state)
        frames, past, rings = x.shape[2], self.window - 1, []
        angles = (torch.arange(past + frames, device=x.device) - past)[:, None] * self.rates
        mask = visible(state["seen"] - self.lag, frames, past)
        cos, sin, y = angles.cos(), angles.sin(), x.transpose(1, 2)
        for layer, ring in zip(self.layers, state["rings"], strict=True):
            y, ring = layer(y, ring, cos, sin, mask)
            rings.append(ring)
        return y.transpose(1, 2), {"rings": tuple(rings), "seen": state["seen"] + frames}
