"""Training by recipe: the schedule, and a run killed and resumed ends where an uninterrupted one does."""

import itertools

import inline
import pytest
import torch
from training import ROOT, SIEVE, checkpoint, train, train_and_kill

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.simulate import Degrade
from audiomask.losses import PESQLoss, WeightedSum
from audiomask.models.sieve import Sieve
from audiomask.tasks.enhance import Batches, Enhance, warmup_stable_decay


def test_schedule_warms_up_stays_and_falls():
    factor = [warmup_stable_decay(s, 10, 100, 0.25) for s in range(101)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[9:75] == [1.0] * 66
    assert all(a >= b for a, b in itertools.pairwise(factor[75:]))
    assert factor[100] == pytest.approx(0.01)
    assert warmup_stable_decay(500, 10, 100, 0.25) == pytest.approx(0.01)


def test_batches_go_on_from_the_step_and_are_shared_out_among_processes():
    assert list(Batches(5, 2, lambda: 0)) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert list(Batches(5, 2, lambda: 7)) == [
        [14, 15],
        [16, 17],
        [18, 19],
    ]  # in the middle of the second epoch
    one = list(Batches(5, 4, lambda: 7))
    two = [list(Batches(5, 2, lambda: 7, rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == one


@pytest.mark.timeout(600)
def test_a_run_killed_and_resumed_equals_one_that_was_not(data, tmp_path):
    out = tmp_path / "killed"
    options = {"model__mask_input": 0.2, "model__mask_attention": 0.2}  # drawn anew in every step
    steps = train_and_kill(data, out, **options) + 6
    train(data, out, steps, **options)
    train(data, tmp_path / "whole", steps, **options)

    whole, resumed = checkpoint(tmp_path / "whole"), checkpoint(out)
    assert whole["global_step"] == resumed["global_step"] == steps
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for kind in ("model/config.json", "model/model.safetensors", "config.yaml", "run.json"):
        assert (out / kind).stat().st_size > 0


def test_the_medium_model_trains_on_from_grown_weights(data, tmp_path):
    small = {"channels": 8, "bands": 8, "blocks": 1, "heads": 2, "full": 8, "squeeze": 8}
    torch.manual_seed(0)
    config = {"class_path": "audiomask.models.sieve.Sieve", "init_args": small}
    weights.save(tmp_path / "small", Sieve(**small), config)
    large = {"channels": 12, "heads": 3, "full": 16, "squeeze": 12, "blocks": 2, "ahead": 2}
    sizes = [part for key, value in large.items() for part in (f"--{key}", str(value))]
    inline.run(
        ROOT / "tools/grow_sieve.py", tmp_path / "small", *sizes, "--out", tmp_path / "grown"
    ).check_returncode()

    options = {f"model__model__{key}": value for key, value in (small | large).items()}
    options |= {"recipe": ROOT / "recipes/denoise/sieve_medium.yaml", "model__start_from": tmp_path / "grown"}
    train(data, tmp_path / "run", 3, **options)
    before, after = (dict(weights.load(tmp_path / f)[0].named_parameters()) for f in ("grown", "run/model"))
    far = [float((after[name] - value).abs().max()) for name, value in before.items()]
    assert 0 < max(far) < 1e-3  # it has learned something, and began where it was told


def test_a_loss_for_another_rate_is_refused():
    sum_ = WeightedSum({"pesq": PESQLoss()})
    with pytest.raises(AudioError, match="loss pesq is for 16000 Hz and the model runs at 48000 Hz"):
        Enhance(Sieve(48000, channels=8, bands=8, heads=2), sum_, Degrade(48000, 48000))


def test_unknown_keys_and_missing_recipes_are_errors(tmp_path):
    missing = inline.run("train", "no.yaml")
    assert missing.returncode == 2
    assert "no.yaml: no such recipe" in missing.stderr
    unknown = inline.run("train", SIEVE, "--model.colour", "red", "--out", tmp_path / "x")
    assert unknown.returncode == 2
    assert "colour" in unknown.stderr
    assert not (tmp_path / "x").exists()
