"""Make an artifact smaller or faster: same ports, states and delays, other numbers inside.

`export_variant` measures what a variant costs and gains, and refuses to write one that does not pay.

`int8`: large matrix products take eight-bit integers. Weights W [K, N] have one scale per column, and their
factor has one per row, found while running, so that no calibration limits the level of a signal:

    x W  ~  s_x s_w (round(x / s_x) round(W / s_w)),    s = max |.| / 127

A row is one frame of one stream, so the other streams of a batch and the length of a call have no influence
on it, which scales per tensor (ONNX Runtime's own dynamic quantisation) do not grant. GRU and LSTM become the
product of all frames with W and a Scan over time with R, convolutions over time a product with their windows,
all in plain ONNX. Small matrices stay: one product is faster than the ten operators that it would need.

`float16`: weights are stored in two bytes and become float32 when the file is opened.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from audiomask.audio import AudioError, make_folder, replacing
from audiomask.runtime.artifact import KEY, Artifact

SMALL = 1 << 16  # weights: with all products from here on, models of .3 to 1 M break even (docs/export.md)
OUTLIER = 64  # a row of W this many times larger than the median one would take the others' resolution
# Weights in -63..63: 255 * 63 * 2 fits the 16 bits in which processors without VNNI add pairs of products.
WEIGHT, MIDDLE = 63, 128
STORED = 1 << 8  # elements: a smaller tensor is not worth a Cast
HALF = 65504.0  # the largest float16


class VariantError(AudioError):
    """An error for a variant that cannot be made, or does not pay."""


class Rewriter:
    """A writer that holds a graph's `nodes` so far, and its `weights` by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.done: Counter[str] = Counter()  # rewritten operators
        self.elements = 0  # of their weights
        self._shared: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"variant_{self._count}"

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Return the name of an initializer of this value; equal values share one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = self.name()
            tensor = numpy_helper.from_array(array, self._shared[key])
            self.weights[tensor.name] = tensor
        return self._shared[key]

    def __call__(
        self, operator: str, *inputs: str, out: Sequence[str] | str | None = None, **attributes: Any
    ) -> str:
        """Add a node and return the name of its first output."""
        outputs = [out] if isinstance(out, str) else list(out or [self.name()])
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs[0]

    def named(self, out: str) -> bool:
        """Rename the first output of the last node; return True, since its operator is rewritten."""
        self.nodes[-1].output[0] = out
        return True

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def value(self, name: str) -> np.ndarray | None:
        """Return the constant of this name if it is float32, else None."""
        tensor = self.weights.get(name)
        return numpy_helper.to_array(tensor) if tensor and tensor.data_type == TensorProto.FLOAT else None

    def large(self, name: str, rank: int) -> np.ndarray | None:
        """Return a constant if it is float32, of this rank and large enough to pay, else None."""
        w = self.value(name)
        return w if w is not None and w.ndim == rank and w.size >= SMALL else None

    def finish(self) -> onnx.ModelProto:
        """Return the model with the new nodes and the weights that they use."""
        used = {name for graph in graphs(self.nodes) for node in graph for name in node.input}
        used |= {output.name for output in self.graph.output}
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(tensor for name, tensor in self.weights.items() if name in used)
        return self.model


def graphs(nodes: Sequence[onnx.NodeProto]) -> Iterator[Sequence[onnx.NodeProto]]:
    """Yield the nodes, and those of every graph inside them."""
    yield nodes
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g.node)


