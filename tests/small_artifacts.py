"""Small artifacts with other ports than one sound in and one out, for the tests of what plays them; no torch.

`build(folder, name)` writes one of `MODELS`. Each has a memory, and a reference in numpy beside it is
`REFERENCES[name](**streams)`, of whole signals `[channels, frames]` with the controls at their defaults.

`stems`: four sounds of one. `cinema`: three sounds of two channels of one such.

`build(folder, name, PLAIN)` writes one without, whose outputs a test can name. `stems`: four sounds of one.
`wide`: one port with the two channels of a stereo image. `triple`: every sample three times. `encoder` and
`decoder`: a codec of two codebooks, whose codes are the mean of each hop in 16 bits, upper and lower byte.
`detector`: probabilities and bits of each hop. `marker`: bits beside sound, which it returns.
"""

import json
from pathlib import Path

import numpy as np

RATE, FRAME = 16000, 320  # Hz; samples of a frame of codes: 20 ms
LEVELS, LATE = 16, 48  # codes; samples by which most are late
WEIGHTS = np.float32([0.01 * (n + 1) * (-1) ** n for n in range(16)])  # of the marker's bits
HOP, GAINS = 160, {"vocals": 0.5, "drums": 0.25, "bass": -1.0, "other": 0.125}  # of the plain ones
STEMS = {"vocals": (0.5, 0.0), "drums": (0.25, 1.0), "bass": (-0.5, 0.5), "other": (0.75, -1.5)}
FILM = ("speech", "music", "effects")
RAMP = np.arange(1, FRAME + 1, dtype=np.float32) / FRAME
_AUDIO, _SOUND = {"name": "audio", "type": "pcm"}, {"name": "sound", "type": "pcm"}
_CODES = {"name": "codes", "type": "codes", "rate": f"1/{FRAME}", "channels": 4, "levels": LEVELS}
_LOST = {"name": "lost", "type": "lost", "rate": f"1/{FRAME}"}
_BITS = {"type": "bits", "channels": 16, "default": [0] * 16, "minimum": 0, "maximum": 1}
_LATER = """
    line = Concat <axis: int = 2> (state, {x})
    size = Shape <start: int = 2> ({x})
    late = Slice (line, zero, size, two)
    next_state = Slice (line, size, end, two)
"""  # {x}, `LATE` samples late

_ENCODED = f"""
    shape = Constant <value = int64[4] {{0, -1, 4, {FRAME // 4}}}> ()
    parts = Reshape (audio, shape)
    size = Abs (parts)
    level = ReduceMean <keepdims: int = 0> (size, three)
    now = Transpose <perm: ints = [0, 2, 1]> (level)
    line = Concat <axis: int = 2> (state, now)
    late = Slice (line, zero, last, two)
    next_state = Slice (line, last, end, two)
    scale = Constant <value = float {{200.0}}> ()
    scaled = Mul (late, scale)
    most = Constant <value = float {{{LEVELS - 1}.0}}> ()
    clipped = Min (scaled, most)
    floor = Floor (clipped)
    codes = Cast <to: int = 7> (floor)"""
_INFORMED = _ENCODED.replace(
    "line = Concat <axis: int = 2> (state, now)",
    """
    unit = Constant <value = float {1.0}> ()
    kept = Sub (unit, lost)
    heard = Mul (now, kept)
    line = Concat <axis: int = 2> (state, heard)""",
)

