"""The short way through the exporter is taken where it can be, and gives the same graph."""

import contextlib

import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from audiomask.export import decompositions, graph


class Plain(nn.Module):
    """Operators without a translation, views composed of views, a batch norm, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.BatchNorm1d(4), nn.ConvTranspose1d(4, 4, 2, 2)

    def forward(self, x):
        a, b = self.up(self.norm(x)).chunk(2, 1)
        y = torch.stack([a.square(), b], 2).flatten(1, 2)
        low, high = y.aminmax(dim=2)
        return (
            y.reshape_as(torch.cat([a, b], 1)).flatten(0, 1),
            low - high,
            y.movedim(1, 2).unflatten(1, (-1, 2)),
        )


class InPlace(nn.Module):
    def forward(self, x):
        y = x.clone()
        y[:, 1] = 0
        return y.add_(1.0)


class Mixed(nn.Module):
    """Where types mix, the exporter's last pass has to see to it."""

    def forward(self, x):
        return x * torch.arange(x.shape[2]) / 3


def exported(module: nn.Module, x: torch.Tensor) -> list[int | list]:
    """The number of nodes and the outputs at another size than the example's."""
    dims = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("time")},)
    program = torch.onnx.export(
        module, (torch.rand(2, 4, 6),), dynamic_shapes=dims, optimize=False, verbose=False
    )
    graph.simplify(program.model)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    return [len(program.model.graph), session.run(None, {session.get_inputs()[0].name: x.numpy()})]


@pytest.mark.parametrize(("module", "short"), [(Plain(), True), (InPlace(), False), (Mixed(), True)])
def test_the_graph_is_that_of_the_long_way(module, short, monkeypatch):
    calls, run = [], ExportedProgram.run_decompositions
    monkeypatch.setattr(
        ExportedProgram, "run_decompositions", lambda *args: calls.append(1) or run(*args), raising=True
    )
    module, x = module.eval(), torch.rand(3, 4, 9)
    nodes, outputs = [], []
    for way in (contextlib.nullcontext(), decompositions.short_translation()):
        with way:
            n, found = exported(module, x)
        nodes.append(n)
        outputs.append(found)
    assert len(calls) == (1 if short else 2)
    assert nodes[1] <= nodes[0]
    want = module(x)
    for a, b, torchs in zip(*outputs, want if isinstance(want, tuple) else [want], strict=True):
        torch.testing.assert_close(torch.tensor(a), torchs)
        torch.testing.assert_close(torch.tensor(b), torchs)
