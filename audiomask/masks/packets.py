"""Draw masks over packets, which say what a network loses, from models and recorded traces.

Flags are bool, true where a packet is lost: `[B, N]`, or `[N]` for one signal. Functions take and return
numpy arrays or torch tensors, as in `masks.markov`. A row's losses depend on its seed alone, whatever batch
it stands in, and its first packets do not depend on how many follow.

The models are Markov chains that step once a packet, from their stationary state (`Chain`): `Uniform`,
`Gilbert`, `GilbertElliott`, `ThreeState`. `Trace` and `Windows` play recorded losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from audiomask.audio import AudioError, replacing
from audiomask.masks.markov import Array, Chain, follow, like, mixed

if TYPE_CHECKING:
    from torch import Tensor

TRACE_MS = 20.0  # duration of a packet in the format of the PLC Challenge
BINS_MS = (120.0, 320.0, 1000.0)  # upper edges of the challenge's classes of burst


class LossModel(Protocol):
    """A source that draws packet losses."""

    def sample(self, seeds: Array, packets: int) -> Array:
        """Return `[B, packets]` bool, true where lost, from `seeds [B]` int64."""


def _check(**probabilities: float) -> None:
    for name, p in probabilities.items():
        if not 0 <= p <= 1:
            raise ValueError(f"{name} is {p:g}; a probability lies between 0 and 1")


@dataclass(frozen=True)
class Uniform(Chain):
    """A model that loses a fraction `rate` of packets, independently of each other (Bernoulli)."""

    rate: float

    def __post_init__(self) -> None:
        _check(rate=self.rate)
        self._set(np.ones((1, 1)), [self.rate])


@dataclass(frozen=True)
class GilbertElliott(Chain):
    """A model of two states which both lose packets (Elliott, Bell Syst. Tech. J. 42, 1963)."""

    p: float  # probability from good to bad at a packet
    q: float  # probability from bad to good
    good_loss: float  # fraction of packets lost when good: 1 - k in the papers, 0 in Gilbert's own of 1960
    bad_loss: float  # and when bad: 1 - h in the papers

    def __post_init__(self) -> None:
        _check(p=self.p, q=self.q, good_loss=self.good_loss, bad_loss=self.bad_loss)
        if self.p + self.q == 0:
            raise ValueError("p and q are both 0; a chain that never moves has no loss rate")
        self._set([[1 - self.p, self.p], [self.q, 1 - self.q]], [self.good_loss, self.bad_loss])


@dataclass(frozen=True)
class Gilbert(Chain):
    """A model of two states, good and bad; the bad one loses every packet ("simple Gilbert").

    It loses p / (p + q) in the long run, in bursts with a mean of 1 / q packets.
    """

    p: float  # probability from good to bad at a packet
    q: float  # probability from bad to good

    def __post_init__(self) -> None:
        self._set(GilbertElliott(self.p, self.q, 0.0, 1.0).transition, [0.0, 1.0])

    @classmethod
    def of(cls, rate: float, burst: float) -> Self:
        """Return the model of this loss rate, below 1, and mean burst, from 1; ValueError if none."""
        if not (0 <= rate < 1 <= burst and rate <= (1 - rate) * burst):
            raise ValueError(f"no chain loses {rate:g} of the packets in bursts of {burst:g} in the mean")
        return cls(rate / ((1 - rate) * burst), 1 / burst)


@dataclass(frozen=True)
class ThreeState(Chain):
    """A model of a good state and two kinds of burst that lose every packet: short and long.

    The chain is that of Salsano, Ludovici, Ordine and Giannuzzi ("Definition of a general and intuitive loss
    model for packet networks and its implementation in the Netem module", 2012) without its state 2,
    reception within a burst. There an isolated loss is over after one packet (p41 = 1); here it may go on.
    """

    short: float  # probability at a packet from good to a short burst (p14 in the paper)
    long: float  # and to a long one (p13)
    short_end: float  # probability from a short burst to good (p41): bursts of 1 / short_end
    long_end: float  # and from a long one (p31)

    def __post_init__(self) -> None:
        _check(short=self.short, long=self.long, short_end=self.short_end, long_end=self.long_end)
        _check(**{"short + long": self.short + self.long})
        if 0 in (self.short_end, self.long_end):
            raise ValueError("short_end and long_end must be above 0; else a burst never ends")
        p, q = self.short_end, self.long_end
        rows = [[1 - self.short - self.long, self.short, self.long], [p, 1 - p, 0], [q, 0, 1 - q]]
        self._set(rows, [0.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Trace:
    """A recorded trace `lost [N]`, played for every row from its beginning.

    `name` is for the error. Traces that count whole packets only may lack one packet; that one has arrived.
    """

    lost: np.ndarray
    name: str = "trace"

    def sample(self, seeds: Array, packets: int) -> Array:
        """Return `lost [B, packets]` bool. AudioError for a trace that is too short."""
        if packets > len(self.lost) + 1:
            raise AudioError(f"{self.name}: has {len(self.lost)} packets, and the signal {packets}")
        return like(np.append(self.lost, False)[:packets], seeds)[None] & (seeds == seeds)[:, None]


class Windows:
    """A model that joins stretches of recorded traces `[N]`, from a random packet in each row."""

    def __init__(self, traces: Array | Iterable[Array]):
        self.lost = np.concatenate(_traces(traces))

    def sample(self, seeds: Array, packets: int) -> Array:
        start = mixed(mixed(seeds)) % len(self.lost)
        return like(self.lost, seeds)[(start[:, None] + like(np.arange(packets), seeds)) % len(self.lost)]


class Recorded(Windows):
    """A model that plays `Windows` of the traces a table names.

    The table has lines KEY PATH, like `utt2trace` of a data directory. A relative path is looked for beside
    the table, or else from the working directory. AudioError for a table or a trace that cannot be read.
    """

    def __init__(self, table: str):
        try:
            lines = Path(table).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise AudioError(f"{table}: cannot be read ({error})") from None
        files = [line.partition(" ")[2].strip() for line in lines]
        if not all(files) or not files:
            raise AudioError(f"{table}: want lines KEY PATH, the path of a trace")
        beside = [Path(table).parent / file for file in files]
        super().__init__(read_trace(b if b.exists() else f) for b, f in zip(beside, files, strict=True))


def parse_loss(spec: str) -> LossModel:
    """Return the model for `gilbert:P,Q`, `drop:RATE` or the path of a trace.

    ValueError for numbers that are no probabilities, AudioError for a file that is missing or no trace.
    """
    kind, colon, rest = spec.partition(":")
    wanted = {"gilbert": (Gilbert, "P,Q"), "drop": (Uniform, "RATE")}
    if not colon or kind not in wanted:
        if not Path(spec).is_file():
            raise AudioError(f"{spec}: no such file; a loss is a trace file, gilbert:P,Q or drop:RATE")
        return Trace(read_trace(spec), spec)
    model, form = wanted[kind]
    try:
        numbers = [float(part) for part in rest.split(",")]
        if len(numbers) != form.count(",") + 1:
            raise ValueError(f"{len(numbers)} numbers")
        return model(*numbers)
    except ValueError as error:
        raise ValueError(f"{spec}: {error}; want {kind}:{form}, each from 0 to 1") from None


def read_trace(path: str | Path) -> np.ndarray:
    """Read flags `[N]` of a file with a line a packet, 1 where lost; AudioError names the line."""
    try:
        lines = Path(path).read_text(encoding="ascii").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"{path}: cannot be read as a trace ({error})") from None
    for number, line in enumerate(lines, 1):
        if line.strip() not in ("0", "1"):
            raise AudioError(f"{path}:{number}: {line[:40]!r} is neither 0 nor 1; want a line a packet")
    if not lines:
        raise AudioError(f"{path} is empty; want a line for each packet, 1 where it is lost and else 0")
    return np.array([line.strip() == "1" for line in lines])


def write_trace(path: str | Path, lost: Array) -> None:
    """Write flags `[N]` in the format of `read_trace`; the file is whole or absent."""
    with replacing(path) as part:
        part.write_text("".join(f"{int(flag)}\n" for flag in lost), encoding="ascii")


def _traces(traces: Array | Iterable[Array]) -> list[np.ndarray]:
    """Return `[N]`, `[B, N]` or several, on any device, as bool arrays `[N]`; at least one."""
    arrays: list[Array] = [traces] if hasattr(traces, "ndim") else list(traces)
    arrays = [np.asarray(a.cpu() if hasattr(a, "cpu") else a, bool) for a in arrays]
    out = [row for a in arrays for row in (a if a.ndim == 2 else [a]) if len(row)]
    if not out:
        raise ValueError("there are no packets in the traces")
    return out


@dataclass(frozen=True, eq=False)
class Bursts:
    """Counts `packets`, and bursts by length, `histogram [longest + 1]`, in one or more traces."""

    packets: int
    histogram: np.ndarray

    @property
    def rate(self) -> float:
        """Return the fraction of packets that is lost."""
        return float(self.histogram @ np.arange(len(self.histogram))) / self.packets

    @property
    def mean(self) -> float:
        """Return the mean packets of a burst; NaN without a burst."""
        count = self.histogram.sum()
        return self.rate * self.packets / float(count) if count else math.nan

    @property
    def longest(self) -> int:
        """Return the packets of the longest burst, 0 without one."""
        return len(self.histogram) - 1

    def by_class(self, packet_ms: float = TRACE_MS) -> np.ndarray:
        """Count bursts `[4]` of up to 120 ms, to 320 ms, to 1 s, and longer ones."""
        kinds = burst_class(np.arange(len(self.histogram)), packet_ms)
        return np.bincount(kinds, self.histogram, minlength=len(BINS_MS) + 1).astype(int)


def burst_class(length: int | np.ndarray, packet_ms: float = TRACE_MS) -> Any:
    """Return the class of a burst: 0 up to 120 ms, 1 to 320 ms, 2 to 1 s, 3 above.

    The challenge sorts traces by the class of their longest burst and has none of class 3.
    """
    return np.searchsorted(np.array(BINS_MS) + 1e-6, np.asarray(length) * packet_ms)


def statistics(traces: Array | Iterable[Array]) -> Bursts:
    """Return the statistics of flags `[N]`, `[B, N]` or several; a burst ends with its trace."""
    rows = _traces(traces)
    joined = np.concatenate([np.append(row, False) for row in rows])
    edges = np.flatnonzero(np.diff(joined, prepend=False))
    lengths = edges[1::2] - edges[::2]
    return Bursts(sum(map(len, rows)), np.bincount(lengths, minlength=1))


def bursts(uniform: Array, rate: Array, length: Array) -> Array:
    """Turn random numbers `[B, N]` into `lost [B, N]` bool, by Gilbert's two states.

    `rate [B]`, below 1, is the fraction lost in the long run, `length [B]`, from 1, the mean burst's packets.
    """
    one = like(np.int8(1), uniform)
    worse, better = (rate / ((1 - rate) * length))[:, None], (1 / length)[:, None]
    return follow([(uniform < worse) * one, (uniform >= better) * one], (uniform[:, 0] < rate) * one) > 0


def packets(samples: int, sample_rate: int, packet_ms: float) -> tuple[int, int]:
    """Return how many packets carry so many samples, and the samples of one."""
    size = max(1, round(packet_ms * sample_rate / 1000))
    return math.ceil(samples / size), size


def per_sample(lost: Array, samples: int, size: int) -> Array:
    """Repeat flags of packets of `size` samples to `[..., samples]`; ValueError for too few."""
    if lost.shape[-1] * size < samples:
        raise ValueError(f"{lost.shape[-1]} packets of {size} samples do not hold {samples} samples")
    return lost[..., like(np.arange(samples) // size, lost)]


def lose(x: Tensor, lost: Tensor, size: int) -> Tensor:
    """Return `x [B, T]` with zeros in its packets that are `lost [B, ceil(T / size)]`."""
    return x * ~per_sample(lost, x.shape[-1], size)
