"""A-JEPA has its sizes, predicts from the context alone, and is scored against the average encoder."""

import math

import pytest
import torch
from timm_peer import shaken
from torch.nn import functional as F

from audiomask import weights
from audiomask.masks.patches.jepa import Curriculum
from audiomask.models.a_jepa import AJepa
from audiomask.models.audio_mae import SIZES
from audiomask.models.vit_tagger import ViTTagger, begin_from
from audiomask.tasks.predict import blocks

TINY = {
    "frames": 128, "bands": 64, "width": 32, "depth": 2, "heads": 2,
    "predictor_width": 24, "predictor_depth": 2, "predictor_heads": 2,
}  # fmt: skip
GRID = (8, 4)


def tiny(**changes) -> AJepa:
    torch.manual_seed(0)
    return shaken(AJepa(**TINY | changes), by=0.05)


def drawn(rows: int = 3, step: int = 0, seed: int = 0):
    seeds = torch.arange(rows) + 5
    return blocks(Curriculum(100, step, seed=seed).sample(seeds, GRID), seeds)


@pytest.mark.parametrize(
    ("size", "encoder", "predictor"),
    [("S", 21_393_408, 50_833_792), ("B", 85_254_144, 51_227_392), ("L", 302_575_616, 51_489_792)],
)
def test_sizes(size, encoder, predictor):
    """Of the docstring, which are those of a count by hand."""
    with torch.device("meta"):
        model = AJepa(**SIZES[size])
    parameters = dict(model.named_parameters())
    trained = {name: p.numel() for name, p in parameters.items() if p.requires_grad}
    assert sum(n for name, n in trained.items() if name.startswith("context.")) == encoder
    assert sum(n for name, n in trained.items() if not name.startswith("context.")) == predictor
    assert sum(p.numel() for p in parameters.values() if not p.requires_grad) == encoder
    assert {name.removeprefix("context.") for name in trained if name.startswith("context.")} == {
        name for name, p in parameters.items() if not p.requires_grad
    }
    w, p = SIZES[size]["width"], 512
    block = 12 * p * p + 13 * p
    assert predictor == (w * p + p) + p + 16 * block + 2 * p + (p * w + w)
    assert encoder == w + (256 * w + w) + SIZES[size]["depth"] * (12 * w * w + 13 * w) + 2 * w


def test_the_target_begins_as_the_context_encoder():
    model = AJepa(**TINY)
    for name, p in model.context.named_parameters():
        assert torch.equal(p, model.get_parameter(name)), name
    assert model.context.blocks[0].attn.qkv.weight.any()


@torch.no_grad()
@pytest.mark.parametrize("step", [0, 100])
def test_the_loss_is_that_of_its_formula(step):
    """Clip by clip and block by block, with every part written out."""
    model = tiny()
    x = torch.randn(3, 128, 64)
    visible, hidden = drawn(step=step, seed=step)
    each = []
    for group in hidden:
        for k in range(group.shape[1]):
            clips = []
            for b in range(3):
                whole = model.norm(model.encode(x[b : b + 1]))[0, 1:]
                target = (whole - whole.mean(1, keepdim=True)) / (
                    whole.var(1, keepdim=True, correction=0) + 1e-5
                ).sqrt()
                seen, block = visible[b, 0], group[b, k]
                context = model.context.norm(model.context.encode(x[b : b + 1], seen[None]))[0, 1:]
                place = model.predictor_pos_embed[0, 1:]
                y = torch.cat(
                    [model.predictor_embed(context) + place[seen], model.mask_token[0] + place[block]]
                )
                for layer in model.predictor_blocks:
                    y = layer(y[None])[0]
                guess = model.predictor_proj(model.predictor_norm(y))[len(seen) :]
                clips.append((guess - target[block]).square().mean())
            each.append(torch.stack(clips).mean())
    assert len(each) == (3 if step else 4)
    found = model(x, visible, hidden)
    assert found["loss"].item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)
    targets = F.layer_norm(model.features(x)[:, 1:], (32,))
    assert found["target_std"].item() == pytest.approx(targets.std(0, correction=0).mean().item(), rel=1e-5)


