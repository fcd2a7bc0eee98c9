"""``audiomask probe`` on tones and noises: what is separable is separated, by folds and by directories."""

import json

import numpy as np
import pytest
import soundfile as sf
import torch

from audiomask import weights
from audiomask.cli.probe import split
from audiomask.data.kaldi.directory import DataDir
from audiomask.models.audio_mae import AudioMae

TINY = {
    "frames": 64, "bands": 32, "width": 32, "depth": 2, "heads": 2,
    "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """24 clips of three classes in three folds, 6 more to test on, and an encoder of random weights."""
    folder = tmp_path_factory.mktemp("toy")
    random, t = np.random.default_rng(0), np.arange(8000) / 16000

    def sound(label):
        noise = random.standard_normal(8000)
        tone = np.sin(2 * np.pi * random.uniform(400, 500) * t)
        return {"tone": tone + 0.01 * noise, "noise": noise, "both": tone + 0.3 * noise}[label] * 0.1

    for part, count in (("train", 24), ("test", 6)):
        (folder / part).mkdir()
        labels, folds = {}, {}
        for i in range(count):
            key = f"clip{i:02}"
            labels[key], folds[key] = ("tone", "noise", "both")[i % 3], str(1 + i // 3 % 3)
            sf.write(folder / part / f"{key}.wav", sound(labels[key]), 16000)
        tables = {"wav.scp": {key: f"{key}.wav" for key in labels}, "utt2label": labels}
        DataDir(tables | ({"utt2fold": folds} if part == "train" else {})).write(folder / part)
    torch.manual_seed(0)
    heard = {"frontend": {"class_path": "audiomask.frontend.logmel.LogMel"}}
    config = {"class_path": "audiomask.models.audio_mae.AudioMae", "init_args": TINY} | heard
    weights.save(folder / "exp", AudioMae(**TINY), config)
    return folder


def test_directories(cli, toy):
    command = ["probe", toy / "exp", "--train", toy / "train", "--test", toy / "test"]
    done = cli(*command, "--knn", 5, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["classes"], found["features"], found["multi_label"]) == (3, 32, False)
    assert list(found["folds"]) == ["test"]
    part = found["folds"]["test"]
    assert part["clips"] == 6
    assert part["knn"] == {"accuracy": 1.0, "map": 1.0}
    assert part["linear"]["accuracy"] == part["linear"]["map"] == 1.0
    assert json.loads(cli(*command, "--knn", 5, "--json").out) == found
    lines = cli(*command, "--layers", "all", "--no-linear").out.splitlines()
    assert [line.split()[0] for line in lines] == ["tested", "test"]
    assert "1.0000" in lines[1]


def test_folds(cli, toy):
    command = ["probe", toy / "exp", "--train", toy / "train", "--folds"]
    found = json.loads(cli(*command, "--json").out)
    assert list(found["folds"]) == ["1", "2", "3"]
    assert [part["clips"] for part in found["folds"].values()] == [9, 9, 6]
    for method in ("knn", "linear"):
        values = [part[method]["accuracy"] for part in found["folds"].values()]
        assert found["mean"][method]["accuracy"] == pytest.approx(np.mean(values))
        assert min(values) > 0.8
    only = json.loads(cli(*command, "--fold", 2, "--json").out)
    assert only["folds"] == {"2": found["folds"]["2"]}
    lines = cli(*command).out.splitlines()
    assert [line.split()[0] for line in lines] == ["tested", "1", "1", "2", "2", "3", "3", "mean", "mean"]


def test_labels_that_say_nothing_are_not_predicted(cli, toy, tmp_path):
    """The same clips with labels at random: far from all right, so nothing of the test clips leaks."""
    data = DataDir.read(toy / "train")
    random = np.random.default_rng(1)
    labels = {key: random.choice(["x", "y"]) for key in data.tables["utt2label"]}
    scp = {key: str(toy / "train" / name) for key, name in data.tables["wav.scp"].items()}
    DataDir(data.tables | {"utt2label": labels, "wav.scp": scp}).write(tmp_path / "random")
    found = json.loads(cli("probe", toy / "exp", "--train", tmp_path / "random", "--folds", "--json").out)
    assert found["mean"]["linear"]["accuracy"] < 0.8
    assert found["mean"]["knn"]["accuracy"] < 0.8
    several = {key: "x,y" if i % 3 else "x" for i, key in enumerate(labels)}
    DataDir(data.tables | {"utt2label": several, "wav.scp": scp}).write(tmp_path / "several")
    found = json.loads(cli("probe", toy / "exp", "--train", tmp_path / "several", "--folds", "--json").out)
    assert found["multi_label"]
    assert found["mean"]["linear"]["map"] > 0.9  # y is what is no tone


def test_the_decay_is_chosen_on_clips_of_training():
    target = torch.eye(2)[torch.tensor([0, 1] * 10)]
    train, chosen, test = split(["train"] * 14 + ["test"] * 6, "test", target, 0)
    assert train.tolist() == list(range(14))
    assert test.tolist() == list(range(14, 20))
    assert len(chosen) == 2
    assert target[chosen].sum(0).tolist() == [1, 1]
    assert set(chosen.tolist()) < set(range(14))
    folds = ["1", "2", "3", "4"] * 5
    for test_fold, next_fold in (("1", "2"), ("3", "4"), ("4", "1")):
        train, chosen, test = split(folds, test_fold, target, 0)
        assert {folds[i] for i in chosen.tolist()} == {next_fold}
        assert {folds[i] for i in test.tolist()} == {test_fold}
        assert len(train) == 15


def test_what_makes_no_sense(cli, toy, tmp_path):
    base = ["probe", toy / "exp", "--train", toy / "train"]
    for words, code, message in (
        ([], 2, "give --test DIR, or --folds"),
        (["--folds", "--test", toy / "test"], 2, "one of the two"),
        (["--test", toy / "test", "--fold", 1], 2, "--fold is one of --folds"),
        (["--folds", "--fold", 9], 2, "--fold 9: utt2fold has 1, 2, 3"),
        (["--folds", "--knn", 0, "--no-linear"], 2, "nothing to do"),
        (["--folds", "--layers", "first"], 2, "numbers with commas"),
        (["--folds", "--layers", "7"], 1, "blocks 1 to 2"),
        (["--folds", "--corpus", "mine"], 1, "no constants for the corpus 'mine'"),
    ):
        done = cli(*base, *words)
        assert done.code == code, words
        assert message in done.err
    done = cli("probe", toy / "exp", "--train", toy / "test", "--folds")
    assert "no utt2fold beside wav.scp" in done.err
    done = cli("probe", toy / "train", "--train", toy / "train", "--folds")
    assert "no config.json" in done.err
    data = DataDir.read(toy / "test")
    scp = {key: str(toy / "test" / name) for key, name in data.tables["wav.scp"].items()}
    DataDir({"wav.scp": scp, "utt2label": dict.fromkeys(scp, "bell")}).write(tmp_path / "bells")
    done = cli(*base, "--test", tmp_path / "bells")
    assert done.code == 1
    assert "clip00 has the label 'bell'" in done.err
