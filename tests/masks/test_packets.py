"""Losses come at the rate and in the bursts that a model states, from seeds alone; traces are read."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.audio import AudioError
from audiomask.masks.packets import (
    Bursts,
    Gilbert,
    GilbertElliott,
    Recorded,
    ThreeState,
    Uniform,
    Windows,
    burst_class,
    bursts,
    lose,
    packets,
    parse_loss,
    per_sample,
    read_trace,
    statistics,
    write_trace,
)

RATE = 16000
MODELS = [
    Uniform(0.1),
    Gilbert(0.05, 0.3),
    Gilbert(0.9, 0.1),
    GilbertElliott(0.02, 0.15, 0.01, 0.6),
    ThreeState(0.03, 0.005, 0.8, 0.1),
]
SEEDS = np.arange(1000, dtype=np.int64)
chances = st.floats(0.01, 0.99)


def models():
    return st.one_of(
        st.builds(Uniform, chances),
        st.builds(Gilbert, chances, chances),
        st.builds(GilbertElliott, chances, chances, chances, chances),
        st.builds(ThreeState, st.floats(0.01, 0.5), st.floats(0.01, 0.4), chances, chances),
    )


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_a_million_packets_have_the_rate_and_the_bursts_that_the_model_states(model):
    lost = model.sample(SEEDS[:10], 100_000)
    # stretches of 1000 packets are as good as independent: their spread bounds the error of the mean
    assert abs(lost.mean() - model.loss_rate) < 5 * lost.reshape(1000, -1).mean(1).std() / 1000**0.5
    found = np.zeros(13)
    histogram = statistics(lost).histogram
    found[: len(histogram[:13])] = histogram[:13]
    count, expected = histogram.sum(), model.burst_lengths(12)
    error = 5 * (expected * (1 - expected) / count) ** 0.5 + 10 / count  # rows cut ten bursts at most
    assert np.all(abs(found[1:] / count - expected) < error), (found / count, expected)
    assert abs(statistics(lost).mean - model.mean_burst) < 0.03 * model.mean_burst
    first = model.sample(SEEDS, 1).mean()  # the chain is in its stationary state from the first packet on
    assert abs(first - model.loss_rate) < 5 * (model.loss_rate * (1 - model.loss_rate) / 1000) ** 0.5


def test_the_closed_forms_of_the_models():
    gilbert = Gilbert(0.05, 0.25)
    assert gilbert.loss_rate == pytest.approx(0.05 / 0.3)
    assert gilbert.mean_burst == pytest.approx(4)
    assert gilbert.burst_lengths(3) == pytest.approx([0.25, 0.25 * 0.75, 0.25 * 0.75**2])
    assert Gilbert.of(0.1, 3).loss_rate == pytest.approx(0.1)
    assert Gilbert.of(0.1, 3).mean_burst == pytest.approx(3)
    assert Uniform(0.2).mean_burst == pytest.approx(1.25)
    three = ThreeState(0.03, 0.01, 1.0, 0.1)
    assert three.mean_burst == pytest.approx(0.75 * 1 + 0.25 * 10)
    assert three.loss_rate == pytest.approx(0.13 / 1.13)
    elliott = GilbertElliott(0.05, 0.25, 0.0, 1.0)
    assert elliott.burst_lengths(20) == pytest.approx(gilbert.burst_lengths(20))
    assert np.isnan(Uniform(0.0).mean_burst)


@settings(max_examples=60, deadline=None)
@given(models(), st.integers(0, 300), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6))
def test_a_row_depends_on_its_seed_alone(model, count, seeds):
    seeds = np.array(seeds)
    lost = model.sample(seeds, count)
    assert lost.shape == (len(seeds), count)
    assert lost.dtype == bool
    for row, seed in zip(lost, seeds, strict=True):
        np.testing.assert_array_equal(row, model.sample(seed[None], count)[0])
    np.testing.assert_array_equal(lost[:, : count // 2], model.sample(seeds, count // 2))
    np.testing.assert_array_equal(lost, model.sample(torch.from_numpy(seeds), count).numpy())


@settings(max_examples=60, deadline=None)
@given(models())
def test_burst_lengths_agree_with_rate_and_mean(model):
    chances = model.burst_lengths(3000)
    assert chances.sum() == pytest.approx(1, abs=1e-6)
    assert chances @ np.arange(1, 3001) == pytest.approx(model.mean_burst, rel=1e-4)
    assert model.stationary @ model.transition == pytest.approx(model.stationary)


def test_rows_of_neighbouring_seeds_are_unrelated():
    x = Uniform(0.5).sample(SEEDS, 1000).astype(float) * 2 - 1
    for a, b in ((x[:-1], x[1:]), (x[:, :-1], x[:, 1:]), (x[:-1, :-1], x[1:, 1:])):
        assert abs((a * b).mean()) < 5 / a.size**0.5


def test_statistics_of_a_trace():
    lost = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1], bool)
    found = statistics([lost, np.array([1, 0], bool), np.array([1], bool)])
    assert found.histogram.tolist() == [0, 3, 1, 0, 0, 0, 0, 1]
    assert (found.packets, found.rate, found.mean, found.longest) == (16, 12 / 16, 12 / 5, 7)
    assert found.by_class().tolist() == [4, 1, 0, 0]
    assert burst_class(np.array([1, 6, 7, 16, 17, 50, 51])).tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert burst_class(12, 10.0) == 0
    none = statistics(np.zeros((2, 5), bool))
    assert isinstance(none, Bursts)
    assert (none.rate, none.longest) == (0, 0)
    assert np.isnan(none.mean)
    with pytest.raises(ValueError, match="no packets in the traces"):
        statistics([])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=50), min_size=1, max_size=5))
def test_statistics_count_every_lost_packet_once(rows):
    found = statistics([np.array(row) for row in rows])
    assert found.histogram @ np.arange(len(found.histogram)) == sum(map(sum, rows))
    runs = sum(sum(b and not a for a, b in zip([False, *row], row, strict=False)) for row in rows)
    assert found.histogram.sum() == runs == found.by_class().sum()


def test_traces_are_written_and_read(tmp_path):
    lost = Gilbert(0.1, 0.3).sample(SEEDS[:1], 500)[0]
    write_trace(tmp_path / "a.txt", lost)
    text = (tmp_path / "a.txt").read_bytes()
    assert len(text) == 1000
    np.testing.assert_array_equal(read_trace(tmp_path / "a.txt"), lost)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    (tmp_path / "a.txt").write_bytes(b"0\r\n1\r\n1\r\n\r\n")
    assert read_trace(tmp_path / "a.txt").tolist() == [False, True, True]
    for text, said in (
        (b"0\n1\n2\n", "a.txt:3: '2' is neither 0 nor 1"),
        (b"0\n\n1\n", "a.txt:2: '' is neither"),
        (b"", "is empty"),
        (b"\xff\xfe0", "cannot be read"),
    ):
        (tmp_path / "a.txt").write_bytes(text)
        with pytest.raises(AudioError, match=said):
            read_trace(tmp_path / "a.txt")
    with pytest.raises(AudioError, match="cannot be read"):
        read_trace(tmp_path / "none.txt")


def test_golden_flags():
    """The flags of a seed are part of every training run and table; they may not change."""
    lost = ThreeState(0.2, 0.05, 0.8, 0.3).sample(np.array([7, -1]), 40)
    assert ["".join(str(int(flag)) for flag in row) for row in lost] == [
        "0011001000010000000000000001000000010000",
        "0100000001000000000000000100000010101000",
    ]


def test_loss_specs(tmp_path):
    assert parse_loss("gilbert:.05,0.3") == Gilbert(0.05, 0.3)
    assert parse_loss("drop:0.1") == Uniform(0.1)
    write_trace(tmp_path / "drop.txt", np.array([0, 1, 1]))
    trace = parse_loss(str(tmp_path / "drop.txt"))
    assert trace.sample(SEEDS[:2], 3).tolist() == [[False, True, True]] * 2
    assert trace.sample(torch.zeros(2, dtype=torch.int64), 2).tolist() == [[False, True]] * 2
    assert trace.sample(SEEDS[:1], 4).tolist() == [[False, True, True, False]]  # the last, not whole, arrived
    with pytest.raises(AudioError, match=r"drop.txt: has 3 packets, and the signal 5"):
        trace.sample(SEEDS[:1], 5)
    for spec in ("gilbert:0.1", "gilbert:.1,.2,.3", "drop:x", "drop:1.5", "gilbert:0,0", "drop:"):
        with pytest.raises(ValueError, match=r"want (gilbert:P,Q|drop:RATE), each from 0 to 1"):
            parse_loss(spec)
    with pytest.raises(AudioError, match=r"burst:3: no such file; a loss is a trace file, gilbert"):
        parse_loss("burst:3")


def test_models_that_cannot_be_are_refused():
    for make in (
        lambda: Uniform(1.2),
        lambda: Gilbert(-0.1, 0.5),
        lambda: Gilbert(0, 0),
        lambda: ThreeState(0.6, 0.6, 1, 1),
        lambda: ThreeState(0.1, 0.1, 0, 1),
        lambda: Gilbert.of(0.9, 2),
        lambda: Gilbert.of(0.1, 0.5),
    ):
        with pytest.raises(ValueError, match=r"is|never|bursts"):
            make()


def test_windows_are_stretches_of_the_traces():
    lost = Gilbert(0.1, 0.3).sample(SEEDS[:2], 300)
    windows = Windows(list(lost))
    drawn = windows.sample(SEEDS, 40)
    ring = np.concatenate([lost.ravel(), lost.ravel()])
    texts = {bytes(ring[i : i + 40]) for i in range(600)}
    assert {bytes(row) for row in drawn} <= texts
    assert len({bytes(row) for row in drawn}) > 300
    np.testing.assert_array_equal(drawn, windows.sample(torch.from_numpy(SEEDS), 40).numpy())
    assert windows.sample(SEEDS[:1], 1500).shape == (1, 1500)


def test_windows_of_the_traces_that_a_table_names(tmp_path):
    for name, flags in (("a", [0, 1]), ("b", [1, 1, 1])):
        write_trace(tmp_path / f"{name}.txt", np.array(flags))
    table = tmp_path / "utt2trace"
    table.write_text(f"one a.txt\ntwo {tmp_path}/b.txt\n")
    assert Recorded(str(table)).lost.tolist() == [False, True, True, True, True]
    for text in ("one\n", ""):
        table.write_text(text)
        with pytest.raises(AudioError, match="want lines KEY PATH"):
            Recorded(str(table))
    table.write_text("one none.txt\n")
    with pytest.raises(AudioError, match=r"none\.txt: cannot be read as a trace"):
        Recorded(str(table))
    with pytest.raises(AudioError, match="none: cannot be read"):
        Recorded(str(tmp_path / "none"))


@pytest.mark.parametrize("size", [160, 320, 640, 256, 777, 1536])
def test_flags_of_samples(size):
    lost = np.array([[True, False, True], [False, False, True]])
    flags = per_sample(lost, 2 * size + 5, size)
    assert flags.shape == (2, 2 * size + 5)
    assert flags[0].tolist() == [True] * size + [False] * size + [True] * 5
    assert per_sample(torch.from_numpy(lost), 3 * size, size)[1].sum() == size
    assert per_sample(lost[0], 3, size).tolist() == [True] * 3
    with pytest.raises(ValueError, match="do not hold"):
        per_sample(lost, 3 * size + 1, size)


@pytest.mark.parametrize(("rate", "length"), [(0.05, 1.0), (0.2, 3.0), (0.5, 8.0)])
def test_bursts_have_the_rate_and_the_length_asked_for(rate, length):
    uniform = torch.rand(200, 2000, generator=torch.Generator().manual_seed(0))
    lost = bursts(uniform, torch.full((200,), rate), torch.full((200,), length))
    assert abs(float(lost.float().mean()) - rate) < 0.02
    starts = (lost[:, 1:] & ~lost[:, :-1]).sum()
    assert abs(float(lost[:, 1:].sum() / starts) - length) < 0.1 * length
    bad, one_by_one = uniform[:, 0] < rate, []  # the chain, a packet at a time
    for u in uniform.unbind(1):
        if one_by_one:
            bad = torch.where(bad, u >= torch.tensor(1 / length), u < rate / ((1 - rate) * length))
        one_by_one.append(bad)
    assert torch.equal(lost, torch.stack(one_by_one, 1))


def test_lost_packets_are_silent_and_the_others_whole():
    x = torch.ones(1, 1000)
    y = lose(x, torch.tensor([[False, True, False, True]]), 320)
    assert y[0].reshape(-1, 40).mean(1).tolist() == [1] * 8 + [0] * 8 + [1] * 8 + [0]
    assert packets(1000, RATE, 20.0) == (4, 320)
    assert [packets(48000, 48000, ms)[1] for ms in (10, 20, 40)] == [480, 960, 1920]


def test_works_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np; from audiomask.masks import packets\n"
        "for m in ('gilbert:.1,.5', 'drop:.1'): print(packets.parse_loss(m).sample(np.arange(2), 9).shape)\n"
        "print(packets.per_sample(np.ones(3, bool), 5, 2).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[:3] == ["(2, 9)", "(2, 9)", "5"], done.stderr
