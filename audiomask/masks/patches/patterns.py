"""Draw masks over the patches of a spectrogram, which hide what a network must predict.

    mask = Random(ratio=0.8).sample(seeds, grid=(64, 8))     # seeds [B] int64 -> [B, 64, 8] bool

A mask is true where a patch is hidden. Every kind is a frozen dataclass of its settings with this one way to
draw. `grid` is (time, freq) in patches, in the time-major order of Audio-MAE's tokens when flattened. A row
depends on its own seed and scores only: numbers are hashes of seed and position (`masks.markov.uniform`),
drawn on the device of the seeds. Kinds that do not weigh scores are equal on every device.

A kind says in which **order** patches would be hidden, down to how the last column, block or segment is
trimmed. The first round(ratio * time * freq) are, exactly, so that the visible tokens of a batch stack.

Beside this module, `noise` has filtered noise, `scored` kinds that take scores of the sound, `learned` those
whose scores a network gives, `jepa` the blocks of A-JEPA, `staged` masks that change as training goes on, and
`saved` files and pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from audiomask.masks.markov import like, uniform

Grid = tuple[int, int]
FINE = 24  # bits of a random number, the low ones of a key


def bits(seeds: Tensor, count: int, stream: int = 0) -> Tensor:
    """Return random integers `[B, count]` int64 of 24 bits."""
    return (uniform(seeds, count, stream) * 2**FINE).long()


def shuffled(seeds: Tensor, grid: Grid) -> Tensor:
    """Return random keys `[B, time, freq]` of 24 bits."""
    return bits(seeds, grid[0] * grid[1]).view(-1, *grid)


def ranks(keys: Tensor) -> Tensor:
    """Return the rank of each of `keys [B, N]` in its row, 0 for the least; equals in order."""
    order = keys.argsort(dim=1, stable=True)
    rank = torch.arange(keys.shape[1], device=keys.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, rank)


def first(keys: Tensor, count: int) -> Tensor:
    """Return true for the `count` least of each row of `keys [B, ...]`, the first of equals."""
    flat = keys.flatten(1)
    chosen = flat.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view(keys.shape)


def tokens(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices of visible `[B, V]` and hidden `[B, M]` patches of a mask, both rising.

    The mask is `[B, time, freq]`. ValueError if rows hide different numbers, or all, or nothing.
    """
    flat = mask.flatten(1)
    counts = flat.sum(1).tolist()
    hidden = int(counts[0])
    if set(counts) != {hidden} or not 0 < hidden < flat.shape[1]:
        raise ValueError(
            f"a mask that hides {min(counts)} to {max(counts)} of {flat.shape[1]} patches a row: every row "
            "must hide as many as the others, and neither all nor none"
        )
    order = flat.byte().argsort(dim=1, stable=True)
    return order[:, :-hidden], order[:, -hidden:]


