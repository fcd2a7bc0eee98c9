"""Export a streaming model as one self-describing ONNX file that provably agrees with torch.

The graph's inputs are the model's stream ports `[B, C, T]` (any batch, any multiple of the hop), its controls
`[B]` or `[B, n]`, then its state, packed by type into `state_f32` and `state_i64` `[B, n]`; its outputs are
the output ports and `next_state_*`. The metadata key `audiomask` holds the JSON document made by `describe`.

Before a file is written, its graph runs whole and in random pieces against torch. The file is refused where
the two differ by more than 1e-5 of the peak.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes import common as passes
from torch import Tensor, nn

from audiomask import __version__
from audiomask.audio import AudioError, replacing
from audiomask.decompose import short_translation
from audiomask.nn.recurrent import prepare_export
from audiomask.ports import Port
from audiomask.runtime.artifact import FORMAT, KEY, Artifact, open_graph
from audiomask.streaming import State, StreamingModel, flatten_state, unflatten_state, whole
from audiomask.weights import fingerprint

OPSET = 23  # the first with Attention
TOLERANCE = 1e-5  # relative to the peak, in float32; frameworks choose other kernels for other lengths
KINDS = {torch.float32: ("state_f32", "float32"), torch.int64: ("state_i64", "int64")}


class ExportError(AudioError):
    """An error for a model that cannot be exported, or whose graph computes something else."""


# --- packing ------------------------------------------------------------------------------------------------


def _packs(model: StreamingModel) -> dict[torch.dtype, list[tuple[str, Tensor]]]:
    """Return the initial state of one row, by type, in the order in which it is packed."""
    leaves = flatten_state(model.initial_state(1))
    other = [name for name, tensor in leaves if tensor.dtype not in KINDS]
    if other:
        raise ExportError(f"{model.name}: states {other} are neither float32 nor int64")
    packs = {dtype: [leaf for leaf in leaves if leaf[1].dtype == dtype] for dtype in KINDS}
    return {dtype: leaves for dtype, leaves in packs.items() if leaves}


def pack_state(state: State) -> dict[str, Tensor]:
    """Return a state as the graph's tensors: `{"state_f32": [B, n], "state_i64": [B, k]}`."""
    leaves = [tensor for _, tensor in flatten_state(state)]
    packs = {}
    for dtype, (name, _) in KINDS.items():
        parts = [
            tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]
            for tensor in leaves
            if tensor.dtype == dtype
        ]
        if parts:
            packs[name] = torch.cat(parts, 1)
    return packs


class Packed(nn.Module):
    """A model that is a function of tensors only: streams, controls, packed states."""

    def __init__(self, model: StreamingModel) -> None:
        super().__init__()
        self.model = model
        self.like = model.initial_state(1)
        self.sizes = {
            dtype: [max(1, tensor[0].numel()) for _, tensor in leaves]
            for dtype, leaves in _packs(model).items()
        }

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ports = self.model.inputs
        given = dict(zip([port.name for port in ports], inputs, strict=False))
        pieces = {
            dtype: iter(pack.split(sizes, 1))
            for pack, (dtype, sizes) in zip(inputs[len(ports) :], self.sizes.items(), strict=True)
        }
        tensors = []
        for _, tensor in flatten_state(self.like):
            tensors.append(next(pieces[tensor.dtype]).reshape(-1, *tensor.shape[1:]))
        state = unflatten_state(self.like, tensors) if tensors else None
        y, state = self.model.run(given, state)
        return (*y.values(), *pack_state(state).values())


def port_names(model: StreamingModel) -> tuple[list[str], list[str]]:
    packs = [KINDS[dtype][0] for dtype in _packs(model)]
    inputs = [port.name for port in model.inputs] + packs
    outputs = [port.name for port in model.outputs] + [f"next_{name}" for name in packs]
    if len({*inputs, *outputs}) != len(inputs) + len(outputs):  # one namespace in ONNX
        raise ExportError(f"{model.name}: port names must differ from each other: {inputs + outputs}")
    return inputs, outputs


