"""The losses of Bandit, version 1 and 2."""

import math

import pytest
import torch
from msst_peer import msst

from audiomask import losses

VERSIONS = {
    1: (losses.L1SNRLoss(10.0), losses.SpectralL1SNRLoss(10.0)),
    2: (losses.L1SNRLoss(20.0), losses.SpectralL1SNRLoss(20.0, joint=False)),
}


def signals(batch=3, samples=9000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gains = torch.tensor([0.3, 0.02, 0.0005])[:batch, None]  # above and below the floor
    ref = torch.randn(batch, samples, generator=generator) * gains
    return ref + torch.randn(batch, samples, generator=generator) * 0.01, ref


def spectrum(x):
    """What Bandit's front end gives, torchaudio's normalized spectrogram."""
    window = torch.hann_window(2048)
    z = torch.stft(x, 2048, 512, 2048, window, pad_mode="constant", return_complex=True)
    return z / window.square().sum().sqrt()


def ratio(error, target):
    """log10 of (mean |e| + eps) / (mean |s| + eps) in each row."""
    error, target = (x.reshape(len(x), -1).abs().mean(1) + 1e-3 for x in (error, target))
    return torch.log10(error / target)


def test_both_versions_are_the_published_formulas():
    est, ref = signals()
    e, s = spectrum(est - ref), spectrum(ref)
    time = ratio(est - ref, ref)
    both = ratio(torch.view_as_real(e), torch.view_as_real(s))
    apart = ratio(e.real, s.real) + ratio(e.imag, s.imag)
    for version, want in {1: (10 * time, 10 * both), 2: (20 * time, 20 * apart)}.items():
        for loss, value in zip(VERSIONS[version], want, strict=True):
            torch.testing.assert_close(loss(est, ref), value.mean(), rtol=1e-5, atol=1e-5)


def test_a_tenth_of_the_error_is_worth_the_scale():
    est, ref = signals(batch=1)
    for scale in (10.0, 20.0):
        loss = losses.L1SNRLoss(scale, floor=1e-9)
        gained = loss(est, ref) - loss(ref + 0.1 * (est - ref), ref)
        assert gained.item() == pytest.approx(scale, rel=1e-3)


@pytest.mark.parametrize("loss", [x for pair in VERSIONS.values() for x in pair])
def test_stems_that_are_missing_are_left_out(loss):
    est, ref = signals()
    some = ref.clone()
    some[1] = math.nan
    x = est.clone().requires_grad_()
    value = loss(x, some)
    value.backward()
    torch.testing.assert_close(value, loss(est[[0, 2]], ref[[0, 2]]), rtol=1e-6, atol=1e-6)
    assert x.grad[1].abs().max() == 0
    assert x.grad.isfinite().all()
    assert x.grad[0].abs().max() > 0
    x = est.clone().requires_grad_()
    none = loss(x, torch.full_like(ref, math.nan))
    none.backward()
    assert none.item() == 0
    assert x.grad.abs().max() == 0


def test_a_sample_that_is_no_number_is_no_missing_stem():
    est, ref = signals()
    ref[0, 5] = math.nan
    for pair in VERSIONS.values():
        assert all(loss(est, ref).isnan() for loss in pair)


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="floor 0"):
        losses.L1SNRLoss(floor=0.0)
    with pytest.raises(ValueError, match="hop 4096"):
        losses.SpectralL1SNRLoss(hop=4096)


@pytest.mark.peer
def test_version_1_equals_msst():
    snr = msst("bandit.core.loss.snr")
    theirs = snr.SignalNoisePNormRatio(p=1.0)
    est, ref = signals()
    time, spectral = VERSIONS[1]
    torch.testing.assert_close(time(est, ref), theirs(est, ref), rtol=1e-5, atol=1e-5)
    want = theirs(spectrum(est), spectrum(ref))
    torch.testing.assert_close(spectral(est, ref), want, rtol=1e-4, atol=1e-4)


@pytest.mark.peer
def test_torch_l1_snr_gives_version_1_of_waveforms_and_half_of_version_2_of_spectra():
    theirs = pytest.importorskip("torch_l1_snr").L1SNRLoss(name="l1snr")
    est, ref = signals()
    torch.testing.assert_close(VERSIONS[1][0](est, ref), theirs(est, ref), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(VERSIONS[2][0](est, ref), 2 * theirs(est, ref), rtol=1e-5, atol=1e-5)
    e, s = spectrum(est), spectrum(ref)
    want = 2 * (theirs(e.real, s.real) + theirs(e.imag, s.imag))
    torch.testing.assert_close(VERSIONS[2][1](est, ref), want, rtol=1e-4, atol=1e-4)
