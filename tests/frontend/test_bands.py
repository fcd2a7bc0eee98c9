import librosa
import numpy as np
import pytest

from audiomask.frontend import bands
from audiomask.frontend.torchaudio_import import torchaudio


@pytest.mark.parametrize(("rate", "fft", "count"), [(16000, 512, 80), (48000, 2048, 128), (1600, 256, 20)])
@pytest.mark.filterwarnings("ignore:Empty filters")
def test_mel_equals_librosa(rate, fft, count):
    theirs = librosa.filters.mel(sr=rate, n_fft=fft, n_mels=count, dtype=np.float64).T
    np.testing.assert_allclose(bands.mel(rate, fft, count), theirs, rtol=0, atol=1e-12)


def test_kaldi_equals_torchaudio():
    theirs, _ = torchaudio.compliance.kaldi.get_mel_banks(23, 512, 16000.0, 20.0, 8000.0, 100.0, -500.0, 1.0)
    ours = bands.kaldi(16000, 512, 23, 20.0, 8000.0)[:256]
    np.testing.assert_allclose(ours, theirs.T.numpy(), atol=1e-4)


def test_impossible_bands_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.8000"):
        bands.kaldi(16000, 512, 20, 20.0, 9000.0)
    with pytest.raises(ValueError, match="even FFT size"):
        bands.mel(16000, 511, 20)
