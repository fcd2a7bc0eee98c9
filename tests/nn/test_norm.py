"""Norms against their definitions, written out frame by frame."""

import math

import pytest
import torch
from torch import nn

from audiomask.nn.norm import BLOCK, ActiveGain, FrameNorm, RunningNorm
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


def test_active_gain_by_its_definition():
    x = torch.rand(2, 1, 30, 5, dtype=torch.float64)
    keep, roots, total, expected = math.exp(-1 / 9), 3e-4, 3e-4, []
    for frame in x.sum(3).unbind(2):
        rms = frame.sqrt() / 0.3  # over the level
        roots, total = keep * (roots - 3e-4) + rms.sqrt() + 3e-4, keep * (total - 3e-4) + rms + 3e-4
        expected.append((roots / total) ** 2)
    gain = ActiveGain(9, 0.3)(x)
    torch.testing.assert_close(gain[..., 0], torch.stack(expected, 2), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("db", [-40, -10, 30])
def test_active_gain_undoes_the_level_whatever_it_is(db):
    x = torch.rand(1, 1, 50, 5)
    gain = ActiveGain(250, 0.1)
    ratio = gain(x * 10 ** (db / 10)) / gain(x)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 10 ** (-db / 20)), atol=0, rtol=0.02)


def test_active_gain_ignores_silence_and_hardly_minds_pauses_and_clicks():
    speech, silence = torch.ones(1, 1, 100, 4), torch.zeros(1, 1, 300, 4)
    gain = ActiveGain(250, 0.1)
    alone = gain(speech)[0, 0, -1]
    assert gain(silence).isfinite().all()
    torch.testing.assert_close(gain(torch.cat([silence, speech], 2))[0, 0, -1], alone, atol=0, rtol=0.02)
    click = speech.clone()
    click[:, :, 50] *= 1e3  # 30 dB
    assert 20 * math.log10(alone / gain(click)[0, 0, -1]) < 5
    hiss = torch.cat([speech, 1e-4 * torch.ones(1, 1, 100, 4)], 2)  # at -40 dB
    assert 20 * math.log10(gain(hiss)[0, 0, -1] / alone) < 3


def test_active_gain_of_long_signals_is_that_of_their_parts():
    x = torch.rand(1, 1, 3 * BLOCK + 7, 4)
    gain = ActiveGain(250, 0.1)
    state, parts = gain.initial_state(1), []
    for part in x.split(100, 2):
        y, state = gain.step(part, state)
        parts.append(y)
    torch.testing.assert_close(gain(x), torch.cat(parts, 2), atol=0, rtol=1e-5)
