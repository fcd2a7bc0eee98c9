"""Analysis and synthesis: perfect reconstruction, parity, and the transform that is exported."""

import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.frontend.stft import (
    Analysis,
    Centred,
    RealDft,
    Synthesis,
    compress,
    dual_window,
    magnitude,
    power,
    window,
)
from audiomask.streaming import Delay, Sequential


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def as_complex(spectrum):
    return torch.complex(spectrum[:, 0], spectrum[:, 1])  # [B, T, F]


@settings(max_examples=50, deadline=None)
@given(
    half=st.integers(4, 60),
    share=st.floats(0.1, 0.5),
    name=st.sampled_from(["sqrt_hann", "hann", "hamming", "vorbis"]),
    lag=st.integers(0, 50),
    length=st.integers(1, 400),
)
def test_reconstruction_is_perfect(half, share, name, lag, length):
    size, hop = 2 * half, max(1, int(share * 2 * half))
    model = Sequential(Delay(lag, 1), Analysis(size, hop, name), Synthesis(size, hop, name))
    x = torch.rand(2, 1, length) * 2 - 1
    gain = model[1].window.norm() * model[2].window.norm()  # rounding grows with both
    assert (model(x) - x).abs().max() < 1e-6 * max(1.0, float(gain) / half**0.5)


@pytest.mark.parametrize(("size", "hop"), [(512, 256), (512, 128), (400, 160), (960, 480), (1536, 768)])
def test_reconstruction_to_1e_6(size, hop):
    model = Sequential(Analysis(size, hop), Synthesis(size, hop))
    x = torch.rand(1, 1, 7 * size + 5) * 2 - 1
    assert (model(x) - x).abs().max() <= 1e-6
    assert (model.hop, model.delay) == (hop, size - hop)


def test_rectangular_blocks_have_no_delay():
    model = Sequential(Analysis(64, 64, "rect"), Synthesis(64, 64, "rect"))
    x = torch.rand(1, 1, 200)
    torch.testing.assert_close(model(x), x, atol=1e-6, rtol=0)
    assert model.delay == 0


def test_channels_are_interleaved():
    x = torch.randn(2, 3, 640)
    stereo, mono = Analysis(64, 32, channels=3), Analysis(64, 32)
    torch.testing.assert_close(stereo(x)[:, 2:4], mono(x[:, 1:2]))
    both = Sequential(stereo, Synthesis(64, 32, channels=3))
    torch.testing.assert_close(both(x), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "hop"), [(512, 256), (960, 480)])
def test_equals_torch_stft(size, hop):
    x = torch.randn(2, 1, 10 * hop)
    w = window("hann", size)
    theirs = torch.stft(x[:, 0], size, hop, window=w, center=True, pad_mode="constant", return_complex=True)
    ours = as_complex(Analysis(size, hop, "hann")(x))
    torch.testing.assert_close(ours, theirs.transpose(1, 2)[:, : ours.shape[1]], atol=1e-4, rtol=1e-4)


def test_equals_librosa_and_scipy():
    x = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    ours = as_complex(Analysis(512, 256, "hann")(torch.from_numpy(x)[None, None]))[0].numpy()
    theirs = librosa.stft(x, n_fft=512, hop_length=256, window="hann", pad_mode="constant").T
    np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-4)
    transform = scipy.signal.ShortTimeFFT(scipy.signal.get_window("hann", 512), 256, fs=1)
    theirs = transform.stft(x.astype(np.float64)).T[-transform.p_min :]
    turn = np.exp(1j * np.pi * np.arange(257))  # scipy counts time from the middle of the window
    np.testing.assert_allclose(ours, turn * theirs[: len(ours)], atol=1e-4)


