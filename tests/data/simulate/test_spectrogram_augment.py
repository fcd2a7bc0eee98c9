"""Augmentation of log-mel pictures: what is hidden, what is quantized, and that rows stand alone."""

import pytest
import torch

from audiomask.data.simulate.spectrogram_augment import draws, randomized_quantization, spec_augment


def pictures(rows=200, frames=40, bands=16):
    return torch.randn(rows, frames, bands, generator=torch.Generator().manual_seed(0))


def test_what_is_drawn_is_the_rows_own():
    seeds = torch.tensor([3, 4, 2**61])
    assert torch.equal(draws(seeds, 5, 1)[2:], draws(seeds[2:], 5, 1))
    assert not torch.equal(draws(seeds, 5, 1), draws(seeds, 5, 2))


def test_spec_augment_hides_one_stretch_each_way():
    x = pictures()
    y = spec_augment(x, torch.arange(200), 12, 4, -7.0)
    gone = y == -7
    assert torch.equal(y[~gone], x[~gone])
    frames, bands = gone.all(2), gone.all(1)
    assert torch.equal(gone, frames[:, :, None] | bands[:, None, :])
    for found, most in ((frames, 12), (bands, 4)):
        widths = found.sum(1)
        assert set(widths.tolist()) == set(range(most + 1))
        assert (found.int().diff(dim=1) == 1).sum(1).max() <= 1  # in one piece
        assert found.any(0).all()  # anywhere
    assert torch.equal(spec_augment(x[7:8], torch.tensor([7]), 12, 4, -7.0), y[7:8])
    assert torch.equal(spec_augment(x, torch.arange(200), 0, 0), x)


def test_quantization_keeps_order_and_range():
    x = pictures()
    y = randomized_quantization(x, torch.arange(200), 8)
    for row, values in zip(x.flatten(1), y.flatten(1), strict=True):
        assert 2 <= len(values.unique()) <= 8
        assert (values[row.argsort()].diff() >= 0).all()
        assert row.min() <= values.min()
        assert values.max() <= row.max()
        for value in values.unique():  # within its bin: among the values that it stands for, or beside them
            inside = row[values == value]
            others = row[values != value]
            assert ((others < inside.min()) | (others > inside.max())).all()
    assert torch.equal(randomized_quantization(x[7:8], torch.tensor([7]), 8), y[7:8])


def test_quantization_takes_a_share_of_the_rows():
    x = pictures()
    same = (randomized_quantization(x, torch.arange(200), 8, 0.3) == x).flatten(1).all(1)
    assert same.float().mean() == pytest.approx(0.7, abs=0.1)
    with pytest.raises(ValueError, match="at least 2"):
        randomized_quantization(x, torch.arange(200), 1)
