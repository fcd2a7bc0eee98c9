"""Conceal packet losses without being informed of them: FRN.

Nguyen, Nguyen and Khong, "Improving performance of real-time full-band blind packet-loss concealment with
predictive network" (ICASSP 2023, arXiv 2211.04071). It works at 48 kHz, in frames of 960 at hop 480 (square
root of Hann, so the algorithmic latency is 20 ms; F = 480 bins, the lowest one passes untouched):

    X, Re and Im side by side -> linear -> GELU -> blocks -> affine -> linear -> + X          E, the encoder
        block: affine -> + g1 LSTM -> affine -> + g2 (linear, GELU, linear); g per channel, from 1e-4
    |Y| of the frame before -> 64 mel bands -> log -> LSTM -> linear -> exp -> linear -> abs  P, the predictor
    (Re E, Im E, P) -> convolution of 9 bins each -> leaky ReLU -> 1x1 convolution -> + X     Y, the output

It has 9,091,698 parameters, as published: encoder 7,843,392, predictor 1,247,776, joiner 530.

The |Y| that returns to the predictor is taken of the output **after X has been added**, as in the authors'
training. The graph that they export takes it before, and gives other sound than their network.

Two details are as published, though one might not expect them. |Y| = |Re Y| + |Im Y|. Of the joiner's 48
channels, 16 for each input, the first 24 make the real part and the rest the imaginary one, so the prediction
reaches the imaginary part only. The recursion over frames is thus short: all else is computed at once.

One difference: a file begins with silence, not with its mirror image (theirs: the default of `torch.stft`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiomask.frontend.bands import mel
from audiomask.frontend.stft import Analysis, Synthesis
from audiomask.nn.recurrent import LSTM
from audiomask.streaming import Port, State, Steps, StreamingModel, recur

AUTHORS_CLASS = "FRN"
AUTHORS_LICENCE = "CC-BY-NC-4.0 (the authors' weights: not for commercial use)"


class Affine(nn.Module):
    """A layer that applies a gain and an offset per channel of `[..., C]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.offset


class Block(nn.Module):
    """A block that runs an LSTM and a feed-forward layer over `[T, B, C]`; state h, c `[B, C]`."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.before, self.between = Affine(channels), Affine(channels)
        self.lstm = LSTM(channels, channels)
        self.feed = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, channels), nn.Dropout(dropout),
        )  # fmt: skip
        self.lstm_scale = nn.Parameter(torch.full((channels,), 1e-4))
        self.feed_scale = nn.Parameter(torch.full((channels,), 1e-4))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x = self.before(x)
        y, end = self.lstm.layer(x, [part[None] for part in state])
        x = self.between(x + self.lstm_scale * y)
        return x + self.feed_scale * self.feed(x), tuple(part[0] for part in end)


class Encoder(nn.Module):
    """A stack of blocks that adds to its input `[T, B, 2 F]`, given the blocks' states."""

    def __init__(self, width: int, channels: int, hidden: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Linear(width, channels)
        self.blocks = nn.ModuleList(Block(channels, hidden, dropout) for _ in range(blocks))
        self.affine, self.leave = Affine(channels), nn.Linear(channels, width)

    def forward(self, x: Tensor, states: State) -> tuple[Tensor, State]:
        y, after = F.gelu(self.enter(x)), []
        for block, state in zip(self.blocks, states, strict=True):
            y, state = block(y, state)
            after.append(state)
        return x + self.leave(self.affine(y)), tuple(after)


class Predictor(nn.Module):
    """A network that predicts the magnitudes of the frame that follows."""

    filters: Tensor

    def __init__(self, sample_rate: int, size: int, bands: int, units: int) -> None:
        super().__init__()
        filters = torch.tensor(mel(sample_rate, size, bands)[1:], dtype=torch.float32)
        self.register_buffer("filters", filters, persistent=False)
        self.lstm, self.to_bands = LSTM(bands, units), nn.Linear(units, bands)
        self.to_bins = nn.Linear(bands, size // 2)

    def _bands(self, magnitude: Tensor) -> Tensor:
        return (magnitude @ self.filters + 1e-8).log()

    def _bins(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.to_bands.weight, self.to_bands.bias).exp()
        return F.linear(x, self.to_bins.weight, self.to_bins.bias).abs()

    def forward(self, magnitude: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the frame after each of `[T, B, F]`; return the next state `[B, units]` too."""
        x, (h, c) = self.lstm.layer(self._bands(magnitude), [h[None], c[None]])
        return self._bins(x), h[0], c[0]

    def frame(self, magnitude: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the frame after one, `[B, F]`. No module is called: a `Scan` cannot hold one."""
        weights = [
            getattr(self.lstm, f"{kind}_l0") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        h, c = torch.lstm_cell(self._bands(magnitude), (h, c), *weights)
        return self._bins(h), h, c


class Joiner(nn.Module):
    """A network that turns (Re E, Im E, P) into an addition to (Re X, Im X), in two parts.

    `known` is made of the encoder's output, and `predicted` of P, which adds to the imaginary part.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        if filters % 2:
            raise ValueError(f"{filters} filters for each of three inputs: halves of all need an even number")
        self.filters = filters
        self.conv = nn.Conv1d(3, 3 * filters, 9, groups=3)
        self.mix = nn.Conv1d(3 * filters, 2, 1, groups=2)

    def _filter(self, x: Tensor, inputs: slice) -> Tensor:
        """Filter n of the three inputs, `[N, n, F]` -> `[N, n filters, F]`."""
        assert self.conv.bias is not None
        rows = slice(inputs.start * self.filters, inputs.stop * self.filters)
        x = F.pad(x, (4, 4), mode="reflect")
        x = F.conv1d(x, self.conv.weight[rows], self.conv.bias[rows], groups=inputs.stop - inputs.start)
        return F.leaky_relu(x, 0.2)

    def known(self, encoded: Tensor) -> Tensor:
        """Return the part of the encoder's output, `[N, 2, F]` -> the same."""
        x, half = self._filter(encoded, slice(0, 2)), 3 * self.filters // 2
        re, im = self.mix.weight[:, None, :, 0]  # [1, half] each; the last `filters` of im belong to P
        y = torch.cat([re @ x[:, :half], im[:, : self.filters // 2] @ x[:, half:]], 1)
        assert self.mix.bias is not None
        return y + self.mix.bias[:, None]

    def predicted(self, magnitude: Tensor) -> Tensor:
        """Return the part of the prediction, `[N, F]` -> the same."""
        x = self._filter(magnitude[:, None], slice(2, 3))
        return (self.mix.weight[1, None, self.filters // 2 :, 0] @ x)[:, 0]


class FRN(StreamingModel):
    """A concealer that fills gaps of zeros of any length in speech `[B, 1, T]` at 48 kHz.

    `size` is samples of a frame, twice the hop. `units`, `hidden` and `blocks` are C, width and number of the
    encoder's blocks, with `dropout` in training; `memory` and `bands` are units of the predictor's LSTM and
    its mel bands; `filters` are the joiner's for each of its inputs.

    With `stage` "predictor", which the authors have and do not publish, that part is trained first: the sound
    is whole, and the output is that sound with magnitudes predicted from its own, frame by frame (teacher
    forcing: all frames at once). The losses on sound train the predictor, the rest stands still, and the
    weights are those of the whole network, for `start_from` of the next stage.
    """

    task = "conceal"
    outputs = (Port("concealed"),)

    def __init__(
        self,
        size: int = 960,
        units: int = 384,
        hidden: int = 768,
        blocks: int = 4,
        memory: int = 512,
        bands: int = 64,
        filters: int = 16,
        dropout: float = 0.15,
        sample_rate: int = 48000,
        name: str = "frn",
        stage: Literal["all", "predictor"] = "all",
    ):
        super().__init__()
        self.name, self.sample_rate = name, sample_rate
        self.units, self.memory = units, memory
        self.analysis, self.synthesis = Analysis(size, size // 2), Synthesis(size, size // 2)
        self.compose(self.analysis, self.synthesis)
        self.encoder = Encoder(size, units, hidden, blocks, dropout)
        self.predictor = Predictor(sample_rate, size, bands, memory)
        self.joiner = Joiner(filters)
        if stage not in ("all", "predictor"):
            raise ValueError(f"stage is {stage!r}; there are all and predictor")
        self.alone = stage == "predictor"
        if self.alone:
            self.encoder.requires_grad_(False)
            self.joiner.requires_grad_(False)

    def initial_state(self, batch, device=None, dtype=torch.float32) -> State:
        def zeros(width: int) -> Tensor:
            return torch.zeros(batch, width, device=device, dtype=dtype)

        return {
            **super().initial_state(batch, device, dtype),
            "encoder": tuple((zeros(self.units), zeros(self.units)) for _ in self.encoder.blocks),
            "predictor": (zeros(self.memory), zeros(self.memory)),
            "magnitude": zeros(self.hop),
        }

    def step(self, x, state, **controls):
        step = Steps(self, state)
        lowest, x = step("analysis", x).split([1, self.hop], 3)
        y, after = (self._taught if self.alone else self._conceal)(x.permute(2, 0, 1, 3), state)
        y = step("synthesis", torch.cat([lowest, y.permute(1, 2, 0, 3)], 3))
        return y, {**state, **after, **step.states}

    def _conceal(self, x: Tensor, state: State) -> tuple[Tensor, dict[str, State]]:
        """Return Y of X `[T, B, 2, F]`, and the states that change."""
        encoded, encoder = self.encoder(x.flatten(2), state["encoder"])
        y = x + self.joiner.known(encoded.reshape(-1, 2, self.hop)).reshape_as(x)
        re, im = y.unbind(2)
        start = (state["magnitude"], *state["predictor"])
        (magnitude, *predictor), (im,) = recur(self._frame, start, (re.abs(), im))
        after = {"encoder": encoder, "predictor": tuple(predictor), "magnitude": magnitude}
        return torch.stack([re, im], 2), after

    def _taught(self, x: Tensor, state: State) -> tuple[Tensor, dict[str, State]]:
        """Return X with the magnitudes that the predictor makes of those of X itself."""
        magnitude = x.abs().sum(2)  # [T, B, F]
        before = torch.cat([state["magnitude"][None], magnitude[:-1]])
        predicted, *predictor = self.predictor(before, *state["predictor"])
        y = x * (predicted / magnitude.clamp_min(1e-8))[:, :, None]
        return y, {"predictor": tuple(predictor), "magnitude": magnitude[-1]}

    def _frame(
        self, carry: tuple[Tensor, ...], x: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return |Y|, h, c of a frame, and (Im Y,), from the `carry`, those of the frame before.

        `x`: |Re Y|, and Im Y but for the prediction.
        """
        real, im = x
        magnitude, h, c = self.predictor.frame(*carry)
        im = im + self.joiner.predicted(magnitude)
        return (real + im.abs(), h, c), (im,)


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and tensors of `FRN` from the authors' state dict; KeyError for others."""
    parts = {
        "predictor.lstm": "predictor.lstm", "predictor.expand_dim": "predictor.to_bands",
        "predictor.inv_mel": "predictor.to_bins", "joiner.0": "joiner.conv", "joiner.2": "joiner.mix",
        "encoder.to_patch_embedding.1": "encoder.enter", "encoder.affine.0": "encoder.affine",
        "encoder.affine.1": "encoder.leave",
    }  # fmt: skip
    inside = {
        "pre_affine": "before", "inter": "lstm", "post_affine": "between", "ff.0.net.0": "feed.0",
        "ff.0.net.3": "feed.3", "gamma_1": "lstm_scale", "gamma_2": "feed_scale",
    }  # fmt: skip
    blocks = len([key for key in state if key.endswith(".gamma_1")])
    for i, (theirs, ours) in itertools.product(range(blocks), inside.items()):
        parts[f"encoder.mlp_blocks.{i}.{theirs}"] = f"encoder.blocks.{i}.{ours}"
    kinds = {"alpha": "gain", "beta": "offset"}
    new = {}
    for key, value in state.items():
        part, _, kind = key.rpartition(".")
        if kind in kinds:  # [1, 1, C]
            value = value.reshape(-1)
        elif part.startswith("joiner.") and value.ndim == 4:  # over (bins, frames)
            value = value.squeeze(3)
        new[parts[key] if key in parts else f"{parts[part]}.{kinds.get(kind, kind)}"] = value
    width, units = new["encoder.leave.weight"].shape
    bands, memory = new["predictor.to_bands.weight"].shape
    arguments = {
        "size": width, "units": units, "hidden": len(new["encoder.blocks.0.feed.0.weight"]),
        "blocks": blocks, "memory": memory, "bands": bands, "filters": len(new["joiner.conv.weight"]) // 3,
    }  # fmt: skip
    return arguments, new
