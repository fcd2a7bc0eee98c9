import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio, signal_noise_ratio

from audiomask import losses

ALL = {
    "l1": losses.L1Loss(),
    "snr": losses.SNRLoss(),
    "snr30": losses.SNRLoss(max_db=30.0),
    "si_sdr": losses.SISDRLoss(),
    "stft": losses.MultiResolutionSTFTLoss(),
    "l1snr": losses.L1SNRLoss(),
    "l1snr_joint": losses.SpectralL1SNRLoss(),
    "l1snr_parts": losses.SpectralL1SNRLoss(20.0, joint=False, fft=512, hop=128),
    "compressed": losses.CompressedSpectralLoss(under=2.0),
}


def signals(batch=3, samples=6000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ref = torch.randn(batch, samples, generator=generator) * 0.1
    return ref + torch.randn(batch, samples, generator=generator) * 0.03, ref


@pytest.mark.parametrize("zero_mean", [True, False])
def test_si_sdr_and_snr_equal_torchmetrics(zero_mean):
    est, ref = signals()
    est = est + 0.02
    theirs = scale_invariant_signal_distortion_ratio(est, ref, zero_mean=zero_mean).mean()
    torch.testing.assert_close(losses.SISDRLoss(zero_mean=zero_mean)(est, ref), -theirs, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        losses.SNRLoss()(est, ref), -signal_noise_ratio(est, ref).mean(), rtol=0, atol=1e-3
    )


@given(gain=st.floats(0.05, 20.0))
@settings(max_examples=20, deadline=None)
def test_si_sdr_ignores_the_scale_of_the_estimate(gain):
    est, ref = signals(batch=1, samples=2000)
    torch.testing.assert_close(
        losses.SISDRLoss()(gain * est, ref), losses.SISDRLoss()(est, ref), rtol=0, atol=2e-2
    )


def test_snr_limit_is_approached_and_flattens_the_gradient():
    _, ref = signals()
    near = (ref * 1.001).requires_grad_()  # 60 dB
    limited = losses.SNRLoss(max_db=30.0)(near, ref)
    (pull,) = torch.autograd.grad(limited, near)
    (free,) = torch.autograd.grad(losses.SNRLoss()(near, ref), near)
    assert -30.0 < limited.item() < -29.9
    assert pull.norm() < 0.01 * free.norm()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("est", "ref"),
    [(0.0, 0.0), (0.0, 0.1), (0.1, 0.0), (1e-20, 1e-20), (1.0, 1e-6)],
    ids=["both silent", "estimate silent", "reference silent", "denormal", "reference faint"],
)
def test_gradient_is_finite_at_silence(name, est, ref):
    noise, other = signals()
    x, y = (noise / noise.std() * est).requires_grad_(), other / other.std() * ref
    value = ALL[name](x, y)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()
    assert x.grad.norm() < 1e4


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_finite_where_estimate_equals_reference(name):
    _, ref = signals()
    x = ref.clone().requires_grad_()
    value = ALL[name](x, ref)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_the_slope(name):
    est, ref = signals(batch=2, samples=3000)
    x = est.clone().requires_grad_()
    ALL[name](x, ref).backward()
    direction = x.grad / x.grad.norm()
    step = 1e-2
    slope = (ALL[name](est + step * direction, ref) - ALL[name](est - step * direction, ref)) / (2 * step)
    assert slope.item() == pytest.approx(x.grad.norm().item(), rel=0.05)


@pytest.mark.parametrize("name", ALL)
def test_a_step_down_the_gradient_lowers_the_loss(name):
    est, ref = signals()
    x = est.clone().requires_grad_()
    before = ALL[name](x, ref)
    before.backward()
    after = ALL[name](est - 1e-3 * x.grad / x.grad.norm(), ref)
    assert after < before


@pytest.mark.parametrize("name", ALL)
def test_autocast_changes_nothing(name):
    est, ref = signals()
    est = est.bfloat16()
    plain = ALL[name](est.float(), ref)
    with torch.autocast("cpu", torch.bfloat16):
        cast = ALL[name](est, ref)
    assert cast.dtype == torch.float32
    assert cast.item() == plain.item()


@pytest.mark.parametrize("name", ALL)
def test_batch_with_channel_axis_is_the_same(name):
    est, ref = signals()
    assert ALL[name](est[:, None], ref[:, None]).item() == ALL[name](est, ref).item()


@pytest.mark.parametrize(
    "loss",
    [losses.L1Loss, losses.SNRLoss, losses.SISDRLoss, losses.L1SNRLoss, losses.CompressedSpectralLoss],
)
def test_skip_leaves_the_start_out(loss):
    est, ref = signals()
    spoilt = est.clone()
    spoilt[:, :1000] = 7.0
    spoilt.requires_grad_()
    value = loss(skip=1000)(spoilt, ref)
    value.backward()
    assert value.item() == loss()(est[:, 1000:], ref[:, 1000:]).item()
    assert spoilt.grad[:, :1000].abs().max() == 0
    assert spoilt.grad[:, 1000:].abs().max() > 0


def test_signals_that_do_not_fit_are_refused():
    est, ref = signals()
    with pytest.raises(ValueError, match=r"\(3, 6000\).*\(3, 5999\)"):
        losses.L1Loss()(est, ref[:, 1:])
    with pytest.raises(ValueError, match=r"\[B, T\]"):
        losses.L1Loss()(est[:, None].repeat(1, 2, 1), ref[:, None].repeat(1, 2, 1))
    with pytest.raises(ValueError, match="leaves nothing"):
        losses.L1Loss(skip=6000)(est, ref)
    with pytest.raises(ValueError, match="-1"):
        losses.L1Loss(skip=-1)


def test_a_loss_with_a_matrix_product_keeps_its_precision_under_autocast():
    class Product(losses.SignalLoss):
        def compute(self, est, ref):
            return (est @ ref.T).mean()

    est, ref = signals()
    with torch.autocast("cpu", torch.bfloat16):
        value = Product()(est, ref)
    assert value.dtype == torch.float32
    assert value.item() == (est @ ref.T).mean().item()
