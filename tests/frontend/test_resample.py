"""The resampler against scipy and torchaudio, and its response."""

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.frontend.resample import Resample, low_pass
from audiomask.frontend.torchaudio_import import torchaudio
from audiomask.streaming import Delay, Sequential

RATES = [(48000, 16000), (16000, 48000), (44100, 16000), (8000, 16000), (32000, 48000), (16000, 44100)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("source", "target"), RATES)
def test_equals_scipy(source, target):
    x = torch.randn(2, 2, 3001)
    model = Resample(source, target, channels=2, zeros=10, rolloff=1.0, beta=5.0)
    theirs = scipy.signal.resample_poly(x.double().numpy(), target, source, axis=2)
    assert np.abs(model(x).numpy() - theirs).max() < 3e-6


@pytest.mark.parametrize(("source", "target"), [(48000, 16000), (16000, 24000)])
def test_equals_torchaudio(source, target):
    x = torch.randn(1, 1, 2000)
    theirs = torchaudio.functional.resample(x, source, target, lowpass_filter_width=12, rolloff=0.9,
                                            resampling_method="sinc_interp_kaiser", beta=8.0)  # fmt: skip
    # its kernel is the same sinc and window, as wide as 12 zero crossings, not scaled to unit gain
    ratio = max(source, target) // np.gcd(source, target)
    n = np.arange(-(12 * ratio * 10 // 9), 12 * ratio * 10 // 9 + 1)
    t = np.clip(n * 0.9 / ratio, -12, 12)
    taps = np.sinc(t) * np.i0(8.0 * np.sqrt(1 - (t / 12) ** 2)) / np.i0(8.0) * 0.9 / ratio
    ours = Resample(source, target, taps=torch.from_numpy(taps))(x)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(up=st.integers(1, 7), down=st.integers(1, 7), lag=st.integers(0, 20), length=st.integers(1, 200))
def test_any_ratio_and_lag_equals_scipy(up, down, lag, length):
    model = Sequential(Delay(lag, 1), Resample(down, up, zeros=4, rolloff=1.0, beta=5.0))
    x = torch.rand(1, 1, length)
    common = np.gcd(up, down)
    ratio = max(up, down) // common
    taps = low_pass(ratio, 4, 1.0, 5.0).numpy()
    theirs = scipy.signal.resample_poly(x.double().numpy(), up, down, axis=2, window=taps)
    assert model(x).shape == theirs.shape
    assert np.abs(model(x).numpy() - theirs).max() < 2e-6


def test_passband_is_flat_and_aliases_are_gone():
    frequency, response = scipy.signal.freqz(low_pass(3).numpy(), fs=48000, worN=4800)
    level = 20 * np.log10(np.abs(response) + 1e-9)
    assert np.abs(level[frequency < 6500]).max() < 0.1
    assert level[frequency > 9000].max() < -80


def test_there_and_back():
    t = torch.arange(16000) / 16000
    x = torch.sin(2 * torch.pi * 1000 * t)[None, None]
    model = Sequential(Resample(16000, 48000), Resample(48000, 16000))
    torch.testing.assert_close(model(x)[..., 200:-200], x[..., 200:-200], atol=2e-4, rtol=0)
    assert model.delay == 48  # 24 of 16 kHz up, 72 of 48 kHz down


def test_even_prototypes_are_refused():
    with pytest.raises(ValueError, match="no middle"):
        Resample(2, 1, taps=torch.ones(4))
