"""Labelled crops from shards: labels travel, a pass balances the classes, and any row can be had alone."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.cli import main
from audiomask.data.crops import shards
from audiomask.data.crops.labels import LabelledCrops, count, labels_of
from audiomask.data.crops.shards import ShardedAudio, label_counts
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.modules import LabelledSounds

RATE, COUNT = 16000, 60
KINDS = ["wind"] * 48 + ["dog"] * 9 + ["dog,wind"] * 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Recording `i` is the constant i / 100; wind is five times as common as dogs, and longer."""
    folder = tmp_path_factory.mktemp("corpus")
    tables = {"wav.scp": {}, "utt2label": {}}
    for i, kind in enumerate(KINDS):
        name = f"r{i:02d}"
        audio.write(folder / f"{name}.wav", np.full(4000 if kind == "wind" else 1000, i / 100), RATE)
        tables["wav.scp"][name], tables["utt2label"][name] = f"{name}.wav", kind
    DataDir(tables).write(folder)
    return folder


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    assert main(["data", "shard", str(corpus), "-o", str(out), "--size", "0.001", "--seed", "1"]) == 0
    assert len(list(out.glob("*.tar"))) >= 8
    return out


def crops(folder, share, **options):
    corpus = ShardedAudio(folder, RATE, 500, batch_size=4, share=share)
    return LabelledCrops(corpus, label_counts(folder), 500, **options)


def drawn(rows, numbers):
    """Recordings by how often they came, each crop with the labels of its recording."""
    found = Counter()
    for n in numbers:
        item = rows[n]
        i = round(float(item["audio"][0]) * 100)
        assert item["target"].tolist() == [float("dog" in KINDS[i]), float("wind" in KINDS[i])]
        found[i] += 1
    return found


def test_labels_travel_in_the_shards(corpus, folder):
    assert label_counts(folder) == {"dog": 12, "wind": 51} == count(labels_of(DataDir.read(corpus)).values())
    index = json.loads((folder / shards.INDEX).read_text())
    assert sum(s["weight"] for s in index["shards"]) == pytest.approx(2)  # 1 for each class
    module = LabelledSounds(str(folder), str(corpus), sample_rate=RATE)
    assert module.classes() == ["dog", "wind"]
    module.prepare_data()


def test_a_pass_takes_every_utterance_alike(folder):
    rows = crops(folder, "utterances")
    assert rows.corpus.rows.sum() == COUNT
    found = drawn(rows, range(20 * COUNT))
    shares = np.array([found[i] for i in range(COUNT)]) / 20
    assert sum(found.values()) == 20 * COUNT
    assert shares.std() < 0.35
    assert sum(found[i] for i in range(48)) / (20 * COUNT) == pytest.approx(48 / 60, abs=0.03)


def test_balanced_rows_have_as_many_of_each_class(folder):
    rows = crops(folder, "weight", balanced=True)
    found = drawn(rows, range(20 * rows.corpus.rows.sum()))
    total = sum(found.values())
    by_kind = {kind: sum(found[i] for i in range(COUNT) if KINDS[i] == kind) / total for kind in set(KINDS)}
    weight = {"wind": 48 / 51, "dog": 9 / 12, "dog,wind": 3 / 12 + 3 / 51}
    for kind, share in by_kind.items():  # shards have a whole number of rows each
        assert share == pytest.approx(weight[kind] / 2, abs=0.04), kind


def test_a_row_does_not_depend_on_the_rows_before(folder):
    rows = crops(folder, "weight", balanced=True, mixup=0.5, seed=3)
    items = [rows[n] for n in range(60)]
    for n in (59, 7, 31):  # as a resumed run would ask
        again = crops(folder, "weight", balanced=True, mixup=0.5, seed=3)[n]
        assert all((again[key] == items[n][key]).all() for key in again)
    assert any(0 < float(item["target"].min()) < 1 for item in items)


def test_what_is_wrong_is_said(corpus, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    rows = crops(tmp_path, "utterances")
    half = tmp_path / rows.corpus.shard_of(0)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    with pytest.raises(AudioError, match=f"{half.name}: (cannot be read|ends after).*copy it again"):
        rows[0]
    wrong = LabelledCrops(ShardedAudio(folder, RATE, 500, 4), {"cat": 3, "dog": 12}, 500)
    with pytest.raises(AudioError, match="label 'wind' is none of the 2"):
        [wrong[n] for n in range(100)]
    data = DataDir.read(corpus)
    del data.tables["utt2label"]
    shards.write(data, tmp_path / "plain", RATE)
    with pytest.raises(AudioError, match="plain: these shards hold no labels; write them with"):
        LabelledSounds(str(tmp_path / "plain"), str(corpus), sample_rate=RATE).prepare_data()
    data.tables["utt2label"] = {"r00": "wind"}
    with pytest.raises(AudioError, match=r"no label for r01 \(59 in all\)"):
        shards.write(data, tmp_path / "holes", RATE)
