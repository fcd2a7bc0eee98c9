"""Training by recipe: the schedule, and a run killed and resumed ends where an uninterrupted one does."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from audiomask.data import importers
from audiomask.data.kaldi import DataDir
from audiomask.tasks.enhance import Steps, warmup_stable_decay

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "egs/mini/denoise/corpus"


def test_schedule_warms_up_stays_and_falls():
    factor = [warmup_stable_decay(s, 10, 100, 0.25) for s in range(101)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[9:75] == [1.0] * 66
    assert all(a >= b for a, b in itertools.pairwise(factor[75:]))
    assert factor[100] == pytest.approx(0.01)
    assert warmup_stable_decay(500, 10, 100, 0.25) == pytest.approx(0.01)


def test_batches_go_on_from_the_step_and_are_shared_out_among_processes():
    assert list(Steps(5, lambda: 0)) == [0, 1, 2, 3, 4]
    assert list(Steps(5, lambda: 7)) == [7, 8, 9]  # resumed in the middle of the second epoch
    both = [list(Steps(5, lambda: 7, rank, 2)) for rank in (0, 1)]
    assert both == [[14, 16, 18], [15, 17, 19]]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Data directories of the mini corpus, and three validation pairs."""
    from audiomask.data.mix import write_mixtures

    folder = tmp_path_factory.mktemp("data")
    for part in ("train", "valid"):
        importers.from_librispeech(CORPUS / "speech" / part).write(folder / f"speech_{part}")
        importers.from_folder(CORPUS / "noise" / part).write(folder / f"noise_{part}")
    write_mixtures(
        DataDir.read(folder / "speech_valid"),
        DataDir.read(folder / "noise_valid"),
        folder / "pairs",
        count=2,
    )
    return folder


def command(data: Path, out: Path, steps: int) -> list[str]:
    options = {
        "data.train": data / "speech_train",
        "data.noise": data / "noise_train",
        "data.valid": data / "pairs",
        "data.cache": data / "cache",
        "data.steps": 3,
        "data.batch_size": 2,
        "trainer.max_steps": steps,
        "data.segment": 8000,
        "data.workers": 0,
        "trainer.precision": 32,
        "model.degrade.segment": 8000,
        "model.model.channels": 8,
        "model.model.bands": 8,
        "model.model.full": 0,
        "model.scored": 0,
        "model.decay": 0.0,
    }
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    recipe = ROOT / "recipes/denoise/sieve.yaml"
    return [sys.executable, "-m", "audiomask", "train", str(recipe), *flags, "--out", str(out)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}  # one order of summation


def train(data: Path, out: Path, steps: int) -> None:
    done = subprocess.run(
        command(data, out, steps), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def checkpoint(out: Path) -> dict:
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.timeout(600)
def test_a_run_killed_and_resumed_equals_one_that_was_not(data, tmp_path):
    out = tmp_path / "killed"
    killed = subprocess.Popen(
        command(data, out, 3000), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    last = out / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 240
    while not last.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert killed.poll() is None, "the run was to be killed in its middle"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    steps = checkpoint(out)["global_step"] + 6
    train(data, out, steps)
    train(data, tmp_path / "whole", steps)

    whole, resumed = checkpoint(tmp_path / "whole"), checkpoint(out)
    assert whole["global_step"] == resumed["global_step"] == steps
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for kind in ("model/config.json", "model/model.safetensors", "config.yaml", "run.json"):
        assert (out / kind).stat().st_size > 0


def test_unknown_keys_and_missing_recipes_are_errors(tmp_path):
    base = [sys.executable, "-m", "audiomask", "train"]
    missing = subprocess.run([*base, "no.yaml"], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "no.yaml: no such recipe" in missing.stderr
    recipe = str(ROOT / "recipes/denoise/sieve.yaml")
    unknown = subprocess.run(
        [*base, recipe, "--model.colour", "red", "--out", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert unknown.returncode == 2
    assert "colour" in unknown.stderr
    assert not (tmp_path / "x").exists()
