"""The recipes of concealment on small trees of their corpora; whole runs are slow tests."""

import json

import corpus_trees
import numpy as np
import pytest

from audiomask.cli import VERBS
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate
from audiomask.masks.packets import read_trace

TREES = {"plc_challenge": "plc", "vctk": "vctk"}
OPTIONS = {"plc_challenge": ("--split", "train=0.5,valid=0.5"), "vctk": ("--count", 2)}
SMALL = {"channels": 8, "bands": 8, "blocks": 1, "heads": 2, "full": 8, "squeeze": 8}
TINY = (
    *("--max-steps", 2, "--epoch-steps", 2, "--batch-size", 2, "--train-options"),
    " ".join(f"--model.model.{k} {v}" for k, v in SMALL.items())
    + " --data.segment 8000 --trainer.accelerator cpu --data.workers 0"
    " --trainer.precision 32",
)


@pytest.fixture
def prepared(recipe):
    """`prepared(NAME, *words)`: the recipe run on its small corpus, as (what came of it, the runner)."""

    def go(name, *words):
        run = recipe(name, "conceal")
        run.corpus = getattr(corpus_trees, TREES[name])(run.home.parents[2] / "corpus")
        run.words = ("--corpus", run.corpus, *OPTIONS[name], *words)
        return run(*run.words), run

    return go


def test_plc_is_prepared(prepared):
    done, run = prepared("plc_challenge", "--stop-stage", 2)
    assert done.returncode == 0, done.stderr
    data = run.home / "data"
    parts = [set(DataDir.read(data / "split" / part).recordings) for part in ("train", "valid")]
    assert sorted(parts[0] | parts[1]) == ["1", "2", "3", "4"]
    assert not parts[0] & parts[1]
    assert "clean.scp" not in DataDir.read(data / "blind").tables
    again = run(*run.words, "--references", run.corpus / "blind_set_reference")
    assert again.returncode == 0, again.stderr
    assert "clean.scp" in DataDir.read(data / "blind").tables
    corpus_trees.spoil(run.corpus / "blind/lossy_signals/5_is_lost.txt", "missing")
    bad = run(*run.words)
    assert bad.returncode == 1
    assert "5_is_lost.txt: cannot be read as a trace" in bad.stderr
    assert "--bad-files skip" in bad.stderr


def test_vctk_is_prepared(prepared, monkeypatch):
    done, run = prepared("vctk", "--stop-stage", 3)
    assert done.returncode == 0, done.stderr
    data = run.home / "data"
    speakers = {
        part: DataDir.read(data / part).speakers for part in ("train", "valid", "gilbert30", "drop50")
    }
    assert speakers["train"] == ["p225", "s5"]
    assert set(speakers["valid"]) <= {"p226", "p287"}
    assert speakers["gilbert30"] == speakers["drop50"]
    assert set(speakers["drop50"]) <= {"p232", "p257"}
    monkeypatch.chdir(run.home)  # where the paths of tables start
    assert validate("data/drop50") == []
    lost = {part: DataDir.read(data / part) for part in ("drop10", "drop50")}
    rates = {
        part: np.mean([read_trace(d.resolve(file)).mean() for file in d.tables["utt2trace"].values()])
        for part, d in lost.items()
    }
    assert rates["drop10"] < 0.3 < rates["drop50"]
    again = run(*run.words)
    assert again.stdout.count("done before") == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif("conceal" not in VERBS, reason="needs the verb conceal")
@pytest.mark.parametrize("name", TREES)
def test_the_whole_recipe_in_small(prepared, name):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    more = ("--losses", "drop30=drop:0.3") if name == "vctk" else ()
    done, run = prepared(name, *TINY, *more)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    part = "drop30" if name == "vctk" else "blind"
    scores = json.loads((run.home / f"exp/darn/scores_{part}.json").read_text())
    assert ("pesq_wb" in scores["metrics"]) == (name == "vctk")
    assert "plcmos" in scores["metrics"]
    keys = DataDir.read(run.home / "data" / part).recordings
    for folder in ("concealed", "lossy"):
        assert DataDir.read(run.home / "exp/darn" / folder / part).recordings == keys
    again = run(*run.words)
    assert again.stdout.count("done before") == (7 if name == "vctk" else 6)
