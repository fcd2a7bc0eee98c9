"""Small networks for the tests of exports."""

from fractions import Fraction

import torch
from torch import nn

from audiomask.frontend.stft import Analysis, Synthesis, power
from audiomask.nn.conv import Conv1d
from audiomask.nn.recurrent import GRU
from audiomask.streaming import Delay, Port, Sequential, Steps, StreamingModel

CONFIG = {"class_path": "small_networks.Small", "init_args": {"units": 6}}


class Net(nn.Module):
    """log(|X|^2 + floor): a floor that a careless optimiser takes for zero."""

    def forward(self, x):
        return (power(x)[:, 0] + 1e-9).log().transpose(1, 2)


class Small(StreamingModel):
    """A mask from a batch-normalised convolution and a GRU, with a constant, a second output and a
    counter.
    """

    name, task, sample_rate, hop, delay = "small", "enhance", 16000, 32, 32
    strength = Port("strength", "control", default=1.0, minimum=0.0, maximum=1.0, doc="how much")
    inputs = (Port("audio"), strength)
    outputs = (Port("enhanced"), Port("level", type="float", rate=Fraction(1, 32)))

    def __init__(self, units: int = 6) -> None:
        super().__init__()
        self.analysis, self.synthesis = Analysis(64, 32), Synthesis(64, 32)
        self.net = Sequential(
            Net(), nn.Conv1d(33, 8, 1), nn.BatchNorm1d(8), Delay(1, 8), GRU(8, units), Conv1d(units, 33, 2)
        )
        self.wait = Delay(1, (2, 33))
        self.delay = 64

    def initial_state(self, batch, device=None, dtype=torch.float32):
        level = torch.full((batch, 1), 0.25, device=device, dtype=dtype)
        return super().initial_state(batch, device, dtype) | {"level": level}

    def step(self, x, state, strength=None, **controls):
        step = Steps(self, state)
        k = self.control("strength", strength, x)[:, None, None, None]
        spectrum = step("analysis", x)
        mask = torch.sigmoid(step("net", spectrum)).transpose(1, 2)[:, None]
        enhanced = step("synthesis", step("wait", spectrum) * (1 - k + k * mask))
        now = torch.cat([state["level"][:, None], mask.mean((1, 3))[:, None]], 2)
        level = now[:, :, 1:] + now[:, :, :-1]  # of this frame and the one before
        return (enhanced, level), step.states | {"level": now[:, :, -1]}


def small() -> Small:
    """A network whose normalisation has statistics of its own."""
    torch.manual_seed(0)
    model = Small().eval()
    norm = model.net[2]
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return model


class Lying(nn.Module):
    def forward(self, x):
        return x * (1.0001 if torch.compiler.is_exporting() else 1.0)


class Simple(StreamingModel):
    name = "simple"

    def __init__(self, block, **ports):
        super().__init__()
        self.block = block
        for side, value in ports.items():
            setattr(self, side, value)

    def initial_state(self, batch, device=None, dtype=torch.float32):
        return (
            self.block.initial_state(batch, device, dtype) if hasattr(self.block, "initial_state") else None
        )

    def step(self, x, state, **controls):
        return self.block.step(x, state) if hasattr(self.block, "step") else (self.block(x), state)
