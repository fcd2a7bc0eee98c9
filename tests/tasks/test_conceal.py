"""Training a concealer: what is lost, what the network hears of it, and a run of `audiomask train`."""

import numpy as np
import pytest
import soundfile as sf
import torch
from small_trainings import ROOT, checkpoint, train

from audiomask.audio import AudioError
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.modules import LossySpeech
from audiomask.data.simulate.degrade import Degrade
from audiomask.data.simulate.packet_loss import PacketLoss, Traced
from audiomask.losses import Adversary, Balancer, L1Loss, Objective, SpectrumDiscriminator
from audiomask.masks.packets import Gilbert, Uniform, write_trace
from audiomask.models.darn import Darn
from audiomask.tasks.signals import Signals

TINY = {"channels": 8, "bands": 8, "blocks": 1, "heads": 2, "full": 8, "squeeze": 8}


THIRD = (Uniform(0.3),)


def simulation(losses=THIRD, packet_ms=(20.0,)) -> PacketLoss:
    return PacketLoss(Degrade(16000, 16000), losses, packet_ms)


def task(blind: bool = False, losses=THIRD) -> Signals:
    torch.manual_seed(0)
    task = Signals(Darn(blind=blind, **TINY), Objective({"l1": L1Loss()}), simulation(losses))
    task.log_dict = lambda *args, **kwargs: None
    return task


def raw(rows: int, length: int = 24000) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    speech = 0.1 * torch.randn(rows, length, generator=g)
    noise = 0.1 * torch.randn(rows, 3, length, generator=g)
    return {"speech": speech, "noise": noise, "seed": torch.arange(rows) + 5}


def test_losses_are_whole_packets_of_the_drawn_lengths_at_the_models_rates():
    lost = simulation([Uniform(0.1), Uniform(0.6)], [10.0, 40.0]).lose(16000, torch.arange(400))
    edges = (lost[:, 1:] != lost[:, :-1]).nonzero()
    assert (edges[:, 1] + 1).remainder(160).max() == 0
    rates = lost.float().mean(1)
    assert rates.mean() == pytest.approx(0.35, abs=0.03)
    assert ((rates > 0.25) & (rates < 0.42)).float().mean() < 0.15  # one rate or the other, hardly between
    fine = edges[(edges[:, 1] + 1).remainder(640) > 0, 0].unique()
    assert len(fine) == pytest.approx(200, abs=50)


def test_a_rows_losses_are_its_own():
    t = simulation([Gilbert(0.1, 0.5), Uniform(0.3)], [10.0, 20.0])
    seeds = torch.tensor([4, 9, 2**61])
    together = t.lose(8000, seeds)
    assert torch.equal(together, torch.cat([t.lose(8000, seed[None]) for seed in seeds]))


@pytest.mark.parametrize("blind", [False, True])
def test_the_network_hears_zeros_and_should_give_what_was_sent(blind):
    t = task(blind)
    example = t.simulation.example(raw(3))
    lost = t.simulation.lose(16000, raw(3)["seed"])
    heard, sent = example.given["audio"][:, 0], example.wanted["sent"][:, 0]
    assert 0.1 < lost.float().mean() < 0.6
    assert not heard[lost].any()
    assert torch.equal(heard[~lost], sent[~lost])
    assert torch.equal(example.given["lost"][:, 0] > 0, lost)
    assert torch.equal(example.where > 0, lost)
    assert sent.square().mean() > heard.square().mean() > 0
    informed = {} if blind else {"lost": example.given["lost"]}
    assert torch.equal(t.run(example)[0]["sent"], t.model(example.given["audio"], **informed))


def test_a_row_of_which_all_is_lost_does_not_count_more_than_others():
    t = task(losses=[Uniform(1.0)])
    total, _, made = t.compare(t.simulation.example(raw(2)))
    sent = t.simulation.example(raw(2)).wanted["sent"]
    level = sent.square().mean(-1, keepdim=True).sqrt()
    assert total.item() == pytest.approx(((made["sent"] - sent).abs() / level).mean().item(), rel=1e-5)


def test_no_losses_are_refused():
    with pytest.raises(AudioError, match="at least one loss model"):
        simulation(losses=())