def _integers(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return w `[K, N]` as int8, and the scales `[N]` of its columns."""
    scale = np.maximum(np.abs(w).max(0), 1e-30) / WEIGHT
    return np.round(w / scale).astype(np.int8), scale.astype(np.float32)


def _product(to: Rewriter, x: str, w: np.ndarray, bias: str = "") -> str:
    """Write x `[..., K]` times w `[K, N]`, plus bias `[N]`."""
    to.elements += w.size
    rows = np.abs(w).max(1)
    apart = np.flatnonzero(rows > OUTLIER * max(float(np.median(rows)), 1e-30))
    exact = ""
    if 0 < len(apart) <= 8:  # such as the input of a gate, whose weights shut it
        kept = w[apart]
        w = w.copy()
        w[apart] = 0
        exact = to("MatMul", to("Gather", x, to.constant(apart, np.int64), axis=-1), to.constant(kept))
    whole, scale = _integers(w)
    peak = to("ReduceMax", to("Abs", x), to.integers(-1), keepdims=1)
    step = to("Max", to("Mul", peak, to.constant(1 / 127)), to.constant(1e-30))
    bits = to("QuantizeLinear", to("Div", x, step), to.constant(1.0), to.constant(MIDDLE, np.uint8))
    y = to("MatMulInteger", bits, to.constant(whole, np.int8), to.constant(MIDDLE, np.uint8))
    y = to("Mul", to("Cast", y, to=TensorProto.FLOAT), to.constant(scale))
    y = to("Mul", y, step)
    for term in (exact, bias):
        y = to("Add", y, term) if term else y
    return y


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _inputs(node: onnx.NodeProto, count: int) -> list[str]:
    """Return the names of so many inputs; "" for an optional one that is not given."""
    return [*node.input, *[""] * count][:count]


def _matmul(to: Rewriter, node: onnx.NodeProto) -> bool:
    """Write a MatMul, or a Gemm, by a constant matrix."""
    a, (x, matrix, bias) = _attributes(node), _inputs(node, 3)
    w = to.large(matrix, 2)
    if w is None or a.get("transA") or (a.get("alpha", 1), a.get("beta", 1)) != (1, 1):
        return False
    _product(to, x, w.T if a.get("transB") else w, bias)
    return to.named(node.output[0])


def _plain(a: dict[str, Any]) -> bool:
    """Return whether a convolution has one group and no padding."""
    padded = any(a.get("pads", [0])) or any(a.get("output_padding", [0]))
    return a.get("group", 1) == 1 and a.get("auto_pad", b"NOTSET") == b"NOTSET" and not padded


def _flat(to: Rewriter, x: str) -> str:
    """Return the signal `[B, C, T]` that x `[B, C, 1, T]` was (see `nn.conv`); "" for none."""
    made = [n for n in to.nodes if n.op_type == "Unsqueeze" and n.output[0] == x and n.input[1] in to.weights]
    axes = [numpy_helper.to_array(to.weights[n.input[1]]).tolist() for n in made]
    return made[0].input[0] if axes == [[2]] else ""


def _conv(to: Rewriter, node: onnx.NodeProto) -> bool:
    """Write x `[B, C, T]`, w `[N, C, K]` as windows `[B, T', K C]` times `[K C, N]`.

    So that ONNX Runtime takes its faster kernels, x and w may have a height of one.
    """
    a, (x, kernels, bias) = _attributes(node), _inputs(node, 3)
    flat = _flat(to, x)
    w = to.large(kernels, 4 if flat else 3)
    if w is None or not _plain(a):
        return False
    if flat:
        x, w = flat, w[:, :, 0]
    kernel, stride, dilation = w.shape[2], a.get("strides", [1])[-1], a.get("dilations", [1])[-1]
    if kernel > 1 or stride > 1:
        taps = []
        for k in range(kernel):
            end = (k - kernel + 1) * dilation or np.iinfo(np.int64).max
            taps.append(to("Slice", x, *map(to.integers, (k * dilation, end, 2, stride))))
        x = to("Concat", *taps, axis=1) if len(taps) > 1 else taps[0]
    x = to("Transpose", x, perm=[0, 2, 1])
    y = _product(to, x, w.transpose(2, 1, 0).reshape(-1, w.shape[0]), bias)
    y = to("Transpose", y, perm=[0, 2, 1])
    if flat:
        to("Unsqueeze", y, to.integers(2))
    return to.named(node.output[0])


def _conv_transpose(to: Rewriter, node: onnx.NodeProto) -> bool:
    """Write x `[B, C, T]`, w `[C, N, K]`, stride S as frames of M S >= K samples that overlap.

    frame 0   | 0 | 1 |            part m of frame t lies in slot t + m; overlapping slots are added
    frame 1       | 0 | 1 |
    """
    a, (x, kernels, bias) = _attributes(node), _inputs(node, 3)
    w = to.large(kernels, 3)
    if w is None or not _plain(a) or a.get("dilations", [1]) != [1] or "output_shape" in a:
        return False
    channels, kernel, stride = w.shape[1], w.shape[2], a.get("strides", [1])[0]
    parts = math.ceil(kernel / stride)
    w = np.pad(w, ((0, 0), (0, 0), (0, parts * stride - kernel)))
    # [C, M, N, S]: the parts of a frame one after the other
    w = w.reshape(-1, channels, parts, stride).transpose(0, 2, 1, 3).reshape(len(w), -1)
    y = _product(to, to("Transpose", x, perm=[0, 2, 1]), w)
    y = to("Reshape", y, to.integers(0, 0, parts * channels, stride))
    y = to("Transpose", y, perm=[0, 2, 1, 3])  # [B, M N, T, S]
    if parts > 1:
        slots = [to.name() for _ in range(parts)]
        to("Split", y, out=slots, axis=1, num_outputs=parts)
        slots = [
            to("Pad", part, to.integers(0, 0, m, 0, 0, 0, parts - 1 - m, 0)) for m, part in enumerate(slots)
        ]
        y = reduce(lambda a, b: to("Add", a, b), slots)
    y = to("Reshape", y, to.integers(0, 0, -1))
    if parts * stride > kernel:
        y = to("Slice", y, *map(to.integers, (0, kernel - parts * stride, 2)))
    if bias:
        to("Add", y, to("Unsqueeze", bias, to.integers(1)))
    return to.named(node.output[0])


def _recurrent(to: Rewriter, node: onnx.NodeProto) -> bool:
    """Write a GRU or LSTM: X `[T, B, C]`, W `[1, G H, C]`, R `[1, G H, H]`, B `[1, 2 G H]`."""
    a, (given, _, _, bias, lengths, *starts, peepholes) = _attributes(node), _inputs(node, 8)
    w, r, gru = to.value(node.input[1]), to.large(node.input[2], 3), node.op_type == "GRU"
    states = ["h"] if gru else ["h", "c"]
    plain = (
        a.get("direction", b"forward") == b"forward"
        and not (a.get("layout") or set(a) - {"hidden_size", "direction", "linear_before_reset", "layout"})
        and (a.get("linear_before_reset") == 1 or not gru)
        and all(starts[: len(states)])
        and not (lengths or peepholes)
    )
    if w is None or r is None or not plain:
        return False
    hidden = r.shape[2]
    b = to.value(bias) if bias else np.zeros((1, 2 * r.shape[1]), np.float32)
    if b is None:
        return False
    b_w, b_r = b[0, : r.shape[1]], b[0, r.shape[1] :]
    if not gru:
        b_w, b_r = b_w + b_r, np.zeros_like(b_r)
    x = _product(to, given, np.ascontiguousarray(w[0].T), to.constant(b_w))
    to.elements += r.size
    whole, scale = _integers(np.ascontiguousarray(r[0].T))
    # |h| < 1, so its scale is known: h ~ round(127 h) / 127. QuantizeLinear clips what rounding puts beyond.
    step, zero = to.constant(1 / 127), to.constant(MIDDLE, np.uint8)
    r_w, r_scale = to.constant(whole, np.int8), to.constant(scale / 127)
    r_bias = to.constant(b_r) if b_r.any() else ""
    outer, to.nodes = to.nodes, []
    inside = {name: to.name() for name in (*states, "x")}
    after = [to.name() for _ in states]
    y = to("MatMulInteger", to("QuantizeLinear", inside["h"], step, zero), r_w, zero)
    y = to("Mul", to("Cast", y, to=TensorProto.FLOAT), r_scale)
    y = to("Add", y, r_bias) if r_bias else y
    if gru:  # z, r, n; h' = n + z (h - n)
        sizes = to.integers(2 * hidden, hidden)
        (xg, xn), (yg, yn) = ([to.name(), to.name()] for _ in range(2))
        to("Split", inside["x"], sizes, out=[xg, xn], axis=-1)
        to("Split", y, sizes, out=[yg, yn], axis=-1)
        z, reset = to.name(), to.name()
        to("Split", to("Sigmoid", to("Add", xg, yg)), out=[z, reset], axis=-1, num_outputs=2)
        n = to("Tanh", to("Add", xn, to("Mul", reset, yn)))
        to("Add", n, to("Mul", z, to("Sub", inside["h"], n)), out=after[0])
    else:  # i, o, f, c; c' = f c + i g, h' = o tanh(c')
        gates, g = to.name(), to.name()
        to("Split", to("Add", inside["x"], y), to.integers(3 * hidden, hidden), out=[gates, g], axis=-1)
        i, o, f = (to.name() for _ in range(3))
        to("Split", to("Sigmoid", gates), out=[i, o, f], axis=-1, num_outputs=3)
        to("Add", to("Mul", f, inside["c"]), to("Mul", i, to("Tanh", g)), out=after[1])
        to("Mul", o, to("Tanh", after[1]), out=after[0])
    heard = to("Identity", after[0])
    body, to.nodes = to.nodes, outer

    def port(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])

    graph = helper.make_graph(
        body,
        "frame",
        [*(port(inside[s], hidden) for s in states), port(inside["x"], r.shape[1])],
        [port(name, hidden) for name in (*after, heard)],
    )
    first = to.integers(0)
    starts = [to("Squeeze", start, first) for start in starts[: len(states)]]
    ends, y = [to.name() for _ in states], to.name()
    to("Scan", *starts, x, out=[*ends, y], body=graph, num_scan_inputs=1)
    outputs = [*node.output, "", "", ""]
    if outputs[0]:
        to("Unsqueeze", y, to.integers(1), out=outputs[0])
    for end, output in zip(ends, outputs[1:], strict=False):
        if output:
            to("Unsqueeze", end, first, out=output)
    return True


REWRITES = {
    "MatMul": _matmul,
    "Gemm": _matmul,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GRU": _recurrent,
    "LSTM": _recurrent,
}


def int8(model: onnx.ModelProto) -> dict[str, Any]:
    """Rewrite `model` in place and return the changes; VariantError if nothing is large enough."""
    to = Rewriter(model)
    for node in list(model.graph.node):
        rewrite = REWRITES.get(node.op_type)
        if rewrite is not None and not node.domain and rewrite(to, node):
            to.done[node.op_type] += 1
        else:
            to.nodes.append(node)
    if not to.done:
        raise VariantError(
            f"no product in it has {SMALL} weights or more, so eight bits would only make it slower; "
            "float16 halves the file"
        )
    to.finish()
    return {"operators": dict(to.done), "weights": to.elements}


def float16(model: onnx.ModelProto) -> dict[str, Any]:
    """Store the weights of `model` in two bytes, in place, and return the changes."""
    to = Rewriter(model)
    for name in list(to.weights):
        value = to.value(name)
        if value is None or value.size < STORED or np.abs(value).max() > HALF:
            continue
        half = to.name()
        to.weights[half] = numpy_helper.from_array(value.astype(np.float16), half)
        del to.weights[name]
        to("Cast", half, to=TensorProto.FLOAT, out=name)
        to.elements += value.size
        to.done["Cast"] += 1
    if not to.done:
        raise VariantError(f"no tensor in it has {STORED} weights or more: float16 would save nothing")
    to.nodes.extend(model.graph.node)
    to.finish()
    return {"operators": {}, "weights": to.elements}


MAKERS = {"int8": int8, "float16": float16}
KINDS = tuple(MAKERS)


def export_variant(
    original: Artifact, path: str | Path, kind: str, corpus: Path | None = None, ungated: bool = False
) -> dict[str, Any]:
    """Write the variant `kind` of `original` to `path` and return its document's `variant`.

    The entry has the kind, the original's hash, the changes, and `variant_cost.cost` measured on `corpus`.
    Raises VariantError, with nothing written, where the variant does not pay (`variant_cost.faults`), unless
    `ungated`; DataError where the corpus is missing.
    """
    from audiomask.export import variant_cost

    if "variant" in original.meta:
        have = original.meta["variant"]["kind"]
        raise VariantError(f"{original.path}: is itself a variant ({have}); make one from the original")
    given = variant_cost.pairs(original.sample_rate, corpus or variant_cost.CORPUS)
    path = Path(path)
    model = onnx.load_from_string(original.data)
    try:
        changed = MAKERS[kind](model)
    except VariantError as error:
        raise VariantError(f"{path}: not written: {error}") from None
    onnx.checker.check_model(model, full_check=True)
    document = {key: value for key, value in original.meta.items() if key not in ("equality", "scores")}
    digest = hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()
    entry = {"kind": kind, "of": original.meta.get("hash"), "original_scores": original.meta.get("scores")}
    document |= {"hash": digest, "variant": entry}
    make_folder(path.parent)
    with replacing(path) as temporary:
        _write(model, document, temporary)
        measured = variant_cost.cost(original, Artifact.load(temporary), given)
        wrong = variant_cost.faults(kind, measured)
        if wrong and not ungated:
            raise VariantError(
                f"{path}: not written: {'; '.join(wrong)} ({variant_cost.words(measured)}). "
                "--ungated writes it all the same"
            )
        entry |= changed | variant_cost.rounded(measured)
        _write(model, document, temporary)
    return entry


def _write(model: onnx.ModelProto, document: dict[str, Any], path: Path) -> None:
    del model.metadata_props[:]
    helper.set_model_props(model, {KEY: json.dumps(document)})
    path.write_bytes(model.SerializeToString())
