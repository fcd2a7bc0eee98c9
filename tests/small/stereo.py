"""A separator of stereo sound: the two channels of a stem are channels of one output."""

from torch import nn

from audiomask.nn.conv import Conv1d
from audiomask.ports import Port
from audiomask.streaming import Sequential, Steps, StreamingModel


class Stereo(StreamingModel):
    """A mixture `[B, 2, T]` to voice and backing, `[B, 2, T]` each."""

    name, task = "small_stereo", "separate"
    inputs = (Port("audio", channels=2),)
    outputs = (Port("voice", channels=2), Port("backing", channels=2))

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.net = Sequential(Conv1d(2, width, 9, lookahead=4), nn.Tanh(), Conv1d(width, 4, 5))
        self.compose(self.net)

    def step(self, x, state, **inputs):
        step = Steps(self, state)
        y = step("net", x)
        return tuple(y.split(2, 1)), step.states
