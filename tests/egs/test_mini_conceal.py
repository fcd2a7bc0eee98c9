"""The small recipe of concealment: fixed losses, and all of it in small."""

import json
from pathlib import Path

import pytest

from audiomask.data.kaldi.health import validate
from audiomask.masks.packets import read_trace

CORPUS = Path(__file__).parents[2] / "egs/mini/denoise/corpus"


@pytest.fixture
def run(recipe):
    """`run(*words)` runs the script in a copy of the recipe."""
    run = recipe("mini", "conceal")
    return lambda *words: run("--corpus", CORPUS, *words)


def test_losses_are_drawn_once_for_the_validation(run, recipe, tmp_path):
    first = run("--stop-stage", 2)
    assert first.returncode == 0, first.stderr
    lossy = tmp_path / "repo/egs/mini/conceal/data/lossy"
    assert validate(lossy) == []
    traces = {path.name: read_trace(path) for path in (lossy / "traces").iterdir()}
    assert len(traces) == len(list((CORPUS / "speech/valid").iterdir()))
    assert 0 < sum(t.sum() for t in traces.values()) < sum(map(len, traces.values())) / 2
    assert run("--stop-stage", 2).stdout.count("done before") == 2
    assert "stage 2: lose\n" in run("--stop-stage", 2, "--loss", "drop:0.2").stdout


@pytest.mark.slow
def test_the_whole_recipe_in_small(run, tmp_path):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    tiny = "--model.model.channels 8 --model.model.bands 8 --model.model.full 8"
    tiny += " --data.segment 8000"
    done = run("--max-steps", 2, "--epoch-steps", 2, "--train-options", tiny)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "packets equal conceal" in done.stdout
    exp = tmp_path / "repo/egs/mini/conceal/exp/mini"
    assert json.loads((exp / "scores_lossy.json").read_text())
    assert len(list((exp / "concealed/lossy").rglob("*.wav"))) == len(
        list((CORPUS / "speech/valid").iterdir())
    )
