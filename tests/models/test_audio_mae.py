"""Audio-MAE has the published sizes, reconstructs what is hidden from what is not, and takes the authors'
files."""

import argparse

import pytest
import torch
from patch_mask import Plain
from timm_peer import shaken
from torch import nn

from audiomask import checkpoints, weights
from audiomask.checkpoints import CheckpointError
from audiomask.cli import main
from audiomask.masks.patches.patterns import tokens
from audiomask.models.audio_mae import SIZES, AudioMae, normalised
from audiomask.models.vit_tagger import ViTTagger, begin_from

TINY = {
    "frames": 64, "bands": 32, "width": 64, "depth": 2, "heads": 1,
    "decoder_width": 32, "decoder_depth": 3, "decoder_heads": 2,
}  # fmt: skip
DECODERS = ("window", "global", "cross", "cross mixes")


def count(model: nn.Module, *prefixes: str) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(prefixes or ("",)))


def tiny(decoder: str = "window", **changes) -> AudioMae:
    torch.manual_seed(0)
    kind, _, mixes = decoder.partition(" ")
    return shaken(AudioMae(decoder=kind, mixes=bool(mixes), **TINY | changes), by=0.05)


def test_published_sizes():
    assert count(ViTTagger(527, **SIZES["B"])) == 85_659_407
    with torch.device("meta"):
        base = AudioMae()
    decoder = count(base, "decoder_", "mask_token")
    assert count(base) - decoder == 85_254_144  # about 85 M
    assert decoder == 51_081_984  # about 51 M
    assert len(base.decoder_blocks) == 16
    assert [block.shift for block in base.decoder_blocks] == [(0, 0), (2, 0)] * 8
    assert base.grid == (64, 8)


@torch.no_grad()
@pytest.mark.parametrize("size", ["S", "L"])
def test_the_other_sizes(size):
    with torch.device("meta"):
        model = ViTTagger(527, **SIZES[size])
    assert count(model) == {"S": 21_596_303, "L": 303_115_791}[size]


def test_a_mask_is_split_into_indices():
    mask = Plain(0.5).sample(torch.arange(5), (4, 3))
    visible, hidden = tokens(mask)
    assert visible.shape == hidden.shape == (5, 6)
    flat = mask.flatten(1)
    assert not flat.gather(1, visible).any()
    assert flat.gather(1, hidden).all()
    assert (visible.diff() > 0).all()
    with pytest.raises(ValueError, match="hides 5 to 6 of 12"):
        tokens(torch.cat([mask, Plain(5 / 12).sample(torch.arange(1), (4, 3))]))
    for full in (mask | True, mask & False):
        with pytest.raises(ValueError, match="neither all nor none"):
            tokens(full)


@torch.no_grad()
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("frames", [64, 48, 112])
def test_guesses_depend_on_what_is_visible_alone(decoder, frames):
    model = tiny(decoder)
    x = torch.randn(3, frames, 32)
    mask = Plain().sample(torch.arange(3), model.grid_of(x))
    visible, hidden = tokens(mask)
    guess, target = model(x, visible, hidden)
    assert guess.shape == target.shape == (3, hidden.shape[1], 256)
    patches = model.patches(x)
    other = model.picture(torch.where(mask.flatten(1)[:, :, None], torch.randn_like(patches), patches))
    again, changed = model(other, visible, hidden)
    assert torch.equal(again, guess)
    assert not torch.allclose(changed, target)
    alone, _ = model(x[1:2], visible[1:2], hidden[1:2])
    assert torch.allclose(alone, guess[1:2], atol=1e-5)
    seen = model.patches(x).clone()
    seen[0, visible[0, 0]] += 1
    moved, _ = model(model.picture(seen), visible, hidden)
    assert (moved[0] != guess[0]).any()
    assert torch.equal(moved[1:], guess[1:])


def test_targets_are_normalised_patches():
    model = tiny()
    x = 3 * torch.randn(2, 64, 32) + 5
    visible, hidden = tokens(Plain().sample(torch.arange(2), (4, 2)))
    _, target = model(x, visible, hidden)
    n = int(hidden[1, 2])
    time, freq = divmod(n, 2)
    patch = x[1, 16 * time : 16 * time + 16, 16 * freq : 16 * freq + 16].flatten()
    assert torch.allclose(target[1, 2], (patch - patch.mean()) / (patch.var() + 1e-6).sqrt(), atol=1e-5)
    assert torch.equal(normalised(torch.full((1, 4), 2.0)), torch.zeros(1, 4))


