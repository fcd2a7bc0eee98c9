"""Prove that an exported graph or file computes what torch computes, whole and in pieces."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from audiomask.export.packing import ExportError, example, pack_state
from audiomask.ports import Port
from audiomask.runtime.artifact import Artifact, open_graph
from audiomask.streaming import StreamingModel

TOLERANCE = 1e-5  # relative to the peak, in float32; frameworks choose other kernels for other lengths

Named: TypeAlias = Mapping[str, Tensor]


class Graph:
    """An ONNX graph of `model` that runs as a `torch_program.Program` does."""

    def __init__(self, graph: bytes | str | Path, model: StreamingModel) -> None:
        self.session, self.model = open_graph(graph), model
        self.names = [value.name for value in self.session.get_outputs()]

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return pack_state(self.model.initial_state(batch))

    def step(self, inputs: Named, state: Named) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run some hops; return outputs by name and the next state."""
        feed = {name: value.contiguous().numpy() for name, value in {**inputs, **state}.items()}
        found = dict(zip(self.names, map(torch.from_numpy, self.session.run(None, feed)), strict=True))
        after = {name: found.pop(f"next_{name}") for name in state}
        return found, after


def run_pieces(program: Any, model: StreamingModel, inputs: Named, hops: Iterable[int]) -> dict[str, Tensor]:
    """Return outputs and last states of a `Graph` or `Program` that runs in pieces of `hops`."""
    state = program.initial_state(len(inputs[model.inputs[0].name]))
    pieces, at = [], 0
    for n in hops:
        now = dict(inputs)
        for port in model.inputs:
            if port.is_stream:
                burst = port.per_hop(model.hop)
                now[port.name] = inputs[port.name][:, :, at * burst : (at + n) * burst]
        outputs, state = program.step(now, state)
        pieces.append(outputs)
        at += n
    return {name: torch.cat([piece[name] for piece in pieces], 2) for name in pieces[0]} | state