def test_gradients_flow_where_they_should():
    model = tiny().train()
    visible, hidden = drawn()
    model(torch.randn(3, 128, 64), visible, hidden)["loss"].backward()
    for name, p in model.named_parameters():
        if name.startswith(("context.", "predictor_", "mask_token")):
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            assert p.grad.any(), name
        else:
            assert p.grad is None, name


@torch.no_grad()
def test_what_is_outside_the_context_reaches_the_targets_alone():
    model = tiny()
    x = torch.randn(3, 128, 64)
    visible, hidden = drawn()
    seen, sizes = [], []
    model.predictor_proj.register_forward_hook(lambda module, inputs, y: seen.append(y))
    for block in model.context.blocks:
        block.register_forward_hook(lambda module, inputs, y: sizes.append(y.shape[:2]))
    first = model(x, visible, hidden)["loss"]
    patches = model.patches(x)
    outside = torch.ones(3, 32, dtype=torch.bool).scatter(1, visible[:, 0], False)
    other = model.picture(torch.where(outside[:, :, None], torch.randn_like(patches), patches))
    second = model(other, visible, hidden)["loss"]
    assert torch.equal(seen[0], seen[1])
    assert first != second
    assert sizes == [(3, 1 + visible.shape[2])] * 4  # the context once, whatever the number of blocks


@torch.no_grad()
def test_blocks_do_not_see_each_other_and_views_are_their_own():
    model = tiny()
    x = torch.randn(2, 128, 64)
    visible, hidden = drawn(2)
    whole = model(x, visible, hidden)["loss"]
    parts = [model(x, visible, [hidden[0][:, k : k + 1]])["loss"] for k in range(4)]
    assert torch.allclose(whole, torch.stack(parts).mean(), rtol=1e-5)
    views = visible.repeat(1, 4, 1)
    assert torch.allclose(model(x, views, hidden)["loss"], whole, rtol=1e-5)
    views = torch.cat([visible, visible.flip(0)], 1)
    pairs = [hidden[0][:, :2]]
    own = [model(x, views[:, k : k + 1], [hidden[0][:, k : k + 1]])["loss"] for k in range(2)]
    assert torch.allclose(model(x, views, pairs)["loss"], torch.stack(own).mean(), rtol=1e-5)


@torch.no_grad()
def test_bfloat16_is_near():
    model = tiny()
    x, (visible, hidden) = torch.randn(3, 128, 64), drawn()
    with torch.autocast("cpu", torch.bfloat16):
        near = model(x, visible, hidden)
    exact = model(x, visible, hidden)
    assert near["loss"].dtype == torch.float32
    assert near["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.02)
    assert near["loss"] != exact["loss"]


@torch.no_grad()
def test_a_tagger_begins_with_the_target_encoder(tmp_path):
    model = tiny()
    assert not torch.allclose(model.norm.weight, model.context.norm.weight)
    config = {"class_path": "audiomask.models.a_jepa.AJepa", "init_args": TINY}
    loaded, _ = weights.load(weights.save(tmp_path, model, config))
    tagger = ViTTagger(3, frames=128, bands=64, width=32, depth=2, heads=2)
    begin_from(tagger, loaded.state_dict())
    x = torch.randn(2, 128, 64)
    assert torch.equal(tagger.encode(x), model.encode(x))
    assert not torch.allclose(tagger.encode(x), model.context.encode(x), atol=1e-3)


@torch.no_grad()
def test_longer_clips_have_their_places():
    short, long = tiny(), tiny(frames=256)
    x, (visible, hidden) = torch.randn(3, 256, 64), drawn()
    assert math.isclose(short(x, visible, hidden)["loss"], long(x, visible, hidden)["loss"], rel_tol=1e-5)
