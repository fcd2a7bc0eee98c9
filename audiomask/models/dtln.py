"""Denoise by two LSTM networks, each of which makes a mask: DTLN.

Westhausen and Meyer, "Dual-Signal Transformation LSTM Network for Real-Time Noise Suppression" (Interspeech
2020, arXiv 2005.07551). It applies two masks in a row, the second on a transform that is learned:

    frames of 512 at hop 128, no window
      -> |X| -> LSTM 128, LSTM 128 -> sigmoid -> mask on X -> inverse transform
      -> 256 learned filters -> norm per frame -> LSTM 128, LSTM 128 -> sigmoid -> mask on them
      -> learned filters of 512 -> overlap-add

The published size, 986,753 parameters in the authors' framework, is 988,801 here: these LSTMs have two bias
vectors, of which an imported model leaves one at zero. Differences:

- The authors' block loop also writes the samples before the file's start; here they are trimmed.
- The magnitude has a floor of 1e-10, which keeps its gradient finite at digital silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, magnitude
from audiomask.masks import gains
from audiomask.nn.conv import ConvTranspose1d
from audiomask.nn.norm import FrameNorm
from audiomask.nn.recurrent import LSTM
from audiomask.streaming import Port, Steps, StreamingModel

AUTHORS_CLASS, AUTHORS_LICENCE = "DTLN", "MIT"


class DTLN(StreamingModel):
    """A denoiser that maps speech `[B, 1, T]` at 16 kHz to the same.

    `size` and `hop` are samples; each of the two cores has `layers` LSTMs of `units`, with `dropout` between
    them in training, and the learned transform has `filters`.
    """

    task = "enhance"
    outputs = (Port("enhanced"),)

    def __init__(
        self,
        size: int = 512,
        hop: int = 128,
        units: int = 128,
        layers: int = 2,
        filters: int = 256,
        dropout: float = 0.25,
        sample_rate: int = 16000,
        name: str = "dtln",
    ):
        super().__init__()
        self.name, self.sample_rate = name, sample_rate
        self.analysis = Analysis(size, hop, "rect")
        bins = size // 2 + 1
        self.lstm1, self.mask1 = LSTM(bins, units, layers, dropout=dropout), nn.Conv1d(units, bins, 1)
        self.encode = nn.Conv1d(size, filters, 1, bias=False)
        self.norm = FrameNorm(filters, eps=1e-7)
        self.lstm2, self.mask2 = LSTM(filters, units, layers, dropout=dropout), nn.Conv1d(units, filters, 1)
        self.decode = ConvTranspose1d(filters, 1, size, hop, bias=False, trim=size - hop)
        self.compose(self.analysis, self.decode)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        spectrum = step("analysis", x)  # [B, 2, T, bins]
        mask = self.mask1(step("lstm1", magnitude(spectrum, 1e-20)[:, 0].mT)).sigmoid()
        frames = self.analysis.dft.inverse(gains.multiply(mask.mT[:, None], spectrum))  # [B, T, size]
        z = self.encode(frames.mT)
        mask = self.mask2(step("lstm2", step("norm", z))).sigmoid()
        return step("decode", z * mask), step.states


# --- the authors' ONNX pair ---------------------------------------------------------------------------------


def _arrays(graph: onnx.GraphProto) -> dict[str, Tensor]:
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {name: torch.tensor(array) for name, array in arrays.items() if array.dtype == "float32"}


def _constants(graph: onnx.GraphProto, operator: str) -> list[Tensor]:
    """Return the weights that the nodes of an operator take, in order."""
    arrays, nodes = _arrays(graph), [node for node in graph.node if node.op_type == operator]
    return [arrays[name] for node in nodes for name in node.input if name in arrays]


def _lstms(graph: onnx.GraphProto, units: int) -> list[dict[str, Tensor]]:
    """Return the LSTMs of a graph as they run, in torch's layout without their suffix `_l0`.

    A converter leaves each either as an ONNX operator (gates i o f c; input and recurrent bias) or, where it
    runs over one frame, as Keras' products (gates i f c o, which is torch's order; one bias). The recurrent
    product is the one whose input comes straight out of the state by a slice.
    """
    arrays, maker = _arrays(graph), {name: node for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        if node.op_type == "LSTM":
            w, r, b = (arrays[name][0].unflatten(0, (-1, units)) for name in node.input[1:4])
            order = torch.tensor([0, 2, 3, 1])
            parts = {"weight_ih": w, "weight_hh": r, "bias_ih": b[:4], "bias_hh": b[4:]}
            found.append({name: part[order].flatten(0, 1) for name, part in parts.items()})
    if found:
        return found

    def from_state(name: str) -> bool:
        node = maker.get(name)
        while node is not None and node.op_type in ("Squeeze", "Reshape"):
            node = maker.get(node.input[0])
        return node is not None and node.op_type == "Slice"

    products: dict[bool, list[Tensor]] = {False: [], True: []}  # of inputs, and recurrent
    for node in graph.node:
        weight = arrays.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and 4 * units in weight.shape:
            products[from_state(node.input[0])].append(weight)
    biases = [bias for bias in _constants(graph, "Add") if bias.shape == (4 * units,)]
    for w, r, bias in zip(products[False], products[True], biases, strict=True):
        parts = {"weight_ih": w.mT, "weight_hh": r.mT, "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
        found.append(parts)
    return found


def from_authors(graphs: Sequence[onnx.GraphProto]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and tensors of `DTLN` from its two graphs, in any order; else ValueError."""
    if len(graphs) != 2 or not all(isinstance(graph, onnx.GraphProto) for graph in graphs):
        raise ValueError("DTLN comes as two ONNX graphs, model_1.onnx and model_2.onnx")
    first, second = sorted(graphs, key=lambda graph: any(node.op_type == "Conv" for node in graph.node))
    units = first.input[1].type.tensor_type.shape.dim[2].dim_value
    tensors: dict[str, Tensor] = {}
    for graph, core in ((first, 1), (second, 2)):
        layers = _lstms(graph, units)
        for i, layer in enumerate(layers):
            tensors |= {f"lstm{core}.{name}_l{i}": value for name, value in layer.items()}
        (dense,) = [weight for weight in _constants(graph, "MatMul") if weight.shape[-1] != 4 * units]
        tensors[f"mask{core}.weight"] = dense.mT[:, :, None]
        vectors = [value for value in _constants(graph, "Add") if value.shape == (dense.shape[1],)]
        tensors[f"mask{core}.bias"] = vectors[-1]  # behind the offset of the norm
        if core == 2:
            tensors["norm.bias"] = vectors[0]
            (tensors["norm.weight"],) = _constants(graph, "Mul")
            encode, decode = _constants(graph, "Conv")
            tensors |= {"encode.weight": encode, "decode.weight": decode.permute(1, 2, 0)}
    size = tensors["encode.weight"].shape[1]
    arguments = {"size": size, "hop": size // 4, "units": units, "layers": len(layers)}
    return arguments | {"filters": tensors["encode.weight"].shape[0]}, tensors
