"""Wavelet packets come back exactly, equal a well-kept package's, and stream."""

import numpy as np
import pytest
import torch

from audiomask.nn.wavelets import Split, filters, joins, splits
from audiomask.streaming import Sequential


def split_whole(x, levels):
    for block in splits(x.shape[1], levels):
        x = block.whole(x)
    return x


def join_whole(x, channels, levels):
    for block in joins(channels, levels):
        x = block.whole(x)
    return x


def test_filters_are_those_of_the_paper():
    """Daubechies 1992, table 8.3, times the root of 2."""
    h, f = filters()
    assert h[4:] / np.sqrt(2) == pytest.approx([0.602949, 0.266864, -0.078223, -0.016864, 0.026749], abs=1e-6)
    assert f[3:] / np.sqrt(2) == pytest.approx([0.557543, 0.295636, -0.028772, -0.045636], abs=1e-6)


@pytest.mark.parametrize(("length", "levels"), [(64, 1), (64, 3), (8, 3), (4096, 8), (256, 8)])
def test_a_period_comes_back_exactly(length, levels):
    torch.manual_seed(0)
    x = torch.randn(2, 3, length)
    bands = split_whole(x, levels)
    assert bands.shape == (2, 3 << levels, length >> levels)
    torch.testing.assert_close(join_whole(bands, 3, levels), x, rtol=0, atol=1e-5)


def test_low_tones_are_in_the_first_band_of_their_channel():
    n = torch.arange(4096)
    tones = torch.stack([torch.cos(0.01 * n), torch.cos((np.pi - 0.01) * n)])[None]
    power = split_whole(tones, 3)[0].square().sum(1)
    assert power[0] > 0.9 * power[:8].sum()
    assert power[8 + 4] > 0.9 * power[8:].sum()  # the upper half comes out the other way round


def test_a_stream_equals_the_period_but_for_its_ends():
    torch.manual_seed(0)
    x, levels = torch.randn(1, 2, 64 * 32), 5
    split, join = Sequential(*splits(2, levels)), Sequential(*joins(2, levels))
    bands = split(x)
    torch.testing.assert_close(bands[:, :, 5:-5], split_whole(x, levels)[:, :, 5:-5], rtol=0, atol=1e-5)
    both = Sequential(split, join)
    torch.testing.assert_close(both(x)[:, :, 320:-320], x[:, :, 320:-320], rtol=0, atol=1e-5)
    assert both.delay == join.delay * 32 + split.delay


def test_filters_are_not_learned():
    assert not list(Split(2).parameters())
    assert not Split(2).state_dict()


@pytest.mark.peer
def test_equals_pywavelets():
    pywt = pytest.importorskip("pywt")
    x = np.random.default_rng(0).standard_normal(512)
    bands = split_whole(torch.from_numpy(x)[None, None].float(), 3)[0].numpy()
    packet = pywt.WaveletPacket(x, "bior4.4", "periodization", 3)
    for i, node in enumerate(packet.get_level(3, "natural")):
        np.testing.assert_allclose(bands[i], node.data, atol=1e-5)
