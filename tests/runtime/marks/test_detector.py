"""Hallmark's detector finds marks at any speed, place and rate, says where they are, and finds no others."""

import itertools
import math

import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from marking import KEY, SPEECH, speech
from scipy import stats

from audiomask.data.simulate.attacks import Attack, Stream
from audiomask.runtime.marks.carrier import BITS, PARTS, Carrier, draw
from audiomask.runtime.marks.detector import ALARM, CHANGE, WINDOW, Detector, p_value, viterbi
from audiomask.runtime.marks.search import search, whitened
from audiomask.runtime.session import Session

CARRIER = Carrier(bytes.fromhex(KEY))


def marked(x, message=0xBEEF, rate=16000, carrier=CARRIER):
    session = Session("hallmark", sample_rate=rate, controls={"carrier": carrier.wave(message)})
    return np.concatenate((session.feed(x), session.flush()))


def detected(x, key=KEY, rate=16000, sizes=(1 << 30,)):
    x = np.atleast_2d(x)
    detector, at = Detector(bytes.fromhex(key), rate, len(x)), 0
    for size in itertools.cycle(sizes):
        detector.feed(x[:, at : at + size])
        at += size
        if at >= x.shape[1]:
            return detector.flush()


@pytest.fixture(scope="module")
def clean():
    return speech(5.0)[:, 0]


@pytest.fixture(scope="module")
def clip(clean):
    return marked(clean)


def test_what_a_key_makes_never_changes():
    assert draw(bytes(16), "pilot", 4).tolist() == [139, 149, 28, 151]
    wave = CARRIER.wave(0xBEEF)
    assert wave.shape == (4096,)
    assert abs(float(np.square(wave).mean()) - 2 * 6600 / 16000) < 0.2
    assert float(wave[:4096] @ Carrier(bytes(16)).wave(0xBEEF)) / float(wave @ wave) < 0.1


def test_codewords_lie_far_apart():
    words = CARRIER.high[:, None] * CARRIER.low  # [high, low, PARTS]
    ones = (words.reshape(-1, PARTS) < 0).sum(1)
    assert len(ones) == 2**BITS
    assert sorted(ones)[:2] == [0, 41]  # linear: the least weight is the least distance
    assert CARRIER.decode(CARRIER.codeword(0x1234))[0] == 0x1234


@pytest.mark.parametrize("speed", [0.8, 0.9, 1.00005, 1.0437, 1.1, 1.2])
def test_any_speed(clip, speed):
    found = detected(soxr.resample(clip, 16000 * speed, 16000))
    assert found.present
    assert found.message == 0xBEEF
    assert found.speed == pytest.approx(speed, rel=3e-5)
    assert min(sure for _, sure in found.bits) > 0.99
    assert [bit for bit, _ in found.bits] == [int(bit) for bit in f"{0xBEEF:016b}"]


@pytest.mark.parametrize("seed", [1000, 1013, 1022, 1028])
def test_another_speed_under_noise_and_opus(seed):
    """These keys were missed as long as all frequencies counted alike in the search for the speed."""
    x, rate = sf.read(SPEECH, dtype="float32")
    key = np.random.default_rng(seed).bytes(16)
    attack = Stream(Attack("speed:1.05+opus:16+noise:20"), rate, seed)
    attacked = np.concatenate(list(attack(iter([marked(x, rate=rate, carrier=Carrier(key))[None]]))), 1)
    found = detected(attacked, key.hex(), rate)
    assert found.present
    assert found.message == 0xBEEF


@pytest.mark.parametrize(
    "change",
    [
        lambda x: -x,
        lambda x: 0.01 * x,
        lambda x: x[12345:44345],
        lambda x: np.clip(8 * x, -1, 1),
        lambda x: np.round(x * 128) / 128,
        lambda x: x + 0.1 * np.sqrt(np.square(x).mean()) * np.random.default_rng(0).standard_normal(len(x)),
        lambda x: np.concatenate((np.full(5000, np.nan), x, [np.inf])),
    ],
    ids=["polarity", "soft", "2 s of it", "clipped", "8 bits", "noise at 20 dB", "NaN before it"],
)
def test_what_it_survives(clip, change):
    found = detected(change(clip).astype(np.float32))
    assert found.present
    assert found.message == 0xBEEF


