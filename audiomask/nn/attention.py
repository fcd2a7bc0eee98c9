"""Attend over the last frames of a stream, or between all places of a frame.

Parameters of `CausalAttention` bear the names and shapes of `nn.MultiheadAttention`, so its state
dicts load unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from audiomask.nn import kernels
from audiomask.nn.recurrent import compiled
from audiomask.streaming import State, Streaming


class _TrainedAttention(torch.autograd.Function):
    """A kernel of `attend_all` for training on a CPU; what is between stays in a core's cache.

    It hands on x as well, so that the gradient of what goes around it is added where its own is made.
    """

    @staticmethod
    def forward(ctx, x, w, b, out, heads, hide):
        ctx.save_for_backward(x, w, b, out, hide)
        ctx.sizes, y = (*x.shape, heads, (x.shape[2] // heads) ** -0.5), x.new_empty(x.shape)
        kernels.call("attention_forward", *ctx.sizes, x, w.T, b, out.T, hide, y)
        ctx.set_materialize_grads(False)
        return y, x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, around):
        x, w, b, out, hide = ctx.saved_tensors
        dx, made = x.new_empty(x.shape), kernels.parts(w.shape, b.shape, out.shape)
        kernels.call("attention_backward", *ctx.sizes, x, w.T, b, w, out, hide, dy, around, dx, *made)
        return dx, *(part.sum(0) for part in made), None, None


def attend_all(
    x: Tensor, qkv: nn.Linear, out: nn.Linear, heads: int, hidden: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return what L places of `x [N, L, C]` make of each other, between two projections, and x.

    `qkv` makes 3 C channels, and `out`, without a bias, takes C of all heads. `hidden`, for training: chance
    that a place is not seen by the others of its row (never by itself), as in Chen et al. 2023, "Masked Image
    Training for Generalizable Deep Image Denoising".

    One `Attention` node (opset 23) in a graph. Otherwise heads are split off channels first, since moving
    rows of C / heads numbers about takes longer than the products.
    """
    if torch.onnx.is_in_onnx_export():
        # Linear layers of rows: biases and norms about them become part of the product.
        parts = qkv(x.flatten(0, 1)).unflatten(0, x.shape[:2]).chunk(3, 2)
        y = torch.onnx.ops.attention(*parts, q_num_heads=heads, kv_num_heads=heads)[0]
        return out(y.flatten(0, 1)), x
    _, places, c = x.shape
    hide = None
    if hidden:
        gone = torch.rand(len(x), 1, 1, places, device=x.device) < hidden
        hide = gone & ~torch.eye(places, dtype=torch.bool, device=x.device)
    if places <= 256 and compiled(x, places, c // heads):
        return _TrainedAttention.apply(x, qkv.weight, qkv.bias, out.weight, heads, hide)
    q, k, v = qkv(x).mT.reshape(-1, 3 * heads, c // heads, places).split(heads, 1)
    scores = (q * (c // heads) ** -0.5).mT @ k  # [N, heads, L, L]
    if hide is not None:
        scores = scores.masked_fill(hide, -torch.inf)
    weights = torch.softmax(scores, -1)
    return out((v @ weights.mT).reshape(-1, c, places).mT), x


def visible(seen: Tensor, frames: int, past: int) -> Tensor:
    """Return which of `past + frames` slots the last `frames` attend to, `[B, 1, T, N]`.

    They are itself and the `past` before it, unless from before the signal, of which a state has seen `seen
    [B]` frames. A frame before the signal, which nobody reads, sees itself: it is no average of the future.
    """
    slot = torch.arange(past + frames, device=seen.device)
    age = slot[past:, None] - slot  # [T, N]: frames between a query and a key
    near = (age >= 0) & (age <= past)
    real = seen[:, None] + slot >= past  # [B, N]
    return (near & real[:, None, None, :]) | (age == 0)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Return what queries `[B, H, T, d]` make of values `[B, H, N, d]`, `[B, T, H d]`."""
    scores = (q * (1 / math.sqrt(q.shape[3]))) @ k.transpose(2, 3)
    weights = torch.where(mask, scores, -torch.inf).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class CausalAttention(Streaming):
    """Attention of each frame of `[B, C, T]` to itself and the `window - 1` frames before it.

    The state is a ring of the last `window - 1` keys and values; slots from before the signal are masked by a
    count of frames. It equals unbounded causal attention while the signal fits the window.
    """

    def __init__(self, channels: int, heads: int, window: int, bias: bool = True) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        twin = nn.MultiheadAttention(channels, heads, bias=bias)
        self.in_proj_weight, self.in_proj_bias = twin.in_proj_weight, twin.in_proj_bias
        self.out_proj = nn.Linear(channels, channels, bias=bias)
        self.channels, self.heads, self.window = channels, heads, window

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        ring = torch.zeros(batch, self.window - 1, 2 * self.channels, device=device, dtype=dtype)
        return {"ring": ring, "seen": torch.zeros(batch, dtype=torch.int64, device=device)}

    def step(self, x, state, **controls):
        x, _ = self.gate(x, state)
        frames, past = x.shape[2], self.window - 1
        q, kv = F.linear(x.transpose(1, 2), self.in_proj_weight, self.in_proj_bias).split(
            (self.channels, 2 * self.channels), 2
        )
        kv = torch.cat([state["ring"], kv], 1)
        after = {"ring": kv[:, frames:], "seen": state["seen"] + frames}
        size = self.channels // self.heads
        q, k, v = (p.unflatten(2, (self.heads, size)).transpose(1, 2) for p in (q, *kv.chunk(2, 2)))
        y = attend(q, k, v, visible(state["seen"] - self.lag, frames, past))
        return self.out_proj(y).transpose(1, 2), after
