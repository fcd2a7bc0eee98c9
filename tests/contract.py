"""What every streaming model must keep, as functions that take a model. Each raises AssertionError where it
is broken.

`CONTRACT` lists them; `as_model` makes a model of any block. `tests/test_contract.py` shows that each of them
fails on a block made wrong in the way that it is there to find.
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
from torch import Tensor

from audiomask.export import graph, packing, proof
from audiomask.ports import Port
from audiomask.streaming import Streaming, StreamingModel, flatten_state, tree_map, whole

TOLERANCE = 1e-5  # of the peak


class BlockModel(StreamingModel):
    """A block that maps `[B, *shape with T at 2]` as a model whose stream has prod(shape) channels."""

    def __init__(self, block: Streaming, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.block, self.shape, self.name = block, shape, type(block).__name__
        self.hop, self.rate, self.delay = block.hop, block.rate, block.delay
        self.inputs = (Port("audio", channels=math.prod(shape)),)
        self.outputs = (Port("output", rate=block.rate),)

    def initial_state(self, batch, device=None, dtype=torch.float32):
        return self.block.initial_state(batch, device, dtype)

    def step(self, x, state, **controls):
        if len(self.shape) == 2:
            x = x.unflatten(1, self.shape).transpose(2, 3)
        y, state = self.block.step(x, state)
        return (y.transpose(2, 3).flatten(1, 2) if y.ndim == 4 else y), state


def as_model(block: Streaming, shape: tuple[int, ...]) -> BlockModel:
    return BlockModel(block, shape)


# --- helpers ------------------------------------------------------------------------------------------------


def inputs_of(model: StreamingModel, batch: int, hops: int, seed: int = 0) -> dict[str, Tensor]:
    """Random whole hops for every port."""
    return packing.example(model, batch, hops, torch.Generator().manual_seed(seed))


def whole_step(model: StreamingModel, inputs: dict[str, Tensor], state=None) -> tuple[list[Tensor], object]:
    """Outputs of one step over `inputs`, and the state after it."""
    if state is None:
        state = model.initial_state(inputs[model.inputs[0].name].shape[0])
    y, state = model.run(inputs, state)
    return list(y.values()), state


def part(model: StreamingModel, inputs: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    """Hops `start` to `stop` of the streams; controls as they are."""
    out = dict(inputs)
    for port in model.inputs:
        if port.is_stream:
            n = port.per_hop(model.hop)
            out[port.name] = inputs[port.name][:, :, start * n : stop * n]
    return out


def stepwise(
    model: StreamingModel, inputs: dict[str, Tensor], edges: list[int]
) -> tuple[list[Tensor], object]:
    """Outputs and last state when `inputs` are cut at the hops `edges` (from 0 to the end)."""
    state, pieces = None, []
    for start, stop in itertools.pairwise(edges):
        y, state = whole_step(model, part(model, inputs, start, stop), state)
        pieces.append(y)
    return [torch.cat(parts, 2) for parts in zip(*pieces, strict=True)], state


def assert_close(ours: list[Tensor], theirs: list[Tensor], what: str, tolerance: float = TOLERANCE) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape, f"{what}: {tuple(a.shape)} and {tuple(b.shape)}"
        if not b.is_floating_point():
            assert torch.equal(a, b), f"{what}: differs in {int((a != b).sum())} of {b.numel()}"
            continue
        error = float((a - b).abs().max() / b.abs().max().clamp_min(1e-9))
        assert error <= tolerance, f"{what}: differs by {error:.1e} of the peak"


def random_edges(hops: int, generator: torch.Generator) -> list[int]:
    cuts = (
        torch.randperm(hops - 1, generator=generator)[: int(torch.randint(1, hops, (), generator=generator))]
        + 1
    )
    return [0, *sorted(cuts.tolist()), hops]


# --- the contract -------------------------------------------------------------------------------------------


@torch.no_grad()
def random_chunking_equals_whole(model: StreamingModel, seed: int = 0) -> None:
    """Steps of any number of hops give what one step over all gives, in outputs and in the state that
    remains.
    """
    generator = torch.Generator().manual_seed(seed)
    hops = 24
    inputs = inputs_of(model, 2, hops, seed)
    reference, end = whole_step(model, inputs)
    for edges in ([*range(hops + 1)], random_edges(hops, generator), random_edges(hops, generator)):
        ours, last = stepwise(model, inputs, edges)
        assert_close(ours, reference, "random chunking")
        for (name, a), (_, b) in zip(flatten_state(last), flatten_state(end), strict=True):
            assert_close([a.double()], [b.double()], f"state {name} after random chunking")


@torch.no_grad()
def forward_is_step_flushed_and_trimmed(model: StreamingModel, seed: int = 0) -> None:
    """`forward` of any length has ceil(T * rate) frames and is the trimmed output of steps."""
    generator = torch.Generator().manual_seed(seed)
    flush = math.ceil(model.delay / model.hop) + 1
    first, streams = model.inputs[0], [port for port in model.inputs if port.is_stream]
    for frames in {1, first.per_hop(model.hop), 3 * first.per_hop(model.hop) + 1, 5 * model.hop - 1}:
        length = frames / first.rate  # samples
        hops = math.ceil(length / model.hop) + flush
        inputs = inputs_of(model, 1, hops, seed)
        short = dict(inputs)
        for port in streams:
            short[port.name] = inputs[port.name][:, :, : math.ceil(length * port.rate)]
            inputs[port.name] = model.filled(
                short[port.name], port, length, hops * model.hop, inputs[first.name]
            )
        y = model(short.pop(first.name), **short)
        steps, _ = stepwise(model, inputs, random_edges(hops, generator))
        for ours, theirs, port in zip(y if isinstance(y, tuple) else (y,), steps, model.outputs, strict=True):
            assert ours.shape[2] == math.ceil(length * port.rate), (
                f"{port.name}: {ours.shape[2]} for {length} samples"
            )
            start = whole(model.delay * port.rate)
            assert_close(
                [ours], [theirs[:, :, start : start + ours.shape[2]]], f"forward of {length} samples"
            )


@torch.no_grad()
def future_never_changes_the_past(model: StreamingModel, seed: int = 0) -> None:
    """A change from frame t on leaves what steps before t's hop put out as it was, and shows in the end;
    for a t at every phase of the hop. Row p of one batch has the change at phase p.
    """
    # What the first `delay` put out is unspecified, so the change comes after it.
    before = after = 2 + math.ceil(model.delay / model.hop)
    phases = model.hop
    base = inputs_of(model, 1, before + after, seed)
    other = inputs_of(model, 1, before + after, seed + 1)
    inputs = {name: value.repeat(phases + 1, *(1,) * (value.ndim - 1)) for name, value in base.items()}
    for port in model.inputs:
        if port.is_stream:
            for phase in range(phases):
                start = math.ceil((before * model.hop + phase) * port.rate)
                inputs[port.name][phase, :, start:] = other[port.name][0, :, start:]
    y, _ = whole_step(model, inputs)
    for values, port in zip(y, model.outputs, strict=True):
        peak = values.abs().max()
        heard = whole(before * model.hop * port.rate)
        change = (values[:-1] - values[-1:]).abs()
        early = change[:, :, :heard].flatten(1).amax(1) > 1e-6 * peak
        assert not early.any(), (
            f"{port.name}: the future shows in the past at phases {early.nonzero()[:, 0].tolist()}"
        )
        assert change[0].max() > 1e-6 * peak, f"{port.name}: a change of the input changes nothing"


@torch.no_grad()
def rows_are_independent(model: StreamingModel, seed: int = 0) -> None:
    """A row's output does not depend on the other rows of its batch."""
    inputs = inputs_of(model, 3, 5, seed)
    together, _ = whole_step(model, inputs)
    for row in range(3):
        alone, _ = whole_step(model, {name: value[row : row + 1] for name, value in inputs.items()})
        assert_close(alone, [y[row : row + 1] for y in together], f"row {row} alone")


