"""Attention against nn.MultiheadAttention."""

import pytest
import torch
from torch import nn

from audiomask.nn import attention
from audiomask.nn.attention import CausalAttention, attend_all
from audiomask.streaming import Delay, Sequential


def reference(model, window, x):
    theirs = nn.MultiheadAttention(model.channels, model.heads, batch_first=True)
    theirs.load_state_dict(model.state_dict())
    n = x.shape[2]
    age = torch.arange(n)[:, None] - torch.arange(n)
    sequence = x.transpose(1, 2)
    y, _ = theirs(sequence, sequence, sequence, attn_mask=(age < 0) | (age >= window), need_weights=False)
    return y.transpose(1, 2)


@pytest.mark.parametrize("lag", [0, 3])
@pytest.mark.parametrize("window", [1, 5, 40])
def test_equals_torch_with_a_band_mask(window, lag):
    model = CausalAttention(8, 2, window)
    x = torch.randn(2, 8, 21)
    expected = reference(model, window, torch.tanh(x + 0.5))
    # nn.Tanh of what is before the signal is not silent: the bias makes it so that a missing mask shows
    late = Sequential(Delay(lag, 8), Bent(), model)
    torch.testing.assert_close(late(x), expected)


class Bent(nn.Module):
    def forward(self, x):
        return torch.tanh(x + 0.5)


def test_memory_is_bounded():
    model = CausalAttention(4, 1, 6)
    state = model.initial_state(2)
    for _ in range(4):
        _, state = model.step(torch.randn(2, 4, 50), state)
    assert state["ring"].shape == (2, 5, 8)


def test_heads_must_divide():
    with pytest.raises(ValueError, match="9 channels do not divide into 2 heads"):
        CausalAttention(9, 2, 4)


def test_hidden_places_are_not_seen_by_others():
    torch.manual_seed(0)
    qkv = torch.randn(1, 6, 24)
    torch.manual_seed(5)
    gone = (torch.rand(1, 1, 1, 6) < 0.5)[0, 0, 0]
    assert 0 < gone.sum() < 6
    torch.manual_seed(5)
    y = attend_all(qkv, 2, hidden=0.5)
    other = qkv.clone()
    other[:, gone, 8:] += 1.0  # keys and values of what is hidden
    torch.manual_seed(5)
    z = attend_all(other, 2, hidden=0.5)
    assert torch.allclose(y[:, ~gone], z[:, ~gone], atol=1e-6)
    assert not torch.allclose(y[:, gone], z[:, gone], atol=1e-3)  # by themselves they are
    assert attend_all(qkv, 2, hidden=0.999).isfinite().all()


@pytest.mark.parametrize("hidden", [0.0, 0.4])
def test_training_on_a_cpu_has_the_gradients_of_the_plain_operators(hidden, monkeypatch):
    torch.manual_seed(0)
    qkv, found = torch.randn(6, 8, 36), []
    for ours in (True, False):
        monkeypatch.setattr(attention, "trains_here", lambda x, ours=ours: ours)
        torch.manual_seed(1)
        x = qkv.clone().requires_grad_()
        y = attend_all(x, 4, hidden)
        assert ("TrainedAttention" in y.grad_fn.name()) == ours
        y.sin().sum().backward()
        found.append((y, x.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_written_out_gradient_is_that_of_the_attention():
    qkv = torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: attend_all(x, 2), [qkv])