@pytest.fixture
def traced(tmp_path):
    """Three recordings with traces, in a data directory that says where they are relative to itself."""
    g = np.random.default_rng(0)
    tables = {"wav.scp": {}, "utt2trace": {}}
    for key, seconds in (("a", 1.0), ("b", 0.73), ("c", 2.0)):
        sf.write(tmp_path / f"{key}.wav", 0.1 * g.standard_normal(int(16000 * seconds)), 16000)
        write_trace(tmp_path / f"{key}.txt", g.random(100) < 0.3)
        tables["wav.scp"][key], tables["utt2trace"][key] = f"{key}.wav", f"{key}.txt"
    DataDir(tables).write(tmp_path)
    return tmp_path


def test_validation_uses_the_traces(traced):
    rows = Traced(traced, 16000)
    assert [row["key"] for row in (rows[i] for i in range(len(rows)))] == ["a", "b", "c"]
    lines = (traced / "b.txt").read_text().split()
    b = rows[1]
    assert b["clean"].shape == b["lost"].shape == (11680,)
    assert b["lost"][::320].tolist() == [line == "1" for line in lines[:37]]


def test_traces_that_are_missing_or_short_are_named(traced):
    (traced / "c.txt").write_text("0\n1\n")
    with pytest.raises(AudioError, match=r"c.txt: has 2 packets, and the signal 100"):
        Traced(traced, 16000)[2]
    (traced / "utt2trace").unlink()
    with pytest.raises(AudioError, match="no utt2trace"):
        Traced(traced, 16000)


def test_training_runs_and_validates(data, traced, tmp_path):
    tiny = {f"model__model__{key}": value for key, value in TINY.items()}
    train(data, tmp_path / "run", 6, recipe=ROOT / "recipes/conceal/darn.yaml", data__valid=traced, **tiny)
    state = checkpoint(tmp_path / "run")
    assert (state["global_step"], state["objective"]["adversary"]["step"]) == (6, 6)
    assert state["objective"]["balancer"]["distance"][1] > 5
    assert (tmp_path / "run/model/model.safetensors").exists()


def test_training_against_an_adversary_follows_its_gradient():
    """With the adversary's shares at 0 it is the loss's gradient, as in training without one."""
    t = task()
    alone = t.training_step(raw(2), 0)
    wanted = torch.autograd.grad(alone, list(t.model.parameters()), allow_unused=True)
    adversary = Adversary([SpectrumDiscriminator(256, 64, 2)], first=0)
    shares = {"adversarial": 0.0, "features": 0.0}
    t.objective = Objective({"l1": L1Loss()}, shares, balancer=Balancer("l1"), adversary=adversary)
    got = torch.autograd.grad(t.training_step(raw(2), 0), list(t.model.parameters()), allow_unused=True)
    for a, b in zip(wanted, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    t.objective.weights["features"] = 1.0
    still = task()
    (moved,) = torch.autograd.grad(t.training_step(raw(2), 0), t.model.net.decode.weight)
    (plain,) = torch.autograd.grad(still.training_step(raw(2), 0), still.model.net.decode.weight)
    assert not torch.allclose(moved, plain, rtol=1e-2)


def test_the_data_module_hands_out_what_the_simulation_takes(data, traced, tmp_path):
    module = LossySpeech(
        str(data / "speech_train"), str(data / "noise_train"), str(traced), sample_rate=16000
    )
    batch = next(iter(module.val_dataloader()))
    example = simulation().example(batch)
    assert example.given["audio"].shape == example.wanted["sent"].shape == (1, 1, 16000)
    assert torch.equal(example.given["lost"][0, 0] > 0, batch["lost"][0])


def test_a_checkpoint_without_what_the_objective_has_now_is_refused():
    t = task()
    t.on_load_checkpoint({})  # of a run whose objective has nothing to keep
    t.objective = Objective({"l1": L1Loss()}, balancer=Balancer())
    with pytest.raises(AudioError, match=r"holds no 'balancer' of the objective.*--fresh"):
        t.on_load_checkpoint({"objective": {}})
    kept = {}
    t.on_save_checkpoint(kept)
    t.on_load_checkpoint(kept)
