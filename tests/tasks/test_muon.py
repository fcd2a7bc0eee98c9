import copy

import pytest
import torch
from torch import nn

from audiomask.models.prism import Banded
from audiomask.nn.recurrent import GRU, LSTM
from audiomask.tasks.muon import Muon, groups, orthogonalise


def _descend(model, optimizer, steps=5):
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=g)
        optimizer.step()


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (16, 200), (3, 64, 48)])
def test_singular_values_come_near_one_and_the_directions_stay(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    x = u.mT @ orthogonalise(g) @ vh.mT
    s = torch.diagonal(x, dim1=-2, dim2=-1)
    assert s.min() > 0.3
    assert s.max() < 1.35
    assert 0.8 < s.mean() < 1.1
    assert (x - torch.diag_embed(s)).abs().max() < 0.1


@pytest.mark.parametrize("shape", [(32, 32), (64, 24), (24, 64)])
def test_a_matrix_moves_as_with_the_optimizer_of_torch(shape):
    ours = nn.Linear(shape[1], shape[0], bias=False)
    theirs = copy.deepcopy(ours)
    start = ours.weight.detach().clone()
    _descend(ours, Muon(groups(ours, 0.01), 1e-2))
    peer = torch.optim.Muon(
        theirs.parameters(), 1e-2, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    _descend(theirs, peer)
    moved = (theirs.weight - start).norm()
    assert (ours.weight - theirs.weight).norm() < 0.05 * moved  # both round to bfloat16 on the way


def test_vectors_and_embeddings_move_as_with_adamw():
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4), nn.Linear(32, 32))
    twin = copy.deepcopy(model)
    _descend(model, Muon(groups(model, 0.01), 1e-2))
    plain = [p for p in twin.parameters() if p.ndim == 1]
    _descend(
        twin,
        torch.optim.AdamW(
            [{"params": plain, "weight_decay": 0.0}, {"params": [twin[1].weight], "weight_decay": 0.01}],
            1e-2,
            (0.9, 0.98),
        ),
    )
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q) == (name != "2.weight"), name


def test_gates_and_projections_are_taken_apart():
    model = nn.ModuleDict({"gru": GRU(32, 16), "lstm": LSTM(32, 16), "qkv": nn.Linear(16, 48)})
    model["bands"] = Banded(4, 16, 24)
    maps = {id(p): g["maps"] for g in groups(model, 0.01) for p in g["params"]}
    assert {n: maps[id(p)] for n, p in model.named_parameters() if p.ndim > 1} == {
        "gru.weight_ih_l0": 3,
        "gru.weight_hh_l0": 3,
        "lstm.weight_ih_l0": 4,
        "lstm.weight_hh_l0": 4,
        "qkv.weight": 3,
        "bands.weight": 4,
    }


def test_a_part_with_a_small_gradient_moves_as_far():
    model = nn.ModuleDict({"qkv": nn.Linear(16, 48, bias=False)})
    w = model.qkv.weight
    start = w.detach().clone()
    w.grad = torch.randn(48, 16) * torch.tensor([1.0, 1e-3, 30.0]).repeat_interleave(16)[:, None]
    Muon(groups(model, 0.0), 1e-2).step()
    q, k, v = (w - start).detach().reshape(3, -1).norm(dim=1).tolist()
    assert k == pytest.approx(q, rel=0.2)
    assert v == pytest.approx(q, rel=0.2)


def test_resumed_from_its_state_it_goes_on_alike():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 4))
    optimizer = Muon(groups(model, 0.01), 1e-2)
    _descend(model, optimizer, 2)
    twin = copy.deepcopy(model)
    again = Muon(groups(twin, 0.01), 1e-2)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _descend(model, optimizer, 2)
    _descend(twin, again, 2)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
