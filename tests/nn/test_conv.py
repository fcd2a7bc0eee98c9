"""Convolutions against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiomask.nn.conv import ComplexConv2d, Conv1d, Conv2d, ConvTranspose1d


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"), [(5, 1, 1, 1), (3, 1, 4, 2), (8, 4, 1, 1)]
)
def test_causal_conv_loads_and_equals_torch(kernel, stride, dilation, groups):
    theirs = nn.Conv1d(4, 6, kernel, stride, dilation=dilation, groups=groups)
    ours = Conv1d(4, 6, kernel, stride, dilation, groups)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, 40)
    padded = F.pad(x, ((kernel - 1) * dilation + 1 - stride, 0))
    torch.testing.assert_close(ours(x), theirs(padded))
    assert ours.delay == 0


def test_centred_conv_equals_torch_padding():
    theirs = nn.Conv1d(2, 3, 5, padding=2)
    ours = Conv1d(2, 3, 5, lookahead=2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 2, 17)
    torch.testing.assert_close(ours(x), theirs(x))
    assert (ours.delay, ours.latency) == (2, 3)


def test_conv2d_loads_and_equals_torch():
    theirs = nn.Conv2d(2, 4, (3, 5), (1, 2), (0, 2), (2, 1))
    ours = Conv2d(2, 4, (3, 5), (1, 2), (2, 1), padding=2, freqs=9)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 2, 11, 9)
    torch.testing.assert_close(ours(x), theirs(F.pad(x, (0, 0, 4, 0))))


def test_conv2d_pads_frequency_on_one_side():
    ours = Conv2d(1, 1, (1, 3), padding=(2, 0))
    x = torch.randn(1, 1, 4, 6)
    torch.testing.assert_close(ours(x), F.conv2d(F.pad(x, (2, 0)), ours.weight, ours.bias))


def as_complex(x):
    """Interleaved parts on axis 1 as complex numbers."""
    return torch.view_as_complex(x.unflatten(1, (-1, 2)).movedim(2, -1).contiguous())


def test_complex_conv_equals_torch_on_complex_numbers():
    ours = ComplexConv2d(4, 6, (3, 3), stride=(1, 2), padding=1, groups=2, freqs=9)
    torch.nn.init.normal_(ours.bias)
    x = torch.randn(2, 8, 11, 9)
    bias = as_complex(ours.bias[None])[0]
    theirs = F.conv2d(F.pad(as_complex(x), (1, 1, 2, 0)), as_complex(ours.weight), bias, (1, 2), groups=2)
    torch.testing.assert_close(as_complex(ours(x)), theirs)


@pytest.mark.parametrize("kind", [Conv2d, ComplexConv2d])
def test_tied_groups_have_one_kernel(kind):
    tied = kind(3, 6, (2, 1), groups=3, tied=True, bias=False, freqs=5)
    alone = kind(1, 2, (2, 1), bias=False, freqs=5)
    alone.load_state_dict(tied.state_dict())
    x = torch.randn(2, 3 * (1 + (kind is ComplexConv2d)), 7, 5)
    torch.testing.assert_close(tied(x), torch.cat([alone(part) for part in x.chunk(3, 1)], 1))


@pytest.mark.parametrize(("kernel", "stride", "trim"), [(8, 4, 0), (9, 4, 3), (4, 4, 0), (5, 1, 2)])
def test_transposed_conv_loads_and_equals_torch(kernel, stride, trim):
    theirs = nn.ConvTranspose1d(3, 2, kernel, stride)
    ours = ConvTranspose1d(3, 2, kernel, stride, trim=trim)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 7)
    torch.testing.assert_close(ours(x), theirs(x)[:, :, trim : trim + 7 * stride])


def test_transposed_conv_shorter_than_its_stride_fills_with_bias():
    ours = ConvTranspose1d(1, 1, 2, 3)
    y = ours(torch.ones(1, 1, 2))
    torch.testing.assert_close(y[0, 0, [2, 5]], ours.bias.expand(2))


def test_errors_say_what_is_possible():
    with pytest.raises(ValueError, match="look-ahead of 5 frames outside a kernel that spans 5"):
        Conv1d(1, 1, 5, lookahead=5)
    with pytest.raises(ValueError, match="allow 4"):
        ConvTranspose1d(1, 1, 8, 4, trim=5)
    with pytest.raises(ValueError, match="needs `freqs`"):
        Conv2d(1, 1, (2, 1)).initial_state(1)
