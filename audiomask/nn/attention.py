"""Attend over the last frames of a stream, or between all places of a frame.

Parameters of `CausalAttention` bear the names and shapes of `nn.MultiheadAttention`, so its state
dicts load unchanged.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from audiomask.nn import kernels
from audiomask.nn.recurrent import trains_here
from audiomask.streaming import State, Streaming


def _compiled(qkv: Tensor, heads: int) -> Any:
    """The kernels, where they are there and take `qkv [N, L, 3 C]`."""
    places, size = qkv.shape[1], qkv.shape[2] // (3 * heads)
    return kernels.library(places, size) if qkv.dtype == torch.float32 and places <= 256 else None


class _TrainedAttention(torch.autograd.Function):
    """A kernel of `attend_all` for training on a CPU: softmax(s q' k) v' in few passes.

    q, k, v are `[N heads, C / heads, L]`: products with the long axis last are the quickest.
    """

    @staticmethod
    def forward(ctx, qkv, heads, hide):
        rows, places, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        size, scale = c // heads, (c // heads) ** -0.5
        if (compiled := _compiled(qkv, heads)) is not None:
            qkv, y = qkv.contiguous(), qkv.new_empty(rows, places, c)
            hide = None if hide is None else hide.contiguous()
            ctx.save_for_backward(qkv, hide)
            ctx.sizes = (rows, places, c, heads, scale)
            kernels.call(compiled.attention_forward, *ctx.sizes, qkv, hide, y)
            return y
        split = qkv.view(rows, places, 3, c).permute(2, 0, 3, 1).contiguous()
        q, k, v = split.view(3, rows * heads, size, places)
        scores = torch.baddbmm(q.new_zeros(()), q.mT, k, beta=0, alpha=scale)
        if hide is not None:
            scores.view(rows, heads, places, places).masked_fill_(hide, -torch.inf)
        weights = torch.softmax(scores, -1, out=scores)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return torch.bmm(v, weights.mT).view(rows, c, places).mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        if len(ctx.saved_tensors) == 2:
            (qkv, hide), sizes = ctx.saved_tensors, ctx.sizes
            backward, d = _compiled(qkv, sizes[3]).attention_backward, torch.empty_like(qkv)
            kernels.call(backward, *sizes, qkv, hide, dy.contiguous(), d)
            return d, None, None
        q, k, v, weights = ctx.saved_tensors
        rows, places, c = dy.shape
        dy = dy.mT.contiguous().view_as(v)
        d = torch.empty(3, *v.shape, dtype=v.dtype)
        torch.bmm(dy, weights, out=d[2])
        ds = torch.bmm(dy.mT, v)
        torch.ops.aten._softmax_backward_data.out(ds, weights, -1, ds.dtype, grad_input=ds)
        torch.baddbmm(d[0], k, ds.mT, beta=0, alpha=ctx.scale, out=d[0])
        torch.baddbmm(d[1], q, ds, beta=0, alpha=ctx.scale, out=d[1])
        return d.view(3, rows, c, places).permute(1, 3, 0, 2).reshape(rows, places, 3 * c), None, None


def attend_all(qkv: Tensor, heads: int, hidden: float = 0.0) -> Tensor:
    """Return what L places make of each other: projections `[N, L, 3 C]` -> `[N, L, C]`.

    `hidden`, for training: chance that a place is not seen by the others of its row (never by itself), as in
    Chen et al. 2023, "Masked Image Training for Generalizable Deep Image Denoising".

    One `Attention` node (opset 23) in a graph. Otherwise heads are split off channels first, since moving
    rows of C / heads numbers about takes longer than the products.
    """
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.attention(*qkv.chunk(3, 2), q_num_heads=heads, kv_num_heads=heads)[0]
    c, places = qkv.shape[2] // 3, qkv.shape[1]
    hide = None
    if hidden:
        gone = torch.rand(len(qkv), 1, 1, places, device=qkv.device) < hidden
        hide = gone & ~torch.eye(places, dtype=torch.bool, device=qkv.device)
    if trains_here(qkv):
        return _TrainedAttention.apply(qkv, heads, hide)
    q, k, v = qkv.mT.reshape(-1, 3 * heads, c // heads, places).split(heads, 1)
    scores = (q * (c // heads) ** -0.5).mT @ k  # [N, heads, L, L]
    if hide is not None:
        scores = scores.masked_fill(hide, -torch.inf)
    weights = torch.softmax(scores, -1)
    return (v @ weights.mT).reshape(-1, c, places).mT


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
        slot = torch.arange(past + frames, device=x.device)
        age = slot[past:, None] - slot  # [T, N]: frames between a query and a key
        near = (age >= 0) & (age <= past)
        real = state["seen"][:, None] + slot >= past + self.lag  # [B, N]: not from before the signal
        # itself always, so that a frame before the signal, which nobody reads, is no average of the future
        mask = (near & real[:, None, None, :]) | (age == 0)
        scores = torch.where(mask, (q * (1 / math.sqrt(size))) @ k.transpose(2, 3), -torch.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.out_proj(y).transpose(1, 2), after
