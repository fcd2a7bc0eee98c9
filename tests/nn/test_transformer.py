"""The rotary transformer against its definition, over long streams."""

import pytest
import torch
import torch.nn.functional as F

from audiomask.nn.transformer import RotaryTransformer
from audiomask.streaming import tree_map


def small(window: int = 5) -> RotaryTransformer:
    torch.manual_seed(0)
    return RotaryTransformer(8, 2, 12, 2, window, scale=0.5)


def reference(model: RotaryTransformer, x: torch.Tensor) -> torch.Tensor:
    """The whole in float64: coordinates are complex numbers, and places are counted from the start."""
    x, n = x.double().transpose(1, 2), torch.arange(x.shape[2])
    age = n[:, None] - n
    turn = torch.polar(
        torch.ones(len(n), 2).double(), n[:, None] * 10000.0 ** -(torch.arange(2) / 2).double()
    )
    for layer in model.double().layers:
        q, k, v = layer.qkv(layer.norm1(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        q, k = (torch.complex(*part.chunk(2, 3)) * turn for part in (q, k))
        scores = (q @ k.mH).real / 2
        scores = scores.masked_fill((age < 0) | (age >= model.window), -torch.inf)
        x = x + layer.scale1 * layer.out((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
        x = x + layer.scale2 * layer.down(F.gelu(layer.up(layer.norm2(x))))
    return x.transpose(1, 2)


@pytest.mark.parametrize("window", [1, 5, 40])
@torch.no_grad()
def test_equals_its_definition(window):
    model, x = small(window), torch.randn(2, 8, 21)
    y = model(x)
    torch.testing.assert_close(y, reference(model, x).float())


@torch.no_grad()
def test_hours_change_nothing():
    """Positions are relative: after 10 hours at 25 frames a second, a step is bit for bit that of before."""
    model, state = small(), small().initial_state(2)
    _, state = model.step(torch.randn(2, 8, 30), state)
    later = state | {"seen": state["seen"] + 10 * 3600 * 25}
    x = torch.randn(2, 8, 30)
    now, then = model.step(x, state), model.step(x, later)
    assert torch.equal(now[0], then[0])
    assert [leaf.shape for leaf in state["rings"]] == [leaf.shape for leaf in now[1]["rings"]]


@torch.no_grad()
def test_a_long_signal_is_run_in_windows(monkeypatch):
    """Its memory grows with its length, not with the square."""
    import audiomask.nn.transformer as module

    sizes, attend = [], module.attend
    monkeypatch.setattr(
        module, "attend", lambda q, k, v, mask: sizes.append(k.shape[2]) or attend(q, k, v, mask)
    )
    model = small()
    state = tree_map(torch.clone, model.initial_state(1))
    model.step(torch.randn(1, 8, 103), state)
    assert max(sizes) <= 2 * model.window - 1


def test_heads_must_divide():
    with pytest.raises(ValueError, match="12 channels do not divide into 4 heads of an even width"):
        RotaryTransformer(12, 4, 8, 1, 4)
