"""The periodic extension repeats a periodic signal exactly, whatever the place and length of the loss."""

import contract
import pytest
import torch

from audiomask.nn.extension import Extension
from audiomask.streaming import Port, StreamingModel

RATES = (16000, 48000)


class Model(StreamingModel):
    """The extension with the ports of a concealer."""

    name = "extension"
    inputs = (Port("audio"), Port("lost", "stream", type="lost"))

    def __init__(self, rate: int):
        super().__init__()
        self.sample_rate, self.hop = rate, rate // 100
        self.extension = Extension(rate, self.hop)

    def initial_state(self, batch, device=None, dtype=torch.float32):
        return self.extension.initial_state(batch, device, dtype)

    def step(self, x, state, lost=None, **controls):
        (y, _, _), state = self.extension.step(x, state, lost > 0.5)
        return y, state


def periodic(period: int, length: int) -> torch.Tensor:
    """Noise that repeats itself, `[length]`."""
    one = torch.randn(period, generator=torch.Generator().manual_seed(period))
    return 0.1 * one.repeat(length // period + 1)[:length]


def fill(rate: int, x: torch.Tensor, *losses: tuple[int, int]):
    e = Extension(rate, rate // 100)
    lost = torch.zeros(len(x), dtype=torch.bool)
    for start, stop in losses:
        lost[start:stop] = True
    (y, period, run), _ = e.step((x * ~lost)[None, None], e.initial_state(1), lost[None, None])
    return y[0, 0], period[0], run[0], lost


CONTRACT = [f for f in contract.CONTRACT if f is not contract.gradients_flow]  # it has no parameters


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda f: f.__name__)
def test_contract(promise):
    promise(Model(48000 if promise is contract.onnx_equals_torch else 16000))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("ms", [5.0, 7.3, 11.6, 15.0])
@pytest.mark.parametrize(("start_ms", "loss_ms"), [(60.0, 20.0), (63.7, 20.0), (58.1, 133.0), (71.0, 5.0)])
def test_a_periodic_signal_goes_on(rate, ms, start_ms, loss_ms):
    period = round(ms * rate / 1000)
    x = periodic(period, rate // 4)
    start = round(start_ms * rate / 1000)
    y, found, _, lost = fill(rate, x, (start, start + round(loss_ms * rate / 1000)))
    assert found[-1] % period == 0
    assert lost.any()
    assert (y - x).abs().max() < 1e-6


def test_a_period_too_short_is_repeated_in_multiples():
    x = periodic(37, 4000)  # 432 Hz at 16 kHz: below 5 ms
    y, found, _, _ = fill(16000, x, (1000, 1320))
    assert found[-1] in range(37 * 3, 241, 37)
    assert (y - x).abs().max() < 1e-6


def test_a_second_loss_goes_on_from_what_filled_the_first():
    """5 ms of island are not enough to find a period of 11 ms in; what filled the gap before is."""
    x = periodic(176, 4000)
    y, _, _, _ = fill(16000, x, (1000, 1320), (1400, 2000))
    assert (y - x).abs().max() < 1e-6


def test_received_samples_stay_and_runs_are_counted():
    x = torch.randn(1600, generator=torch.Generator().manual_seed(0))
    y, _, run, lost = fill(16000, x, (400, 900), (1500, 1600))
    assert torch.equal(y[~lost], x[~lost])
    assert run.tolist() == [0, 0, 80, 240, 400, 0, 0, 0, 0, 100]


def test_the_seam_has_no_step():
    """What is repeated begins where the signal stopped, though the period does not fit."""
    n = torch.arange(4000)
    x = 0.1 * torch.sin(2 * torch.pi * n * n / 4e5)  # a chirp
    y, _, _, _ = fill(16000, x, (2000, 2600))
    assert (y[2000] - y[1999]).abs() < 2 * (x[1:] - x[:-1]).abs()[1900:2100].max()


def test_silence_is_filled_with_silence():
    y, _, _, _ = fill(16000, torch.zeros(1600), (320, 960))
    assert not y.any()


def test_a_rate_that_has_no_8_khz_in_it_is_refused():
    with pytest.raises(ValueError, match="44100"):
        Extension(44100, 441)
