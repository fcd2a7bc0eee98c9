"""audiomask.runtime.card.ring: what goes in comes out, and a cut that is not heard."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomask.runtime.card.ring import Ring, mismatch, splice


@given(st.lists(st.tuples(st.sampled_from("wrs"), st.integers(0, 12)), max_size=60))
def test_a_ring_is_a_queue_with_a_limit(steps):
    ring, queue, count = Ring(2, 10), [], 0
    for step, n in steps:
        if step == "w":
            x = np.arange(count, count + n, dtype=np.float32)
            took = ring.write(np.stack((x, -x)))
            assert took == min(n, 10 - len(queue))
            queue += list(x[:took])
            count += took
        elif step == "r":
            out = np.full((2, n), np.nan, np.float32)
            got = ring.read(out)
            assert got == min(n, len(queue))
            assert list(out[0, :got]) == queue[:got] == list(-out[1, :got])
            assert np.isnan(out[:, got:]).all()
            queue = queue[got:]
        else:
            assert ring.skip(n) == min(n, len(queue))
            queue = queue[n:]
        assert ring.fill == len(queue)


def test_one_channel_fills_many():
    ring, out = Ring(1, 8), np.zeros((3, 4), np.float32)
    ring.write(np.arange(4, dtype=np.float32)[None])
    ring.read(out)
    assert (out == np.arange(4)).all()


def best(y, shift, fade):
    return splice(y, shift, fade, int(mismatch(y, shift, fade).argmin()))


@pytest.mark.parametrize("shift", [1, 40, 100, -1, -40, -100])
def test_a_splice_changes_the_length_and_keeps_the_ends(noise, shift):
    y = noise(2, 512)
    z = best(y, shift, 64)
    assert z.shape == (2, 512 - shift)
    # Before and after the fade the samples are the very same.
    left = np.flatnonzero((z[:, : min(512, 512 - shift)] != y[:, : z.shape[1]][:, :512]).any(0))[0]
    assert np.array_equal(z[:, left + 64 :], y[:, left + 64 + shift :])


@pytest.mark.parametrize("shift", [64, -64])
def test_a_splice_goes_where_it_is_quiet(noise, shift):
    y = noise(1, 1024)
    y[:, 500:700] *= 1e-3
    cost = mismatch(y, shift, 64)
    assert 500 <= cost.argmin() <= 700 - 64 - 64
    assert cost.min() < 1e-4 * cost.mean()


@pytest.mark.parametrize("shift", [50, -50])
def test_a_splice_of_a_tone_by_its_period_is_not_there(shift):
    y = np.sin(2 * np.pi * np.arange(1024) / 50).astype(np.float32)[None]
    z = best(y, shift, 64)
    assert np.abs(z - np.sin(2 * np.pi * np.arange(1024 - shift) / 50)).max() < 1e-5


def test_a_splice_makes_no_step(noise):
    """A slow signal that is cut anywhere stays slow."""
    y = np.cumsum(noise(1, 1000), axis=1) * 0.01
    for place in (0, 300, 1000 - 100 - 64):
        for shift in (100, -100):
            z = splice(y, shift, 64, place)
            rise = np.abs(np.diff(y)).max() + np.abs(y[:, 100:] - y[:, :-100]).max() / 64
            assert np.abs(np.diff(z)).max() <= rise + 1e-6
