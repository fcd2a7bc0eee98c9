"""Attention against nn.MultiheadAttention."""

import pytest
import torch
from torch import nn

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


def projections(channels: int) -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(channels, 3 * channels), nn.Linear(channels, channels, bias=False)


def test_hidden_places_are_not_seen_by_others():
    torch.manual_seed(0)
    x, (qkv, out) = torch.randn(1, 6, 8), projections(8)
    torch.manual_seed(5)
    gone = (torch.rand(1, 1, 1, 6) < 0.5)[0, 0, 0]
    assert 0 < gone.sum() < 6
    torch.manual_seed(5)
    y, _ = attend_all(x, qkv, out, 2, hidden=0.5)
    other = x.clone()
    other[:, gone] += 1.0  # what is hidden
    torch.manual_seed(5)
    z, _ = attend_all(other, qkv, out, 2, hidden=0.5)
    assert torch.allclose(y[:, ~gone], z[:, ~gone], atol=1e-6)
    assert not torch.allclose(y[:, gone], z[:, gone], atol=1e-3)  # by themselves they are
    assert attend_all(x, qkv, out, 2, hidden=0.999)[0].isfinite().all()


def test_attention_equals_torchs():
    x, (qkv, out) = torch.randn(3, 6, 8), projections(8)
    twin = nn.MultiheadAttention(8, 2, batch_first=True)
    twin.in_proj_weight, twin.in_proj_bias, twin.out_proj.weight = qkv.weight, qkv.bias, out.weight
    torch.testing.assert_close(attend_all(x, qkv, out, 2)[0], twin(x, x, x)[0])
