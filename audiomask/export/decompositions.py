"""Speed up `torch.onnx.export`: `with short_translation(): torch.onnx.export(...)`.

The exporter traces a network, traces it twice more to decompose the operators that ONNX has no translation
for, then runs it once more to find where types mix; with symbolic sizes each time costs as much as the first.
Here the few operators without a translation are decomposed one by one, in place, and the last pass is left
out where all is float32. A program that needs more than that goes the exporter's own way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx

ATEN = torch.ops.aten
RESHAPES = (ATEN.reshape.default, ATEN.flatten.using_ints, ATEN.reshape_as.default)
KEPT = (*RESHAPES, ATEN.chunk.default)  # views composed of other views become those, but for these


def _plain(graph: fx.Graph) -> bool:
    """Return whether all nodes are functions without in-place changes or graphs of their own."""
    return all(
        node.op in ("placeholder", "output")
        or (
            node.op == "call_function"
            and not isinstance(node.target, torch._ops.HigherOrderOperator)
            and not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable)
        )
        for node in graph.nodes
    )


def _replace(
    program: ExportedProgram, node: fx.Node, rule: Callable[..., Any], table: Mapping[Any, Callable[..., Any]]
) -> None:
    """Put the operators that `rule` runs on the inputs of `node` in its place."""
    sources = node.all_input_nodes

    def body(*values: Any) -> Any:
        value_of = dict(zip(sources, values, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), value_of.__getitem__)
        result = rule(*args, **kwargs)
        return tuple(result) if isinstance(result, tuple) else result  # a named one is no plain output

    every = (other.meta.get("val") for other in node.graph.nodes)
    with next(value.fake_mode for value in every if isinstance(value, Tensor)):  # type: ignore[attr-defined]
        inner = make_fx(body, decomposition_table=table)(*(source.meta["val"] for source in sources)).graph
    with node.graph.inserting_before(node):
        inputs = zip(inner.find_nodes(op="placeholder"), sources, strict=True)
        result = node.graph.graph_copy(inner, dict(inputs))
    if isinstance(result, fx.Node):
        pairs = [(node, result)]
    else:  # of several outputs, each user takes one
        pairs = [(user, cast(Any, result)[user.args[1]]) for user in node.users]
    for old, new in pairs:
        old.replace_all_uses_with(new)
        program.graph_signature.replace_all_uses(old.name, new.name)


def decompose(program: ExportedProgram, known: set[Any], table: Mapping[Any, Callable[..., Any]]) -> None:
    """Replace operators of `program` not in `known`, by `table` or as torch decomposes them."""
    graph = program.graph
    for node in list(graph.nodes):
        op = node.target
        if not isinstance(op, torch._ops.OpOverload):
            continue
        sizes = [-1, -1]
        if op in RESHAPES:
            sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
        if sizes.count(-1) < 2:
            node.target, node.args, node.kwargs = ATEN.reshape.default, (node.args[0], sizes), {}
        elif op == ATEN.batch_norm.default and not node.args[5]:  # frequent, so not traced
            with graph.inserting_before(node):
                norm = ATEN._native_batch_norm_legit_no_training.default
                made = graph.call_function(norm, (*node.args[:5], *node.args[6:8]))
            made.meta = {**node.meta, "val": (node.meta["val"], None, None)}
            node.target, node.args = operator.getitem, (made, 0)
        elif op in table:
            _replace(program, node, table[op], table)
        elif op._can_decompose() and (op not in known or (op.is_view and op not in KEPT)):
            _replace(program, node, op.decompose, table)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


@contextmanager
def short_translation() -> Iterator[None]:
    """Let `torch.onnx.export` go the short way where this version of torch has its stages."""
    try:
        from torch.onnx._internal.exporter import _decomp, _fx_passes

        whole, promote = _fx_passes.decompose_with_registry, _fx_passes.insert_type_promotion_nodes
    except (ImportError, AttributeError):
        yield
        return

    def short(program: ExportedProgram, registry: Any) -> ExportedProgram:
        if not _plain(program.graph):
            return whole(program, registry)
        known = set(_decomp.get_onnx_implemented_overloads(registry))
        decompose(program, known, _decomp.create_onnx_friendly_decomposition_table(known))
        return program

    def promote_mixed(module: fx.GraphModule) -> None:
        values = [node.meta.get("val") for node in module.graph.nodes if node.users]
        if any(isinstance(value, Tensor) and value.dtype != torch.float32 for value in values):
            promote(module)

    with (
        mock.patch.object(_fx_passes, "decompose_with_registry", short),
        mock.patch.object(_fx_passes, "insert_type_promotion_nodes", promote_mixed),
        # of symbolic sizes the cache costs more than it saves
        torch._dynamo.config.patch(fake_tensor_cache_enabled=False),
    ):
        yield
