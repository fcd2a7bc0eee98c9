"""The jitter buffer loses what arrives after its turn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.masks.jitter import Late, Network, fixed
from audiomask.masks.packets import Gilbert, Uniform, statistics

SEEDS = np.arange(200, dtype=np.int64)
delays = st.lists(st.floats(0, 500, width=32) | st.just(float("inf")), min_size=1, max_size=60).map(
    lambda x: np.array(x, np.float32)
)


def test_a_fixed_buffer_by_hand():
    delay = np.array([10, 15, 31, 10, np.inf, 30, 500], np.float32)
    assert fixed(delay, 20.0).tolist() == [False, False, True, False, True, False, True]
    assert fixed(torch.from_numpy(delay)[None], 20.0)[0].tolist() == fixed(delay, 20.0).tolist()
    assert fixed(delay + 1000, 20.0).tolist() == fixed(delay, 20.0).tolist()  # clocks need not agree
    # the first packet is overtaken by the second, which then sets the time
    assert fixed(np.array([100, 10, 10], np.float32), 20.0).tolist() == [True, False, False]
    assert fixed(np.full(3, np.inf, np.float32), 20.0).all()


@settings(max_examples=80, deadline=None)
@given(delays, st.floats(0, 200), st.floats(0, 200))
def test_a_deeper_buffer_loses_no_more(delay, depth, more):
    assert not (fixed(delay, depth + more) & ~fixed(delay, depth)).any()


def test_delays_of_a_network():
    calm = Network(jitter_ms=8.0, stall_rate=0.0).delays(SEEDS, 500)
    assert calm.dtype == np.float32
    assert calm.mean() == pytest.approx(8, rel=0.02)
    assert (calm > 16).mean() == pytest.approx(np.exp(-2), rel=0.05)
    stalls = Network(jitter_ms=0.0, stall_rate=0.002, stall_ms=200.0).delays(SEEDS, 500)
    falls = np.diff(stalls)
    assert np.all((np.abs(falls + 20) < 0.1) | (falls > -20.1))
    assert np.median(falls[stalls[:, :-1] > 40]) == pytest.approx(-20, abs=0.1)
    assert (stalls > 0).mean() > 0.005
    np.testing.assert_allclose(
        Network().delays(torch.from_numpy(SEEDS), 50).numpy(), Network().delays(SEEDS, 50), atol=1e-2
    )


def test_late_packets_come_in_bursts_and_add_to_the_lost():
    shallow, deep = (Late(Network(), depth).sample(SEEDS, 500) for depth in (30.0, 120.0))
    assert 0.001 < deep.mean() < shallow.mean() < 0.2
    assert statistics(shallow).mean > 1.5 * Uniform(float(shallow.mean())).mean_burst
    lossy = Late(Network(loss=Gilbert(0.05, 0.5)), 120.0).sample(SEEDS, 500)
    assert lossy[Gilbert(0.05, 0.5).sample(SEEDS, 500)].all()
    assert lossy.mean() > deep.mean() + 0.05
    again = Late(Network(loss=Gilbert(0.05, 0.5)), 120.0).sample(SEEDS[50:60], 500)
    np.testing.assert_array_equal(again, lossy[50:60])
