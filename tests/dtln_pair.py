"""A pair of ONNX graphs with random weights, made as those that DTLN's authors publish."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Nodes and weights as they come."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights = [], []

    def weight(self, *shape: int) -> str:
        value = self.random.standard_normal(shape) / np.sqrt(shape[-2] if len(shape) > 1 else 4)
        return self.constant(value.astype(np.float32))

    def constant(self, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value, f"weight{len(self.weights)}"))
        return self.weights[-1].name

    def __call__(self, operator: str, *inputs: str, outputs: int = 1, **attributes):
        names = [f"{operator}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def reshape(self, x: str, *shape: int) -> str:
        return self("Reshape", x, self.constant(np.array(shape)))

    def from_state(self, layer: int, kind: int) -> str:
        """`[1, units]`: h (0) or c (1) of a layer out of `state [1, 2, units, 2]`."""
        bounds = [[0, layer, 0, kind], [1, layer + 1, 2**30, kind + 1], [0, 1, 2, 3]]
        part = self("Slice", "state", *(self.constant(np.array(b)) for b in bounds))
        return self("Squeeze", part, self.constant(np.array([1, 3])))

    def lstm(self, x: str, layer: int, width: int, units: int, keras: bool) -> tuple[str, str, str]:
        """x `[1, width]` -> y, h, c `[1, units]`."""
        h, c = self.from_state(layer, 0), self.from_state(layer, 1)
        if not keras:
            h, c = (self.reshape(s, 1, 1, units) for s in (h, c))
            w, r = (self.weight(1, 4 * units, n) for n in (width, units))
            b = self.weight(1, 8 * units)
            x = self.reshape(x, 1, 1, width)
            y, h, c = self("LSTM", x, w, r, b, "", h, c, outputs=3, hidden_size=units)
            return tuple(self.reshape(s, 1, units) for s in (y, h, c))
        recurrent = self("MatMul", h, self.weight(units, 4 * units))
        gates = self("Add", self("MatMul", x, self.weight(width, 4 * units)), recurrent)
        gates = self("Add", gates, self.weight(4 * units))
        i, f, g, o = self("Split", gates, axis=1, outputs=4)
        i, f, o, g = self("Sigmoid", i), self("Sigmoid", f), self("Sigmoid", o), self("Tanh", g)
        c = self("Add", self("Mul", f, c), self("Mul", i, g))
        h = self("Mul", o, self("Tanh", c))
        return h, h, c

    def core(self, x: str, width: int, units: int, out: int, keras: bool) -> str:
        """Two LSTMs and a sigmoid: x `[1, width]` -> mask `[1, out]`; the next state is kept."""
        ends = []
        for layer, n in enumerate((width, units)):
            x, *end = self.lstm(x, layer, n, units, keras)
            ends.append(end)
        rows = [self("Concat", *(end[kind] for end in ends), axis=0) for kind in (0, 1)]
        rows = [self.reshape(row, 1, 2, units, 1) for row in rows]
        self.state = self("Concat", *rows, axis=3)
        return self("Sigmoid", self("Add", self("MatMul", x, self.weight(units, out)), self.weight(out)))

    def save(self, path: Path, y: str, width: int, out: int, units: int) -> Path:
        def port(name: str, *shape: int):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes,
            "dtln",
            [port("x", 1, 1, width), port("state", 1, 2, units, 2)],
            [port(y, 1, 1, out), port(self.state, 1, 2, units, 2)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def write_pair(folder: Path, size: int, units: int, filters: int, keras: bool) -> list[Path]:
    """`model_1.onnx` and `model_2.onnx`; `keras`: the second one's LSTMs as products, as in the public
    pair."""
    bins = size // 2 + 1
    one = Graph(0)
    mask = one.core(one.reshape("x", 1, bins), bins, units, bins, False)
    first = one.save(folder / "model_1.onnx", one.reshape(mask, 1, 1, bins), bins, bins, units)

    two = Graph(1)
    encode = two.weight(filters, size, 1)
    z = two("Conv", two("Transpose", "x", perm=[0, 2, 1]), encode)
    z = two.reshape(z, 1, filters)
    centred = two("Sub", z, two("ReduceMean", z, axes=[-1]))
    variance = two("ReduceMean", two("Mul", centred, centred), axes=[-1])
    scale = two("Sqrt", two("Add", variance, two.constant(np.array(1e-7, np.float32))))
    norm = two("Mul", two("Div", centred, scale), two.weight(filters))
    mask = two.core(two("Add", norm, two.weight(filters)), filters, units, filters, keras)
    y = two("Conv", two.reshape(two("Mul", z, mask), 1, filters, 1), two.weight(size, filters, 1))
    second = two.save(folder / "model_2.onnx", two("Transpose", y, perm=[0, 2, 1]), size, size, units)
    return [first, second]
