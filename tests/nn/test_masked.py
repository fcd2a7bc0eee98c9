"""A masked spectrum waits for a network that looks ahead."""

import contract
import pytest
import torch

from audiomask.frontend.stft import Analysis, Synthesis
from audiomask.nn.conv import Conv2d
from audiomask.nn.masked import Masked


class Masks(Masked):
    """A mask of 1 and a little, from a convolution that looks ahead so many frames of 32 samples."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.name = "masks"
        self.net = Conv2d(2, 2, (ahead + 1, 1), lookahead=ahead, freqs=33)
        self.between(Analysis(64, 32), self.net, Synthesis(64, 32))
        with torch.no_grad():
            self.net.weight.mul_(0.01)
            self.net.bias.copy_(torch.tensor([1.0, 0.0]))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize(
    "clause",
    [*contract.CONTRACT, contract.delay_is_composed, contract.output_is_aligned_with_input],
    ids=lambda clause: clause.__name__,
)
def test_contract(clause, ahead):
    clause(Masks(ahead))


@pytest.mark.parametrize("ahead", [0, 2])
def test_hop_and_delay_come_from_the_blocks(ahead):
    model = Masks(ahead)
    assert (model.hop, model.delay, model.latency) == (32, 32 + 32 * ahead, 64 + 32 * ahead)
    assert [port.name for port in model.outputs] == ["enhanced"]


@torch.no_grad()
def test_the_mask_is_of_its_own_frame():
    """Only the look-ahead's last tap is on: the mask of a frame is made from that frame, and not from those
    that are there when it is applied."""
    model, x = Masks(2), torch.randn(1, 1, 320)
    model.net.weight.zero_()
    torch.testing.assert_close(model(x), x)
    model.net.weight[0, 0, 0, 0] = 0.1  # of the oldest of three frames, which is the one that waits
    spectrum, _ = model.analysis.step(x, model.analysis.initial_state(1))
    mask = torch.cat([1 + 0.1 * spectrum[:, :1], torch.zeros_like(spectrum[:, :1])], 1)
    expected, _ = model.synthesis.step(mask[:, :1] * spectrum, model.synthesis.initial_state(1))
    torch.testing.assert_close(model(x)[:, :, :-32], expected[:, :, 32:])


def test_a_spectrum_that_does_not_wait_is_found():
    model = Masks(2)
    model.wait.frames = 0
    with pytest.raises(AssertionError, match="64 frames early"):
        contract.output_is_aligned_with_input(model)
