"""A network of ideal binary masks is trained by their cross-entropy, and heard in validation."""

import torch

from audiomask.data.example import Example, Simulation
from audiomask.losses import Objective, SNRLoss
from audiomask.models.ibm_cnn import IBMCNN
from audiomask.tasks.masks import IdealMasks

TINY = {
    "frames": 3, "widths": (3, 2), "kernel": (3, 4), "pool": 4, "dense": (6,), "size": 32, "hop_length": 8,
    "fft": 64, "sample_rate": 16000,
}  # fmt: skip


def task(**changes) -> tuple[IdealMasks, Example]:
    torch.manual_seed(0)
    made = IdealMasks(
        IBMCNN(**TINY), Objective({"snr": SNRLoss()}), Simulation(16000, 400), relative=False, **changes
    )
    vocals, other = torch.randn(2, 2, 1, 400)
    return made, Example({"audio": vocals + other}, {"vocals": vocals, "other": other}, torch.ones(2, 1, 1))


def test_it_trains_on_the_cross_entropy_alone():
    training, example = task()
    training.train()
    torch.manual_seed(1)
    value, parts, made = training.compare(example)
    torch.manual_seed(1)
    want = training.model.cross_entropy(example.given["audio"], example.wanted["vocals"])
    assert value.item() == want.item() == parts["loss"].item()
    assert not made
    value.backward()
    assert all(p.grad.abs().max() > 0 for p in training.model.net.classifier.dense.parameters())


def test_validation_hears_the_stems_too():
    training, example = task()
    training.eval()
    with torch.no_grad():
        value, parts, made = training.compare(example)
    assert value == parts["loss"] == parts["cross_entropy"]
    assert parts["snr"].isfinite()
    torch.testing.assert_close(made["vocals"] + made["other"], example.given["audio"], rtol=0, atol=1e-5)


def test_the_autoencoder_has_another_target():
    values = []
    for reconstruct in (False, True):
        training, example = task(reconstruct=reconstruct)
        training.eval()
        with torch.no_grad():
            values.append(float(training.compare(example)[0]))
    assert abs(values[0] - values[1]) > 1e-3
