"""A detector of marks: for each sample how likely it is marked, and every 10 ms the bits."""

import torch
from torch import nn

from audiomask.nn.conv import Conv1d
from audiomask.ports import Port
from audiomask.streaming import Sequential, Steps, StreamingModel


class Detector(StreamingModel):
    """Sound `[B, 1, T]` to `marked [B, 1, T]` and `bits [B, 16, T / 160]`, both probabilities."""

    name, task, hop = "small_detector", "detect", 160
    outputs = (
        Port("marked", type="probabilities"),
        Port("bits", type="probabilities", rate="1/160", channels=16),
    )

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.body = Sequential(Conv1d(1, width, 9), nn.Tanh(), Conv1d(width, 17, 5))

    def step(self, x, state, **inputs):
        step = Steps(self, state)
        y = torch.sigmoid(step("body", x))
        return (y[:, :1], y[:, 1:].unflatten(2, (-1, 160)).mean(3)), step.states