@pytest.mark.parametrize("rate", [16000, 22050, 48000])
def test_any_chunks_and_rates(rate):
    x = speech(8.0, rate)[:, 0]
    x[3 * rate : 6 * rate] = marked(x, rate=rate)[3 * rate : 6 * rate]
    whole, *others = (detected(x, rate=rate, sizes=sizes) for sizes in [(1 << 30,), (4096,), (1, 70001, 999)])
    assert whole.present
    assert whole.segments == [pytest.approx((3, 6), abs=0.1)]
    for other in others:
        assert (other.message, other.segments) == (whole.message, whole.segments)
        assert np.log(other.p) == pytest.approx(np.log(whole.p), rel=1e-4)


def test_channels_that_cancel_or_are_not_marked(clean, clip):
    for x in ([clip, -clip], [clean, clip], [0 * clip, clip]):
        found = detected(x)
        assert (found.present, found.message) == (True, 0xBEEF)


def test_two_marks_one_after_the_other(clean):
    found = detected(np.concatenate((marked(clean, 1), marked(clean, 2))))
    assert sorted([found.message, *found.others]) == [1, 2]
    assert found.segments == [pytest.approx((0, 10), abs=0.1)]


def test_marked_twice(clean):
    """By two keys, each finds its own mark in all of it; by one, the mark is found in all of it, too."""
    other = bytes(range(1, 17))
    x = np.concatenate((clean, clean[::-1]))
    twice = marked(marked(x, 0x1234), 0xBEEF, carrier=Carrier(other))
    for key, message in ((KEY, 0x1234), (other.hex(), 0xBEEF)):
        found = detected(twice, key)
        assert (found.message, found.others) == (message, [])
        assert found.segments == [pytest.approx((0, len(x) / 16000), abs=0.1)]
    found = detected(marked(marked(x, 0x1234), 0xBEEF))
    assert {found.message, *found.others} <= {0x1234, 0xBEEF}
    assert found.segments == [pytest.approx((0, len(x) / 16000), abs=0.1)]


def test_p_values_of_unmarked_sound_are_uniform(clean, clip):
    keys = [draw(bytes(16), f"key {n}", 16).tobytes().hex() for n in range(60)]
    p = [
        detected(clip if n % 2 else clean, key).p for n, key in enumerate(keys)
    ]  # marked by another key, too
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert min(p) > 1e-4


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(100000),
        np.ones(100000),
        np.sin(np.arange(100000)),
        np.sign(np.sin(0.1 * np.arange(100000))),
        np.arange(100000) == 50000,
        np.random.default_rng(0).standard_normal(100000),
        np.zeros(0),
        np.ones(1),
        np.full(100000, np.nan),
    ],
    ids=["silence", "a constant", "a tone", "a square", "a click", "noise", "nothing", "one sample", "NaN"],
)
def test_never_a_false_yes(x):
    found = detected(x.astype(np.float32))
    assert not found.present
    assert (found.message, found.bits, found.segments, found.speed) == (None, [], [], None)
    assert 1e-3 < found.p <= 1


def test_a_chord_is_no_mark():
    """Scored 9.5 as long as codewords that are strong where its tones are counted as any other."""
    rng, t = np.random.default_rng(29), np.arange(WINDOW) / 16000
    rng.uniform(50, 4000)
    noise = rng.standard_normal(len(t))
    chord = sum(np.sin(2 * np.pi * h * t + rng.uniform(0, 6)) for h in rng.uniform(80, 4000, 12))
    carrier = Carrier(np.random.default_rng(1_000_292).bytes(16))
    assert p_value(search(whitened(chord + 0.001 * noise), carrier, sure=math.inf).score) > 0.01


def test_p_values_fall_with_the_score_and_rise_with_searches():
    scores = np.linspace(0, 40, 400)
    p = [p_value(score) for score in scores]
    assert all(a >= b >= 0 for a, b in itertools.pairwise(p))
    assert p[0] == 1
    assert p_value(8.0) < p_value(8.0, 2) <= 2 * p_value(8.0)
    assert p_value(8.5) < ALARM < p_value(8.3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=9))
def test_viterbi_finds_the_best_path(evidence):
    def worth(path):
        changes = sum(a != b for a, b in itertools.pairwise(path))
        return sum(e for e, on in zip(evidence, path, strict=True) if on) - CHANGE * changes

    best = max(worth(path) for path in itertools.product([False, True], repeat=len(evidence)))
    assert worth(viterbi(np.array(evidence)).tolist()) == pytest.approx(best)
