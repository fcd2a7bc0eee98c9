"""Small valid artifacts without torch, for the tests of the runtime and the command line."""

import functools
import gc
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import concealer
import numpy as np
import pytest
import toy_tagger

# A shell without job control starts what it puts in the background deaf to Ctrl-C, and children inherit that;
# the tests that interrupt a child need one that hears.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Exports: the cache of tensors without content costs more than it saves where sizes are symbols.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")


def pytest_collection_finish(session):
    """Let exports share the exporter's table of operators, which each would make anew in half a second.

    What is imported by now stays, so no later collection of garbage looks through it.
    """
    gc.collect()
    gc.freeze()
    if "audiomask.export" in sys.modules:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


@pytest.fixture(scope="session", autouse=True)
def _graphs(tmp_path_factory):
    """The folder of `built_once`: of the run, and not of a worker, whose own is called popen-gw0 or so."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "graphs"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHS_OF_TESTS", str(folder))
        yield


def document(name="toy", rate=16000, hop=256, delay=256, **changes):
    """The metadata of `build_artifact`'s graph."""
    meta = {
        "format": 1,
        "name": name,
        "task": "enhance",
        "version": "1",
        "description": "a delayed one-pole low-pass",
        "sample_rate": rate,
        "hop": hop,
        "delay": delay,
        "latency": hop + delay,
        "inputs": [
            {"name": "audio", "kind": "stream", "type": "pcm", "rate": "1", "channels": 1},
            {
                "name": "strength",
                "kind": "constant",
                "type": "float",
                "default": 1.0,
                "minimum": 0.0,
                "maximum": 1.0,
            },
        ],
        "outputs": [{"name": "enhanced", "kind": "stream", "type": "pcm", "rate": "1", "channels": 1}],
        "states": [
            {"name": "state_f32", "dtype": "float32", "shape": [delay + 1], "initial": None},
            {"name": "state_i64", "dtype": "int64", "shape": [1], "initial": [0]},
        ],
        "licence": "Apache-2.0",
        "hash": f"{name}-{rate}-{hop}-{delay}",
    }
    return meta | changes


def build_artifact(
    path,
    *,
    pole=0.5,
    gains=(1.0,),
    reference=0,
    metadata=None,
    extra_nodes=(),
    domain=None,
    external=False,
    **options,
):
    """y = strength lowpass(x[n - delay]) + (1 - strength) x[n - delay], lowpass: l[n] = pole l[n-1] + (1 -
    pole) x[n].

    The graph fails for lengths that are no multiple of hop, like a real one. ``pole=None``: only the delay.
    ``gains``: of several microphones, whose sum is x.
    """
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    meta = document(**options)
    hop, delay = meta["hop"], meta["delay"]
    if len(gains) > 1:
        meta["inputs"][0] |= {"channels": len(gains), "reference": reference}
    ints = {
        "axis1": [1],
        "front": [0],
        "pole_at": [delay],
        "end": [2**62],
        "last": [-delay],
        "frames": [0, 0, -1, hop],
    }
    ints |= {
        "flat": [0, 1, -1],
        "axis2": [2],
        "squeezed": [0, delay],
        "cell": [-1, 1],
        "both": [1, 2],
        "minus": [-1],
    }
    constants = [h.make_tensor(k, T.INT64, [len(v)], v) for k, v in ints.items()]
    constants += [
        h.make_tensor("pole", T.FLOAT, [], [pole or 0]),
        h.make_tensor("rest", T.FLOAT, [], [1 - (pole or 0)]),
        h.make_tensor("unit", T.FLOAT, [], [1.0]),
        h.make_tensor("gains", T.FLOAT, [1, len(gains), 1], gains),
    ]
    body = h.make_graph(
        [
            h.make_node("Mul", ["l", "pole"], ["kept"]),
            h.make_node("Mul", ["v", "rest"], ["new"]),
            h.make_node("Add", ["kept", "new"], ["l_next"]),
            h.make_node("Identity", ["l_next"], ["out"]),
        ],
        "body",
        [h.make_tensor_value_info(n, T.FLOAT, ["B", 1]) for n in ("l", "v")],
        [h.make_tensor_value_info(n, T.FLOAT, ["B", 1]) for n in ("l_next", "out")],
    )
    n = h.make_node
    nodes = [
        n("Mul", ["audio", "gains"], ["weighted"]),
        n("ReduceSum", ["weighted", "axis1"], ["sum"], keepdims=1),
        n("Reshape", ["sum", "frames"], ["framed"]),
        n("Reshape", ["framed", "flat"], ["x"]),
        n("Slice", ["state_f32", "front", "pole_at", "axis1"], ["line2"]),
        n("Unsqueeze", ["line2", "axis1"], ["line"]),
        n("Slice", ["state_f32", "pole_at", "end", "axis1"], ["l0"]),
        n("Concat", ["line", "x"], ["both_"], axis=2),
        n("Shape", ["x"], ["length"], start=2),
        n("Slice", ["both_", "front", "length", "axis2"], ["delayed"]),
        n("Slice", ["both_", "length", "end", "axis2"], ["line_next"]),
        n("Scan", ["l0", "delayed"], ["l_end", "low"], body=body, num_scan_inputs=1, scan_input_axes=[2],
          scan_output_axes=[2]) if pole else n("Sum", ["delayed"], ["low"]),
        *([] if pole else [n("Sum", ["l0"], ["l_end"])]),
        n("Unsqueeze", ["strength", "both"], ["s"]),
        n("Sub", ["unit", "s"], ["r"]),
        n("Mul", ["low", "s"], ["wet"]),
        n("Mul", ["delayed", "r"], ["plain"]),
        n("Add", ["wet", "plain"], ["enhanced"]),
        n("Squeeze", ["line_next", "axis1"], ["line_flat"]),
        n("Concat", ["line_flat", "l_end"], ["next_state_f32"], axis=1),
        n("Add", ["state_i64", "length"], ["next_state_i64"]),
        *extra_nodes,
    ]  # fmt: skip
    graph = h.make_graph(
        nodes,
        "toy",
        [
            h.make_tensor_value_info("audio", T.FLOAT, ["B", len(gains), "T"]),
            h.make_tensor_value_info("strength", T.FLOAT, ["B"]),
            h.make_tensor_value_info("state_f32", T.FLOAT, ["B", delay + 1]),
            h.make_tensor_value_info("state_i64", T.INT64, ["B", 1]),
        ],
        [
            h.make_tensor_value_info("enhanced", T.FLOAT, ["B", 1, "T"]),
            h.make_tensor_value_info("next_state_f32", T.FLOAT, ["B", delay + 1]),
            h.make_tensor_value_info("next_state_i64", T.INT64, ["B", 1]),
        ],
        constants,
    )
    opsets = [h.make_opsetid("", 18)] + ([h.make_opsetid(domain, 1)] if domain else [])
    model = h.make_model(graph, opset_imports=opsets, ir_version=9)
    if external:
        model.graph.initializer[0].data_location = T.EXTERNAL
        entry = model.graph.initializer[0].external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"
    text = json.dumps(meta) if metadata is None else metadata
    if text:
        h.set_model_props(model, {"audiomask": text})
    onnx.save(model, str(path)) if not external else Path(path).write_bytes(model.SerializeToString())
    return Path(path)


