"""Norms against their definitions, written out frame by frame."""

import math

import pytest
import torch
from torch import nn

from audiomask.nn.norm import CumulativeNorm, FrameNorm, RunningNorm
from audiomask.streaming import Delay, Sequential


class Lifted(nn.Module):
    """So that what is before the signal is not zero, and counting it would show."""

    def forward(self, x):
        return x + 2


def cumulative(x, eps):
    out = []
    for t in range(x.shape[2]):
        seen = x[:, :, : t + 1].flatten(1)
        mean, var = seen.mean(1), seen.var(1, correction=0)
        shape = (-1,) + (1,) * (x.ndim - 2)
        out.append((x[:, :, t] - mean.view(shape)) / (var + eps).sqrt().view(shape))
    return torch.stack(out, 2)


@pytest.mark.parametrize("shape", [(2, 3, 20), (2, 3, 20, 5)])
@pytest.mark.parametrize("lag", [0, 4])
def test_cumulative(shape, lag):
    x = torch.randn(shape) * 3
    frame = shape[1:2] + shape[3:]
    model = Sequential(Delay(lag, frame), Lifted(), CumulativeNorm(3))
    torch.testing.assert_close(model(x), cumulative(x + 2, 1e-5), atol=2e-5, rtol=1e-4)


def test_cumulative_keeps_its_precision_for_days():
    model = CumulativeNorm(1, affine=False)
    state = {"mean": torch.tensor([[[0.5], [1.25]]]), "seen": torch.tensor([2**33])}
    y, after = model.step(torch.full((1, 1, 3), 1.5), state)
    torch.testing.assert_close(y, torch.ones(1, 1, 3))
    assert after["seen"].item() == 2**33 + 3


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("over", ["frame", "bin"])
@pytest.mark.parametrize("lag", [0, 4])
def test_running(over, center, lag):
    # float64: the variance of a few nearly equal frames is a difference of nearly equal squares
    x = torch.randn(2, 3, 20, 5, dtype=torch.float64)
    model = RunningNorm(3, 7, over, center, freqs=5)
    keep = math.exp(-1 / 7)
    level, mean, weight, expected = 0.0, 0.0, 0.0, []
    for frame in (x + 2).unbind(2):
        pool = (lambda v: v.mean((1, 2), keepdim=True)) if over == "frame" else (lambda v: v)
        level, mean = keep * level + pool(frame**2), keep * mean + pool(frame)
        weight = keep * weight + 1
        power = level / weight - center * (mean / weight) ** 2
        expected.append((frame - center * mean / weight) / (power + 1e-8).sqrt())
    late = Sequential(Delay(lag, (3, 5)), Lifted(), model)
    ours, theirs = late(x), torch.stack(expected, 2)
    # the first frame of a centred bin is 0 / 0: nothing to compare
    start = 1 if center and over == "bin" else 0
    torch.testing.assert_close(ours[:, :, start:], theirs[:, :, start:], atol=1e-6, rtol=1e-6)


def test_running_level_is_right_from_the_first_frame():
    y = RunningNorm(1, 1000)(torch.full((1, 1, 4), 0.01))
    torch.testing.assert_close(y, torch.ones(1, 1, 4), atol=1e-3, rtol=0)


def test_frame_norm_equals_layer_norm():
    x = torch.randn(2, 6, 9)
    expected = nn.LayerNorm(6)(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(FrameNorm(6)(x), expected)
    maps = torch.randn(2, 3, 4, 5)
    expected = nn.functional.layer_norm(maps.transpose(1, 2), (3, 5)).transpose(1, 2)
    torch.testing.assert_close(FrameNorm(3)(maps), expected)
