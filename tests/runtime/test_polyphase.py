"""audiomask.runtime.polyphase: against the values that a band-limited signal has at the other rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.runtime.polyphase import Polyphase

RATES = [(48000, 16000), (16000, 48000), (44100, 16000), (16000, 44100), (8000, 16000), (192000, 16000),
         (44101, 16000), (16000, 44101), (4010, 16000)]  # fmt: skip


def convert(x, a, b):
    p = Polyphase(a, b, x.shape[0])
    return p.push(np.concatenate((x, np.zeros((x.shape[0], 2 * p.half), np.float32)), axis=1))


@pytest.mark.parametrize(("a", "b"), RATES)
def test_sines_in_the_pass_band_keep_level_and_phase(a, b):
    seconds, top = 0.3, 0.85 * min(a, b) / 2
    for hz in (100.0, 1000.0, top / 2, top):
        x = np.sin(2 * np.pi * hz * np.arange(int(seconds * a)) / a).astype(np.float32)[None]
        y = convert(x, a, b)[0]
        want = np.sin(2 * np.pi * hz * np.arange(len(y)) / b)
        middle = slice(int(0.05 * b), int(0.25 * b))
        assert np.abs(y[middle] - want[middle]).max() < 3e-4


@pytest.mark.parametrize(("a", "b"), [(48000, 16000), (44100, 16000), (192000, 16000)])
def test_nothing_above_the_new_band_folds_back(a, b):
    for hz in (0.51 * b + 50, 0.7 * b):
        x = np.sin(2 * np.pi * hz * np.arange(a // 2) / a).astype(np.float32)[None]
        y = convert(x, a, b)[0]
        assert np.abs(y[b // 10 : -b // 10]).max() < 3e-4  # -70 dB


@pytest.mark.parametrize(("a", "b"), RATES)
def test_a_constant_passes_unchanged(a, b):
    y = convert(np.ones((1, a // 4), np.float32), a, b)[0]
    np.testing.assert_allclose(y[b // 20 : b // 5], 1, atol=1e-6)


@given(st.sampled_from(RATES), st.lists(st.integers(0, 9000), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_split_gives_the_same_when_promised(rates, sizes):
    x = np.random.default_rng(0).standard_normal((2, sum(sizes))).astype(np.float32)
    whole, split = Polyphase(*rates, 2), Polyphase(*rates, 2)
    want = whole.push(x)
    assert want.shape[1] == whole.ready(x.shape[1])
    parts, at = [], 0
    for size in sizes:
        parts.append(split.push(x[:, at : at + size]))
        at += size
        assert split.state.given == split.ready(at)
        assert split.state.buffer.shape[1] <= 2 * split.half + 1  # memory does not grow
    np.testing.assert_allclose(np.concatenate(parts, 1), want, atol=2e-6)


def test_far_into_a_stream_the_phase_is_still_exact():
    """Ten hours at 48 kHz on: integers do not lose the beat as a float32 clock would."""
    near, far = Polyphase(44100, 16000, 1), Polyphase(44100, 16000, 1)
    blocks = 36000 * 100  # of 441 inputs and 160 outputs
    far.state.taken, far.state.given = blocks * 441, blocks * 160
    x = np.random.default_rng(0).standard_normal((1, 5000)).astype(np.float32)
    assert np.array_equal(near.push(x), far.push(x))


@given(st.integers(4000, 768_000), st.sampled_from([16000, 48000]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_rate_of_a_header_converts(rate, model, back):
    a, b = (model, rate) if back else (rate, model)
    p = Polyphase(a, b, 1)
    y = p.push(np.ones((1, 4 * p.half), np.float32))
    assert y.shape[1] == p.ready(4 * p.half)
    np.testing.assert_allclose(y[0, -1], 1, atol=1e-5)
