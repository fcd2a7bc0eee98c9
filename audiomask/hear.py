"""Compute embeddings by the API of HEAR, "Holistic Evaluation of Audio Representations".

    model = load_model("exp/audio_mae")                       # weights, or a tagger's .onnx
    scene = get_scene_embeddings(audio, model)                # [n_sounds, D]
    times = get_timestamp_embeddings(audio, model)            # [n_sounds, n, D], [n_sounds, n] in ms

`audio [n_sounds, n_samples]` has values from -1 to 1 at `model.sample_rate`, any number of samples. The
embeddings are float32, without gradients, on the device of `audio`, and the same every time (Turian et al.
2022). From weights (`Encoder`) a vector covers 160 ms, the width of a patch; HEAR suggests 50 ms or less for
its onset tasks. From an artifact (`Played`) one comes every hop and covers the window up to there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.frontend.logmel import LogMel
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.outputs.tags import hops_of, listener, pooled

BATCH = 8  # windows at a time


class Encoder(nn.Module):
    """A network with `features`, such as Audio-MAE or a tagger, and its front end.

    A clip longer than the network's spectrograms is processed in pieces of their length. The vector of a
    column of patches is the mean of their tokens, its time the middle of the column; a scene's is their mean.
    """

    def __init__(self, network: Any, frontend: LogMel) -> None:
        super().__init__()
        if not hasattr(network, "features") or not hasattr(network, "grid"):
            raise AudioError(f"{type(network).__name__}: is no encoder of pictures; it has no features")
        self.network, self.frontend = network.eval(), frontend
        self.window, self.bands = network.grid
        self.sample_rate = frontend.sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = network.width

    network: Any

    @torch.no_grad()
    def timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return `[n_sounds, n, D]` and times in ms `[n]` for `[n_sounds, n_samples]`."""
        fbank, patch = self.frontend.fbank, self.frontend.patch
        short = fbank.length - audio.shape[1]
        picture = self.frontend(nn.functional.pad(audio.float(), (0, max(0, short))))
        parts = []
        for piece in picture.split(self.window * patch, 1):
            rows = [self.network.features(some)[:, 1:] for some in piece.split(BATCH)]
            parts.append(torch.cat(rows).unflatten(1, (-1, self.bands)).mean(2))
        found = torch.cat(parts, 1)
        middle = ((patch - 1) * fbank.hop + fbank.length) / 2
        column = torch.arange(found.shape[1], device=found.device)
        return found, (column * patch * fbank.hop + middle) * (1000 / self.sample_rate)

    def scene(self, audio: Tensor) -> Tensor:
        """Return `[n_sounds, D]` for `[n_sounds, n_samples]`."""
        return self.timestamps(audio)[0].mean(1)


class Played(nn.Module):
    """An artifact that puts out embeddings, on the CPU; its methods are those of `Encoder`.

    A scene's is that of `audiomask embed` (`outputs.tags.pooled`); a vector's time is the middle of its hop.
    """

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self.artifact = artifact
        player = listener(artifact, "embedding")
        (port,) = player.ports
        self.sample_rate, self.every_ms = artifact.sample_rate, float(1000 / player.rates[port.name])
        self.scene_embedding_size = self.timestamp_embedding_size = port.channels

    def timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.from_numpy(np.stack([[row.values for row in rows] for rows in self._played(audio)]))
        times = (torch.arange(values.shape[1], dtype=torch.float32) + 0.5) * self.every_ms
        return values.to(audio.device), times.to(audio.device)

    def scene(self, audio: Tensor) -> Tensor:
        found = [pooled(rows).values for rows in self._played(audio)]
        return torch.from_numpy(np.stack(found).astype(np.float32)).to(audio.device)

    def _played(self, audio: Tensor) -> Iterator[Iterable[Any]]:
        for samples in audio.detach().float().cpu().numpy():
            yield hops_of(listener(self.artifact, "embedding"), samples)


def load_model(path: str | Path = "") -> Encoder | Played:
    """Load a folder of weights, an artifact, or, without a path, the tagger that ships."""
    if path and Path(path).is_dir() and not list(Path(path).glob("*.onnx")):
        return Encoder(weights.load(path)[0], weights.load_frontend(path, frames=0)).eval()
    return Played(resolve(path or None, task="tag")[0]).eval()


def _checked(audio: Tensor) -> Tensor:
    if audio.ndim != 2 or not audio.numel():
        raise ValueError(f"audio of shape {tuple(audio.shape)}: need [n_sounds, n_samples], none of them 0")
    return torch.nan_to_num(audio.float(), 0.0, 0.0, 0.0)


def get_scene_embeddings(audio: Tensor, model: Encoder | Played) -> Tensor:
    """Return one vector for each sound, `[n_sounds, scene_embedding_size]`."""
    return model.scene(_checked(audio))


def get_timestamp_embeddings(audio: Tensor, model: Encoder | Played) -> tuple[Tensor, Tensor]:
    """Return `[n_sounds, n, timestamp_embedding_size]`, and the times in ms `[n_sounds, n]`.

    A vector whose middle lies past the end, since its window is less than half full, is left out.
    """
    values, times = model.timestamps(_checked(audio))
    end = audio.shape[1] * 1000 / model.sample_rate
    kept = max(1, int((times <= end).sum()))
    return values[:, :kept], times[:kept].clamp(max=end).float().expand(len(values), -1)
