"""Hold a mask with what drew it, so that it can be saved, drawn as a picture and replayed.

The file is a .npz without pickles: `masked`, the bits; `seeds`; `scores` if there are any; and `meta`, a JSON
text of the kind with its settings, the grid and the shape.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from audiomask.audio import AudioError, replacing
from audiomask.masks.patches import patterns
from audiomask.masks.patches.jepa import Curriculum
from audiomask.masks.patches.learned import Hardest, Likely
from audiomask.masks.patches.noise import BlueNoise, ColourNoise
from audiomask.masks.patches.patterns import Disjoint, Grid, PatchMask
from audiomask.masks.patches.scored import Confidence, Dispersion, Segments, Speech
from audiomask.masks.patches.staged import Staged, Strips

Sampler = PatchMask | Disjoint | Curriculum
FORMAT = 1
# Errors that numpy, zip, JSON and the kinds raise for a file that is no mask, or half of one.
UNREADABLE = (OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, BadZipFile, zlib.error)

PLAIN = (patterns.Random, patterns.Time, patterns.Frequency, patterns.TimeFrequency)
BLOCKS = (patterns.Block, patterns.InverseBlock, Disjoint, Curriculum, Strips, Staged)
NOISE = (ColourNoise, BlueNoise)
SCORED = (Dispersion, Speech, Segments, Confidence, Hardest, Likely)
KINDS: dict[str, type] = {  # by name: TimeFrequency is time_frequency
    re.sub(r"\B([A-Z])", r"_\1", kind.__name__).lower(): kind for kind in PLAIN + BLOCKS + NOISE + SCORED
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """Holds a mask `masked [B, ..., time, freq]` bool and its origin; see `of` and `load`."""

    masked: Tensor
    sampler: Any
    seeds: Tensor
    grid: Grid
    scores: Tensor | None = None

    @classmethod
    def of(cls, sampler: Sampler, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Self:
        return cls(sampler.sample(seeds, grid, scores), sampler, seeds, grid, scores)

    def save(self, path: str | Path) -> None:
        """Write the file; it is whole or absent."""
        shape = list(self.masked.shape)
        meta = {"format": FORMAT, "sampler": described(self.sampler), "grid": list(self.grid), "shape": shape}
        arrays = {"masked": np.packbits(self.masked.cpu().numpy()), "seeds": self.seeds.cpu().numpy()}
        if self.scores is not None:
            arrays["scores"] = self.scores.cpu().numpy()
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, meta=np.array(json.dumps(meta)), **arrays)


def load(path: str | Path, device: torch.device | str = "cpu") -> Drawn:
    """Read a file and draw its mask again; AudioError if it is invalid or comes out otherwise."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays["meta"]))
        if meta["format"] != FORMAT:
            raise AudioError(f"{path}: is of format {meta['format']}, known is {FORMAT}; update audiomask")
        sampler = made(meta["sampler"])
        shape, grid = tuple(map(int, meta["shape"])), (int(meta["grid"][0]), int(meta["grid"][1]))
        if shape[-2:] != grid or shape[0] != len(arrays["seeds"]) or min(shape) < 1:
            raise ValueError(f"shape {shape} for {len(arrays['seeds'])} seeds and a grid {grid}")
        if len(arrays["masked"]) != -(-math.prod(shape) // 8):
            raise ValueError(f"{len(arrays['masked'])} bytes of flags for the shape {shape}")
        flags = np.unpackbits(arrays["masked"], count=math.prod(shape)).astype(bool).reshape(shape)
        scores = torch.from_numpy(arrays["scores"]).to(device) if "scores" in arrays else None
        again = Drawn.of(sampler, torch.from_numpy(arrays["seeds"]).to(device), grid, scores)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; --save writes one") from None
    except UNREADABLE as error:
        raise AudioError(f"{path}: is no saved mask ({error}); --save writes one") from None
    if tuple(again.masked.shape) != shape or not np.array_equal(again.masked.cpu().numpy(), flags):
        raise AudioError(
            f"{path}: its {meta['sampler']['kind']} mask comes out otherwise than it was saved; the file is "
            "damaged, or made by another version: draw it anew"
        )
    return again


def described(sampler: Any) -> dict[str, Any]:
    """Return the kind and settings, as JSON takes them."""
    out: dict[str, Any] = {"kind": next(name for name, kind in KINDS.items() if kind is type(sampler))}
    for field in dataclasses.fields(sampler):
        value = getattr(sampler, field.name)
        out[field.name] = described(value) if dataclasses.is_dataclass(value) else value
    return out


def made(description: dict[str, Any]) -> Any:
    """Return the mask that `described` describes. ValueError for an unknown kind or setting."""
    settings = dict(description)
    kind = settings.pop("kind")
    if kind not in KINDS:
        raise ValueError(f"there is no kind of mask {kind!r}; there are {', '.join(KINDS)}")
    known = {field.name for field in dataclasses.fields(KINDS[kind])}
    if not settings.keys() <= known:
        raise ValueError(f"{kind} has no {', '.join(sorted(settings.keys() - known))}")
    for name, value in settings.items():
        if isinstance(value, list):
            settings[name] = tuple(value)
        elif isinstance(value, dict):
            settings[name] = made(value)
    return KINDS[kind](**settings)


def draw(
    masked: Tensor, axes: Any, spectrogram: Tensor, seconds: float | None = None, title: str = ""
) -> Any:
    """Draw a spectrogram `[frames, bands]` with its hidden patches covered; return the image.

    Frames and bands are multiples of the grid of `masked [time, freq]`. The axis of time is in seconds if
    `seconds`, their number, is given, else in frames. ValueError for shapes that do not fit.
    """
    frames, bands = spectrogram.shape
    time, freq = masked.shape
    if frames % time or bands % freq:
        raise ValueError(f"a mask of {time} x {freq} patches for a spectrogram of {frames} x {bands}")
    hidden = masked.repeat_interleave(frames // time, 0).repeat_interleave(bands // freq, 1)
    picture = np.ma.masked_array(spectrogram.cpu().numpy().T, hidden.cpu().numpy().T)
    from matplotlib import colormaps

    span = (0.0, frames if seconds is None else seconds, 0.0, bands)
    style: Any = {"origin": "lower", "aspect": "auto", "extent": span, "interpolation": "nearest"}
    style |= {"vmin": float(spectrogram.min()), "vmax": float(spectrogram.max())}
    image = axes.imshow(picture, cmap=colormaps["magma"].with_extremes(bad="0.85"), **style)
    axes.set(title=title, xlabel="frame" if seconds is None else "time (s)", ylabel="mel band")
    return image
