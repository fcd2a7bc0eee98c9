"""Pack a model's nested state into one tensor for each type, and draw example inputs."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from audiomask.audio import AudioError
from audiomask.ports import Port
from audiomask.streaming import State, StreamingModel, flatten_state, unflatten_state

PACKS = {torch.float32: "state_f32", torch.int64: "state_i64"}


class ExportError(AudioError):
    """An error for a model that cannot be exported, or whose graph computes something else."""


def packs_of(model: StreamingModel) -> dict[torch.dtype, list[tuple[str, Tensor]]]:
    """Return the initial state of one row, by type, in the order in which it is packed."""
    leaves = flatten_state(model.initial_state(1))
    other = [name for name, tensor in leaves if tensor.dtype not in PACKS]
    if other:
        raise ExportError(f"{model.name}: states {other} are neither float32 nor int64")
    packs = {dtype: [leaf for leaf in leaves if leaf[1].dtype == dtype] for dtype in PACKS}
    return {dtype: leaves for dtype, leaves in packs.items() if leaves}


def pack_state(state: State) -> dict[str, Tensor]:
    """Return a state as the graph's tensors: `{"state_f32": [B, n], "state_i64": [B, k]}`."""
    leaves, packs = [tensor for _, tensor in flatten_state(state)], {}
    for dtype, name in PACKS.items():
        own = [tensor for tensor in leaves if tensor.dtype == dtype]
        if own:
            packs[name] = torch.cat([x.flatten(1) if x.ndim > 1 else x[:, None] for x in own], 1)
    return packs


def folded(model: StreamingModel) -> StreamingModel:
    """Return a copy of a model to export, with parametrized (normed) weights as plain ones."""
    model = copy.deepcopy(model).cpu().float().eval()
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            plain = {name: getattr(module, name).detach() for name in module.parametrizations}  # type: ignore
            # torch's own removal would take the weight from the class, which the copied model has too
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, value in plain.items():
                module.register_parameter(name, nn.Parameter(value))
    return model.requires_grad_(False)


class Packed(nn.Module):
    """A model that is a function of tensors only: streams, controls, packed states."""

    def __init__(self, model: StreamingModel) -> None:
        super().__init__()
        self.model = model
        self.like = model.initial_state(1)
        self.sizes = {
            dtype: [max(1, tensor[0].numel()) for _, tensor in leaves]
            for dtype, leaves in packs_of(model).items()
        }

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ports = self.model.inputs
        given = dict(zip([port.name for port in ports], inputs, strict=False))
        pieces = {
            dtype: iter(pack.split(sizes, 1))
            for pack, (dtype, sizes) in zip(inputs[len(ports) :], self.sizes.items(), strict=True)
        }
        like = [tensor for _, tensor in flatten_state(self.like)]
        tensors = [next(pieces[tensor.dtype]).reshape(-1, *tensor.shape[1:]) for tensor in like]
        state = unflatten_state(self.like, tensors) if tensors else None
        y, state = self.model.run(given, state)
        return (*y.values(), *pack_state(state).values())


def port_names(model: StreamingModel) -> tuple[list[str], list[str]]:
    packs = [PACKS[dtype] for dtype in packs_of(model)]
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
