"""Draw masks from filtered noise: the patches where it is strongest stay visible.

Both kinds cut a window at a random place for each row out of noise that was made once, on a torus, and mirror
it. numpy makes it from `noise_seed`; it is kept as integers, so masks are equal on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from audiomask.masks.markov import like
from audiomask.masks.patches.patterns import FINE, AnyRatio, Grid, bits

COLOURS = ("red", "blue", "green", "purple")


@dataclass(frozen=True)
class ColourNoise(AnyRatio):
    """Draw masks from coloured noise (ColorMAE, Hinojosa et al. 2024).

    White noise W is filtered by Gaussian blurs G of the two widths `sigmas`, narrow n and wide w, in patches:

        red     G_w W              low-pass: large patches of both kinds
        blue    W - G_n W          high-pass: scattered
        green   G_n W - G_w W      band-pass: blobs of one size
        purple  W - green          band-stop: large ones with scattered ones inside

    The paper's widths are not known to us; ours suit a grid eight patches high. ColorMAE divides each window
    by its maximum, which does not change the order of its values, and crops it from 3072 x 3072 points; here
    these are `size` x `size`, joined at their edges. A grid that is longer than `size` repeats itself.
    """

    colour: str = "green"
    sigmas: tuple[float, float] = (0.7, 2.0)
    noise_seed: int = 0
    size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.colour not in COLOURS:
            raise ValueError(f"colour is {self.colour!r}; there are {', '.join(COLOURS)}")
        if not 0 < self.sigmas[0] < self.sigmas[1]:
            raise ValueError(f"sigmas are {self.sigmas}; want a narrow and a wide one, 0 < narrow < wide")
        _check(self.size, self.noise_seed)

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        bank = _coloured(self.colour, tuple(self.sigmas), self.noise_seed, self.size, seeds.device)
        return window(bank, seeds, grid)


@dataclass(frozen=True)
class BlueNoise(AnyRatio):
    """Keep visible patches far apart by optimised blue noise (SNMM, Bhowmik et al. 2025).

    Structured-noise masked modelling minimises `clustering` within a window of `reach` patches in four
    directions of `weights`. The authors' code is not public. Here a torus of `size` x `size` patches is
    ordered by void and cluster (Ulichney 1993): among a tenth of its patches the most crowded moves to the
    emptiest place until none does; then the rest follow, each where it adds least. So the patches are spread
    out at any ratio and in any window. There are `tiles` such tori, for variety.
    """

    reach: int = 3
    weights: tuple[float, float, float, float] = (1.0, 1.0, 0.7, 0.7)
    noise_seed: int = 0
    tiles: int = 4
    size: int = 64
    sliced = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (len(self.weights) == 4 and min(self.weights) > 0):
            raise ValueError(f"weights are {self.weights}; want four above 0: time, freq, two diagonals")
        if not 0 < self.reach < self.size / 2:
            raise ValueError(f"reach is {self.reach}; want 1 or more, and less than half of size {self.size}")
        _check(self.size, self.noise_seed)
        if self.tiles < 1:
            raise ValueError(f"tiles is {self.tiles}; want 1 or more")

    def order(self, seeds: Tensor, grid: Grid, scores: Tensor | None = None) -> Tensor:
        settings = self.reach, tuple(self.weights), self.noise_seed, self.tiles, self.size
        return window(_spread(*settings, seeds.device), seeds, grid)


def clustering(
    visible: Tensor, reach: int = 3, weights: tuple[float, float, float, float] = (1.0, 1.0, 0.7, 0.7)
) -> Tensor:
    """Return how crowded the true patches of `visible [..., time, freq]` are, `[...]`.

    This is the mean over them of

        sum over directions d of weights[d] sum over n = 1..reach of (v(p + n d) + v(p - n d)) / n

    with v = 1 for visible patches, and directions along time, freq and the two diagonals. Outside is empty.
    """
    v = visible.float()
    steps, pull = _pulls(reach, weights)
    kernel = v.new_zeros(2 * reach + 1, 2 * reach + 1)
    kernel[tuple(reach + steps.T)] = torch.from_numpy(pull).to(kernel)
    crowd = F.conv2d(v.reshape(-1, 1, *v.shape[-2:]), kernel[None, None], padding=reach).view_as(v)
    return (v * crowd).sum((-2, -1)) / v.sum((-2, -1)).clamp_min(1)


def _pulls(reach: int, weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps `[P, 2]` from a patch to those that crowd it, and their weights `[P]`."""
    ways = [(1, 0), (0, 1), (1, 1), (1, -1)]
    steps = [(s * n * dt, s * n * df) for dt, df in ways for n in range(1, reach + 1) for s in (1, -1)]
    return np.array(steps), np.repeat([w / n for w in weights for n in range(1, reach + 1)], 2)


