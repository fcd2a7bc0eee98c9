"""Prove that an exported graph or file computes what torch computes, whole and in pieces."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from audiomask.export.packing import ExportError, example, pack_state
from audiomask.ports import Port
from audiomask.runtime.artifact import Artifact, open_graph
from audiomask.streaming import StreamingModel

TOLERANCE = 1e-5  # relative to the peak, in float32; frameworks choose other kernels for other lengths


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
    sizes. Differences are relative to the peak over all of them; `apart` judges each type.
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
                error, peak = apart(model, name, found[name], reference, inputs)
                errors.setdefault(name, []).append(error)
                peaks[name] = max(peaks.get(name, 1e-20), peak)
    worst = {name: max(of) / peaks[name] for name, of in errors.items()}
    return {name: error if math.isfinite(error) else math.inf for name, error in worst.items()}


def apart(
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
        difference, peak = apart(model, port.name, theirs, expected[port.name], given)
        error = max(error, difference / max(peak, 1e-20))
    if error > TOLERANCE:
        raise ExportError(f"{path}: the runtime differs from torch by {error:.1e} of the peak")
    return error


def _frames(frames: int, first: Port, port: Port) -> int:
    """Return the frames of `port` in the time of `frames` frames of the first stream."""
    return math.ceil(frames / first.rate * port.rate)
