"""Variants of an artifact (int8, float16) and programs (.pt2): what they compute, cost, what is refused."""

import io
import json
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import built_once
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_networks import CONFIG, Lying, Simple, Small, small
from torch import nn

from audiomask import weights
from audiomask.cli import export as verb
from audiomask.cli import main, parser
from audiomask.export import onnx_file, torch_program, variant_cost, variants
from audiomask.export.packing import ExportError
from audiomask.export.torch_program import ProgramError
from audiomask.export.variants import VariantError, graphs
from audiomask.nn.conv import Conv1d, ConvTranspose1d
from audiomask.nn.recurrent import GRU, LSTM
from audiomask.runtime.artifact import Artifact, open_graph
from audiomask.runtime.catalogue import resolve
from audiomask.streaming import Delay, Sequential

FIGURES = {
    "error": {"peak": 1e-3, "snr_db": 60.0, "calls": 1e-6},
    "pesq": {"original": 2.0, "variant": 1.99, "drop": 0.01, "pairs": 12},
    "speed": {"ratio": 1.5, "original_us": 150.0, "variant_us": 100.0},
    "bytes": {"original": 2000, "variant": 1000},
}


# --- int8: each operator ------------------------------------------------------------------------------------


def run(model, feeds):
    return open_graph(model.SerializeToString()).run(None, feeds)


def one_node(operator, shape, constants, outputs=("y",), **attributes):
    """A graph of one node over x of this shape. `constants`: arrays, None for no input, a shape for one
    more input."""
    names, tensors, inputs = ["x"], [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    for i, value in enumerate(constants):
        names.append("" if value is None else f"c{i}")
        if isinstance(value, tuple):
            inputs.append(helper.make_tensor_value_info(f"c{i}", TensorProto.FLOAT, value))
        elif value is not None:
            tensors.append(numpy_helper.from_array(np.asarray(value, np.float32), f"c{i}"))
    node = helper.make_node(operator, names, outputs, **attributes)
    ranks = {"y": len(shape) + (operator in ("GRU", "LSTM"))}
    dims = {name: [f"{name}{i}" for i in range(ranks.get(name, 3))] for name in outputs}
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims[name]) for name in outputs]
    graph = helper.make_graph([node], "one", inputs, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def rand(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


RECURRENT = {"hidden_size": 40}
CASES = {
    "MatMul": (("MatMul", ["B", 5, 60], [rand(60, 80)]), {}, [(3, 5, 60)]),
    "Gemm": (("Gemm", ["B", 60], [rand(80, 60), rand(80)]), {"transB": 1}, [(3, 60)]),
    "Gemm without bias": (("Gemm", ["B", 60], [rand(60, 80)]), {}, [(3, 60)]),
    "Conv": (("Conv", ["B", 20, "T"], [rand(30, 20, 8), rand(30)]), {"strides": [4]}, [(2, 20, 24)]),
    "Conv dilated": (("Conv", ["B", 20, "T"], [rand(30, 20, 3)]), {"dilations": [2]}, [(2, 20, 9)]),
    "Conv 1x1": (("Conv", ["B", 60, "T"], [rand(80, 60, 1)]), {}, [(2, 60, 3)]),
    "ConvTranspose": (
        ("ConvTranspose", ["B", 30, "T"], [rand(30, 20, 8), rand(20)]), {"strides": [4]}, [(2, 30, 6)]
    ),
    "ConvTranspose uneven": (
        ("ConvTranspose", ["B", 30, "T"], [rand(30, 20, 7), rand(20)]), {"strides": [3]}, [(2, 30, 6)]
    ),
    "ConvTranspose apart": (
        ("ConvTranspose", ["B", 30, "T"], [rand(30, 20, 4)]), {"strides": [4]}, [(2, 30, 1)]
    ),
    "GRU": (
        ("GRU", ["T", "B", 30],
         [rand(1, 120, 30, scale=0.2), rand(1, 120, 40, scale=0.2), rand(1, 240), None, (1, "B", 40)],
         ("y", "h")),
        RECURRENT | {"linear_before_reset": 1}, [(7, 3, 30), (1, 3, 40)],
    ),
    "LSTM": (
        ("LSTM", ["T", "B", 30],
         [rand(1, 160, 30, scale=0.2), rand(1, 160, 40, scale=0.2), rand(1, 320), None, (1, "B", 40),
          (1, "B", 40)],
         ("y", "h", "c")),
        RECURRENT, [(7, 3, 30), (1, 3, 40), (1, 3, 40)],
    ),
    "LSTM without bias, last state unheard": (
        ("LSTM", ["T", "B", 30],
         [rand(1, 160, 30, scale=0.2), rand(1, 160, 40, scale=0.2), None, None, (1, "B", 40), (1, "B", 40)],
         ("y",)),
        RECURRENT, [(7, 3, 30), (1, 3, 40), (1, 3, 40)],
    ),
}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """Products of any size count as large."""
    monkeypatch.setattr(variants, "SMALL", 1)


@pytest.mark.parametrize("case", CASES)
def test_each_operator_in_eight_bits(case, tiny):
    arguments, attributes, shapes = CASES[case]
    model = one_node(*arguments, **attributes)
    names = [value.name for value in model.graph.input]
    feeds = {name: rand(*shape, seed=3, scale=0.3) for name, shape in zip(names, shapes, strict=True)}
    expected = run(model, feeds)
    done = variants.int8(model)
    onnx.checker.check_model(model, full_check=True)
    assert done["operators"] == {arguments[0]: 1}
    operators = {node.op_type for graph in graphs(model.graph.node) for node in graph}
    assert "MatMulInteger" in operators
    assert arguments[0] not in operators
    for ours, theirs in zip(run(model, feeds), expected, strict=True):
        assert ours.shape == theirs.shape
        error = np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2))
        assert 1e-5 < error < 0.02  # seven bits of weight give .6 %


