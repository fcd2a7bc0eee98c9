"""Prediction in latent space: what is drawn, how the average follows, and runs of `audiomask train`."""

import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from small_trainings import ROOT, checkpoint, killed_equals_whole, train
from torch.utils.data import DataLoader

from audiomask.audio import AudioError
from audiomask.frontend.logmel import LogMel
from audiomask.masks.patches.jepa import Curriculum
from audiomask.masks.patches.patterns import Disjoint, InverseBlock, Random, tokens
from audiomask.masks.patches.scored import Dispersion
from audiomask.models.a_jepa import AJepa
from audiomask.models.eat import Eat
from audiomask.tasks.predict import Predict, blocks, varied, views

SHAPE = {"frames": 128, "bands": 64, "width": 16, "depth": 2, "heads": 2}
TINY = {
    "a_jepa": SHAPE | {"predictor_width": 16, "predictor_depth": 2, "predictor_heads": 2},
    "eat": SHAPE | {"decoder_width": 16, "decoder_depth": 2, "groups": 4},
}
GRID = (8, 4)
SAMPLES = 20640  # of 128 frames


def task(name="a_jepa", **options) -> Predict:
    torch.manual_seed(0)
    model = {"a_jepa": AJepa, "eat": Eat}[name](**TINY[name])
    mask = Curriculum(50) if name == "a_jepa" else InverseBlock(size=2)
    return Predict(model, options.pop("mask", mask), LogMel(frames=128, bands=64), **options)


def batch(rows=4, first=7):
    g = torch.Generator().manual_seed(first)
    return {"audio": 0.1 * torch.randn(rows, SAMPLES, generator=g), "seed": torch.arange(rows) + first}


@pytest.mark.parametrize("grid", [(64, 8), (32, 8)])
def test_context_and_targets_are_disjoint_and_their_counts_those_of_the_paper(grid):
    seeds, places = torch.arange(6), grid[0] * grid[1]
    kinds = {3: 0, 4: 0}
    for step in range(60):
        masks = Curriculum(60, step, seed=3).sample(seeds, grid)
        visible, hidden = blocks(masks, seeds)
        assert visible.shape[:2] == (6, 1)
        for row in range(6):
            targets = set(torch.cat([h[row].flatten() for h in hidden]).tolist())
            context = visible[row, 0].tolist()
            assert len(set(context)) == len(context) > 0
            assert not targets & set(context)
            assert not masks[row, 0].flatten()[context].any()
        found = sorted(tuple(r.tolist()) for h in hidden for r in h[2])
        assert found == sorted(tuple(m.flatten().nonzero()[:, 0].tolist()) for m in masks[2, 1:])
        count = sum(h.shape[1] for h in hidden)
        kinds[count] += 1
        sizes = [h.shape[2] for h in hidden for _ in range(h.shape[1])]
        if count == 4:
            assert len(hidden) == 1
            assert 0.13 * places < sizes[0] < 0.22 * places
        else:
            assert all(s % grid[1] == 0 or s == grid[0] for s in sizes)
            assert len({h.shape[2] for h in hidden}) == len(hidden)
    assert min(kinds.values()) > 5


def test_the_curriculum_goes_on_with_the_run(monkeypatch):
    """As often time-frequency-aware as f(s) says; f by the formula of the paper, at the step of the run."""
    run, seen = task(mask=Curriculum(1000)), []
    monkeypatch.setattr(
        run.model, "forward", lambda x, visible, hidden: seen.append(hidden) or {"loss": x.sum()}
    )
    monkeypatch.setattr(run, "log_dict", lambda values, **kwargs: None)
    rows = batch(2)
    for first in (0, 250, 900, 1500):
        seen.clear()
        for step in range(first, first + 100):
            monkeypatch.setattr(Predict, "global_step", step)
            run.training_step(rows, 0)
        aware = np.mean([sum(h.shape[1] for h in hidden) == 3 for hidden in seen])
        wanted = np.mean(
            [min(1, math.sqrt(s * (1 - 0.01**2) / 1000 + 0.01**2)) for s in range(first, first + 100)]
        )
        assert abs(aware - wanted) <= 3 * math.sqrt(wanted * (1 - wanted) / 100) + 1e-9, (
            first,
            aware,
            wanted,
        )


def test_views_are_masks_of_their_own():
    seeds = torch.tensor([3, 2**62, 9])
    visible, (hidden,) = views(Random(0.75), seeds, GRID, 5)
    assert visible.shape == (3, 5, 8)
    assert hidden.shape == (3, 5, 24)
    assert (torch.cat([visible, hidden], 2).sort(2).values == torch.arange(32)).all()
    rows = visible.flatten(0, 1).unique(dim=0)
    assert len(rows) == 15
    alone, _ = views(Random(0.75), seeds[1:2], GRID, 5)
    assert torch.equal(alone[0], visible[1])
    own = Random(0.75).sample(seeds, GRID).flatten(1)
    assert not own.gather(1, visible[:, 0]).any()
    visible, (hidden,) = views(Disjoint(Random(0.75), 4), seeds, GRID, 1)
    assert (visible.flatten(1).sort(1).values == torch.arange(32)).all()
    assert hidden.shape == (3, 4, 24)


