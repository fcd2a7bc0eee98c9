"""Small models of other ports than sound to sound, without torch, for the tests of files, pipes and verbs.

`stems`: four sounds of one. `wide`: one port with the two channels of a stereo image. `triple`: every sample
three times. `encoder` and `decoder`: a codec of two codebooks at 1/160, whose codes are the mean of each hop
in 256 steps, coarse and fine. `detector`: probabilities and bits of each hop. `marker`: bits beside sound.
"""

import json
from pathlib import Path

import numpy as np

HOP, RATE, LEVELS = 160, 16000, 256
STEMS = {"vocals": 0.5, "drums": 0.25, "bass": -1.0, "other": 0.125}


def stream(name, type="pcm", rate="1", channels=1, **more):
    return {"name": name, "kind": "stream", "type": type, "rate": rate, "channels": channels} | more


PCM, CODES = stream("audio"), stream("codes", "codes", f"1/{HOP}", 2, levels=LEVELS)
OUTPUTS = {
    "stems": [stream(name) for name in STEMS],
    "wide": [stream("stereo", channels=2)],
    "triple": [stream("upsampled", rate="3")],
    "encoder": [CODES],
    "decoder": [stream("decoded")],
    "marker": [stream("sizes", "codes", f"1/{HOP}")],
    "detector": [
        stream("present", "probabilities", f"1/{HOP}", 2, labels=["yes", "no"]),
        stream("bits", "bits", f"1/{HOP}", 3),
    ],
}


def build(path, kind, **changes):
    """Write the model `kind` to a path; `changes`: of its document."""
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    inputs = [CODES if kind == "decoder" else PCM]
    if kind == "marker":
        inputs.append(stream("bits", "bits", f"1/{HOP}"))
    meta = {
        "format": 2, "name": kind, "task": "enhance",
        "sample_rate": RATE, "hop": HOP, "delay": 0, "latency": HOP,
        "inputs": inputs, "outputs": OUTPUTS[kind], "states": [], "hash": f"hash-{kind}",
    } | changes  # fmt: skip
    n = h.make_node
    consts: dict[str, np.ndarray] = {}

    def const(name, value, kind=np.float32):
        consts[name] = np.asarray(value, kind)
        return name

    def mean():
        const("hops", [0, 1, -1, HOP], np.int64)
        const("axis3", [3], np.int64)
        return [
            n("Reshape", ["audio", "hops"], ["framed"]),
            n("ReduceMean", ["framed", "axis3"], ["mean"], keepdims=0),
        ]

    if kind == "stems":
        nodes = [n("Mul", ["audio", const(f"g_{name}", g)], [name]) for name, g in STEMS.items()]
    elif kind == "wide":
        nodes = [n("Mul", ["audio", const("both", [[[1.0], [-0.5]]])], ["stereo"])]
    elif kind == "triple":
        const("axis3", [3], np.int64)
        const("flat", [0, 1, -1], np.int64)
        nodes = [
            n("Unsqueeze", ["audio", "axis3"], ["x4"]),
            n("Concat", ["x4", "x4", "x4"], ["three"], axis=3),
            n("Reshape", ["three", "flat"], ["upsampled"]),
        ]
    elif kind == "encoder":  # mean in [-1, 1] to 16 bits, upper and lower byte
        nodes = [
            *mean(),
            n("Mul", ["mean", const("scale", 32767.0)], ["scaled"]),
            n("Add", ["scaled", const("shift", 32768.0)], ["positive"]),
            n("Cast", ["positive"], ["whole"], to=T.INT64),
            n("Div", ["whole", const("levels", LEVELS, np.int64)], ["coarse"]),
            n("Mod", ["whole", "levels"], ["fine"]),
            n("Concat", ["coarse", "fine"], ["codes"], axis=1),
        ]
    elif kind == "decoder":
        const("weights", [[[LEVELS], [1]]], np.int64)
        const("axis1", [1], np.int64)
        const("axis3", [3], np.int64)
        const("flat", [0, 1, -1], np.int64)
        const("tile", [1, 1, 1, HOP], np.int64)
        nodes = [
            n("Mul", ["codes", "weights"], ["weighted"]),
            n("ReduceSum", ["weighted", "axis1"], ["whole"], keepdims=1),
            n("Cast", ["whole"], ["float"], to=T.FLOAT),
            n("Sub", ["float", const("shift", 32768.0)], ["signed"]),
            n("Div", ["signed", const("scale", 32767.0)], ["mean"]),
            n("Unsqueeze", ["mean", "axis3"], ["m4"]),
            n("Tile", ["m4", "tile"], ["held"]),
            n("Reshape", ["held", "flat"], ["decoded"]),
        ]
    elif kind == "marker":  # whatever it hears: the bits
        nodes = [
            *mean(),
            n("Mul", ["mean", const("zero", 0.0)], ["nothing"]),
            n("Cast", ["nothing"], ["none"], to=T.INT64),
            n("Add", ["none", "bits"], ["sizes"]),
        ]
    else:
        nodes = [
            *mean(),
            n("Greater", ["mean", const("zero", 0.0)], ["above"]),
            n("Cast", ["above"], ["yes"], to=T.FLOAT),
            n("Sub", [const("one", 1.0), "yes"], ["no"]),
            n("Concat", ["yes", "no"], ["present"], axis=1),
            n("Cast", ["above"], ["bit"], to=T.INT64),
            n("Concat", ["bit", "bit", "bit"], ["bits"], axis=1),
        ]

    def info(port):
        integer = port["type"] in ("codes", "bits")
        return h.make_tensor_value_info(
            port["name"], T.INT64 if integer else T.FLOAT, ["B", port["channels"], f"T_{port['name']}"]
        )

    from onnx import numpy_helper

    constants = [numpy_helper.from_array(value, name) for name, value in consts.items()]
    graph = h.make_graph(nodes, kind, [info(p) for p in inputs], [info(p) for p in OUTPUTS[kind]], constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    h.set_model_props(model, {"audiomask": json.dumps(meta)})
    onnx.save(model, str(path))
    return Path(path)


def means(x):
    """Return the mean of each hop of `x [..., T]`, silence after its end: `[..., n]`."""
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % HOP)])
    return x.reshape(*x.shape[:-1], -1, HOP).mean(-1)
