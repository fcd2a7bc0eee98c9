"""One U-Net with masks of magnitudes, complex ones and phase-aware ones."""

import contract
import pytest
import torch

from audiomask.models.complex_unet import PARTS, ComplexUNet, mask_of

TINY = {"widths": (4, 6), "size": 64, "hop_length": 16, "sample_rate": 16000, "stems": ("drums", "bass")}


def tiny(**changes) -> ComplexUNet:
    torch.manual_seed(0)
    return ComplexUNet(**{**TINY, **changes}).eval()


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("bounded", [True, False])
def test_streams_with_every_mask(kind, bounded):
    model = tiny(mask=kind, bounded=bounded)
    contract.random_chunking_equals_whole(model)
    contract.gradients_flow(model)
    contract.future_never_changes_the_past(model)


def test_contract_with_look_ahead():
    model = tiny(ahead=1, channels=1, stems=("vocals",), mask="phase")
    for promise in contract.CONTRACT:
        if promise is not contract.onnx_equals_torch:  # that takes long, and is done of the recipe's
            promise(model)


def test_latency_is_that_of_the_transform_and_of_what_is_seen_ahead():
    assert (tiny().hop, tiny().delay) == (16, 48)
    assert tiny(ahead=1).delay == 48 + 2 * 16  # two layers


def test_masks_are_what_they_say():
    z = 5 * torch.randn(2, 3 * 6, 4, 5)
    for kind, parts in PARTS.items():
        for bounded in (True, False):
            mask = mask_of(z, kind, bounded)
            if kind == "magnitude":
                assert mask.shape == (2, 18, 4, 5)
                size = mask
                assert mask.min() >= 0
            else:
                assert mask.shape == (2, 2 * 18 // parts, 4, 5)
                size = mask.unflatten(1, (-1, 2)).square().sum(2).sqrt()
                assert (mask < 0).any()
            assert bool(size.max() <= 1 + 1e-6) is bounded
    # phase and magnitude apart: the size is the first part's, whatever the others are
    mask = mask_of(z, "phase", True).unflatten(1, (-1, 2))
    torch.testing.assert_close(
        mask.square().sum(2).sqrt(), z.unflatten(1, (-1, 3))[:, :, 0].sigmoid(), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(mask_of(z, "complex", False), z, rtol=0, atol=0)


@torch.no_grad()
def test_a_complex_mask_turns_the_phase_and_one_of_magnitudes_cannot():
    x = torch.randn(1, 2, 800)
    for kind, values in {"complex": [-1.0, 0.0], "phase": [100.0, -1.0, 0.0]}.items():
        model = tiny(mask=kind, bounded=kind == "phase")
        model.net.masks.weight.zero_()
        model.net.masks.bias.copy_(torch.tensor(values).repeat(4))
        for y in model(x):
            torch.testing.assert_close(y, -x, rtol=0, atol=1e-5)
    model = tiny(mask="magnitude", bounded=True)
    model.net.masks.weight.zero_()
    model.net.masks.bias.fill_(100.0)
    for y in model(x):
        torch.testing.assert_close(y, x, rtol=0, atol=1e-5)


@torch.no_grad()
def test_each_stem_and_channel_has_a_mask_of_its_own():
    model = tiny(mask="complex", bounded=False)
    model.net.masks.weight.zero_()
    gains = torch.tensor([0.5, 1.0, 2.0, 3.0])  # drums left and right, bass left and right
    model.net.masks.bias.copy_(torch.stack([gains, torch.zeros(4)], 1).flatten())
    x = torch.randn(1, 2, 800)
    drums, bass = model(x)
    torch.testing.assert_close(drums, x * gains[None, :2, None], rtol=0, atol=1e-5)
    torch.testing.assert_close(bass, x * gains[None, 2:, None], rtol=0, atol=1e-5)


def test_size_of_the_recipe_and_what_the_masks_add():
    counts = {kind: sum(p.numel() for p in ComplexUNet(mask=kind).parameters()) for kind in PARTS}
    assert counts["complex"] == 3_497_716
    assert counts["complex"] - counts["magnitude"] == counts["phase"] - counts["complex"] == 10 * 17


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": "binary"}, "no mask 'binary'"),
        ({"widths": (4,) * 7}, "do not halve 7 times"),
        ({"kernel": (3, 4)}, "must be odd"),
        ({"stems": ()}, "want one or more"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)
