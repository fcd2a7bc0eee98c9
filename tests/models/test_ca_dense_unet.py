"""Channel-Attention Dense U-Net: its attention is the formula, permutes with the microphones, and its masks
sum what they should. That it keeps the streaming contract its recipe's test shows; here the real variant.
"""

import contract
import pytest
import torch

from audiomask.models.ca_dense_unet import CADenseUNet, ChannelAttention

TINY = {"widths": [2, 3], "layers": 2, "attention": 2, "window": 3, "size": 32, "hop": 16}


def tiny(microphones: int = 3, reference: int = 1, **options) -> CADenseUNet:
    """A small model with random weights whose masks are far from those it starts with."""
    torch.manual_seed(0)
    model = CADenseUNet(microphones, reference, **(TINY | options)).eval()
    with torch.no_grad():
        model.net.masks.weight.mul_(20)
    return model


def as_complex(x: torch.Tensor) -> torch.Tensor:
    """`[B, 2 C, T, F]` -> `[B, C, T, F]`."""
    return torch.view_as_complex(x.unflatten(1, (-1, 2)).movedim(2, -1).contiguous())


def as_parts(z: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(z).movedim(-1, 2).flatten(1, 2)


@pytest.mark.parametrize("clause", contract.CONTRACT, ids=lambda clause: clause.__name__)
def test_the_real_variant_keeps_the_contract(clause):
    if clause is contract.onnx_equals_torch:
        pytest.skip("an export takes seconds; see below")
    clause(tiny(complex_=False))


@pytest.mark.slow
@pytest.mark.parametrize("complex_", [False, True])
def test_exports(complex_):
    contract.onnx_equals_torch(tiny(complex_=complex_))


def test_shapes_delay_and_alignment():
    model = tiny(4, 2, size=64, hop=16)
    assert (model.delay, model.latency) == (48, 64)
    assert model(torch.randn(2, 4, 333)).shape == (2, 1, 333)
    start = CADenseUNet(4, 2, **TINY).eval()
    contract.output_is_aligned_with_input(start)


@torch.no_grad()
@pytest.mark.parametrize("microphone", [0, 2])
def test_a_mask_of_one_passes_its_microphone_alone(microphone):
    model = tiny()
    model.net.masks.weight.zero_()
    model.net.masks.bias.zero_()
    model.net.masks.bias[2 * microphone] = 1.0
    x = torch.randn(2, 3, 500)
    assert (model(x) - x[:, microphone : microphone + 1]).abs().max() < 1e-5


@torch.no_grad()
def test_masks_are_complex_and_summed():
    """Masks 1, i and -i of one signal at all microphones leave it; i alone turns a cosine by a quarter."""
    model = tiny()
    model.net.masks.weight.zero_()
    model.net.masks.bias.copy_(torch.tensor([1.0, 0, 0, 1.0, 0, -1.0]))
    x = torch.randn(1, 1, 500)
    assert (model(x.expand(1, 3, 500)) - x).abs().max() < 1e-5
    phase = 0.7 + 2 * torch.pi * 4 / 32 * torch.arange(512)  # at the centre of bin 4
    silent = torch.zeros(512)
    y = model(torch.stack([silent, phase.cos(), silent])[None])[0, 0]
    assert (y + phase.sin())[64:-64].abs().max() < 0.01  # the window lets some of -f through


@torch.no_grad()
def test_attention_is_the_formula():
    """Against complex matrices, one frame and one frequency at a time."""
    c, d, window = 4, 3, 5
    attention = ChannelAttention(c, d, window, 6)
    x = torch.randn(2, 2 * c, 9, 6)
    y = as_complex(attention(x))
    kernels = as_complex(attention.reduce.weight[..., 0][:, :, None])[:, 0, 0]  # [2 d + 1, window]
    z = torch.nn.functional.pad(as_complex(x), (0, 0, window - 1, 0))
    for frame, f in ((0, 0), (3, 5), (8, 2)):
        features = torch.einsum("bcw,nw->bcn", z[:, :, frame : frame + window, f], kernels)
        q, k, v = features.split((d, d, 1), 2)
        s = q @ k.mH / d**0.5
        p = torch.complex(s.real.softmax(2), s.imag.softmax(2))
        torch.testing.assert_close(y[:, :, frame, f], (p @ v)[..., 0])


@torch.no_grad()
@pytest.mark.parametrize("complex_", [True, False])
def test_attention_permutes_with_its_channels(complex_):
    parts = 2 if complex_ else 1
    attention = ChannelAttention(4, 3, 5, 6, complex_)
    x = torch.randn(2, 4, parts, 9, 6)
    order = torch.tensor([2, 0, 3, 1])
    y = attention(x.flatten(1, 2)).unflatten(1, (4, parts))
    moved = attention(x[:, order].flatten(1, 2)).unflatten(1, (4, parts))
    torch.testing.assert_close(moved, y[:, order])
    assert (moved - y).abs().max() > 0.01  # and the order does matter


@torch.no_grad()
def test_a_common_turn_of_phase_passes_through_attention():
    """Similarity is of phase differences: the array may be anywhere on the wave."""
    attention = ChannelAttention(3, 2, 4, 6)
    z = torch.randn(1, 3, 8, 6, dtype=torch.complex64)
    turn = torch.exp(torch.tensor(1.1j))
    y = as_complex(attention(as_parts(z)))
    torch.testing.assert_close(as_complex(attention(as_parts(z * turn))), y * turn)


@torch.no_grad()
def test_permuted_microphones_and_weights_give_the_same():
    """The whole network knows microphones by the weights of its first block and its masks, and by nothing
    else: permute both with the microphones and nothing changes; permute one only and much does.
    """
    model, x, order = tiny(), torch.randn(1, 3, 400), torch.tensor([2, 0, 1])
    y = model(x)
    assert (model(x[:, order]) - y).abs().max() > 0.01 * y.abs().max()

    def pairs(index: torch.Tensor) -> torch.Tensor:
        return (2 * index[:, None] + torch.arange(2)).flatten()

    for name, weight in model.net.unet[0].named_parameters():
        if weight.ndim == 4 and "reduce" not in name:  # reads (x, attention(x), ...)
            rest = torch.arange(6, weight.shape[1] // 2)
            weight.copy_(weight[:, pairs(torch.cat([order, 3 + order, rest]))])
    model.net.masks.weight.copy_(model.net.masks.weight[order])
    model.net.masks.bias.copy_(model.net.masks.bias[pairs(order)])
    torch.testing.assert_close(model(x[:, order]), y, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_level_changes_nothing_but_the_level():
    model, x = tiny(), 0.1 * torch.randn(1, 3, 600)
    y = model(x)
    torch.testing.assert_close(model(30 * x) / 30, y, atol=1e-4 * float(y.abs().max()), rtol=1e-3)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="reference 3 is none of 3 microphones"):
        tiny(3, 3)
    with pytest.raises(ValueError, match="16 bins do not halve 5 times"):
        tiny(widths=[2] * 6)