@pytest.mark.parametrize(
    ("arguments", "attributes"),
    [
        (("Conv", ["B", 60, "T"], [rand(80, 60, 3)]), {"pads": [1, 1]}),
        (("Conv", ["B", 60, "T"], [rand(80, 30, 3)]), {"group": 2}),
        (("ConvTranspose", ["B", 60, "T"], [rand(60, 80, 4)]), {"pads": [1, 1]}),
        (("Gemm", ["B", 60], [rand(60, 80)]), {"alpha": 2.0}),
        (("MatMul", ["B", 5, 60], [rand(5, 60, 80)]), {}),
        (("GRU", ["T", "B", 30], [rand(1, 120, 30), rand(1, 120, 40), None, None, (1, "B", 40)]),
         RECURRENT | {"linear_before_reset": 0}),
        (("GRU", ["T", "B", 30], [rand(2, 120, 30), rand(2, 120, 40), None, None, (2, "B", 40)]),
         RECURRENT | {"linear_before_reset": 1, "direction": "bidirectional"}),
    ],
)  # fmt: skip
def test_what_has_no_rule_stays(arguments, attributes, tiny):
    with pytest.raises(VariantError, match="no product"):
        variants.int8(one_node(*arguments, **attributes))


def test_small_products_stay():
    assert variants.SMALL > 60 * 80
    with pytest.raises(VariantError, match="no product in it has 65536 weights"):
        variants.int8(one_node("MatMul", ["B", 5, 60], [rand(60, 80)]))


def test_rows_do_not_hear_each_other(tiny):
    """A loud row beside a quiet one: a scale per tensor would leave nothing of the quiet one."""
    model = one_node("MatMul", ["B", 60], [rand(60, 80)])
    variants.int8(model)
    quiet, loud = 1e-4 * rand(1, 60), 1e3 * rand(1, 60, seed=1)
    (alone,) = run(model, {"x": quiet})
    (beside,) = run(model, {"x": np.concatenate([quiet, loud])})
    np.testing.assert_array_equal(beside[0], alone[0])


def test_a_huge_row_of_weights_takes_nothing_from_the_others(tiny):
    """The input by which a gate is shut has weights of 1e4."""
    w = rand(60, 80)
    w[7] = 1e4
    model = one_node("MatMul", ["B", 60], [w])
    x = rand(4, 60)
    x[:, 7] = 0
    (expected,) = run(model, {"x": x})
    variants.int8(model)
    (found,) = run(model, {"x": x})
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    x[:, 7] = 1
    np.testing.assert_allclose(run(model, {"x": x})[0], x @ w, atol=1)


def test_silence_is_silence(tiny):
    model = one_node("MatMul", ["B", 60], [rand(60, 80)])
    variants.int8(model)
    assert not run(model, {"x": np.zeros((2, 60), np.float32)})[0].any()


# --- float16 ------------------------------------------------------------------------------------------------


