import numpy as np
import pytest
import torch
from contract import CONTRACT, as_model

from audiomask.frontend.fbank import Fbank
from audiomask.frontend.torchaudio_import import torchaudio
from audiomask.streaming import Sequential

kaldi = torchaudio.compliance.kaldi


def noise(samples=8000, channels=1, seed=0):
    return torch.randn(1, channels, samples, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"num_mel_bins": 80}),
        ({"window": "hamming", "bands": 23}, {"window_type": "hamming", "num_mel_bins": 23}),
        ({"window": "hann", "bands": 40, "preemphasis": 0.0}, {"window_type": "hanning", "num_mel_bins": 40,
                                                              "preemphasis_coefficient": 0.0}),
        ({"window": "rect", "remove_dc": False}, {"window_type": "rectangular", "num_mel_bins": 80,
                                                  "remove_dc_offset": False}),
        ({"low": 60.0, "high": -400.0}, {"low_freq": 60.0, "high_freq": -400.0, "num_mel_bins": 80}),
        ({"sample_rate": 8000, "bands": 23}, {"sample_frequency": 8000.0, "num_mel_bins": 23}),
        ({"length_ms": 32.0, "hop_ms": 8.0}, {"frame_length": 32.0, "frame_shift": 8.0, "num_mel_bins": 80}),
    ],
)  # fmt: skip
def test_equals_torchaudio(ours, theirs):
    x = noise() + 0.01
    block = Fbank(**ours)
    count = block.complete(x.shape[2])
    expected = kaldi.fbank(32768 * x[0], **theirs)
    assert expected.shape[0] == count
    # relative: float32 alone makes either differ from its own float64 result by 1e-4 of a neper
    torch.testing.assert_close(block(x)[0, 0, :count], expected, rtol=1e-4, atol=1e-4)
    exact = kaldi.fbank(32768 * x[0].double(), **theirs)  # with mel weights that were rounded to float32
    torch.testing.assert_close(block.double()(x.double())[0, 0, :count], exact, rtol=1e-5, atol=1e-4)


def test_silence_is_the_floor():
    y = Fbank()(torch.zeros(1, 1, 1600))
    torch.testing.assert_close(y, torch.full_like(y, np.log(np.finfo(np.float32).eps)))


@pytest.mark.parametrize("lag", [0, 1, 80, 100, 160, 333])
def test_frames_stay_on_the_lattice_of_the_signal_when_the_input_lags(lag):
    x = noise(160 * 20)
    expected = Fbank()(x)
    block = Fbank()
    block.align(lag)
    assert ((lag + block.delay) % block.hop) == 0
    late = torch.nn.functional.pad(x, (lag, 160 - lag % 160))
    y, _ = block.step(late, block.initial_state(1))
    y = y[:, :, block.lag_out :]
    torch.testing.assert_close(y[:, :, :17], expected[:, :, :17], rtol=0, atol=1e-4)


@pytest.mark.parametrize("phase", range(0, 160, 37))
def test_the_future_never_changes_the_past(phase):
    block = Fbank()
    x = noise(160 * 12)
    changed = x.clone()
    at = 160 * 6 + phase
    changed[:, :, at:] += 0.3
    a, _ = block.step(x, block.initial_state(1))
    b, _ = block.step(changed, block.initial_state(1))
    first = int((a != b).any(dim=3)[0, 0].nonzero()[0])
    # the newest frame of a step ends 80 samples (3 hops less a frame) before the step does
    assert first == (at + 80) // 160
    assert torch.equal(a[:, :, :first], b[:, :, :first])


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("channels", [1, 2])
def test_keeps_the_streaming_contract(clause, channels):
    clause(as_model(Fbank(channels=channels, bands=40), (channels,)))


def test_composes_with_other_blocks():
    chain = Sequential(Fbank())
    assert (chain.hop, chain.delay, chain.latency) == (160, 320, 480)
    assert chain(noise(1601)).shape == (1, 1, 11, 80)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="hop <= length"):
        Fbank(length_ms=5.0, hop_ms=10.0)
    with pytest.raises(ValueError, match="povey"):
        Fbank(window="kaiser")
