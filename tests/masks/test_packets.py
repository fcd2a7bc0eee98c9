"""Lost packets come at the rate and in the bursts asked for, and leave silence."""

import pytest
import torch

from audiomask.masks.packets import bursts, lose, packets

RATE = 16000


@pytest.mark.parametrize(("rate", "length"), [(0.05, 1.0), (0.2, 3.0), (0.5, 8.0)])
def test_bursts_have_the_rate_and_the_length_asked_for(rate, length):
    uniform = torch.rand(200, 2000, generator=torch.Generator().manual_seed(0))
    lost = bursts(uniform, torch.full((200,), rate), torch.full((200,), length))
    assert abs(float(lost.float().mean()) - rate) < 0.02
    starts = (lost[:, 1:] & ~lost[:, :-1]).sum()
    assert abs(float(lost[:, 1:].sum() / starts) - length) < 0.1 * length


def test_lost_packets_are_silent_and_the_others_whole():
    x = torch.ones(1, 1000)
    y = lose(x, torch.tensor([[False, True, False, True]]), 320)
    assert y[0].reshape(-1, 40).mean(1).tolist() == [1] * 8 + [0] * 8 + [1] * 8 + [0]
    assert packets(1000, RATE, 20.0) == (4, 320)
