"""Compute how strong a sound may be in each bin before it is heard beside another.

    analysis = Analysis(size=512, hop=256, window="hann")
    threshold = Sequential(analysis, Johnston(sample_rate=16000, size=512))
    room = threshold(speech)            # [B, C, T, 257]; a mark may have so much power in each bin

`Johnston` (1988) and `Model1`, psychoacoustic model 1 of ISO/IEC 11172-3, are streaming blocks: they take
spectra X `[B, 2 C, T, F]` (see `frontend.stft`) of any rate and give thresholds `[B, C, T, F]` in units of
|X|^2. Each frame and channel is judged alone, so they have no state and add no delay. Neither knows masking
over time: within one frame, sound that comes before its masker counts as masked too.

Inside, powers are in units of 0 dB SPL. Digital full scale has no sound pressure of its own: `full_scale_db`
states at which level a sine of amplitude 1 is thought to be played, 96 dB (as in the standard) unless told
otherwise. A line of a spectrum carries the part of the frame's mean power that Parseval's theorem gives it:
the three lines of a sine under a Hann window have the sine's level together.

Both models say how strong a sound within a critical band may be. A line may have its part of that: noise
that fills all lines of a band up to the threshold has the power that the model allows. A single sine in a
wide band is therefore judged more strictly than the models would.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiomask.streaming import State, Streaming

# Edges of the critical bands, in Hz (Zwicker 1961). The last one is open here: it reaches to half the rate.
EDGES_HZ = (
    0, 100, 200, 300, 400, 510, 630, 770, 920, 1080, 1270, 1480, 1720, 2000, 2320, 2700, 3150, 3700, 4400,
    5300, 6400, 7700, 9500, 12000, 15500,
)  # fmt: skip
CEILING_DB = 68.0  # above 16 kHz the tables of ISO 11172-3 rise no further


def bark(hz: float | np.ndarray) -> np.ndarray:
    """Return the critical band rate of frequencies in Hz, from 0 to 25 Bark.

    The formula is that of Zwicker and Terhardt 1980; tables D.1 of ISO 11172-3 hold its values, rounded.
    """
    hz = np.asarray(hz, np.float64)
    return 13 * np.arctan(0.00076 * hz) + 3.5 * np.arctan((hz / 7500) ** 2)


def critical_bandwidth(hz: float | np.ndarray) -> np.ndarray:
    """Return the width in Hz of critical bands around `hz` (Zwicker and Terhardt 1980)."""
    khz = np.asarray(hz, np.float64) / 1000
    return 25 + 75 * (1 + 1.4 * khz**2) ** 0.69


def quiet_db(hz: float | np.ndarray) -> np.ndarray:
    """Return the absolute threshold of hearing: the softest tone heard in silence, in dB SPL.

        3.64 f^-.8 - 6.5 e^(-.6 (f - 3.3)^2) + f^4 / 1000, f in kHz                     (Terhardt 1979)

    It is at most 68 dB, as in tables D.1 of ISO 11172-3, which hold these values, rounded. The 12 dB that the
    standard takes off for high bit rates are not taken off here.
    """
    khz = np.maximum(np.asarray(hz, np.float64), 1.0) / 1000
    formula = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4
    return np.minimum(formula, CEILING_DB)


def _db(power: Tensor) -> Tensor:
    return 10 * torch.log10(power)


def _power(db: Tensor) -> Tensor:
    return torch.exp(db * (math.log(10) / 10))


class Threshold(Streaming):
    """Base of the models: maps spectra `[B, 2 C, T, F]` to thresholds of |X|^2, `[B, C, T, F]`.

    Args:
        sample_rate: In Hz, any.
        size: Samples of a frame; F is size / 2 + 1.
        window: The frame's window `[size]`; None is Hann's. Others leak more, and what leaks counts as sound
            that masks.
        full_scale_db: Level of a sine of amplitude 1 in dB SPL.
    """

    scale: Tensor  # [F], 0 dB SPL for each |X|^2
    part: Tensor  # [F], of a critical band, that a line is
    quiet: Tensor  # [F], absolute threshold
    bands: Tensor  # [F, bands], the fraction of a line that lies in a critical band

    def __init__(
        self, sample_rate: int, size: int, window: Tensor | None = None, full_scale_db: float = 96.0
    ) -> None:
        super().__init__()
        if sample_rate <= 0 or size < 8 or size % 2:
            raise ValueError(f"frames of {size} samples at {sample_rate} Hz: need an even size, 8 or more")
        if window is not None and window.shape != (size,):
            raise ValueError(f"a window of shape {tuple(window.shape)} given for frames of {size} samples")
        energy = 0.375 * size if window is None else float(window.double().square().sum())
        self.sample_rate, self.size, self.full_scale_db = sample_rate, size, full_scale_db
        self.spacing = sample_rate / size  # of lines, in Hz
        self.hz = np.arange(size // 2 + 1) * self.spacing
        # of a signal x, sum |X|^2 over both halves is size * energy * mean x^2, and a sine's mean x^2 is .5
        both = np.where((self.hz == 0) | (self.hz == sample_rate / 2), 1.0, 2.0)
        self.keep("scale", both * 2 / (size * energy) * 10 ** (full_scale_db / 10))
        # the line's part of its critical band, which is all of it where lines are further apart
        part = np.minimum(1.0, self.spacing / critical_bandwidth(self.hz))
        self.keep("part", part)
        self.keep("quiet", 10 ** (quiet_db(self.hz) / 10) * part)
        self.keep("bands", (self._overlap() / np.diff(self._ends())).T)

    def keep(self, name: str, value: np.ndarray) -> None:
        """Register a constant in single precision."""
        self.register_buffer(name, torch.from_numpy(np.asarray(value)).float(), persistent=False)

    def _ends(self) -> np.ndarray:
        """Return where lines end, `[F + 1]` Hz: each reaches half way to the next."""
        between = (self.hz[1:] + self.hz[:-1]) / 2
        return np.array([0.0, *between, self.sample_rate / 2])

    def _overlap(self) -> np.ndarray:
        """Return how many Hz of a line lie in each critical band that the rate has, `[bands, F]`."""
        top = self.sample_rate / 2
        edges = np.array([*(hz for hz in EDGES_HZ if hz < top), top])
        ends = self._ends()
        within = np.minimum(edges[1:, None], ends[1:]) - np.maximum(edges[:-1, None], ends[:-1])
        return np.maximum(0.0, within)

    def step(self, x, state: State, **controls) -> tuple[Tensor, State]:
        if x.shape[3] != len(self.hz):
            raise ValueError(f"spectra of {x.shape[3]} bins; frames of {self.size} have {len(self.hz)}")
        parts = x.square() if x.shape[1] == 2 else x.unflatten(1, (-1, 2)).square()
        power = parts.sum(1, keepdim=True) if x.shape[1] == 2 else parts.sum(2)
        return self.threshold(power * self.scale) / self.scale, state

    def threshold(self, power: Tensor) -> Tensor:
        """Return the threshold of powers `[..., F]`, both in units of 0 dB SPL."""
        raise NotImplementedError

    def in_bands(self, power: Tensor) -> Tensor:
        """Return the power `[..., bands]` in each critical band; the mean of a signal is not heard."""
        return power[..., 1:] @ self.bands[1:]


class Johnston(Threshold):
    """The threshold of Johnston 1988, "Transform coding ... using perceptual noise criteria".

    Of the energies B_i in the critical bands i, spread by S (Schroeder et al. 1979),

        C_i = sum_j S(i - j) B_j,        10 log10 S(d) = 15.81 + 7.5 (d + .474) - 17.5 sqrt(1 + (d + .474)^2)
        T_i = C_i 10^(-O_i / 10) / sum_j S(i - j),        O_i = a (14.5 + i) + (1 - a) 5.5 dB

    are masked: more beside noise (a = 0) than beside tones (a = 1). a = min(SFM / -60 dB, 1), where SFM is
    the spectral flatness, the ratio of the geometric to the arithmetic mean of the lines' powers. T_i is
    spread evenly over the band; where it falls below the absolute threshold, that counts.

    Differences from the paper, which has one rate, 32 kHz: flatness is that of the lines up to 7 kHz (at low
    rates to .45 of the rate), so that an empty upper band is not taken for a tone; the power 120 dB below
    full scale is added to each line, so that silence is flat; and the absolute threshold is Terhardt's, line
    by line instead of one value a band. Gradients flow through everything.
    """

    spread: Tensor
    offset: Tensor
    to_lines: Tensor

    FLAT_HZ, FLOOR_DB = 7000.0, -120.0

    def __init__(
        self, sample_rate: int, size: int, window: Tensor | None = None, full_scale_db: float = 96.0
    ) -> None:
        super().__init__(sample_rate, size, window, full_scale_db)
        bands, every = self.bands.shape[1], np.arange(len(EDGES_HZ))
        d = every[:bands, None] - every + 0.474
        spread = 10 ** ((15.81 + 7.5 * d - 17.5 * np.sqrt(1 + d**2)) / 10)
        self.keep("spread", spread[:, :bands] / spread.sum(1, keepdims=True))
        self.keep("offset", every[:bands] + 1)
        top = min(self.FLAT_HZ, 0.45 * sample_rate)
        self.flat = max(2, int(np.searchsorted(self.hz, top, side="right")))
        self.floor = 10 ** ((full_scale_db + self.FLOOR_DB) / 10)
        # of a band's threshold to its lines: as many Hz as they have in the band, of all that the rate has
        overlap = self._overlap()
        self.keep("to_lines", overlap / overlap.sum(1, keepdims=True))

    def tonality(self, power: Tensor) -> Tensor:
        """Return a `[..., 1]`, 0 for noise and 1 for tones."""
        power = power[..., 1 : self.flat] + self.floor
        flatness = torch.log10(power).mean(-1, keepdim=True) - torch.log10(power.mean(-1, keepdim=True))
        return (flatness * (10 / -60)).clamp(0, 1)

    def threshold(self, power: Tensor) -> Tensor:
        a = self.tonality(power)
        offset = a * (14.5 + self.offset) + (1 - a) * 5.5
        masked = (self.in_bands(power) @ self.spread.T) * _power(-offset)
        return torch.maximum(masked @ self.to_lines, self.quiet)


class Model1(Threshold):
    """The global masking threshold of psychoacoustic model 1, ISO/IEC 11172-3 annex D.1.

    1. A line is tonal where it is a local maximum and 7 dB above its neighbours but the nearest, up to a
       distance that grows with frequency. It and the nearest two make a tonal masker.
    2. In each critical band, the lines that are not so near a tonal one make a non-tonal masker, at the
       geometric mean of the band.
    3. Decimation: maskers below the absolute threshold go, and of tonal ones less than .5 Bark apart all but
       the strongest.
    4. A masker of X dB at z_j masks at z_i = z_j + d up to X + av + vf dB:

        av = -1.525 - .275 z_j - 4.5 (tonal)      -1.525 - .175 z_j - .5 (non-tonal)
        vf = 17 (d + 1) - (.4 X + 6)              -3 <= d < -1
             (.4 X + 6) d                         -1 <= d < 0
             -17 d                                 0 <= d < 1
             -(d - 1) (17 - .15 X) - 17            1 <= d < 8

    5. The powers of all these and of the absolute threshold add up.

    Where the standard counts lines of a 1024-point spectrum (layer II), we take the frequencies that they
    have at 44.1 kHz, at which a 512-point spectrum then follows layer I. Critical bands are Zwicker's instead
    of tables D.2, which round them to lines. Like the standard, step 4 looks at some of the lines only, one
    in an eighth of a Bark; between those the masked level is interpolated, in dB. The choice of maskers is
    piecewise constant, so gradients flow through their levels alone.
    """

    # from which line on neighbours up to which distance are looked at, in lines of a 1024-point spectrum
    REACHES, LAST, LINE_HZ = ((0, 2), (63, 3), (127, 6), (255, 12)), 500, 44100 / 1024
    ABOVE, NEAR_BARK, GRID_BARK = 10**0.7, 0.5, 0.125

    members: Tensor
    noise_quiet: Tensor
    noise_level: Tensor
    noise_slope: Tensor
    bark: Tensor
    places: Tensor
    between: Tensor
    line_quiet: Tensor

    def __init__(
        self, sample_rate: int, size: int, window: Tensor | None = None, full_scale_db: float = 96.0
    ) -> None:
        super().__init__(sample_rate, size, window, full_scale_db)
        z, quiet, top = bark(self.hz), 10 ** (quiet_db(self.hz) / 10), len(self.hz) - 1
        self.keep("bark", z)
        self.keep("line_quiet", quiet)
        starts = [max(3, int(line * self.LINE_HZ / self.spacing + 1e-6)) for line, _ in self.REACHES]
        reaches = [max(2, round(lines * self.LINE_HZ / self.spacing)) for _, lines in self.REACHES]
        last = min(int(self.LAST * self.LINE_HZ / self.spacing + 1e-6), top - 1)
        zones = zip(starts, [*(min(start, last + 1) for start in starts[1:]), last + 1], reaches, strict=True)
        self.zones = [(start, end, reach) for start, end, reach in zones if start < end]
        # tonal lines of a zone are further apart than its reach
        self.most = sum(math.ceil((end - start) / (reach + 1)) for start, end, reach in self.zones) or 1

        grid = [0]
        grid += [k for k in range(1, top + 1) if k == top or z[k + 1] - z[grid[-1]] > self.GRID_BARK]
        self.keep("places", z[grid])
        self.keep("between", np.array([np.interp(z, z[grid], unit) for unit in np.eye(len(grid))]))

        band = np.searchsorted(EDGES_HZ, self.hz, side="right") - 1
        members = [np.flatnonzero(band[1:] == b) + 1 for b in np.unique(band[1:])]
        centre = np.array([round(math.exp(np.log(lines).mean())) for lines in members])
        self.keep("members", np.array([np.isin(np.arange(top + 1), lines) for lines in members]).T)
        self.keep("noise_quiet", quiet[centre])
        # the place of these maskers is fixed, and X + av + vf a straight line of X
        d = z[grid] - z[centre][:, None]
        within = (d >= -3) & (d < 8)
        level, slope = (part.numpy() for part in _slopes(torch.from_numpy(d)))
        self.keep("noise_level", np.where(within, level - 1.525 - 0.175 * z[centre][:, None] - 0.5, -1000.0))
        self.keep("noise_slope", np.where(within, 1 + slope, 0.0))

    def threshold(self, power: Tensor) -> Tensor:
        return self.global_threshold(power) * self.part

    def global_threshold(self, power: Tensor) -> Tensor:
        """Return LT_g of the standard for powers `[..., F]`, both in units of 0 dB SPL.

        It is how strong a sound at a line may be, all in all; `threshold` is the part of one line.
        """
        shape, power = power.shape, power.reshape(-1, 1, power.shape[-1])
        tonal, examined = self._tonal(power.detach())
        masked = self._by_tones(power, tonal) + self._by_noise(torch.where(examined, 0.0, power))
        return (_power(_db(masked + 1e-10) @ self.between) + self.line_quiet).reshape(shape)

    def _tonal(self, power: Tensor) -> tuple[Tensor, Tensor]:
        """Return which lines of powers `[N, 1, F]` are tonal, and which are in reach of those."""
        lines, rim = power.shape[2], max((reach for *_, reach in self.zones), default=1)
        around = F.pad(power, (rim, rim))
        before, after = (around[..., rim + i : rim + i + lines] for i in (-1, 1))
        peak = (power > before) & (power >= after)
        tonal, examined = torch.zeros_like(power), torch.zeros_like(power)
        for start, end, reach in self.zones:
            # lines k - reach .. k - 2 and k + 2 .. k + reach of k = start .. end - 1
            left = around[..., rim + start - reach : rim + end - 2]
            right = around[..., rim + start + 2 : rim + end + reach]
            highest = torch.maximum(*(F.max_pool1d(side, reach - 1, 1) for side in (left, right)))
            here = peak[..., start:end] & (power[..., start:end] >= self.ABOVE * highest)
            here = F.pad(here.to(power.dtype), (start, lines - end))
            tonal = tonal + here
            examined = examined + F.max_pool1d(here, 2 * reach + 1, 1, reach)
        return tonal > 0, examined > 0

    def _by_tones(self, power: Tensor, tonal: Tensor) -> Tensor:
        """Return what tonal maskers mask at `places`, `[N, 1, places]`."""
        around = F.pad(power, (1, 1))
        level = torch.where(tonal, around[..., :-2] + power + around[..., 2:], 0.0)
        level, line = level[:, 0].topk(self.most)  # [N, most], the strongest first
        z = self.bark[line]
        kept = (level > 0) & (level >= self.line_quiet[line])
        stronger = torch.ones(self.most, self.most, dtype=torch.bool, device=z.device).tril(-1)
        near = (z[:, :, None] - z[:, None]).abs() < self.NEAR_BARK
        kept = kept & ~(near & stronger & kept[:, None]).any(2)
        d = self.places - z[:, :, None]  # [N, most, places]
        x, z = _db(torch.where(kept, level, 1.0))[:, :, None], z[:, :, None]
        base, slope = _slopes(d)
        masked = _power(x + (-1.525 - 0.275 * z - 4.5) + base + slope * x)
        within = kept[:, :, None] & (d >= -3) & (d < 8)
        return torch.where(within, masked, 0.0).sum(1, keepdim=True)

    def _by_noise(self, power: Tensor) -> Tensor:
        """Return what non-tonal maskers mask at `places`, `[N, 1, places]`."""
        level = (power @ self.members).mT  # [N, bands, 1]
        kept = (level > 0) & (level >= self.noise_quiet[:, None])
        x = _db(torch.where(kept, level, 1.0))
        masked = _power(self.noise_level + self.noise_slope * x)
        return torch.where(kept, masked, 0.0).sum(1, keepdim=True)


EARS: dict[str, type[Threshold]] = {"johnston": Johnston, "model1": Model1}


def _slopes(d: Tensor) -> tuple[Tensor, Tensor]:
    """Return a and b of model 1's masking function vf = a + b X at distances d in Bark."""
    far, below = d < -1, d < 0
    base = torch.where(far, 17 * d + 11, torch.where(below, 6 * d, -17 * d))
    return base, torch.where(far, -0.4, torch.where(below, 0.4 * d, 0.15 * (d - 1).clamp_min(0)))
