"""More than one process gives what one gives; the trainer's switches for speed do run."""

import subprocess
import sys

import pytest
import torch
import yaml
from training import SIEVE, checkpoint, command, environment, train, train_and_kill

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TWO = {"trainer__devices": 2, "trainer__accelerator": "cpu", "trainer__strategy": "ddp"}


@pytest.fixture
def recipe(tmp_path):
    """The recipe, with Muon and averaged weights, for a network without batch norms (SyncBatchNorm needs a
    GPU)."""
    config = yaml.safe_load(SIEVE.read_text())
    assert config["model"]["init_args"]["optimizer"] == "muon"
    config["model"]["init_args"]["model"] = {
        "class_path": "audiomask.models.cleanunet.CleanUNet",
        "init_args": {"hidden": 16, "most": 32, "depth": 4, "blocks": 1, "width": 16, "heads": 2, "feed_forward": 24},
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_killed_and_resumed_equal_one_process_with_twice_the_rows(data, tmp_path, recipe):
    """Started by the trainer, killed, resumed under torchrun."""
    out = tmp_path / "two"
    steps = train_and_kill(data, out, recipe=recipe, **TWO) + 4
    train(data, out, steps, recipe=recipe, start=TORCHRUN, **TWO)
    train(data, tmp_path / "one", steps, recipe=recipe, data__batch_size=4)
    one, two = checkpoint(tmp_path / "one"), checkpoint(out)
    assert one["global_step"] == two["global_step"] == steps
    moved = 0.0
    fresh = checkpoint_of_no_steps(data, tmp_path / "fresh", recipe)
    for kind in ("state_dict", "averaging_state"):
        for name, value in one[kind].items():
            assert torch.allclose(value, two[kind][name], atol=1e-5), f"{kind} {name}"