def example(model: StreamingModel, batch: int, hops: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random inputs for every port: streams of `hops` hops, controls within their range."""
    return {port.name: _draw(port, batch, hops, model.hop, generator) for port in model.inputs}


def _draw(port: Port, batch: int, hops: int, hop: int, generator: torch.Generator) -> Tensor:
    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    levels = 2 if port.type == "bits" else port.levels or 2
    if not port.is_stream:
        shape = (batch,) if port.channels == 1 else (batch, port.channels)
        if port.dtype.kind == "i" and port.maximum is None:
            return integers(levels, *shape)
        low = port.minimum if port.minimum is not None else float(np.min(port.default or 0.0))
        high = port.maximum if port.maximum is not None else float(np.max(port.default or 1.0))
        value = low + (high - low) * torch.rand(shape, generator=generator)
        return value if port.dtype.kind == "f" else value.round().long()
    burst = port.per_hop(hop)
    frames = hops * burst
    if port.type == "lost":  # bursts of a hop or two, which begin inside of hops too
        lost = torch.rand(batch, port.channels, hops + 1, generator=generator) < 0.3
        start = int(integers(burst))
        return lost.repeat_interleave(burst, 2)[:, :, start : start + frames].float()
    if port.dtype.kind == "i":
        return integers(levels, batch, port.channels, frames)
    scale = 1.0 if port.type == "noise" else 0.1
    return scale * torch.randn(batch, port.channels, frames, generator=generator)


# --- graph --------------------------------------------------------------------------------------------------


def build(model: StreamingModel) -> ir.Model:
    """Return the simplified graph of `model.step`, weights included; batch and time are dynamic."""
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    prepare_export(model)
    inputs, outputs = port_names(model)
    batch, hops = torch.export.Dim("batch"), torch.export.Dim("hops")
    values = example(model, 2, 3, torch.Generator().manual_seed(0))
    shapes: list[dict[int, Any]] = []
    for port in model.inputs:
        per_hop = port.per_hop(model.hop) if port.is_stream else 0
        frames = {2: hops if per_hop == 1 else per_hop * hops} if per_hop else {}
        shapes.append({0: batch, **frames})
    packs = pack_state(model.initial_state(2))
    shapes += [{0: batch}] * len(packs)
    log = logging.getLogger("torch.onnx")
    level, log.level = log.level, logging.ERROR
    try:
        with warnings.catch_warnings(), short_translation():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                Packed(model),
                (*values.values(), *packs.values()),
                dynamo=True,
                dynamic_shapes=(tuple(shapes),),
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                optimize=False,  # `simplify` does that
                verbose=False,
            )
    finally:
        log.level = level
    assert program is not None
    simplify(program.model)
    return program.model


class _RuleAt:
    """A rewrite rule that is tried only at nodes of its operator, since trying all takes long."""

    def __init__(self, op_type: str, rule: Any) -> None:
        self.op_type, self.rule = op_type, rule

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)

    def try_rewrite(self, model: ir.Model, graph: ir.Graph, node: ir.Node, **options: Any) -> Any:
        return self.rule.try_rewrite(model, graph, node, **options) if node.op_type == self.op_type else None


def simplify(model: ir.Model) -> None:
    """Remove nodes: at one hop a step, each costs about a microsecond whatever it computes."""
    from onnxscript import optimizer, rewriter  # a second of imports, for exporting only
    from onnxscript.rewriter.rules import common as rules

    # Not the default set: that also drops `x + c` for any c within 1e-8 of zero, and with it every floor
    # under a logarithm or a division.
    chosen = {
        "Cast": [rules.cast_cast_rule, rules.no_op_cast_rule],
        "Expand": [rules.no_op_expand_rule],
        "Transpose": [rules.no_op_transpose_rule, rules.transpose_transpose_rule],
        "Unsqueeze": [rules.unsqueeze_unsqueeze_rule],
        "Reshape": [rules.reshape_reshape_rule, rules.squeeze_reshape_1d_rule],
        "Slice": [rules.collapse_slice_rule, rules.collapse_slice2_rule, rules.slice_split_rule],
        "Conv": [rules.fuse_pad_into_conv_rule],
        "BatchNormalization": [
            rules.fuse_batchnorm_into_conv_rule,
            rules.fuse_batchnorm_into_conv_transpose_rule,
            rules.fuse_batchnorm_into_gemm_rule,
        ],
    }
    at: list[Any] = [_RuleAt(op, rule) for op, group in chosen.items() for rule in group]
    passes.InlinePass()(model)
    unlimited = 2**40
    for _ in range(2):
        optimizer.fold_constants(model, input_size_limit=unlimited, output_size_limit=unlimited)
        rewriter.rewrite(model, pattern_rewrite_rules=at)
        _constant_reshapes(model.graph)
    for clean in (
        passes.CommonSubexpressionEliminationPass(),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.ClearMetadataAndDocStringPass(),  # the exporter leaves stack traces with local paths
    ):
        clean(model)
    for node in model.graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _distinct_outputs(attribute.as_graph())
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.producer_name, model.producer_version = "audiomask", __version__


def _distinct_outputs(body: ir.Graph) -> None:
    """Give each output of a Scan's body a value of its own.

    ONNX Runtime leaves the second of two outputs unset that are one value (a carry that is also an output).
    """
    seen: set[ir.Value] = set()
    for i, value in enumerate(body.outputs):
        if value in seen:
            copy_ = ir.node("Identity", [value])
            body.append(copy_)
            twin = copy_.outputs[0]
            twin.name, twin.type, twin.shape = f"{value.name}_{i}", value.type, value.shape
            body.outputs[i] = twin
        seen.add(value)


def _constant_reshapes(graph: ir.Graph) -> None:
    """Turn reshape targets that are computed from dynamic sizes into constants.

    In a target, 0 copies a dimension in place, and one other may be -1. A reshape to the shape that its input
    has is removed, and so are operators before it that only reshape.
    """
    for node in list(graph):
        if node.op_type != "Reshape":
            continue
        x, target, y = node.inputs[0], node.inputs[1], node.outputs[0]
        if x is None or target is None or x.shape is None or y.shape is None:
            continue
        if list(x.shape) == list(y.shape) and not y.is_graph_output():
            y.replace_all_uses_with(x)
            graph.remove(node, safe=True)
            continue
        source, shape = x, x.shape
        while (maker := source.producer()) and maker.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
            before = maker.inputs[0]
            if before is None or before.shape is None:
                break
            source, shape = before, before.shape
        if target.const_value is not None and source is x:
            continue
        sizes: list[int] = []
        for i, size in enumerate(y.shape):
            if isinstance(size, int):
                sizes.append(size)
            elif i < len(shape) and shape[i] == size:
                sizes.append(0)
            else:
                sizes.append(-1)
        if sizes.count(-1) > 1:
            if target.const_value is None:
                node.replace_input_with(0, source)
            continue
        constant = ir.Value(
            name=f"{y.name}_shape",
            shape=ir.Shape([len(sizes)]),
            type=ir.TensorType(ir.DataType.INT64),
            const_value=ir.tensor(np.array(sizes, np.int64), name=f"{y.name}_shape"),
        )
        graph.register_initializer(constant)
        node.replace_input_with(0, source)
        node.replace_input_with(1, constant)
        node.attributes.pop("allowzero", None)


# --- metadata -----------------------------------------------------------------------------------------------


def describe(model: StreamingModel, config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the JSON document; `more`: version, description, licence, training, scores."""
    states = []
    for dtype, leaves in _packs(model).items():
        name, kind = KINDS[dtype]
        row = torch.cat([tensor.flatten() for _, tensor in leaves]).numpy()
        raw = row.astype(row.dtype.newbyteorder("<")).tobytes()
        states.append(
            {
                "name": name,
                "dtype": kind,
                "shape": [row.size],
                "initial": {"base64": base64.b64encode(raw).decode()} if row.any() else None,
                "layout": [[name, list(tensor.shape[1:])] for name, tensor in leaves],
            }
        )
    return {
        "format": FORMAT,
        "name": model.name,
        "task": model.task,
        "version": more.pop("version", __version__),
        "description": more.pop("description", ""),
        "sample_rate": model.sample_rate,
        "hop": model.hop,
        "delay": whole(model.delay, "delay"),
        "latency": whole(model.latency, "latency"),
        "inputs": [port.document() for port in model.inputs],
        "outputs": [port.document() for port in model.outputs],
        "states": states,
        **more,
        "config": config,
        "hash": fingerprint(model, config),
    }


# --- proof --------------------------------------------------------------------------------------------------


def run_pieces(
    session: onnxruntime.InferenceSession,
    model: StreamingModel,
    inputs: Mapping[str, Tensor],
    hops: Sequence[int],
) -> dict[str, Tensor]:
    """Return outputs and last states, by name, of a graph that runs over `inputs` in pieces.

    The inputs are whole hops; `hops` has the number of hops of each piece.
    """
    batch = next(iter(inputs.values())).shape[0]
    state = {name: pack.numpy() for name, pack in pack_state(model.initial_state(batch)).items()}
    pieces: list[list[np.ndarray]] = []
    at = 0
    for n in hops:
        feed = dict(state)
        for port in model.inputs:
            value = inputs[port.name]
            if port.is_stream:
                step = port.per_hop(model.hop)
                value = value[:, :, at * step : (at + n) * step]
            feed[port.name] = value.contiguous().numpy()
        result = session.run(None, feed)
        pieces.append(result[: len(model.outputs)])
        state = dict(zip(state, result[len(model.outputs) :], strict=True))
        at += n
    outputs = [np.concatenate(parts, 2) for parts in zip(*pieces, strict=True)]
    named = dict(zip([port.name for port in model.outputs], outputs, strict=True)) | state
    return {name: torch.from_numpy(value) for name, value in named.items()}


@torch.no_grad()
def compare(model: StreamingModel, graph: bytes | str | Path, seed: int = 0) -> dict[str, float]:
    """Return the greatest difference between torch and ONNX Runtime, by output and packed state.

    torch runs whole, ONNX Runtime whole, hop by hop and in random pieces, over several lengths and batch
    sizes. Differences are relative to the peak over all of them; `_apart` judges each type.
    """
    generator = torch.Generator().manual_seed(seed)
    session = open_graph(graph)

    def runs(inputs: Mapping[str, Tensor], hops: int) -> Iterator[dict[str, Tensor]]:
        cuts = torch.randperm(max(1, hops - 1), generator=generator)[: hops // 3] + 1
        edges = [0, *sorted(cuts.tolist()), hops]
        for pieces in ([hops], [b - a for a, b in itertools.pairwise(edges)], [1] * hops):
            yield run_pieces(session, model, inputs, pieces)

    return differences(model, ((1, 1), (1, 2), (2, 7), (3, 40)), runs, generator)


def differences(
    model: StreamingModel,
    sizes: Iterable[tuple[int, int]],
    runs: Callable[[Mapping[str, Tensor], int], Iterable[Mapping[str, Tensor]]],
    generator: torch.Generator,
) -> dict[str, float]:
    """Return the greatest difference of other runs from torch's, by output and packed state.

    For each of `sizes`, batch and hops, `runs` gets whole inputs and their hops, and gives outputs and last
    states by name, as often as it likes. Raises ExportError for one of another shape.
    """
    errors: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for batch, hops in sizes:
        inputs = example(model, batch, hops, generator)
        expected, state = model.run(inputs, model.initial_state(batch))
        expected |= pack_state(state)
        for found in runs(inputs, hops):
            for name, reference in expected.items():
                if found[name].shape != reference.shape:
                    raise ExportError(
                        f"{name}: the file gives {tuple(found[name].shape)}, torch {tuple(reference.shape)}"
                    )
                error, peak = _apart(model, name, found[name], reference, inputs)
                errors.setdefault(name, []).append(error)
                peaks[name] = max(peaks.get(name, 1e-20), peak)
    worst = {name: max(of) / peaks[name] for name, of in errors.items()}
    return {name: error if math.isfinite(error) else math.inf for name, error in worst.items()}


def _apart(
    model: StreamingModel, name: str, ours: Tensor, theirs: Tensor, inputs: Mapping[str, Tensor]
) -> tuple[float, float]:
    """Return by how much values differ at most, and the peak that this is relative to.

    Integers are equal or wrong, except codes: where codewords are about equally near, either may be chosen.
    So the first code that differs in a frame is judged by the distances of both codewords. The codes after it
    code the remainder of the first one, and are not judged.
    """
    if theirs.is_floating_point():
        difference = float((ours - theirs).abs().nan_to_num(math.inf).max()) if theirs.numel() else 0.0
        return difference, float(theirs.abs().max()) if theirs.numel() else 0.0
    other = ours != theirs
    if not other.any():
        return 0.0, 1.0
    port = next((port for port in model.outputs if port.name == name), None)
    if port is None or port.type != "codes":
        return math.inf, 1.0
    first = other & (other.cumsum(1) == 1)
    chosen, rival = (model.distances(name, codes, inputs).detach() for codes in (theirs, ours))
    return float((chosen - rival).abs()[first].max()), float(chosen.max())


# --- file ---------------------------------------------------------------------------------------------------


def to_bytes(graph: ir.Model) -> bytes:
    """Return a graph as the content of a file; raise ExportError where it is not valid ONNX."""
    proto = ir.to_proto(graph)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is invalid: {error}") from error
    return proto.SerializeToString()


def export(model: StreamingModel, path: str | Path, config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Write `model` to `path` and return its document; `more` is as in `describe`.

    The document's `equality` is the greatest difference from torch that was seen. Raises ExportError, with
    nothing written, where the graph is invalid or differs from torch by more than TOLERANCE.
    """
    path = Path(path)
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    document = describe(model, config, **more)
    graph = build(model)
    name, error = max(compare(model, to_bytes(graph)).items(), key=lambda item: item[1])
    if error > TOLERANCE:
        raise ExportError(
            f"{path}: not written: ONNX Runtime differs from torch in {name} by {error:.1e} of the peak, "
            f"the limit is {TOLERANCE:g}"
        )
    document["equality"] = float(f"{error:.2g}")
    graph.metadata_props[KEY] = json.dumps(document, default=str)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(to_bytes(graph))
    return document


@torch.no_grad()
def check_file(model: StreamingModel, path: str | Path, seconds: float = 3.0) -> float:
    """Play random inputs through a file in blocks of random sizes, and compare with torch.

    Returns the greatest difference of any output of the runtime from that of `model` over the whole, relative
    to the peak; raises ExportError where it exceeds TOLERANCE.
    """
    from audiomask.runtime.player import Player

    player, random = Player(Artifact.load(path)), np.random.default_rng(0)
    hops = math.ceil(seconds * model.sample_rate / model.hop)
    inputs = example(model, 1, hops, torch.Generator().manual_seed(0))
    player.set({name: inputs.pop(name).numpy()[0] for name in player.artifact.controls})
    first = model.inputs[0]
    end = inputs[first.name].shape[2] - first.per_hop(model.hop) // 2  # not in whole hops
    streams = [port for port in model.inputs if port.is_stream]
    inputs = {port.name: inputs[port.name][:, :, : _frames(end, first, port)] for port in streams}
    if player.artifact.lost and first.type == "pcm":
        inputs[first.name] = inputs[first.name] * (inputs[player.artifact.lost.name] == 0)
    parts, at = [], 0
    while at < end:
        n = min(end - at, int(random.integers(1, 4 * first.per_hop(model.hop) + 1)))
        cuts = {port.name: slice(_frames(at, first, port), _frames(at + n, first, port)) for port in streams}
        parts.append(player.feed(**{name: inputs[name][0, :, cut].numpy() for name, cut in cuts.items()}))
        at += n
    parts.append(player.flush())
    given = {name: torch.from_numpy(value) for name, value in player.engine.controls.items()}
    total = math.ceil((end / first.rate + model.delay) / model.hop) * model.hop
    for port in streams:
        given[port.name] = model.filled(inputs[port.name], port, end / first.rate, total, inputs[first.name])
    expected, _ = model.run(given, model.initial_state(1))
    error = 0.0
    for port in model.outputs:
        ours = torch.from_numpy(np.concatenate([part[port.name] for part in parts], 1))[None]
        start, count = int(model.delay * port.rate), _frames(end, first, port)
        if ours.shape[2] != count:
            raise ExportError(f"{path}: {port.name}: the runtime gives {ours.shape[2]} frames, not {count}")
        theirs = expected[port.name].clone()
        theirs[:, :, start : start + count] = ours  # the rest is before and after the signal
        difference, peak = _apart(model, port.name, theirs, expected[port.name], given)
        error = max(error, difference / max(peak, 1e-20))
    if error > TOLERANCE:
        raise ExportError(f"{path}: the runtime differs from torch by {error:.1e} of the peak")
    return error


def _frames(frames: int, first: Port, port: Port) -> int:
    """Return the frames of `port` in the time of `frames` frames of the first stream."""
    return math.ceil(frames / first.rate * port.rate)
