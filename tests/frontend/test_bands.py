import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.frontend import bands
from audiomask.frontend.torchaudio_import import torchaudio

MATRICES = {
    "mel": bands.mel(16000, 512, 40),
    "mel_htk": bands.mel(16000, 512, 40, htk=True, norm=None),
    "erb": bands.triangular(16000, 512, 32, "erb"),
    "bark": bands.triangular(16000, 512, 21, "bark"),
    "musical": bands.musical(16000, 4096, low=48.0),
    "partition": bands.partition(16000, 512, 32),
}


@pytest.mark.parametrize("norm", ["area", None])
@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize(("rate", "fft", "count"), [(16000, 512, 80), (48000, 2048, 128), (22050, 1024, 20)])
@pytest.mark.filterwarnings("ignore:Empty filters")
def test_mel_equals_librosa(rate, fft, count, htk, norm):
    theirs = librosa.filters.mel(sr=rate, n_fft=fft, n_mels=count, htk=htk, norm="slaney" if norm else None)
    ours = bands.mel(rate, fft, count, htk=htk, norm=norm)
    np.testing.assert_allclose(ours, theirs.T, rtol=0, atol=1e-6 * theirs.max())


def test_mel_equals_torchaudio():
    theirs = torchaudio.functional.melscale_fbanks(257, 50.0, 7000.0, 40, 16000, mel_scale="htk").numpy()
    np.testing.assert_allclose(
        bands.mel(16000, 512, 40, 50.0, 7000.0, htk=True, norm=None), theirs, atol=1e-4
    )


# Glasberg & Moore 1990: the ERB at 1 kHz is 132.6 Hz, 15.6 ERBs lie below. Traunmueller 1990: 8.5 Bark at 1
# kHz, 20.1 at about 6490 Hz. Both mel scales: 1000 mel (HTK) or 15 (Slaney) at 1 kHz. MIDI: A4 is 69, C4 is
# 60.
@pytest.mark.parametrize(
    ("scale", "hz", "value", "within"),
    [
        ("erb", 1000.0, 15.62, 0.01),
        ("bark", 1000.0, 8.527, 0.001),
        ("bark", 100.0, 0.772 + 0.15 * (2 - 0.772), 0.001),
        ("mel_htk", 1000.0, 1000.0, 0.1),
        ("mel_slaney", 1000.0, 15.0, 1e-9),
        ("mel_slaney", 6400.0, 42.0, 1e-9),
        ("semitone", 440.0, 69.0, 1e-9),
        ("semitone", 261.6256, 60.0, 1e-4),
    ],
)
def test_scale_at_known_points(scale, hz, value, within):
    assert float(bands.SCALES[scale].forward(np.array(hz))) == pytest.approx(value, abs=within)


def test_erb_bandwidth_is_the_slope_of_the_scale():
    f = np.array([100.0, 1000.0, 5000.0])
    erb = bands.SCALES["erb"].forward
    bandwidth = 24.7 * (1.0 + 4.37e-3 * f)  # in Hz (Glasberg & Moore 1990, eq. 3)
    # one ERB-rate step spans one bandwidth; 21.4 is rounded in the paper, hence the half per cent
    np.testing.assert_allclose(1.0 / (erb(f + 0.5) - erb(f - 0.5)), bandwidth, rtol=5e-3)


@pytest.mark.parametrize("scale", bands.SCALES)
@given(hz=st.floats(1.0, 24000.0))
@settings(max_examples=40, deadline=None)
def test_scales_invert_and_rise(scale, hz):
    s = bands.SCALES[scale]
    assert float(s.inverse(s.forward(np.array(hz)))) == pytest.approx(hz, rel=1e-9)
    assert s.forward(np.array(hz * 1.01)) > s.forward(np.array(hz))


@pytest.mark.parametrize("name", MATRICES)
def test_interpolation_keeps_equal_gains_and_lies_between_the_others(name):
    back = bands.inverse(MATRICES[name])
    np.testing.assert_allclose(np.ones(back.shape[0]) @ back, 1.0)
    gains = np.random.default_rng(0).uniform(0.2, 0.8, back.shape[0])
    at_bins = gains @ back
    assert gains.min() <= at_bins.min()
    assert at_bins.max() <= gains.max()


@pytest.mark.parametrize("name", MATRICES)
def test_least_squares_inverse_gives_the_bands_back(name):
    matrix = MATRICES[name][:, MATRICES[name].sum(axis=0) > 0]
    values = np.random.default_rng(0).uniform(0.1, 1.0, matrix.shape[1])
    np.testing.assert_allclose(values @ bands.inverse(matrix, "least_squares") @ matrix, values, rtol=1e-6)


@given(
    fft=st.sampled_from([320, 512, 960, 1536]),
    count=st.integers(1, 40),
    least=st.integers(1, 3),
    scale=st.sampled_from(["erb", "bark", "mel_htk", "hz"]),
)
@settings(max_examples=60, deadline=None)
def test_partition_gives_each_bin_to_one_band(fft, count, least, scale):
    matrix = bands.partition(48000, fft, count, scale, min_bins=least)
    np.testing.assert_array_equal(matrix.sum(axis=1), 1.0)
    assert matrix.sum(axis=0).min() >= least
    assert (np.diff(matrix.argmax(axis=1)) >= 0).all()


def test_triangles_without_norm_sum_to_one_between_the_first_and_last_centre():
    hz = bands.edges("mel_htk", 20, 0.0, 8000.0)
    matrix = bands.mel(16000, 2048, 20, htk=True, norm=None)
    at = np.arange(1025) * 16000 / 2048
    inside = (at >= hz[1]) & (at <= hz[-2])
    np.testing.assert_allclose(matrix[inside].sum(axis=1), 1.0, atol=1e-9)


def test_a_note_lands_in_its_own_musical_band():
    matrix = bands.musical(44100, 16384, low=45.0)
    time = np.arange(16384) / 44100
    for note in (57, 64, 69, 76):
        tone = np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * time) * np.hanning(16384)
        assert (np.abs(np.fft.rfft(tone)) ** 2 @ matrix).argmax() == note - 45


def test_empty_bands_are_found_and_bridged():
    matrix = bands.mel(16000, 256, 128)
    gone = bands.empty(matrix)
    assert gone
    assert np.isfinite(bands.inverse(matrix)).all()
    np.testing.assert_array_equal(bands.inverse(matrix)[gone], 0.0)


def test_kaldi_flanks_equal_torchaudio():
    theirs, _ = torchaudio.compliance.kaldi.get_mel_banks(23, 512, 16000.0, 20.0, 8000.0, 100.0, -500.0, 1.0)
    ours = bands.triangular(16000, 512, 23, "mel_htk", 20.0, 8000.0, flanks="scale")[:256]
    np.testing.assert_allclose(ours, theirs.T.numpy(), atol=1e-4)
    assert isinstance(theirs, torch.Tensor)


def test_impossible_bands_are_refused():
    with pytest.raises(ValueError, match="no frequency scale 'mell'"):
        bands.triangular(16000, 512, 20, "mell")
    with pytest.raises(ValueError, match=r"0\.\.8000"):
        bands.mel(16000, 512, 20, f_max=9000.0)
    with pytest.raises(ValueError, match="do not fit"):
        bands.partition(16000, 64, 40)
    with pytest.raises(ValueError, match="no inverse"):
        bands.inverse(MATRICES["erb"], "pinv")
    with pytest.raises(ValueError, match="no notes"):
        bands.musical(8000, 512, low=120.0)
