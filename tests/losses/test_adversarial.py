"""The adversary: what it learns, what it teaches, and that it goes on from a checkpoint."""

import copy

import pytest
import torch

from audiomask.losses.adversarial import Adversary, SpectrumDiscriminator

SMALL = {"resolutions": [(256, 64)], "channels": 4, "segment": 4000}


def rows(seed: int, count: int = 4, length: int = 8000):
    """Harmonics, and the same with noise of their level in a third of 20 ms packets."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(length) / 16000
    pitch = 100 + 100 * torch.rand(count, 1, 1, generator=g)
    x = (torch.cos(2 * torch.pi * pitch * torch.arange(1, 9)[:, None] * t)).mean(1)
    x = x / x.square().mean(-1, keepdim=True).sqrt()
    where = (torch.rand(count, length // 320, generator=g) < 0.33).float().repeat_interleave(320, 1)
    return x, torch.where(where > 0, torch.randn(x.shape, generator=g), x), where


def adversary(**changes) -> Adversary:
    torch.manual_seed(0)
    return Adversary(**(SMALL | changes))


def test_it_learns_to_tell_estimates_from_real_ones():
    a = adversary(first=1000, segment=8000)
    values = []
    for step in range(60):
        x, y, where = rows(step)
        gradient, parts = a(y, x, where, torch.ones_like(y))
        assert torch.equal(gradient, torch.ones_like(y))  # it learns alone, the estimator's losses are all
        values.append(parts["discriminator"].item())
    assert sum(values[-10:]) / 10 < 0.25  # .5: it cannot tell


def test_gradients_are_brought_to_one_scale_and_kept_to_the_segment():
    x, y, where = rows(0)
    grad = 1e-3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    for name in ("adversarial", "features"):
        weights = {"loss": 0.0, "adversarial": 0.0, "features": 0.0} | {name: 2.0}
        total, parts = adversary(first=0, weights=weights)(y, x, where, grad)
        assert set(parts) == {"discriminator", "adversarial", "features"}
        assert total.norm().item() == pytest.approx(2 * grad.norm().item(), rel=1e-4)
        assert not total[:, 4000:].any()
        assert total[:, :4000].any()


def test_the_adversarial_gradient_leads_to_better_scores():
    a = adversary(first=1000, segment=8000)
    for step in range(40):
        x, y, where = rows(step)
        a(y, x, where, torch.ones_like(y))
    a.first, a.weights = 0, {"loss": 0.0, "adversarial": 1.0, "features": 0.0}
    x, y, where = rows(99)
    gradient, before = a(y, x, where, torch.ones_like(y))
    for group in a.optimizer.param_groups:
        group["lr"] = 0.0
    _, after = a(y - 0.03 * gradient / gradient.norm(), x, where, torch.ones_like(y))
    assert after["adversarial"] < before["adversarial"]


def test_what_was_received_does_not_count():
    network = SpectrumDiscriminator(256, 64, 4)
    a = adversary(first=0)
    x, _, _ = rows(0)
    _, parts = a(x, x, torch.zeros_like(x), torch.ones_like(x))
    assert parts["discriminator"] == parts["adversarial"] == 0
    scores, outputs = network(x, torch.zeros_like(x))
    assert scores.shape[:2] == (4, 1)
    assert len(outputs) == 5


def test_it_goes_on_from_its_state():
    a, b = adversary(first=2), adversary(first=2)
    with torch.no_grad():
        for p in b.networks.parameters():
            p.add_(1.0)
    for step in range(4):
        a(*reversed(rows(step)[:2]), rows(step)[2], torch.ones(4, 8000))
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    b.to(torch.device("cpu"))
    x, y, where = rows(7)
    one, two = (each(y, x, where, torch.ones_like(y)) for each in (a, b))
    assert torch.equal(one[0], two[0])
    assert one[1] == two[1]


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"weights": {"feature": 1.0}}, "feature"),
        ({"resolutions": []}, "one at least"),
        ({"segment": 200}, "segment 200"),
    ],
)
def test_bad_settings(bad, match):
    with pytest.raises(ValueError, match=match):
        adversary(**bad)
