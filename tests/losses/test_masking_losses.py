"""The noise-to-mask loss: silent below the threshold, in dB above it, and what training by it does."""

import math
from pathlib import Path

import pytest
import soundfile
import torch

from audiomask import losses
from audiomask.losses.masking import EARS

RATE = 16000
DEMO = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo"
ears = pytest.mark.parametrize("ear", EARS)


def speech(seconds=2.0):
    x, _ = soundfile.read(DEMO / "mixture_clean.flac", dtype="float32", frames=round(seconds * RATE))
    return torch.from_numpy(x)[None]


def sine(hz, db, seconds=1.0):
    t = torch.arange(round(seconds * RATE)) / RATE
    return 10 ** ((db - 96) / 20) * torch.sin(2 * math.pi * hz * t)[None]


def white(x, seed=0):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@ears
def test_the_ratio_is_in_db(ear):
    loss, ref = losses.NoiseToMaskLoss(RATE, ear=ear), speech()
    noise = white(ref)
    softer, louder = (loss.ratio(ref + gain * noise, ref)[:, 2:-2] for gain in (0.1, 0.2))
    torch.testing.assert_close(
        louder - softer, torch.full_like(softer, 20 * math.log10(2)), atol=0.01, rtol=0
    )


@ears
def test_noise_at_the_threshold_has_a_ratio_of_0_db(ear):
    """Noise whose bins have on average the power of the threshold of a steady sound."""
    loss, ref = losses.NoiseToMaskLoss(RATE, ear=ear), sine(1000, 70, 4.0) + 1e-3 * white(sine(1, 1, 4.0))
    mask, _ = loss.ear.step(loss.analysis(ref[:, None]), None)
    shape = mask[0, 0, 5:-5].log().mean(0).exp().sqrt()
    n = ref.shape[1]
    spectrum = torch.fft.rfft(white(ref, 1)[0])
    at = torch.linspace(0, 1, len(spectrum)) * (len(shape) - 1)
    gain = shape[at.round().long()] / math.sqrt(0.375 * loss.ear.size)
    noise = torch.fft.irfft(spectrum * gain, n)[None]
    ratio = loss.ratio(ref + noise, ref)[0, 5:-5]
    power = 10 * torch.log10((10 ** (ratio / 10)).mean(0))
    assert power[2:].abs().max() < 3  # below 200 Hz the threshold falls faster than the window's sides
    assert power[2:].abs().mean() < 0.8


@ears
def test_what_is_masked_costs_nothing(ear):
    loss, ref = losses.NoiseToMaskLoss(RATE, ear=ear), sine(1000, 80)
    near = loss(ref + sine(1100, 35), ref)
    far = loss(ref + sine(5000, 35), ref)
    assert near < 0.02
    assert far > 1
    assert loss(ref, ref) == 0
    strict = losses.NoiseToMaskLoss(RATE, ear=ear, margin=30.0)
    assert strict(ref + sine(1100, 35), ref) > near + 0.2


@ears
def test_in_silence_the_absolute_threshold_decides(ear):
    loss, silence = losses.NoiseToMaskLoss(RATE, ear=ear), torch.zeros(1, RATE)
    assert loss(sine(100, 15), silence) < 0.05  # of 23 dB
    assert loss(sine(3300, 15), silence) > 0.3  # of -5 dB
    quieter = losses.NoiseToMaskLoss(RATE, ear=ear, full_scale_db=70.0)
    assert quieter(sine(3300, 15), silence) < 0.05


@ears
def test_a_clip_counts_as_much_as_another(ear):
    loss = losses.NoiseToMaskLoss(RATE, ear=ear)
    ref = torch.cat([speech(1.0), 0.1 * white(torch.zeros(1, RATE))])
    est = ref + 0.01 * white(ref, 1)
    alone = torch.stack([loss(est[i : i + 1], ref[i : i + 1]) for i in range(2)]).mean()
    torch.testing.assert_close(loss(est[:, None], ref[:, None]), alone)


@ears
@pytest.mark.parametrize("est", ["zero", "equal", "noise"])
@pytest.mark.parametrize("ref", ["zero", "speech"])
def test_gradient_is_finite(ear, est, ref):
    clean = speech(1.0) * (ref == "speech")
    x = {"zero": torch.zeros_like(clean), "equal": clean.clone(), "noise": 0.1 * white(clean)}[est]
    x.requires_grad_()
    loss = losses.NoiseToMaskLoss(RATE, ear=ear)(x, clean)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    assert bool(x.grad.any()) == (not torch.equal(x, clean))


def test_following_the_gradient_hides_noise_in_an_objective():
    ref = speech(1.0)
    x = (ref + 0.003 * white(ref)).requires_grad_()
    objective = losses.Objective(
        {"nmr": losses.NoiseToMaskLoss(RATE), "loudness": losses.TFLoudnessLoss(RATE)},
        {"nmr": 1.0, "loudness": 0.5},
        balancer=losses.Balancer(),
    )
    optimizer, values = torch.optim.Adam([x], 1e-3), []
    for _ in range(10):
        optimizer.zero_grad()
        scalar, parts = objective({"marked": x[:, None]}, {"marked": ref[:, None]})
        scalar.backward()
        optimizer.step()
        values.append(parts["nmr"])
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 96000])
def test_any_rate(rate):
    x = 0.1 * white(torch.zeros(1, rate))
    assert 0 < losses.NoiseToMaskLoss(rate)(x + white(x, 1), x) < 60


def test_an_unknown_ear_is_refused():
    with pytest.raises(ValueError, match="johnston, model1"):
        losses.NoiseToMaskLoss(RATE, ear="left")
