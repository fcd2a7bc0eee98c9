"""The balancer: its arithmetic by hand, and that the scale of a loss does not matter."""

import pytest
import torch

from audiomask.losses import Balancer


def losses(x):
    """Gradients (3, 4) and (0, 1) in the first row, (0, 0) and (1, 0) in the second."""
    a = (x * torch.tensor([[3.0, 4.0], [0.0, 0.0]])).sum()
    b = (x * torch.tensor([[0.0, 1.0], [1.0, 0.0]])).sum()
    return {"a": a, "b": b}


def output():
    return torch.zeros(2, 2, requires_grad=True)


def test_gradients_have_the_norms_that_their_weights_say():
    """Norms of rows: a 5 and 0, mean 2.5; b 1 and 1, mean 1."""
    x = output()
    gradient = Balancer(total_norm=2.0)(losses(x), {"a": 1.0, "b": 3.0}, x)
    a = 2 * 1 / 4 / 2.5 * torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    b = 2 * 3 / 4 / 1.0 * torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(gradient, a + b)
    assert x.grad is None


def test_the_norm_of_the_batch():
    """5 and sqrt 2."""
    x = output()
    gradient = Balancer(per_batch_item=False)(losses(x), {"a": 1.0, "b": 1.0}, x)
    a = 0.5 / 5 * torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    b = 0.5 / 2**0.5 * torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(gradient, a + b)


def test_a_loss_a_thousand_times_larger_gives_the_same_gradient():
    one, two = Balancer(), Balancer()
    for step in range(5):
        x = output()
        y = (x + step).square().sum()
        plain = one({"y": y, **losses(x)}, {"y": 1.0, "a": 0.5, "b": 2.0}, x)
        scaled = two({"y": 1000 * y, **losses(x)}, {"y": 1.0, "a": 0.5, "b": 2.0}, x)
        torch.testing.assert_close(plain, scaled)


def test_norms_are_averaged_over_steps_from_the_first_on():
    """With decay .5, norms 2.5 and then 25 average to (.5 * 2.5 + 25) / 1.5."""
    balancer = Balancer(decay=0.5)
    for scale in (1, 10):
        x = output()
        gradient = balancer({"a": scale * losses(x)["a"]}, {"a": 1.0}, x)
    average = (0.5 * 2.5 + 25) / 1.5
    torch.testing.assert_close(gradient, torch.tensor([[30.0, 40.0], [0.0, 0.0]]) / average)


def test_the_norm_of_one_loss_may_be_the_scale_of_all():
    x = output()
    alone = Balancer("a")({"a": losses(x)["a"]}, {"a": 7.0}, x)
    torch.testing.assert_close(alone, torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    both = Balancer("a")(losses(x), {"a": 0.0, "b": 1.0}, x)
    torch.testing.assert_close(both, 2.5 * torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match=r"total_norm is 'c' and the losses are \['a', 'b'\]"):
        Balancer("c")(losses(x), {"a": 1.0, "b": 1.0}, x)


def test_a_loss_that_comes_later_is_averaged_from_then_on_and_all_resumes():
    a, b = Balancer(decay=0.9), Balancer(decay=0.9)
    x = output()
    a({"a": losses(x)["a"]}, {"a": 1.0}, x)
    b.load_state_dict(a.state_dict())
    weights = {"a": 1.0, "b": 1.0}
    assert torch.equal(a(losses(x), weights, x), b(losses(x), weights, x))
    assert a.state_dict() == b.state_dict()
    assert a.state_dict()["b"][0] == pytest.approx(1.0)  # as if it had been there from the first step
    assert torch.equal(a(losses(x), weights, x), b(losses(x), weights, x))


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match="decay is 1"):
        Balancer(decay=1.0)
