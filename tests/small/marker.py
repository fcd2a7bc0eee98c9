"""A marker that hides sixteen bits in a sound."""

import torch
from torch import nn

from audiomask.nn.conv import Conv1d
from audiomask.ports import Port
from audiomask.streaming import Residual, Steps, StreamingModel


class Marker(StreamingModel):
    """Sound `[B, 1, T]` and bits `[B, 16]` to marked sound."""

    name, task = "small_marker", "mark"
    inputs = (Port("audio"), Port("message", "control", "bits", channels=16, default=(0, 1) * 8))
    outputs = (Port("marked"),)

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 1)
        self.net = Residual(Conv1d(1, width, 9, lookahead=4), nn.Tanh(), Conv1d(width, 1, 5), shape=1)
        self.compose(self.net)

    def step(self, x, state, message=None, **inputs):
        bits = self.control("message", message, x).to(x.dtype)
        step = Steps(self, state)
        return step("net", x * (1 + 0.1 * torch.tanh(self.embed(bits)))[:, :, None]), step.states