@torch.no_grad()
def restored_state_continues_identically(model: StreamingModel, seed: int = 0) -> None:
    """From a copy of a state, whatever ran in between, a step gives bit for bit the same."""
    inputs = inputs_of(model, 2, 6, seed)
    _, state = whole_step(model, part(model, inputs, 0, 3))
    snapshot, kept = tree_map(torch.clone, state), tree_map(torch.clone, state)
    first, _ = whole_step(model, part(model, inputs, 3, 6), state)
    whole_step(model, inputs_of(model, 2, 4, seed + 1))
    again, _ = whole_step(copy.deepcopy(model), part(model, inputs, 3, 6), snapshot)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b), "a restored state continues differently"
    for (name, a), (_, b) in zip(flatten_state(state), flatten_state(kept), strict=True):
        assert torch.equal(a, b), f"step changed its input, the state {name}"


def gradients_flow(model: StreamingModel, seed: int = 0) -> None:
    """Every parameter, and the input, gets a gradient that is finite, and not all zero.

    Codes carry none, so of a model that takes them the input is not asked, and one that gives nothing else is
    trained as a part of its network.
    """
    if not any(port.dtype.kind == "f" for port in model.outputs):
        return
    model = copy.deepcopy(model).train()
    inputs = inputs_of(model, 2, 6 + math.ceil(model.delay / model.hop), seed)
    audio = inputs.pop(model.inputs[0].name)
    audio.requires_grad_(audio.is_floating_point())
    y = model(audio, **inputs)
    # a fixed random projection: a plain sum is blind where a norm or a softmax keeps the sum
    generator = torch.Generator().manual_seed(seed)
    loss = sum(
        (v * torch.randn(v.shape, generator=generator)).sum() for v in (y if isinstance(y, tuple) else (y,))
    )
    loss.backward()
    for name, tensor in [("the input", audio), *model.named_parameters()]:
        if not tensor.requires_grad:
            continue
        if tensor.grad is None and len(getattr(type(model), "parts", ())) > 1:
            continue  # another part's
        assert tensor.grad is not None, f"no gradient reaches {name}"
        assert tensor.grad.isfinite().all(), f"the gradient of {name} is not finite"
        assert tensor.grad.any(), f"the gradient of {name} is zero"


