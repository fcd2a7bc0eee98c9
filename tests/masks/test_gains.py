"""Properties of the ideal masks, and the order of their oracle scores on real mixtures."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.signal import ShortTimeFFT

from audiomask.masks import gains
from audiomask.metrics import score

CORPUS = Path(__file__).parents[2] / "egs/mini/denoise/corpus"
RATE = 16000
STFT = ShortTimeFFT(np.sqrt(np.hanning(513)[:-1]), 256, RATE)


def spectra(seed=0, shape=(20, 30)):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) + 1j * random.standard_normal(shape) for _ in range(2)]


def recording(file, start):
    """Four seconds from `start` s on, `[T]` at RATE."""
    x, rate = soundfile.read(file)
    x = soxr.resample(x, rate, RATE)[int(start * RATE) :][: 4 * RATE]
    assert len(x) == 4 * RATE
    return x


@pytest.fixture(scope="module")
def oracle():
    """Mask -> scores `[mixtures, (SI-SDR, PESQ)]` on real speech in real noise at 0 and 5 dB."""
    speech = sorted((CORPUS / "speech/valid").glob("*.opus"))[:3]
    noise = [
        next(iter(sorted((CORPUS / "noise/valid" / kind).iterdir())))
        for kind in ("rain", "helicopter", "chainsaw")
    ]
    assert len(speech) == len(noise) == 3
    scores = {}
    for clean_file, noise_file in zip(speech, noise, strict=True):
        s, n = recording(clean_file, 0.5), recording(noise_file, 0.0)
        for snr_db in (0.0, 5.0):
            level = np.linalg.norm(s) / np.linalg.norm(n) * 10 ** (-snr_db / 20)
            speech_spectrum, noise_spectrum = STFT.stft(s), STFT.stft(level * n)
            mixture = speech_spectrum + noise_spectrum
            masks = {"none": np.ones(mixture.shape), **gains.ideal(speech_spectrum, noise_spectrum)}
            for name, mask in masks.items():
                heard = STFT.istft(gains.apply(mask, mixture), k1=len(s))
                row = score(s, heard, RATE, ["si_sdr", "pesq_wb"])
                scores.setdefault(name, []).append([row["si_sdr"], row["pesq_wb"]])
    return {name: np.array(rows) for name, rows in scores.items()}


# By squared error the phase-sensitive gain is the best real one (Erdogan et al. 2015) and a complex one beats
# it (Williamson et al. 2016); the Wiener-like gain beats the hard decision, which beats the square-rooted
# ratio.
@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ("none", "ratio"),
        ("ratio", "binary"),
        ("binary", "wiener"),
        ("wiener", "phase_sensitive"),
        ("phase_sensitive", "complex_bounded"),
        ("complex_bounded", "complex"),
    ],
)
def test_oracle_si_sdr_has_the_textbook_order(oracle, worse, better):
    gain = oracle[better][:, 0] - oracle[worse][:, 0]
    assert gain.mean() > 0.3
    assert (gain > 0).mean() >= 0.8


# Perceptually the soft ratio mask beats the binary one, whose musical noise PESQ hears (Wang et al. 2014).
@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ("none", "binary"),
        ("binary", "ratio"),
        ("binary", "wiener"),
        ("wiener", "phase_sensitive"),
        ("phase_sensitive", "complex_bounded"),
        ("complex_bounded", "complex"),
    ],
)
def test_oracle_pesq_has_the_textbook_order(oracle, worse, better):
    gain = oracle[better][:, 1] - oracle[worse][:, 1]
    assert gain.mean() > 0.02
    assert (gain > 0).mean() >= 0.6


def test_the_unbounded_complex_mask_is_exact(oracle):
    assert oracle["complex"][:, 0].min() > 80
    assert oracle["complex"][:, 1].min() > 4.6


def test_ranges_and_definitions():
    s, n = spectra()
    masks = gains.ideal(s, n)
    assert set(np.unique(masks["binary"])) == {0.0, 1.0}
    np.testing.assert_array_equal(masks["binary"] == 1, abs(s) > abs(n))
    np.testing.assert_allclose(masks["ratio"] ** 2, masks["wiener"])
    np.testing.assert_allclose(masks["wiener"] + gains.wiener(n, s), 1.0)
    np.testing.assert_allclose(masks["complex"] * (s + n), s)
    assert abs(masks["complex_bounded"]).max() <= 1 + 1e-12
    free = abs(masks["complex"]) <= 1
    np.testing.assert_allclose(masks["complex_bounded"][free], masks["complex"][free])
    np.testing.assert_allclose(np.angle(masks["complex_bounded"]), np.angle(masks["complex"]))
    assert masks["phase_sensitive"].min() == 0
    assert masks["phase_sensitive"].max() == 1
    np.testing.assert_allclose(gains.amplitude(s, s + n, 1e9), abs(masks["complex"]))


def test_no_real_mask_has_less_error_than_the_phase_sensitive_one():
    s, n = spectra()
    best = gains.phase_sensitive(s, s + n, -np.inf, np.inf)
    error = abs(best * (s + n) - s)
    for change in (-0.1, 0.1):
        assert (abs((best + change) * (s + n) - s) > error).all()


@given(threshold=st.floats(-20, 20))
@settings(max_examples=20, deadline=None)
def test_binary_threshold_is_a_local_snr(threshold):
    s, n = spectra()
    local = 20 * np.log10(abs(s) / abs(n))
    np.testing.assert_array_equal(gains.binary(s, n, threshold) == 1, local > threshold)


def test_silence_divides_to_zero():
    zero = np.zeros((4, 5), complex)
    for name, mask in gains.ideal(zero, zero).items():
        assert np.isfinite(mask).all(), name
        assert abs(mask).max() == 0, name


def test_torch_gives_what_numpy_gives_and_gradients():
    s, n = spectra()
    ours = gains.ideal(torch.from_numpy(s), torch.from_numpy(n))
    for name, mask in gains.ideal(s, n).items():
        np.testing.assert_allclose(ours[name].numpy(), mask, err_msg=name)
    x = torch.from_numpy(s).requires_grad_()
    gains.apply(
        gains.complex_ratio(x, torch.from_numpy(s + n), limit=1.0), torch.from_numpy(n)
    ).abs().sum().backward()
    assert torch.isfinite(torch.view_as_real(x.grad)).all()


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(4, 3\)"):
        gains.apply(np.ones((3, 4)), np.ones((4, 3)))


def as_map(z):
    """Complex `[B, C, T, F]` -> real `[B, 2 C, T, F]`, parts of a signal side by side."""
    return torch.view_as_real(z).permute(0, 1, 4, 2, 3).flatten(1, 2)


@pytest.mark.parametrize("signals", [1, 3])
def test_maps_multiply_as_complex_numbers_do(signals):
    torch.manual_seed(0)
    mask, spectrum = torch.randn(2, 2, signals, 5, 7, dtype=torch.complex64)
    torch.testing.assert_close(gains.multiply(as_map(mask), as_map(spectrum)), as_map(mask * spectrum))
    w = torch.rand(2, 1, 1, 1)
    softer = gains.multiply(as_map(mask), as_map(spectrum), w)
    torch.testing.assert_close(softer, as_map((1 - w + w * mask) * spectrum))


def test_a_real_gain_keeps_the_phase():
    torch.manual_seed(0)
    spectrum, gain, w = torch.randn(2, 1, 5, 7, dtype=torch.complex64), torch.rand(2, 1, 5, 7), torch.rand(2)
    torch.testing.assert_close(gains.multiply(gain, as_map(spectrum)), as_map(gain * spectrum))
    w = w[:, None, None, None]
    softer = gains.multiply(gain, as_map(spectrum), w)
    torch.testing.assert_close(softer, as_map((1 - w + w * gain) * spectrum))


def test_a_bounded_mask_stays_in_its_disc_and_keeps_its_phase():
    torch.manual_seed(0)
    z = 100 * torch.randn(2, 1, 5, 7, dtype=torch.complex64)
    mask = gains.bounded(as_map(z), 2.0)
    size = mask.square().sum(1).sqrt()
    assert 1.9 < size.max() <= 2 + 1e-6
    torch.testing.assert_close(torch.atan2(mask[:, 1], mask[:, 0]), z[:, 0].angle())
    torch.testing.assert_close(gains.bounded(1e-3 * as_map(z), 1e3), 1e-3 * as_map(z))


def test_pictures_show_the_mask():
    axes = Figure().subplots(1, 2)
    mask = np.zeros((257, 10))
    mask[:128] = 1.0
    image = gains.draw(mask, axes[0], RATE, 256, "half")
    np.testing.assert_array_equal(image.get_array(), mask)
    assert image.get_extent() == [0.0, 10 * 256 / RATE, 0.0, 8.0]
    assert axes[0].get_title() == "half"
    colours = gains.draw(np.full((4, 4), 1.0 + 0j), axes[1], RATE, 256).get_array()
    assert colours[0, 0].argmax() == 0  # in phase: red
    with pytest.raises(ValueError, match=r"\[F, T\]"):
        gains.draw(np.zeros(5), axes[0], RATE, 256)
