"""Sieve keeps the streaming contract at both rates, and does to known masks what its docstring says."""

import math

import contract
import pytest
import torch

from audiomask.models.sieve import BINS, MaskNet, Sieve

RATES = (16000, 48000)
TINY = {"channels": 8, "bands": 8, "blocks": 2, "heads": 2, "full": 8, "squeeze": 8}
ONE = (4 / 3) ** 0.5  # z of the mask M = z / sqrt(1 + |z|^2 / 4) = 1


def tiny(rate: int, **net: int) -> Sieve:
    """A small model with random weights whose mask is far from 1, in evaluation."""
    torch.manual_seed(0)
    model = Sieve(rate, **(TINY | net)).eval()
    with torch.no_grad():
        model.net.decode.weight.mul_(20)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    return model


def with_mask(rate: int, re: float, im: float = 0.0) -> Sieve:
    """A model whose mask is z / sqrt(1 + |z|^2 / 4) with z = re + i im, whatever it hears."""
    model = tiny(rate)
    with torch.no_grad():
        model.net.decode.weight.zero_()
        model.net.decode.bias.copy_(torch.tensor([re, im]).repeat_interleave(4))
    return model


def noise(
    rate: int, seconds: float = 0.5, low: float = 0.0, high: float = 1e9, batch: int = 1
) -> torch.Tensor:
    """White noise `[B, 1, T]` between two frequencies, periodic in its length."""
    x = torch.randn(batch, 1, int(rate * seconds), generator=torch.Generator().manual_seed(1))
    spectrum = torch.fft.rfft(x)
    f = torch.fft.rfftfreq(x.shape[2], 1 / rate)
    return 0.1 * torch.fft.irfft(torch.where((f >= low) & (f <= high), spectrum, 0), x.shape[2])


def level(x: torch.Tensor) -> float:
    """dB."""
    return float(10 * x.square().mean().clamp_min(1e-30).log10())


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("promise", contract.CONTRACT, ids=lambda f: f.__name__)
def test_contract(promise, rate):
    promise(tiny(rate))


@pytest.mark.parametrize("rate", RATES)
def test_output_is_aligned_with_input(rate):
    contract.output_is_aligned_with_input(with_mask(rate, 1.0))


def test_without_the_full_band_branch_and_with_more_convolutions_it_exports():
    contract.onnx_equals_torch(tiny(16000, full=0, blocks=1, convs=2))


def test_size():
    assert sum(p.numel() for p in Sieve().parameters()) <= 1_000_000


@pytest.mark.parametrize(("rate", "latency"), [(16000, 512), (48000, 1536)])
def test_latency_is_32_ms(rate, latency):
    model = Sieve(rate, **TINY)
    assert model.latency == latency
    assert model.hop == model.delay == latency // 2


def test_another_rate_is_refused():
    with pytest.raises(ValueError, match="44100"):
        Sieve(44100)


def test_the_mask_is_below_2_and_starts_close_to_1():
    net = MaskNet(**TINY).eval()
    spectrum = torch.randn(2, 2, 6, BINS)
    mask, _ = net.step(spectrum, net.initial_state(2))
    assert mask.shape == spectrum.shape
    assert (mask - torch.tensor([1.0, 0.0])[None, :, None, None]).abs().max() < 0.8
    with torch.no_grad():
        net.decode.weight.mul_(1e4)
    mask, _ = net.step(spectrum, net.initial_state(2))
    assert 1.9 < mask.square().sum(1).sqrt().max() <= 2 + 1e-6


@torch.no_grad()
@pytest.mark.parametrize("db", [-40, -20, 15])
def test_it_hears_the_same_at_any_level(db):
    model, x, gain = tiny(16000), noise(16000, 1.0), 10 ** (db / 20)
    y = model(x)
    assert (model(gain * x) / gain - y).abs().max() < 5e-3 * y.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("rate", RATES)
