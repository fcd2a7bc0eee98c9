"""Darn keeps the streaming contract, leaves what was received alone, and fades to the background."""

import contract
import pytest
import torch

from audiomask.export import torch_program
from audiomask.models.darn import Darn, MendNet

RATES = (16000, 48000)
TINY = {"channels": 8, "bands": 8, "blocks": 1, "heads": 2, "full": 8, "squeeze": 8}


def tiny(sample_rate: int = 16000, **more) -> Darn:
    """A small model with random weights whose masks are far from 1 and 0, in evaluation."""
    torch.manual_seed(0)
    model = Darn(sample_rate, **(TINY | more)).eval()
    with torch.no_grad():
        model.net.decode.weight.mul_(20)
    return model


def plain(rate: int = 16000, forward: float = (4 / 3) ** 0.5, backward: float = 0.0, **more) -> Darn:
    """A model whose masks are real and always the same; by default M_F = 1 and M_B = 0."""
    model = tiny(rate, **more)
    with torch.no_grad():
        model.net.decode.weight.zero_()
        model.net.decode.bias.copy_(torch.tensor([forward, 0, backward, 0]).repeat_interleave(4))
    return model


def voice(rate: int, seconds: float, f0: float = 125.0) -> torch.Tensor:
    """Harmonics of `f0` Hz, `[1, 1, T]`."""
    t = torch.arange(round(rate * seconds)) / rate
    return sum(torch.sin(2 * torch.pi * f0 * k * t + k * k) / k for k in range(1, 20))[None, None] * 0.05


def lost(x: torch.Tensor, *losses: tuple[int, int]) -> torch.Tensor:
    flags = torch.zeros_like(x)
    for start, stop in losses:
        flags[..., start:stop] = 1
    return flags


# The export of this model takes a while: here with its other forms, in tests/recipes with the usual one.
KINDS = [
    pytest.param(promise, kind, marks=[pytest.mark.slow] if promise is contract.onnx_equals_torch else [])
    for kind in ({"blind": True}, {"sample_rate": 48000})
    for promise in contract.CONTRACT
]


