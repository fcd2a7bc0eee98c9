"""audiomask.runtime.session with a model that is told what is lost: what arrived passes bit for bit, whatever
the blocks, the stack, the rate."""

import concealer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.player import feed_all
from audiomask.runtime.polyphase import Polyphase, Spread
from audiomask.runtime.session import Session


@pytest.fixture(scope="module")
def model(repeat16):
    return Artifact.load(repeat16)


def losses(samples, seed=0, size=100, rate=0.3):
    """Flags ``[samples]`` bool of packets of ``size``."""
    lost = np.random.default_rng(seed).random(-(-samples // size)) < rate
    return np.repeat(lost, size)[:samples]


def play(session, x, lost, sizes=()):
    parts, at = [], 0
    for size in (*sizes, x.shape[1] - sum(sizes)):
        parts.append(session.feed(x[:, at : at + size], lost[..., at : at + size]))
        at += size
    return np.concatenate([*parts, np.atleast_2d(session.flush())], axis=1)


def test_the_graph_hears_what_is_lost(model, noise):
    for samples in (1, 159, 160, 161, 5000, 64 * 160 * 2 + 77):
        x, lost = noise(1, samples), losses(samples)
        y = play(Session(model), x, lost)
        assert np.array_equal(y, concealer.repeat(x, lost))
        assert np.array_equal(y[:, ~lost], x[:, ~lost])  # bit for bit


def test_nothing_lost_is_the_input(model, noise):
    x = noise(1, 3000)
    s = Session(model)
    assert np.array_equal(np.concatenate([s.feed(x), s.flush()[None]], 1), x)


@given(sizes=st.lists(st.integers(0, 900), max_size=6), rate=st.sampled_from([16000, 48000, 44100, 8000]))
@settings(max_examples=30, deadline=None)
def test_any_blocks_equal_the_whole(repeat16, sizes, rate):
    model = Artifact.load(repeat16)
    x = 0.1 * np.random.default_rng(1).standard_normal((2, sum(sizes) + 700)).astype(np.float32)
    lost = np.stack([losses(x.shape[1], 1), losses(x.shape[1], 2, 37)])
    want = play(Session(model, sample_rate=rate, channels=2), x, lost)
    got = play(Session(model, sample_rate=rate, channels=2), x, lost, sizes)
    assert got.shape == x.shape
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    if rate == 16000:
        assert np.array_equal(got, concealer.repeat(x, lost))


def test_flags_of_every_kind(model, noise):
    """Bool, integers and floats, shared by the channels or one row each; other shapes are refused."""
    x, lost = noise(2, 2000), losses(2000)
    want = concealer.repeat(x, lost)
    for flags in (lost, lost[None], np.stack([lost, lost]), lost * 0.25, lost.astype(int), lost.tolist()):
        s = Session(model, channels=2)
        assert np.array_equal(np.concatenate([s.feed(x, flags), s.flush()], 1), want)
    assert Session(model).feed(x[0, :900], lost[:900]).ndim == 1
    for wrong in (lost[:-1], np.zeros((3, 2000)), np.zeros((1, 1, 2000)), True):
        with pytest.raises(ValueError, match=r"lost of shape .* does not fit a block of shape \(2, 2000\)"):
            Session(model, channels=2).feed(x, wrong)


def test_what_lies_in_lost_places_is_ignored(model, noise):
    """Rubbish too, in the dry sound as well, and it is not counted as cleaned; a NaN that arrived is."""
    x, lost = noise(1, 4000), losses(4000)
    rubbish = np.where(lost, np.nan, x)
    for options in ({}, {"bypass": True}, {"sample_rate": 44100}, {"dry": 0.5}):
        s, t = Session(model, **options), Session(model, **options)
        assert np.array_equal(play(s, rubbish, lost), play(t, x, lost))
        assert s.cleaned == 0
    rubbish[0, np.flatnonzero(~lost)[7]] = np.nan
    s = Session(model)
    assert np.isfinite(play(s, rubbish, lost)).all()
    assert s.cleaned == 1


def test_bypass_and_dry_are_the_zero_filled_input(model, noise):
    x, lost = noise(1, 4000), losses(4000)
    filled = np.where(lost, 0, x)
    assert np.array_equal(play(Session(model, bypass=True), x, lost), filled)
    half = 0.5 * filled + 0.5 * concealer.repeat(x, lost)
    np.testing.assert_allclose(play(Session(model, dry=0.5), x, lost), half, atol=1e-7)


def test_a_model_that_is_told_nothing_gets_zeros(toy16, toys, noise):
    x, lost = noise(1, 3000), losses(3000)
    y = play(Session(toy16), x, lost)
    assert np.abs(y - toys.lowpass(np.where(lost, 0, x))).max() < 1e-6


def test_an_array_lacks_what_one_of_its_microphones_lacks(array3, noise, toys):
    x, lost = noise(3, 2000), np.stack([losses(2000, n) for n in range(3)])
    y = play(Session(array3), x, lost)
    assert np.abs(y - toys.lowpass(np.asarray(toys.gains) @ np.where(lost, 0, x))).max() < 1e-5


def test_a_snapshot_holds_the_flags(model, noise):
    for rate in (16000, 48000):
        x, lost = noise(1, 6000), losses(6000)
        s = Session(model, sample_rate=rate)
        s.feed(x[:, :3001], lost[:3001])
        kept = s.snapshot()
        first = play(s, x[:, 3001:], lost[3001:])
        s.feed(noise(1, 2000, 5), np.ones(2000))
        s.restore(kept)
        assert np.array_equal(play(s, x[:, 3001:], lost[3001:]), first)
        s.feed(x, lost)
        s.reset()
        fresh = Session(model, sample_rate=rate)
        assert np.array_equal(play(s, x, lost), play(fresh, x, lost))


def test_a_control_that_is_turned_amid_losses_fades(model, noise):
    """Old and new run side by side for a hop, and both are told."""
    x, lost = noise(1, 4000), losses(4000)
    lost[1300:1360], lost[1620:1680] = False, True
    s = Session(model)
    first = s.feed(x[:, :1600], lost[:1600])
    s.set({"gain": 0.5})
    y = np.concatenate([first, play(s, x[:, 1600:], lost[1600:])], 1)
    gain = 1 - 0.5 * ((np.arange(4000) - 1600 + concealer.DELAY + 1) / concealer.HOP).clip(0, 1)
    want = concealer.repeat(x, lost)
    at = slice(1600, 1600 + concealer.HOP - concealer.DELAY)  # what waits in the graph has the old gain still
    assert np.array_equal(y[:, :1560], want[:, :1560])
    np.testing.assert_allclose(y[:, 1600 + concealer.HOP :], 0.5 * want[:, 1600 + concealer.HOP :], atol=1e-6)
    np.testing.assert_allclose(y[:, at], (want * gain)[:, at], atol=1e-6)
    assert want[0, 1620:1680].all()  # what the old run has to give there, too


def test_untrimmed_is_the_same_later(model, noise):
    x, lost = noise(1, 3200), losses(3200)
    s = Session(model, trim=False, block=160)
    parts = [s.feed(x[:, n : n + 160], lost[n : n + 160]) for n in range(0, 3200, 160)]
    y = np.concatenate(parts, 1)
    assert (s.lag, y.shape) == (40, x.shape)
    assert np.array_equal(y[:, 40:], concealer.repeat(x, lost)[:, :-40])


def test_stacked_equals_alone(model, toy16, noise):
    """Sessions with flags, without, and of another model in one list."""
    toy, jobs = Artifact.load(toy16), []
    for n in range(8):
        rate = (16000, 48000)[n % 2]
        artifact = toy if n == 5 else model
        x, lost = noise(1 + n % 3, 3000, n), losses(3000, n) if n % 4 else None
        jobs.append((Session(artifact, sample_rate=rate, channels=len(x)), x, lost))
    parts = [[] for _ in jobs]
    for at in range(0, 3000, 700):
        pairs = [
            (s, x[:, at : at + 700]) if lost is None else (s, x[:, at : at + 700], lost[at : at + 700])
            for s, x, lost in jobs
        ]
        for part, y in zip(parts, feed_all(pairs), strict=True):
            part.append(y)
    for part, y in zip(parts, feed_all([(s, None) for s, _, _ in jobs]), strict=True):
        part.append(np.atleast_2d(y))
    for (s, x, lost), part in zip(jobs, parts, strict=True):
        alone = Session(s.artifact, sample_rate=s.sample_rate, channels=len(x))
        want = play(alone, x, np.zeros(3000) if lost is None else lost)
        assert np.abs(np.concatenate(part, 1) - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize(("rate", "inner"), [(48000, 16000), (8000, 16000), (44100, 16000), (44101, 16000)])
def test_what_a_lost_sample_has_a_part_in_is_flagged(rate, inner, noise):
    """Rubbish in lost places changes no converted sample that counts as received, and the flags reach no
    further than the filter."""
    x, lost = noise(1, 6000), losses(6000, 3, 60, 0.1)
    sound = [Polyphase(rate, inner, 1) for _ in range(2)]
    spread, parts = Spread(sound[0], 1), []
    for at in range(0, 6000, 701):
        cut = slice(at, at + 701)
        a, b = (
            c.push(np.where(lost, v, x)[:, cut].astype(np.float32))
            for c, v in zip(sound, (0, 9), strict=True)
        )
        flags = spread.push(lost[None, cut])
        assert flags.shape == a.shape
        parts.append((a[0], b[0], flags[0]))
    a, b, flags = (np.concatenate(part) for part in zip(*parts, strict=True))
    assert set(np.unique(flags)) == {0, 1}
    assert np.array_equal(a[flags == 0], b[flags == 0])
    n = np.arange(len(flags)) * spread.down // spread.up
    near = [lost[max(0, i - spread.half + 1) : i + spread.half + 1].any() for i in n]
    assert np.array_equal(flags, near)
    assert spread.half <= 2e-3 * max(rate, inner) + 1 if rate > inner else spread.half == 32


@pytest.mark.parametrize("rate", [48000, 44100, 8000])
def test_other_rates_conceal_at_the_right_place(model, rate):
    """A tone whose period divides the reach: the repetition is the tone, and nothing is heard of a loss."""
    t = np.arange(rate) / rate
    x = (0.5 * np.sin(2 * np.pi * 400 * t)).astype(np.float32)[None]  # 8 periods in 20 ms
    lost = np.zeros(rate, bool)
    for at in range(rate // 5, rate * 4 // 5, rate // 10):
        lost[at : at + rate // 100] = True  # 10 ms and twice 2 ms around it are less than 20
    y = play(Session(model, sample_rate=rate), x, lost)
    inside = slice(rate // 20, -rate // 20)
    assert np.abs(y - x)[0, inside].max() < 2e-3
    assert np.abs(play(Session(model, sample_rate=rate, bypass=True), x, lost) - x).max() > 0.4


def test_masks_of_another_kind_are_refused(tmp_path):
    for n, mask in enumerate(({"rate": "1/160"}, {"channels": 2})):
        path = concealer.build(tmp_path / f"odd{n}.onnx", mask=mask)
        with pytest.raises(ArtifactError, match=r"lost has . channels at rate .*; a session gives one flag"):
            Session(path)
    other = {"name": "far_end", "kind": "stream", "type": "pcm", "rate": "1", "channels": 1}
    with pytest.raises(ArtifactError, match="is no audio-to-audio model"):
        Session(concealer.build(tmp_path / "two.onnx", extra=[other]))