def test_strength_0_returns_the_delayed_input(rate):
    model = tiny(rate)
    x = noise(rate)[:, :, : 20 * model.hop]
    y, _ = model.step(x, model.initial_state(1), strength=torch.zeros(1))
    assert (y[:, :, model.delay :] - x[:, :, : -model.delay]).abs().max() < 1e-6 * x.abs().max()
    y, _ = model.step(x, model.initial_state(1))
    assert (y[:, :, model.delay :] - x[:, :, : -model.delay]).abs().max() > 0.1 * x.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("rate", RATES)
def test_atten_lim_bounds_the_attenuation_of_a_mask_of_0(rate):
    model = with_mask(rate, 0.0)
    limits = torch.tensor([0.0, 6.0, 20.0, 40.0])
    x = noise(rate, high=7000).expand(4, -1, -1)
    y = model(x, atten_lim=limits)
    for row, limit in enumerate(limits.tolist()):
        assert level(x[row]) - level(y[row]) == pytest.approx(limit, abs=0.02)
    assert level(x[:1]) - level(model(x[:1])) > 60  # by default hardly anything is left


@torch.no_grad()
def test_a_complex_mask_turns_the_phase():
    model = with_mask(16000, 0.0, ONE)  # M = i: a cosine becomes minus a sine
    t = torch.arange(16000)
    phase = 2 * torch.pi * 1000 / 16000 * t
    y = model(phase.cos()[None, None])[0, 0]
    assert (y + phase.sin())[2000:-2000].abs().max() < 1e-3


@torch.no_grad()
def test_a_mask_of_1_passes_the_band_above_8_khz():
    model = with_mask(48000, ONE)
    for x in (noise(48000, low=8500), noise(48000)):
        assert (model(x) - x).abs().max() < 1e-5 * x.abs().max()


@torch.no_grad()
def test_the_band_above_8_khz_follows_the_top_of_the_mask():
    below, above = noise(48000, low=100, high=7500), noise(48000, low=8500)
    y = with_mask(48000, 0.0)(below + above)
    assert level(below + above) - level(y) > 40  # silenced with what is below
    for mask, gain in ((0.2, 0.2 * 1.12), (0.5, 0.5 * 1.3), (0.72, 1.0), (1.5, 1.0)):
        re = mask / (1 - mask**2 / 4) ** 0.5
        y = with_mask(48000, re)(above + below) - mask * below
        assert level(y) - level(above) == pytest.approx(20 * math.log10(gain), abs=0.1)


@torch.no_grad()
def test_both_rates_hear_the_same_below_7500_hz():
    """One set of weights on one signal at both rates. The skirts of the window put some of each tone above
    8 kHz, which folds back at 16 kHz only, and the network compresses magnitudes, so that it hears it.
    Measured: the outputs differ by -52 dB, where the mask changes the signal by -9 dB.
    """
    a, b = tiny(16000), tiny(48000)
    b.load_state_dict(a.state_dict())
    x16 = noise(16000, 1.0, high=7000)
    x48 = torch.fft.irfft(torch.fft.rfft(x16), 48000) * 3
    x, y16, y48 = (torch.fft.rfft(v)[..., :7500] for v in (x16, a(x16), b(x48) / 3))
    assert level((y16 - x).abs()) - level(y16.abs()) > -12
    assert level((y16 - y48).abs()) - level(y16.abs()) < -46


@pytest.mark.parametrize(("inputs", "attention"), [(0.4, 0.0), (0.0, 0.4)])
def test_masked_training_hides_in_training_only(inputs, attention):
    x = noise(16000)
    model = tiny(16000)
    want = model(x)
    model.hide(inputs, attention)
    assert torch.equal(model(x), want)
    model.train()
    for norm in model.modules():  # whose statistics of the batch are not the point here
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.eval()
    torch.manual_seed(1)
    first = model(x)
    torch.manual_seed(1)
    assert torch.equal(model(x), first)
    torch.manual_seed(2)
    assert not torch.allclose(model(x), first, atol=1e-4)
    assert not torch.allclose(first, want, atol=1e-4)
    first.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_mask_still_acts_on_what_was_hidden():
    model = with_mask(16000, ONE)
    model.hide(0.9, 0.0)
    model.train()
    x = noise(16000)
    assert torch.allclose(model(x), x, atol=1e-4)