@pytest.mark.parametrize(("promise", "kind"), KINDS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_contract(promise, kind):
    promise(tiny(**kind))


@pytest.mark.parametrize("rate", RATES)
def test_latency_is_30_ms(rate):
    model = tiny(rate)
    assert (model.hop, model.delay, model.latency) == (rate // 100, rate // 50, 3 * rate // 100)


def test_size():
    assert sum(p.numel() for p in Darn().parameters()) == 272_752


def test_another_rate_is_refused():
    with pytest.raises(ValueError, match="44100"):
        Darn(44100)


@torch.no_grad()
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("blind", [False, True])
def test_nothing_lost_is_the_input_bit_for_bit(rate, blind):
    x = torch.randn(2, 1, rate // 5 + 77, generator=torch.Generator().manual_seed(1))
    model = tiny(rate, blind=blind)
    y = model(x)
    end = rate // 250 if blind else 0  # the zeros after the end are lost to a blind model
    assert torch.equal(y[..., : x.shape[2] - end], x[..., : x.shape[2] - end])
    if not blind:
        assert torch.equal(model(x, lost=torch.zeros_like(x)), x)


@torch.no_grad()
@pytest.mark.parametrize("rate", RATES)
def test_only_losses_and_4_ms_beside_them_change(rate):
    x = torch.randn(1, 1, rate // 2, generator=torch.Generator().manual_seed(1)) * 0.1
    ms = rate // 1000
    flags = lost(x, (101 * ms, 121 * ms), (203 * ms, 333 * ms))
    y = tiny(rate)(x, lost=flags)
    changed = (y != x)[0, 0].nonzero()[:, 0]
    near = torch.cat([torch.arange(97 * ms, 125 * ms), torch.arange(199 * ms, 337 * ms)])
    assert torch.isin(changed, near).all()
    assert (y != x)[flags > 0].float().mean() > 0.99


@torch.no_grad()
def test_what_is_in_place_of_lost_samples_does_not_matter():
    x = voice(16000, 0.5)
    flags = lost(x, (3000, 3640))
    rubbish = torch.where(flags > 0, torch.tensor(1e6), x)
    model = tiny()
    assert torch.equal(model(x, lost=flags), model(rubbish, lost=flags))


@torch.no_grad()
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("masks", [(1.1547, 0.0), (0.0, 1.1547), (0.5164, 0.5164)], ids=str)
def test_a_voice_goes_on_from_either_side(rate, masks):
    """One packet of a steady voice, from behind, from the front, and half from either (M = .5 each)."""
    ms, x = rate // 1000, voice(rate, 0.4)
    for start in (200, 203):
        if masks[1] and start == 203:
            continue  # the front is then not yet known where the first half of the loss is heard
        flags = lost(x, (start * ms, (start + 10) * ms))
        y = plain(rate, *masks)(x, lost=flags)
        assert ((y - x) * flags).abs().max() < 0.02 * x.abs().max()


@torch.no_grad()
def test_a_long_loss_becomes_the_background():
    g = torch.Generator().manual_seed(2)
    x = 0.003 * torch.randn(1, 1, 48000, generator=g)
    x[..., 16000:24000] += voice(16000, 0.5)
    y = plain()(x, lost=lost(x, (24000, 48000)))
    loud = y[..., 24000:25200].square().mean().sqrt()
    rest = y[..., 28800:47000].square().mean().sqrt()
    assert loud > 0.5 * x[..., 16000:24000].square().mean().sqrt()  # for 75 ms it goes on
    assert 0.3 < rest / 0.003 < 1.5  # then there is as much noise as before, and no voice
    assert y[..., 40000:].abs().max() < 6 * 0.003


@torch.no_grad()
@pytest.mark.parametrize("rate", RATES)
def test_comfort_noise_has_the_level_of_the_noise(rate):
    """Of white noise, heard for 3 s: what the recursion holds for its level, and what is heard of it when
    0.3 s are lost and more, whole and in eighths of the spectrum. No network is part of it.
    """
    hop, level = rate // 100, 0.01
    x = level * torch.randn(3, 1, 400 * hop, generator=torch.Generator().manual_seed(3))
    flags = lost(x, (300 * hop, 400 * hop))
    model = tiny(rate)
    _, state = model.step(x[..., : 300 * hop], model.initial_state(3), lost=flags[..., : 300 * hop])
    spectrum, _ = model.analysis.step(x, model.analysis.initial_state(3))
    found = spectrum.square().sum(1).mean().sqrt() / state["heard"][:, 1].square().mean().sqrt()
    assert abs(20 * torch.log10(2**0.5 * found / model.bias)) < 1
    gap = model(x, lost=flags)[:, 0, 330 * hop : 394 * hop]
    assert abs(20 * torch.log10(gap.square().mean().sqrt() / level)) < 1
    parts = torch.fft.rfft(gap).abs().square()[:, 1:]  # a multiple of 8 for both rates
    eighths = parts.unflatten(1, (8, -1)).mean((0, 2))
    assert (10 * torch.log10(eighths / (gap.shape[1] * level**2))).abs().max() < 1


@torch.no_grad()
def test_a_blind_model_finds_packets_of_zeros():
    x = voice(16000, 0.5)
    flags = lost(x, (3200, 3520))
    told, found = plain()(x, lost=flags), plain(blind=True)(x * (1 - flags))
    assert (told - found).abs().max() < 1e-6


@torch.no_grad()
def test_masks_are_below_2_and_start_close_to_the_extension():
    net = MendNet(**TINY).eval()
    z = torch.randn(2, 17, 6, 160)
    masks, _ = net.step(z, net.initial_state(2))
    assert masks.shape == (2, 4, 6, 160)
    assert (masks - torch.tensor([1.0, 0, 0, 0])[None, :, None, None]).abs().max() < 0.8
    net.decode.weight.mul_(1e4)
    masks, _ = net.step(z, net.initial_state(2))
    assert 1.9 < masks[:, :2].square().sum(1).sqrt().max() <= 2 + 1e-6


@pytest.mark.slow
def test_it_becomes_a_torch_program_without_branches(tmp_path):
    config = {"class_path": "audiomask.models.darn.Darn", "init_args": {"sample_rate": 16000, **TINY}}
    assert torch_program.export(tiny(), tmp_path / "darn.pt2", config, hops=2)["equality"] <= 1e-5