def lowpass(x, pole=0.5):
    """What `build_artifact` computes once its delay is taken away: ``x [..., T]``."""
    y, last = np.zeros(x.shape, np.float64), np.zeros(x.shape[:-1])
    for n in range(x.shape[-1]):
        last = pole * last + (1 - pole) * x[..., n]
        y[..., n] = last
    return y


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A folder with one family at 16 kHz (hop 256, delay 256) and 48 kHz (hop 768, delay 768)."""
    folder = tmp_path_factory.mktemp("toy")
    build_artifact(folder / "toy_16k.onnx", name="toy_16k")
    build_artifact(folder / "toy_48k.onnx", name="toy_48k", rate=48000, hop=768, delay=768)
    return folder


@pytest.fixture(scope="session")
def toy16(toy):
    return toy / "toy_16k.onnx"


@pytest.fixture(scope="session")
def array3(tmp_path_factory):
    """A model of three microphones with the reference 1: the low-passed 1, 2, -4 times of them, delayed."""
    path = tmp_path_factory.mktemp("array") / "array3.onnx"
    return build_artifact(path, name="array3", gains=ARRAY_GAINS, reference=1)


ARRAY_GAINS = (1.0, 2.0, -4.0)


@pytest.fixture(scope="session")
def repeats(tmp_path_factory):
    """A folder with a family of concealers that are told what is lost, at 16 and 48 kHz: see `concealer`."""
    folder = tmp_path_factory.mktemp("repeats")
    for rate in (16000, 48000):
        concealer.build(folder / f"repeat_{rate // 1000}k.onnx", rate=rate)
    return folder


@pytest.fixture(scope="session")
def repeat16(repeats):
    return repeats / "repeat_16k.onnx"


@pytest.fixture(scope="session")
def tagger16(tmp_path_factory):
    """A tagger of loud and quiet, see `toy_tagger`."""
    return toy_tagger.build(tmp_path_factory.mktemp("tagger") / "toy_tagger.onnx")


@pytest.fixture
def noise():
    """``noise(channels, samples)``: seeded, -20 dB."""
    return lambda channels, samples, seed=0: (
        np.random.default_rng(seed).standard_normal((channels, samples)).astype(np.float32) * 0.1
    )


@pytest.fixture(scope="session")
def toys():
    """What is above, for tests that need other artifacts or their outputs."""
    return SimpleNamespace(build=build_artifact, document=document, lowpass=lowpass, gains=ARRAY_GAINS)


@pytest.fixture
def cli(capfd):
    """``cli(*words)``: run a command line in this process, to an object with ``code``, ``out``, ``err``."""
    from audiomask.cli import main

    def call(*words):
        capfd.readouterr()
        try:
            code = main([str(w) for w in words])
        except SystemExit as exit:
            code = exit.code
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return SimpleNamespace(code=code, out=out, err=err)

    return call
