"""Use a pretrained encoder as it is: its front end, and one vector for a clip of any length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.kaldi.directory import DataDir, read_mono
from audiomask.frontend.logmel import LogMel
from audiomask.nn.vit import ViT


def load(folder: str | Path, corpus: str | None = None) -> tuple[Any, LogMel]:
    """Return the network in a weights folder and its front end, for clips of any length.

    The constants are those of `corpus`, by default of the training. AudioError for weights that are of no
    ViT, or name no front end.
    """
    model: Any
    model, config = weights.load(folder)
    if not isinstance(model, ViT):
        raise AudioError(f"{folder}: {config['class_path']} is no ViT; see recipes/pretrain")
    shape = {"frames": 0, "patch": model.patch, "bands": model.bands}
    return model, LogMel(corpus, **shape) if corpus else weights.load_frontend(folder, **shape)


def layers_of(model: ViT, x: Tensor, layers: Sequence[int] = ()) -> Tensor:
    """Return sums over patches of the tokens of `x [B, frames, bands]`, `[B, C]`.

    They are of the last layer, normalised if the model does so, or of the blocks `layers` from 1, joined.
    """
    if not layers:
        tokens = model.encode(x)
        norm = getattr(model, "norm", None)
        return (tokens if norm is None else norm(tokens))[:, 1:].sum(1)
    tokens, sums = model.embed(x), {}
    for number, block in enumerate(model.blocks[: max(layers)], 1):
        tokens = block(tokens)
        if number in layers:
            sums[number] = tokens[:, 1:].sum(1)
    return torch.cat([sums[number] for number in layers], 1)


@torch.no_grad()
def features(
    model: ViT,
    frontend: LogMel,
    data: DataDir,
    layers: Sequence[int] = (),
    batch: int = 16,
    device: str = "cpu",
    progress: Any = None,
) -> Tensor:
    """Return the mean token of each utterance of `data`, `[N, C]` float32 on the CPU.

    Clips are cut into windows of the length that the model is made for, of which `batch` of one length are
    computed together. `layers` as in `layers_of`; `progress` is called with 1 for each utterance. AudioError
    names the utterance that cannot be used.
    """
    depth = len(model.blocks)
    if any(not 1 <= number <= depth for number in layers):
        raise AudioError(f"layers {list(layers)}: the model has blocks 1 to {depth}")
    model, frontend = model.to(device).eval(), frontend.to(device)
    size, waiting = model.grid[0] * model.patch, {}  # type: ignore[var-annotated]
    utterances = list(data.utterances())
    width = model.width * max(1, len(layers))
    total, count = torch.zeros(len(utterances), width), torch.zeros(len(utterances), 1)

    def run(windows: list[tuple[int, Tensor]]) -> None:
        x = torch.stack([window for _, window in windows])
        sums, tokens = layers_of(model, x, layers).float().cpu(), x.shape[1] // model.patch * model.grid[1]
        for (row, _), values in zip(windows, sums, strict=True):
            total[row] += values
            count[row] += tokens

    for row, utterance in enumerate(utterances):
        try:
            x = torch.from_numpy(read_mono(data, utterance, frontend.sample_rate)).to(device)
            whole = frontend(x[None])[0]
        except AudioError as error:
            raise AudioError(f"{data.path}: {utterance.key}: {error}") from None
        for window in whole.split(size):
            ready = waiting.setdefault(len(window), [])
            ready.append((row, window))
            if len(ready) == batch:
                run(waiting.pop(len(window)))
        if progress is not None:
            progress(1)
    for windows in waiting.values():
        run(windows)
    return total / count


def standardised(known: Tensor, *others: Tensor) -> Iterator[Tensor]:
    """Yield `known [N, C]` and others, less the column means of `known`, over its deviations."""
    mean, deviation = known.mean(0), known.std(0, correction=0)
    for x in (known, *others):
        yield (x - mean) / deviation.clamp_min(1e-6 * (1 + mean.abs()))


def votes(known: Tensor, target: Tensor, asked: Tensor, k: int, temperature: float = 0.07) -> Tensor:
    """Return the scores `[M, K]` that the `k` nearest of `known [N, C]` give to `asked [M, C]`.

    They are means of the labels `target [N, K]` with weights exp(cosine / temperature).
    """
    from sklearn.neighbors import KNeighborsRegressor

    def weights(distance: np.ndarray) -> np.ndarray:  # which is 1 - cosine
        return np.exp(-distance / temperature)

    near = KNeighborsRegressor(min(k, len(known)), weights=weights, metric="cosine")
    near.fit(known.double().numpy(), target.numpy())
    return torch.from_numpy(near.predict(asked.double().numpy())).float()


class Logistic(nn.Linear):
    """A logistic regression, the classes exclusive (`multi` false: softmax) or separate.

    L-BFGS minimises, in float64, the convex function

        mean over rows of the cross entropy + l2 / 2 |W|^2        (the bias is not held back)
    """

    def __init__(self, features: int, classes: int, multi: bool) -> None:
        super().__init__(features, classes, dtype=torch.float64)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.multi = multi

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Return logits `[N, K]` of `x [N, C]`."""
        return self(x.double()).float()

    def fit(self, x: Tensor, target: Tensor, l2: float) -> Logistic:
        """Minimise the loss for `x [N, C]` and `target [N, K]` from the weights; return self."""
        x, target = x.double(), target.double()
        optimizer = torch.optim.LBFGS(
            self.parameters(), max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            optimizer.zero_grad()
            if self.multi:
                entropy = F.binary_cross_entropy_with_logits(self(x), target, reduction="none").sum(1)
            else:
                entropy = F.cross_entropy(self(x), target, reduction="none")
            loss = entropy.mean() + l2 / 2 * self.weight.square().sum()
            loss.backward()
            return float(loss.detach())

        optimizer.step(closure)
        return self
