"""The recipes of codecs: on the corpus that is here, and on a small tree of LibriTTS; whole runs are slow."""

import json
from pathlib import Path

import corpus_trees
import pytest

from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

CORPUS = Path(__file__).parents[2] / "egs/mini/denoise/corpus"
SMALL = {"channels": 8, "wider": [16, 16], "blocks": [1, 1], "latent": 6, "stages": 6, "groups": 3}
TINY = (
    *("--max-steps", 2, "--epoch-steps", 2, "--batch-size", 2, "--train-options"),
    " ".join(f"--model.model.{k} {v}" for k, v in SMALL.items())
    + " --data.segment 8000 --trainer.accelerator cpu --data.workers 0 --model.scored 0",
)


@pytest.fixture
def mini(recipe):
    """`mini(*words)` runs the small recipe."""
    run = recipe("mini", "codec")
    return lambda *words: run("--corpus", CORPUS, *words)


@pytest.fixture
def libritts(recipe):
    """`libritts(*words)` runs the recipe of LibriTTS on a small tree of its layout; `.home` is where."""
    run = recipe("libritts", "codec")
    corpus = corpus_trees.libritts(run.home.parents[2] / "corpus")

    def go(*words):
        return run("--corpus", corpus, "--count", 2, *words)

    go.home = run.home
    return go


def test_libritts_is_prepared(libritts, monkeypatch):
    done = libritts("--stop-stage", 2)
    assert done.returncode == 0, done.stderr
    speakers = {
        part: DataDir.read(libritts.home / "data" / part).speakers for part in ("train", "valid", "test")
    }
    assert speakers["train"] == ["100", "200"]
    assert set(speakers["valid"]) <= {"101", "201"}
    assert set(speakers["test"]) <= {"102", "202"}
    monkeypatch.chdir(libritts.home)  # where the paths of tables start
    assert validate("data/test") == []
    assert {u.key for u in DataDir.read("data/test").utterances()} == set(
        DataDir.read("data/test_24k").utterance_keys
    )


def check(done, exp: Path, part: str, rates):
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for rate in rates:
        scores = json.loads((exp / f"scores_{part}_{rate}.json").read_text())
        assert scores
        assert list((exp / f"codes/{part}/{rate}").rglob("*.amk"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_small_recipe_whole(mini, tmp_path):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    done = mini(*TINY)
    check(done, tmp_path / "repo/egs/mini/codec/exp/mini", "speech_valid", ("1.5", "6"))
    assert "packets equal the file" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_libritts_whole(libritts):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    check(libritts(*TINY), libritts.home / "exp/gist", "test", ("1.5", "3", "6", "9"))
