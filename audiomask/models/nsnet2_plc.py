"""Conceal packet losses of which the network is informed: NSNet2-PLC.

It is the baseline of the Deep PLC Challenge (Diener et al., "INTERSPEECH 2022 Audio Deep Packet Loss
Concealment Challenge"), a recurrent network of the shape of NSNet2 (Braun and Tashev 2020). One frame (hop 10
ms, window 20 ms, square root of Hann; F = 161 bins at 16 kHz) is computed as

    log10 |X|^2, whether its earlier half is lost, whether its later half is, sin and cos of the phase   [5 F]
      -> linear 134, leaky ReLU -> GRU 134 -> GRU 100 -> linear 201, leaky ReLU -> linear 100, leaky ReLU
      -> linear 3 F -> sigmoid s
      -> magnitude 10^(10 (.786 s - .6)); sin and cos 2 s - 1, brought to unit length

It replaces only frames with losses. The sum over frames is then, for received sound x between gaps, (1 - w) x
+ the replaced frames, w being the sum of their windows: received sound passes bit for bit where no frame with
a gap reaches, and is faded over 10 ms where one does.

Differences:

- The challenge's packets are two hops. Here losses come by the sample, for packets of any length; for a half
  of a frame that is lost in part, the network is informed of the fraction.
- Theirs replaces a frame when its later half is lost, so that the last 10 ms of each gap fade to silence.
  Here the frame in which sound returns is replaced too, unless `tail` is false.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.stft import Analysis, Synthesis, power, window
from audiomask.nn.recurrent import GRU, ONNX_ORDER
from audiomask.streaming import Context, Delay, Port, State, Steps, StreamingModel, whole

AUTHORS_CLASS, AUTHORS_LICENCE = "NSNet2PLC", "MIT"


class NSNet2PLC(StreamingModel):
    """A concealer that maps speech and flags of lost samples, `[B, 1, T]` each, to speech.

    `size` is samples of a frame, twice the hop. `units` are of the layers up to the output: linear, which is
    also the first GRU's, second GRU, linear, linear. `tail` also replaces the frame in which sound returns.
    """

    task = "conceal"
    inputs = (
        Port("audio"),
        Port("lost", type="lost", doc="1 where a sample is lost; what the sound holds there is ignored"),
    )
    outputs = (Port("concealed"),)
    fades: Tensor

    def __init__(
        self,
        size: int = 320,
        units: Sequence[int] = (134, 100, 201, 100),
        tail: bool = True,
        sample_rate: int = 16000,
        name: str = "nsnet2_plc",
    ):
        super().__init__()
        first, second, third, fourth = units
        self.name, self.sample_rate, self.tail = name, sample_rate, tail
        self.analysis, self.synthesis = Analysis(size, size // 2), Synthesis(size, size // 2)
        self.compose(self.analysis, self.synthesis)
        self.wait = Delay(whole(self.delay), 1)
        self.lost, self.replaced = Context(1, 0, 1), Context(1, 0, 1)
        self.register_buffer("fades", window("hann", size).unflatten(0, (2, self.hop)), persistent=False)
        bins = self.hop + 1
        self.enter = nn.Linear(5 * bins, first)
        self.gru1, self.gru2 = GRU(first, first), GRU(first, second)
        self.leave = nn.Sequential(
            nn.Linear(second, third), nn.LeakyReLU(), nn.Linear(third, fourth), nn.LeakyReLU(),
            nn.Linear(fourth, 3 * bins),
        )  # fmt: skip

    def step(self, x, state, lost=None, **controls):
        step = Steps(self, state)
        lost = torch.zeros_like(x) if lost is None else (lost > 0.5).to(x.dtype)
        x = torch.where(lost > 0, 0.0, x)
        spectrum = step("analysis", x)  # [B, 2, T, F]
        later = lost.unflatten(2, (-1, self.hop)).mean(3)  # [B, 1, T]: fractions of hops
        earlier = step("lost", later)[:, :, :-1]
        estimate = self._estimate(spectrum, torch.cat([earlier, later], 1), state, step.states)

        gap = later + earlier if self.tail else later
        gap = step("replaced", (gap > 0).to(x.dtype))[..., None]  # [B, 1, 1 + T, 1]
        y = step("synthesis", estimate * gap[:, :, 1:])
        fall, rise = gap[:, :, :-1] * self.fades[1], gap[:, :, 1:] * self.fades[0]
        return (1 - (fall + rise).reshape(x.shape)) * step("wait", x) + y, step.states

    def _estimate(self, spectrum: Tensor, halves: Tensor, state: State, after: dict[str, State]) -> Tensor:
        """Estimate frames `[B, 2, T, F]`; the fractions `halves [B, 2, T]` of their halves are lost."""
        p = power(spectrum)
        safe = torch.where(p > 0, p, 1.0)  # silence has the phase 0
        re, im = (spectrum * safe.rsqrt()).split(1, 1)
        halves = halves[..., None].expand(-1, -1, -1, p.shape[3])
        # A sum over 161 logarithms of silence, -12 each, would be so large that float32 rounds it to 1e-4 and
        # worse: the level of a frame stays out of it and is put back, W l = W (l - m) + m W 1.
        level = p.clamp_min(1e-12).log10()
        mean = level.mean(3, keepdim=True)
        features = [level - mean, halves, im, torch.where(p > 0, re, 1.0)]
        x = torch.cat(features, 1).permute(2, 0, 1, 3).flatten(2)  # [T, B, 5 F]
        # In float64, since the mean multiplies the sum's rounding by 12 in silence.
        ones = self.enter.weight[:, : p.shape[3]].sum(1, dtype=torch.float64).to(x.dtype)
        x = F.leaky_relu(self.enter(x) + mean[:, 0].transpose(0, 1) * ones)
        for name in ("gru1", "gru2"):
            x, (end,) = getattr(self, name).layer(x, [state[name]["h0"][None]])
            after[name] = {"h0": end[0]}
        x = self.leave(x).sigmoid().unflatten(2, (3, -1)).permute(1, 2, 0, 3)  # [B, 3, T, F]
        magnitude = 10.0 ** (7.86 * x[:, :1] - 6)
        sin, cos = (2 * x[:, 1:] - 1).split(1, 1)
        return torch.cat([cos, sin], 1) * (magnitude * torch.rsqrt(sin.square() + cos.square() + 1e-9))


def from_authors(graphs: Sequence[onnx.GraphProto]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and tensors of `NSNet2PLC` from its graph; ValueError for others."""
    (graph,) = graphs
    arrays = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in graph.initializer}

    def inputs(operator: str) -> list[list[Tensor]]:
        nodes = [node for node in graph.node if node.op_type == operator]
        return [[arrays[name] for name in node.input if name in arrays] for node in nodes]

    products = [weight for (weight,) in inputs("MatMul")]
    biases = [arrays for arrays in inputs("Add") if arrays]
    new: dict[str, Tensor] = {}
    for name, weight, (bias,) in zip(
        ("enter", "leave.0", "leave.2", "leave.4"), products, biases, strict=True
    ):
        new |= {f"{name}.weight": weight.mT.contiguous(), f"{name}.bias": bias}
    order = torch.tensor(ONNX_ORDER["GRU"])  # exchanges two gates, so it is its own inverse
    for name, (w, r, b) in zip(("gru1", "gru2"), inputs("GRU"), strict=True):
        both = b[0].unflatten(0, (2, 3, -1))[:, order].flatten(1)
        new |= {f"{name}.{kind}_l0": value for kind, value in zip(("bias_ih", "bias_hh"), both, strict=True)}
        for kind, value in (("weight_ih", w), ("weight_hh", r)):
            new[f"{name}.{kind}_l0"] = value[0].unflatten(0, (3, -1))[order].flatten(0, 1)
    size = 2 * (len(new["leave.4.bias"]) // 3 - 1)
    units = [len(new["enter.bias"]), new["leave.0.weight"].shape[1]]
    return {
        "size": size,
        "units": [*units, *(len(new[f"leave.{i}.bias"]) for i in (0, 2))],
        "tail": False,
    }, new
