"""Mixes of stems: what is wanted adds up to what is given, at the levels that were asked for."""

import pytest
import torch

from audiomask.data.simulate.degrade import active_level
from audiomask.data.simulate.stems import Stems

SR = 8000
PLAIN = {"absent": 0.0, "speed_p": 0.0, "eq_p": 0.0, "reverb_p": 0.0, "squeeze_p": 0.0, "delay_p": 0.0}


def raw(rows: int, simulation: Stems, names=("speech", "music"), layers: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shape = (rows, layers, 2, simulation.crop)
    batch = {name: 0.1 * torch.randn(shape, generator=g) for name in names}
    return batch | {"seed": torch.arange(rows) + 3}


@pytest.mark.parametrize("settings", [{}, PLAIN, {"absent": 0.9}])
def test_stems_sum_to_the_mix(settings):
    simulation = Stems(SR, 4000, **settings)
    example = simulation.example(raw(16, simulation))
    assert list(example.wanted) == ["speech", "music"]
    mix = example.given["audio"]
    assert mix.shape == (16, 2, 4000)
    torch.testing.assert_close(sum(example.wanted.values()), mix)
    assert mix.isfinite().all()
    assert mix.abs().max() <= 0.991


def test_a_row_is_drawn_by_its_seed():
    simulation = Stems(SR, 4000, reverb_p=0.5, eq_p=0.5)
    batch = raw(12, simulation)
    together = simulation.example(batch).given["audio"]
    for i in range(12):
        row = {name: value[i : i + 1] for name, value in batch.items()}
        torch.testing.assert_close(simulation.example(row).given["audio"], together[i : i + 1])


def test_levels_are_in_their_ranges():
    simulation = Stems(SR, 8000, gain_db=(-6.0, 6.0), level_dbfs=(-30.0, -30.0), **PLAIN)
    example = simulation.example(raw(64, simulation))
    levels = [active_level(x.square().mean(1).sqrt(), SR) for x in example.wanted.values()]
    apart = 20 * (levels[0] / levels[1]).log10()
    assert -12.1 < apart.min() < -6
    assert 6 < apart.max() < 12.1
    mix = active_level(example.given["audio"].square().mean(1).sqrt(), SR)
    torch.testing.assert_close(20 * mix.log10(), torch.full((64,), -30.0), atol=0.1, rtol=0)


def test_absent_stems_are_silent_and_one_is_always_there():
    simulation = Stems(SR, 2000, absent=0.8)
    example = simulation.example(raw(64, simulation, ("a", "b", "c")))
    there = torch.stack([x.abs().amax((1, 2)) > 0 for x in example.wanted.values()], 1)
    assert there.any(1).all()
    assert 0.25 < there.float().mean() < 0.55


def test_silent_recordings_stay_silent():
    simulation = Stems(SR, 2000, **PLAIN)
    batch = raw(4, simulation)
    batch["music"] = torch.zeros_like(batch["music"])
    example = simulation.example(batch)
    assert not example.wanted["music"].any()
    assert example.wanted["speech"].abs().amax((1, 2)).min() > 0.01


def test_pan_keeps_speech_in_the_middle_and_moves_others():
    simulation = Stems(SR, 4000, pan={"speech": 0.0}, wide=(0.0, 0.0), **PLAIN)
    example = simulation.example(raw(32, simulation))
    left, right = example.wanted["speech"].unbind(1)
    torch.testing.assert_close(left, right)
    power = example.wanted["music"].square().mean(2)
    assert (10 * (power[:, 0] / power[:, 1]).log10()).abs().max() > 6


def test_compression_narrows_the_levels():
    loud_and_soft = torch.cat([torch.full((4000,), 1.0), torch.full((4320,), 0.1)])
    simulation = Stems(SR, 8000, **(PLAIN | {"squeeze_p": 1.0}))
    batch = raw(32, simulation, ("music",))
    batch["music"] = batch["music"] * loud_and_soft
    x = simulation.example(batch).wanted["music"].square().mean(1)
    apart = 10 * (x[:, 500:3500].mean(1) / x[:, 4500:7500].mean(1)).log10()
    assert apart.min() < 14
    assert 18 < apart.max() < 21


def test_speeds_of_the_crop():
    assert Stems(SR, 4000).crop == 4720
    assert Stems(SR, 4000, speed_p=0.0).crop == 4320
