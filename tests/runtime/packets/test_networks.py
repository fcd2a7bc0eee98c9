"""The jitter buffer against networks and senders as they are: drift, spikes, new beginnings, all at once."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.runtime.packets.jitter_buffer import JitterBuffer, shape

BUDGET = 60  # ms, the default


def play(numbers, arrived, period, *, buffer=None):
    """Hand packets to a buffer when they arrive, and take what is due when it is due.

    Returns `(time, row or None)` of each place, up to the last that is heard, and the buffer.
    """
    size, depth = shape(1000 * period, BUDGET, 16000)
    buffer = buffer or JitterBuffer(depth, size / 16000, realtime=True)
    out = []

    def until(now):
        while (due := buffer.due()) <= now:
            out.extend((due, row) for row in buffer.take(due))

    for row in np.argsort(arrived, kind="stable"):
        now = float(arrived[row])
        until(now)
        buffer.put(int(numbers[row]) % 2**32, int(row), now)
        out.extend((now, row) for row in buffer.take(now))
    until(now + 1)
    while out[-1][1] is None:
        out.pop()
    return out, buffer


def strain(out, period):
    """Share of the time that was made up, or that a card at its own rate has to stretch or cut."""
    made = period * sum(row is None for _, row in out)
    return (made + sum(abs(b - a - period) for (a, _), (b, _) in pairwise(out))) / (out[-1][0] - out[0][0])


def heard(out):
    return [row for _, row in out if row is not None]


@pytest.mark.parametrize("disturbed", [False, True])
@pytest.mark.parametrize("drift", [-0.02, 0.02])
@pytest.mark.parametrize("ms", [10, 20, 40, 60])
def test_ten_minutes_of_drift_lose_nothing(ms, drift, disturbed):
    """Disturbed: 20 ms of jitter, one in twenty 25 ms later, one in fifty twice. All numbers wrap."""
    period, count, rng = ms / 1000, 600_000 // ms, np.random.default_rng(ms)
    sent = np.arange(count) * period * (1 + drift)
    arrived, number = sent, np.arange(count) + 2**32 - 5000
    if disturbed:
        late = rng.uniform(0, 0.02, count) + (rng.random(count) < 0.05) * rng.uniform(0, 0.025, count)
        twice = np.flatnonzero(rng.random(count) < 0.02)
        arrived = np.concatenate([sent + late, (sent + late)[twice] + rng.uniform(0, 0.3, len(twice))])
        number = np.concatenate([number, number[twice]])
    out, buffer = play(number, arrived, period)
    assert heard(out) == list(range(count))
    assert len(out) == count
    assert buffer.counts.late + buffer.counts.duplicated == len(number) - count
    assert strain(out, period) < 2 * abs(drift)
    delay = np.array([at for at, _ in out]) - sent
    assert delay.max() < 0.06 + 0.045 + period


def test_a_sender_that_sleeps_on_a_busy_machine_is_followed():
    """It sleeps 20 ms and wakes 1.5 ms late in the mean: seven per cent slow, and unsteady."""
    arrived = np.cumsum(0.02 + np.random.default_rng(4).exponential(0.0015, 15000))
    out, buffer = play(np.arange(15000), arrived, 0.02)
    assert buffer.counts.late <= 15
    assert strain(out, 0.02) < 2 * 0.075


def test_a_clock_that_changes_its_mind():
    """Two per cent slow, then two fast, by turns of half a minute, with 20 ms of jitter."""
    steps = np.where(np.arange(30000) // 1500 % 2, 0.98, 1.02) * 0.02
    arrived = np.cumsum(steps) + np.random.default_rng(0).uniform(0, 0.02, 30000)
    out, _ = play(np.arange(30000), arrived, 0.02)
    assert heard(out) == list(range(30000))
    assert len(out) == 30000
    assert strain(out, 0.02) < 0.04


@pytest.mark.parametrize("drift", [-0.02, 0.02])
def test_sequence_numbers_of_16_bits(drift):
    """As docs/conceal.md extends them: over a wrap, with jitter that shuffles packets there."""
    page = (Path(__file__).parents[3] / "docs/conceal.md").read_text()
    (program,) = re.findall(r"^```python\n(# rtp.py.*?)^```$", page, re.M | re.S)
    exec(program, scope := {})
    count = 70000
    arrived = np.arange(count) * 0.02 * (1 + drift) + np.random.default_rng(1).uniform(0, 0.035, count)
    order = np.argsort(arrived)
    numbers = scope["Numbers"](int(order[0]))
    number = np.zeros(count, int)
    for row in order:
        number[row] = numbers.number(int(row) % 2**16)
    out, _ = play(number, arrived, 0.02)
    assert heard(out) == list(range(count))


@pytest.mark.parametrize("drain", [0.0002, 0.01])
@pytest.mark.parametrize("drift", [-0.02, 0.0, 0.02])
def test_a_spike_costs_what_was_held_up_and_the_delay_is_back(drift, drain):
    """A queue stands still for 100 to 400 ms every 5 s, then lets a packet out every `drain` seconds."""
    rng = np.random.default_rng(2)
    sent = np.arange(6000) * 0.02 * (1 + drift)
    left, free = np.zeros(6000), 0.0
    stalls = [(at, at + rng.uniform(0.1, 0.4)) for at in np.arange(5.0, 115, 5)]
    for n, at in enumerate(sent):
        out = max(at, free)
        out = next((end for begin, end in stalls if begin <= out < end), out)
        left[n], free = out, out + drain
    held = left - sent
    out, buffer = play(np.arange(6000), left, 0.02)
    at = {row: now for now, row in out if row is not None}
    budget = 0.06 - abs(drift) * (0.4 + 0.4)  # less what a slow clock takes while unseen
    assert [n for n in range(6000) if n not in at and held[n] < budget] == []
    assert buffer.counts.late == 6000 - len(at)
    usual = np.median([at[n] - sent[n] for n in at])
    for begin, end in stalls:
        slow = [now for n, now in at.items() if end < now < begin + 5 and now - sent[n] > usual + 0.02]
        assert max(slow, default=0) - end < 0.5
    assert strain(out, 0.02) < 2 * abs(drift) + 2.5 * sum(end - begin for begin, end in stalls) / out[-1][0]


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("ms", [10, 20, 40, 60])
def test_a_sender_that_begins_anew_is_heard_at_once(ms, pause):
    """Again and again: with the first number, one behind it, within those used, or ahead, near or far."""
    period, each = ms / 1000, 6.0
    count = round(each / period)
    firsts = [1000]
    for step in (
        0,
        0,
        count // 2,
        -300,
        count + 1500 // ms,
        0,
        count + 4000 // ms,
        7000,
        2**31,
        0,
        2**30,
        -7,
    ):
        firsts.append((firsts[-1] + step) % 2**32)
    begins = np.cumsum([0] + [each + pause] * (len(firsts) - 1))
    number = np.concatenate([first + np.arange(count) for first in firsts])
    arrived = np.concatenate([begin + np.arange(count) * period for begin in begins])
    arrived += np.random.default_rng(3).uniform(0, 0.005, len(arrived))
    out, _ = play(number, arrived, period)
    rows = np.array(heard(out))
    assert (np.diff(rows) > 0).all()
    at = np.array([now for now, row in out if row is not None])
    for n, begin in enumerate(begins):
        first = np.searchsorted(rows, n * count)
        assert at[first] - begin < 0.2, (n, firsts[n])
        assert rows[first] - n * count <= 0.08 / period + 1
        assert np.searchsorted(rows, (n + 1) * count) - first == (n + 1) * count - rows[first]


def test_numbers_that_leap_ahead_of_time_are_a_new_beginning_and_no_loss():
    """From 299 to 500 within 20 ms: four seconds cannot have been lost. Within four seconds they can."""
    number = np.concatenate([np.arange(300), np.arange(500, 600)])
    out, buffer = play(number, np.arange(400) * 0.02, 0.02)
    assert heard(out) == [*range(300), *range(301, 400)]
    assert (buffer.counts.stray, buffer.counts.late) == (1, 0)
    out, buffer = play(number, number * 0.02, 0.02)
    assert [row is None for _, row in out] == [300 <= n < 500 for n in range(600)]


def test_what_is_missing_is_waited_for_by_as_much_as_others_were_late():
    """Packet 10 is late by 100 ms more than the budget; then 15 is missing and 14 is not."""
    buffer = JitterBuffer(3, 0.02, realtime=True)
    for n in range(10):
        buffer.put(n, n, n * 0.02)
    assert [buffer.take(0.36) for _ in range(2)] == [[*range(10), *[None] * 6], []]
    for n in (10, 11, 12, 13, 14):  # too late, and the first of them by 100 ms
        buffer.put(n, n, 0.36)
    buffer.put(16, 16, 0.36)
    assert buffer.counts.late == 5
    assert buffer.take(0.379) == []
    assert buffer.take(0.3801) == [16]
    assert buffer.due() == pytest.approx((17 + 3) * 0.02 + 0.1)  # nothing of 17 yet
    buffer.put(18, 18, 0.38)
    buffer.put(17, 17, 0.39)
    assert buffer.due() == pytest.approx((17 + 3) * 0.02)


def test_doubles_and_stragglers_do_not_move_the_clock():
    """Half a second after their time, when newer ones have come: places end as before."""
    buffer = JitterBuffer(3, 0.02, realtime=True)
    for n in range(40):
        if n != 10:
            buffer.put(n, n, n * 0.02)
        buffer.take(n * 0.02)
    due = buffer.due()
    buffer.put(12, 12, 0.785)  # a second time
    buffer.put(10, 10, 0.787)  # when its place is long past
    assert (buffer.counts.duplicated, buffer.counts.late) == (1, 1)
    assert buffer.due() == due == pytest.approx((37 + 3) * 0.02)
    buffer.take(0.859)
    assert buffer.due() == pytest.approx((40 + 3) * 0.02)  # of one that has not come


@given(
    seed=st.integers(0, 2**32 - 1),
    period=st.sampled_from([0.001, 0.01, 0.02, 0.06, 0.2]),
    depth=st.sampled_from([0, 1, 3, 6]),
    realtime=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_whatever_comes_every_packet_is_heard_once_or_counted(seed, period, depth, realtime):
    """Drift, jitter, losses, doubles, pauses and new beginnings at any number, all at once."""
    rng = np.random.default_rng(seed)
    buffer, sent, number, events = (
        JitterBuffer(depth, period, realtime=realtime),
        0.0,
        int(rng.integers(2**32)),
        [],
    )
    for _ in range(300):
        if rng.random() < 0.02:
            number += int(rng.choice([-400, -20, -3, 3, 40, 300, 600, 10**6, 2**31]))
        if rng.random() < 0.03:
            sent += rng.choice([0.05, 0.3, 1.2, 5.0])
        sent, number = sent + period * rng.choice([1, 1, 1, 1.02, 0.98, 0.2]), (number + 1) % 2**32
        if rng.random() < 0.9:
            events.append((sent + rng.exponential(period * rng.choice([0.1, 1, 4])), number))
        if rng.random() < 0.05:
            events.append((sent + rng.random() * 10 * period, number))
    out = []
    for row, (now, number) in enumerate(sorted(events)):
        while realtime and (due := buffer.due()) <= now:
            out += buffer.take(due)
        buffer.put(number, row, now)
        out += buffer.take(now)
    out += buffer.flush()
    counts, rows = buffer.counts, [row for row in out if row is not None]
    assert len(rows) == len(set(rows))
    assert (counts.played, counts.lost) == (len(out), out.count(None))
    assert counts.received == len(events) == len(rows) + counts.late + counts.duplicated + counts.stray
