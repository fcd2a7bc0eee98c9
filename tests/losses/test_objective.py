"""Weighted sums, and objectives: their gradient is that of the balanced sum, whatever stands beside."""

import copy

import pytest
import torch
from jsonargparse import ArgumentParser

from audiomask import losses


def signals():
    generator = torch.Generator().manual_seed(0)
    ref = torch.randn(2, 4000, generator=generator) * 0.1
    return ref + torch.randn(2, 4000, generator=generator) * 0.05, ref


def test_sum_is_weighted_and_parts_are_not():
    est, ref = signals()
    both = losses.WeightedSum({"a": losses.L1Loss(), "b": losses.SNRLoss()}, {"b": 0.1})
    total, parts = both(est.requires_grad_(), ref)
    assert parts["a"].item() == losses.L1Loss()(est, ref).item()
    assert parts["b"].item() == losses.SNRLoss()(est, ref).item()
    assert total.item() == pytest.approx(parts["a"].item() + 0.1 * parts["b"].item())
    assert not any(part.requires_grad for part in parts.values())
    total.backward()
    assert est.grad.abs().max() > 0


def test_skip_counts_for_all():
    est, ref = signals()
    total, _ = losses.WeightedSum({"a": losses.L1Loss(), "b": losses.L1Loss(skip=500)}, skip=1000)(est, ref)
    expected = losses.L1Loss()(est[:, 1000:], ref[:, 1000:]) + losses.L1Loss()(est[:, 1500:], ref[:, 1500:])
    assert total.item() == pytest.approx(expected.item())


def test_weight_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="snrr"):
        losses.WeightedSum({"snr": losses.SNRLoss()}, {"snrr": 1.0})


def adversary(**options) -> losses.Adversary:
    torch.manual_seed(0)
    return losses.Adversary(
        [losses.SpectrumDiscriminator(256, 64, 2)], **{"first": 0, "segment": 0} | options
    )


def named(*tensors):
    return {"sound": tensors[0][:, None]}, {"sound": tensors[1][:, None]}


def gradient_of(objective, est, ref, **more):
    est = est.clone().requires_grad_()
    scalar, parts = objective(*named(est, ref), **more)
    return torch.autograd.grad(scalar, est)[0], parts


def test_an_objective_of_losses_alone_is_their_weighted_sum():
    est, ref = signals()
    terms, weights = {"a": losses.L1Loss(), "b": losses.SNRLoss()}, {"b": 0.1}
    wanted, parts = losses.WeightedSum(terms, weights, skip=100)(est, ref)
    scalar, found = losses.Objective(terms, weights, skip=100)(*named(est, ref))
    assert scalar == wanted == found.pop("loss")
    assert found == parts


def test_with_an_adversary_it_is_the_sum_of_all():
    est, ref = signals()
    est, ref = est / 0.1, ref / 0.1
    weights = {"l1": 2.0, "adversarial": 0.5, "features": 3.0}
    objective = losses.Objective({"l1": losses.L1Loss()}, weights, adversary=adversary())
    got, parts = gradient_of(objective, est, ref)
    leaf = est.clone().requires_grad_()
    taught, _ = adversary()(leaf[:, None], ref[:, None])
    total = 2 * losses.L1Loss()(leaf, ref) + 0.5 * taught["adversarial"] + 3 * taught["features"]
    torch.testing.assert_close(got, torch.autograd.grad(total, leaf)[0])
    assert parts["features"] == taught["features"]
    assert parts["loss"] == 2 * parts["l1"]  # what validation can be compared with


def test_with_a_balancer_it_is_the_balanced_sum_and_outside_terms_stay_as_they_are():
    est, ref = signals()
    terms = {"l1": losses.L1Loss(), "snr": losses.SNRLoss()}
    weights = {"l1": 1.0, "snr": 3.0, "commitment": 0.25}
    objective = losses.Objective(terms, weights, balancer=losses.Balancer(), outside=["commitment"])
    got, parts = gradient_of(objective, est, ref, outside={"commitment": torch.tensor(8.0)})
    leaf = est.clone().requires_grad_()
    values = {"l1": losses.L1Loss()(leaf, ref), "snr": losses.SNRLoss()(leaf, ref)}
    torch.testing.assert_close(got, losses.Balancer()(values, weights, leaf))
    assert parts["loss"] == parts["l1"] + 3 * parts["snr"] + 2
    scalar, _ = objective(*named(est, ref), outside={"commitment": torch.tensor(8.0, requires_grad=True)})
    scalar.backward()  # without a graph to the outputs there is one to the term
    with pytest.raises(ValueError, match=r"terms \[\] are given and \['commitment'\] were named"):
        objective(*named(est, ref))


def test_the_term_outside_has_its_weight():
    est, ref = signals()
    objective = losses.Objective(
        {"l1": losses.L1Loss()}, {"bits": 4.0}, adversary=adversary(), outside=["bits"]
    )
    bits = torch.tensor(1.0, requires_grad=True)
    scalar, _ = objective(*named(est.requires_grad_(), ref), outside={"bits": bits * 3})
    scalar.backward()
    assert bits.grad == 12


