"""A grown Sieve computes what the small one did, and can then learn with its new units; means of runs."""

from pathlib import Path

import pytest
import torch
import yaml

from audiomask import weights
from audiomask.models.sieve import Sieve

SMALL = {"channels": 8, "bands": 8, "blocks": 1, "heads": 2, "convs": 1, "full": 8, "squeeze": 8}
CLASS = "audiomask.models.sieve.Sieve"


def trained(folder: Path, seed: int = 0) -> Sieve:
    """Random weights, with statistics and norms as training leaves them."""
    torch.manual_seed(seed)
    model = Sieve(**SMALL)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(0.2 * torch.randn(value.shape)).abs_() if "var" in name else value.add_(
                    0.1 * torch.randn(value.shape)
                )
    weights.save(folder, model, {"class_path": CLASS, "init_args": SMALL})
    return model.eval()


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe for a Sieve of the small sizes with `changes`."""

    def write(path: str = CLASS, **changes: int) -> Path:
        model = {"class_path": path, "init_args": SMALL | changes if path == CLASS else changes}
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump({"model": {"init_args": {"model": model}}}))
        return file

    return write


def test_the_grown_network_computes_the_same_and_learns(tmp_path, cli, recipe):
    small = trained(tmp_path / "small")
    large = recipe(channels=12, heads=3, blocks=2, full=20, squeeze=12, ahead=2)
    done = cli("weights", "grow", tmp_path / "small", "--to", large, "-o", tmp_path / "large")
    assert done.code == 0, done.err
    assert "parameters, from" in done.out
    large = weights.load(tmp_path / "large")[0].eval()
    assert large.delay == small.delay + 2 * large.hop
    x = 0.1 * torch.randn(2, 1, 8000)
    with torch.no_grad():
        torch.testing.assert_close(large(x), small(x), atol=1e-6, rtol=0)

    large.train()(x).square().mean().backward()
    grad = large.net.full_out.weight.grad.unflatten(0, (8, 12))
    assert grad[:, :8, 8:].abs().max() > 0  # from new units of the full band to old channels
    assert large.net.encode.weight.grad[:8, 9:].abs().max() > 0  # from the frames ahead
    assert large.net.blocks[1].mix_norm.weight.grad.abs().max() > 0  # of the new block


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"channels": 12}, "heads of 4 channels cannot become heads of 6 channels"),
        ({"full": 4}, "would shrink"),
        ({"path": "torch.nn.Linear", "in_features": 1, "out_features": 1}, "does not grow into a Linear"),
    ],
)
def test_what_cannot_grow(tmp_path, cli, recipe, change, text):
    trained(tmp_path / "small")
    done = cli("weights", "grow", tmp_path / "small", "--to", recipe(**change), "-o", tmp_path / "large")
    assert done.code == 1
    assert text in done.err
    assert not (tmp_path / "large").exists()


def test_runs_are_averaged(tmp_path, cli):
    one, two = (trained(tmp_path / name, seed).state_dict() for seed, name in enumerate(("one", "two")))
    words = ("weights", "average", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "mean")
    assert cli(*words).code == 0
    mean = weights.load(tmp_path / "mean")[0].state_dict()
    for name, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (one[name] + two[name]) / 2)
    assert "holds something; -f" in cli(*words).err
    assert cli(*words, "-f", "--weights", ".25", ".75").code == 0
    mean = weights.load(tmp_path / "mean")[0].state_dict()
    name = "net.full_out.weight"
    torch.testing.assert_close(mean[name], 0.25 * one[name] + 0.75 * two[name])
    assert "give 2 numbers" in cli(*words, "-f", "--weights", "1").err

    (tmp_path / "file").write_text("theirs")
    refused = cli(*words[:-1], tmp_path / "file", "-f")
    assert (refused.code, "is a file, and the weights are a folder" in refused.err) == (2, True)

    other = SMALL | {"full": 16}
    weights.save(tmp_path / "two", Sieve(**other), {"class_path": CLASS, "init_args": other})
    assert "another architecture" in cli(*words, "-f").err
