"""GRU and LSTM over time, one frame or many at a time, exporting at any batch and length.

Parameters bear the names and shapes of `nn.GRU` and `nn.LSTM`, so their state dicts load unchanged.
`torch.export` freezes the time length at torch's own recurrent operators; while exporting, each layer is
therefore written as the ONNX operator itself, with symbolic shapes.

Frames before the signal must leave the state alone. They come with one more input, 1 where the frame is to be
skipped, whose weights shut the gates: z = 1 in h' = (1 - z) n + z h of the GRU; i = 0, f = 1, o = 0 in the
LSTM.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from audiomask.nn import kernels
from audiomask.streaming import State, Streaming, to_onnx

SHUT = 1e4  # sigmoid(-1e4) = 0 and sigmoid(1e4) = 1 in float32, whatever is added to it


ONNX_ORDER = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}  # ONNX's gates in terms of torch's: z r n; i o f g


def _onnx_weights(operator: str, weights: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return w `[D, G H, C]`, r `[D, G H, H]` and any bias `[D, 2 G H]` in ONNX's order.

    `weights` are (w, r, bias, bias) of each of the D directions, in torch's order of the G gates.
    """
    order = list(ONNX_ORDER[operator])

    def reorder(parameter: Tensor) -> Tensor:
        return parameter.unflatten(0, (len(order), -1))[order].flatten(0, 1)

    w, r, *biases = (torch.stack([reorder(p) for p in group]) for group in zip(*weights, strict=True))
    return [w, r, torch.cat(biases, 1)] if biases else [w, r]


def _names(module: Any, i: int) -> list[list[str]]:
    """Return the names of w, r and the biases of layer `i`, by direction."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if module.bias else ("weight_ih", "weight_hh")
    suffixes = ("", "_reverse") if getattr(module, "bidirectional", False) else ("",)
    return [[f"{kind}_l{i}{suffix}" for kind in kinds] for suffix in suffixes]


@torch.no_grad()
def prepare_export(model: nn.Module) -> None:
    """Give every recurrent layer of `model` its weights as the ONNX operator takes them, too.

    Traced, their rearrangement would be half of an export's work, only to be folded to constants at its end.
    """
    for module in model.modules():
        if isinstance(module, PlainGRU | PlainLSTM | _Recurrent):
            for i in range(module.num_layers):
                weights = [[getattr(module, name) for name in names] for names in _names(module, i)]
                for j, value in enumerate(_onnx_weights(module.mode, weights)):
                    module.register_buffer(f"onnx{j}_l{i}", value, persistent=False)


def _onnx_layer(
    module: Any, i: int, x: Tensor, start: Sequence[Tensor], shut: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Run layer `i` of `module` as its ONNX operator over x `[T, N, C]` from states `[D, N, H]`.

    Its weights are those of `prepare_export`; `shut` `[G]`, in torch's order, weighs one more input. Returns
    y `[T, D, N, H]` and the end states `[D, N, H]`.
    """
    hidden, operator = start[0].shape[-1], module.mode
    w, r, *bias = (getattr(module, f"onnx{j}_l{i}") for j in range(3 if module.bias else 2))
    if shut is not None:
        column = torch.stack([shut[k] for k in ONNX_ORDER[operator]]).repeat_interleave(hidden)
        w = torch.cat([w, column[None, :, None]], 2)
    attrs: dict = {"hidden_size": hidden, "direction": "bidirectional" if len(w) == 2 else "forward"}
    if operator == "GRU":
        attrs["linear_before_reset"] = 1  # as torch and cuDNN: n = tanh(W x + r * (R h + b))
    y, *end = torch.onnx.ops.symbolic_multi_out(
        operator,
        (x, w, r, *(bias or [None]), None, *start),
        attrs,
        dtypes=(x.dtype,) * (1 + len(start)),
        shapes=((x.shape[0], len(w), x.shape[1], hidden), *(state.shape for state in start)),
        version=20,
    )
    return y, end