# Inputs, outputs, hop, delay, frames of the state, and the graph.
MODELS = {
    "encoder": ([_AUDIO], [_CODES], FRAME, FRAME, (4, 1), _ENCODED),
    "informed_encoder": ([_AUDIO, _LOST], [_CODES], FRAME, FRAME, (4, 1), _INFORMED),
    "decoder": ([_CODES, _LOST], [_SOUND], FRAME, 0, (1, 1), f"""
    numbers = Cast <to: int = 1> (codes)
    level = ReduceMean <keepdims: int = 1> (numbers, one)
    unit = Constant <value = float {{1.0}}> ()
    kept = Sub (unit, lost)
    now = Mul (level, kept)
    line = Concat <axis: int = 2> (state, now)
    before = Slice (line, zero, last, two)
    next_state = Slice (line, last, end, two)
    ramp = Constant <value = float[1, 1, 1, {FRAME}] {{{", ".join(map(str, RAMP))}}}> ()
    change = Sub (now, before)
    change4 = Unsqueeze (change, three)
    before4 = Unsqueeze (before, three)
    moved = Mul (change4, ramp)
    frames = Add (before4, moved)
    flat = Constant <value = int64[3] {{0, 1, -1}}> ()
    sound = Reshape (frames, flat)"""),
    "stems": ([_AUDIO], [{"name": name, "type": "pcm"} for name in STEMS], 128, LATE, (1, LATE),
    _LATER.format(x="audio") + "    square = Mul (late, late)" + "".join(f"""
    a_{name} = Constant <value = float {{{a}}}> ()
    b_{name} = Constant <value = float {{{b}}}> ()
    x_{name} = Mul (late, a_{name})
    y_{name} = Mul (square, b_{name})
    {name} = Add (x_{name}, y_{name})""" for name, (a, b) in STEMS.items())),
    "stereo_stems": ([{**_AUDIO, "channels": 2}], [{"name": "stems", "type": "pcm", "channels": 4}],
    128, LATE, (2, LATE), _LATER.format(x="audio") + """
    square = Mul (late, late)
    rest = Sub (late, square)
    stems = Concat <axis: int = 1> (square, rest)"""),
    "cinema": ([{**_AUDIO, "channels": 2}], [{"name": name, "type": "pcm", "channels": 2} for name in FILM],
    128, LATE, (2, LATE), _LATER.format(x="audio") + """
    middle = ReduceMean <keepdims: int = 1> (late, one)
    both = Concat <axis: int = 1> (middle, middle)
    square = Mul (late, late)
    half = Constant <value = float {0.5}> ()
    quarter = Constant <value = float {0.25}> ()
    speech = Sub (both, square)
    music = Mul (late, half)
    effects = Mul (square, quarter)"""),
    "upsampler": ([_AUDIO], [{**_SOUND, "rate": "3"}], 64, 0, (1, 1), """
    line = Concat <axis: int = 2> (state, audio)
    before = Slice (line, zero, last, two)
    next_state = Slice (line, last, end, two)
    thirds = Constant <value = float[1, 1, 1, 3] {0.33333334, 0.6666667, 1.0}> ()
    change = Sub (audio, before)
    change4 = Unsqueeze (change, three)
    before4 = Unsqueeze (before, three)
    moved = Mul (change4, thirds)
    frames = Add (before4, moved)
    flat = Constant <value = int64[3] {0, 1, -1}> ()
    sound = Reshape (frames, flat)"""),
    "dither": ([_AUDIO, {"name": "noise", "type": "noise"}], [_SOUND], 128, LATE, (1, LATE), """
    tenth = Constant <value = float {0.1}> ()
    quiet = Mul (noise, tenth)
    x = Add (audio, quiet)""" + _LATER.format(x="x") + "    sound = Identity (late)"),
    "marker": ([_AUDIO, {"name": "message", "kind": "control", **_BITS}], [_SOUND], 128, LATE, (1, LATE),
    _LATER.format(x="audio") + f"""
    bits = Cast <to: int = 1> (message)
    weights = Constant <value = float[16, 1] {{{", ".join(map(str, WEIGHTS))}}}> ()
    depth = MatMul (bits, weights)
    depth3 = Unsqueeze (depth, two)
    square = Mul (late, late)
    mark = Mul (square, depth3)
    sound = Add (late, mark)"""),
}  # fmt: skip

_MEANS = f"""
    hops = Constant <value = int64[4] {{0, 1, -1, {HOP}}}> ()
    framed = Reshape (audio, hops)
    mean = ReduceMean <keepdims: int = 0> (framed, three)"""
_BYTES = {"name": "codes", "type": "codes", "rate": f"1/{HOP}", "channels": 2, "levels": 256}
_HOPS = {"rate": f"1/{HOP}"}
PLAIN = {
    "stems": ([_AUDIO], [{"name": name, "type": "pcm"} for name in GAINS], HOP, 0, None, "".join(f"""
    g_{name} = Constant <value = float {{{gain}}}> ()
    {name} = Mul (audio, g_{name})""" for name, gain in GAINS.items())),
    "wide": ([_AUDIO], [{"name": "stereo", "type": "pcm", "channels": 2}], HOP, 0, None, """
    both = Constant <value = float[1, 2, 1] {1.0, -0.5}> ()
    stereo = Mul (audio, both)"""),
    "triple": ([_AUDIO], [{"name": "upsampled", "type": "pcm", "rate": "3"}], HOP, 0, None, """
    flat = Constant <value = int64[3] {0, 1, -1}> ()
    x4 = Unsqueeze (audio, three)
    times3 = Concat <axis: int = 3> (x4, x4, x4)
    upsampled = Reshape (times3, flat)"""),
    "encoder": ([_AUDIO], [_BYTES], HOP, 0, None, _MEANS + """
    scale = Constant <value = float {32767.0}> ()
    shift = Constant <value = float {32768.0}> ()
    levels = Constant <value = int64 {256}> ()
    scaled = Mul (mean, scale)
    positive = Add (scaled, shift)
    whole = Cast <to: int = 7> (positive)
    coarse = Div (whole, levels)
    fine = Mod (whole, levels)
    codes = Concat <axis: int = 1> (coarse, fine)"""),
    "decoder": ([_BYTES], [{"name": "decoded", "type": "pcm"}], HOP, 0, None, f"""
    weights = Constant <value = int64[1, 2, 1] {{256, 1}}> ()
    scale = Constant <value = float {{32767.0}}> ()
    shift = Constant <value = float {{32768.0}}> ()
    times = Constant <value = int64[4] {{1, 1, 1, {HOP}}}> ()
    flat = Constant <value = int64[3] {{0, 1, -1}}> ()
    weighted = Mul (codes, weights)
    whole = ReduceSum <keepdims: int = 1> (weighted, one)
    number = Cast <to: int = 1> (whole)
    signed = Sub (number, shift)
    mean = Div (signed, scale)
    mean4 = Unsqueeze (mean, three)
    held = Tile (mean4, times)
    decoded = Reshape (held, flat)"""),
    "marker": ([_AUDIO, {"name": "bits", "type": "bits", **_HOPS}],
    [{"name": "sizes", "type": "codes", **_HOPS}], HOP, 0, None, _MEANS + """
    no = Constant <value = float {0.0}> ()
    nothing = Mul (mean, no)
    none = Cast <to: int = 7> (nothing)
    sizes = Add (none, bits)"""),
    "detector": ([_AUDIO], [
        {"name": "present", "type": "probabilities", **_HOPS, "channels": 2, "labels": ["yes", "no"]},
        {"name": "bits", "type": "bits", **_HOPS, "channels": 3},
    ], HOP, 0, None, _MEANS + """
    silence = Constant <value = float {0.0}> ()
    unit = Constant <value = float {1.0}> ()
    above = Greater (mean, silence)
    yes = Cast <to: int = 1> (above)
    no = Sub (unit, yes)
    present = Concat <axis: int = 1> (yes, no)
    bit = Cast <to: int = 7> (above)
    bits = Concat <axis: int = 1> (bit, bit, bit)"""),
}  # fmt: skip


