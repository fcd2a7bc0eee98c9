"""Classical concealment on signals whose repetition is known; received samples stay, but for the overlaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.runtime.packets.classical import (
    METHODS,
    pitch_period,
    repeat,
    repeat_faded,
    repeat_pitch,
    zero_fill,
)

RATES = [8000, 16000, 48000]


def tone(rate, period_s=0.008, seconds=0.6):
    """Of this period, with four harmonics; the same value at the same time at every rate."""
    t = np.arange(round(seconds * rate)) / rate
    parts = [np.sin(2 * np.pi * k * t / period_s + k) / k for k in range(1, 5)]
    return (0.2 * sum(parts)).astype(np.float32)


def gap(x, rate, start_ms, length_ms):
    lost = np.zeros(len(x), bool)
    lost[rate * start_ms // 1000 : rate * (start_ms + length_ms) // 1000] = True
    return lost


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("period_ms", [5.5, 8.0, 12.5])
def test_the_pitch_of_a_periodic_signal_is_found(rate, period_ms):
    x = tone(rate, period_ms / 1000).astype(np.float64)
    found = pitch_period(x[: round(0.3 * rate)], rate)
    multiple = round(found / rate * 1000 / period_ms)  # two periods are a period too
    assert abs(found - multiple * period_ms * rate / 1000) <= 1
    assert 0.005 * rate <= found <= 0.015 * rate


@pytest.mark.parametrize("rate", RATES)
def test_a_periodic_signal_stays_periodic_across_a_gap(rate):
    x = tone(rate)
    lost = gap(x, rate, 300, 10)
    y = repeat_pitch(np.where(lost, np.float32(7), x), lost, rate)
    np.testing.assert_allclose(y, x, atol=2e-3)
    longer = gap(x, rate, 300, 40)
    y = repeat_pitch(x, longer, rate)
    at = np.flatnonzero(longer)
    age = np.arange(len(at)) / rate / 0.010
    np.testing.assert_allclose(y[at], x[at] * np.clip(1.2 - 0.2 * age, 0, 1), atol=2e-3)
    assert zero_fill(x, longer, rate)[at].max() == 0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("lost_ms", "overlap_ms"), [(10, 0), (20, 4), (30, 8), (60, 10), (200, 10)])
def test_only_the_overlaps_touch_what_was_received(rate, lost_ms, overlap_ms):
    x = np.random.default_rng(0).uniform(-0.5, 0.5, rate).astype(np.float32)
    lost = gap(x, rate, 300, lost_ms)
    y = repeat_pitch(x, lost, rate)
    touched = np.flatnonzero((x != y) & ~lost)
    start, end = np.flatnonzero(lost)[[0, -1]] + [0, 1]
    quarter = start - touched.min()
    assert 0.00125 * rate - 1 <= quarter <= 0.00375 * rate
    expected = min(quarter + overlap_ms * rate // 1000, rate // 100)
    assert abs(touched.max() + 1 - end - expected) <= 1
    assert y.dtype == x.dtype


def test_a_long_gap_falls_silent_and_the_signal_fades_in():
    rate = 16000
    x = tone(rate)
    lost = gap(x, rate, 200, 200)
    y = repeat_pitch(x, lost, rate)
    assert np.abs(y[rate * 255 // 1000 : rate * 260 // 1000]).max() > 1e-3
    assert not y[rate * 260 // 1000 : rate * 400 // 1000].any()
    back = slice(rate * 400 // 1000, rate * 410 // 1000)
    np.testing.assert_allclose(y[back], x[back] * (np.arange(160) + 1) / 161, atol=1e-6)
    steps = np.abs(np.diff(x)).max()
    assert np.abs(np.diff(y)).max() < 1.5 * steps  # no click anywhere
    assert np.abs(np.diff(zero_fill(x, lost, rate))).max() > 1.5 * steps


def test_more_periods_are_heard_as_the_gap_goes_on():
    rate = 16000
    ramp = tone(rate) * (1 + np.arange(9600, dtype=np.float32) // 128 % 3)  # every period has its own level
    lost = gap(ramp, rate, 300, 60)
    y = repeat_pitch(ramp, lost, rate)[4800:]
    fade = np.clip(1.2 - 0.2 * np.arange(960) / 160, 0, 1)
    levels = [
        np.abs(y[a:b] / fade[a:b]).max()
        for a, b in ((0, 128), (192, 320), (400, 528), (528, 656), (656, 784))
    ]
    before = [np.abs(ramp[4800 - 128 * k : 4800 - 128 * (k - 1)]).max() for k in (1, 2, 3)]
    assert levels[0] == pytest.approx(before[0], rel=0.1)
    assert sorted(levels[2:]) == pytest.approx(sorted(before), rel=0.1)


def test_repetition_by_hand():
    x = np.arange(1, 1601, dtype=np.float32)
    lost = gap(x, 8000, 100, 45)
    y = repeat(x, lost, 8000)
    assert y[800:960].tolist() == x[640:800].tolist() == y[960:1120].tolist()
    assert y[1120:1160].tolist() == x[640:680].tolist()
    assert repeat(x, lost, 8000, packet_ms=10.0)[800:880].tolist() == x[720:800].tolist()
    np.testing.assert_array_equal(y[~lost], x[~lost])
    long = gap(x, 8000, 40, 130)
    faded, plain = repeat_faded(x, long, 8000), repeat(x, long, 8000)
    np.testing.assert_array_equal(faded[320:480], plain[320:480])
    assert faded[320 + 480] == pytest.approx(plain[320 + 480] / 2)  # 60 ms
    assert not faded[320 + 800 : 1360].any()
    assert plain[320 + 800 : 1360].all()
    first = gap(x, 8000, 0, 20)
    assert not repeat(x, first, 8000)[:160].any()


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 900)), min_size=1, max_size=12), st.integers(0, 9))
def test_any_pattern_of_loss(name, runs, seed):
    lost = np.repeat([flag for flag, _ in runs], [n for _, n in runs])
    x = np.random.default_rng(seed).uniform(-1, 1, len(lost)).astype(np.float32)
    kept = x.copy()
    y = METHODS[name](np.where(lost, np.nan, x).astype(np.float32), lost, 16000)
    assert y.shape == x.shape
    assert y.dtype == np.float32
    assert np.abs(y).max() <= np.abs(x[~lost]).max(initial=0) + 1e-6  # fades never add level; never NaN
    np.testing.assert_array_equal(x, kept)
    if name != "repeat_pitch":
        np.testing.assert_array_equal(y[~lost], x[~lost])
    if not lost.any():
        np.testing.assert_array_equal(y, x)
    ends = np.flatnonzero(np.diff(lost * 1) == -1) + 1
    far = np.ones(len(x), bool)
    for start in np.flatnonzero(np.diff(lost * 1) == 1) + 1:
        far[max(0, start - 60) : start] = False
    for end in ends:
        far[end : end + 160] = False
    np.testing.assert_array_equal(y[far & ~lost], x[far & ~lost])


@pytest.mark.parametrize("name", METHODS)
def test_what_does_not_fit_is_refused(name):
    x = np.zeros(100, np.float32)
    for bad in (np.zeros(99, bool), np.zeros(100, int), np.zeros((1, 100), bool)):
        with pytest.raises(ValueError, match=r"want a signal \[T\] and bool flags"):
            METHODS[name](x, bad, 16000)
    with pytest.raises(ValueError, match="sample_rate is 4000"):
        METHODS[name](x, np.zeros(100, bool), 4000)