@torch.no_grad()
def compare(model: StreamingModel, graph: bytes | str | Path, seed: int = 0) -> dict[str, float]:
    """Return the greatest difference between torch and ONNX Runtime, by output and packed state.

    torch runs whole, ONNX Runtime whole, hop by hop and in random pieces, over several lengths and batch
    sizes. Differences are relative to the peak over all of them; `apart` judges each type.
    """
    generator = torch.Generator().manual_seed(seed)

    def cuts(hops: int) -> Sequence[Sequence[int]]:
        inner = torch.randperm(max(1, hops - 1), generator=generator)[: hops // 3] + 1
        edges = [0, *sorted(inner.tolist()), hops]
        return [hops], [b - a for a, b in itertools.pairwise(edges)], [1] * hops

    most = max(3, 3 * model.sample_rate // model.hop)  # hops may be windows of seconds
    sizes = [(batch, min(hops, most)) for batch, hops in ((1, 1), (1, 2), (2, 7), (3, 40))]
    return differences(model, Graph(graph, model), sizes, cuts, generator)


def differences(
    model: StreamingModel,
    program: Any,
    sizes: Iterable[tuple[int, int]],
    cuts: Callable[[int], Iterable[Sequence[int]]],
    generator: torch.Generator,
) -> dict[str, float]:
    """Return the greatest difference of a `Graph` or `Program` from torch, by output and state.

    `sizes` are batch and hops of the inputs, and `cuts(hops)` the ways to divide them into pieces. Raises
    ExportError for outputs of another shape.
    """
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for batch, hops in sizes:
        inputs = example(model, batch, hops, generator)
        expected, state = model.run(inputs, model.initial_state(batch))
        expected |= pack_state(state)
        for pieces in cuts(hops):
            ours = run_pieces(program, model, inputs, pieces)
            for name, theirs in expected.items():
                if ours[name].shape != theirs.shape:
                    raise ExportError(
                        f"{name}: the file gives {tuple(ours[name].shape)}, torch {tuple(theirs.shape)}"
                    )
                found[name].append(apart(model, name, ours[name].cpu(), theirs, inputs))
    worst = {
        name: max(e for e, _ in of) / max(1e-20, *(peak for _, peak in of)) for name, of in found.items()
    }
    return {name: error if math.isfinite(error) else math.inf for name, error in worst.items()}


def accepted(error: float, path: Path, words: str) -> float:
    """Return a document's `equality`; raise ExportError where the error exceeds TOLERANCE."""
    if error > TOLERANCE:
        raise ExportError(
            f"{path}: not written: {words} by {error:.1e} of the peak, the limit is {TOLERANCE:g}"
        )
    return float(f"{error:.2g}")


def apart(
    model: StreamingModel, name: str, ours: Tensor, theirs: Tensor, inputs: Named
) -> tuple[float, float]:
    """Return by how much values differ at most, and the peak that this is relative to.

    Integers are equal or wrong, except codes: where codewords are about equally near, either may be chosen.
    So the first code that differs in a frame is judged by the distances of both codewords. The codes after it
    code the remainder of the first one, and are not judged.
    """
    if theirs.is_floating_point():
        if not theirs.numel():
            return 0.0, 0.0
        return float((ours - theirs).abs().nan_to_num(math.inf).max()), float(theirs.abs().max())
    other = ours != theirs
    if not other.any():
        return 0.0, 1.0
    port = next((port for port in model.outputs if port.name == name), None)
    if port is None or port.type != "codes":
        return math.inf, 1.0
    first = other & (other.cumsum(1) == 1)
    chosen, rival = (model.distances(name, codes, inputs).detach() for codes in (theirs, ours))
    return float((chosen - rival).abs()[first].max()), float(chosen.max())


@torch.no_grad()
def check_file(model: StreamingModel, path: str | Path, seconds: float = 3.0) -> float:
    """Play random inputs through a file in blocks of random sizes, and compare with torch.

    Returns the greatest difference of any output of the runtime from that of `model` over the whole, relative
    to the peak; raises ExportError where it exceeds TOLERANCE.
    """
    from audiomask.runtime.player import Player

    player, random = Player(Artifact.load(path)), np.random.default_rng(0)
    first, *_ = streams = [port for port in model.inputs if port.is_stream]

    def count(frames: int, port: Port) -> int:
        """Return the frames of `port` in the time of `frames` frames of the first stream."""
        return math.ceil(frames / first.rate * port.rate)

    hops = math.ceil(seconds * model.sample_rate / model.hop)
    inputs = example(model, 1, hops, torch.Generator().manual_seed(0))
    player.set({name: inputs.pop(name).numpy()[0] for name in player.artifact.controls})
    end = inputs[first.name].shape[2] - first.per_hop(model.hop) // 2  # not in whole hops
    inputs = {port.name: inputs[port.name][:, :, : count(end, port)] for port in streams}
    if player.artifact.lost and first.type == "pcm":
        inputs[first.name] = inputs[first.name] * (inputs[player.artifact.lost.name] == 0)
    parts, at = [], 0
    while at < end:
        n = min(end - at, int(random.integers(1, 4 * first.per_hop(model.hop) + 1)))
        cuts = {port.name: slice(count(at, port), count(at + n, port)) for port in streams}
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
        start, frames = int(model.delay * port.rate), count(end, port)
        if ours.shape[2] != frames:
            raise ExportError(f"{path}: {port.name}: the runtime gives {ours.shape[2]} frames, not {frames}")
        theirs = expected[port.name].clone()
        theirs[:, :, start : start + frames] = ours  # the rest is before and after the signal
        difference, peak = apart(model, port.name, theirs, expected[port.name], given)
        error = max(error, difference / max(peak, 1e-20))
    if error > TOLERANCE:
        raise ExportError(f"{path}: the runtime differs from torch by {error:.1e} of the peak")
    return error
