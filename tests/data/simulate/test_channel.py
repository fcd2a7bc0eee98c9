"""Wind and codecs do what they say and shift nothing in time; `Degrade` uses them, and lost packets."""

import numpy as np
import pytest
import soundfile
import torch

from audiomask.data.simulate.channel import CODECS, coded, wind
from audiomask.data.simulate.degrade import Degrade

RATE = 16000


def speech_like(n=16000, seed=0):
    g = np.random.default_rng(seed)
    x = np.convolve(g.standard_normal(n + 30), np.hanning(31), "valid")[:n]  # little above 1 kHz
    return (0.2 * x / np.abs(x).max()).astype(np.float32)


def test_wind_is_low_and_comes_in_gusts():
    g = torch.Generator().manual_seed(0)
    gusts = torch.zeros(3, 10)
    gusts[:, 5:] = -20
    x = wind(torch.randn(3, 32000, generator=g), gusts, torch.tensor([60.0, 100.0, 200.0]), RATE)
    assert torch.allclose(x.square().mean(1), torch.ones(3), rtol=1e-4)
    power = torch.fft.rfft(x).abs().square()
    f = torch.fft.rfftfreq(32000, 1 / RATE)
    share = power[:, f < 500].sum(1) / power.sum(1)
    assert (share > 0.9).all()
    assert share.argmin() == 2
    assert power[:, f < 10].sum() == 0 or power[:, f < 10].sum() < 1e-3 * power.sum()
    drop = 10 * torch.log10(x[:, :14000].square().mean(1) / x[:, 18000:].square().mean(1))
    assert ((drop > 15) & (drop < 25)).all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("length", [16000, 15999])
def test_codecs_keep_length_and_place(codec, length):
    x = speech_like(length)
    y = coded(x, RATE, codec, 0.2)
    assert y.shape == x.shape
    error = 10 * np.log10((x[500:-500] ** 2).sum() / ((x - y)[500:-500] ** 2).sum())
    assert error > 6
    for shift in (-2, -1, 1, 2):  # nowhere else does it fit better
        assert ((np.roll(x, shift) - y)[500:-500] ** 2).sum() > ((x - y)[500:-500] ** 2).sum()


@pytest.mark.parametrize("codec", [name for name, (_, _, levels) in CODECS.items() if levels])
def test_more_effort_to_save_bits_costs_quality(codec):
    x = speech_like()
    error = [float(((x - coded(x, RATE, codec, effort)) ** 2).sum()) for effort in (0.0, 1.0)]
    assert error[1] > error[0]


def test_libsndfile_has_all_of_them():
    for container, subtype, _ in CODECS.values():
        assert subtype in soundfile.available_subtypes(container)


QUIET = {
    "snr_db": (60.0, 60.0), "high_snr": 0, "clean": 1.0, "reverb_p": 0, "band_limit_p": 0, "clip_p": 0,
    "speed_p": 0, "eq_db": 0, "level_dbfs": (-26.0, -26.0), "modulate_p": 0,
}  # fmt: skip


def degraded(**options):
    make = Degrade(RATE, 16000, **QUIET | options)
    speech = torch.from_numpy(np.stack([speech_like(make.crop, i) for i in range(4)]))
    noise = torch.randn(4, 2, make.crop, generator=torch.Generator().manual_seed(0))
    return make(speech, noise, torch.arange(4))


def test_degrade_loses_packets_of_the_noisy_signal_only():
    whole, lossy = degraded(), degraded(loss_p=1.0, loss=(0.3, 0.3))
    assert torch.allclose(whole[1], lossy[1])
    gone = (lossy[0].reshape(4, -1, 320) == 0).all(2)
    assert 0.1 < gone.float().mean() < 0.5
    kept = ~gone.repeat_interleave(320, 1)
    assert torch.allclose(whole[0][kept], lossy[0][kept])


def test_degrade_codes_the_noisy_signal_only():
    whole, through = degraded(), degraded(codec_p=1.0, codecs=("mulaw",))
    assert torch.allclose(whole[1], through[1])
    change = (whole[0] - through[0]).square().sum(1) / whole[0].square().sum(1)
    assert ((change > 1e-6) & (change < 1e-2)).all()


def test_degrade_adds_wind_to_the_noise():
    calm, windy = degraded(clean=0.0, snr_db=(0.0, 0.0)), degraded(clean=0.0, snr_db=(0.0, 0.0), wind_p=1.0)
    f = torch.fft.rfftfreq(16000, 1 / RATE)
    low = [torch.fft.rfft(n - c).abs().square()[:, f < 300].sum() for n, c in (calm, windy)]
    total = [(n - c).square().sum() for n, c in (calm, windy)]
    assert low[1] / total[1] > 3 * low[0] / total[0]
    snr = 10 * torch.log10(windy[1].square().mean(1) / (windy[0] - windy[1]).square().mean(1))
    assert snr.abs().max() < 1.5  # the SNR is that of all noise, wind included


def test_an_unknown_codec_is_refused_at_once():
    with pytest.raises(ValueError, match=r"'amr'; there are: opus, .*gsm"):
        Degrade(RATE, 16000, codec_p=0.1, codecs=("amr",))
