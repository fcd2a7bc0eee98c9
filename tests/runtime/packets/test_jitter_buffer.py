"""The jitter buffer: whatever order packets come in, each place is played once, in order, in time."""

import numpy as np
import pytest
from disturbed_packets import disturbed
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.runtime.packets.jitter_buffer import HISTORY, JitterBuffer

P = 0.02


def through(buffer, numbers):
    """What comes out for the arrival of ``numbers``, each its own payload."""
    out = []
    for number in numbers:
        buffer.put(number, number)
        out += buffer.take()
    return out + buffer.flush()


@given(depth=st.integers(1, 8), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_reordered_and_doubled_packets_come_out_in_order(depth, seed):
    numbers, _ = disturbed(300, depth, seed)
    buffer = JitterBuffer(depth)
    assert through(buffer, numbers) == list(range(300))
    c = buffer.counts
    assert (c.received, c.duplicated, c.lost, c.late, c.stray) == (len(numbers), len(numbers) - 300, 0, 0, 0)
    assert c.played == 300


def test_a_tenth_reordered_and_a_twentieth_doubled_is_what_the_tests_do():
    numbers, _ = disturbed(10000, 3, 0)
    buffer = JitterBuffer(3)
    assert through(buffer, numbers) == list(range(10000))
    assert 0.04 < buffer.counts.duplicated / 10000 < 0.06
    # Of a tenth that is moved by up to three places, those that move by more than one are passed by others.
    assert 0.04 < buffer.counts.reordered / 10000 < 0.1


@given(depth=st.integers(0, 6), seed=st.integers(0, 10**6), start=st.sampled_from([0, 7, 2**32 - 100]))
@settings(max_examples=60, deadline=None)
def test_losses_are_in_their_places_and_numbers_wrap(depth, seed, start):
    numbers, gone = disturbed(300, max(depth, 1), seed, dropped=0.3, moved=0.1 if depth else 0)
    first, last = numbers[0] if not depth else min(numbers), max(numbers)
    buffer = JitterBuffer(depth)
    wrapped = [(n + start) % 2**32 for n in numbers]
    want = [None if n in gone else (n + start) % 2**32 for n in range(first, last + 1)]
    assert through(buffer, wrapped) == want
    assert buffer.counts.lost == sum(n is None for n in want)
    assert buffer.counts.played == len(want)


def test_32_bits_wrap():
    numbers = [2**32 - 2, 0, 2**32 - 1, 1, 1]
    assert through(JitterBuffer(2), numbers) == [2**32 - 2, 2**32 - 1, 0, 1]
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match="is outside 0 to 4294967295"):
            JitterBuffer(2).put(wrong, "")


def test_a_packet_waits_for_the_budget_and_no_longer():
    buffer, out = JitterBuffer(3), []
    for n in range(6):
        buffer.put(n, n)
        out.append(buffer.take())
    assert out == [[], [], [], [0], [1], [2]]


def test_late_is_not_lost_twice_and_not_a_duplicate():
    buffer = JitterBuffer(2)
    assert through(buffer, [0, 1, 3, 4, 5, 2, 5, 1, 6]) == [0, 1, None, 3, 4, 5, 6]
    c = buffer.counts
    assert (c.received, c.late, c.lost, c.duplicated, c.reordered) == (9, 1, 1, 2, 0)
    assert "7 packets, 1 lost (14.3%); 9 received, of which 1 late, 2 duplicated" in str(c)


def test_the_first_to_arrive_need_not_be_the_first():
    assert through(JitterBuffer(3), [12, 11, 10, 13, 14]) == [10, 11, 12, 13, 14]


def test_a_stray_number_does_no_harm_and_a_sender_may_begin_anew():
    buffer = JitterBuffer(2)
    assert through(buffer, [0, 1, 90000, 2, 3, 700, 4]) == [0, 1, 2, 3, 4]
    assert buffer.counts.stray == 2
    assert through(buffer, [5, 6, 7, 100000, 100001, 100002]) == [5, 6, 7, 100001, 100002]
    assert (buffer.counts.stray, buffer.counts.lost) == (3, 0)


def test_after_the_end_a_new_signal_may_begin_anywhere():
    buffer = JitterBuffer(2)
    assert through(buffer, [5, 6]) == [5, 6]
    assert through(buffer, [0, 1]) == [0, 1]
    assert buffer.flush() == []
    assert (buffer.counts.received, buffer.counts.stray) == (4, 0)


def test_memory_is_bounded():
    buffer = JitterBuffer(3)
    for n in range(3 * HISTORY):
        buffer.put(n, n)
        buffer.take()
    assert len(buffer._had) == HISTORY
    assert len(buffer._waiting) == 3


class Network:
    """A buffer of ``depth`` places in simulated time: arrivals of ``(time, number)``, looked at every ms."""

    def __init__(self, depth=3):
        self.buffer = JitterBuffer(depth, P, realtime=True)
        self.out = []  # (time, payload)

    def run(self, arrivals, until):
        arrivals = sorted(arrivals)
        for now in np.arange(self.out[-1][0] if self.out else 0, until, 0.001):
            while arrivals and arrivals[0][0] <= now:
                at, n = arrivals.pop(0)
                self.buffer.put(n, n, at)
                self.out += [(at, payload) for payload in self.buffer.take(at)]
            self.out += [(now, payload) for payload in self.buffer.take(now)]
        return [payload for _, payload in self.out]


