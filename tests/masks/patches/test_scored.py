"""Masks that look at the sound hide what their numbers point at, as often as they state."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.masks.patches.patterns import Random
from audiomask.masks.patches.scored import (
    Confidence,
    Dispersion,
    Segments,
    Speech,
    boundaries,
    columns,
    cut,
    dispersion,
    drawn_first,
    segments,
    speech,
    utterance_weights,
)

GRID = (64, 8)
SEEDS = torch.arange(2000)
ROWS = len(SEEDS)


def test_drawing_follows_the_weights():
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    place = drawn_first(weights.expand(20_000, 4), torch.arange(20_000), 1)
    for n, share in enumerate(weights / weights.sum()):
        assert abs((place[:, n] == 0).float().mean() - share) < 5 * 0.5 / 20_000**0.5
    # the second, given that 3 came first, by what is left
    given_last = place[place[:, 3] == 0]
    assert abs((given_last[:, 2] == 1).float().mean() - 3 / 6) < 5 * 0.5 / len(given_last) ** 0.5
    # whatever the scale of the weights
    for scale in (1e-37, 1e30):
        assert torch.equal(drawn_first(scale * weights.expand(50, 4), SEEDS[:50], 1), place[:50])


def test_weights_of_zero_come_last_and_all_zero_is_uniform():
    weights = torch.tensor([0.0, 1e-6, 0.0, 1.0]).expand(ROWS, 4)
    place = drawn_first(weights, SEEDS, 1)
    assert (place[:, [0, 2]] >= 2).all()
    place = drawn_first(torch.zeros(ROWS, 4), SEEDS, 1)
    for n in range(4):
        assert abs((place[:, n] == 0).float().mean() - 0.25) < 5 * 0.5 / ROWS**0.5


def test_patches_of_greater_dispersion_are_hidden_more_often():
    weights = torch.ones(ROWS, *GRID)
    weights[:, 16:32] = 4.0
    plain, hinted = (Dispersion(0.3, hint=h).sample(SEEDS, GRID, weights) for h in (0.0, 0.5))
    contrast = [
        float(mask[:, 16:32].float().mean() - mask[:, 32:].float().mean()) for mask in (plain, hinted)
    ]
    assert contrast[0] > 0.3
    assert 0.1 < contrast[1] < 0.8 * contrast[0]  # half of what is hidden is random
    assert (hinted.sum((1, 2)) == round(0.3 * 512)).all()
    uniform = Dispersion(0.3).sample(SEEDS, GRID, torch.ones(ROWS, *GRID))
    assert (uniform.float().mean(0) - 0.3).abs().max() < 5 * (0.3 * 0.7 / ROWS) ** 0.5


def test_a_hint_shows_its_share_and_hides_as_many_others():
    weights = torch.rand(ROWS, *GRID, generator=torch.Generator().manual_seed(0))
    for ratio, hint, swapped in ((0.5, 0.25, 64), (0.9, 0.5, 51)):  # .5 of 461 are more than are visible
        before, after = (Dispersion(ratio, hint=h).sample(SEEDS, GRID, weights) for h in (0.0, hint))
        assert ((before & ~after).sum((1, 2)) == swapped).all()
        assert ((~before & after).sum((1, 2)) == swapped).all()


def test_speech_is_hidden_more_often_than_silence():
    share = torch.zeros(ROWS, 64)
    share[:, ::2] = 1.0
    mask = Speech(1 / 64, odds=3.0).sample(SEEDS, GRID, share)  # one column
    assert (mask.all(2).sum(1) == 1).all()
    spoken = mask[:, ::2].any(2).any(1).float().mean()
    assert abs(spoken - 0.75) < 5 * 0.5 / ROWS**0.5
    half = Speech(0.5).sample(SEEDS, GRID, share).float().mean((0, 2))
    assert half[::2].min() > half[1::2].max() + 0.2
    even = Speech(0.5, odds=1.0).sample(SEEDS, GRID, share).float().mean((0, 2))
    assert (even - 0.5).abs().max() < 5 * 0.5 / ROWS**0.5


@settings(max_examples=80, deadline=None)
@given(
    st.floats(0.05, 0.95),
    st.lists(st.integers(0, 6), min_size=4, max_size=70),
    st.integers(4, 8),
    st.integers(-(2**63), 2**63 - 1),
)
def test_segments_are_hidden_whole_but_for_one(ratio, number, freq, seed):
    number = torch.tensor([number])
    grid = (number.shape[1], freq)
    mask = Segments(ratio).sample(torch.tensor([seed]), grid, number)[0]
    assert int(mask.sum()) == round(ratio * mask.numel())
    parts = [mask[number[0] == value] for value in number.unique()]
    partly = [part for part in parts if part.any() and not part.all()]
    assert len(partly) <= 1
    for part in partly:  # from its beginning on, with one column in part
        full = part.all(1).long()
        assert (full.diff() <= 0).all()
        assert int((part.any(1) & ~part.all(1)).sum()) <= 1


def test_spans_begin_where_the_recogniser_is_sure():
    confidence = torch.linspace(0, 1, 64).expand(ROWS, -1)
    mask = Confidence(0.2, top=0.25, span=4).sample(SEEDS, GRID, confidence)
    assert not mask[:, :48].any()  # the surest quarter begins at column 48; 13 of its 16 are enough
    assert mask[:, 48:].any(2).any(0).all()
    starts = Confidence(1 / 64, top=0.25, span=4).sample(
        SEEDS, GRID, confidence
    )  # the first column of a span
    share = starts.all(2).float().mean(0)
    assert (share[48:] - 1 / 16).abs().max() < 5 * (1 / 16 / ROWS) ** 0.5
    more = Confidence(0.9, top=0.25, span=4).sample(SEEDS, GRID, confidence)  # more than these reach
    assert more[:, 48:].all()
    lonely = confidence.clone()
    lonely[:, 10] = 2.0
    span = Confidence(4 / 64, top=1 / 64, span=4).sample(SEEDS, GRID, lonely)
    assert span[:, 10:14].all()


def test_dispersion_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    assert dispersion(x).tolist() == [1.5, 0]
    assert dispersion(x, "variance").tolist() == [3.5, 0]
    with pytest.raises(ValueError, match="'range'; there are deviation and variance"):
        dispersion(x, "range")


def test_patches_are_cut_in_time_major_order():
    spectrogram = torch.arange(2 * 8 * 6.0).view(2, 8, 6)
    parts = cut(spectrogram, (4, 3))
    assert parts.shape == (2, 2, 2, 12)
    assert torch.equal(parts[1, 1, 0].view(4, 3), spectrogram[1, 4:, :3])
    for shape in ((1, 7, 6), (1, 8, 5), (1, 0, 6)):
        with pytest.raises(ValueError, match="no whole patches of 4 x 3; pad or cut"):
            cut(torch.zeros(shape), (4, 3))


def test_boundaries_are_where_the_spectrum_changes():
    level = torch.zeros(2, 60, 16)
    level[0, 20:] += 10.0
    level[0, 45:, ::2] -= 8.0
    noise = 0.01 * torch.randn(level.shape, generator=torch.Generator().manual_seed(0))
    found = boundaries(level + noise)[0].nonzero()[:, 0].tolist()
    assert {0, 20, 45} <= set(found)
    assert boundaries(level)[1].nonzero()[:, 0].tolist() == [0]  # nothing changes
    assert boundaries(level)[0].nonzero()[:, 0].tolist() == [0, 20, 45]
    for short in range(1, 7):
        assert boundaries(torch.zeros(1, short, 16)).tolist() == [[True] + [False] * (short - 1)]
    assert segments(boundaries(level), 6).tolist() == [[0, 0, 1, 1, 2, 2], [0] * 6]  # middles at 5, 15, ...


def test_columns_and_speech_from_energies():
    assert columns(torch.tensor([[0.0, 2.0, 4.0, 8.0]]), 2).tolist() == [[1.0, 6.0]]
    with pytest.raises(ValueError, match="5 frames do not fill 2 columns"):
        columns(torch.zeros(1, 5), 2)
    energy = torch.full((3, 100), -60.0)
    energy[0, 50:] = -20.0
    energy[1, 50:] = -57.0
    found = speech(energy)
    assert found[0].tolist() == [0.0] * 50 + [1.0] * 50
    assert found[1:].max() == 0  # too small a range to tell speech from silence


def test_utterance_weights_are_mean_confidences():
    assert utterance_weights(torch.tensor([[0.5, 1.0], [0.0, 0.5]])).tolist() == [0.75, 0.25]
    assert utterance_weights(torch.tensor([0.5, 1.0])).tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match=r"scores\[1, 0\] is 1.5; want numbers from 0 to 1"):
        utterance_weights(torch.tensor([0.5, 1.5]))


NAN = math.nan


@pytest.mark.parametrize("sampler", [Dispersion(), Speech(), Segments(), Confidence()], ids=str)
def test_scores_that_are_none_are_refused(sampler):
    shape = (2, *GRID) if isinstance(sampler, Dispersion) else (2, 64)
    good, seeds = torch.ones(shape), SEEDS[:2]
    assert sampler.sample(seeds, GRID, good).any()
    with pytest.raises(
        ValueError, match=rf"{type(sampler).__name__} needs scores \[B, time.*none were given"
    ):
        sampler.sample(seeds, GRID)
    for wrong in (good[:1], good[:, 1:], good[..., None]):
        with pytest.raises(ValueError, match=r"scores of shape .* want \(2, 64"):
            sampler.sample(seeds, GRID, wrong)
    for value in (NAN, math.inf) + ((-1.0,) if not isinstance(sampler, Confidence) else ()):
        bad = good.clone()
        bad[1, 3] = value
        with pytest.raises(ValueError, match=rf"scores\[1, 3.*\] is {value:g}; want numbers from"):
            sampler.sample(seeds, GRID, bad)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Dispersion(hint=1.0), "hint is 1"),
        (lambda: Speech(odds=0.5), "odds is 0.5"),
        (lambda: Speech(ratio=2), "ratio is 2"),
        (lambda: Confidence(top=0), "top is 0, span 3"),
        (lambda: Confidence(span=0), "span 0"),
    ],
)
def test_settings_that_are_none_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_scores_of_whole_numbers_and_booleans_serve():
    ids = torch.arange(64).expand(2, -1) // 5
    assert torch.equal(
        Segments().sample(SEEDS[:2], GRID, ids), Segments().sample(SEEDS[:2], GRID, ids.float())
    )
    flags = ids % 2 == 0
    assert torch.equal(
        Speech().sample(SEEDS[:2], GRID, flags), Speech().sample(SEEDS[:2], GRID, flags.float())
    )
    assert not torch.equal(Random().sample(SEEDS[:2], GRID), Speech().sample(SEEDS[:2], GRID, flags))
