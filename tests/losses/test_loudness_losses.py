"""AudioSeal's loudness loss against audiocraft's formula, by julius and torchaudio, and its properties."""

import math

import pytest
import torch
from torch.nn import functional as F

from audiomask import losses
from audiomask.losses.loudness import k_weighting, mel_low_passes


def signals(batch=1, samples=16000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ref = 0.1 * torch.randn(batch, samples, generator=generator)
    return ref + 0.01 * torch.randn(batch, samples, generator=generator), ref


def published(est, ref, rate):
    """`TFLoudnessRatio` of audiocraft for one clip `[1, T]`, without the mean that ends it."""
    julius = pytest.importorskip("julius")
    from audiomask.frontend.torchaudio_import import torchaudio

    functional = torchaudio.functional
    split = julius.SplitBands(sample_rate=rate, n_bands=16)

    def windows(x):
        bands = split(x[:, None]).reshape(16, -1)
        frame = int(0.5 * rate)
        stride = int(frame * 0.5)
        count = math.ceil(bands.shape[1] / stride)
        bands = F.pad(bands, (0, (count - 1) * stride + frame - bands.shape[1]))
        return bands.unfold(1, frame, stride).reshape(-1, frame)

    def loudness(x):
        x = functional.treble_biquad(x, rate, 4.0, 1500.0, 1 / math.sqrt(2))
        x = functional.highpass_biquad(x, rate, 38.0, 0.5)
        gate = round(0.4 * rate)
        energy = x.square().unfold(-1, gate, round(gate * 0.25)).mean(-1)
        return -0.691 + 10 * torch.log10(energy + torch.finfo(torch.float32).eps)

    ratio = (loudness(windows(est) - windows(ref)) - loudness(windows(ref))).reshape(-1, 1)
    return (torch.softmax(ratio, 0) * ratio).sum()


@pytest.mark.peer
@pytest.mark.parametrize(("rate", "samples"), [(16000, 16000), (16000, 5001), (24000, 30011), (44100, 50000)])
def test_equals_the_published_formula(rate, samples):
    est, ref = signals(1, samples)
    ours = losses.TFLoudnessLoss(rate)(est, ref)
    torch.testing.assert_close(ours, published(est, ref, rate), rtol=1e-4, atol=1e-3)


def test_the_bands_add_up_and_have_one_width_in_mel():
    rate = 16000
    taps = torch.from_numpy(mel_low_passes(rate, 16))
    # a low pass has half its gain at the cutoff
    mel = torch.linspace(0, 2595 * math.log10(1 + rate / 2 / 700), 17, dtype=torch.float64)[1:-1]
    hz = 700 * (10 ** (mel / 2595) - 1)
    n = torch.arange(taps.shape[1]) - taps.shape[1] // 2
    gain = (taps * torch.cos(2 * math.pi * hz[:, None] / rate * n)).sum(1)
    torch.testing.assert_close(gain, torch.full_like(gain, 0.5), atol=0.01, rtol=0)
    _, ref = signals(2, 8000)
    bands = losses.TFLoudnessLoss(rate)._split(ref)
    assert bands.shape == (2, 16, 8000)
    torch.testing.assert_close(bands.sum(1), ref, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_the_weighting_has_the_gains_of_bs1770(rate):
    """Within .4 dB, from the standard's curve: -.7 dB (its constant) at 997 Hz makes 0 dB, +4 at the top."""
    h = torch.from_numpy(k_weighting(rate, rate))
    db = 20 * torch.log10(torch.fft.rfft(h).abs())
    assert float(db[997]) == pytest.approx(0.69, abs=0.4)
    assert float(db[7000]) == pytest.approx(4.0, abs=0.2)
    assert float(db[38]) == pytest.approx(-6.0, abs=0.4)


def test_an_error_that_is_a_tenth_of_the_signal_is_20_db_softer_everywhere():
    ref = 5 * signals(2, 24000)[1]  # loud enough that the floor under the logarithm is far below the error
    loss = losses.TFLoudnessLoss(16000)
    torch.testing.assert_close(loss(1.1 * ref, ref), torch.tensor(-20.0), atol=0.05, rtol=0)


def test_what_sticks_out_counts():
    """An error of one power is dearer where the reference is soft: in another band, in a pause."""
    t = torch.arange(32000) / 16000
    ref = 0.3 * torch.sin(2 * math.pi * 500 * t) * (t < 1) + 1e-3 * signals(1, 32000)[1][0]
    loss = losses.TFLoudnessLoss(16000)

    def value(hz, when):
        return float(loss((ref + 0.01 * torch.sin(2 * math.pi * hz * t) * when)[None], ref[None]))

    hidden = value(510, t < 1)
    assert value(4000, t < 1) > hidden + 10
    assert value(510, t >= 1) > hidden + 10


def test_clips_count_alone():
    est, ref = signals(3, 12000)
    loss = losses.TFLoudnessLoss(16000)
    alone = torch.stack([loss(est[i : i + 1], ref[i : i + 1]) for i in range(3)]).mean()
    torch.testing.assert_close(loss(est, ref), alone)
    torch.testing.assert_close(loss(est[:, None], ref[:, None]), alone)


@pytest.mark.parametrize("est", ["zero", "equal", "noise"])
@pytest.mark.parametrize("ref", ["zero", "noise"])
def test_gradient_is_finite(est, ref):
    noisy, clean = signals(1, 9000)
    clean = clean * (ref == "noise")
    x = {"zero": torch.zeros_like(clean), "equal": clean.clone(), "noise": noisy}[est].requires_grad_()
    loss = losses.TFLoudnessLoss(16000)(x, clean)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


def test_impossible_settings_are_refused():
    for wrong in ({"bands": 1}, {"segment": 0.3}, {"overlap": 1.0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="need 2 bands"):
            losses.TFLoudnessLoss(16000, **wrong)
