"""Artifacts: what is in them, that they compute the same, and what is refused."""

import base64
import json

import built_once
import numpy as np
import onnx
import pytest
import torch
from small_networks import CONFIG, Lying, Simple, Small, small
from torch import nn

from audiomask import weights
from audiomask.cli import main
from audiomask.export import document, graph, onnx_file, proof
from audiomask.export.packing import ExportError
from audiomask.nn.conv import Conv1d
from audiomask.runtime.artifact import Artifact
from audiomask.streaming import Delay, Port


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    with built_once.graphs():
        document = onnx_file.export(model, path, CONFIG, licence="Apache-2.0", scores={"pesq": 1.5})
    return path, document


def test_graph_equals_torch(model, written):
    path, document = written
    assert document["equality"] <= 1e-5
    differences = proof.compare(model, path, seed=7)
    assert set(differences) == {"enhanced", "level", "state_f32", "state_i64"}
    assert max(differences.values()) <= 1e-5


def test_document_says_what_the_graph_is(model, written):
    path, document = written
    proto = onnx.load(path)
    (entry,) = proto.metadata_props
    assert entry.key == "audiomask"
    assert json.loads(entry.value) == json.loads(json.dumps(document))
    assert [v.name for v in proto.graph.input] == ["audio", "strength", "state_f32", "state_i64"]
    assert [v.name for v in proto.graph.output] == ["enhanced", "level", "next_state_f32", "next_state_i64"]
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input]
    f32, i64 = document["states"]
    assert shapes == [["batch", 1, "32*hops"], ["batch"], ["batch", *f32["shape"]], ["batch", *i64["shape"]]]
    assert document["latency"] == document["hop"] + document["delay"] == 96
    assert document["inputs"][1] == {
        "name": "strength", "kind": "control", "type": "float", "channels": 1, "default": 1.0,
        "minimum": 0.0, "maximum": 1.0, "unit": "", "doc": "how much",
    }  # fmt: skip
    assert document["outputs"][1]["rate"] == "1/32"
    assert document["licence"] == "Apache-2.0"
    assert i64["initial"] is None
    assert i64["layout"] == [["net.4.seen", []], ["net.5.seen", []]]
    initial = np.frombuffer(base64.b64decode(f32["initial"]["base64"]), "<f4")
    assert initial.sum() == 0.25  # the level starts at a quarter
    assert sum(int(np.prod(shape)) for _, shape in f32["layout"]) == f32["shape"][0]


def test_runtime_takes_it(written):
    artifact = Artifact.load(written[0])
    assert artifact.hop == 32


def test_graph_is_small_and_clean(written):
    path, _ = written
    proto = onnx.load(path)
    kinds = [node.op_type for node in proto.graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Shape") <= 1  # the one of the counter: reshapes have constant targets
    assert len(kinds) <= 102  # what it took when this was written: more is a loss of speed
    assert {opset.domain for opset in proto.opset_import} == {""}
    text = path.read_bytes()
    for trace in (b"/site-packages/", b".py", b"stack_trace"):
        assert trace not in text
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)


def test_floors_survive(model, written):
    """Silence: without the floor under the logarithm everything after it would be infinite."""
    silence = {"audio": torch.zeros(1, 1, 96), "strength": torch.ones(1)}
    found = proof.run_pieces(proof.Graph(written[0], model), model, silence, [1, 2])
    assert all(value.isfinite().all() for value in found.values())


def test_hash_is_of_config_and_weights(model):
    first = weights.fingerprint(model, CONFIG)
    assert first == weights.fingerprint(model, dict(CONFIG))
    assert first != weights.fingerprint(model, {**CONFIG, "init_args": {}})
    other = Small()
    other.load_state_dict(model.state_dict())
    assert weights.fingerprint(other, CONFIG) == first
    with torch.no_grad():
        other.net[1].bias[0] += 1e-3
    assert weights.fingerprint(other, CONFIG) != first


def test_several_channels_to_one(tmp_path):
    """The file says which is the reference, and the runtime plays what torch computes."""
    torch.manual_seed(0)
    inputs = (Port("audio", channels=2, reference=1),)
    model, path = Simple(Conv1d(2, 1, 5), inputs=inputs).eval(), tmp_path / "pair.onnx"
    document = onnx_file.export(model, path, {})
    assert (document["inputs"][0]["channels"], document["inputs"][0]["reference"]) == (2, 1)
    assert Artifact.load(path).inputs[0].reference == 1
    assert proof.check_file(model, path, 0.2) < 1e-5
    with torch.no_grad():
        model.block.weight[0, 1] += 0.1
    with pytest.raises(ExportError, match="the runtime differs"):
        proof.check_file(model, path, 0.2)


def test_a_model_that_differs_is_not_written(tmp_path):
    path = tmp_path / "lying.onnx"
    with pytest.raises(ExportError, match=r"lying.onnx: not written.*in output by 1.0e-04 of the peak"):
        onnx_file.export(Simple(Lying()), path, {})
    assert list(tmp_path.iterdir()) == []


def test_ports_must_differ():
    with pytest.raises(ExportError, match="port names must differ"):
        graph.build(Simple(nn.Identity(), outputs=(Port("audio"),)))


def test_states_of_other_types_are_refused():
    class Odd(Delay):
        def initial_state(self, batch, device=None, dtype=torch.float32):
            return torch.zeros(batch, 1, dtype=torch.float64)

    with pytest.raises(ExportError, match="neither float32 nor int64"):
        document.describe(Simple(Odd(1, 1)), {})


def test_the_verb(model, tmp_path, capsys, monkeypatch):
    weights.save(tmp_path / "run" / "model", model, CONFIG)
    card = tmp_path / "card.json"
    card.write_text('{"description": "a toy"}')
    out = tmp_path / "small.onnx"
    command = ["export", str(tmp_path / "run"), "-o", str(out), "--card", str(card)]
    with built_once.graphs():
        assert main([*command, "--check"]) == 0
    said = capsys.readouterr().out
    assert "small, 16000 Hz, latency 96 samples" in said
    assert "the runtime equals torch" in said
    assert Artifact.load(out).meta["description"] == "a toy"
    assert main(command) == 2
    assert "exists; -f overwrites it" in capsys.readouterr().err
    assert main([*command, "-f", "--arg", "units=7"]) == 1
    assert "do not fit the config" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "small.bin")]) == 2
    assert main(["export", str(tmp_path), "-o", str(tmp_path / "other.onnx")]) == 1
    assert "no config.json" in capsys.readouterr().err