def test_rows_are_rolled_and_scaled_by_their_own_seeds():
    x = torch.randn(200, 500)
    seeds = torch.arange(200) + 2**40
    y = varied(x, seeds, 6.0, True)
    gains = 20 * (y.std(1) / x.std(1)).log10()
    assert -6 <= gains.min() < -5.5
    assert 5.5 < gains.max() <= 6
    assert abs(gains.mean()) < 1
    starts = []
    for a, b in zip(x, y / (y.std(1) / x.std(1))[:, None], strict=True):
        at = int((a == b[0]).nonzero()[0]) if (a == b[0]).any() else int((a - b[0]).abs().argmin())
        assert torch.allclose(a.roll(-at), b, atol=1e-5)
        starts.append(at)
    assert len(set(starts)) > 100
    assert torch.equal(varied(x[5:6], seeds[5:6], 6.0, True)[0], y[5])
    assert varied(x, seeds, 0.0, False) is x


@pytest.mark.parametrize("name", ["a_jepa", "eat"])
def test_a_step_is_its_seeds_and_teaches_the_trained_encoder(name, monkeypatch):
    run = task(name, **({} if name == "a_jepa" else {"clones": 3}))
    logged = {}
    monkeypatch.setattr(run, "log_dict", lambda values, **kwargs: logged.update(values))
    run.train()
    first = run.training_step(batch(), 0)
    torch.rand(3)
    assert run.training_step(batch(), 0) == first == logged["train/loss"]
    assert run.training_step(batch(first=8), 0) != first
    assert 0 < logged["train/target_std"] < 1.5
    first.backward()
    for parameter, p in run.model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, parameter


@pytest.mark.parametrize("name", TINY)
def test_validation_draws_the_error_of_each_hidden_patch(name, monkeypatch):
    run, drawn = task(name, shown=1).eval(), {}
    monkeypatch.setattr(run, "log_dict", lambda values, **kwargs: None)
    monkeypatch.setattr(run, "picture", lambda key, x, low, high: drawn.update({key: (x, high)}))
    with torch.no_grad():
        for index in range(2):
            run.validation_step(batch(1), index)
    assert set(drawn) == {"0/original", "0/masked", "0/error"}
    x, mask = run.frontend(batch(1)["audio"]), Random().sample(batch(1)["seed"], GRID)
    visible, hidden = tokens(mask)
    loss = run.model(x, visible[:, None], [hidden[:, None]])
    errors = run.model.errors(x, visible, hidden)
    assert errors.shape == hidden.shape
    mean = loss["loss"] if name == "a_jepa" else loss["patch"] / math.sqrt(SHAPE["width"])
    assert float(errors.mean()) == pytest.approx(float(mean), rel=1e-5)
    picture, white = drawn["0/error"]
    assert torch.allclose(picture[8::16, 8::16][mask[0]], errors[0])
    assert float(white) == pytest.approx(2 * float(errors.mean()))
    cells = (
        (drawn["0/masked"][0] != drawn["0/original"][0]).float().unflatten(0, (8, 16)).unflatten(2, (4, 16))
    )
    assert torch.equal(cells.mean((1, 3)) > 0.5, mask[0])
    assert torch.equal(drawn["0/original"][0], x[0])


def test_validation_has_the_same_masks_each_time(monkeypatch):
    run, logged = task(shown=0), []
    monkeypatch.setattr(run, "log_dict", lambda values, **kwargs: logged.append(values))
    counts = []
    plain = run.model.predict
    monkeypatch.setattr(
        run.model,
        "predict",
        lambda memory, place, hidden: counts.append(hidden.shape[1]) or plain(memory, place, hidden),
    )
    for step in (3, 400):
        torch.manual_seed(step)
        monkeypatch.setattr(Predict, "global_step", step)
        for index in range(4):
            with torch.no_grad():
                run.validation_step(batch(1, index), index)
    assert [values["val/loss"] for values in logged[:4]] == [values["val/loss"] for values in logged[4:]]
    assert len({float(values["val/loss"]) for values in logged}) == 4
    assert counts.count(4) == 4  # two clips twice with 4 random blocks in one group
    assert sum(counts) == 4 * 4 + 4 * 3
    assert set(logged[0]) == {"val/loss"}


def test_the_momentum_rises_linearly_to_its_end():
    run = task("eat", momentum=(0.9, 0.98), momentum_steps=40)
    assert [run.momentum_at(s) for s in (0, 10, 40, 99)] == pytest.approx([0.9, 0.92, 0.98, 0.98])


def test_disagreements_are_refused():
    with pytest.raises(AudioError, match=r"momentum 0.9 to 0.5: want two rising"):
        task(momentum=(0.9, 0.5))
    with pytest.raises(AudioError, match="clones is 2; want 1 or more, and 1 with the curriculum"):
        task(clones=2)
    with pytest.raises(AudioError, match="clones is 0"):
        task("eat", clones=0)
    with pytest.raises(AudioError, match="mask Dispersion needs scores"):
        task(mask=Dispersion())
    with pytest.raises(AudioError, match="frontend has 128 bands"):
        Predict(AJepa(**TINY["a_jepa"]), Curriculum(5), LogMel())


