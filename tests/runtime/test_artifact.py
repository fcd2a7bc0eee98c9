"""audiomask.runtime.artifact: what is sound is loaded, everything else is refused with the reason."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.onnx_parser import MalformedError, parse


def test_load(toy16):
    a = Artifact.load(toy16)
    assert (a.name, a.task, a.sample_rate, a.hop, a.delay, a.latency) == (
        "toy_16k",
        "enhance",
        16000,
        256,
        256,
        512,
    )
    assert [p.name for p in a.streams] == ["audio"]
    assert (a.controls["strength"].default, a.controls["strength"].maximum) == (1.0, 1.0)
    assert a.state_bytes == 257 * 4 + 8
    assert a.session() is a.session()
    assert a.session(2) is not a.session()


def test_initial_state(tmp_path, toys):
    start = np.arange(257, dtype="<f4")
    states = toys.document()["states"]
    for initial in (start.tolist(), {"base64": base64.b64encode(start.tobytes()).decode()}):
        states[0]["initial"] = initial
        a = Artifact.load(toys.build(tmp_path / "a.onnx", states=states))
        assert np.array_equal(a.states[0].rows(3), np.stack([start] * 3))
    for wrong in (start[:-1].tolist(), {"base64": "AA=="}, {"base64": "?"}, {"hex": "00"}, "zeros"):
        states[0]["initial"] = wrong
        with pytest.raises(ArtifactError, match=r"a\.onnx: .*export it again"):
            Artifact.load(toys.build(tmp_path / "a.onnx", states=states))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metadata": ""}, "has no 'audiomask' metadata"),
        ({"metadata": "{"}, "its metadata is no JSON"),
        ({"metadata": "[]"}, "its metadata is a list"),
        (
            {"metadata": '{"format": 1}'},
            "lacks name, task, sample_rate, hop, delay, latency, inputs, outputs, states",
        ),
        ({"format": 3}, "has artifact format 3, and this audiomask reads up to 2"),
        ({"external": True}, r"keeps 1 tensors \(axis1, ...\) elsewhere"),
        ({"hop": 256, "latency": 500}, r"latency 500 is not delay 256 \+ hop 256"),
        ({"sample_rate": "16k"}, "sample_rate is '16k', not an integer"),
        ({"inputs": []}, "the first input is not a stream"),
        ({"inputs": [{"name": "audio"}]}, "lacks 'kind'"),
        ({"outputs": 3}, "inconsistent"),
    ],
)
def test_refused(tmp_path, toys, options, words):
    with pytest.raises(ArtifactError, match=words) as error:
        Artifact.load(toys.build(tmp_path / "a.onnx", **options))
    assert "a.onnx" in str(error.value)


def port(**changes):
    return {"name": "audio", "kind": "stream", "type": "pcm", "rate": "1", "channels": 1} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": "1/3"}, "rate 1/3 gives no whole frames in 256 samples"),
        ({"rate": "1/0"}, "inconsistent"),
        ({"rate": "-1"}, "must be positive"),
        ({"kind": "river"}, "'river' is neither stream nor control"),
    ],
)
def test_bad_ports_are_refused(tmp_path, toys, changes, words):
    with pytest.raises(ArtifactError, match=words):
        Artifact.load(toys.build(tmp_path / "a.onnx", inputs=[port(**changes)]))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([2**40], "is beyond 67108864 elements"),
        ([-1], "is beyond"),
        (["many"], "inconsistent"),
        (None, "inconsistent"),
    ],
)
def test_absurd_states_are_refused(tmp_path, toys, shape, words):
    states = [{"name": "state_f32", "dtype": "float32", "shape": shape}]
    with pytest.raises(ArtifactError, match=words):
        Artifact.load(toys.build(tmp_path / "a.onnx", states=states))


def test_foreign_operators_are_refused(tmp_path, toys):
    from onnx import helper

    nodes = [helper.make_node("Evil", ["audio"], ["unused"], domain="com.example")]
    with pytest.raises(ArtifactError, match=r"custom operators com\.example::Evil"):
        Artifact.load(toys.build(tmp_path / "a.onnx", extra_nodes=nodes, domain="com.example"))


def test_foreign_operators_are_found_inside_subgraphs():
    from onnx import TensorProto, helper

    inner = helper.make_graph(
        [helper.make_node("Evil", [], ["y"], domain="com.example")],
        "inner",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    assert parse(model.SerializeToString()).operators == {("", "If"), ("com.example", "Evil")}
    for _ in range(20):
        inner = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=inner)], "deep", [], [])
    with pytest.raises(MalformedError, match="nested more than"):
        parse(helper.make_model(inner).SerializeToString())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outputs": [port(name="cleaned")]}, "names the outputs cleaned .* its graph has enhanced"),
        ({"inputs": [port()]}, "names the inputs audio state_f32 state_i64, its graph has audio strength"),
        (
            {"inputs": [port(channels=2), port(name="strength", kind="constant")]},
            "input audio is .* in its metadata",
        ),
    ],
)
def test_ports_that_do_not_match_the_graph(tmp_path, toys, changes, words):
    a = Artifact.load(toys.build(tmp_path / "a.onnx", **changes))
    with pytest.raises(ArtifactError, match=words):
        a.session()


def test_states_that_do_not_match_the_graph(tmp_path, toys):
    states = toys.document()["states"]
    states[0]["shape"] = [100]
    a = Artifact.load(toys.build(tmp_path / "a.onnx", states=states))
    with pytest.raises(ArtifactError, match=r"input state_f32 is tensor\(float\) .*257"):
        a.session()


def test_a_broken_graph(tmp_path, toys):
    from onnx import helper

    a = Artifact.load(
        toys.build(tmp_path / "a.onnx", extra_nodes=[helper.make_node("NoSuchThing", ["x"], ["q"])])
    )
    with pytest.raises(ArtifactError, match="ONNX Runtime refuses it"):
        a.session()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), ArtifactError, "out of memory"),
        (RuntimeError("Failed to allocate memory for requested buffer"), ArtifactError, "out of memory"),
        (TypeError("ours"), TypeError, "ours"),
    ],
)
def test_only_a_refusal_advises_another_export(toy16, monkeypatch, error, kind, words):
    import onnxruntime

    from audiomask.runtime.session import Session

    def fails(*args, **options):
        raise error

    class Failing:
        get_inputs, run, io_binding = Artifact.load(toy16).session().get_inputs, fails, fails

    session = Session(Artifact.load(toy16))
    monkeypatch.setattr(session.engine, "graph", Failing())
    with pytest.raises(kind, match=words) as running:
        session.feed(np.zeros(4000, np.float32))
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(kind, match=words) as loading:
        Artifact.load(toy16).session()
    for found in (running, loading):
        assert "export it again" not in str(found.value)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_end_in_an_error_or_a_model(toy16, tmp_path_factory, data):
    original = bytearray(toy16.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(original)))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(original[: cut if data.draw(st.booleans()) else None])
    try:
        Artifact.load(path)
    except ArtifactError as error:
        text = str(error)
    else:
        return
    assert "damaged.onnx" in text


def test_metadata_survive_json(toy16):
    assert json.loads(json.dumps(Artifact.load(toy16).meta))["hop"] == 256
