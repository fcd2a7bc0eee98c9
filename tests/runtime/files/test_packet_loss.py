"""audiomask.runtime.files.packet_loss: which samples of a recording are lost, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.audio import AudioError, AudioInfo
from audiomask.audio.sources import Source
from audiomask.masks.packets import write_trace
from audiomask.runtime.files.packet_loss import Classical, Loss, Losses, Silence, loss_models


def cut(x, sizes):
    at = 0
    for size in (*sizes, x.shape[1] - sum(sizes)):
        yield x[:, at : at + size]
        at += size


def gather(losses, x, sizes=()):
    parts = list(losses.heard(cut(x, sizes)))
    assert all(block.shape[1] == len(flags) for block, flags in parts)
    return np.concatenate([b for b, _ in parts], 1), np.concatenate([f for _, f in parts])


@given(sizes=st.lists(st.integers(0, 300), max_size=8))
@settings(max_examples=50, deadline=None)
def test_packets_that_are_known(sizes):
    x = np.random.default_rng(0).standard_normal((2, 2500)).astype(np.float32)
    lost = np.random.default_rng(1).random(25) < 0.4
    losses, kept = Losses(lambda n: lost[:n], 100, True, 25), []
    losses.copy = kept.append
    y, flags = gather(losses, x, sizes)
    assert np.array_equal(flags, np.repeat(lost, 100))
    assert np.array_equal(y, np.where(flags, 0, x))
    assert np.array_equal(np.concatenate(kept, 1), y)
    assert losses.bursts().packets == 25
    assert losses.bursts().rate == pytest.approx(lost.mean())


@given(sizes=st.lists(st.integers(0, 300), max_size=8), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_runs_of_zeros_are_found_wherever_blocks_end(sizes, seed):
    """Of a hundred or more; zeros in one channel only, or fewer, are sound."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 1, (2, 2500)).astype(np.float32)
    at = 0
    while at < 2500:
        at += int(rng.integers(1, 200))
        length = min(int(rng.choice([3, 99, 100, 101, 250, 700])), max(0, 2500 - at))
        x[:, at : at + length] = 0
        at += length
    x[0, 10:200:3] = 0
    losses = Losses(None, 100, False)
    y, flags = gather(losses, x, sizes)
    assert np.array_equal(y, x)
    whole = Silence(100)
    assert np.array_equal(flags, np.concatenate([whole.push(x)[1], whole.flush()[1]]))
    # A run that a random neighbour makes longer is found longer, so compare with the sound itself.
    zero = ~x.any(0)
    edges = np.flatnonzero(np.diff(zero, prepend=False, append=False))
    want = np.zeros(2500, bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        want[start:end] = end - start >= 100
    assert np.array_equal(flags, want)
    assert losses.bursts().packets == 25
    assert sum(losses._silence.runs) == want.sum()


def info(frames=1600 * 5, rate=16000):
    return AudioInfo("a.wav", rate, 1, frames, "WAV", "PCM_16")


def source(name, key=None):
    return Source(name, name, key)


def lost(loss, name, about, packets=25, key=None):
    """Which packets are lost of a recording of so many."""
    losses = loss.of(source(name, key), about)
    return gather(losses, np.ones((1, packets * losses.size), np.float32))[1][:: losses.size]


def test_chance_depends_on_seed_and_name_only():
    models = loss_models("drop:0.5")
    first = lost(Loss(models, seed=3), "a.wav", info())
    assert len(first) == 25
    for frames in (1600 * 50, 100, 2**62):  # whatever the header says
        assert np.array_equal(first, lost(Loss(models, seed=3), "a.wav", info(frames)))
    assert not np.array_equal(first, lost(Loss(models, seed=4), "a.wav", info()))
    assert not np.array_equal(first, lost(Loss(models, seed=3), "b.wav", info()))
    assert Loss(models, 10, seed=2**31 - 1).of(source("a.wav"), info(441 * 7, 44100)).size == 441


def test_traces_by_name(tmp_path):
    a, b = np.arange(25) % 2 > 0, np.arange(25) % 3 > 0
    (tmp_path / "t").mkdir()
    write_trace(tmp_path / "t/a.txt", a)
    write_trace(tmp_path / "t/b.trace", b)
    (tmp_path / "t.scp").write_text("x t/b.trace\n")
    loss = Loss(loss_models(str(tmp_path / "t")))
    assert np.array_equal(lost(loss, "x/a.flac", info()), a)
    assert np.array_equal(lost(loss, "whatever.wav", info(), key="b"), b)
    with pytest.raises(AudioError, match=r"c.wav: .*t has no trace of the name c; add it"):
        loss.of(source("c.wav"), info())
    with pytest.raises(AudioError, match="has 25 packets, and the signal 27"):
        lost(loss, "a.wav", info(320 * 26 + 1), 27)
    assert np.array_equal(lost(Loss(loss_models(str(tmp_path / "t.scp"))), "x.wav", info()), b)
    assert np.array_equal(lost(Loss(loss_models(str(tmp_path / "t/a.txt"))), "x.wav", info()), a)
    write_trace(tmp_path / "t/a.other", a)
    with pytest.raises(AudioError, match=r"a.other and .*a.txt are both for a; keep one"):
        loss_models(str(tmp_path / "t"))


def test_a_classical_method_for_each_channel(noise):
    x, lost = noise(2, 3000), np.repeat(np.arange(10) % 4 == 2, 300)
    for name, packet in (("zero", 20), ("repeat", 10), ("g711", 20)):
        session = Classical(name, packet).open(16000, 2)
        assert session.feed(x[:, :700], lost[:700]).shape == (2, 0)
        session.feed(x[:, 700:], lost[700:])
        y = session.flush()
        assert y.shape == x.shape
        if name == "repeat":
            at = np.flatnonzero(lost)[0]
            assert np.array_equal(y[:, at : at + 160], x[:, at - 160 : at])
    session = Classical("g711", 20).open(4000, 1)
    session.feed(x[:1], lost)
    with pytest.raises(AudioError, match=r"sample_rate is 4000; .*; convert it first"):
        session.flush()


@pytest.mark.parametrize("value", [0.0, 8 / 32768, -1 / 32768, 0.25])
@pytest.mark.parametrize("block", [1, 7, 160, 10000])
def test_runs_of_any_value_are_losses(value, block):
    """A-law has no code for 0, and converters add offsets; blocks of any size find the same."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, (2, 5000)).astype(np.float32)
    wanted = np.zeros(5000, bool)
    for start, end in ((0, 320), (1000, 1320), (2000, 2159), (4500, 5000)):
        x[:, start:end] = value
        wanted[start:end] = end - start >= 160
    silence, parts = Silence(160), []
    for at in range(0, 5000, block):
        parts.append(silence.push(x[:, at : at + block]))
    parts.append(silence.flush())
    y, lost = (np.concatenate([part[i] for part in parts], axis=-1) for i in (0, 1))
    assert np.array_equal(lost, wanted)
    assert np.array_equal(y, np.where(wanted, 0, x))
    assert silence.runs == [320, 320, 500]
