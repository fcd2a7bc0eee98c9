"""A network that makes three samples of one."""

from torch import nn

from audiomask.nn.conv import Conv1d, ConvTranspose1d
from audiomask.ports import Port
from audiomask.streaming import Sequential, Steps, StreamingModel


class Upsampler(StreamingModel):
    """Sound `[B, 1, T]` at 16 kHz to `[B, 1, 3 T]` at 48 kHz."""

    name, task = "small_upsampler", "upsample"
    outputs = (Port("upsampled", rate=3),)

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        up = ConvTranspose1d(width, 1, 9, 3, trim=6)
        self.net = Sequential(Conv1d(1, width, 7, lookahead=3), nn.Tanh(), up)
        self.compose(self.net)

    def step(self, x, state, **inputs):
        step = Steps(self, state)
        return step("net", x), step.states
