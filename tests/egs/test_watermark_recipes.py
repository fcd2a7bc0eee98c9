"""Recipes of watermarks: on the corpus that is here, on a small tree of VoxPopuli; whole runs are slow."""

import json
from pathlib import Path

import corpus_trees
import pytest

from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

CORPUS = Path(__file__).parents[2] / "egs/mini/denoise/corpus"
SMALL = {"filters": 2, "ratios": "[8,5]", "latent": 4}
TINY = (
    *("--max-steps", 2, "--epoch-steps", 2, "--batch-size", 2, "--attacks", "gain:-6", "--clip-s", 1),
    "--train-options",
    " ".join(f"--model.model.{k} {v}" for k, v in SMALL.items())
    + " --data.segment 8000 --trainer.accelerator cpu --data.workers 0",
)


@pytest.fixture
def voxpopuli(recipe):
    """`voxpopuli(*words)` runs the recipe on a small tree of its layout; `.home` is where."""
    run = recipe("voxpopuli", "watermark")
    corpus = corpus_trees.voxpopuli(run.home.parents[2] / "corpus")

    def go(*words):
        split = ("--split", "train=0.5,valid=0.25,test=0.25", "--count", 2)
        return run("--corpus", corpus, *split, *words)

    go.home, go.corpus = run.home, corpus
    return go


def test_voxpopuli_is_prepared(voxpopuli, monkeypatch):
    done = voxpopuli("--parts", "unlabelled_data transcribed_data/en", "--stop-stage", 1)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(voxpopuli.home)  # where the paths of tables start
    parts = {part: DataDir.read(f"data/split/{part}") for part in ("train", "valid", "test")}
    sittings = {part: set(data.speakers) for part, data in parts.items()}
    assert sum(map(len, sittings.values())) == len(set().union(*sittings.values())) == 4
    assert all(sittings.values())
    assert "20190115-0900-PLENARY-3" in set().union(*sittings.values())  # without language or number
    assert sum(len(data.recordings) for data in parts.values()) == 14
    assert validate("data/test") == []
    assert set(DataDir.read("data/test").recordings) <= set(parts["test"].recordings)


def test_voxpopuli_passes_over_what_is_broken_and_says_so(voxpopuli):
    corpus_trees.spoil(next(voxpopuli.corpus.rglob("*.ogg")), "truncated")
    done = voxpopuli("--stop-stage", 1)
    assert done.returncode == 0, done.stderr
    assert ".ogg" in done.stdout + done.stderr
    strict = voxpopuli("--stop-stage", 1, "--bad-files", "stop")
    assert strict.returncode == 1


def test_voxpopuli_wants_a_corpus(recipe):
    done = recipe("voxpopuli", "watermark")()
    assert done.returncode == 2
    assert "--corpus" in done.stderr


def check(done, exp: Path, part: str, attacks):
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((exp / f"survival_{part}.json").read_text())
    assert list(found["attacks"]) == ["none", *attacks]
    for row in found["attacks"].values():
        assert all(0 <= row[name] <= 1 for name in ("found", "false", "message", "bits", "AUC"))
    assert all(path.is_file() for path in (exp / "watermark_mark.onnx", exp / "watermark_detect.onnx"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_small_recipe_whole(recipe):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    run = recipe("mini", "watermark")
    done = run("--corpus", CORPUS)
    check(done, run.home / "exp/mini", "some_valid", ["gain:-6", "mp3:64"])
    assert done.stdout.count("blocks equal the whole") == 3
    found = [
        json.loads(line) for line in (run.home / "exp/mini/hallmark/found.jsonl").read_text().splitlines()
    ]
    assert [(entry["present"], entry["message"]) for entry in found] == [(True, "beef"), (False, None)]
    assert found[0]["speed"] == pytest.approx(1.05, rel=1e-4)
    assert run("--corpus", CORPUS).stdout.count("done before") == 7


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_voxpopuli_whole(voxpopuli):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    check(voxpopuli(*TINY), voxpopuli.home / "exp/audioseal", "test", ["gain:-6"])
