"""Hallmark: what it adds streams, stays under the threshold, and grows with its strength."""

import contract
import numpy as np
import pytest
import torch

from audiomask.frontend.stft import Analysis, power
from audiomask.models.hallmark import Hallmark


def sounds(seconds: float = 1.5):
    """Harmonics that swell over noise, `[1, 1, T]`, and a carrier."""
    rng, t = np.random.default_rng(0), np.arange(int(seconds * 125) * 128) / 16000
    x = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 30)) * (0.05 + 0.1 * np.sin(3 * t) ** 2)
    x, carrier = x + 0.003 * rng.standard_normal(len(t)), rng.standard_normal(4096)
    return torch.from_numpy(x).float()[None, None], torch.from_numpy(carrier).float()[None]


def added(model, x, carrier, **controls):
    with torch.no_grad():
        return model.step(x, model.initial_state(1), carrier=carrier, **controls)[0]


@pytest.mark.parametrize("ear", ["model1", "johnston"])
@pytest.mark.parametrize("promise", contract.CONTRACT, ids=lambda f: f.__name__)
def test_contract(promise, ear):
    promise(Hallmark(ear).eval())


def test_it_is_ready_a_hop_after_a_window():
    model = Hallmark()
    assert (model.hop, model.hop + model.delay) == (128, 640)


@pytest.mark.parametrize("ear", ["model1", "johnston"])
def test_it_stays_under_the_threshold(ear):
    x, carrier = sounds()
    model = Hallmark(ear).eval()
    y = added(model, x, carrier)[..., model.delay :]
    spectra = [
        analysis.step(each, analysis.initial_state(1))[0]
        for analysis in [Analysis(512, 128, "sqrt_hann")]
        for each in (x[..., : y.shape[2]], y)
    ]
    threshold = model.threshold.step(spectra[0], None)[0]
    over = power(spectra[1]) > threshold
    assert over[..., 4:].float().mean() < 0.01
    # and it is there: within 30 dB of what is allowed in most bins that have a carrier
    assert (power(spectra[1]) > threshold * 1e-3)[..., 8:200].float().mean() > 0.8


def test_strength_scales_it_and_silence_stays_silent():
    x, carrier = sounds()
    model = Hallmark().eval()
    one, two = (added(model, x, carrier, strength=torch.tensor([s])) for s in (1.0, 2.0))
    assert torch.allclose(2 * one, two, atol=1e-7)
    assert not added(model, torch.zeros_like(x), carrier).any()
    soft = 1e-4 * x  # all of it under the threshold of hearing
    assert added(model, soft, carrier).square().mean() < 0.05 * soft.square().mean()


@pytest.mark.parametrize("budget", [-26.3, -40.0])
def test_it_has_its_part_of_the_energy_and_less_of_it_in_loud_places(budget):
    x, carrier = sounds(4)
    x = torch.cat((0.05 * x[..., :32000], x[..., 32000:]), 2)  # 2 s soft, 2 s loud
    model = Hallmark(budget=budget).eval()
    y = added(model, x, carrier)[..., model.delay :]
    x = x[..., : y.shape[2]]
    ratio = lambda part: 10 * torch.log10(y[part].square().sum() / x[part].square().sum())  # noqa: E731
    soft, loud = ratio(np.s_[..., 8000:30000]), ratio(np.s_[..., 34000:])
    assert budget - 2 < ratio(np.s_[...]) < budget + 0.5
    assert loud < soft + 0.5
