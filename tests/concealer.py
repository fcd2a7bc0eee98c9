"""A small stand-in for a concealer that is told what was lost, and the same in numpy; no torch."""

import json
from pathlib import Path

import numpy as np

REACH = 320  # samples back, from where a lost one is repeated: a packet of 20 ms at 16 kHz
HOP, DELAY = 160, 40


def repeat(x, lost, reach=REACH):
    """What the graph makes of ``x [..., T]``, its delay taken away: in place of a lost sample the one
    ``reach`` before it, or silence if that was lost too. (Times its control ``gain``, 1 unless it is turned.)
    """
    received = np.where(lost, 0, x).astype(np.float32)
    earlier = np.concatenate([np.zeros_like(received[..., :reach]), received], -1)[..., : x.shape[-1]]
    return np.where(lost, earlier, received)


def build(path, *, rate=16000, mask=None, extra=()):
    """The graph, `DELAY` samples late, as a file. ``mask``: changes of that port's entry; ``extra``: input
    entries that the graph lacks."""
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    name = Path(path).stem
    stream = {"kind": "stream", "rate": "1", "channels": 1}
    meta = {
        "format": 1,
        "name": name,
        "task": "conceal",
        "version": "1",
        "description": "repeats what came a packet before",
        "sample_rate": rate,
        "hop": HOP,
        "delay": DELAY,
        "latency": HOP + DELAY,
        "inputs": [
            {"name": "audio", "type": "pcm", **stream},
            {"name": "lost", "type": "mask", **stream, **(mask or {})},
            {"name": "gain", "kind": "constant", "default": 1.0, "minimum": 0.0, "maximum": 1.0},
            *extra,
        ],
        "outputs": [{"name": "concealed", "type": "pcm", **stream}],
        "states": [{"name": "state_f32", "dtype": "float32", "shape": [REACH + DELAY], "initial": None}],
        "licence": "Apache-2.0",
        "hash": name,
    }
    ints = {"start": [0], "reach": [REACH], "end": [2**62], "one": [1], "two": [2], "both": [1, 2]}
    ints["frames"], ints["flat"] = [0, 0, -1, HOP], [0, 1, -1]
    constants = [h.make_tensor(k, T.INT64, [len(v)], v) for k, v in ints.items()]
    constants += [h.make_tensor("unit", T.FLOAT, [], [1.0]), h.make_tensor("none", T.FLOAT, [], [0.0])]
    n = h.make_node
    nodes = [
        n("Reshape", ["audio", "frames"], ["framed"]),  # whole hops only, as real models
        n("Reshape", ["framed", "flat"], ["x"]),
        n("Unsqueeze", ["state_f32", "one"], ["memory"]),
        n("Slice", ["memory", "start", "reach", "two"], ["past"]),
        n("Slice", ["memory", "reach", "end", "two"], ["wait"]),
        n("Sub", ["unit", "lost"], ["kept"]),
        n("Mul", ["x", "kept"], ["got"]),
        n("Concat", ["past", "got"], ["received"], axis=2),
        n("Shape", ["x"], ["length"], start=2),
        n("Slice", ["received", "start", "length", "two"], ["earlier"]),
        n("Greater", ["lost", "none"], ["gone"]),
        n("Where", ["gone", "earlier", "x"], ["chosen"]),
        n("Unsqueeze", ["gain", "both"], ["loud"]),
        n("Mul", ["chosen", "loud"], ["y"]),
        n("Concat", ["wait", "y"], ["line"], axis=2),
        n("Slice", ["line", "start", "length", "two"], ["concealed"]),
        n("Slice", ["line", "length", "end", "two"], ["next_wait"]),
        n("Slice", ["received", "length", "end", "two"], ["next_past"]),
        n("Concat", ["next_past", "next_wait"], ["next_memory"], axis=2),
        n("Squeeze", ["next_memory", "one"], ["next_state_f32"]),
    ]
    info = h.make_tensor_value_info
    graph = h.make_graph(
        nodes,
        "repeat",
        [
            *(info(k, T.FLOAT, ["B", 1, "T"]) for k in ("audio", "lost")),
            info("gain", T.FLOAT, ["B"]),
            info("state_f32", T.FLOAT, ["B", REACH + DELAY]),
        ],
        [info("concealed", T.FLOAT, ["B", 1, "T"]), info("next_state_f32", T.FLOAT, ["B", REACH + DELAY])],
        constants,
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    h.set_model_props(model, {"audiomask": json.dumps(meta)})
    onnx.save(model, str(path))
    return Path(path)
