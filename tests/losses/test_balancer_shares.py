"""The shares of the gradient that a balancer gives are those asked for, whatever the losses are like.

A share is measured from outside: the gradient at the output is taken apart, by least squares, into the
gradients of the losses, which are found once more in float64; the norms of the parts are added up over steps.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audiomask.losses import (
    Adversary,
    Balancer,
    L1Loss,
    MelSpectrogramLoss,
    Objective,
    SignalLoss,
    SNRLoss,
    STFTDiscriminator,
)
from audiomask.losses.processes import average

SCALES = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
SHARES = st.floats(0.1, 4.0)
TERMS = ("l1", "square", "spectrum", "adversarial", "features")


class Times(SignalLoss):
    """A loss times a number."""

    def __init__(self, loss, scale):
        super().__init__()
        self.loss, self.scale = loss, scale

    def compute(self, est, ref):
        return self.scale * self.loss(est, ref)


class Square(SignalLoss):
    """A mean square."""

    def compute(self, est, ref):
        return (est - ref).square().mean()


class Nothing(SignalLoss):
    """A loss that has nothing to say."""

    def compute(self, est, ref):
        return 0.0 * est.sum()


class ScaledAdversary(Adversary):
    """An adversary whose losses are times two numbers, and which stays as it is."""

    def __init__(self, scales, **options):
        torch.manual_seed(0)
        super().__init__([STFTDiscriminator(256, 2)], "hinge", "all", 1.0, 0, 0.0, segment=0, **options)
        self.scales = scales

    def __call__(self, estimate, wanted, where=None):
        taught, parts = super().__call__(estimate, wanted, where)
        return {name: self.scales[name] * value for name, value in taught.items()}, parts


class Measured(Balancer):
    """A balancer that measures the shares it gave to losses that are times `scales`."""

    def __init__(self, scales=None):
        super().__init__()
        self.scales, self.given = scales or {}, {}

    def __call__(self, losses, weights, output):
        balanced = super().__call__(losses, weights, output)
        found = {}
        for name, loss in losses.items():
            factor = torch.full_like(loss, 4096 / self.scales.get(name, 1.0))  # for layers of half precision
            found[name] = torch.autograd.grad(loss, output, factor, retain_graph=True)[0].double()
        rows = {name: g / g.norm().clamp_min(1e-300) for name, g in found.items()}
        columns = torch.stack([g.flatten() for g in rows.values()], 1)
        factors = torch.linalg.lstsq(columns, balanced.double().flatten()[:, None], driver="gelsd").solution
        for (name, row), factor in zip(rows.items(), factors[:, 0].tolist(), strict=True):
            part = float((factor * row).flatten(1).norm(dim=1).mean())
            self.given[name] = self.given.get(name, 0.0) + part
        return balanced

    def shares(self):
        whole = sum(self.given.values())
        return {name: value / whole for name, value in self.given.items()}


def objective(scales, weights, balancer=None):
    losses = {"l1": L1Loss(), "square": Square(), "spectrum": MelSpectrogramLoss(16000)}
    adversary = ScaledAdversary(scales)
    scaled = {name: Times(loss, scales[name]) for name, loss in losses.items()}
    return Objective(scaled, weights, balancer=balancer or Measured(scales), adversary=adversary)


def step(objective, seed, batch=2, length=4000, dtype=torch.float32):
    """The gradient of the scalar at one output."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 1, length, generator=generator)
    y = (x + 0.5 * torch.randn(x.shape, generator=generator)).to(dtype).requires_grad_()
    scalar, _ = objective({"y": y}, {"y": x})
    scalar.backward()
    return y.grad


def check(given, weights, within=0.02):
    whole = sum(weights.values())
    for name, share in given.items():
        assert share == pytest.approx(weights[name] / whole, rel=within), (name, given)


