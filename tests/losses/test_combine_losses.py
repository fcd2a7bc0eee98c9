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
    assert parts["a"].item() == losses.l1_loss(est, ref).item()
    assert parts["b"].item() == losses.snr_loss(est, ref).item()
    assert total.item() == pytest.approx(parts["a"].item() + 0.1 * parts["b"].item())
    assert not any(part.requires_grad for part in parts.values())
    total.backward()
    assert est.grad.abs().max() > 0


def test_skip_counts_for_all():
    est, ref = signals()
    total, _ = losses.WeightedSum({"a": losses.L1Loss(), "b": losses.L1Loss(skip=500)}, skip=1000)(est, ref)
    expected = losses.l1_loss(est[:, 1000:], ref[:, 1000:]) + losses.l1_loss(est[:, 1500:], ref[:, 1500:])
    assert total.item() == pytest.approx(expected.item())


def test_weight_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="snrr"):
        losses.WeightedSum({"snr": losses.SNRLoss()}, {"snrr": 1.0})


def test_a_yaml_composes_it():
    parser = ArgumentParser()
    parser.add_subclass_arguments(losses.WeightedSum, "loss")
    settings = {
        "class_path": "audiomask.losses.WeightedSum",
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
    total, parts = loss(*signals())
    assert torch.isfinite(total)
    assert list(parts) == ["spectrum", "stft", "snr"]
    assert loss.losses["spectrum"].under == 2.0
    assert not loss.state_dict()  # windows and weights are settings, not something a checkpoint holds
