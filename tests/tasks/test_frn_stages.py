"""FRN is trained in two stages, the second of which begins with the weights of the first."""

import torch

from audiomask import weights
from audiomask.data.simulate.degrade import Degrade
from audiomask.data.simulate.packet_loss import PacketLoss
from audiomask.losses import MultiResolutionSTFTLoss, Objective
from audiomask.masks.packets import Gilbert, Uniform
from audiomask.models.frn import FRN
from audiomask.tasks.muon import Muon, groups
from audiomask.tasks.signals import Signals

TINY = {"size": 64, "units": 8, "hidden": 12, "blocks": 1, "memory": 8, "bands": 6, "filters": 2}


def stage(losses, start_from=None, **more) -> Signals:
    torch.manual_seed(0)
    loss = MultiResolutionSTFTLoss(log_magnitude=0.0, magnitude=2.24, exponent=0.3)
    model = FRN(**TINY, sample_rate=16000, **more)
    task = Signals(
        model,
        Objective({"spectrum": loss}),
        PacketLoss(Degrade(16000, 2048, clean=1.0), losses),
        relative=False,
        start_from=start_from,
    )
    return task.train()


def steps(task: Signals, count: int) -> list[float]:
    """Losses of so many steps on one batch, with the optimizer of the recipes."""
    g = torch.Generator().manual_seed(0)
    batch = {
        "speech": 0.1 * torch.randn(2, 3072, generator=g),
        "noise": torch.zeros(2, 3, 3072),
        "seed": torch.arange(2),
    }
    example = task.simulation.example(batch)
    optimizer, found = Muon(groups(task.model, 0.0, False), 3e-3), []
    for _ in range(count):
        loss = task.compare(example)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_the_predictor_learns_and_its_weights_start_the_next_stage(tmp_path):
    first = stage([Uniform(0.0)], stage="predictor")
    before = {name: value.clone() for name, value in first.model.state_dict().items()}
    losses = steps(first, 30)
    assert losses[-1] < 0.9 * losses[0]
    changed = {
        name.split(".")[0]
        for name, value in first.model.state_dict().items()
        if (value != before[name]).any()
    }
    assert changed == {"predictor"}
    config = {"class_path": "audiomask.models.frn.FRN", "init_args": {**TINY, "stage": "predictor"}}
    weights.save(tmp_path / "first", first.model, config)
    second = stage([Gilbert(0.5, 0.5)], start_from=str(tmp_path / "first"))
    own, learnt = second.model.state_dict(), first.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in learnt.items())
    losses = steps(second, 30)
    assert losses[-1] < losses[0]
    moved = [
        name for name, value in second.model.state_dict().items() if not torch.equal(value, learnt[name])
    ]
    assert len(moved) == len(learnt)
