"""The augmentations of pairs: what they change, what they leave, and that a seed replays them."""

import math

import pytest
import torch

from audiomask.data.simulate.augment import Augment, band_stop, echoes, mel_hz

RATE = 16000


def pairs(rows=6, length=24000, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, generator=g), 0.1 * torch.randn(rows, 1, length, generator=g)


SEEDS = torch.arange(6) + 100


def test_without_anything_the_pairs_stay_as_they_are():
    speech, noise = pairs()
    noisy, clean = Augment(RATE, 24000, remix=0)(speech, noise, SEEDS)
    assert torch.equal(clean, speech)
    assert torch.equal(noisy, speech + noise[:, 0])


def test_remix_deals_out_the_noises_of_the_batch():
    speech, noise = pairs()
    noisy, clean = Augment(RATE, 24000)(speech, noise, SEEDS)
    assert torch.equal(clean, speech)
    dealt = noisy - clean
    whose = torch.cdist(dealt, noise[:, 0]).argmin(1)
    assert sorted(whose.tolist()) == list(range(6))
    assert whose.tolist() != list(range(6))
    assert torch.allclose(dealt, noise[whose, 0], atol=1e-5)


@pytest.mark.parametrize("options", [{"band_mask": 0.2}, {"revecho": 0.5}, {"shift": 8000}])
def test_a_seed_replays_a_row_whatever_batch_it_stands_in(options):
    speech, noise = pairs()
    make = Augment(RATE, 16000, remix=0, **options)
    whole = make(speech, noise, SEEDS)
    again = make(speech[2:4], noise[2:4], SEEDS[2:4])
    for a, b in zip(whole, again, strict=True):
        assert torch.allclose(a[2:4], b, atol=1e-5)
    other = make(speech, noise, SEEDS + 1)
    assert not torch.allclose(whole[0], other[0], atol=1e-3)


def test_shift_moves_both_by_the_same():
    speech, noise = pairs()
    noisy, clean = Augment(RATE, 16000, remix=0, shift=8000)(speech, noise, SEEDS)
    starts = []
    for row in range(6):
        (found,) = (speech[row].unfold(0, 16000, 1) == clean[row]).all(1).nonzero()
        starts.append(int(found))
        assert torch.equal(noisy[row], (speech + noise[:, 0])[row, starts[-1] : starts[-1] + 16000])
    assert len(set(starts)) > 3
    assert 0 <= min(starts) <= max(starts) <= 8000


def test_too_short_a_crop_is_named():
    with pytest.raises(ValueError, match="32000 samples"):
        Augment(RATE, 24000, shift=8000)(*pairs(), SEEDS)


def test_band_stop_takes_out_what_lies_between():
    x = torch.randn(2, 1, RATE)
    y = band_stop(x, torch.tensor([1000.0, 2000.0]), torch.tensor([3000.0, 2000.0]), RATE)
    f = torch.fft.rfftfreq(RATE, 1 / RATE)
    gain = (torch.fft.rfft(y) / torch.fft.rfft(x)).abs()[:, 0]
    assert gain[0][(f > 1200) & (f < 2900)].median() < 0.1
    assert (gain[0][(f < 900) | (f > 3200)].median() - 1).abs() < 0.02
    assert torch.allclose(y[1], x[1], atol=1e-4)


def test_bands_are_at_most_the_share_and_both_signals_lose_the_same():
    speech, _ = pairs(length=RATE)
    noisy, clean = Augment(RATE, RATE, remix=0, band_mask=0.2)(speech, speech[:, None], SEEDS)
    assert torch.allclose(noisy, 2 * clean, atol=1e-4)
    lost = 1 - clean.square().sum(1) / speech.square().sum(1)
    widest = (mel_hz(torch.tensor(1.0), RATE) - mel_hz(torch.tensor(0.8), RATE)) / (RATE / 2)
    assert lost.max() < widest + 0.05
    assert lost.max() > 0.02


def test_mel_scale():
    assert math.isclose(float(mel_hz(torch.tensor(1.0), RATE)), 8000, rel_tol=1e-5)
    assert float(mel_hz(torch.tensor(0.0), RATE)) == 0


def test_echoes_come_when_and_as_loud_as_they_should():
    zero = torch.zeros(1, 1, 100)
    h = echoes(torch.tensor([0.3]), torch.tensor([0.02]), torch.tensor([0.5]), zero, 8001, RATE)[0]
    at = h.nonzero()[:, 0]
    assert at.tolist() == [320 * (n + 1) for n in range(25)]  # .5 s of them, and one at -60 dB is the last
    assert math.isclose(float(h[320]), 0.3, rel_tol=1e-5)
    fallen = 20 * torch.log10(h[320] / h[at[20]])
    assert math.isclose(float(fallen), 60 * 20 * 0.02 / 0.5, rel_tol=1e-4)


def test_echoes_of_speech_are_mostly_noise():
    speech = torch.zeros(1, RATE)
    speech[0, 1000] = 1.0
    make = Augment(RATE, RATE, remix=0, revecho=1.0, echo_gain=(0.3, 0.3))
    noisy, clean = make(speech, torch.zeros(1, 1, RATE), torch.tensor([1]))
    assert noisy[0, 1000] == clean[0, 1000] == 1
    tail, kept = noisy[0, 1001:], clean[0, 1001:]
    assert tail.abs().max() > 0.2
    assert torch.allclose(kept, 0.1 * tail, atol=1e-5)
    assert tail[:130].abs().max() < 1e-5  # nothing before the first echo: 9 ms at the soonest
