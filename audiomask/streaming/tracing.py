"""Write loops and branches that run in torch and become operators of an exported ONNX graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops.cond import cond
from torch._higher_order_ops.scan import scan


def to_onnx() -> bool:
    """Return whether an ONNX graph, not a program of torch, is being made."""
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()


def recur(
    step: Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]],
    carry: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run `step` over the first axis of `inputs`, for recursions that no operator has.

    `step(carry, inputs of one frame)` returns (carry, outputs of that frame), and `recur` the last carry and
    outputs `[T, ...]`. In an ONNX graph it is a Scan.
    """
    if not to_onnx():
        frames = []
        for now in zip(*inputs, strict=True):
            carry, y = step(carry, now)
            frames.append(y)
        return carry, tuple(torch.stack(parts) for parts in zip(*frames, strict=True))

    def body(carry, now):  # scan wants the carry back as it came, and outputs that share no memory with it
        carry, y = step(carry, now)
        return tuple(c.contiguous() for c in carry), tuple(part.clone() for part in y)

    return scan(body, tuple(c.clone(memory_format=torch.contiguous_format) for c in carry), inputs)


def either(
    condition: Tensor,
    then: Callable[..., tuple[Tensor, ...]],
    otherwise: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    graph: bool,
) -> tuple[Tensor, ...]:
    """Return `then(*inputs)` where the one-element `condition` holds, else `otherwise(*inputs)`.

    Both give the same shapes. This is for work that is seldom needed. `graph`: an ONNX graph is being made,
    and it becomes an If (`to_onnx()` outside of `recur`, whose steps are traced apart).
    """
    if not graph and torch.compiler.is_exporting():  # for torch itself: no branches
        return tuple(
            torch.where(condition, a, b) for a, b in zip(then(*inputs), otherwise(*inputs), strict=True)
        )
    if not graph:
        return (then if bool(condition) else otherwise)(*inputs)

    def fresh(branch):  # cond wants outputs that share no memory with the inputs
        return lambda *given: tuple(x.clone(memory_format=torch.contiguous_format) for x in branch(*given))

    return cond(condition, fresh(then), fresh(otherwise), inputs)