@torch.no_grad()
@pytest.mark.parametrize("decoder", ["cross", "cross mixes"])
def test_crossmae_guesses_any_part_alike(decoder):
    model = tiny(decoder)
    x = torch.randn(2, 64, 32)
    visible, hidden = tokens(Plain().sample(torch.arange(2), (4, 2)))
    whole, _ = model(x, visible, hidden)
    part, target = model(x, visible, hidden[:, 1:4])
    assert torch.allclose(part, whole[:, 1:4], atol=1e-5)
    assert target.shape == (2, 3, 256)


@torch.no_grad()
def test_the_window_decoder_is_its_parts_in_the_published_order():
    """Tokens put back in their places by hand, the cls token dropped."""
    model = tiny()
    x = torch.randn(1, 64, 32)
    visible, hidden = tokens(Plain().sample(torch.tensor([3]), (4, 2)))
    seen = model.decoder_embed(model.norm(model.encode(x, visible)))[0, 1:]
    places = [model.mask_token[0, 0]] * 8
    for index, token in zip(visible[0].tolist(), seen, strict=True):
        places[index] = token
    y = torch.stack(places)[None] + model.decoder_pos_embed[:, 1:]
    for block in model.decoder_blocks:
        y = block(y, (4, 2))
    expected = model.decoder_pred(model.decoder_norm(y))[0, hidden[0]]
    assert torch.allclose(model(x, visible, hidden)[0][0], expected, atol=1e-5)


@torch.no_grad()
def test_each_cross_block_reads_a_mix_of_its_own():
    """Layer by layer, and the mixes by loops."""
    model = tiny("cross mixes")
    x = torch.randn(1, 64, 32)
    visible, hidden = tokens(Plain().sample(torch.tensor([3]), (4, 2)))
    layers = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, y: layers.append(y))
    guess, _ = model(x, visible, hidden)
    assert torch.equal(layers[-1], model.encode(x, visible))
    weights = model.decoder_mixes.weight
    assert weights.shape == (3, 2)
    y = model.mask_token + model.decoder_pos_embed[:, 1:][:, hidden[0]]
    for j, block in enumerate(model.decoder_blocks):
        mix = sum(float(weights[j, i]) * layers[i] for i in range(2))
        mix = (mix - mix.mean(2, keepdim=True)) / (mix.var(2, correction=0, keepdim=True) + 1e-6).sqrt()
        norm = model.decoder_norms[j]
        y = block(y, mix * norm.weight + norm.bias)
    assert torch.allclose(guess, model.decoder_pred(model.decoder_norm(y)), atol=1e-4)


def test_mixes_are_for_the_cross_decoder_and_counted():
    with pytest.raises(ValueError, match="mixes are for the decoder 'cross'"):
        AudioMae(mixes=True, **TINY)
    with torch.device("meta"):
        for mixes, number in ((True, 41_125_776), (False, 38_355_200)):
            model = AudioMae(decoder="cross", decoder_depth=12, mixes=mixes)
            assert count(model, "decoder_", "mask_token") == number
            assert model.decoder_blocks[3].kv.weight.shape == (1024, 768 if mixes else 512)


@torch.no_grad()
def test_pictures():
    model = tiny()
    x = 2 * torch.randn(2, 64, 32) + 1
    visible, hidden = tokens(Plain().sample(torch.arange(2), (4, 2)))
    _, target = model(x, visible, hidden)
    assert torch.allclose(model.restored(x, target, hidden), x, atol=1e-4)  # guessed right
    masked = model.hide(x, hidden, -9.0)
    assert ((masked == -9).sum((1, 2)) == 256 * hidden.shape[1]).all()
    assert torch.equal(masked[masked != -9], x[masked != -9])


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_learns(decoder):
    model = tiny(decoder).train()
    visible, hidden = tokens(Plain().sample(torch.arange(2), (4, 2)))
    guess, target = model(torch.randn(2, 64, 32), visible, hidden)
    (guess - target).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.any(), name


@torch.no_grad()
def test_bfloat16_is_near():
    for decoder in DECODERS:
        model = tiny(decoder)
        visible, hidden = tokens(Plain().sample(torch.arange(2), (4, 2)))
        x = torch.randn(2, 64, 32)
        guess, _ = model(x, visible, hidden)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near, target = model(x, visible, hidden)
        assert target.dtype == torch.float32
        assert (near - guess).abs().max() < 0.1 * guess.abs().max()


# --- checkpoints --------------------------------------------------------------------------------------------


def released(model: nn.Module) -> dict:
    """A file as the authors' training leaves it."""
    return {
        "model": model.state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 32,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(mask_ratio=0.8, decoder_mode=1),
    }