def onnx_equals_torch(model: StreamingModel, seed: int = 0) -> None:
    """ONNX Runtime equals torch at several lengths and batch sizes, whole and in pieces."""
    model = copy.deepcopy(model).eval()
    for name, error in proof.compare(model, graph.to_bytes(graph.build(model)), seed).items():
        assert error <= TOLERANCE, f"ONNX Runtime differs from torch in {name} by {error:.1e} of the peak"


def output_is_aligned_with_input(model: StreamingModel, seed: int = 0) -> None:
    """Output n of `forward` follows input n more than any other: the declared delay is the true one.

    For models that pass their input on (denoisers, residual blocks). Causality cannot tell: a model may look
    ahead less than it waits. Mean |dy[n] / dx[n + k]| must be greatest at k = 0. Other streams are zero.
    """
    model = copy.deepcopy(model).eval()
    reach = model.delay + 2 * model.hop
    frames = 2 * reach + 4 * model.hop
    x = inputs_of(model, 1, math.ceil(frames / model.hop), seed)
    audio = x.pop(model.inputs[0].name)[:, :, :frames].requires_grad_()
    for port in model.inputs[1:]:
        if port.kind == "stream":
            x[port.name] = torch.zeros_like(x[port.name][:, :, : math.ceil(frames * port.rate)])
    y = model(audio, **x)
    y = y[0] if isinstance(y, tuple) else y
    profile = torch.zeros(2 * reach + 1)
    for n in torch.linspace(reach, frames - reach - 1, 24).long().tolist():
        (gradient,) = torch.autograd.grad(y[:, :, n].sum(), audio, retain_graph=True)
        profile += gradient.abs().sum((0, 1))[n - reach : n + reach + 1]
    best = int(profile.argmax()) - reach
    assert best == 0, f"the output is {abs(best)} frames {'early' if best > 0 else 'late'}"


def delay_is_composed(model: StreamingModel) -> None:
    """Hop and delay are those of the blocks that a signal runs through, and not typed in."""
    declared = (model.hop, model.delay)
    assert model.path or not model.delay, (
        f"a delay of {model.delay} that comes from no blocks: `compose` them"
    )
    if model.path:
        model = copy.deepcopy(model)
        model.compose(*model.path, rate=model.inputs[0].rate)
        assert (model.hop, model.delay) == declared, (
            f"hop and delay are {declared}, those of the blocks {(model.hop, model.delay)}"
        )


CONTRACT = (
    random_chunking_equals_whole,
    forward_is_step_flushed_and_trimmed,
    future_never_changes_the_past,
    rows_are_independent,
    restored_state_continues_identically,
    gradients_flow,
    onnx_equals_torch,
)
