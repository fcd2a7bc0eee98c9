"""The adversary: what it learns, what it teaches, and that it goes on from a checkpoint."""

import copy

import pytest
import torch

from audiomask.losses import Adversary, Discriminator, SpectrumDiscriminator


def rows(seed: int, count: int = 4, length: int = 8000):
    """Harmonics with noise of their level in a third of 20 ms packets, the harmonics, and where."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(length) / 16000
    pitch = 100 + 100 * torch.rand(count, 1, 1, generator=g)
    x = (torch.cos(2 * torch.pi * pitch * torch.arange(1, 9)[:, None] * t)).mean(1)
    x = x / x.square().mean(-1, keepdim=True).sqrt()
    where = (torch.rand(count, length // 320, generator=g) < 0.33).float().repeat_interleave(320, 1)
    y = torch.where(where > 0, torch.randn(x.shape, generator=g), x)
    return y[:, None].requires_grad_(), x[:, None], where


def adversary(*resolutions, channels=4, **options) -> Adversary:
    torch.manual_seed(0)
    sizes = resolutions or ((256, 64),)
    return Adversary(
        [SpectrumDiscriminator(fft, hop, channels) for fft, hop in sizes], **{"segment": 4000} | options
    )


@pytest.mark.parametrize(("loss", "blind"), [("least_squares", 0.5), ("hinge", 2.0)])
def test_it_learns_to_tell_estimates_from_real_ones(loss, blind):
    """`blind`: the loss of one that cannot tell."""
    a, values = adversary(first=1000, segment=8000, loss=loss), []
    for step in range(60):
        taught, parts = a(*rows(step))
        assert not taught  # it learns alone
        values.append(parts["discriminator"].item())
    assert sum(values[-10:]) / 10 < blind / 2


def test_what_it_teaches_is_about_the_segment():
    y, x, where = rows(0)
    taught, parts = adversary(first=0)(y, x, where)
    assert set(taught) == {"adversarial", "features"}
    assert set(parts) == {"discriminator"}
    for value in taught.values():
        (gradient,) = torch.autograd.grad(value, y, retain_graph=True)
        assert not gradient[..., 4000:].any()
        assert gradient[..., :4000].any()


@pytest.mark.parametrize("loss", ["least_squares", "hinge"])
def test_the_adversarial_gradient_leads_to_better_scores(loss):
    a = adversary(first=1000, segment=0, loss=loss)
    for step in range(40):
        a(*rows(step))
    a.first = 0
    for group in a.optimizer.param_groups:
        group["lr"] = 0.0
    y, x, where = rows(99)
    before, _ = a(y, x, where)
    (gradient,) = torch.autograd.grad(before["adversarial"], y)
    after, _ = a(y - 0.003 * gradient / gradient.norm(), x, where)
    assert after["adversarial"] < before["adversarial"]


def test_its_own_gradient_is_clipped():
    a = adversary(clip=1e-3)
    a(*rows(0))
    norms = torch.stack([p.grad.norm() for p in a.networks.parameters() if p.grad is not None])
    assert float(norms.norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("loss", ["least_squares", "hinge"])
def test_values_by_hand(loss):
    """Scores of 2 for real sound and .25 for estimates, layers of 4 and 3."""

    class Fixed(Discriminator):
        def forward(self, x, where=None):
            real = x.mean() > 0
            scores = (x[..., None] * 0).mean((1, 2))[:, None] + (2.0 if real else 0.25)
            return scores + 0 * self.bias, [x * 0 + (4.0 if real else 3.0)]

        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(()))

    a = Adversary([Fixed(), Fixed()], loss, "all", first=0, segment=0)
    y, x = -torch.ones(2, 1, 50, requires_grad=True), torch.ones(2, 1, 50)
    taught, parts = a(y, x)
    hinge = loss == "hinge"
    assert parts["discriminator"].item() == pytest.approx(1.25 if hinge else 1 + 0.25**2)
    assert taught["adversarial"].item() == pytest.approx(0.75 if hinge else 0.75**2)
    assert taught["features"].item() == pytest.approx(1 / 4, abs=1e-3)


def weights_of(a: Adversary) -> list[torch.Tensor]:
    return [network.last.parametrizations.weight.original1.detach().clone() for network in a.networks]


def test_one_in_its_turn_or_all():
    sizes = (256, 64), (128, 32)
    turns, every = adversary(*sizes), adversary(*sizes, turns="all")
    for step in range(2):
        before = weights_of(turns), weights_of(every)
        for a in (turns, every):
            a(*rows(step))
        moved = [
            [not torch.equal(x, y) for x, y in zip(old, weights_of(a), strict=True)]
            for old, a in zip(before, (turns, every), strict=True)
        ]
        assert moved == [[step == 0, step == 1], [True, True]]


def test_it_may_learn_in_some_steps_only():
    a, learned = adversary(update=0.5, first=0, channels=2), 0
    for step in range(40):
        before = weights_of(a)[0]
        taught, parts = a(*rows(step, 2, 6400))
        assert set(taught) == {"adversarial", "features"}
        assert torch.equal(before, weights_of(a)[0]) != ("discriminator" in parts)
        learned += "discriminator" in parts
    assert 10 < learned < 30


def test_what_was_received_does_not_count():
    x = rows(0)[1].requires_grad_()
    taught, parts = adversary(first=0)(x, x, torch.zeros_like(x[:, 0]))
    assert parts["discriminator"] == taught["adversarial"] == 0
    scores, outputs = SpectrumDiscriminator(256, 64, 4)(x, torch.zeros_like(x[:, 0]))
    assert scores.shape[:2] == (4, 1)
    assert len(outputs) == 5


def test_several_channels_and_everything_estimated():
    network = SpectrumDiscriminator(256, 64, 4, signals=2)
    x = torch.randn(3, 2, 2000)
    ones = torch.ones(3, 2000)
    assert torch.equal(network(x)[0], network(x, ones)[0])
    swapped = network(x.flip(1))[0]
    assert swapped.shape == network(x)[0].shape
    assert not torch.allclose(swapped, network(x)[0])


def test_it_goes_on_from_its_state():
    a, b = adversary(first=2), adversary(first=2)
    with torch.no_grad():
        for p in b.networks.parameters():
            p.add_(1.0)
    for step in range(4):
        a(*rows(step))
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    b.to(torch.device("cpu"))
    one, two = (each(*rows(7)) for each in (a, b))
    assert one == two
    assert one[0]["features"] > 0


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"segment": 200}, "as many samples as each needs"),
        ({"turns": "two"}, "one or all"),
        ({"loss": "wgan"}, "least_squares or hinge"),
        ({"update": 0.0}, "a probability above 0"),
    ],
)
def test_bad_settings(bad, match):
    with pytest.raises(ValueError, match=match):
        adversary(**bad)
    with pytest.raises(ValueError, match="one at least"):
        Adversary([])
