"""Masks by a network's scores, and masks that change as training goes on: counts, and what is chosen."""

import pytest
import torch

from audiomask.masks.patches.learned import Hardest, Likely
from audiomask.masks.patches.patterns import Block, Random, Time
from audiomask.masks.patches.scored import Dispersion, Segments, Speech
from audiomask.masks.patches.staged import Staged, Strips

GRID = (20, 6)
SEEDS = torch.arange(400)


def hard(step, rows=400, **settings):
    """A mask of 60 of 120 patches for scores that rise from patch to patch."""
    scores = torch.arange(120.0).view(1, *GRID).expand(rows, -1, -1)
    return Hardest(steps=100, ratio=0.5, **settings).at(step).sample(SEEDS[:rows], GRID, scores).flatten(1)


def test_the_share_of_the_hardest_grows():
    for step, share in ((0, 0.0), (25, 0.125), (50, 0.25), (100, 0.5), (1000, 0.5)):
        masked = hard(step)
        assert (masked.sum(1) == 60).all()
        count = int(share * 60)
        assert masked[:, 120 - count :].all()
        # the others are random: each of the rest alike
        rest = masked[:, : 120 - count].float().mean(0)
        assert rest.mean() == pytest.approx((60 - count) / (120 - count))
        assert (rest - rest.mean()).abs().max() < 0.12
    assert hard(100, begin=1.0, end=1.0)[:, 60:].all()


def test_a_harder_patch_is_hidden_more_often():
    """With scores that differ by row, patches of the upper half are chosen more often than those of the
    lower, and the more so the later."""
    scores = torch.rand(400, *GRID, generator=torch.Generator().manual_seed(0))
    upper = scores > scores.flatten(1).median(1).values[:, None, None]
    rates = []
    for step in (0, 50, 100):
        masked = Hardest(steps=100, ratio=0.5).at(step).sample(SEEDS, GRID, scores)
        rates.append((masked & upper).sum() / masked.sum())
    assert abs(rates[0] - 0.5) < 0.02
    assert rates[0] + 0.05 < rates[1] < rates[2] - 0.05


def test_visible_patches_are_drawn_by_their_probabilities():
    """Of three patches one stays visible: with the probabilities given; of two, by the law without
    replacement."""
    p = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1).expand(20000, -1, -1)
    seeds = torch.arange(20000)
    visible = ~Likely(2 / 3).sample(seeds, (3, 1), p).view(-1, 3)
    assert (visible.sum(1) == 1).all()
    assert torch.allclose(visible.float().mean(0), p[0, :, 0], atol=0.012)
    hidden = Likely(1 / 3).sample(seeds, (3, 1), p).view(-1, 3).float().mean(0)
    last = [
        0.3 * 0.1 / 0.7 + 0.1 * 0.3 / 0.9,
        0.6 * 0.1 / 0.4 + 0.1 * 0.6 / 0.9,
        0.6 * 0.3 / 0.4 + 0.3 * 0.6 / 0.7,
    ]
    assert torch.allclose(hidden, torch.tensor(last), atol=0.012)


@pytest.mark.parametrize("grid", [(64, 8), (20, 6), (5, 3)])
def test_strips_cover_whole_columns_or_rows(grid):
    masked = Strips(0.5).sample(SEEDS, grid)
    assert (masked.flatten(1).sum(1) == round(0.5 * grid[0] * grid[1])).all()
    columns, rows = masked.all(2), masked.all(1)
    covered = columns[:, :, None] | rows[:, None]
    # all but what is left of the last strip, at most one of them
    assert ((masked & ~covered).flatten(1).sum(1) < max(grid[0], round(0.075 * grid[0]) * grid[1])).all()
    assert columns.any(1).float().mean() > 0.5
    assert rows.any(1).float().mean() > 0.5


def test_one_kind_turns_into_the_other():
    early, late = Time(0.5), Random(0.5)
    for step, share in ((0, 0.01), (25, 0.5001), (100, 1.0)):
        mask = Staged(100, early=early, late=late).at(step).sample(SEEDS, GRID)
        is_late = (mask == late.sample(SEEDS, GRID)).flatten(1).all(1)
        is_early = (mask == early.sample(SEEDS, GRID)).flatten(1).all(1)
        assert (is_late ^ is_early).all()
        assert is_late.float().mean() == pytest.approx(share, abs=0.07)
    assert Staged(10).ratio == 0.8
    alone = Staged(10, 3).sample(SEEDS[5:6], GRID)
    assert torch.equal(alone, Staged(10, 3).sample(SEEDS, GRID)[5:6])


def test_settings_that_make_no_sense():
    for make, words in (
        (lambda: Hardest(steps=0), "steps from 1"),
        (lambda: Hardest(steps=5, end=1.5), "want shares"),
        (lambda: Strips(strips=0), "want 1 or more"),
        (lambda: Staged(0), "steps from 1"),
        (lambda: Staged(5, early=Block(0.5)), "early hides 0.5"),
        (lambda: Staged(5, early=Dispersion()), "take no scores"),
        (lambda: Hardest(steps=5).sample(SEEDS, GRID), "needs scores"),
        (lambda: Likely().sample(SEEDS[:1], GRID, -torch.ones(1, *GRID)), "from 0 to inf"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_kinds_look_at_a_spectrogram():
    """Loud noise in the second half, silence before: by hand."""
    levels = torch.full((1, 64, 32), -10.0)
    levels[:, 32:] = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    patch = levels[0, 48:64, 16:32]
    found = Dispersion().look(levels, (16, 16))
    assert found.shape == (1, 4, 2)
    assert found[0, 3, 1].item() == pytest.approx(float((patch - patch.mean()).abs().mean()), rel=1e-5)
    assert (found[0, :2] == 0).all()
    spoken = Speech().look(levels, (16, 16))[0]
    assert (spoken[:2] == 0).all()
    assert (spoken[2:] > 0.5).all()
    numbers = Segments().look(levels, (16, 16))[0]
    assert numbers[0] == numbers[1] < numbers[2]
