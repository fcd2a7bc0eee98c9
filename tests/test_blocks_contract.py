"""Every block of `nn_blocks` keeps every clause of the contract."""

import math

import pytest
import torch
from contract import CONTRACT, BlockModel, as_model, onnx_equals_torch
from nn_blocks import BLOCKS, make

from audiomask.streaming import Port, StreamingModel, whole

IN_TORCH = [clause for clause in CONTRACT if clause is not onnx_equals_torch]


@pytest.mark.parametrize("clause", IN_TORCH, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_keeps_the_contract(name, clause):
    clause(as_model(*make(name)))


class Bundle(StreamingModel):
    """Blocks side by side in one graph, each with its own output, as exports take seconds each."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleDict({name: as_model(*make(name)) for name in names})
        self.hop = math.lcm(*(block.hop for block in self.blocks.values()))
        self.widths = [math.prod(block.shape) for block in self.blocks.values()]
        self.inputs = (Port("audio", channels=sum(self.widths)),)
        self.outputs = tuple(Port(name, rate=block.rate) for name, block in self.blocks.items())

    def initial_state(self, batch, device=None, dtype=torch.float32):
        return {name: block.initial_state(batch, device, dtype) for name, block in self.blocks.items()}

    def step(self, x, state, **controls):
        pairs = zip(x.split(self.widths, 1), self.blocks.items(), strict=True)
        results = {name: block.step(part, state[name]) for part, (name, block) in pairs}
        return tuple(y for y, _ in results.values()), {name: after for name, (_, after) in results.items()}


def _bundles() -> list[list[str]]:
    """Blocks of one hop together: a hop of 1 must not become one of 48 by company."""
    hops: dict[int, list[str]] = {}
    for name in BLOCKS:
        hops.setdefault(make(name)[0].hop, []).append(name)
    slow = [name for names in hops.values() if len(names) < 3 for name in names]
    fast = [names for names in hops.values() if len(names) >= 3]
    return [names[i : i + 12] for names in [*fast, slow] for i in range(0, len(names), 12)]


@pytest.mark.parametrize("names", _bundles(), ids=lambda names: names[0])
def test_blocks_in_onnx_runtime_equal_torch(names):
    onnx_equals_torch(Bundle(names).eval())


def test_every_block_is_in_a_bundle():
    assert sorted(name for names in _bundles() for name in names) == sorted(BLOCKS)


def test_block_model_keeps_delay_and_hop():
    block, shape = make("conv-late-lattice")
    model = BlockModel(block, shape)
    assert (model.hop, model.delay) == (4, 4)  # 2 of look-ahead, 2 to stay on the lattice
    assert whole(model.delay * model.rate) == 1
