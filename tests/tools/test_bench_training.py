"""The benchmark of training says where the time of a step goes, here and in another checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audiomask.data.corpora.folder import read as from_folder
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.simulate.mixtures import write_mixtures

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "egs/mini/denoise/corpus"
TINY = ["--model.model.channels", "8", "--model.model.bands", "8", "--model.model.full", "0"]
TINY += ["--data.batch_size", "2", "--data.segment", "8000"]


@pytest.mark.slow
def test_it_measures_two_checkouts_in_turn(tmp_path):
    from_librispeech(CORPUS / "speech/valid").write(tmp_path / "speech")
    from_folder(CORPUS / "noise/valid").write(tmp_path / "noise")
    write_mixtures(*(DataDir.read(tmp_path / kind) for kind in ("speech", "noise")), tmp_path / "pairs", 1)
    words = [sys.executable, str(ROOT / "tools/bench/training.py"), str(ROOT / "recipes/denoise/sieve.yaml")]
    other = tmp_path / "other"  # the tool fails where a run imports another package than that of its checkout
    for folder in ("audiomask", "recipes"):
        shutil.copytree(ROOT / folder, other / folder, ignore=shutil.ignore_patterns("*.onnx", "__pycache__"))
    words += ["--against", str(other), "--steps", "2", "--warmup", "1", "--rounds", "1", "--threads", "1"]
    words += ["--curves", "--json", str(tmp_path / "found.json"), "--", *TINY]
    for name, folder in (("train", "speech"), ("noise", "noise"), ("valid", "pairs"), ("cache", "cache")):
        words += [f"--data.{name}", str(tmp_path / folder)]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "steps a minute" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["checkout"] for row in found["rows"]] == ["here", "against"]
    for row in found["rows"]:
        parts = ("simulate", "network", "loss", "gradient", "optimizer")
        assert all(row[part] > 0 for part in parts)
        assert sum(row[part] for part in parts) < 60 / row["steps_per_minute"] * 1.5
    here, against = (found["runs"][name][0] for name in ("here", "against"))
    assert [step["value"] for step in here] == [step["value"] for step in against]  # one seed
    assert len(here) == 3


def test_each_checkout_runs_its_own_code(tmp_path):
    """Also where the working directory is one of them."""
    (tmp_path / "audiomask").mkdir()
    (tmp_path / "audiomask/__init__.py").touch()
    (tmp_path / "audiomask/__main__.py").write_text("raise SystemExit('code of the other')\n")
    words = [sys.executable, str(ROOT / "tools/bench/training.py"), "recipes/denoise/sieve.yaml"]
    done = subprocess.run(
        [*words, "--against", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "code of the other" in done.stderr
