import pytest
import torch

from audiomask import losses
from audiomask.losses import spectral


def signals(batch=2, samples=8000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ref = torch.randn(batch, samples, generator=generator) * 0.1
    return ref + torch.randn(batch, samples, generator=generator) * 0.05, ref


def spectrum(x, fft, hop, length):
    window = torch.hann_window(length)
    window = window / window.square().sum().sqrt()
    return torch.stft(x, fft, hop, length, window, center=True, pad_mode="constant", return_complex=True)


def test_multi_resolution_stft_equals_the_published_formula():
    # frames of torch.stft are centred in the FFT, ours in the window: the same frames where the two are one
    # length
    resolutions = [(256, 64, 256), (512, 128, 512)]
    est, ref = signals()
    expected = 0.0
    for fft, hop, length in resolutions:
        e, r = (spectrum(x, fft, hop, length).abs() for x in (est, ref))
        expected += (
            0.5 * torch.linalg.norm(r - e) / torch.linalg.norm(r) + 0.5 * (r.log() - e.log()).abs().mean()
        )
    ours = losses.MultiResolutionSTFTLoss(resolutions, floor=1e-12)(est, ref)
    torch.testing.assert_close(ours, expected / 2, rtol=1e-4, atol=0)


def test_compressed_magnitudes_equal_their_formula():
    est, ref = signals()
    e, r = (spectrum(x, 512, 128, 512).abs() ** 0.3 for x in (est, ref))
    expected = 2 * torch.linalg.norm(r - e) / torch.linalg.norm(r) + 3 * (r - e).abs().mean()
    loss = losses.MultiResolutionSTFTLoss([(512, 128, 512)], 2, 0, 1e-12, magnitude=3, exponent=0.3)
    torch.testing.assert_close(loss(est, ref), expected, rtol=1e-4, atol=0)
    est.requires_grad_()
    loss(est, est.detach()).backward()
    assert est.grad.isfinite().all()
    with pytest.raises(ValueError, match="exponent is 0"):
        losses.MultiResolutionSTFTLoss(exponent=0)


def tones(*hertz: float) -> torch.Tensor:
    t = torch.arange(16000) / 16000
    return sum(0.1 * torch.sin(2 * torch.pi * f * t) for f in hertz)[None]


def test_the_high_band_hears_only_what_is_high():
    def loss(est, band):
        return losses.MultiResolutionSTFTLoss(floor=1e-4, band=band)(est, ref)

    ref = tones(1000, 6000)
    assert loss(tones(6000), "high") < 0.02 * loss(tones(6000), "full")
    assert loss(tones(1000), "high") > loss(tones(1000), "full")


def test_the_published_high_band_hears_only_what_is_late():
    def loss(est, band):
        return losses.MultiResolutionSTFTLoss(band=band)(est, ref)

    ref = signals(1, 16000)[1]
    late, early = ref.clone(), ref.clone()
    late[:, 9500:] *= 0.5
    early[:, :6500] *= 0.5
    assert loss(early, "high_as_published") < 1e-3
    assert loss(late, "high_as_published") > 0.1
    assert losses.MultiResolutionSTFTLoss(band="high_as_published")(late, ref) > 0.1


def test_an_unknown_band_is_refused():
    with pytest.raises(ValueError, match="full, high and high_as_published"):
        losses.MultiResolutionSTFTLoss(band="low")(*signals())


def test_short_window_gives_the_magnitudes_of_torch_stft():
    _, x = signals()
    power, _ = spectral._power_and_spectrum(x, 512, 60, 240)
    theirs = spectrum(x, 512, 60, 240).abs().square().transpose(1, 2)
    # torch.stft pads half the FFT, so its frame n ends where ours does once the centres meet: both at n * hop
    torch.testing.assert_close(power, theirs[:, : power.shape[1]], rtol=1e-3, atol=1e-6)


def test_compressed_loss_equals_its_formula():
    est, ref = signals()
    e, r = spectrum(est, 512, 128, 512), spectrum(ref, 512, 128, 512)
    missing = r.abs() ** 0.3 - e.abs() ** 0.3
    weight = torch.where(missing > 0, 3.0, 1.0)
    apart = torch.polar(r.abs() ** 0.3, r.angle()) - torch.polar(e.abs() ** 0.3, e.angle())
    expected = 0.6 * (weight * missing**2).mean() + 0.4 * apart.abs().square().mean()
    ours = losses.CompressedSpectralLoss(
        [512], exponent=0.3, magnitude=0.6, complex_=0.4, under=3.0, floor=1e-12
    )(est, ref)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=0)


def test_under_estimation_alone_is_weighted():
    _, ref = signals()

    def loss(est, under):
        return losses.CompressedSpectralLoss(magnitude=1.0, complex_=0.0, under=under, floor=1e-14)(
            est, ref
        ).item()

    assert loss(0.5 * ref, 4.0) == pytest.approx(4 * loss(0.5 * ref, 1.0), rel=1e-5)
    assert loss(2.0 * ref, 4.0) == pytest.approx(loss(2.0 * ref, 1.0), rel=1e-5)


def test_complex_term_hears_the_phase_and_the_magnitude_term_does_not():
    _, ref = signals()
    deaf = losses.CompressedSpectralLoss(magnitude=1.0, complex_=0.0)(-ref, ref)
    hearing = losses.CompressedSpectralLoss(magnitude=0.0, complex_=1.0)(-ref, ref)
    assert deaf.item() == 0.0
    assert hearing.item() > 0.1


def test_window_made_in_inference_mode_serves_training():
    spectral._hann.cache_clear()
    est, ref = signals()
    with torch.inference_mode():
        losses.CompressedSpectralLoss()(est, ref)
    x = est.clone().requires_grad_()
    losses.CompressedSpectralLoss()(x, ref).backward()
    assert torch.isfinite(x.grad).all()


def test_signals_shorter_than_the_window_have_a_loss():
    est, ref = signals(samples=50)
    for loss in (losses.MultiResolutionSTFTLoss(), losses.CompressedSpectralLoss()):
        assert torch.isfinite(loss(est, ref))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="hop <= window"):
        losses.MultiResolutionSTFTLoss([(256, 64, 512)])
    with pytest.raises(ValueError, match="exponent is 0"):
        losses.CompressedSpectralLoss(exponent=0.0)
    with pytest.raises(ValueError, match="multiples of the overlap 4"):
        losses.CompressedSpectralLoss(fft_sizes=[258])
