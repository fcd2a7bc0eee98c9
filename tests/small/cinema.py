"""A separator of a film's sound: three stems of two channels each, of an input of two channels."""

from torch import nn

from audiomask.nn.conv import Conv1d
from audiomask.ports import Port
from audiomask.streaming import Sequential, Steps, StreamingModel

STEMS = ("speech", "music", "effects")


class Cinema(StreamingModel):
    """A mixture `[B, 2, T]` to speech, music and effects, `[B, 2, T]` each."""

    name, task = "small_cinema", "separate"
    inputs = (Port("audio", channels=2),)
    outputs = tuple(Port(stem, channels=2) for stem in STEMS)

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.net = Sequential(Conv1d(2, width, 9, lookahead=4), nn.Tanh(), Conv1d(width, 6, 5, lookahead=2))
        self.compose(self.net)

    def step(self, x, state, **inputs):
        step = Steps(self, state)
        y = step("net", x)
        return tuple(y.split(2, 1)), step.states
