"""What the latent predictors share: the average of weights, target blocks, the watch on collapse."""

import torch

from audiomask.nn.latent import Latent, error, pick, spread
from audiomask.nn.vit import ViT

SMALL = {"frames": 32, "bands": 32, "width": 16, "depth": 2, "heads": 2}


class Pair(Latent):
    """The network is trained, and what follows it is under `other`."""

    def __init__(self):
        super().__init__(**SMALL)
        self.other, self.head = ViT(**SMALL), torch.nn.Linear(16, 16)

    def encoders(self):
        return self.other, self


def test_the_average_follows_by_its_recursion():
    torch.manual_seed(0)
    model = Pair()
    names = [n for n, _ in model.other.named_parameters()]
    assert len(names) == 3 + 2 * 12
    expected = {n: model.other.get_parameter(n).detach().double().clone() for n in names}
    head = model.head.weight.clone()
    for step in range(20):
        with torch.no_grad():
            for p in model.parameters():
                if not any(p is q for q in model.other.parameters()):
                    p += 0.1 * torch.randn_like(p)
        momentum = 0.9 + 0.005 * step
        model.follow(momentum)
        for n in names:
            expected[n] = momentum * expected[n] + (1 - momentum) * model.get_parameter(n).detach().double()
    for n in names:
        assert torch.allclose(model.other.get_parameter(n).double(), expected[n], atol=1e-5), n
    assert not torch.equal(model.head.weight, head)
    model.follow(1.0)
    assert not torch.equal(model.other.cls_token, model.cls_token)
    model.follow(0.0)
    assert torch.equal(model.other.cls_token, model.cls_token)


def test_blocks_are_picked_and_count_alike():
    g = torch.Generator().manual_seed(0)
    x, index = torch.randn(3, 8, 5, generator=g), torch.randint(8, (3, 2, 4), generator=g)
    found = pick(x, index)
    for b in range(3):
        for k in range(2):
            for m in range(4):
                assert torch.equal(found[b, k, m], x[b, index[b, k, m]])
    guess = torch.randn(found.shape, generator=g)
    one = (guess[:, :1] - pick(x, index[:, :1])).square().mean()
    three = torch.cat([index, index[:, :1]], 1)  # of another size, so apart
    expected = (one + sum((guess[:, k] - found[:, k]).square().mean() for k in (0, 1)) + one) / 4
    guesses = [guess[:, :1], torch.cat([guess, guess[:, :1]], 1)]
    assert torch.allclose(error(guesses, x, [index[:, :1], three]), expected)


def test_spread_is_of_clips_and_not_of_places():
    places = torch.randn(1, 6, 4).expand(5, -1, -1)
    assert spread(places) == 0  # what tells the place alone tells nothing of the clip
    x = torch.randn(4000, 3, 2) * torch.tensor([1.0, 3.0])
    assert abs(spread(x).item() - 2) < 0.1
