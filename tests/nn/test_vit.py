"""The transformer equals torch's own and timm's, and computes nothing that is hidden."""

import math
from functools import partial

import pytest
import torch
from timm_peer import shaken, timm_transformer
from torch import nn

from audiomask.models.vit_tagger import ViTTagger
from audiomask.nn.vit import Attention, Block, CrossBlock, PostBlock, ViT, drop_path, sincos, take

SMALL = {"frames": 64, "bands": 32, "width": 48, "depth": 3, "heads": 4}


def test_positions_are_those_of_the_formula():
    table = sincos((5, 3), 16)
    assert table.shape == (15, 16)
    for time, freq in ((0, 0), (4, 1), (2, 2)):
        row = table[time * 3 + freq]
        for half, place in ((row[:8], freq), (row[8:], time)):
            for i in range(4):
                angle = place / 10000 ** (i / 4)
                assert half[i] == pytest.approx(math.sin(angle), abs=1e-6)
                assert half[4 + i] == pytest.approx(math.cos(angle), abs=1e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos((2, 2), 6)


def test_patches_are_counted_along_frequency_first():
    model = ViT(**SMALL)
    x = torch.arange(64 * 32.0).reshape(1, 64, 32)
    patches = model.patches(x)
    assert torch.equal(
        patches[0, 3].reshape(16, 16), x[0, 16:32, 16:]
    )  # time 1, frequency 1 of a grid (4, 2)
    assert torch.equal(model.picture(patches), x)


def test_the_embedding_is_the_convolution():
    model = ViT(**SMALL)
    x = torch.randn(2, 64, 32)
    expected = model.patch_embed.proj(x[:, None]).flatten(2).transpose(1, 2)
    assert torch.allclose(model.patch_embed(model.patches(x)), expected, atol=1e-5)


@torch.no_grad()
def test_a_block_is_torchs_pre_norm_layer():
    ours = shaken(Block(48, 4))
    theirs = nn.TransformerEncoderLayer(
        48, 4, 192, 0.0, nn.functional.gelu, 1e-6, batch_first=True, norm_first=True
    ).eval()
    names = {
        "norm1": "norm1", "norm2": "norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "linear1",
        "mlp.fc2": "linear2",
    }  # fmt: skip
    state = {}
    for key, value in ours.state_dict().items():
        module, _, kind = key.rpartition(".")
        state[f"self_attn.in_proj_{kind}" if module == "attn.qkv" else f"{names[module]}.{kind}"] = value
    theirs.load_state_dict(state)
    x = torch.randn(2, 7, 48)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@torch.no_grad()
def test_a_cross_block_is_attention_to_the_memory():
    block = shaken(CrossBlock(48, 4))
    theirs = nn.MultiheadAttention(48, 4, batch_first=True)
    theirs.load_state_dict({
        "in_proj_weight": torch.cat([block.q.weight, block.kv.weight]),
        "in_proj_bias": torch.cat([block.q.bias, block.kv.bias]),
        "out_proj.weight": block.proj.weight, "out_proj.bias": block.proj.bias,
    })  # fmt: skip
    x, memory = torch.randn(2, 5, 48), torch.randn(2, 9, 48)
    y = x + theirs(block.norm1(x), memory, memory)[0]
    assert torch.allclose(block(x, memory), y + block.mlp(block.norm2(y)), atol=1e-5)


@torch.no_grad()
def test_a_post_block_is_torchs_post_norm_layer():
    ours = shaken(PostBlock(48, 4))
    attention = nn.MultiheadAttention(48, 4, batch_first=True)
    attention.load_state_dict({
        "in_proj_weight": ours.attn.qkv.weight, "in_proj_bias": ours.attn.qkv.bias,
        "out_proj.weight": ours.attn.proj.weight, "out_proj.bias": ours.attn.proj.bias,
    })  # fmt: skip
    x = torch.randn(2, 7, 48)
    y = ours.norm1(x + attention(x, x, x)[0])
    added = ours.mlp(y)
    for found, wanted in zip(ours.both(x), (ours.norm2(y + added), added), strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.equal(ours(x), ours.both(x)[0])


@torch.no_grad()
def test_suppressed_tokens_are_no_keys():
    """Attention written out, with weights that are 0 where nobody may attend."""
    layer = shaken(Attention(48, 4))
    x = torch.randn(2, 7, 48)
    keys = torch.tensor([[1, 1, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1, 1]]).bool()
    q, k, v = layer.qkv(x).reshape(2, 7, 3, 4, 12).permute(2, 0, 3, 1, 4)
    weight = (q @ k.mT / 12**0.5).exp() * keys[:, None, None]
    expected = layer.proj((weight / weight.sum(-1, keepdim=True) @ v).transpose(1, 2).reshape(2, 7, 48))
    assert torch.allclose(layer(x, keys[:, None, None]), expected, atol=1e-5)
    assert torch.allclose(layer(x, torch.ones(2, 1, 1, 7).bool()), layer(x), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("post_norm", [False, True])
def test_a_suppressed_patch_changes_itself_alone(post_norm):
    model = shaken(ViT(**SMALL, post_norm=post_norm))
    x = torch.randn(1, 64, 32)
    other = x.clone()
    other[:, 16:32, :16] += 1  # patch 2
    keys = torch.arange(8)[None] != 2
    a, b = model.encode(x, None, keys), model.encode(other, None, keys)
    changed = ((a - b).abs().amax(2) > 1e-6)[0].nonzero().flatten().tolist()
    assert changed == [3]  # after the cls token, which attends to it no more than the others
    assert ((model.encode(x) - model.encode(other)).abs().amax(2) > 1e-6).all()
    model.cls_token += torch.randn_like(model.cls_token)
    assert ((model.encode(x, None, keys) - a).abs().amax(2) > 1e-6).all()  # it is attended to by all


@torch.no_grad()
def test_views_of_a_clip_are_rows():
    model = shaken(ViT(**SMALL))
    x = torch.randn(2, 64, 32)
    visible = torch.stack([torch.stack([torch.randperm(8)[:3] for _ in range(4)]) for _ in range(2)])
    rows = model.encode(x, visible).unflatten(0, (2, 4))
    for r in range(4):
        assert torch.allclose(rows[:, r], model.encode(x, visible[:, r]), atol=1e-5)


@torch.no_grad()
def test_hidden_patches_are_neither_computed_nor_seen():
    model = shaken(ViT(**SMALL))
    x = torch.randn(2, 64, 32)
    visible = torch.tensor([[0, 3, 6], [1, 2, 7]])
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, y: sizes.append(inputs[0].shape[1]))
    model.patch_embed.register_forward_hook(lambda module, inputs, y: sizes.append(inputs[0].shape[1]))
    y = model.encode(x, visible)
    assert y.shape == (2, 4, 48)
    assert sizes == [3, 4, 4, 4]  # patches, then tokens with the cls token
    patches = model.patches(x)
    hidden = torch.ones(2, 8, dtype=torch.bool).scatter(1, visible, False)
    other = model.picture(torch.where(hidden[:, :, None], torch.randn_like(patches), patches))
    assert torch.equal(model.encode(other, visible), y)
    assert not torch.allclose(model.encode(x, visible.flip(0)), y)


@torch.no_grad()
def test_all_visible_in_any_order_is_the_whole():
    model = shaken(ViT(**SMALL))
    x = torch.randn(2, 64, 32)
    order = torch.stack([torch.randperm(8) for _ in range(2)])
    whole = model.encode(x)
    assert torch.allclose(model.encode(x, order)[:, 1:], take(whole[:, 1:], order), atol=1e-5)


@torch.no_grad()
def test_clips_of_other_lengths_have_the_same_positions():
    """Where a clip is longer than the table, as a model made for its length would have it."""
    short, long = ViT(**SMALL), ViT(**SMALL | {"frames": 160})
    shaken(long).load_state_dict({**shaken(short).state_dict(), "pos_embed": long.pos_embed})
    for frames in (16, 48, 160):
        x = torch.randn(1, frames, 32)
        assert torch.allclose(short.encode(x), long.encode(x), atol=1e-5)
    short.pos_embed += torch.randn_like(short.pos_embed)  # learned ones, say
    short.encode(torch.randn(1, 48, 32))
    with pytest.raises(ValueError, match="positions of their own, for 4"):
        short.encode(torch.randn(1, 160, 32))


def test_what_is_no_spectrogram_of_whole_patches_is_refused():
    model = ViT(**SMALL)
    for shape in ((1, 60, 32), (1, 64, 40), (64, 32), (1, 0, 32)):
        with pytest.raises(ValueError, match="need"):
            model.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="multiples of the patch"):
        ViT(frames=100)
    with pytest.raises(ValueError, match="heads"):
        Block(48, 5)


def test_dropped_paths_keep_the_mean_and_rise_with_depth():
    torch.manual_seed(0)
    x = torch.ones(20000, 1, 1)
    y = drop_path(x, 0.3, True)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert drop_path(x, 0.3, False) is x
    assert [block.drop for block in ViT(**SMALL, drop_path=0.1).blocks] == pytest.approx([0, 0.05, 0.1])


@pytest.mark.peer
@torch.no_grad()
@pytest.mark.parametrize(
    "size", [{"width": 384, "depth": 12, "heads": 6}, {"width": 768, "depth": 12, "heads": 12}]
)
def test_equals_timm_both_ways(size):
    theirs = timm_transformer()(
        img_size=(1024, 128), in_chans=1, num_classes=527, global_pool="avg", embed_dim=size["width"],
        depth=size["depth"], num_heads=size["heads"], norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    ours = shaken(ViTTagger(527, **size), by=0.02)
    x = torch.randn(1, 1024, 128)
    missing = theirs.load_state_dict(ours.state_dict(), strict=True)
    assert not missing.missing_keys
    a, b = ours(x), theirs.eval()(x[:, None])
    assert (a - b).abs().max() < 1e-5 * b.abs().max().clamp_min(1)
    shaken(theirs, 1, 0.02)
    ours.load_state_dict(theirs.state_dict())
    a, b = ours(x), theirs(x[:, None])
    assert (a - b).abs().max() < 1e-5 * b.abs().max().clamp_min(1)
    tokens = theirs.forward_features(x[:, None])
    a = ours.encode(x)
    assert (a - tokens).abs().max() < 1e-5 * tokens.abs().max()