def document(name, models=MODELS, /, **changes):
    """Return the metadata of a model."""
    inputs, outputs, hop, delay, state, _ = models[name]
    return {
        "format": 2,
        "name": name,
        "task": "enhance",
        "sample_rate": RATE,
        "hop": hop,
        "delay": delay,
        "latency": hop + delay,
        "inputs": [{"kind": "stream", "rate": "1", "channels": 1, **port} for port in inputs],
        "outputs": [{"kind": "stream", "rate": "1", "channels": 1, **port} for port in outputs],
        "states": [{"name": "state", "dtype": "float32", "shape": state, "initial": None}] if state else [],
        "licence": "Apache-2.0",
        "hash": f"hash-{name}",
    } | changes


def build(folder, name, models=MODELS, /, **changes):
    """Write a model as `folder/name.onnx` and return the path; `changes` of its document."""
    import onnx
    from onnx import helper, parser

    meta, graph = document(name, models, **changes), models[name][-1]

    def told(ports, prefix):
        said = []
        for port in ports:
            kind = "int64" if port["type"] in ("codes", "bits", "int") else "float"
            frames = f", T_{port['name']}" if port["kind"] == "stream" else ""
            said.append(f"{kind}[B, {port['channels']}{frames}] {port['name']}")
        for state in meta["states"]:
            said.append(f"float[B, {', '.join(map(str, state['shape']))}] {prefix}{state['name']}")
        return ", ".join(said)

    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3, "last": -1, "end": 2**62}
    constants = "".join(f"    {k} = Constant <value = int64[1] {{{n}}}> ()\n" for k, n in numbers.items())
    text = (
        f"model ({told(meta['inputs'], '')}) => ({told(meta['outputs'], 'next_')}) {{\n{constants}{graph}\n}}"
    )
    made = helper.make_model(
        parser.parse_graph(text), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    helper.set_model_props(made, {"audiomask": json.dumps(meta)})
    onnx.checker.check_model(made)
    path = Path(folder) / f"{name}.onnx"
    onnx.save(made, str(path))
    return path


def _encoded(audio, lost=0):
    frames = np.pad(audio[0], (0, -audio.shape[1] % FRAME)).reshape(-1, 4, FRAME // 4)
    level = np.abs(frames).mean(2, dtype=np.float32).T * (1 - np.float32(lost))
    return {"codes": np.minimum(level * 200, LEVELS - 1).astype(np.int64)}


def _interpolated(values, ramp):
    before = np.concatenate(([0], values[:-1]))[:, None]
    return (before + (values[:, None] - before) * ramp).reshape(1, -1)


def _decoded(codes, lost=None):
    values = codes.mean(0) * (1 if lost is None else 1 - lost[0])
    return {"sound": _interpolated(values, RAMP)}


REFERENCES = {
    "encoder": _encoded,
    "informed_encoder": _encoded,
    "decoder": _decoded,
    "stems": lambda audio: {name: a * audio + b * audio**2 for name, (a, b) in STEMS.items()},
    "stereo_stems": lambda audio: {"stems": np.concatenate((audio**2, audio - audio**2))},
    "cinema": lambda audio: {"speech": audio.mean(0) - audio**2, "music": audio / 2, "effects": audio**2 / 4},
    "upsampler": lambda audio: {"sound": _interpolated(audio[0], np.arange(1, 4) / 3)},
    "dither": lambda audio, noise: {"sound": audio + 0.1 * noise},
    "marker": lambda audio: {"sound": audio},
}


def means(x):
    """Return the mean of each hop of `x [..., T]`, silence after its end: `[..., n]`."""
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % HOP)])
    return x.reshape(*x.shape[:-1], -1, HOP).mean(-1)
