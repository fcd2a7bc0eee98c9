"""Norms against their definitions, written out frame by frame."""

import math

import pytest
import torch
from torch import nn

from audiomask.nn.norm import FrameNorm, RunningNorm
from audiomask.streaming import Delay, Sequential


class Lifted(nn.Module):
    """So that what is before the signal is not zero, and counting it would show."""

    def forward(self, x):
        return x + 2


@pytest.mark.parametrize("lag", [0, 4])
def test_running(lag):
    x = torch.randn(2, 3, 20, 5, dtype=torch.float64)
    keep = math.exp(-1 / 7)
    level, weight, expected = 0.0, 0.0, []
    for frame in (x + 2).unbind(2):
        level, weight = keep * level + (frame**2).mean((1, 2), keepdim=True), keep * weight + 1
        expected.append(frame / (level / weight + 1e-8).sqrt())
    late = Sequential(Delay(lag, (3, 5)), Lifted(), RunningNorm(7))
    torch.testing.assert_close(late(x), torch.stack(expected, 2), atol=1e-6, rtol=1e-6)


def test_running_level_is_right_from_the_first_frame():
    y = RunningNorm(1000)(torch.full((1, 1, 4), 0.01))
    torch.testing.assert_close(y, torch.ones(1, 1, 4), atol=1e-3, rtol=0)


def test_frame_norm_equals_layer_norm():
    x = torch.randn(2, 6, 9)
    expected = nn.LayerNorm(6)(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(FrameNorm(6)(x), expected)
    maps = torch.randn(2, 3, 4, 5)
    expected = nn.functional.layer_norm(maps.transpose(1, 2), (3, 5)).transpose(1, 2)
    torch.testing.assert_close(FrameNorm(3)(maps), expected)