def _onnx_module(module: nn.RNNBase, x: Tensor, start: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Run `module` over x `[T, N, C]` from `start` `[D L, N, H]` each, as ONNX operators."""
    if module.batch_first or module.proj_size:
        raise ValueError("only time-first recurrent layers without projection export")
    directions = 1 + module.bidirectional
    ends = []
    for i in range(module.num_layers):
        here = [state[i * directions : (i + 1) * directions] for state in start]
        y, end = _onnx_layer(module, i, x, here)
        x = y.squeeze(1) if directions == 1 else y.permute(0, 2, 1, 3).flatten(2)
        ends.append(end)
    return x, [torch.cat(parts, 0) if len(parts) > 1 else parts[0] for parts in zip(*ends, strict=True)]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: small products gain nothing from threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _TrainedGRU(torch.autograd.Function):
    """A layer of `nn.GRU` for training on a CPU, where torch records every operator of a step.

        r, z = sigmoid(W x + b + R h + c)     n = tanh(W x + b + r u),  u = R h + c     h' = n + z (h - n)

    Whatever does not wait for the state is one product over all steps, here and in the gradient. tanh(a) is
    taken as 2 sigmoid(2 a) - 1, five times as fast and as exact in absolute terms.
    """

    @staticmethod
    def forward(ctx, x, h, w, r, b, c):
        """Return y `[T, N, H]` and the last h of x `[T, N, C]`, h `[N, H]`, weights of `nn.GRU`."""
        (frames, rows, _), size, start = x.shape, h.shape[1], h.contiguous()
        u, y = x.new_empty(frames, rows, size), x.new_empty(frames, rows, size)
        bias = b + c
        bias[2 * size :] = b[2 * size :]
        ctx.compiled = x.dtype == torch.float32 and kernels.take(size)
        if ctx.compiled:
            if spare := -x.shape[2] % 8:
                x, w = functional.pad(x, (0, spare)), functional.pad(w, (0, spare))
            gates, sizes = x.new_empty(frames, rows, 3 * size), (frames, rows, x.shape[2], size)
            kernels.call("gru_forward", *sizes, x, w.T, bias, r.T, c[2 * size :], start, gates, u, y)
            ctx.save_for_backward(x, start, w, r, gates, u, y)
            ctx.inputs = x.shape[2] - spare
            return y, y[-1].clone()
        bias[2 * size :] *= 2
        w_2 = torch.cat([w[: 2 * size], 2 * w[2 * size :]])
        gates = torch.addmm(bias, x.flatten(0, 1), w_2.T).view(frames, rows, 3 * size)
        r_rz, r_n = (part.T.contiguous() for part in r.split((2 * size, size)))
        c_n, minus = c[2 * size :], x.new_tensor(-1.0)
        with _one_thread():
            for gate, u_t, y_t in zip(gates, u, y, strict=True):
                rz, n = gate.split((2 * size, size), 1)
                rz.addmm_(h, r_rz).sigmoid_()
                n.addcmul_(rz[:, :size], torch.addmm(c_n, h, r_n, out=u_t), value=2).sigmoid_()
                torch.add(minus, n, alpha=2, out=n)
                h = torch.lerp(n, h, rz[:, size:], out=y_t)
        ctx.save_for_backward(x, start, w, r, gates, u, y)
        return y, h.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dh):
        x, start, w, r, gates, u, y = ctx.saved_tensors
        size = start.shape[1]
        dh = dh.clone(memory_format=torch.contiguous_format)
        if ctx.compiled:
            dx, made = x.new_empty(x.shape), kernels.parts(w.shape, r.shape, (4 * size,))
            given = (x, w, r.roll(size, 0), start, gates, u, y, dy)  # R of n, r, z
            kernels.call("gru_backward", *x.shape, size, *given, dh, dx, *made)
            dw, dr, db = (part.sum(0) for part in made)
            dr, dc = dr.roll(-size, 0), db[: 3 * size].roll(-size)
            return dx[:, :, : ctx.inputs], dh, dw[:, : ctx.inputs], dr, db[size:], dc
        before = torch.cat([start[None], y[:-1]])
        d, dn = torch.empty_like(gates), torch.empty_like(u)  # of R h + c for r, z, n; of W x + b for n
        dh = _TrainedGRU.through_time(r, gates, u, before, dy, dh, d, dn)
        d, dn, x_rows = d.flatten(0, 1), dn.flatten(0, 1), x.flatten(0, 1)
        rz, dc = d[:, : 2 * size], d.sum(0)
        dx = (rz @ w[: 2 * size]).addmm_(dn, w[2 * size :]).view_as(x) if ctx.needs_input_grad[0] else None
        dw = torch.cat([rz.T @ x_rows, dn.T @ x_rows])
        return dx, dh, dw, d.T @ before.flatten(0, 1), torch.cat([dc[: 2 * size], dn.sum(0)]), dc

    @staticmethod
    def through_time(
        r: Tensor, gates: Tensor, u: Tensor, before: Tensor, dy: Tensor, dh: Tensor, d: Tensor, dn: Tensor
    ) -> Tensor:
        """Fill `d` and `dn` from the last step to the first; return the gradient of the first state."""
        size, a, e = dh.shape[1], torch.empty_like(dh), torch.empty_like(dh)
        tanh, sigmoid = torch.ops.aten.tanh_backward.grad_input, torch.ops.aten.sigmoid_backward.grad_input
        steps = list(zip(dy, gates, u, before, d, dn, strict=True))
        with _one_thread():
            for dy_t, gate, u_t, h, d_t, dn_t in reversed(steps):
                (r_t, z, n), (dr, dz, du) = gate.split(size, 1), d_t.split(size, 1)
                dh += dy_t
                torch.mul(dh, z, out=a)
                torch.sub(h, n, out=e).mul_(a)
                torch.addcmul(e, e, z, value=-1, out=dz)  # dh (h - n) z (1 - z)
                tanh(torch.sub(dh, a, out=e), n, grad_input=dn_t)  # dh (1 - z) (1 - n^2)
                torch.mul(dn_t, r_t, out=du)
                sigmoid(torch.mul(dn_t, u_t, out=e), r_t, grad_input=dr)
                torch.addmm(a, d_t, r, out=dh)
        return dh


def _gru(x: Tensor, h: Tensor, w: Tensor, r: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor]:
    """A GRU layer over x `[T, N, C]` from h `[1, N, H]` -> y `[T, N, H]`, h `[1, N, H]`."""
    if trains_here(x):
        biases = biases or (w.new_zeros(len(w)),) * 2
        y, h = _TrainedGRU.apply(x, h[0], w, r, *biases)
        return y, h[None]
    train = torch.is_grad_enabled()  # cuDNN goes back through no other, not even without dropout
    return torch.gru(x, h, [w, r, *biases], bool(biases), 1, 0.0, train, False, False)


def trains_here(x: Tensor) -> bool:
    """Return whether `x` trains on a CPU at full precision, where our own layers are the faster."""
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def compiled(x: Tensor, *sizes: int) -> bool:
    """Return whether `x` trains here by the compiled kernels, with columns of these `sizes`."""
    return x.dtype == torch.float32 and kernels.take(*sizes) and trains_here(x)


class PlainGRU(nn.GRU):
    """A `nn.GRU` (time first, `[T, N, C]`) that also exports at any batch and length.

    It is no Streaming block: models thread `h` themselves, or run it across frequency, in both directions
    too.
    """

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ours = trains_here(x) and not (self.batch_first or self.dropout)
        if not to_onnx() and not ours:
            return super().forward(x, h)
        if h is None:
            h = x.new_zeros(self.num_layers * (1 + self.bidirectional), x.shape[1], self.hidden_size)
        if ours:
            return self._trained(x, h)
        y, (end,) = _onnx_module(self, x, [h])
        return y, end

    def _trained(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        sides, ends = 1 + self.bidirectional, list[Tensor]()
        for i in range(self.num_layers):
            parts = []
            for side, weights in enumerate(self.all_weights[i * sides : (i + 1) * sides]):
                y, end = _gru(x.flip(0) if side else x, h[len(ends), None], *weights)
                parts.append(y.flip(0) if side else y)
                ends.append(end)
            x = torch.cat(parts, 2)
        return x, torch.cat(ends)


class PlainLSTM(nn.LSTM):
    """`nn.LSTM` likewise."""

    def forward(  # type: ignore[override]
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not to_onnx():
            return super().forward(x, state)
        if state is None:
            zero = x.new_zeros(self.num_layers * (1 + self.bidirectional), x.shape[1], self.hidden_size)
            state = (zero, zero)
        y, (h, c) = _onnx_module(self, x, state)
        return y, (h, c)


class _Recurrent(Streaming):
    """A recurrent layer that streams: `[B, C, T]` -> `[B, hidden, T]`.

    With `freqs` it is `[B, C, T, F]` -> `[B, hidden, T, F]`, each frequency a sequence of its own with shared
    weights. `dropout` is between layers, in training.
    """

    mode: str
    gates: int
    shut: tuple[float, ...]  # in torch's gate order
    states: tuple[str, ...]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        freqs: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.freqs, self.dropout = bias, freqs, dropout
        bound = 1 / math.sqrt(hidden_size)  # as nn.GRU initialises

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        rows = self.gates * hidden_size
        for i in range(num_layers):
            self.register_parameter(f"weight_ih_l{i}", parameter(rows, hidden_size if i else input_size))
            self.register_parameter(f"weight_hh_l{i}", parameter(rows, hidden_size))
            if bias:
                self.register_parameter(f"bias_ih_l{i}", parameter(rows))
                self.register_parameter(f"bias_hh_l{i}", parameter(rows))

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        shape = (batch, self.hidden_size) if self.freqs is None else (batch, self.freqs, self.hidden_size)
        state = self.gate_state(batch, device)
        for i in range(self.num_layers):
            for name in self.states:
                state[f"{name}{i}"] = torch.zeros(shape, device=device, dtype=dtype)
        return state

    def step(self, x, state, **controls):
        batch, before = x.shape[0], self.before(x, state)
        x, after = self.gate(x, state)
        if self.freqs is None:
            x = x.permute(2, 0, 1)
        else:
            x = x.permute(2, 0, 3, 1).reshape(-1, batch * self.freqs, self.input_size)
        skip = None
        if before is not None:
            skip = before.T if self.freqs is None else before.T.repeat_interleave(self.freqs, 1)
            skip = skip[:, :, None].to(x.dtype)
        for i in range(self.num_layers):
            if i and self.dropout:
                x = functional.dropout(x, self.dropout, self.training)
            start = [state[f"{name}{i}"].reshape(1, -1, self.hidden_size) for name in self.states]
            x, end = self.layer(x, start, skip, i)
            for name, value in zip(self.states, end, strict=True):
                after[f"{name}{i}"] = value.reshape_as(state[f"{name}{i}"])
        if self.freqs is None:
            return x.permute(1, 2, 0), after
        return x.reshape(-1, batch, self.freqs, self.hidden_size).permute(1, 3, 0, 2), after

    def layer(
        self, x: Tensor, start: list[Tensor], skip: Tensor | None = None, i: int = 0
    ) -> tuple[Tensor, list[Tensor]]:
        """Run one layer over x `[T, N, C]` from states `[1, N, H]`, except where `skip` is 1."""
        shut = None
        if skip is not None:
            x = torch.cat([x, skip], 2)
            shut = torch.cat([x.new_full((1,), gate) for gate in self.shut])
        if to_onnx():
            y, end = _onnx_layer(self, i, x, start, shut)
            return y.squeeze(1), end
        w, r, *biases = (getattr(self, name) for name in _names(self, i)[0])
        if shut is not None:
            w = torch.cat([w, shut.to(w.dtype).repeat_interleave(self.hidden_size)[:, None]], 1)
        if self.mode == "GRU":
            y, h = _gru(x, start[0], w, r, *biases)
            return y, [h]
        train = torch.is_grad_enabled()  # see `_gru`
        y, *end = torch.lstm(x, start, [w, r, *biases], self.bias, 1, 0.0, train, False, False)
        return y, end


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al. 2014), as `nn.GRU`."""

    mode, gates, states = "GRU", 3, ("h",)
    shut = (0.0, SHUT, 0.0)  # r, z, n


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), as `nn.LSTM`."""

    mode, gates, states = "LSTM", 4, ("h", "c")
    shut = (-SHUT, SHUT, 0.0, -SHUT)  # i, f, g, o
