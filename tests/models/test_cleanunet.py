"""CleanUNet keeps the contract, has the published sizes, and equals the published network while the clip fits
the window."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from audiomask.models.cleanunet import CleanUNet, from_authors

TINY = {"hidden": 8, "most": 32, "depth": 4, "blocks": 2, "width": 16, "heads": 2, "feed_forward": 24}


def tiny(**changes) -> CleanUNet:
    torch.manual_seed(0)
    return CleanUNet(**(TINY | {"window": 12} | changes)).eval()


@pytest.mark.parametrize(("blocks", "size"), [(5, 46_071_937), (3, 39_771_265)])
def test_published_sizes_and_clock(blocks, size):
    with torch.device("meta"):
        model = CleanUNet(blocks=blocks)
    assert sum(p.numel() for p in model.parameters()) == size
    assert model.hop == 256
    assert model.latency == 768  # 48 ms


def named_as_the_authors(blocks: int = 2) -> dict[str, torch.Tensor]:
    """A random state dict under the keys that the fact sheet lists for the published checkpoints."""
    g = torch.Generator().manual_seed(1)

    def new(*shape):
        return torch.randn(*shape, generator=g) / (shape[-1] * (shape[1] if len(shape) > 2 else 1)) ** 0.5

    widths = [1, 8, 16, 32, 32]
    state = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        state |= {f"encoder.{i}.0.weight": new(b, a, 4), f"encoder.{i}.0.bias": new(b)}
        state |= {f"encoder.{i}.2.weight": new(2 * b, b, 1), f"encoder.{i}.2.bias": new(2 * b)}
        j = len(widths) - 2 - i
        state |= {f"decoder.{j}.0.weight": new(2 * b, b, 1), f"decoder.{j}.0.bias": new(2 * b)}
        state |= {f"decoder.{j}.2.weight": new(b, a, 4), f"decoder.{j}.2.bias": new(a)}
    state |= {"tsfm_conv1.weight": new(16, 32, 1), "tsfm_conv1.bias": new(16)}
    state |= {"tsfm_conv2.weight": new(32, 16, 1), "tsfm_conv2.bias": new(32)}
    norms = ["tsfm_encoder.layer_norm"]
    for i in range(blocks):
        p = f"tsfm_encoder.layer_stack.{i}."
        state |= {f"{p}slf_attn.{n}.weight": new(16, 16) for n in ("w_qs", "w_ks", "w_vs", "fc")}
        state |= {f"{p}pos_ffn.w_1.weight": new(24, 16), f"{p}pos_ffn.w_1.bias": new(24)}
        state |= {f"{p}pos_ffn.w_2.weight": new(16, 24), f"{p}pos_ffn.w_2.bias": new(16)}
        norms += [f"{p}slf_attn.layer_norm", f"{p}pos_ffn.layer_norm"]
    for n in norms:
        state |= {f"{n}.weight": 1 + 0.1 * new(16), f"{n}.bias": 0.1 * new(16)}
    return state


def offline(state: dict[str, torch.Tensor], x: torch.Tensor, blocks: int = 2) -> torch.Tensor:
    """The published network on a file, from torch's own functions and the authors' state dict."""

    def layer(name, y):
        return F.linear(y, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name, y):
        return F.layer_norm(y, (16,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def conv(name, y, **stride):
        return F.conv1d(y, state[f"{name}.weight"], state[f"{name}.bias"], **stride)

    level = x.std(2, keepdim=True) + 1e-3
    y, skips = x / level, []
    for i in range(4):
        y = F.glu(conv(f"encoder.{i}.2", F.relu(conv(f"encoder.{i}.0", y, stride=2))), 1)
        skips.append(y)
    y = norm("tsfm_encoder.layer_norm", conv("tsfm_conv1", y).mT)
    for i in range(blocks):
        p = f"tsfm_encoder.layer_stack.{i}."
        q, k, v = (
            layer(f"{p}slf_attn.{n}", y).unflatten(2, (2, 8)).transpose(1, 2)
            for n in ("w_qs", "w_ks", "w_vs")
        )
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        y = norm(f"{p}slf_attn.layer_norm", y + layer(f"{p}slf_attn.fc", heads))
        y = norm(f"{p}pos_ffn.layer_norm", y + layer(f"{p}pos_ffn.w_2", F.relu(layer(f"{p}pos_ffn.w_1", y))))
    y = conv("tsfm_conv2", y.mT)
    for i in range(4):
        y = F.glu(conv(f"decoder.{i}.0", y + skips.pop()[:, :, : y.shape[2]]), 1)
        y = F.conv_transpose1d(y, state[f"decoder.{i}.2.weight"], state[f"decoder.{i}.2.bias"], 2)
        y = y if i == 3 else F.relu(y)
    return y * level


@pytest.mark.parametrize("frames", [500, 4001])
@torch.no_grad()
def test_equals_the_published_network_from_start_to_tail(frames):
    """The file ends in zeros, as many as the last windows reach into: see the module's docstring."""
    state = named_as_the_authors()
    model = tiny(window=512)
    model.load_state_dict(from_authors(state)[1])
    x = 0.1 * torch.randn(2, 1, frames)
    room = F.pad(x, (0, 64 - frames % 16 + 46 - 16))  # 46 samples: what the first frame at the bottom reads
    want = offline(state, room)[:, :, :frames]
    assert want.shape[2] == frames
    got = model(x, level=room.std(2)[:, 0])
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


@torch.no_grad()
def test_a_short_window_forgets():
    few, many = tiny(window=4), tiny(window=512)
    x, level = 0.1 * torch.randn(1, 1, 1600), torch.tensor([0.1])
    for model in (few, many):
        model.load_state_dict(from_authors(named_as_the_authors())[1])
    hop = few.hop
    few, many = few(x, level=level), many(x, level=level)
    assert (few - many)[..., : 3 * hop].abs().max() < 1e-6
    assert (few - many).abs().max() > 1e-4 * many.abs().max()


def test_a_key_of_another_network_is_refused():
    with pytest.raises(KeyError, match="lstm"):
        from_authors(named_as_the_authors() | {"lstm.weight": torch.zeros(1)})


def test_the_sizes_are_read_off_the_weights():
    arguments, tensors = from_authors(named_as_the_authors())
    assert arguments == {k: v for k, v in TINY.items() if k != "heads"} | {"kernel_size": 4}
    CleanUNet(**arguments, heads=2).load_state_dict(tensors)
