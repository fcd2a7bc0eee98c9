"""A tagger without torch for the tests of the runtime and the command line: loud, quiet, and never anything
else.
"""

import json
from pathlib import Path

import numpy as np

HOP, RATE = 1600, 16000
LABELS = ("loud", "quiet", "a third, never")


def document(**changes):
    """Its metadata."""
    meta = {
        "format": 1, "name": "toy_tagger", "task": "tag", "sample_rate": RATE, "hop": HOP, "delay": 0,
        "latency": HOP,
        "inputs": [{"name": "audio", "kind": "stream", "type": "pcm", "rate": "1", "channels": 1}],
        "outputs": [
            {"name": "probabilities", "kind": "stream", "type": "probabilities", "rate": f"1/{HOP}",
            "channels": 3,
             "labels": list(LABELS), "span": 2 * HOP},
            {"name": "embedding", "kind": "stream", "type": "embedding", "rate": f"1/{HOP}", "channels": 2,
             "span": 2 * HOP},
        ],
        "states": [{"name": "state_f32", "dtype": "float32", "shape": [1], "initial": None}],
        "licence": "Apache-2.0", "hash": "toy_tagger",
    }  # fmt: skip
    return meta | changes


def build(path, **changes):
    """p(loud) = min(1, 10 mean |x|) of this hop or the one before, whichever is more; embedding = (p(loud),
    1).
    """
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    n = h.make_node
    ints = {"frames": [0, -1, HOP], "front": [0], "last": [-1], "end": [2**62], "axis1": [1], "axis2": [2]}
    constants = [h.make_tensor(k, T.INT64, [len(v)], v) for k, v in ints.items()]
    constants += [
        h.make_tensor(k, T.FLOAT, [], [v]) for k, v in {"ten": 10.0, "one": 1.0, "zero": 0.0}.items()
    ]
    nodes = [
        n("Reshape", ["audio", "frames"], ["hops"]),
        n("Abs", ["hops"], ["size"]),
        n("ReduceMean", ["size", "axis2"], ["level"], keepdims=0),
        n("Concat", ["state_f32", "level"], ["levels"], axis=1),
        n("Slice", ["levels", "front", "last", "axis1"], ["before"]),
        n("Slice", ["levels", "last", "end", "axis1"], ["next_state_f32"]),
        n("Max", ["before", "level"], ["most"]),
        n("Mul", ["most", "ten"], ["scaled"]),
        n("Min", ["scaled", "one"], ["loud2"]),
        n("Unsqueeze", ["loud2", "axis1"], ["loud"]),
        n("Sub", ["one", "loud"], ["quiet"]),
        n("Mul", ["loud", "zero"], ["never"]),
        n("Add", ["never", "one"], ["ones"]),
        n("Concat", ["loud", "quiet", "never"], ["probabilities"], axis=1),
        n("Concat", ["loud", "ones"], ["embedding"], axis=1),
    ]
    graph = h.make_graph(
        nodes, "toy", [h.make_tensor_value_info("audio", T.FLOAT, ["B", 1, "T"]),
        h.make_tensor_value_info("state_f32", T.FLOAT, ["B", 1])], [h.make_tensor_value_info("probabilities",
        T.FLOAT, ["B", 3, "N"]),
         h.make_tensor_value_info("embedding", T.FLOAT, ["B", 2, "N"]),
         h.make_tensor_value_info("next_state_f32", T.FLOAT, ["B", 1])],
        constants,
    )  # fmt: skip
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    h.set_model_props(model, {"audiomask": json.dumps(document(**changes))})
    onnx.save(model, str(path))
    return Path(path)


def loud(x):
    """What it says of mono ``x [T]`` at 16 kHz, hop by hop, with silence to the end of the last: ``[n]``."""
    hops = np.pad(np.abs(x), (0, -len(x) % HOP)).reshape(-1, HOP).mean(1)
    return np.minimum(1, 10 * np.maximum(hops, np.concatenate(([0], hops[:-1]))))
