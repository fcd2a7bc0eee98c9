"""A network that hears noise beside the sound, as diffusion models do."""

import torch
from torch import nn

from audiomask.nn.conv import Conv1d
from audiomask.ports import Port
from audiomask.streaming import Sequential, Steps, StreamingModel


class Noisy(StreamingModel):
    """Sound and noise `[B, 1, T]` to sound."""

    name, task = "small_noisy", "enhance"
    inputs = (Port("audio"), Port("noise", type="noise"))
    outputs = (Port("enhanced"),)

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.net = Sequential(Conv1d(2, width, 9, lookahead=4), nn.Tanh(), Conv1d(width, 1, 5))
        self.compose(self.net)

    def step(self, x, state, noise=None, **inputs):
        step = Steps(self, state)
        return step("net", torch.cat([x, 0.1 * noise], 1)), step.states
