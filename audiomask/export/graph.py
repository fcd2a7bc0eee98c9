"""Make the ONNX graph of a streaming model, and simplify it."""

from __future__ import annotations

import logging
import warnings
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes

from audiomask import __version__
from audiomask.export.decompositions import short_translation
from audiomask.export.packing import ExportError, Packed, example, folded, pack_state, port_names
from audiomask.nn.recurrent import prepare_export
from audiomask.streaming import StreamingModel

OPSET = 23  # the first with Attention


def build(model: StreamingModel) -> ir.Model:
    """Return the simplified graph of `model.step`, weights included; batch and time are dynamic."""
    model = folded(model)
    prepare_export(model)
    inputs, outputs = port_names(model)
    batch, hops = torch.export.Dim("batch"), torch.export.Dim("hops")
    values = example(model, 2, 3, torch.Generator().manual_seed(0))
    packs = pack_state(model.initial_state(2))
    shapes: list[dict[int, Any]] = [{0: batch} for _ in (*values, *packs)]
    for port, shape in zip(model.inputs, shapes, strict=False):
        if port.is_stream:
            per_hop = port.per_hop(model.hop)
            shape[2] = hops if per_hop == 1 else per_hop * hops
    quiet = mock.patch.object(logging.getLogger("torch.onnx"), "level", logging.ERROR)
    with quiet, warnings.catch_warnings(action="ignore"), short_translation():
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
    """Give each output of a Scan its own value, since ONNX Runtime leaves a repeated one unset."""
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
        tensor = ir.tensor(np.array(sizes, np.int64), name=f"{y.name}_shape")
        kind, shape = ir.TensorType(tensor.dtype), ir.Shape([len(sizes)])
        constant = ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
        graph.register_initializer(constant)
        node.replace_input_with(0, source)
        node.replace_input_with(1, constant)
        node.attributes.pop("allowzero", None)


def to_bytes(graph: ir.Model) -> bytes:
    """Return a graph as the content of a file; raise ExportError where it is not valid ONNX."""
    proto = ir.to_proto(graph)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is invalid: {error}") from error
    return proto.SerializeToString()