def _between(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(
                f"{name} is {share:g}; a share of the patches lies between 0 and 1, .8 for example"
            )


class PatchMask:
    """A kind of mask. Subclasses give `order`, and `count` where a `ratio` does not set it."""

    ratio: float  # fraction of the patches that is hidden
    scored: ClassVar[str] = ""  # describes `scores`, "[B, time] ..."; empty: the kind takes none
    sliced: ClassVar[bool] = False  # is any run of the order a mask of this kind? `Disjoint` wants one

    def __post_init__(self) -> None:
        _between(ratio=self.ratio)

    def count(self, grid: Grid) -> int:
        """Return how many patches are hidden. ValueError if that is none or all."""
        return counted(round(self.ratio * grid[0] * grid[1]), grid, f"ratio {self.ratio:g}")

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        """Return keys `[B, time, freq]`; patches are hidden from the least key on."""
        raise NotImplementedError

    def sample(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        """Return `[B, time, freq]` bool from `seeds [B]` int64. ValueError for impossible requests."""
        return first(self._order(seeds, grid, scores), self.count(grid))

    def _order(self, seeds: Tensor, grid: Grid, scores: Tensor | None) -> Tensor:
        check(seeds, grid)
        if (scores is None) != (not self.scored):
            wanted = f"needs scores {self.scored}" if self.scored else "takes no scores"
            raise ValueError(
                f"{type(self).__name__} {wanted}; {'none' if scores is None else 'some'} were given"
            )
        return self.order(seeds, grid, scores)


@dataclass(frozen=True)
class AnyRatio(PatchMask):
    """A kind that hides any fraction `ratio` of the patches."""

    ratio: float = 0.8


@dataclass(frozen=True)
class Scheduled:
    """A mask that changes over `steps` steps of the training; this is the one of `step`."""

    steps: int
    step: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.step < 0:
            raise ValueError(f"step {self.step} of {self.steps}; want step from 0, steps from 1")

    def at(self, step: int) -> Self:
        """Return the mask at another step."""
        return replace(self, step=step)

    @property
    def done(self) -> float:
        """Return the fraction of the steps that are done."""
        return min(1.0, self.step / self.steps)


@dataclass(frozen=True)
class Random(AnyRatio):
    """Hide any set of so many patches, all equally likely (Audio-MAE; Huang et al. 2022)."""

    sliced = True

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        return shuffled(seeds, grid)


@dataclass(frozen=True)
class Time(AnyRatio):
    """Hide whole columns, all frequencies of a time; in the last one random patches."""

    sliced = True

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        return within(ranks(bits(seeds, grid[0], 1))[:, :, None], seeds, grid)


@dataclass(frozen=True)
class Frequency(AnyRatio):
    """Hide whole rows, all times of a frequency; in the last one random patches."""

    sliced = True

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        return within(ranks(bits(seeds, grid[1], 2))[:, None], seeds, grid)


@dataclass(frozen=True)
class TimeFrequency(PatchMask):
    """Hide columns and rows: Audio-MAE's 2-D mask, for fine-tuning.

    It hides round(`time` * columns) columns and round(`freq` * rows) rows, whole ones: always the same number
    of patches, 1 - (1 - time) (1 - freq) of them, .79 by default.
    """

    time: float = 0.7
    freq: float = 0.3

    def __post_init__(self) -> None:
        _between(time=self.time, freq=self.freq)

    @property
    def ratio(self) -> float:  # type: ignore[override]
        return 1 - (1 - self.time) * (1 - self.freq)

    def count(self, grid: Grid) -> int:
        columns, rows = self._hidden(grid)
        return counted(grid[0] * grid[1] - (grid[0] - columns) * (grid[1] - rows), grid, f"{self}")

    def _hidden(self, grid: Grid) -> tuple[int, int]:
        return round(self.time * grid[0]), round(self.freq * grid[1])

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        columns, rows = self._hidden(grid)
        columns_kept = ranks(bits(seeds, grid[0], 1)) >= columns
        rows_kept = ranks(bits(seeds, grid[1], 2)) >= rows
        return (columns_kept[:, :, None] & rows_kept[:, None]).long()


@dataclass(frozen=True)
class Block(AnyRatio):
    """Hide rectangles, one after the other until there are enough (BEiT, Bao et al. 2022).

    Areas are uniform in `scale`, as fractions of the grid, and heights over widths log-uniform in `aspect`
    (freq over time, in patches). Blocks too high for the grid get longer. The last is cut to its earliest
    columns. If `blocks` of them do not suffice, the rest is random. BEiT makes no block larger than what is
    still needed. With scale .15 to .2 and aspect .75 to 1.5 these are the target blocks of I-JEPA.
    """

    scale: tuple[float, float] = (0.03, 0.15)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    blocks: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        limits(self.scale, self.aspect)

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        sizes = like(shapes(grid, self.scale, self.aspect), seeds)
        return one_by_one(sizes[bits(seeds, self.blocks, 1) % len(sizes)], seeds, grid)


@dataclass(frozen=True)
class InverseBlock(AnyRatio):
    """Leave squares visible (data2vec 2.0, Baevski et al. 2023; EAT, Chen et al. 2024).

    (1 - ratio + adjust) N / `size`^2 centres, rounded down, fall anywhere in a grid of N patches; squares are
    cut off at its edges. `adjust` makes up for that and for overlaps. Then patches of the squares are hidden,
    or others shown, at random until the count is met.
    """

    size: int = 5
    adjust: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1 or self.adjust < 0:
            raise ValueError(f"size is {self.size}, adjust {self.adjust:g}; want size from 1, adjust from 0")

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        number = max(1, int((1 - self.ratio + self.adjust) * grid[0] * grid[1] / self.size**2))
        where = bits(seeds, 2 * number, 1).view(-1, number, 2)
        start = (where * like(np.array(grid), seeds) >> FINE) - self.size // 2
        kept = inside(start, torch.full_like(start, self.size), grid).any(1)
        return within(kept.long(), seeds, grid)


@dataclass(frozen=True)
class Disjoint:
    """Draw several masks of one clip, no patch visible in two (DMJD, Ma et al. 2022).

    `sample` returns `[B, masks, time, freq]`, runs of the order of `base`. A mask shows as many patches as
    one of `base`, or one less where rounding would need more than there are. With `masks` = 1 / (1 - ratio)
    every patch is visible in one of them and hidden in all others, as in the complementary masks of
    FastConvMAE. Every patch is hidden, hence predicted, at least once.
    """

    base: PatchMask = Random()
    masks: int = 5

    def __post_init__(self) -> None:
        if not self.base.sliced:
            raise ValueError(
                f"the order of {type(self.base).__name__} has no parts alike; take Random or Time"
            )
        if self.masks < 2:
            raise ValueError(f"masks is {self.masks}; disjoint ones are two or more")
        if self.masks * (1 - self.base.ratio) > 1 + 1e-9:
            raise ValueError(
                f"{self.masks} masks that each show {1 - self.base.ratio:.3g} of the patches need "
                f"more than all of them; hide {1 - 1 / self.masks:.3g} or more, or take fewer masks"
            )

    @property
    def scored(self) -> str:
        return self.base.scored

    def sample(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        """Return `[B, masks, time, freq]` bool. ValueError for impossible requests."""
        patches = grid[0] * grid[1]
        visible = min(patches - self.base.count(grid), patches // self.masks)
        counted(patches - visible, grid, f"each of {self.masks} disjoint masks")
        place = ranks(self.base._order(seeds, grid, scores).flatten(1))
        masks = [~((place >= n * visible) & (place < (n + 1) * visible)) for n in range(self.masks)]
        return torch.stack(masks, 1).view(-1, self.masks, *grid)


def within(coarse: Tensor, seeds: Tensor, grid: Grid) -> Tensor:
    """Return keys `[B, time, freq]` by the integers `coarse`, broadcast, random among equals."""
    return (coarse << FINE) + shuffled(seeds, grid)


def shapes(grid: Grid, scale: tuple[float, float], aspect: tuple[float, float]) -> np.ndarray:
    """Return equally likely block sizes (time, freq), `[1024, 2]` int64, alike on all devices."""
    middle = (np.arange(32) + 0.5) / 32
    area = (scale[0] + (scale[1] - scale[0]) * middle)[:, None] * (grid[0] * grid[1])
    ratio = aspect[0] * (aspect[1] / aspect[0]) ** middle
    freq = np.sqrt(area * ratio).round().clip(1, grid[1])
    time = (area / freq).round().clip(1, grid[0])
    return np.stack([time, freq], -1).reshape(-1, 2).astype(np.int64)


def placed(sizes: Tensor, seeds: Tensor, grid: Grid) -> Tensor:
    """Return blocks of `sizes [B, K, 2]` anywhere they fit, as bool `[B, K, time, freq]`."""
    where = bits(seeds, 2 * sizes.shape[1], 2).view(len(seeds), -1, 2)
    return inside(where * (like(np.array(grid), seeds) - sizes + 1) >> FINE, sizes, grid)


def one_by_one(sizes: Tensor, seeds: Tensor, grid: Grid) -> Tensor:
    """Return keys `[B, time, freq]` that hide blocks of `sizes [B, K, 2]` one after the other.

    In a block the earliest columns come first; patches that no block covers come last, at random.
    """
    count = sizes.shape[1]
    number = torch.arange(count, dtype=torch.int16, device=seeds.device)[:, None, None]
    covered = placed(sizes, seeds, grid)
    earliest = torch.where(covered, number, torch.full_like(number, count)).amin(1).long()
    return (earliest << FINE) + torch.where(earliest < count, 0, shuffled(seeds, grid))


def inside(start: Tensor, size: Tensor, grid: Grid) -> Tensor:
    """Return bool `[B, K, time, freq]` of the blocks that begin at `start [B, K, (time, freq)]`."""
    places = (torch.arange(n, device=start.device) for n in grid)
    time, freq = (
        (place >= begin) & (place < begin + length)
        for place, begin, length in zip(places, start.split(1, -1), size.split(1, -1), strict=True)
    )
    return time[..., :, None] & freq[..., None, :]


def check(seeds: Tensor, grid: Grid) -> None:
    """Raise ValueError for invalid seeds or grids."""
    if seeds.ndim != 1 or seeds.dtype != torch.int64:
        raise ValueError(f"seeds of shape {tuple(seeds.shape)}, {seeds.dtype}; want [B] int64, one a row")
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"grid is {tuple(grid)}; want (time, freq), patches from 1")


def counted(count: int, grid: Grid, why: str) -> int:
    """Return `count`. ValueError unless some patches are hidden, and some visible."""
    if not 0 < count < grid[0] * grid[1]:
        raise ValueError(
            f"{why} hides {count} of the {grid[0] * grid[1]} patches of a grid of {grid[0]} x {grid[1]}; "
            "some must be hidden and some seen: take longer clips or another ratio"
        )
    return count


def limits(scale: tuple[float, float], aspect: tuple[float, float]) -> None:
    """Raise ValueError for an invalid range of areas or aspects."""
    for name, (low, high), top in (("scale", scale, 1.0), ("aspect", aspect, math.inf)):
        if not 0 < low <= high <= top:
            raise ValueError(
                f"{name} is {low:g} to {high:g}; want 0 < low <= high{f' <= {top:g}' * (top < 2)}"
            )