def test_float16_stores_halves_and_computes_in_full(tiny):
    w = rand(60, 80)
    model = one_node("MatMul", ["B", 60], [w])
    x, size = rand(3, 60), len(model.SerializeToString())
    assert variants.float16(model) == {"operators": {}, "weights": 4800}
    onnx.checker.check_model(model, full_check=True)
    assert len(model.SerializeToString()) < 0.55 * size
    half = w.astype(np.float16).astype(np.float32)
    assert (half != w).any()
    np.testing.assert_allclose(run(model, {"x": x})[0], x @ half, rtol=1e-5, atol=1e-5)


def test_float16_leaves_what_it_cannot_hold():
    w = rand(60, 80)
    w[0, 0] = 1e5
    for matrix in (w, rand(6, 8)):
        with pytest.raises(VariantError, match="would save nothing"):
            variants.float16(one_node("MatMul", ["B", len(matrix)], [matrix]))


# --- a whole model ------------------------------------------------------------------------------------------


class Mixed(Simple):
    """All kinds of streaming layers that eight bits know."""

    name, task, hop = "mixed", "enhance", 4

    def __init__(self):
        layers = Conv1d(1, 24, 8, 4), Conv1d(24, 24, 3), nn.ReLU(), Delay(1, 24), GRU(24, 24), LSTM(24, 24)
        super().__init__(Sequential(*layers, ConvTranspose1d(24, 1, 8, 4)))
        self.delay = self.block.delay


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("variants") / "mixed.onnx"
    onnx_file.export(Mixed().eval(), path, {}, scores={"pesq": 2.0}, licence="Apache-2.0")
    return Artifact.load(path)


@pytest.fixture
def measured(monkeypatch):
    """The figures that the measurement is made to give."""
    figures = json.loads(json.dumps(FIGURES))
    monkeypatch.setattr(variant_cost, "pairs", lambda *a, **k: [])
    monkeypatch.setattr(variant_cost, "cost", lambda *a: figures)
    return figures


def test_all_outputs_of_a_separator_are_compared():
    (separator,) = resolve(task="separate")
    noisy = rand(6000, scale=0.1)
    made = variant_cost.play(separator, noisy, 2)
    assert made.shape == (3, 6000)
    np.testing.assert_allclose(made.sum(0), noisy, atol=1e-5)  # its stems sum to what came in


def test_a_variant_is_an_artifact_that_plays(original, tmp_path, tiny, measured):
    path = tmp_path / "int8.onnx"
    entry = variants.export_variant(original, path, "int8")
    found = Artifact.load(path)
    assert entry["operators"] == {"Conv": 2, "GRU": 1, "LSTM": 1, "ConvTranspose": 1}
    assert found.meta["variant"] == json.loads(json.dumps(entry))
    assert entry["of"] == original.meta["hash"] != found.meta["hash"]
    assert entry["original_scores"] == {"pesq": 2.0}
    assert entry["speed"]["ratio"] == 1.5
    assert not {"scores", "equality"} & set(found.meta)
    assert (found.inputs, found.hop, found.delay) == (original.inputs, original.hop, original.delay)
    noisy = rand(4000, scale=0.1)
    theirs, ours = variant_cost.play(original, noisy), variant_cost.play(found, noisy)
    error = np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2))
    assert 1e-5 < error < 0.03
    assert np.abs(variant_cost.play(found, noisy, 1) - ours).max() < 0.02 * np.abs(ours).max()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(VariantError, match="itself a variant"):
        variants.export_variant(found, tmp_path / "again.onnx", "float16")


@pytest.mark.parametrize(
    ("kind", "key", "value", "why"),
    [
        ("int8", "pesq", {**FIGURES["pesq"], "drop": 0.03}, r"PESQ drops by 0\.030, the limit is 0\.03"),
        ("int8", "pesq", None, "PESQ can judge none"),
        ("int8", "speed", {**FIGURES["speed"], "ratio": 1.04}, r"1\.04 x the speed"),
        ("float16", "pesq", {**FIGURES["pesq"], "drop": 0.5}, "PESQ drops"),
        ("float16", "bytes", {"original": 1000, "variant": 990}, "990 bytes instead of 1000"),
    ],
)
def test_what_does_not_pay_is_refused(original, tmp_path, tiny, measured, kind, key, value, why):
    path = tmp_path / "new" / "variant.onnx"
    measured[key] = value
    with pytest.raises(VariantError, match=f"variant.onnx: not written: .*{why}"):
        variants.export_variant(original, path, kind)
    assert list(path.parent.iterdir()) == []
    entry = variants.export_variant(original, path, kind, ungated=True)
    assert entry[key] == Artifact.load(path).meta["variant"][key] == value