def window(bank: Tensor, seeds: Tensor, grid: Grid) -> Tensor:
    """Cut `[B, time, freq]` out of `bank [K, size, size]`: tile, place and mirrors vary by row."""
    tiles, size, _ = bank.shape
    drawn = bits(seeds, 4, 1) * like([tiles, size, size, 4], seeds) >> FINE
    tile, t0, f0, mirror = drawn.unbind(1)
    t, f = (torch.arange(n, device=seeds.device) for n in grid)
    t = torch.where((mirror & 1 > 0)[:, None], t, -1 - t) + t0[:, None]
    f = torch.where((mirror & 2 > 0)[:, None], f, -1 - f) + f0[:, None]
    return bank[tile[:, None, None], (t % size)[:, :, None], (f % size)[:, None]]


@lru_cache(maxsize=16)
def _coloured(colour: str, sigmas: tuple[float, float], seed: int, size: int, device: torch.device) -> Tensor:
    """Return `[1, size, size]` int64, the place of each point among all, the strongest first."""
    f = np.fft.fftfreq(size) ** 2
    narrow, wide = (np.exp(-2 * (np.pi * s) ** 2 * (f[:, None] + f)) for s in sigmas)
    response = {"red": wide, "blue": 1 - narrow, "green": narrow - wide, "purple": 1 - narrow + wide}[colour]
    white = np.random.default_rng(seed).standard_normal((size, size))
    noise = np.fft.ifft2(np.fft.fft2(white) * response).real
    places = np.empty(size * size, np.int64)
    places[np.argsort(noise, None)] = np.arange(size * size)  # the weakest hidden first
    return torch.from_numpy(places.reshape(1, size, size)).to(device)


@lru_cache(maxsize=16)
def _spread(
    reach: int, weights: tuple[float, ...], seed: int, tiles: int, size: int, device: torch.device
) -> Tensor:
    """Return `[tiles, size, size]` int64 by void and cluster; the last placed are hidden first."""
    random = np.random.default_rng(seed)
    points = size * size
    steps, pull = _pulls(reach, weights)
    every = np.arange(tiles)
    # Many energies are equal; noise far below the least of pulls decides between them.
    energy = random.uniform(0, 1e-3, (tiles, points))
    taken = np.zeros((tiles, points), bool)

    def put(at: np.ndarray, sign: int) -> None:
        t, f = (at[:, None] // size + steps[:, 0]) % size, (at[:, None] % size + steps[:, 1]) % size
        energy[every[:, None], t * size + f] += sign * pull
        taken[every, at] = sign > 0

    def void(sign: int = 1) -> np.ndarray:  # the emptiest place, or with -1 the most crowded that is taken
        return np.where(taken == (sign > 0), np.inf, sign * energy).argmin(1)

    few = max(1, points // 10)
    for at in random.permuted(np.tile(np.arange(points), (tiles, 1)), axis=1)[:, :few].T:
        put(at, 1)
    for _ in range(4 * few):  # a bound, as some would cycle for ever
        crowded = void(-1)
        put(crowded, -1)
        empty = void()
        put(empty, 1)
        if (crowded == empty).all():
            break
    places = np.empty((tiles, points), np.int64)
    held, state = taken.copy(), energy.copy()
    for place in range(few - 1, -1, -1):
        at = void(-1)
        places[every, at] = place
        put(at, -1)
    taken[:], energy[:] = held, state
    for place in range(few, points):
        at = void()
        places[every, at] = place
        put(at, 1)
    return torch.from_numpy(-places.reshape(tiles, size, size)).to(device)


def _check(size: int, seed: int) -> None:
    if size < 8 or seed < 0:
        raise ValueError(f"size is {size}, noise_seed {seed}; want size from 8, noise_seed from 0")