PUBLISHED = {
    "cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias",
    "mask_token", "decoder_embed.weight", "decoder_embed.bias", "decoder_pos_embed", "decoder_norm.weight",
    "decoder_norm.bias", "decoder_pred.weight", "decoder_pred.bias",
    *(f"blocks.1.{m}.{k}" for m in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
      for k in ("weight", "bias")),
    *(f"decoder_blocks.2.{m}.{k}" for m in ("attn.meta_mlp.fc1", "attn.meta_mlp.fc2", "attn.qkv", "attn.proj",
      "norm1", "norm2", "mlp.fc1", "mlp.fc2") for k in ("weight", "bias")), "decoder_blocks.2.attn.tau",
}  # fmt: skip


def test_keys_are_the_published_ones():
    names = set(tiny().state_dict())
    assert {n.replace("s.0.", "s.2.").replace("s.1.", "s.2.") for n in names if n.startswith("decoder_")} == {
        n for n in PUBLISHED if n.startswith("decoder_")
    }
    assert {n.replace("blocks.0.", "blocks.1.") for n in names if not n.startswith("decoder_")} == {
        n for n in PUBLISHED if not n.startswith("decoder_")
    }


@torch.no_grad()
@pytest.mark.parametrize("decoder", ["window", "global"])
def test_a_released_file_is_imported(tmp_path, capsys, decoder):
    changes = {"bands": 128} | ({} if decoder == "window" else {"decoder_width": 64, "decoder_heads": 16})
    model = tiny(decoder, **changes)
    torch.save(released(model), tmp_path / "pretrained.pth")
    command = ["import", "audio_mae", str(tmp_path / "pretrained.pth")]
    assert main([*command, "--weights", str(tmp_path / "exp")]) == 0
    assert "CC-BY-NC" in capsys.readouterr().out
    ours, config = weights.load(tmp_path / "exp")
    assert config["init_args"]["decoder"] == decoder
    x = torch.randn(1, 64, 128)
    visible, hidden = tokens(Plain().sample(torch.tensor([1]), (4, 8)))
    assert torch.equal(ours(x, visible, hidden)[0], model(x, visible, hidden)[0])
    assert main([*command, "-o", str(tmp_path / "a.onnx")]) == 2
    assert "has no ONNX file; give --weights" in capsys.readouterr().err
    assert main(command) == 2
    assert "nothing to write" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "exp"), "-o", str(tmp_path / "a.onnx")]) == 1
    assert "no ports" in capsys.readouterr().err


def test_a_fine_tuned_file_is_imported_as_a_tagger(tmp_path):
    torch.manual_seed(0)
    model = ViTTagger(5, frames=64, bands=128, width=64, depth=2, heads=1)
    torch.save(released(model), tmp_path / "tuned.pth")
    ours, config, _ = checkpoints.load("vit_tagger", [tmp_path / "tuned.pth"])
    assert weights.part_configs(config)[""]["class_path"] == "audiomask.models.tagger.Tagger"
    assert config["init_args"] == {
        "classes": 5, "frames": 64, "bands": 128, "patch": 16, "width": 64, "depth": 2, "heads": 1,
    }  # fmt: skip
    x = torch.randn(1, 64, 128)
    assert torch.equal(ours(x), model(x))
    with pytest.raises(CheckpointError, match="take the family vit_tagger"):
        checkpoints.load("audio_mae", [tmp_path / "tuned.pth"])


@torch.no_grad()
def test_an_encoder_goes_over_and_the_head_stays():
    mae = tiny(bands=128)
    model = ViTTagger(5, frames=32, bands=128, width=64, depth=2, heads=1)
    head = model.head.weight.clone()
    begin_from(model, mae.state_dict())
    x = torch.randn(1, 32, 128)
    assert torch.allclose(model.encode(x), mae.encode(x), atol=1e-5)
    assert torch.equal(model.head.weight, head)
    with pytest.raises(ValueError, match=r"cls_token: shape \(1, 1, 64\), here \(1, 1, 128\)|here"):
        begin_from(ViTTagger(5, frames=32, bands=128, width=128, depth=2, heads=1), mae.state_dict())
    learned = mae.state_dict()
    learned["pos_embed"] = torch.randn_like(learned["pos_embed"])
    with pytest.raises(
        ValueError, match="positions of its own, for 32 patches; make the model for as many, not 16"
    ):
        begin_from(model, learned)
    same = ViTTagger(5, frames=64, bands=128, width=64, depth=2, heads=1)
    begin_from(same, learned)
    assert torch.equal(same.pos_embed, learned["pos_embed"])
    with pytest.raises(ValueError, match="not weights of this encoder"):
        begin_from(ViTTagger(5, frames=32, bands=128, width=64, depth=3, heads=1), mae.state_dict())