@pytest.mark.parametrize("size", [32, 320, 480, 512, 960, 1536, 2 * 257, 1024])
def test_exported_transform_equals_fft(size, monkeypatch):
    dft, x = RealDft(size), torch.randn(3, 4, size)
    spectrum, back = dft(x), None
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    ours = dft(x)
    back = dft.inverse(ours)
    assert (ours - spectrum).abs().max() < 2e-6 * size**0.5 * 4
    torch.testing.assert_close(back, x, atol=3e-6, rtol=0)


def test_composite_sizes_split():
    assert RealDft(512).factors in ((16, 32), (32, 16))
    assert RealDft(1536).factors is not None
    assert RealDft(2 * 257).factors is None  # a prime: one product


def test_inverse_ignores_the_imaginary_parts_that_real_signals_lack(monkeypatch):
    dft, x = RealDft(64), torch.randn(1, 2, 3, 33)
    expected = dft.inverse(x)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(dft.inverse(x), expected, atol=1e-6, rtol=0)


def test_windows_equal_scipy():
    for ours, theirs in [("hann", "hann"), ("hamming", "hamming"), ("rect", "boxcar")]:
        np.testing.assert_allclose(window(ours, 50).numpy(), scipy.signal.get_window(theirs, 50), atol=1e-6)
    torch.testing.assert_close(window("sqrt_hann", 50) ** 2, window("hann", 50))
    vorbis = window("vorbis", 50) ** 2
    torch.testing.assert_close(vorbis[:25] + vorbis[25:], torch.ones(25))


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="no window 'kaiser'"):
        Analysis(64, 32, "kaiser")
    with pytest.raises(ValueError, match="shorten the hop"):
        dual_window(window("hann", 64), 64)
    with pytest.raises(ValueError, match="at least the hop"):
        Analysis(64, 65)
    with pytest.raises(ValueError, match="frames of 64 samples"):
        Analysis(64, 32, torch.ones(60))


def test_spectra():
    x = torch.randn(2, 4, 5, 9)  # two signals
    z = torch.view_as_complex(x.unflatten(1, (2, 2)).movedim(2, -1).contiguous())
    torch.testing.assert_close(power(x), z.abs() ** 2)
    torch.testing.assert_close(magnitude(x), z.abs())
    small = torch.view_as_complex(compress(x, 0.3).unflatten(1, (2, 2)).movedim(2, -1).contiguous())
    torch.testing.assert_close(small.abs(), z.abs() ** 0.3)
    torch.testing.assert_close(small.angle(), z.angle())


def test_gradients_at_silence_are_finite():
    x = torch.zeros(1, 2, 3, 4, requires_grad=True)
    (magnitude(x).sum() + compress(x).sum()).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("pad", ["constant", "reflect"])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("length", [256, 1000])
def test_centred_transforms_equal_torch(pad, normalized, length):
    x, hann = torch.randn(2, 3, length), torch.hann_window(128)
    block = Centred(128, 32, pad=pad, normalized=normalized)
    want = torch.stft(x.flatten(0, 1), 128, 32, window=hann, pad_mode=pad, return_complex=True)
    want = want / hann.square().sum().sqrt() if normalized else want
    got = block.spectra(x)
    pairs = torch.view_as_real(want).permute(0, 3, 2, 1).reshape(got.shape)
    torch.testing.assert_close(got, pairs, rtol=0, atol=1e-5)
    torch.testing.assert_close(block.signals(got, length), x, rtol=0, atol=1e-5)
    changed = got * torch.rand(got.shape[-1])  # no longer of any signal
    theirs = changed.unflatten(1, (3, 2)).flatten(0, 1).permute(0, 3, 2, 1).contiguous()
    theirs = torch.view_as_complex(theirs)
    theirs = theirs * hann.square().sum().sqrt() if normalized else theirs
    want = torch.istft(theirs, 128, 32, window=hann, length=length).view(2, 3, -1)
    torch.testing.assert_close(block.signals(changed, length), want, rtol=0, atol=1e-5)


def test_centred_transforms_take_whole_hops():
    with pytest.raises(ValueError, match="whole hops"):
        Centred(128, 48)