def options(name: str) -> dict:
    return {
        "recipe": ROOT / f"recipes/pretrain/{name}.yaml",
        "data__noise": None, "model__scored": None,
        **{f"model__model__{key}": value for key, value in TINY[name].items()},
        "model__frontend__frames": 128, "model__frontend__bands": 64, "model__warmup": 2,
        "model__momentum_steps": 50, "data__segment": SAMPLES, "model__lr": 3e-3,
        **({"model__mask__init_args__steps": 30} if name == "a_jepa" else
           {"model__mask__init_args__size": 2, "model__clones": 2}),
    }  # fmt: skip


@pytest.mark.timeout(600)
def test_a_run_killed_and_resumed_equals_one_that_was_not(data, tmp_path):
    """Weights, average and all; and the average is that of the recursion over the weights of every step."""
    killed_equals_whole(data, tmp_path, **options("a_jepa"))
    assert (tmp_path / "killed/model/model.safetensors").stat().st_size > 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "whole/tensorboard"))
    events.Reload()
    assert {"val/loss"} <= set(events.Tags()["scalars"])


def tones(step: int, rows: int = 8) -> dict[str, torch.Tensor]:
    """Of any pitch, in a little noise."""
    g, t = torch.Generator().manual_seed(step), torch.arange(SAMPLES) / 16000
    pitch = 200 + 4000 * torch.rand(rows, 1, generator=g)
    noise = 0.003 * torch.randn(rows, SAMPLES, generator=g)
    return {"audio": 0.1 * (2 * torch.pi * pitch * t).sin() + noise, "seed": torch.arange(rows) + 8 * step}


class Watch(pl.Callback):
    """What is logged, and the weights of both encoders after every step."""

    def __init__(self):
        self.losses, self.spreads, self.weights = [], [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.spreads.append(float(trainer.callback_metrics["train/target_std"]))
        pair = [encoder.blocks[1].attn.qkv.weight.detach().clone() for encoder in module.model.encoders()]
        self.weights.append(pair)


def trained(run: Predict, steps: int, accumulate: int = 1) -> Watch:
    """By Lightning's own loop, each batch a new one."""
    watch = Watch()
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, callbacks=[watch], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    trainer.fit(run, DataLoader([tones(step) for step in range(accumulate * steps)], batch_size=None))
    assert trainer.global_step == steps
    return watch


@pytest.mark.parametrize("name", ["a_jepa", "eat"])
def test_the_target_is_the_average_of_the_weights_of_every_step(name):
    """The recursion with a momentum from .5 to .9, where a step has two batches."""
    run = task(name, lr=1e-2, warmup=1, momentum=(0.5, 0.9))
    average = run.model.encoders()[0].blocks[1].attn.qkv.weight.detach().double().clone()
    before = average.clone()
    for batch_index, (follower, leader) in enumerate(trained(run, 5, 2).weights):
        if batch_index % 2:
            momentum = 0.5 + 0.4 * (batch_index // 2) / 5
            average = momentum * average + (1 - momentum) * leader.double()
        assert torch.allclose(follower.double(), average, atol=1e-6), batch_index
    assert not torch.allclose(average, before, atol=1e-3)


@pytest.mark.parametrize("name", ["a_jepa", "eat"])
def test_it_learns_and_the_embeddings_do_not_collapse(name):
    """A-JEPA's predictions of unseen clips are better than the best that knows the place of a patch and
    nothing of the clip: that has a loss of the variance over the clips.
    """
    run = task(name, lr=3e-3, warmup=10, decay=0.0, weight_decay=0.01, momentum=(0.996, 0.996))
    watch = trained(run, {"a_jepa": 300, "eat": 200}[name])
    assert np.mean(watch.losses[-8:]) < 0.3 * np.mean(watch.losses[:8])
    assert np.mean(watch.spreads[-8:]) > 0.1
    if name == "eat":
        return
    known, found = [], []
    for draw in range(4):
        rows = tones(10**6 + draw, 64)
        with torch.no_grad():
            x = run.frontend(rows["audio"])
            places = blocks(Curriculum(10, seed=draw).sample(rows["seed"], GRID), rows["seed"])
            found.append(run.model(x, *places)["loss"])
            known.append(run.model.targets(x).var(0).mean())
    assert sum(found) < 0.85 * sum(known)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["a_jepa", "eat"])
def test_a_compiled_network_trains_in_bfloat16(data, tmp_path, monkeypatch, name):
    """With the C++ that the compiler wrote as the witness that it was there."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    given = options(name) | {"data__steps": 1, "trainer__precision": "bf16-mixed", "model__compile": True}
    train(data, tmp_path / "out", 1, **given)
    assert list((tmp_path / "compiled").rglob("*.cpp"))
    trained = checkpoint(tmp_path / "out")["state_dict"]
    assert set(trained) == {f"model.{key}" for key in task(name).model.state_dict()}
    assert all(value.isfinite().all() for value in trained.values())
