"""One export of a network for all tests that need its file rather than its export: tracing takes seconds.

    with built_once.graphs():
        main(["export", ...])

A graph is kept under the code, the settings and the weights of its network, in the folder of the run, which
all its workers share.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import onnx
import onnx_ir as ir

from audiomask.audio import replacing
from audiomask.export import graph, onnx_file
from audiomask.streaming import StreamingModel

_build = graph.build


def _key(model: StreamingModel) -> str:
    digest = hashlib.sha256(repr((model, model.inputs, model.outputs)).encode())
    for module in model.modules():
        plain = {key: v for key, v in vars(module).items() if isinstance(v, str | int | float | tuple)}
        plain.pop("name", None)  # of the artifact: it is in the document and not in the graph
        digest.update(repr((type(module), plain)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def build(model: StreamingModel) -> ir.Model:
    """`audiomask.export.graph.build`, or a copy of what it gave for the same network."""
    path = Path(os.environ["GRAPHS_OF_TESTS"], f"{_key(model)}.onnx")
    if not path.exists():
        with replacing(path) as part:
            onnx.save(ir.to_proto(_build(model)), part)
    return ir.from_proto(onnx.load(path))


@contextlib.contextmanager
def graphs() -> Iterator[None]:
    """Exports inside share their graphs, and so does the contract."""
    with mock.patch.object(onnx_file, "build", build), mock.patch.object(graph, "build", build):
        yield
