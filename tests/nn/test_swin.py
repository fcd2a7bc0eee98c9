"""Window attention equals what its formula gives, token by token."""

from functools import partial

import pytest
import torch
from timm_peer import shaken, timm_transformer

from audiomask.nn.swin import WindowAttention, WindowBlock


def direct(attn: WindowAttention, x, grid, window, shift):
    """One row `[T, F, C]`: each token looks at those of its window, the windows beginning `shift` later."""
    heads, width = attn.heads, x.shape[2]
    size = width // heads
    qkv = (x.double() @ attn.qkv.weight.double().T + attn.qkv.bias.double()).reshape(*grid, 3, heads, size)
    out = torch.zeros(*grid, width, dtype=torch.float64)

    def home(t, f):  # of a window, the first one being cut short by the shift
        return (t - shift[0]) // window, (f - shift[1]) // window

    places = [(t, f) for t in range(grid[0]) for f in range(grid[1])]
    for t, f in places:
        near = [p for p in places if home(*p) == home(t, f)]
        for head in range(heads):
            q = qkv[t, f, 0, head]
            scores = []
            for s, g in near:
                k = qkv[s, g, 1, head]
                d = torch.tensor([t - s, f - g], dtype=torch.float64)
                d = d.sign() * (1 + d.abs()).log()
                hidden = (attn.meta_mlp.fc1.weight.double() @ d + attn.meta_mlp.fc1.bias.double()).relu()
                bias = (
                    attn.meta_mlp.fc2.weight.double()[head] @ hidden + attn.meta_mlp.fc2.bias.double()[head]
                )
                cosine = q @ k / (q.norm() * k.norm())
                scores.append(cosine / max(0.01, float(attn.tau[head])) + bias)
            weights = torch.stack(scores).softmax(0)
            v = torch.stack([qkv[s, g, 2, head] for s, g in near])
            out[t, f, head * size : (head + 1) * size] = weights @ v
    return (out @ attn.proj.weight.double().T + attn.proj.bias.double()).float()


@torch.no_grad()
@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (1, 3)])
@pytest.mark.parametrize("grid", [(8, 4), (7, 4), (6, 5), (3, 2)])
def test_equals_a_direct_computation(grid, shift):
    block = shaken(WindowBlock(16, 2, 4, shift))
    block.attn.tau.copy_(torch.tensor([0.3, 0.001]))  # the second is held at .01
    x = torch.randn(2, grid[0] * grid[1], 16)
    ours = block.attend(x, grid)
    for row, y in zip(x, ours, strict=True):
        expected = direct(block.attn, row.unflatten(0, grid), grid, 4, shift).flatten(0, 1)
        assert (y - expected).abs().max() < 1e-5 * expected.abs().max().clamp_min(1)


@torch.no_grad()
def test_the_norms_come_after():
    block = shaken(WindowBlock(16, 2))
    x = torch.randn(2, 32, 16)
    y = x + block.norm1(block.attend(x, (8, 4)))
    assert torch.allclose(block(x, (8, 4)), y + block.norm2(block.mlp(y)))


@torch.no_grad()
@pytest.mark.parametrize("shift", [(0, 0), (2, 0)])
def test_windows_that_have_no_neighbours_in_common_do_not_see_each_other(shift):
    block = shaken(WindowBlock(16, 2, 4, shift))
    x = torch.randn(1, 32, 16)
    changed = x.clone()
    changed[:, -4:] += 1  # the last of 8 times
    rows = (block(x, (8, 4)) != block(changed, (8, 4))).any(2)[0].reshape(8, 4).any(1)
    assert rows.nonzero()[:, 0].tolist() == ([4, 5, 6, 7] if shift == (0, 0) else [6, 7])


def test_impossible_shifts_are_refused():
    with pytest.raises(ValueError, match="less than a window"):
        WindowBlock(16, 2, 4, (4, 0))
    with pytest.raises(ValueError, match="heads"):
        WindowAttention(16, 3, (4, 4))


@pytest.mark.peer
@torch.no_grad()
@pytest.mark.parametrize("shift", [(0, 0), (2, 2)])
def test_equals_timm(shift):
    """The block of today's timm, which shifts in both directions and keeps -log tau as `logit_scale`."""
    timm_transformer()
    from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock

    ours = shaken(WindowBlock(64, 4, 4, shift))
    ours.attn.tau.copy_(torch.tensor([0.1, 0.4, 1.0, 2.0]))
    theirs = SwinTransformerV2CrBlock(
        64, 4, (16, 8), (4, 4), shift, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)
    ).eval()
    state = ours.state_dict()
    state["attn.logit_scale"] = -state.pop("attn.tau").log()
    theirs.load_state_dict(state)
    x = torch.randn(2, 16, 8, 64)
    y = theirs(x).flatten(1, 2)
    assert (ours(x.flatten(1, 2), (16, 8)) - y).abs().max() < 1e-5 * y.abs().max()
