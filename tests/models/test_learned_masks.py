"""HPM's ranking of patches and AdaMAE's policy gradient, against direct computations."""

import math

import pytest
import torch
from patch_mask import Plain

from audiomask.masks.patches.patterns import tokens
from audiomask.models.ada_mae import AdaMae
from audiomask.models.audio_mae import AudioMae
from audiomask.models.hpm import HPM, ranking

TINY = {
    "frames": 64, "bands": 32, "width": 16, "depth": 2, "heads": 2,
    "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2,
}  # fmt: skip


def made(kind, **changes):
    torch.manual_seed(0)
    model = kind(**TINY | changes)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    return model


def rows(model, count=2):
    x = torch.randn(count, 64, 32, generator=torch.Generator().manual_seed(1))
    return x, *tokens(Plain().sample(torch.arange(count), model.grid_of(x)))


def count(model, *prefixes):
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(prefixes))


def test_sizes():
    with torch.device("meta"):
        hpm, ada = HPM(), AdaMae()
    assert count(hpm, "decoder_", "mask_token") == 25_745_664
    assert count(hpm, "predictor_") == 25_220_609
    assert count(ada, "sampler_") == 3_845_377


def test_the_ranking_loss_is_that_over_all_pairs():
    predicted = torch.tensor([[0.3, -1.0, 2.0, 0.5], [1.0, 1.0, 0.0, -4.0]])
    errors = torch.tensor([[1.0, 2.0, 0.5, 2.0], [0.1, 0.2, 0.3, 0.4]])
    total, pairs = 0.0, 0
    for y, losses in zip(predicted.tolist(), errors.tolist(), strict=True):
        for i in range(4):
            for j in range(4):
                s = 1 / (1 + math.exp(y[j] - y[i]))
                if losses[i] > losses[j]:
                    total, pairs = total - math.log(s), pairs + 1
                elif losses[i] < losses[j]:
                    total, pairs = total - math.log(1 - s), pairs + 1
    assert ranking(predicted, errors).item() == pytest.approx(total / pairs, rel=1e-5)
    assert pairs == 22
    assert ranking(predicted, torch.ones(2, 4)) == 0
    assert ranking(-100 * errors, errors) > 30 > 0.5 > ranking(100 * errors, errors)


@torch.no_grad()
@pytest.mark.parametrize("decoder", ["window", "global", "cross"])
def test_hpm_is_an_autoencoder_that_says_more(decoder):
    model = made(HPM, decoder=decoder).eval()
    x, visible, hidden = rows(model)
    guess, target, hardness = model(x, visible, hidden)
    plain = AudioMae(decoder=decoder, **TINY).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("predictor_")})
    for mine, wanted in zip((guess, target), plain(x, visible, hidden), strict=True):
        assert torch.allclose(mine, wanted, atol=1e-6)
    assert hardness.shape == hidden.shape
    patches = model.patches(x).scatter(1, hidden[:, :, None].expand(-1, -1, 256), 3.0)
    assert torch.equal(model(model.picture(patches), visible, hidden)[2], hardness)  # not what is hidden
    scores = model.scores(x)
    assert scores.shape == (2, 4, 2)
    assert (model.scores(model.picture(patches)) != scores).all()  # which see all of it
    teacher = model.teacher()
    assert torch.equal(teacher.scores(x), scores)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(name.startswith("decoder_blocks") for name, _ in teacher.named_parameters())
    assert any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", [HPM, AdaMae])
def test_every_parameter_learns(kind):
    model = made(kind)
    x, visible, hidden = rows(model)
    guess, target, *said = model(x, visible, hidden)
    errors = (guess - target).square().mean(2)
    (errors.mean() + model.guidance(errors.detach(), *said)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        if name != "sampler_pred.bias":  # a softmax does not care
            assert p.grad.any(), name


def test_the_predictor_learns_which_patches_are_hard():
    """Losses that depend on the place alone: after some steps it puts unseen clips in that order."""
    model = made(HPM, predictor_depth=1)
    wanted = torch.tensor([5.0, 1, 7, 2, 0, 6, 3, 4])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(60):
        g = torch.Generator().manual_seed(step)
        x = torch.randn(8, 64, 32, generator=g)
        visible, hidden = tokens(Plain().sample(torch.arange(8) + 8 * step, (4, 2)))
        loss = model.guidance(wanted.expand(8, -1).gather(1, hidden), model(x, visible, hidden)[2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(40, 64, 32, generator=torch.Generator().manual_seed(999))
    visible, hidden = tokens(Plain().sample(torch.arange(40) - 100, (4, 2)))
    with torch.no_grad():
        hardness, truth = model(x, visible, hidden)[2], wanted[hidden]
    right = (hardness[:, :, None] > hardness[:, None]) == (truth[:, :, None] > truth[:, None])
    assert right.float().mean() > 0.9


@torch.no_grad()
def test_adamae_probabilities():
    model = made(AdaMae).eval()
    x, visible, hidden = rows(model)
    _, _, log_p = model(x, visible, hidden)
    p = model.scores(x)
    assert p.shape == (2, 4, 2)
    assert torch.allclose(p.sum((1, 2)), torch.ones(2))
    assert torch.allclose(p.flatten(1).gather(1, hidden).log(), log_p, atol=1e-5)
    assert (p[0] - p[1]).abs().max() > 1e-6


def test_the_policy_gradient_is_that_of_its_formula():
    """d/dz_k of - w/M sum over hidden i of L_i log softmax(z)_i is - w/M ([k hidden] L_k - p_k sum L); and no
    gradient leaves the sampler."""
    model = made(AdaMae, weight=0.5)
    x, _, hidden = rows(model)
    errors = torch.rand(2, hidden.shape[1], generator=torch.Generator().manual_seed(2))
    kept = []
    model.sampler_pred.register_forward_hook(lambda module, inputs, z: (z.retain_grad(), kept.append(z))[0])
    log_p = model.log_probabilities(x).gather(1, hidden)
    model.guidance(errors, log_p).backward()
    z = kept[0][:, :, 0]
    hits = torch.zeros(2, 8).scatter(1, hidden, errors)
    wanted = -0.5 / errors.numel() * (hits - z.softmax(1) * errors.sum(1, keepdim=True))
    assert torch.allclose(kept[0].grad[:, :, 0], wanted, atol=1e-7)
    for name, p in model.named_parameters():
        assert (p.grad is not None) == name.startswith("sampler_"), name


def test_the_sampler_comes_to_show_what_is_hard_to_guess():
    """Hidden patches of the first half of the clip cost 1, the others nothing: their probability rises."""
    from audiomask.masks.patches.learned import Likely

    model = made(AdaMae, weight=1.0)
    x = torch.randn(8, 64, 32, generator=torch.Generator().manual_seed(0))
    cost = torch.tensor([1.0] * 4 + [0.0] * 4)
    before = model.scores(x)[:, :2].sum((1, 2)).mean()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(20):
        _, hidden = tokens(Likely(0.5).sample(torch.arange(8) + 8 * step, (4, 2), model.scores(x)))
        loss = model.guidance(cost[hidden], model.log_probabilities(x).gather(1, hidden))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.scores(x)[:, :2].sum((1, 2)).mean() > before + 0.2
