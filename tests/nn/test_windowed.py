"""Windows put a signal together as if it had been whole, where the network's reach allows."""

import contract
import pytest
import torch
from contract import as_model
from torch.nn import functional as F

from audiomask.nn.windowed import Windowed

KERNEL = torch.randn(1, 1, 41, generator=torch.Generator().manual_seed(0)) / 10
KERNEL[0, 0, 20] = 1.0  # 20 samples to each side


class Blur(torch.nn.Module):
    """Something that is not causal, with a parameter."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(KERNEL.clone())

    def forward(self, x):
        return torch.tanh(F.conv1d(x, self.weight, padding=20))


def blurred(hop, fade):
    network = Blur()
    block = Windowed(network, hop, fade)
    block.network = network
    return block


@pytest.mark.parametrize(("hop", "fade"), [(64, 4), (64, 12), (100, 30)])
@pytest.mark.parametrize("frames", [1, 63, 64, 1000])
@torch.no_grad()
def test_equals_the_whole_within_reach(hop, fade, frames):
    x = torch.randn(2, 1, frames)
    block = blurred(hop, fade)
    got, want = block(x), block.network(x)
    assert got.shape == want.shape
    assert (got - want).abs().max() < 1e-5


@torch.no_grad()
def test_beyond_reach_the_windows_show():
    block = blurred(64, 20)  # 12 samples of context are left for a reach of 20
    x = torch.randn(1, 1, 1000)
    assert (block(x) - block.network(x)).abs().max() > 1e-3


def test_delay_is_what_it_says():
    block = blurred(64, 8)
    assert block.delay == 40
    contract.output_is_aligned_with_input(as_model(block, (1,)))


@pytest.mark.parametrize("promise", contract.CONTRACT, ids=lambda f: f.__name__)
def test_contract(promise):
    promise(as_model(blurred(32, 6), (1,)))


@torch.no_grad()
def test_channels_may_come_out_that_did_not_go_in():
    x, network = torch.randn(2, 2, 500), Blur()

    def three(x):
        y = network(x.flatten(0, 1)[:, None]).view(x.shape)
        return torch.cat([y, y.sum(1, keepdim=True)], 1)

    got, want = Windowed(three, 64, 8, channels=2, outputs=3)(x), three(x)
    assert got.shape == (2, 3, 500)
    assert (got - want).abs().max() < 1e-5


@pytest.mark.parametrize("overlap", [42, 50, 64])
@torch.no_grad()
def test_less_may_overlap(overlap):
    network, fade = Blur(), overlap // 2 - 20
    block, x = Windowed(network, 64, fade, overlap=overlap), torch.randn(2, 1, 500)
    assert block.delay == overlap // 2 + fade
    assert (block(x) - network(x)).abs().max() < 1e-5


@pytest.mark.parametrize(("hop", "fade"), [(63, 4), (64, 33), (64, 0)])
def test_windows_that_cannot_be_are_refused(hop, fade):
    with pytest.raises(ValueError, match="the overlap must be even"):
        Windowed(torch.nn.Identity(), hop, fade)
    with pytest.raises(ValueError, match="no more than the hop"):
        Windowed(torch.nn.Identity(), 64, 4, overlap=66)