def test_a_sum_within_is_balanced_as_one():
    est, ref = signals()
    inner = losses.WeightedSum({"l1": losses.L1Loss(), "snr": losses.SNRLoss()}, {"snr": 0.1})
    objective = losses.Objective({"distance": inner}, balancer=losses.Balancer("distance"))
    got, parts = gradient_of(objective, est, ref)
    leaf = est.clone().requires_grad_()
    total, within = inner(leaf, ref)
    torch.testing.assert_close(got, torch.autograd.grad(total, leaf)[0])
    assert parts == {**within, "distance": total, "loss": total}


def test_every_output_and_channel_is_a_row():
    g = torch.Generator().manual_seed(0)
    outputs = {"a": torch.randn(2, 2, 400, generator=g), "b": torch.randn(2, 1, 300, generator=g)}
    wanted = {name: torch.randn(x.shape, generator=g) for name, x in outputs.items()}
    l1 = sum((outputs[name] - wanted[name]).abs().mean() for name in outputs) / 2
    objective = losses.Objective({"l1": losses.L1Loss()})
    assert objective(outputs, wanted)[0].item() == pytest.approx(l1.item())
    plain = objective.eval()
    balanced = losses.Objective({"l1": losses.L1Loss()}, balancer=losses.Balancer("l1", per_batch_item=False))
    leaves = {name: x.clone().requires_grad_() for name, x in outputs.items()}
    gradients = [
        torch.autograd.grad(each(leaves, wanted)[0], list(leaves.values())) for each in (plain, balanced)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_the_adversary_hears_several_outputs_as_rows():
    x, y = torch.randn(2, 1, 900), torch.randn(2, 1, 900)
    objective = losses.Objective({"l1": losses.L1Loss()}, adversary=adversary())
    seen = []
    objective.adversary.networks[0].register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    leaves = {"a": (x + 1).requires_grad_(), "b": (y + 1).requires_grad_()}
    scalar, _ = objective(leaves, {"b": y, "a": x}, torch.ones(2, 900))
    assert torch.equal(seen[0], torch.cat([x, y]))
    assert all(g.any() for g in torch.autograd.grad(scalar, list(leaves.values())))


def test_validation_neither_trains_nor_asks_the_adversary():
    est, ref = signals()
    objective = losses.Objective({"l1": losses.L1Loss()}, adversary=adversary()).eval()
    scalar, parts = objective(*named(est, ref))
    assert objective.adversary.step == 0
    assert scalar == parts["loss"] == losses.L1Loss()(est, ref)
    with torch.no_grad():
        objective.train()(*named(est, ref))
    assert objective.adversary.step == 0


def test_it_resumes():
    est, ref = signals()

    def make():
        return losses.Objective({"l1": losses.L1Loss()}, balancer=losses.Balancer(), adversary=adversary())

    one, two = make(), make()
    gradient_of(one, est, ref)
    two.restore(copy.deepcopy(one.state()))
    assert torch.equal(gradient_of(one, est, ref)[0], gradient_of(two, est, ref)[0])
    with pytest.raises(KeyError, match="balancer"):
        two.restore({})
    assert not make().state_dict()  # nothing of it is the network's


def test_names_are_checked():
    with pytest.raises(ValueError, match="adversarial"):
        losses.Objective({"l1": losses.L1Loss()}, {"adversarial": 1.0})
    with pytest.raises(ValueError, match="a name of its own"):
        losses.Objective({"loss": losses.L1Loss()})
    with pytest.raises(ValueError, match="a name of its own"):
        losses.Objective({"features": losses.L1Loss()}, adversary=adversary())


def test_a_yaml_composes_it():
    parser = ArgumentParser()
    parser.add_subclass_arguments(losses.Objective, "loss")
    settings = {
        "class_path": "audiomask.losses.Objective",
        "init_args": {
            "skip": 100,
            "losses": {
                "spectrum": {
                    "class_path": "audiomask.losses.CompressedSpectralLoss",
                    "init_args": {"under": 2.0, "fft_sizes": [256, 512]},
                },
                "stft": {
                    "class_path": "audiomask.losses.MultiResolutionSTFTLoss",
                    "init_args": {"resolutions": [[256, 64, 256]]},
                },
                "snr": {"class_path": "audiomask.losses.SNRLoss", "init_args": {"max_db": 30.0}},
            },
            "weights": {"snr": 0.01},
        },
    }
    loss = parser.instantiate(parser.parse_object({"loss": settings})).loss
    total, parts = loss(*named(*signals()))
    assert torch.isfinite(total)
    assert list(parts) == ["spectrum", "stft", "snr", "loss"]
    assert loss.losses["spectrum"].under == 2.0
    assert not loss.state_dict()  # windows and weights are settings, not something a checkpoint holds
