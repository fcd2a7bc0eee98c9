"""A separator into four stems, each an output of its own."""

from torch import nn

from audiomask.nn.conv import Conv1d
from audiomask.ports import Port
from audiomask.streaming import Sequential, Steps, StreamingModel

STEMS = ("drums", "bass", "other", "vocals")


class Stems(StreamingModel):
    """A mixture `[B, 1, T]` to four sounds `[B, 1, T]`."""

    name, task = "small_stems", "separate"
    outputs = tuple(Port(stem) for stem in STEMS)

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.net = Sequential(Conv1d(1, width, 9, lookahead=4), nn.Tanh(), Conv1d(width, 4, 5, lookahead=2))
        self.compose(self.net)

    def step(self, x, state, **inputs):
        step = Steps(self, state)
        y = step("net", x)
        return tuple(y.split(1, 1)), step.states
