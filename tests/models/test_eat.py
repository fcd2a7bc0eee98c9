"""EAT has the published size, predicts the average of its layers, and the whole clip from the cls token."""

import numpy as np
import pytest
import torch
from timm_peer import shaken

from audiomask import weights
from audiomask.masks.patches.patterns import InverseBlock
from audiomask.models.audio_mae import SIZES
from audiomask.models.eat import ConvDecoder, Eat
from audiomask.models.vit_tagger import ViTTagger, begin_from
from audiomask.tasks.predict import views

TINY = {
    "frames": 128, "bands": 64, "width": 32, "depth": 3, "heads": 2,
    "decoder_width": 32, "decoder_depth": 2, "groups": 4,
}  # fmt: skip
GRID = (8, 4)


def tiny(**changes) -> Eat:
    torch.manual_seed(0)
    return shaken(Eat(**TINY | changes), by=0.05)


def drawn(rows: int = 2, clones: int = 3):
    return views(InverseBlock(size=2), torch.arange(rows) + 5, GRID, clones)


def norm(x: np.ndarray, axis: int, eps: float) -> np.ndarray:
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps)


def test_sizes():
    with torch.device("meta"):
        base, large = Eat(**SIZES["B"]), Eat(**SIZES["L"], decoder_width=1024, decoder_depth=3, kernel=5)
    for model, encoder, decoder, total in (
        (base, 85_254_144, 6 * (768 * 48 * 9 + 768) + 768 * 769, 87_840_000),  # 88 M
        (large, 302_575_616, 3 * (1024 * 64 * 25 + 1024) + 1024 * 1025, 308_543_488),  # 309 M
    ):
        trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
        assert sum(trained.values()) == total == encoder + decoder
        assert sum(n for name, n in trained.items() if name.startswith("decoder.")) == decoder
        assert sum(p.numel() for p in model.target.parameters()) == encoder
        assert not any(p.requires_grad for p in model.target.parameters())


@torch.no_grad()
def test_targets_are_the_layers_average():
    """Layer by layer in numpy, from what torch's own post-norm layers do."""
    model = tiny()
    x = torch.randn(2, 128, 64)
    encoder = model.target
    place = torch.cat([encoder.cls_token[0] * 0, encoder.pos_embed[0, 1:]])
    patches = encoder.patch_embed.proj(x[:, None]).flatten(2).transpose(1, 2)
    tokens = torch.cat([encoder.cls_token.expand(2, -1, -1), patches], 1) + place
    tokens, layers = encoder.norm_pre(tokens), []
    for block in encoder.blocks:
        theirs = torch.nn.TransformerEncoderLayer(
            32, 2, 128, 0.0, torch.nn.functional.gelu, 1e-6, batch_first=True
        ).eval()
        ours = block.state_dict()
        names = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "self_attn.out_proj", "attn.qkv": "",
                 "mlp.fc1": "linear1", "mlp.fc2": "linear2"}  # fmt: skip
        theirs.load_state_dict({
            f"self_attn.in_proj_{kind}" if part == "attn.qkv" else f"{names[part]}.{kind}": value
            for key, value in ours.items() for part, _, kind in [key.rpartition(".")]
        })  # fmt: skip
        middle = theirs.norm1(tokens + theirs.self_attn(tokens, tokens, tokens)[0])
        layers.append(theirs.linear2(torch.nn.functional.gelu(theirs.linear1(middle))).numpy()[:, 1:])
        tokens = theirs(tokens)
    assert torch.allclose(encoder.encode(x), tokens, atol=1e-5)
    expected = norm(np.mean([norm(layer, 1, 1e-5) for layer in layers], 0), 2, 1e-5)
    assert np.allclose(model.targets(x).numpy(), expected, atol=1e-4)


@torch.no_grad()
def test_the_loss_is_that_of_its_formula():
    model = tiny(utterance=0.7)
    x, (visible, (hidden,)) = torch.randn(2, 128, 64), drawn()
    targets, patch, utterance = model.targets(x), [], []
    for b in range(2):
        for r in range(3):
            tokens = model.encode(x[b : b + 1], visible[b : b + 1, r])
            whole = torch.zeros(1, 32, 32)
            whole[0, visible[b, r]] = tokens[0, 1:]
            guess = model.decoder(whole, GRID)[0]
            patch += [(guess[n] - targets[b, n]).square().sum() / 32**0.5 for n in hidden[b, r].tolist()]
            utterance.append((tokens[0, 0] - targets[b].mean(0)).square().sum() / 32**0.5)
    found = model(x, visible, [hidden])
    assert found["patch"].item() == pytest.approx(float(torch.stack(patch).mean()), rel=1e-5)
    assert found["utterance"].item() == pytest.approx(float(torch.stack(utterance).mean()), rel=1e-5)
    assert found["loss"].item() == pytest.approx(float(found["patch"] + 0.7 * found["utterance"]), rel=1e-6)