def test_with_a_clock_a_place_is_given_up_in_time():
    """Packets 5 and 40 to 60 do not come, and nothing comes after 99: the sound goes on in step with time."""
    missing = {5, *range(40, 61)}
    network = Network()
    out = network.run([(n * P, n) for n in range(100) if n not in missing], 120 * P)
    assert out[:100] == [None if n in missing else n for n in range(100)]
    assert set(out[100:]) == {None}
    assert abs(len(out) - 117) <= 1
    for place, (at, _) in enumerate(network.out):
        assert abs(at - (place + 3) * P) < 0.002
    assert network.buffer.counts.late == 0


def test_jitter_within_the_budget_is_not_heard():
    rng = np.random.default_rng(0)
    network = Network()
    out = network.run([(n * P + rng.uniform(0, 2.9 * P), n) for n in range(1000)], 1010 * P)
    lost = sum(n is None for n in out[:900])
    assert [n for n in out if n is not None] == [
        n for n, got in zip(range(1000), out, strict=False) if got is not None
    ]
    assert lost <= 3  # until the fastest packets have shown when the sender began
    late = [at - (place + 3) * P for place, (at, _) in enumerate(network.out[100:900], 100)]
    assert min(late) > -0.002
    assert max(late) < 0.02  # the fastest of 20 packets need not be fast


@pytest.mark.parametrize("drift", [-2e-4, 2e-4])
def test_clocks_that_drift_apart_lose_nothing(drift):
    rng = np.random.default_rng(0)
    times = [
        n * P * (1 + drift) + rng.uniform(0, P) for n in range(15000)
    ]  # 5 minutes, 60 ms apart in the end
    network = Network(2)
    out = network.run([(at, n) for n, at in enumerate(times)], 15000 * P)
    assert sum(n is None for n in out[:14990]) == 0
    assert abs(network.out[-1][0] - (len(out) + 2) * P * (1 + drift)) < P


def test_a_network_that_stalls_costs_what_it_held_up_and_no_delay():
    """Twice, for more than a second: what was held up for longer than the budget is late, and no more."""
    held = {n: end for start, end in ((100, 180), (250, 330)) for n in range(start, end)}
    arrivals = [((held[n] - 0.5) * P + n * 1e-5 if n in held else n * P, n) for n in range(450)]
    network = Network()
    out = network.run(arrivals, 450 * P)
    late = {*range(100, 177), *range(250, 327)}
    assert out == [None if n in late else n for n in range(447)]
    assert abs(network.out[440][0] - 443 * P) < 0.002
    assert network.buffer.counts.late == len(late)


def test_a_sender_that_paused_goes_on_where_the_sound_is():
    """Four seconds without numbers: what it sends then is all heard, in step with time."""
    arrivals = [(n * P if n < 100 else n * P + 4, n) for n in range(400)]
    network = Network()
    out = network.run(arrivals, 500 * P)
    heard = [n for n in out if n is not None]
    assert heard[:100] == list(range(100))
    assert heard[100] == 100
    assert heard[100:] == list(range(heard[100], heard[-1] + 1))
    last = max(at for at, n in network.out if n == 250)
    assert abs(last - (250 * P + 4 + 3 * P)) < 0.002


def test_a_longer_way_makes_the_clock_wait():
    arrivals = [(n * P + (0.5 if n >= 100 else 0), n) for n in range(300)]
    network = Network()
    out = network.run(arrivals, 300 * P)
    assert out[:100] == list(range(100))
    assert out[-1] > 260
    tail = out[130:]
    assert tail == list(range(tail[0], tail[0] + len(tail)))


@pytest.mark.parametrize("drift", [-0.02, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_a_sender_whose_clock_is_off_by_per_cents_loses_nothing(drift, jitter):
    """Ten minutes; one that sleeps 20 ms between packets is slow by 1 to 5 %."""
    rng = np.random.default_rng(1)
    count = 30000
    buffer, out = JitterBuffer(3, P, realtime=True), []
    for n, late in enumerate(rng.uniform(0, jitter * P, count)):
        at = n * P * (1 + drift) + late
        out += [(due, None) for due in [buffer.due()] if due < at]
        buffer.put(n, n, at)
        out += [(at, payload) for payload in buffer.take(at)]
    heard = [payload for _, payload in out if payload is not None]
    assert heard == list(range(len(heard)))
    assert (buffer.counts.late, buffer.counts.lost) == (0, 0)
    assert len(heard) >= count - 4


def test_a_sender_that_begins_anew_within_seconds_is_heard():
    """Numbers 0 to 299 twice: the second time from 200 ms on at the latest, each once and in order."""
    network = Network()
    arrivals = [(n * P, n) for n in range(300)] + [((300 + n) * P, n) for n in range(300)]
    network.run(arrivals, 620 * P)
    again = [(at, n) for at, n in network.out if at > 300 * P and n is not None and n < 290]
    assert again[0][0] - 300 * P < 0.2
    assert [n for _, n in again] == list(range(again[0][1], 290))
    assert again[0][1] == 0
    buffer = JitterBuffer(2)
    out = through(buffer, [*range(20), *range(20)])
    assert out == [*range(20), *range(20)]
    assert (buffer.counts.received, buffer.counts.played) == (40, 40)
    assert (buffer.counts.duplicated, buffer.counts.late, buffer.counts.lost) == (0, 0, 0)


def test_a_doubled_burst_is_not_a_new_beginning():
    arrivals = [(n * P, n) for n in range(200)]
    arrivals += [(100.5 * P + n * 1e-5, n) for n in range(80, 99)]
    network = Network()
    out = network.run(arrivals, 190 * P)
    assert out == list(range(len(out)))
