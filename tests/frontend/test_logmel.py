"""Audio-MAE's front end equals torchaudio's Kaldi features, at any length of the clip."""

import pytest
import torch

from audiomask.audio import AudioError
from audiomask.frontend.logmel import CORPORA, LogMel
from audiomask.frontend.torchaudio_import import torchaudio


def theirs(x, frames):
    """The recipe of the paper for one clip `[T]`, from torchaudio."""
    y = torchaudio.compliance.kaldi.fbank(
        (x - x.mean())[None], htk_compat=True, sample_frequency=16000, use_energy=False,
        window_type="hanning", num_mel_bins=128, dither=0.0, frame_shift=10,
    )  # fmt: skip
    y = torch.cat([y, torch.zeros(max(0, frames - len(y)), 128)])[:frames]
    return (y - CORPORA["audioset"][0]) / (2 * CORPORA["audioset"][1])


def clips(samples, rows=2):
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.02


@pytest.mark.parametrize(
    ("samples", "frames", "wanted"),
    [(160000, 1024, 1024), (200000, 1024, 1024), (16000, 128, 128), (400, 0, 16), (50000, 0, 320)],
)
def test_equals_torchaudio(samples, frames, wanted):
    x = clips(samples)
    y = LogMel(frames=frames)(x)
    assert y.shape == (2, wanted, 128)
    for row, clip in zip(y, x, strict=True):
        torch.testing.assert_close(row, theirs(clip, wanted), rtol=1e-4, atol=1e-4)


def test_log_energies_equal_torchaudio():
    """Before the division, which would hide a part of an error; and but for bands with next to no energy,
    where float32 makes either differ by more from its own float64 result.
    """
    x = clips(160000, 1)
    mean, std = CORPORA["audioset"]
    expected = theirs(x[0], 998) * 2 * std + mean
    heard = expected > -7
    assert 0.9 < heard.float().mean() < 1
    assert (LogMel().raw(x)[0] - expected)[heard].abs().max() < 1e-4
    torch.testing.assert_close(LogMel().raw(x)[0], expected, rtol=1e-4, atol=1e-4)


def test_silence_and_what_pads_a_clip():
    y = LogMel("esc", frames=64)(torch.zeros(1, 16000 // 4))
    mean, std = CORPORA["esc"]
    floor = torch.finfo(torch.float32).eps
    assert torch.allclose(y[0, :23], torch.full((23, 128), (torch.tensor(floor).log() - mean) / (2 * std)))
    assert torch.allclose(y[0, 23:], torch.full((41, 128), -mean / (2 * std)))


def test_autocast_does_not_reach_it():
    x = clips(8000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = LogMel(frames=48)(x)
    assert torch.equal(y, LogMel(frames=48)(x))


def test_what_cannot_be_is_named():
    with pytest.raises(AudioError, match="399 samples is shorter than one frame of 400"):
        LogMel()(torch.zeros(1, 399))
    with pytest.raises(AudioError, match=r"corpus 'fsd'; there are audioset, esc, speechcommands"):
        LogMel("fsd")
    with pytest.raises(AudioError, match="frames 1000 is not a multiple of the patch, 16"):
        LogMel(frames=1000)
    with pytest.raises(AudioError, match="std is 0"):
        LogMel(std=0.0)