@torch.no_grad()
def test_the_decoder_is_residual_convolutions():
    decoder = ConvDecoder(8, 8, 2, 3, 2)
    x = torch.randn(2, 12, 8)
    y = x.transpose(1, 2).reshape(2, 8, 4, 3)
    for conv in decoder.convs:
        z = conv(y)
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        y = y + torch.nn.functional.gelu(z)
    assert torch.allclose(decoder(x, (4, 3)), decoder.proj(y.flatten(2).transpose(1, 2)), atol=1e-5)
    assert ConvDecoder(8, 16, 3, 3, 2)(x, (4, 3)).shape == x.shape
    with pytest.raises(ValueError, match="kernel 4: must be odd"):
        ConvDecoder(8, 8, 1, 4, 2)


def test_gradients_flow_where_they_should():
    model = tiny().train()
    visible, hidden = drawn()
    model(torch.randn(2, 128, 64), visible, hidden)["loss"].backward()
    for name, p in model.named_parameters():
        if name.startswith("target."):
            assert p.grad is None, name
        else:
            assert p.grad is not None, name
            assert p.grad.any(), name


@torch.no_grad()
def test_the_targets_are_computed_once_and_the_views_see_their_own_patches():
    model = tiny()
    x = torch.randn(2, 128, 64)
    visible, hidden = drawn()
    sizes = {"target": [], "student": []}
    for name, encoder in (("target", model.target), ("student", model)):
        encoder.blocks[1].register_forward_hook(
            lambda module, inputs, y, name=name: sizes[name].append(inputs[0].shape[:2])
        )
    both = []
    model.target.blocks[1].both = lambda tokens, plain=model.target.blocks[1].both: (
        both.append(tokens.shape[:2]) or plain(tokens)
    )
    model(x, visible, hidden)
    assert both == [(2, 33)]
    assert sizes == {"target": [], "student": [(6, 1 + visible.shape[2])]}
    patches = model.patches(x)
    for r in range(3):
        outside = torch.ones(2, 32, dtype=torch.bool).scatter(1, visible[:, r], False)
        other = model.picture(torch.where(outside[:, :, None], torch.randn_like(patches), patches))
        same = [(model.encode(z, visible)).unflatten(0, (2, 3))[:, r] for z in (x, other)]
        assert torch.allclose(*same, atol=1e-5)
        assert not torch.allclose(model.encode(x, visible), model.encode(other, visible), atol=1e-3)


def test_noise_is_drawn_in_training_alone():
    model = tiny(noise=0.5)
    x, (visible, hidden) = torch.randn(2, 128, 64), drawn()
    with torch.no_grad():
        assert model(x, visible, hidden)["patch"] == model(x, visible, hidden)["patch"]
        model.train()
        assert model(x, visible, hidden)["patch"] != model(x, visible, hidden)["patch"]
    seen = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(x, visible, hidden)
    empty = torch.ones(6, 32, dtype=torch.bool).scatter(1, visible.flatten(0, 1), False)
    assert seen[0][empty].std().item() == pytest.approx(0.5, rel=0.05)


@torch.no_grad()
def test_bfloat16_is_near():
    model = tiny()
    x, (visible, hidden) = torch.randn(2, 128, 64), drawn()
    with torch.autocast("cpu", torch.bfloat16):
        near = model(x, visible, hidden)
    exact = model(x, visible, hidden)
    for name, value in exact.items():
        assert near[name].dtype == torch.float32
        assert near[name].item() == pytest.approx(value.item(), rel=0.02), name


@torch.no_grad()
def test_a_tagger_begins_with_the_student(tmp_path):
    model = tiny()
    config = {"class_path": "audiomask.models.eat.Eat", "init_args": TINY}
    loaded, _ = weights.load(weights.save(tmp_path, model, config))
    shape = {"width": 32, "depth": 3, "heads": 2}
    tagger = ViTTagger(3, frames=128, bands=64, **shape, post_norm=True, pool="cls").eval()
    begin_from(tagger, loaded.state_dict())
    x = torch.randn(2, 128, 64)
    tokens = model.encode(x)
    assert torch.equal(tagger.encode(x), tokens)
    assert torch.equal(tagger(x), tagger.head(tagger.fc_norm(tokens[:, 0])))
    with pytest.raises(ValueError, match=r"weights of post-norm blocks.*post_norm true"):
        begin_from(ViTTagger(3, frames=128, bands=64, **shape), loaded.state_dict())
    with pytest.raises(ValueError, match=r"weights of pre-norm blocks.*post_norm false"):
        begin_from(tagger, ViTTagger(3, frames=128, bands=64, **shape).state_dict())
