"""Write an ONNX graph anew, node by node, for `audiomask.variants`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Rewriter:
    """A writer that holds a graph's `nodes` so far, and its `weights` by name.

    `done` counts the rewritten operators, `elements` their weights.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.done: Counter[str] = Counter()
        self.elements = 0
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

    def value(self, name: str) -> np.ndarray | None:
        """Return the constant of this name if it is float32, else None."""
        tensor = self.weights.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return None
        return numpy_helper.to_array(tensor)

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
