"""A grown Sieve computes what the small one did, and can then learn with its new units."""

import subprocess
from pathlib import Path

import inline
import torch

from audiomask import weights
from audiomask.models.sieve import Sieve

TOOL = Path(__file__).parents[2] / "tools/grow_sieve.py"
SMALL = {"channels": 8, "bands": 8, "blocks": 1, "heads": 2, "convs": 1, "full": 8, "squeeze": 8}


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return inline.run(TOOL, *args)


def trained(folder: Path) -> Sieve:
    """Random weights, with statistics and norms as training leaves them."""
    torch.manual_seed(0)
    model = Sieve(**SMALL)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(0.2 * torch.randn(value.shape)).abs_() if "var" in name else value.add_(
                    0.1 * torch.randn(value.shape)
                )
    config = {"class_path": "audiomask.models.sieve.Sieve", "init_args": SMALL}
    weights.save(folder, model, config)
    return model.eval()


def test_the_grown_network_computes_the_same_and_learns(tmp_path):
    small = trained(tmp_path / "small")
    sizes = ("--channels", 12, "--heads", 3, "--blocks", 2, "--full", 20, "--squeeze", 12, "--ahead", 2)
    done = run(tmp_path / "small", *sizes, "--out", tmp_path / "large")
    assert done.returncode == 0, done.stderr
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


def test_what_cannot_grow(tmp_path):
    trained(tmp_path / "small")
    done = run(tmp_path / "small", "--channels", 12, "--out", tmp_path / "large")
    assert done.returncode != 0
    assert "heads of 6 channels" in done.stderr
    done = run(tmp_path / "small", "--full", 4, "--out", tmp_path / "large")
    assert "would shrink" in done.stderr
    assert not (tmp_path / "large").exists()
