"""Prism keeps the contract at any number of stems and channels, and its stems are the mix."""

import contract
import pytest
import torch

from audiomask.models.prism import BANDS, Prism, SplitMaskNet

TINY = {"size": 512, "hop": 256, "width": 8, "blocks": 1, "heads": 1, "full": 8, "squeeze": 8, "hidden": 8}


def tiny(**more) -> Prism:
    """A small model with random weights whose masks are far from a third, in evaluation."""
    torch.manual_seed(0)
    model = Prism(**(TINY | more)).eval()
    for head in model.net.heads:
        torch.nn.init.normal_(head.weight)
    return model


@pytest.mark.parametrize(
    "more", [{}, {"stems": ["drums", "bass"], "channels": 1, "ahead": 0, "hop": 128}, {"phase": False}]
)
@pytest.mark.parametrize("promise", contract.CONTRACT, ids=lambda f: f.__name__)
def test_contract(promise, more):
    promise(tiny(**more))


def test_sizes_of_the_shipped_one():
    model = Prism()
    assert sum(p.numel() for p in model.parameters()) == 1_884_720
    assert (model.hop, model.delay) == (1024, 3072)
    assert [port.name for port in model.outputs] == ["speech", "music", "effects"]


def test_stems_add_up_to_the_mix_and_differ():
    x = torch.randn(2, 2, 5000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        stems = tiny()(x)
    assert (sum(stems) - x).abs().max() < 1e-5
    assert (stems[0] - stems[1]).abs().max() > 0.01


def test_real_masks_keep_the_phase_and_add_up():
    x = torch.randn(1, 2, 5000, generator=torch.Generator().manual_seed(1))
    model = tiny(phase=False)
    with torch.no_grad():
        assert (sum(model(x)) - x).abs().max() < 1e-5
        spectrum = torch.randn(1, 4, 5, 257)
        mask, _ = model.net.step(spectrum, model.net.initial_state(1))
    mask = mask.unflatten(1, (3, 2, 2))
    assert not mask[:, :, :, 1].any()
    assert mask.min() >= 0
    assert mask[:, :, :, 0].std() > 0.1


def test_before_training_each_stem_is_about_its_share():
    x = torch.randn(1, 2, 2000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        stems = Prism(**TINY).eval()(x)
    for stem in stems:
        assert (stem - x / 3).square().mean() < 0.05 * x.square().mean()


def test_a_mask_serves_its_own_stem_channel_and_bins():
    """Stem 1 takes all of channel 0 in the third kind of bands, which are bins 32 to 95 of 257."""
    model = Prism(**TINY)
    for layer in (*model.net.heads, model.net.last):
        layer.weight.data.zero_()
    model.net.last.bias.data.fill_(1.0)
    weight = model.net.heads[2].weight
    head = torch.zeros_like(weight).unflatten(1, (3, 2, 2, -1))  # stem, channel, real or imaginary, mask
    head.unflatten(0, (8, -1))[:, 0, 1, 0, 0] = 1e6
    weight.data = head.flatten(1)
    spectrum = torch.randn(1, 4, 5, 257, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mask, _ = model.net.eval().step(spectrum, model.net.initial_state(1))
    mask = mask.unflatten(1, (3, 2, 2))[0, :, :, :, -1]  # stem, channel, part, bin
    assert mask[1, 0, 0, 32:96].allclose(torch.tensor(5 / 3))  # 2 + (1 - 2) / 3, as Z is below 2
    assert mask[0, 0, 0, 32:96].allclose(torch.tensor(-1 / 3), atol=1e-5)
    elsewhere = mask.clone()
    elsewhere[:, 0, 0, 32:96] = 1 / 3
    assert elsewhere[:, :, 0].allclose(torch.tensor(1 / 3))
    assert not mask[:, :, 1].any()


def test_other_windows_are_refused():
    with pytest.raises(ValueError, match="multiples of 512"):
        SplitMaskNet(201, 1, 2)
    assert BANDS == 32