def test_float16_need_not_be_faster(original, tmp_path, measured):
    measured["speed"]["ratio"] = 0.9
    assert variants.export_variant(original, tmp_path / "a.onnx", "float16")["kind"] == "float16"


def test_the_cost_is_measured(original, tmp_path, monkeypatch):
    """Against a variant with a known error: the output times 1.01 is 40 dB, and costs PESQ nothing."""
    model = onnx.load_from_string(original.data)
    (output,) = (value.name for value in model.graph.output if not value.name.startswith("next_"))
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.01), "gain"))
    model.graph.node.append(helper.make_node("Mul", ["before", "gain"], [output]))
    path = tmp_path / "louder.onnx"
    onnx.save(model, path)
    monkeypatch.setattr(variant_cost, "ROUNDS", 2)
    given = variant_cost.pairs(16000, count=2, seconds=1.5)
    assert [len(pair.noisy) for pair in given] == [24000, 24000]
    louder = Artifact.load(path)
    found = variant_cost.cost(original, louder, given)
    assert found["error"]["snr_db"] == pytest.approx(40, abs=0.01)
    assert found["error"]["peak"] == pytest.approx(0.01, rel=1e-3)
    assert found["error"]["calls"] < 1e-5
    assert found["bytes"] == {"original": len(original.data), "variant": len(louder.data)}
    assert found["pesq"]["pairs"] == 2
    assert abs(found["pesq"]["drop"]) < 0.05
    assert min(found["speed"].values()) > 0
    assert "SNR 40.0 dB, greatest error 1.0e-02" in variant_cost.words(found)


