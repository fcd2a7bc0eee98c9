"""Packed corpora give back what was put in, balanced as asked, and the same batch for the same number."""

import json

import numpy as np
import pytest
import torch

from audiomask.audio import AudioError
from audiomask.data.crops.packed import PackedAudio, SpeechAndNoise, pack


@pytest.fixture
def corpus(tmp_path):
    """Three groups; each recording is a constant, so a crop tells where it came from."""
    entries = [(f"{g}{i}", g, (lambda v=v, n=n: np.full(n, v / 100))) for v, (g, i, n) in enumerate(
        [("a", 0, 1000), ("a", 1, 3000), ("b", 0, 500), ("c1", 0, 4000), ("c2", 0, 4000)], 1)]  # fmt: skip
    pack(entries, tmp_path / "x", 16000)
    return tmp_path / "x"


def values(audio: PackedAudio, count: int = 2000) -> dict[int, float]:
    rng = np.random.default_rng(0)
    found = [round(float(audio.crop(rng, 100)[50]) * 100) for _ in range(count)]
    return {v: found.count(v) / count for v in set(found)}


def test_pack_keeps_samples_to_16_bits(tmp_path):
    x = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    assert pack([("k", "g", lambda: x)], tmp_path / "p", 16000) == 4000
    y = PackedAudio(tmp_path / "p").crop(np.random.default_rng(0), 4000)
    assert np.abs(x - y).max() < 1 / 16000


def test_crops_are_drawn_by_length_without_weights(corpus):
    share = values(PackedAudio(corpus))
    assert share[4] == pytest.approx(4000 / 12500, abs=0.04)
    assert share[3] == pytest.approx(500 / 12500, abs=0.02)


def test_weights_balance_groups(corpus):
    share = values(PackedAudio(corpus, weights={"a": 0.2, "c*": 0.5}))
    assert share[1] + share[2] == pytest.approx(0.2, abs=0.03)
    assert share[4] + share[5] == pytest.approx(0.5, abs=0.04)
    assert share[3] == pytest.approx(0.3, abs=0.04)  # the rest


def test_short_recordings_are_looped_or_padded(corpus):
    audio = PackedAudio(corpus, weights={"b": 1.0})
    assert np.count_nonzero(audio.crop(np.random.default_rng(1), 2000, "loop")) == 2000
    assert np.count_nonzero(audio.crop(np.random.default_rng(1), 2000, "pad")) == 500


def test_rows_depend_on_seed_and_number_only(corpus):
    def data(seed):
        return SpeechAndNoise(PackedAudio(corpus), PackedAudio(corpus), 800, seed=seed)

    a, b = data(1), data(1)
    _ = [b[i] for i in (5, 0, 7)]  # what was drawn before does not matter
    for key, value in a[4].items():
        assert torch.equal(value, b[4][key])
    assert not torch.equal(a[4]["noise"], data(2)[4]["noise"])
    assert not torch.equal(a[4]["noise"], a[5]["noise"])
    assert a[0]["speech"].shape == (800,)
    assert a[0]["noise"].shape == (3, 800)


def test_errors_say_what_to_do(corpus, tmp_path):
    with pytest.raises(AudioError, match="no such packed corpus"):
        PackedAudio(tmp_path / "nothing")
    with pytest.raises(AudioError, match="no group matches the weight for 'z'"):
        PackedAudio(corpus, weights={"z": 1.0})
    with pytest.raises(AudioError, match="no audio to pack"):
        pack([], tmp_path / "e", 16000)
    with pytest.raises(AudioError, match="mono"):
        pack([("k", "g", lambda: np.zeros((2, 5)))], tmp_path / "s", 16000)


def test_an_interrupted_pack_leaves_no_index(tmp_path):
    def fail():
        raise AudioError("torn.wav: truncated")

    with pytest.raises(AudioError, match="torn"):
        pack([("a", "g", lambda: np.ones(10)), ("b", "g", fail)], tmp_path / "x", 16000)
    assert not list(tmp_path.iterdir())


def test_index_records_the_rate(corpus):
    assert json.loads(corpus.with_suffix(".json").read_text())["sample_rate"] == 16000


def test_a_short_recording_stands_anywhere_among_zeros_whole():
    from audiomask.data.crops.packed import cut

    x = np.arange(1, 21, dtype=np.float32).reshape(2, 10)
    rng, starts = np.random.default_rng(0), set()
    for _ in range(60):
        y = cut(lambda at, count: x[:, at : at + count], 10, rng, 15, "pad")
        (start,) = {int(row.nonzero()[0][0]) for row in y}
        starts.add(start)
        assert np.array_equal(y[:, start : start + 10], x)
        assert y.shape == (2, 15)
        assert np.count_nonzero(y) == 20
    assert starts == set(range(6))
