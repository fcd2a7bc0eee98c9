"""The recipes of separation: on the corpus that is here, on small trees of others; whole runs are slow."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import corpus_trees
import numpy as np
import pytest
import soundfile as sf

from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

EGS = Path(__file__).parents[2] / "egs"
CORPUS = EGS / "mini/denoise/corpus"
SMALL = {"size": 512, "hop": 256, "width": 8, "blocks": 1, "heads": 1, "full": 8, "squeeze": 8, "hidden": 8}
TINY = (
    *("--max-steps", 2, "--epoch-steps", 2, "--batch-size", 2, "--masks", "none,wiener", "--train-options"),
    " ".join(f"--model.model.{k} {v}" for k, v in SMALL.items())
    + " --data.segment 8000 --data.clips 2 --model.warmup 1 --trainer.accelerator cpu --data.workers 0",
)


def test_the_small_recipe_makes_music_and_mixes(recipe, monkeypatch):
    run = recipe("mini", "separate")
    words = ("--corpus", CORPUS, "--stop-stage", 2, "--pieces", 2, "--piece-s", 3, "--mixes", 2, "--mix-s", 2)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(run.home)  # where the paths of tables start
    pieces = [sf.read(f"data/music/{part}/{i}.flac")[0] for part in ("train", "valid") for i in range(2)]
    for piece in pieces:
        assert piece.shape == (3 * 48000, 2)
        assert np.abs(piece).max() == pytest.approx(0.5, abs=1e-3)
        assert min(np.sqrt((part**2).mean()) for part in np.split(piece, 6)) > 0.005  # plays throughout
    assert not any(np.array_equal(pieces[0], other) for other in pieces[1:])
    mixes = DataDir.read("data/mixes")
    assert validate("data/mixes") == []
    for mix in mixes.utterances():
        assert set(mix.sources) == {"wav", "speech", "music", "effects"}
        stems = [mixes.load(mix, name)[0] for name in ("speech", "music", "effects")]
        np.testing.assert_allclose(mixes.load(mix)[0], sum(stems), atol=1e-6)
        assert all(np.abs(x).max() > 0.01 for x in stems)
    before = Path("data/music/valid/0.flac").read_bytes()
    assert run(*words).stdout.count("done before") == 2
    again = run(*words[:-4], "--mixes", 1)
    assert again.returncode == 0, again.stderr
    assert "stage 1: prepare (done before)" in again.stdout
    assert len(DataDir.read("data/mixes").recordings) == 1
    assert run(*words, "--seed", 1).returncode == 0
    assert Path("data/music/valid/0.flac").read_bytes() != before


def test_a_report_never_mixes_scores(tmp_path):
    def summaries(db: float) -> dict:
        rows = {name: {"mean": db + i, "median": db - i, "n": 2} for i, name in enumerate(("sdr", "csdr"))}
        return {"drums": rows, "mean": rows}

    silent = summaries(0)
    silent["drums"] = {name: {"mean": None, "median": None, "n": 0} for name in ("sdr", "csdr")}
    scores = {"metrics": ["sdr", "csdr"], "stems": summaries(5)}
    ideal = {"oracles": {"none": {"stems": silent}, "wiener": {"stems": summaries(9)}}}
    (tmp_path / "scores_test.json").write_text(json.dumps(scores))
    (tmp_path / "ideal_test.json").write_text(json.dumps(ideal))
    script = EGS / "utils/separation_report.py"
    done = subprocess.run([sys.executable, script, tmp_path, "test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tables = done.stdout.split("### ")
    assert len(tables) == 3
    assert "(sdr), dB: mean over 2 songs" in tables[1]
    assert "(csdr), dB: median over 2 songs" in tables[2]
    rows = [[line for line in text.splitlines() if line.startswith("|")] for text in tables[1:]]
    assert rows[0] == [
        "| | drums | mean |",
        "|---|---|---|",
        "| the mixture | none | 0.00 |",
        "| trained here | 5.00 | 5.00 |",
        "| ideal mask: wiener | 9.00 | 9.00 |",
    ]
    assert rows[1][3:] == ["| trained here | 4.00 | 4.00 |", "| ideal mask: wiener | 8.00 | 8.00 |"]
    assert subprocess.run([sys.executable, script, tmp_path], capture_output=True).returncode == 1


@pytest.fixture
def tree(recipe):
    """`tree(NAME, *words)` runs the recipe on a small tree of its layout; returns the run and its folder."""

    def go(name, *words):
        run = recipe(name, "separate")
        corpus = run.home.parents[2] / "corpus"
        if not corpus.exists():
            getattr(corpus_trees, name.rstrip("18"))(corpus)
        return run("--corpus", corpus, *words), run.home

    return go


@pytest.mark.parametrize("name", ["musdb18", "dnr"])
def test_a_corpus_must_be_named(recipe, name):
    done = recipe(name, "separate")()
    assert done.returncode == 2
    assert "--corpus" in done.stderr


@pytest.mark.parametrize(
    ("name", "stems"),
    [("musdb18", {"drums", "bass", "other", "vocals"}), ("dnr", {"speech", "music", "effects"})],
)
def test_corpora_are_prepared(tree, monkeypatch, name, stems):
    done, home = tree(name, "--stop-stage", 2 if name == "musdb18" else 1)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(home)
    parts = {part: DataDir.read(f"data/{part}") for part in ("train", "valid", "test")}
    for part, data in parts.items():
        assert validate(f"data/{part}") == []
        assert all(set(song.sources) == {"wav", *stems} for song in data.utterances())
    files = [set(data.tables["wav.scp"].values()) for data in parts.values()]
    assert sum(map(len, files)) == len(set().union(*files))


def check(exp: Path, part: str, stems: set[str]) -> None:
    found = json.loads((exp / f"scores_{part}.json").read_text())
    assert set(found["stems"]) == {*stems, "mean"}
    assert found["metrics"] == ["sdr", "si_sdr", *["csdr"] * bool(importlib.util.find_spec("museval"))]
    ideal = json.loads((exp / f"ideal_{part}.json").read_text())["oracles"]
    sdr = [ideal[mask]["stems"]["mean"]["sdr"]["mean"] for mask in ("none", "wiener")]
    assert sdr[0] < sdr[1]
    text = (exp / "RESULTS.md").read_text()
    assert text.count("\n| trained here |") == len(found["metrics"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_small_recipe_whole(recipe):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    run = recipe("mini", "separate")
    options = "--trainer.accelerator cpu --data.workers 0"
    words = ("--corpus", CORPUS, "--max-steps", 4, "--epoch-steps", 4, "--train-options", options)
    done = run(*words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    check(run.home / "exp/mini", "mixes", {"speech", "music", "effects"})
    for mix in ("mix000", "mix001", "mix002"):
        lengths = {
            sf.info(path).frames for path in (run.home / "exp/mini/separated/mixes" / mix).glob("*.wav")
        }
        assert lengths == {4 * 48000}
    assert run(*words).stdout.count("done before") == 8


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "stems"),
    [("musdb18", {"drums", "bass", "other", "vocals"}), ("dnr", {"speech", "music", "effects"})],
)
def test_corpora_whole(tree, name, stems):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    done, home = tree(name, *TINY)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    check(home / "exp/prism", "test", stems)