def test_speed_is_taken_in_turns(original, monkeypatch):
    """By a clock that goes on by 300 us for a hop of the one, and 100 us for one of the other."""
    now = [0.0]

    def run(steps):
        now[0] += 3e-4 if steps[0].engine.artifact is original else 1e-4

    monkeypatch.setattr(variant_cost, "run", run)
    monkeypatch.setattr(variant_cost, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = variant_cost.speed(original, Artifact.load(original.path), rand(4000))
    want = {"ratio": 3.0, "original_us": 300.0, "variant_us": 100.0}
    assert found == pytest.approx(want)


def test_silent_outputs_have_no_pesq(original, monkeypatch):
    monkeypatch.setattr(variant_cost, "play", lambda a, x, hops=64: np.zeros_like(x[None]))
    monkeypatch.setattr(variant_cost, "ROUNDS", 1)
    found = variant_cost.cost(original, original, variant_cost.pairs(16000, count=1, seconds=1))
    assert found["pesq"] is None
    assert variant_cost.faults("float16", found)[0].startswith("PESQ can judge none")
    assert json.loads(json.dumps(variant_cost.rounded(found)))["error"]["snr_db"] is None


def test_a_model_that_is_told_of_losses_is_measured_with_some(repeat16, monkeypatch):
    concealer, steps = Artifact.load(repeat16), []
    monkeypatch.setattr(variant_cost, "run", steps.extend)
    variant_cost.speed(concealer, concealer, rand(16000))
    lost = np.concatenate([step.inputs["lost"][0, 0] for step in steps[:75]])
    assert 0.02 < lost.mean() < 0.3
    assert variant_cost.losses(concealer, 64000).mean() == pytest.approx(0.1, abs=0.05)
    x = 0.1 * rand(16000)
    assert (variant_cost.play(concealer, x) != x).mean() > 0.02
    same = variant_cost.cost(concealer, concealer, variant_cost.pairs(16000, count=1, seconds=1))
    assert variant_cost.words(variant_cost.rounded(same)).startswith("no error, greatest error 0.0e+00")


# --- .pt2 ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "small.pt2"
    return path, torch_program.export(model, path, CONFIG, hops=3, licence="Apache-2.0")


def test_a_program_equals_the_model(model, written):
    path, document = written
    assert document["equality"] <= 1e-5
    loaded = torch_program.load(path)
    assert loaded.hops == 3
    assert loaded.meta["licence"] == "Apache-2.0"
    assert torch_program.compare(model, loaded, seed=5) <= 1e-5
    other = Small().eval()
    assert torch_program.compare(other, loaded) > 1e-2
    start = loaded.initial_state  # what the document says is proved too
    loaded.initial_state = lambda batch: {name: x + 1 for name, x in start(batch).items()}
    assert torch_program.compare(model, loaded) > 1e-2
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_program_equals_the_model_on_a_gpu(model, written):
    loaded = torch_program.load(written[0], "cuda")
    assert loaded.initial_state(1)["state_f32"].device.type == "cuda"
    assert torch_program.compare(model, loaded) <= 1e-5


def test_constants_have_their_default(model, written):
    loaded = torch_program.load(written[0])
    x, state = torch.randn(2, 1, 96), loaded.initial_state(2)
    default, _ = loaded.step({"audio": x}, state)
    given, _ = loaded.step({"audio": x, "strength": torch.ones(2)}, state)
    without, _ = loaded.step({"audio": x, "strength": torch.zeros(2)}, state)
    assert torch.equal(default["enhanced"], given["enhanced"])
    assert not torch.equal(default["enhanced"], without["enhanced"])


def test_calls_that_do_not_fit(written):
    loaded = torch_program.load(written[0])
    state = loaded.initial_state(1)
    for inputs, words in (
        ({"audio": torch.zeros(1, 1, 32)}, r"audio is \[1, 1, 32\], a step takes \[1, 1, 96\]"),
        ({}, "audio is missing"),
        ({"audio": torch.zeros(1, 1, 96), "speed": torch.zeros(1)}, "has no input speed"),
        ({"audio": torch.zeros(2, 1, 96)}, "not the state of 2 streams"),
    ):
        with pytest.raises(ProgramError, match=words):
            loaded.step(inputs, state)


def test_a_program_that_differs_is_not_written(tmp_path):
    with pytest.raises(ExportError, match=r"lying.pt2: not written: .* by 1.0e-04 of the peak"):
        torch_program.export(Simple(Lying()), tmp_path / "lying.pt2", {})
    assert list(tmp_path.iterdir()) == []


def test_no_path_of_this_machine_is_in_it(written):
    with zipfile.ZipFile(written[0]) as archive:
        content = b"".join(map(archive.read, archive.namelist()))
    assert str(Path(onnx_file.__file__).parent).encode() not in content
    assert b"stack_trace" not in content


def changed(path, change, extra=None):
    """The archive with `change(name, content) -> content` applied to its members."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
        for name, content in (extra or {}).items():
            new.writestr(name, content)
    return out.getvalue()


def swap(member, old, new):
    def change(name, content):
        if name != member:
            return content
        assert old in content
        return content.replace(old, new, 1)

    return change


GRAPH, CONFIGS = "models/model.json", "data/{0}/model_{0}_config.json"


@pytest.mark.parametrize(
    ("member", "old", "new", "why"),
    [
        (GRAPH, b'"torch.ops.aten.sigmoid.default"', b'"torch.hub.load"', "it calls torch.hub.load"),
        (GRAPH, b'"torch.ops.aten.sigmoid.default"', b'"torch.ops.aten.from_file.default"', "it calls"),
        (GRAPH, b"Integer(", b"exec(", "it holds the expression"),
        (GRAPH, b"Symbol('s", b"Symbol('__import__('os').system('s", "it holds the expression"),
        (GRAPH, b'"guards_code": []', b'"guards_code": ["print(1)"]', "Python code"),
        (GRAPH, b'"metadata": {}', b'"metadata": {"source_fn_stack": "a"}', "metadata"),
        (GRAPH, b'"as_bool": true', b'"as_operator": "torch.load"', "as_operator"),
        (CONFIGS.format("weights"), b'"use_pickle": false', b'"use_pickle": true', "is a pickle"),
        (CONFIGS.format("constants"), b'"tensor_0"', b'"custom_obj_0"', "is a pickle"),
        ("data/sample_inputs/model.pt", b"", b"pickle", "pickled sample inputs"),
        ("extra/audiomask.json", b'"format": 2', b'"format": 9', "not of format 2"),
    ],
)
def test_what_could_run_code_is_not_loaded(written, tmp_path, monkeypatch, member, old, new, why):
    path = tmp_path / "bad.pt2"
    path.write_bytes(changed(written[0], swap(member, old, new)))
    monkeypatch.setattr(torch.export, "load", lambda *a, **k: pytest.fail("it was loaded"))
    with pytest.raises(ProgramError, match=f"bad.pt2: .*is not loaded: .*{re.escape(why)}"):
        torch_program.load(path)


def test_strange_archives_are_not_loaded(written, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda *a, **k: pytest.fail("it was loaded"))
    path = tmp_path / "bad.pt2"
    same = lambda name, content: content  # noqa: E731
    for extra in ("small/data/weights/model.pt", "small/data/constants/opaque_obj_0", "other/version"):
        path.write_bytes(changed(written[0], same, {extra: b"x"}))
        with pytest.raises(ProgramError, match="is not loaded"):
            torch_program.load(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ProgramError, match="not a zip file"):
        torch_program.load(path)
    with pytest.raises(ProgramError, match="No such file"):
        torch_program.load(tmp_path / "none.pt2")


# --- the verb -----------------------------------------------------------------------------------------------


def test_the_verb_makes_variants(original, model, tmp_path, capsys, tiny, measured):
    out = tmp_path / "a.onnx"
    command = ["export", str(original.path), "-o", str(out), "--variant", "int8"]
    assert main(command) == 0
    assert "int8, SNR 60.0 dB" in capsys.readouterr().out
    assert main(["models", str(out)]) == 0
    assert '"ratio": 1.5' in capsys.readouterr().out
    assert main(command) == 2
    measured["speed"]["ratio"] = 1.0
    assert main([*command, "-f"]) == 1
    assert "1.00 x the speed" in capsys.readouterr().err
    assert Artifact.load(out).meta["variant"]["speed"]["ratio"] == 1.5  # the old file is still there
    assert main([*command, "-f", "--ungated"]) == 0
    weights.save(tmp_path / "run", model, CONFIG)
    of_run = tmp_path / "b.onnx"
    with built_once.graphs():
        assert main(["export", str(tmp_path / "run"), "-o", str(of_run), "--variant", "float16"]) == 0
    assert Artifact.load(of_run).meta["variant"]["kind"] == "float16"


def test_a_variant_that_cannot_be_made_names_what_was_asked_for(model, tmp_path, capsys, measured):
    """Not the file in a temporary folder that a run is exported to first."""
    weights.save(tmp_path / "run", model, CONFIG)
    out = tmp_path / "a.onnx"
    with built_once.graphs():
        assert main(["export", str(tmp_path / "run"), "-o", str(out), "--variant", "int8"]) == 1
    assert f"error: {out}: not written: no product in it has 65536 weights" in capsys.readouterr().err


def test_the_verb_offers_the_variants_that_there_are():
    """It repeats their names, since --help imports no onnx."""
    (option,) = (a for a in parser("export", verb)._actions if a.dest == "variant")
    assert option.choices == variants.KINDS


def test_the_verb_needs_the_corpus(original, tmp_path, capsys):
    command = ["export", str(original.path), "-o", str(tmp_path / "a.onnx"), "--variant", "float16"]
    assert main([*command, "--corpus", str(tmp_path / "none")]) == 1
    assert "none/speech/valid: no such folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_verb_writes_programs(model, tmp_path, capsys):
    weights.save(tmp_path / "run", model, CONFIG)
    out = tmp_path / "small.pt2"
    assert main(["export", str(tmp_path / "run"), "-o", str(out), "--hops", "2"]) == 0
    assert "a step of 2 hops equals torch" in capsys.readouterr().out
    assert torch_program.load(out).hops == 2


def test_options_that_do_not_go_together(original, tmp_path, capsys):
    run, onnx_file, out = str(tmp_path), str(original.path), str(tmp_path / "a.onnx")
    for words, why in (
        ([run, "-o", out, "--hops", "2"], "--hops: is for .pt2"),
        ([run, "-o", str(tmp_path / "a.pt2"), "--variant", "int8"], "--variant: is for .onnx"),
        ([run, "-o", str(tmp_path / "a.pt2"), "--check"], "--check"),
        ([run, "-o", out, "--ungated"], "--ungated"),
        ([run, "-o", out, "--corpus", run], "--corpus"),
        ([onnx_file, "-o", out, "--variant", "int8", "--arg", "a=1"], "--arg"),
        ([onnx_file, "-o", out], "is exported already"),
        ([onnx_file, "-o", str(tmp_path / "a.pt2")], "is exported already"),
        ([run, "-o", str(tmp_path / "a.bin")], "ends in .onnx"),
    ):
        assert main(["export", *words]) == 2, words
        assert why in capsys.readouterr().err
