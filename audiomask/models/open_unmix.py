"""Take songs apart into vocals, drums, bass and the rest: Open-Unmix.

Stöter, Uhlich, Liutkus and Mitsufuji, "Open-Unmix - A Reference Implementation for Music Source Separation"
(JOSS 2019). Each target has a network of its own, which sees magnitudes up to 16 kHz and makes a gain for
each bin of each channel, 8,893,348 parameters:

    |X| -> + mean, x scale -> fc 512 -> norm -> tanh -> 3 x BiLSTM of 256 -> beside its input
        -> fc 512 -> norm -> relu -> fc -> norm -> x scale, + mean -> relu = gain,      y = gain X

The estimates y_j of all targets are refined by a step of expectation-maximization, which knows from where
each one comes and makes them sum to the mixture (Duong, Vincent and Gribonval 2010; Nugraha, Liutkus and
Vincent 2016); per bin, with R_j constant over a window,

    v_j = mean over channels of |y_j|^2,      R_j = sum_t y_j y_j^H / (e + sum_t v_j)
    y_j <- v_j R_j (sum_k v_k R_k + sqrt(e) I)^-1 X

It looks at all of the signal and cannot stream; the authors keep all of a song in memory. Here it runs over
windows in constant memory (see `nn.windowed`), whose length and overlap are arguments. `OpenUnmix.whole` is
theirs for a clip of up to 300 frames, 7 s, which is how much one step of theirs sees. Where all channels are
alike, their matrix has no inverse in single precision; its determinant is written here so that it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiomask.frontend.stft import Centred
from audiomask.masks.gains import TINY
from audiomask.nn.recurrent import PlainLSTM
from audiomask.nn.windowed import Windowed
from audiomask.streaming import Port, Steps, StreamingModel

EPS = 1e-10  # power of the noise that no target explains
TOP = 10.0  # magnitudes above are scaled down to it before the step, for numerical stability
STEMS = ("vocals", "drums", "bass", "other")


class Target(nn.Module):
    """A network of one target: magnitudes `[B, C, T, F]` -> gains of that shape, 0 and more."""

    def __init__(self, bins: int, seen: int, channels: int, hidden: int, layers: int, causal: bool) -> None:
        super().__init__()
        self.channels, self.seen = channels, seen
        self.fc1 = nn.Linear(seen * channels, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.lstm = PlainLSTM(
            hidden, hidden if causal else hidden // 2, layers, bidirectional=not causal,
            dropout=0.4 if layers > 1 else 0.0,
        )  # fmt: skip
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, bins * channels, bias=False)
        self.bn3 = nn.BatchNorm1d(bins * channels)
        self.input_mean = nn.Parameter(torch.zeros(seen))
        self.input_scale = nn.Parameter(torch.ones(seen))
        self.output_scale = nn.Parameter(torch.ones(bins))
        self.output_mean = nn.Parameter(torch.ones(bins))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, frames, _ = x.shape
        x = (x[..., : self.seen] + self.input_mean) * self.input_scale
        x = x.permute(2, 0, 1, 3).reshape(frames * batch, -1)  # time first, as the LSTM takes it
        x = self.bn1(self.fc1(x)).tanh().view(frames, batch, -1)
        x = torch.cat([x, self.lstm(x)[0]], 2).flatten(0, 1)
        x = self.bn3(self.fc3(self.bn2(self.fc2(x)).relu())).view(frames, batch, channels, -1)
        return (x * self.output_scale + self.output_mean).relu().permute(1, 2, 0, 3)


class OpenUnmix(StreamingModel):
    """A separator of songs `[B, C, T]` into as many channels of each target.

    Args:
        stems: Names of the outputs, each with a network of its own.
        channels: Channels of the sound, 1 or 2.
        size, stride: Frames of the transform, in samples.
        seen: Bins that the networks see; all make a gain for every bin.
        hidden: Width.
        layers: Layers of the LSTM.
        causal: The LSTM runs forwards only.
        steps: Steps of expectation-maximization; 0 takes the gains alone.
        residual: One more output, of what no target claims.
        window: Frames of a window.
        overlap: Fraction of a window that the next one begins with, at most .5.
        sample_rate: Rate in Hz.
        name: Name of the artifact.
    """

    task = "separate"

    def __init__(
        self,
        stems: Sequence[str] = STEMS,
        channels: int = 2,
        size: int = 4096,
        stride: int = 1024,
        seen: int = 1487,
        hidden: int = 512,
        layers: int = 3,
        causal: bool = False,
        steps: int = 1,
        residual: bool = False,
        window: int = 256,
        overlap: float = 0.25,
        sample_rate: int = 44100,
        name: str = "open_unmix",
    ) -> None:
        super().__init__()
        if channels not in (1, 2):
            raise ValueError(f"{channels} channels: the step inverts matrices of 1 or 2")
        if steps and len(stems) + residual < 2:
            raise ValueError("expectation-maximization shares a mixture between two or more: set steps to 0")
        self.name, self.sample_rate, self.channels, self.em = name, sample_rate, channels, steps
        self.residual = residual
        self.inputs = (Port("audio", channels=channels),)
        self.outputs = tuple(Port(stem, channels=channels) for stem in (*stems, *["residual"] * residual))
        self.transform = Centred(size, stride, "hann", "reflect")
        bins = size // 2 + 1
        self.targets = nn.ModuleDict(
            {stem: Target(bins, min(seen, bins), channels, hidden, layers, causal) for stem in stems}
        )
        outputs = channels * len(self.outputs)
        self.windows = Windowed.overlapping(self.flat, window * stride, overlap, channels, outputs, stride)
        self.compose(self.windows)

    def step(self, x, state, **controls):
        step = Steps(self, state)
        return self.parted(step("windows", x)), step.states

    def flat(self, x: Tensor) -> Tensor:
        """Return the outputs of a window `[B, C, T]`, one after the other, as channels."""
        return self.whole(x).flatten(1, 2)

    def whole(self, x: Tensor) -> Tensor:
        """Return the outputs `[B, S, C, T]` of a clip `[B, C, T]`, as the authors do."""
        mixture = self.transform.spectra(x).unflatten(1, (-1, 2))  # [B, C, 2, T, F]
        magnitude = (mixture.square().sum(2) + TINY).sqrt()
        if self.channels == 1:  # the authors' mean over channels
            magnitude = magnitude.mean(1, keepdim=True)
        gains = torch.stack([target(magnitude) for target in self.targets.values()], 1)
        y = gains[:, :, :, None] * mixture[:, None]  # [B, S, C, 2, T, F]
        if self.residual:
            y = torch.cat([y, (mixture - y.sum(1))[:, None]], 1)
        if self.em:
            y = refined(y, mixture, self.em)
        y = self.transform.signals(y.flatten(0, 1).flatten(1, 2), x.shape[2])
        return y.unflatten(0, (-1, len(self.outputs)))


def refined(y: Tensor, x: Tensor, steps: int = 1) -> Tensor:
    """Return estimates y `[B, S, C, 2, T, F]` in a mixture x `[B, C, 2, T, F]`, refined by EM.

    Axis 3 of y and 2 of x holds real and imaginary parts; C is 1 or 2. Expectations are over all frames.
    """
    loudest = (x.square().sum(2).amax((1, 2, 3)) + TINY).sqrt()
    scale = (loudest / TOP).clamp_min(1.0)[:, None, None, None, None]
    x, y = x / scale, y / scale[:, None]
    for _ in range(steps):
        power = y.square().sum(3)  # [B, S, C, T, F]
        v = power.mean(2)
        weight = v.sum(2) + EPS  # [B, S, F]
        own = power.sum(3) / weight[:, :, None]  # R_cc, [B, S, C, F]
        y = _one(v, own, x) if x.shape[1] == 1 else _two(v, own, _cross(y) / weight[:, :, None], x)
    return y * scale[:, None]


def _cross(y: Tensor) -> Tensor:
    """Return the sum over frames of y_0 y_1^*, `[B, S, 2, F]`."""
    (a, b), (c, d) = (y[:, :, i].unbind(2) for i in (0, 1))
    return torch.stack([a * c + b * d, b * c - a * d], 2).sum(3)


def _one(v: Tensor, own: Tensor, x: Tensor) -> Tensor:
    share = v * own
    return (share / (share.sum(1, keepdim=True) + EPS**0.5))[:, :, None, None] * x[:, None]


def _two(v: Tensor, own: Tensor, cross: Tensor, x: Tensor) -> Tensor:
    """Return v_j R_j C^-1 x for C = sum_k v_k R_k + r I, r = sqrt(e), of two channels."""
    r = EPS**0.5
    p, q = ((v * own[:, :, i, None]).sum(1) for i in (0, 1))  # the diagonal of C, less r
    re, im = ((v * cross[:, :, i, None]).sum(1) for i in (0, 1))  # C_01
    (a, b), (c, d) = (x[:, i].unbind(1) for i in (0, 1))
    # det C = (p + r) (q + r) - |C_01|^2, of which p q - |C_01|^2 is not negative but for rounding; it is
    # nothing where the channels are alike, and r is lost beside p there
    determinant = (p * q - re * re - im * im).relu() + r * (p + q + r)
    a, b, c, d = (
        (part + r * noise) / determinant
        for part, noise in (
            (q * a - (re * c - im * d), a), (q * b - (re * d + im * c), b),
            (p * c - (re * a + im * b), c), (p * d - (re * b - im * a), d),
        )
    )  # fmt: skip
    a, b, c, d = (part[:, None] for part in (a, b, c, d))
    r_0, r_1, re, im = (part[:, :, None] for part in (*own.unbind(2), *cross.unbind(2)))
    first = torch.stack([r_0 * a + re * c - im * d, r_0 * b + re * d + im * c], 2)
    second = torch.stack([re * a + im * b + r_1 * c, re * b - im * a + r_1 * d], 2)
    return v[:, :, None, None] * torch.stack([first, second], 2)


AUTHORS_CLASS = "OpenUnmix"
AUTHORS_LICENCE = "that of the files: the authors' umx and umxhq MIT, umxl CC BY-NC-SA 4.0"
AUTHORS_SEVERAL = True  # a file for each target
LEFT_OUT = re.compile(r"(stft|transform|istft)\..*|sample_rate")  # what older files hold beside the network


def from_authors(source: Mapping[str, Mapping[str, Tensor]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state dict of `OpenUnmix` from state dicts by names of files.

    A file is called after its target, which ends before a hyphen: vocals-b62c91ce.pth. The transform and the
    rate are not in the weights; they are those of the published models of that many bins.
    """
    new: dict[str, Tensor] = {}
    sizes = []
    for file, state in source.items():
        target = re.split(r"[-.]", file)[0]
        new |= {f"targets.{target}.{k}": v for k, v in state.items() if not LEFT_OUT.fullmatch(k)}
        bins, seen, hidden = len(state["output_mean"]), len(state["input_mean"]), len(state["fc1.weight"])
        layers = sum(re.fullmatch(r"lstm\.weight_ih_l\d+", key) is not None for key in state)
        channels = len(state["bn3.weight"]) // bins
        sizes.append((bins, seen, hidden, layers, channels, "lstm.weight_ih_l0_reverse" not in state))
    names = [re.split(r"[-.]", file)[0] for file in source]
    if len(set(sizes)) != 1 or len(set(names)) != len(names):
        raise ValueError(f"files of {', '.join(source)}: each target once, and all of one size")
    bins, seen, hidden, layers, channels, causal = sizes[0]
    order = sorted(names, key=lambda name: (*STEMS, name).index(name))
    size, rate = 2 * (bins - 1), {2049: 44100, 513: 16000}.get(bins, 44100)
    arguments = {
        "stems": order, "channels": channels, "size": size, "stride": 512 if size == 1024 else size // 4,
        "seen": seen, "hidden": hidden, "layers": layers, "causal": causal, "steps": int(len(names) > 1),
        "sample_rate": rate,
    }  # fmt: skip
    return arguments, new
