"""Draw masks from the sound: by dispersion, speech, segment or a recogniser's confidence.

They take numbers, `scores`, on the device of the seeds. Kinds that need a spectrogram only make them by
`look(levels, size)`, from natural logarithms of energies `levels [B, frames, bands]`, which are whole patches
of `size` frames by bands. Networks that make scores (a recogniser, a learned sampler) are models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from audiomask.masks.markov import uniform
from audiomask.masks.patches.patterns import FINE, AnyRatio, Grid, first, ranks, within


@dataclass(frozen=True)
class Dispersion(AnyRatio):
    """Hide patches more often where more happens (DWM, Niizumi et al. 2026).

    Hidden patches are drawn without replacement, with probabilities in proportion to their `dispersion`; then
    a fraction `hint` of them is shown again, at random, and as many of the others are hidden instead.
    """

    hint: float = 0.1
    scored: ClassVar[str] = "[B, time, freq], the dispersion of each patch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.hint < 1:
            raise ValueError(f"hint is {self.hint:g}; want a share of the hidden patches, from 0 to below 1")

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        weights = checked(scores, (len(seeds), *grid), least=0.0)
        drawn = drawn_first(weights.flatten(1), seeds, 1)
        count = self.count(grid)
        swap = min(round(self.hint * count), drawn.shape[1] - count)
        hidden, chance = first(drawn, count), uniform(seeds, drawn.shape[1], 2)
        for side in (hidden, ~hidden):  # equally many change either way
            hidden = hidden ^ first(torch.where(side, chance, 1.0), swap)
        return (~hidden).long().view(-1, *grid)

    def look(self, levels: Tensor, size: tuple[int, int]) -> Tensor:
        return dispersion(cut(levels, size))


@dataclass(frozen=True)
class Speech(AnyRatio):
    """Hide columns with speech more often than silent ones (speech-level masking).

    The method is that of arXiv 2210.13805. `scores [B, time]` from 0 to 1 are the fraction or probability of
    speech in each column (`speech`, `columns`). A column with speech is `odds` times as likely to be the next
    as one without. Columns are hidden whole; in the last one random patches are.
    """

    odds: float = 4.0
    scored: ClassVar[str] = "[B, time], the probability of speech in each column"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.odds >= 1:
            raise ValueError(f"odds is {self.odds:g}; want 1, for columns alike, or more")

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        share = checked(scores, (len(seeds), grid[0]), least=0.0, most=1.0)
        return within(drawn_first(1 + (self.odds - 1) * share, seeds, 1)[:, :, None], seeds, grid)

    def look(self, levels: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the fraction of `speech` in each column, by the energy of its frames."""
        return columns(speech(10 / math.log(10) * levels.logsumexp(2)), levels.shape[1] // size[0])


@dataclass(frozen=True)
class Segments(AnyRatio):
    """Hide whole segments of time, like phonemes (phoneme-level masking, arXiv 2210.13805).

    They are hidden in random order; the last one is cut at its end, within a column at random.
    """

    scored: ClassVar[str] = "[B, time], the number of the segment of each column"

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        number = ranks_of_values(checked(scores, (len(seeds), grid[0]), least=0.0))
        turn = ranks(uniform(seeds, grid[0], 1)).gather(1, number)
        column = torch.arange(grid[0], device=seeds.device)
        return within((turn * grid[0] + column)[:, :, None], seeds, grid)

    def look(self, levels: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the segment of each column, between unsupervised `boundaries`."""
        return segments(boundaries(levels), levels.shape[1] // size[0])


@dataclass(frozen=True)
class Confidence(AnyRatio):
    """Hide spans that begin where a recogniser is sure (Ask2Mask, Baskar et al. 2022).

    `scores [B, time]` are the confidence of each column, for example the greatest posterior of a recogniser.
    Spans of `span` columns begin, in random order, at columns of the fraction `top` of greatest confidence,
    until enough is hidden; then at the others. Columns are whole but for the last, and the last span is cut
    at its end. `utterance_weights` has the other half of the method.
    """

    top: float = 0.4
    span: int = 3
    scored: ClassVar[str] = "[B, time], the confidence of each column"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.top <= 1 or self.span < 1:
            raise ValueError(f"top is {self.top:g}, span {self.span}; want 0 < top <= 1, span from 1")

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        confidence = checked(scores, (len(seeds), grid[0]))
        sure = first(-confidence, max(1, round(self.top * grid[0])))
        turn = ranks(uniform(seeds, grid[0], 1) + (~sure).float())
        # the earliest turn of the starts that reach a column: its own and those of the span - 1 before it
        padded = F.pad(turn, (self.span - 1, 0), value=grid[0])
        reached = padded.unfold(1, self.span, 1).amin(2)
        column = torch.arange(grid[0], device=seeds.device)
        return within((reached * grid[0] + column)[:, :, None], seeds, grid)


def utterance_weights(confidence: Tensor) -> Tensor:
    """Return factors `[B]` on the losses of utterances: their mean confidence.

    It is taken from `[B, N]` of frames or `[B]` of utterances (ATM+S of Ask2Mask). ValueError outside 0 to 1.
    """
    rows = confidence if confidence.ndim == 2 else confidence[..., None]
    return checked(rows, (len(confidence), rows.shape[-1]), least=0.0, most=1.0).mean(1)


def cut(spectrogram: Tensor, size: tuple[int, int] = (16, 16)) -> Tensor:
    """Cut `[B, frames, bands]` to patches `[B, time, freq, values]`; ValueError for a remainder."""
    _, frames, bands = spectrogram.shape
    if frames % size[0] or bands % size[1] or not frames:
        raise ValueError(
            f"{frames} frames of {bands} bands are no whole patches of {size[0]} x {size[1]}; pad or cut"
        )
    split = spectrogram.unflatten(1, (-1, size[0])).unflatten(3, (-1, size[1]))
    return split.transpose(2, 3).flatten(3)


def dispersion(patches: Tensor, statistic: str = "deviation") -> Tensor:
    """Return mean |x - mean x| (`deviation`) or its mean square (`variance`) of `[..., P]`."""
    away = patches - patches.mean(-1, keepdim=True)
    if statistic not in ("deviation", "variance"):
        raise ValueError(f"statistic is {statistic!r}; there are deviation and variance")
    return (away.abs() if statistic == "deviation" else away.square()).mean(-1)


def columns(frames: Tensor, time: int) -> Tensor:
    """Return means `[B, time]` of N / time `frames [B, N]` each; ValueError for a remainder."""
    if frames.shape[1] % time or not frames.shape[1]:
        raise ValueError(f"{frames.shape[1]} frames do not fill {time} columns evenly; pad or cut them")
    return frames.unflatten(1, (time, -1)).mean(2)


def speech(energy_db: Tensor) -> Tensor:
    """Return where there is sound, `[B, N]` from 0 to 1, from frame energies `[B, N]` in dB.

    It rises in a straight line from the tenth percentile of a clip to its ninety-fifth, and is 0 where these
    are less than 6 dB apart. It detects loudness: give a speech detector's output instead if you have one.
    """
    low, high = (energy_db.quantile(q, 1, keepdim=True) for q in (0.1, 0.95))
    return ((energy_db - low) / (high - low).clamp_min(1e-3)).clamp(0, 1) * (high - low >= 6)


def boundaries(spectrogram: Tensor, reach: int = 2) -> Tensor:
    """Return frames where a sound begins, bool `[B, N]`, from a log `spectrogram [B, N, bands]`.

    The change at frame n is the Euclidean distance of the means of the `reach` frames before it and of the
    `reach` from it on; a boundary is the greatest within `reach` frames on both sides and above the clip's
    mean. Frame 0 is one. This is a common way to find phone-like segments without labels.
    """
    frames = spectrogram.shape[1]
    if frames < 2 * reach:  # too short for a change
        return torch.arange(frames, device=spectrogram.device).eq(0).expand(len(spectrogram), -1)
    means = F.avg_pool1d(spectrogram.transpose(1, 2), reach, 1)  # [B, bands, N - reach + 1]
    change = F.pad((means[..., reach:] - means[..., :-reach]).norm(dim=1), (reach, reach - 1))
    peak = F.max_pool1d(change[:, None], 2 * reach + 1, 1, reach)[:, 0]
    found = (change == peak) & (change > change.mean(1, keepdim=True))
    found[:, 0] = True
    return found


def segments(boundaries: Tensor, time: int) -> Tensor:
    """Return the segment `[B, time]` at each column's middle, counted in `boundaries [B, N]`.

    Segments shorter than a column may have none. ValueError unless N is a multiple of `time`.
    """
    width = boundaries.shape[1] // time
    columns(boundaries.float(), time)
    return boundaries.long().cumsum(1)[:, width // 2 :: width][:, :time] - 1


def drawn_first(weights: Tensor, seeds: Tensor, stream: int) -> Tensor:
    """Return places `[B, N]` int64 in a draw without replacement by weights; those of 0 last."""
    # An exponential race: for the first drawn, -log u / w is least and log w - log(-log u) greatest.
    half = 2.0 ** -(FINE + 1)  # half a step of u, so that neither u nor log u is 0
    times = -(uniform(seeds, weights.shape[1], stream) + half).log()
    largest = weights.amax(1, keepdim=True)
    shares = torch.where(largest > 0, weights / largest.clamp_min(torch.finfo(torch.float32).tiny), 1.0)
    return ranks(times.clamp_min(half) / shares.clamp_min(1e-20))


def ranks_of_values(x: Tensor) -> Tensor:
    """Replace the least value of each row of `x [B, N]` by 0, the next by 1, ..., equals alike."""
    values, order = x.sort(dim=1, stable=True)
    new = F.pad((values[:, 1:] != values[:, :-1]).long().cumsum(1), (1, 0))
    return torch.empty_like(new).scatter_(1, order, new)


def checked(
    scores: Tensor | None, shape: tuple[int, ...], least: float = -math.inf, most: float = math.inf
) -> Tensor:
    """Return `scores` as float32; ValueError unless of that shape and from `least` to `most`."""
    assert scores is not None  # PatchMask has checked it
    if tuple(scores.shape) != shape:
        raise ValueError(f"scores of shape {tuple(scores.shape)}; want {shape}, a number for each place")
    x = scores.float()
    bad = ~(x.isfinite() & (x >= least) & (x <= most))
    if bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"scores{list(where)} is {x[where]:g}; want numbers from {least:g} to {most:g}")
    return x