@settings(max_examples=15, deadline=None)
@given(
    scales=st.fixed_dictionaries(dict.fromkeys(TERMS, SCALES)),
    weights=st.fixed_dictionaries(dict.fromkeys(TERMS, SHARES)),
    batch=st.integers(1, 3),
)
@example(dict.fromkeys(TERMS, 1e-6), dict.fromkeys(TERMS, 1.0), 2)
@example(dict.fromkeys(TERMS, 1e6), dict.fromkeys(TERMS, 1.0), 2)
def test_shares_are_those_asked_for_at_any_scale(scales, weights, batch):
    total = objective(scales, weights)
    for seed in range(4):
        step(total, seed, batch)
    check(total.balancer.shares(), weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_shares_in_mixed_precision(dtype, scale):
    """The network's output has 8 or 11 bits, and so have the layers of the discriminator."""
    weights = {"l1": 0.1, "square": 2.0, "spectrum": 1.0, "adversarial": 3.0, "features": 3.0}
    total = objective(dict.fromkeys(TERMS, scale), weights)
    for seed in range(4):
        with torch.autocast("cpu", dtype):
            gradient = step(total, seed, dtype=dtype)
        assert gradient.dtype == dtype
    check(total.balancer.shares(), weights)


def test_a_term_without_a_gradient_takes_nothing_from_the_others():
    losses = {"l1": L1Loss(), "square": Square(), "nothing": Nothing()}
    weights = {"l1": 1.0, "square": 3.0, "nothing": 4.0}
    total = Objective(losses, weights, balancer=Measured())
    for seed in range(3):
        assert step(total, seed).isfinite().all()
    assert total.balancer.shares() == pytest.approx({"l1": 0.25, "square": 0.75, "nothing": 0.0}, rel=0.02)
    assert sum(total.balancer.given.values()) == pytest.approx(3 * 0.5, rel=0.02)  # its share stays away


def test_one_overflow_is_not_remembered():
    """A step that overflows is one the trainer skips; the next has the norms of those before."""
    balancer = Balancer()
    for factor in (1.0, float("inf"), float("nan"), 1.0):
        x = torch.ones(2, 3, requires_grad=True)
        gradient = balancer({"a": (factor * x).sum()}, {"a": 1.0}, x)
        assert bool(gradient.isfinite().all()) == (factor == 1.0)
    assert float(gradient.norm(dim=1).mean()) == pytest.approx(1.0)


def train(folder, per_item, rank=0, world=1):
    """Three steps of one process of several, with its rows of the batch."""
    if world > 1:
        where = f"file://{folder}/meeting"
        torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
    scales = dict(zip(TERMS, (1e-6, 1e6, 1.0, 1e3, 1e-3), strict=True))
    total = objective(scales, dict.fromkeys(TERMS, 1.0), Balancer(per_batch_item=per_item))
    total.adversary.optimizer.param_groups[0]["lr"] = 1e-3
    network = torch.nn.Conv1d(1, 1, 9, padding=4)
    network.load_state_dict({"weight": torch.linspace(-1, 1, 9).view(1, 1, 9), "bias": torch.zeros(1)})
    generator, gradients = torch.Generator().manual_seed(1), []
    for _ in range(3):
        x = torch.randn(4, 1, 2000, generator=generator)[rank::world]
        network.zero_grad()
        total({"y": network(x)}, {"y": x})[0].backward()
        average(p.grad for p in network.parameters())  # as DDP does
        gradients += [p.grad.clone() for p in network.parameters()]
    if not rank:
        torch.save((gradients, total.state()), Path(folder) / f"{world}.pt")


@pytest.mark.parametrize("per_item", [True, False])
def test_two_processes_equal_one_with_all_rows(tmp_path, per_item):
    """Over the loopback; each process runs this file."""
    root = Path(__file__).parents[2]
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    words = [sys.executable, __file__, str(tmp_path), str(int(per_item))]
    both = [subprocess.Popen([*words, str(rank), "2"], env=env) for rank in range(2)]
    train(tmp_path, per_item)
    assert [process.wait(120) for process in both] == [0, 0]
    (one, kept), (two, theirs) = (torch.load(tmp_path / f"{n}.pt") for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a.norm() > 0.01
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for name, sums in kept["balancer"].items():
        assert theirs["balancer"][name] == pytest.approx(sums, rel=1e-4), name


@pytest.mark.peer
@pytest.mark.parametrize("per_item", [True, False])
def test_the_gradient_is_that_of_the_authors_balancer(per_item):
    """The wheel of encodec 0.1.1 lacks the file, which is in its repository."""
    importlib.import_module("audiomask.frontend.torchaudio_import")  # the package imports torchaudio
    peer = pytest.importorskip("encodec.balancer")
    weights, (ours, theirs) = {"l1": 0.1, "square": 2.0, "snr": 3.0}, (None, None)
    ours = Balancer(per_batch_item=per_item)
    theirs = peer.Balancer(weights, per_batch_item=per_item)
    terms = {"l1": L1Loss(), "square": Square(), "snr": SNRLoss()}
    for seed in range(4):
        torch.manual_seed(seed)
        x, y = torch.randn(3, 1, 800), torch.randn(3, 1, 800, requires_grad=True)
        wanted = y * 1.0
        theirs.backward({name: term(wanted, x) for name, term in terms.items()}, wanted)
        leaf = y.detach().requires_grad_()
        found = ours({name: term(leaf, x) for name, term in terms.items()}, weights, leaf)
        torch.testing.assert_close(found, y.grad, rtol=1e-4, atol=1e-7)


if __name__ == "__main__":
    train(sys.argv[1], *map(int, sys.argv[2:]))
