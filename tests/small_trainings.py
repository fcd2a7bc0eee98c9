"""Runs `audiomask train` at a tiny size, whole or killed in its middle; no test by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import inline
import torch

ROOT = Path(__file__).parents[1]
SIEVE = ROOT / "recipes/denoise/sieve.yaml"
TINY_SIEVE = {"model.model.channels": 8, "model.model.bands": 8, "model.model.full": 0}
PYTHON = (sys.executable,)


def command(
    data: Path, out: Path, steps: int, recipe: Path = SIEVE, start: tuple[str, ...] = PYTHON, **options
) -> list[str]:
    """The words of a run; `start` is what starts Python, `options` more dotted ones with __ for the dot, None
    for one that the task does not have."""
    tiny = {
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
        "model.scored": 0,
        "model.decay": 0.0,
    }
    tiny |= TINY_SIEVE if recipe == SIEVE else {}
    tiny |= {key.replace("__", "."): value for key, value in options.items()}
    flags = [part for key, value in tiny.items() if value is not None for part in (f"--{key}", str(value))]
    return [*start, "-m", "audiomask", "train", str(recipe), *flags, "--out", str(out)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}  # one order of summation


def train(data: Path, out: Path, steps: int, **options) -> subprocess.CompletedProcess:
    """Train in this process; in one of its own where `start` says how it starts, and where the network is
    compiled, since the compiler keeps what it has made."""
    words = command(data, out, steps, **options)
    if options.get("start", PYTHON) != PYTHON or options.get("model__compile"):
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    else:
        done = inline.run(*words[words.index("audiomask") + 1 :])
    assert done.returncode == 0, f"{done.returncode}\n{done.stderr[-3000:]}"
    return done


def checkpoint(out: Path) -> dict:
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


def train_and_kill(data: Path, out: Path, **options) -> int:
    """Start a long run, kill it with all its processes once it has a checkpoint; its number of steps."""
    killed = subprocess.Popen(
        command(data, out, 3000, **options),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    last = out / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 240
    while not last.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert killed.poll() is None, "the run was to be killed in its middle"
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    return checkpoint(out)["global_step"]


def same_weights(one: Path, two: Path, steps: int) -> dict[str, torch.Tensor]:
    """The weights with which both runs ended after so many steps."""
    first, second = checkpoint(one), checkpoint(two)
    assert first["global_step"] == second["global_step"] == steps
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    return first["state_dict"]


def killed_equals_whole(data: Path, folder: Path, more: int = 6, **options) -> None:
    """A run in `folder/killed`, resumed for `more` steps, ends as the one in `folder/whole` that was not."""
    steps = train_and_kill(data, folder / "killed", **options) + more
    for name in ("killed", "whole"):
        train(data, folder / name, steps, **options)
    same_weights(folder / "whole", folder / "killed", steps)
