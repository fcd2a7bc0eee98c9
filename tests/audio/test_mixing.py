"""Channels are mixed into one by their mean, unless they cancel."""

import numpy as np
import pytest

from audiomask.audio import Mixer, mixed, mono

RATE = 16000


def noise(seed, seconds=3.0, rate=RATE, channels=1):
    """Bursts of noise over rumble, like speech out of doors."""
    random = np.random.default_rng(seed)
    n = round(seconds * rate)
    bursts = np.repeat(random.uniform(0, 0.2, -(-n // 800)) ** 2, 800)[:n]
    rumble = 0.01 * np.sin(2 * np.pi * 20 * np.arange(n) / rate + random.uniform(0, 6, (channels, 1)))
    return (random.normal(size=(channels, n)) * bursts + rumble).astype(np.float32)


def ordinary(kind):
    s, wide = noise(0), noise(1, channels=2)
    return {
        "double": np.concatenate((s, s)),
        "one side": np.concatenate((s, 0 * s)),
        "wide": wide,
        "panned": np.concatenate((s, 0.3 * s)) + 0.1 * wide,
        "delayed": np.concatenate((s, np.roll(s, 40))),
        "five": noise(2, channels=5),
        "centre of 5.1": np.concatenate((0 * s, 0 * s, s, 0 * s, 0 * s, 0 * s)),
        "offsets": np.concatenate((s + 0.3, s - 0.3)) * (np.arange(s.shape[1]) > 40000) + [[0.3], [-0.3]],
        "silence": np.zeros((2, 20000)),
    }[kind].astype(np.float32)


KINDS = ["double", "one side", "wide", "panned", "delayed", "five", "centre of 5.1", "offsets", "silence"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_cancel_is_the_mean(kind):
    x = ordinary(kind)
    np.testing.assert_array_equal(mixed(x, RATE), x.mean(0))
    np.testing.assert_array_equal(Mixer(RATE).push(x), x.mean(0, keepdims=True))


def opposite(kind):
    """Channels that cancel, and the one that is to be heard."""
    s, wide = noise(0), noise(1, channels=2)
    x = {
        "exact": np.concatenate((s, -s)),
        "unequal": np.concatenate((0.4 * s, -s)),
        "in noise": np.concatenate((s, -s)) + 0.3 * wide,
        "8 kHz": np.concatenate((s, -s)),
        "two pairs": np.concatenate((s, -s, 0.1 * wide[:1], -0.1 * wide[:1])),
        "short": np.concatenate((s, -s))[:, 16000:16600],
        "tone": np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE)) * [[0.5], [-0.5]],
    }[kind].astype(np.float32)
    return x, x[int(kind == "unequal")]


@pytest.mark.parametrize("kind", ["exact", "unequal", "in noise", "8 kHz", "two pairs", "short", "tone"])
def test_a_loud_one_of_channels_that_cancel_is_heard(kind):
    x, want = opposite(kind)
    got = mixed(x, 8000 if kind == "8 kHz" else RATE)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "in noise", "tone"])
def test_live_they_are_heard_after_a_second_at_most(kind):
    x, want = opposite(kind)
    mixer = Mixer(RATE)
    got = np.concatenate([mixer.push(x[:, i : i + 777]) for i in range(0, x.shape[1], 777)], 1)[0]
    np.testing.assert_allclose(got[RATE:], want[RATE:], atol=1e-6)
    np.testing.assert_allclose(Mixer(RATE).push(x)[0], got, atol=1e-6)  # whatever the blocks
    if kind != "in noise":
        np.testing.assert_allclose(got[RATE // 10 :], want[RATE // 10 :], atol=1e-6)


def test_polarity_may_change_within_a_recording():
    s = noise(0, 4)
    right = np.concatenate((s, -s, s), 1)
    x = np.concatenate((np.tile(s, 3), right)).astype(np.float32)
    blocks = [x[:, i : i + 100_000] for i in range(0, x.shape[1], 100_000)]
    got, n = np.concatenate(list(mono(blocks, RATE)), 1)[0], s.shape[1]
    for i in range(3):
        np.testing.assert_allclose(got[(i + 1) * n - 2 * RATE : (i + 1) * n], s[0, -2 * RATE :], atol=1e-6)
    assert np.square(got).sum() > 0.8 * 3 * np.square(s).sum()
    assert np.abs(np.diff(got)).max() < 1.1 * np.abs(np.diff(s)).max()  # no clicks
