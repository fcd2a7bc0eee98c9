"""The compiled layers equal torch's, values and gradients, at sizes that leave rows over."""

import shutil

import pytest
import torch
from torch import nn

from audiomask.losses import CompressedSpectralLoss
from audiomask.nn import kernels
from audiomask.nn.attention import attend_all
from audiomask.nn.bandnet import convolve, norm_relu
from audiomask.nn.recurrent import PlainGRU


@pytest.fixture(autouse=True)
def compiled(tmp_path, monkeypatch):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert kernels.want()
    yield
    kernels.want(False)


@pytest.mark.parametrize(("rows", "size", "threads"), [(3, 8, 1), (21, 24, 2), (64, 32, 2)])
def test_a_gru_equals_torch(rows, size, threads):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    reference = nn.GRU(5, size, 2, bidirectional=True)
    model = PlainGRU(5, size, 2, bidirectional=True)
    model.load_state_dict(reference.state_dict())
    x, h = torch.randn(9, rows, 5), torch.randn(4, rows, size)
    found = []
    for gru in (model, reference):
        inputs = [x.clone().requires_grad_(), h.clone().requires_grad_()]
        y, end = gru(*inputs)
        assert ("TrainedGRU" in str(y.grad_fn.next_functions)) == (gru is model)
        (y.sin().mean() + end.square().mean()).backward()
        found.append([y, end, *(value.grad for value in (*inputs, *gru.parameters()))])
    torch.set_num_threads(1)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("hidden", [0.0, 0.4])
def test_attention_equals_torch_operators(hidden):
    torch.manual_seed(0)
    given, qkv, out = 2 * torch.randn(7, 16, 32), nn.Linear(32, 96), nn.Linear(32, 32, bias=False)
    weights, found = [*qkv.parameters(), *out.parameters()], []
    for ours in (True, False):
        kernels.want(ours)
        torch.manual_seed(1)
        x = given.clone().requires_grad_()
        y, same = attend_all(x, qkv, out, 4, hidden)
        assert ("TrainedAttention" in str(y.grad_fn)) == ours
        value = y.sin().sum() + same.cos().sum()
        found.append([y, *torch.autograd.grad(value, [x, *weights])])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("bias", "taps", "threads"), [(True, 3, 2), (False, 5, 1)])
def test_a_convolution_equals_torch(bias, taps, threads):
    given, conv = torch.randn(5, 8, 16), nn.Conv1d(8, 12, taps, padding=taps // 2, bias=bias)
    found = []
    torch.set_num_threads(threads)
    for ours in (True, False):
        kernels.want(ours)
        x = given.clone().requires_grad_()
        y, same = convolve(conv, x)
        assert ("TrainedConv" in str(y.grad_fn)) == ours
        alone = torch.autograd.grad(y.sum(), x, retain_graph=True)
        found.append(
            [y, *alone, *torch.autograd.grad(y.sin().sum() + same.cos().sum(), [x, *conv.parameters()])]
        )
    torch.set_num_threads(1)
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1000, 1024])
def test_the_distance_of_compressed_spectra_equals_torch(length):
    loss, ref = CompressedSpectralLoss((64, 128), overlap=2, under=2.0), 0.1 * torch.randn(3, length)
    ref[1], ref[2, 300:] = 0.0, 0.0  # silence
    given, found = 0.1 * torch.randn(3, length), []
    for ours in (True, False):
        kernels.want(ours)
        est = given.clone().requires_grad_()
        value = loss(est, ref)
        found.append((value, *torch.autograd.grad(3 * value, est)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (5, 6, 16)), (nn.BatchNorm2d, (2, 6, 3, 8))])
@pytest.mark.parametrize("skips", [True, False])
def test_a_norm_with_what_follows_equals_torch(kind, shape, skips):
    torch.manual_seed(0)
    x, skip, found = 3 * torch.randn(shape) + 5, torch.randn(shape), []
    for ours in (True, False):
        kernels.want(ours)
        norm = kind(6)
        norm.load_state_dict(norm.state_dict() | {"weight": torch.linspace(-1, 2, 6), "bias": torch.ones(6)})
        inputs = [x.clone().requires_grad_(), skip.clone().requires_grad_()]
        for _ in range(2):  # the running statistics move twice
            y = norm_relu(norm, inputs[0], inputs[1] if skips else None)
        assert ("TrainedNorm" in str(y.grad_fn.next_functions[0][0]) + str(y.grad_fn)) == ours
        (y * skip.cos()).sum().backward()
        grads = [value.grad for value in (*inputs, *norm.parameters()) if value.grad is not None]
        found.append([y, *grads, *norm.buffers()])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-5)


def test_large_numbers_neither_overflow_nor_vanish():
    x, qkv, out = torch.full((1, 8, 8), 1e4), nn.Linear(8, 24), nn.Linear(8, 8, bias=False)
    x[:, 3] = -1e4
    y, _ = attend_all(x.requires_grad_(), qkv, out, 1)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_sizes_that_do_not_fit_are_left_to_torch():
    assert kernels.take(8, 32)
    assert not kernels.take(8, 12)


def test_without_a_compiler_torch_does_the_work(monkeypatch):
    kernels._load.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not kernels.want()
    assert not kernels.take(8)
    monkeypatch.undo()
    kernels._load.cache_clear()
