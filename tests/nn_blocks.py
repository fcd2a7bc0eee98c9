"""One small block of every kind and setting, with the shape of a frame that enters it: what the contract
runs over.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from audiomask.frontend.resample import Resample
from audiomask.frontend.stft import Analysis, Synthesis, magnitude
from audiomask.masks.hearing import Johnston, Model1
from audiomask.models.mimi import Halve
from audiomask.nn.attention import CausalAttention
from audiomask.nn.conv import ComplexConv2d, Conv1d, Conv2d, ConvTranspose1d
from audiomask.nn.norm import FrameNorm, RunningNorm
from audiomask.nn.recurrent import GRU, LSTM
from audiomask.nn.transformer import RotaryTransformer
from audiomask.streaming import Delay, Gate, Parallel, Residual, Sequential, Streaming


def late(block: Streaming, channels: int = 4) -> Streaming:
    """`block` behind a biased layer that looks ahead, so that its input lags and starts with what must be
    gated.
    """
    return Sequential(Conv1d(channels, channels, 3, lookahead=2), block)


class Magnitude(nn.Module):
    def forward(self, x):
        return magnitude(x, 1e-2)


def _stft(size: int, hop: int) -> Streaming:
    return Sequential(Analysis(size, hop), Synthesis(size, hop))


BLOCKS: dict[str, tuple[Callable[[], Streaming], tuple[int, ...]]] = {
    "conv": (lambda: Conv1d(4, 6, 5), (4,)),
    "conv-dilated-grouped": (lambda: Conv1d(4, 4, 3, dilation=4, groups=2, bias=False), (4,)),
    "conv-strided": (lambda: Conv1d(4, 6, 8, stride=4), (4,)),
    "conv-strided-lookahead": (lambda: Conv1d(4, 6, 9, stride=4, lookahead=6), (4,)),
    "conv-short-stride": (lambda: Conv1d(4, 6, 2, stride=3), (4,)),
    "conv-by-blocks": (
        lambda: Sequential(Conv1d(8, 16, 4, stride=2), Conv1d(16, 16, 3, dilation=2), Conv1d(16, 8, 1)),
        (8,),
    ),
    "conv-depthwise": (lambda: Conv1d(8, 8, 7, groups=8), (8,)),
    "conv-lookahead": (lambda: Conv1d(4, 6, 5, lookahead=2), (4,)),
    "conv-late-lattice": (lambda: late(Conv1d(4, 6, 8, stride=4)), (4,)),
    "conv2d": (lambda: Conv2d(2, 4, (3, 3), (1, 2), padding=(1, 0), freqs=9), (2, 9)),
    "conv2d-lookahead": (
        lambda: Conv2d(2, 2, (3, 3), dilation=(2, 1), padding=1, lookahead=2, freqs=9),
        (2, 9),
    ),
    "conv2d-complex-tied": (
        lambda: ComplexConv2d(2, 4, (3, 1), groups=2, tied=True, bias=False, freqs=5),
        (4, 5),
    ),
    "transposed": (lambda: ConvTranspose1d(4, 3, 8, 4), (4,)),
    "transposed-trim-late": (lambda: late(ConvTranspose1d(4, 3, 9, 4, trim=2)), (4,)),
    "transposed-gap": (lambda: ConvTranspose1d(4, 3, 2, 3), (4,)),
    "codec": (lambda: Sequential(Conv1d(2, 6, 8, 4), nn.ELU(), ConvTranspose1d(6, 2, 8, 4, trim=3)), (2,)),
    "gru": (lambda: GRU(4, 6, 2), (4,)),
    "gru-late": (lambda: late(GRU(4, 6, 2)), (4,)),
    "gru-bands": (lambda: GRU(2, 3, freqs=5, bias=False), (2, 5)),
    "lstm-late": (lambda: late(LSTM(4, 6, 2)), (4,)),
    "attention": (lambda: CausalAttention(8, 2, 6), (8,)),
    "attention-late": (lambda: late(CausalAttention(4, 1, 5)), (4,)),
    "rotary": (lambda: RotaryTransformer(8, 2, 6, 2, 6, scale=0.5), (8,)),
    "rotary-late": (lambda: late(RotaryTransformer(4, 1, 6, 1, 5, scale=0.5)), (4,)),
    "halve": (lambda: Halve(4), (4,)),
    "halve-late": (lambda: late(Halve(4)), (4,)),
    "norm-frame": (lambda: FrameNorm(4), (4, 5)),
    "norm-running-late": (lambda: late(RunningNorm(20)), (4,)),
    "norm-running-map": (lambda: RunningNorm(20), (2, 5)),
    "norm-batch": (lambda: Sequential(Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.PReLU(4)), (4,)),
    "residual": (lambda: Residual(Conv1d(4, 4, 5, lookahead=2), nn.Tanh(), shape=4), (4,)),
    "parallel": (
        lambda: Parallel(Conv1d(4, 2, 3, 2), Conv1d(4, 3, 7, 2, lookahead=5), merge="cat", shapes=[2, 3]),
        (4,),
    ),
    "delay-gate": (lambda: Sequential(Delay(3, 4), Conv1d(4, 4, 1), Gate()), (4,)),
    "stft": (lambda: _stft(64, 32), (1,)),
    "stft-odd-hop": (lambda: _stft(40, 16), (1,)),
    "stft-short-hop": (lambda: _stft(128, 16), (1,)),
    "stft-late": (
        lambda: Sequential(Delay(5, 1), Analysis(64, 32), Magnitude(), Conv2d(1, 1, (2, 1), freqs=33)),
        (1,),
    ),
    "johnston": (lambda: Sequential(Analysis(64, 32, "hann"), Johnston(8000, 64)), (1,)),
    "johnston-late": (lambda: Sequential(Delay(5, 1), Analysis(64, 16, "hann"), Johnston(44100, 64)), (1,)),
    "model1": (lambda: Sequential(Analysis(256, 128, "hann"), Model1(16000, 256)), (1,)),
    "resample-down": (lambda: Resample(48000, 16000, zeros=6), (1,)),
    "resample-up": (lambda: Resample(16000, 24000, zeros=6), (1,)),
}


def make(name: str) -> tuple[Streaming, tuple[int, ...]]:
    """The block, in evaluation mode, with weights of its own but always the same."""
    build, shape = BLOCKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, name)))
        return build().eval(), shape
