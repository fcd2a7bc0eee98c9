"""Simulate noisy speech from clean speech and noise, in batches on the training device.

Functions take and give waveforms `[B, T]` float32 and per-row parameters `[B]`. `Degrade` draws the
parameters and calls them in the order in which the world does it: the talker's speed and voice colour, the
room, the noises at their levels, the microphone's level, band and overload.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audiomask.audio import AudioError
from audiomask.data.example import Simulation
from audiomask.data.kaldi.directory import DataDir, resampled
from audiomask.data.simulate import channel
from audiomask.masks import packets

EPS = 1e-8
GRAIN = 320  # samples that speeds are rounded to, so that transforms stay quick


class RowDraws:
    """Random numbers that each row of a batch draws from a generator of its own.

    A seed of `seeds [B]` int64 thus replays its row in any batch. `count` numbers a row are drawn at once for
    `uniform`, to spare a GPU many small draws; taking more is a RuntimeError.
    """

    def __init__(self, seeds: Tensor, count: int, device: torch.device | str = "cpu"):
        self.device = device
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds.tolist()]
        self._numbers, self._taken = self.rows(torch.rand, count), 0

    def rows(self, draw: Callable[..., Tensor], length: int) -> Tensor:
        """Return `[B, length]` of `torch.rand` or `torch.randn`."""
        return torch.stack([draw(length, generator=g, device=self.device) for g in self._generators])

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return `[B, *shape]` between `low` and `high`."""
        count = math.prod(shape)
        numbers = self._numbers.narrow(1, self._taken, count).reshape(-1, *shape)
        self._taken += count
        return low + (high - low) * numbers

    def chance(self, p: float, *shape: int) -> Tensor:
        """Return `[B, *shape]` bool, true with probability `p`."""
        return self.uniform(0, 1, *shape) < p


def active_level(x: Tensor, sample_rate: int) -> Tensor:
    """Return the RMS `[B]` over the active part of `x [B, T]`.

    These are the 20 ms frames within 35 dB of the loudest: a mean over pauses would understate speech.
    """
    frame = max(1, sample_rate // 50)
    n = x.shape[-1] // frame * frame
    power = x[..., :n].reshape(*x.shape[:-1], -1, frame).square().mean(-1)
    active = power >= power.amax(-1, keepdim=True) * 10**-3.5
    return ((power * active).sum(-1) / active.sum(-1).clamp(min=1)).sqrt()


def varispeed(x: Tensor, factor: Tensor, length: int) -> Tensor:
    """Play `x [B, L]` `factor [B]` times as fast (pitch follows), giving `[B, length]`.

    The first `length * factor` samples, rounded to a multiple of `GRAIN`, are resampled to `length` by
    cutting or extending their spectrum. That is exact for a periodic signal; at the two ends of a crop it
    rings for a few samples, which training does not mind. AudioError if `x` holds fewer samples.
    """
    out, counts = x.new_zeros(len(x), length), _played(factor, length, x.shape[1])
    changed = [i for i, n in enumerate(counts) if n != length]
    spectra = torch.zeros(len(changed), length // 2 + 1, dtype=x.dtype.to_complex(), device=x.device)
    for spectrum, i in zip(spectra, changed, strict=True):
        found = torch.fft.rfft(x[i, : counts[i]], norm="forward")[: len(spectrum)]
        spectrum[: len(found)] = found
    kept = [i for i, n in enumerate(counts) if n == length]
    out[kept] = x[kept, :length]
    if changed:
        out[changed] = torch.fft.irfft(spectra, length, norm="forward")
    return out


def _played(factor: Tensor, length: int, crop: int) -> list[int]:
    """Return how many samples `length` take at speed `factor [B]`; AudioError beyond `crop`."""
    counts = [n * GRAIN for n in (factor * length / GRAIN).round().long().tolist()]
    if max(counts, default=0) > crop:
        raise AudioError(
            f"a speed of {max(factor.tolist()):.3g} needs {max(counts)} samples for a segment of {length}, "
            f"and the crop holds {crop}: a longer crop, or speeds up to {crop / length:.3g}"
        )
    return counts


def check_speeds(simulation: Any, crop: int) -> None:
    """Raise AudioError where `crop` samples do not suffice for the greatest speed ever drawn."""
    fastest = max(simulation.speed[1], simulation.noise_speed[1]) if simulation.speed_p else 1.0
    _played(torch.tensor([fastest]), simulation.segment, crop)


def equaliser(gains_db: Tensor, n_fft: int, sample_rate: int) -> Tensor:
    """Return zero-phase gains `[B, n_fft // 2 + 1]` through `gains_db [B, P]` at P frequencies.

    They are log-spaced from 60 Hz to Nyquist; between them the gain in dB is linear in log frequency.
    """
    points, lowest_hz = gains_db.shape[1], 60.0
    f = torch.fft.rfftfreq(n_fft, 1 / sample_rate, device=gains_db.device).clamp(min=lowest_hz)
    at = torch.log(f / lowest_hz) / math.log(sample_rate / 2 / lowest_hz) * (points - 1)
    low = at.floor().long().clamp(0, points - 2)
    w = at - low
    return 10 ** ((gains_db[:, low] * (1 - w) + gains_db[:, low + 1] * w) / 20)


def low_pass(cutoff_hz: Tensor, n_fft: int, sample_rate: int, width_hz: float = 200.0) -> Tensor:
    """Return gains `[B, n_fft // 2 + 1]`, a raised-cosine edge at `cutoff_hz [B]` (inf: none)."""
    f = torch.fft.rfftfreq(n_fft, 1 / sample_rate, device=cutoff_hz.device)
    edge = ((f[None] - cutoff_hz[:, None]) / width_hz).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(math.pi * edge)


def statistical_rooms(
    rt60_s: Tensor, direct_to_reverberant_db: Tensor, length: int, sample_rate: int, draws: RowDraws
) -> Tensor:
    """Return statistical room responses `[B, length]`, the direct sound of gain 1 at sample 0.

    Between 1 and 50 ms, Poisson-like reflections grow denser; all of it decays exponentially by 60 dB in
    `rt60_s [B]` seconds (Polack's model: Gaussian noise under an exponential envelope). The tail is scaled to
    `direct_to_reverberant_db [B]` below the direct sound.
    """
    t = torch.arange(length, device=rt60_s.device) / sample_rate
    noise = draws.rows(torch.randn, length)
    density = (t / 0.05).clamp(0.02, 1.0)  # chance that a sample holds a reflection
    keep = draws.rows(torch.rand, length) < density
    tail = noise * keep / density.sqrt() * torch.exp(-6.908 * t / rt60_s[:, None]) * (t >= 1e-3)
    scale = 10 ** (-direct_to_reverberant_db / 20) / tail.square().sum(-1).sqrt().clamp(min=EPS)
    h = tail * scale[:, None]
    h[:, 0] = 1.0
    return h


def early_part(h: Tensor, sample_rate: int, early_s: float = 0.05) -> Tensor:
    """Return the first `early_s` of `h [B, L]`, faded out over as long again: the dry target."""
    t = torch.arange(h.shape[-1], device=h.device) / sample_rate
    return h * (0.5 + 0.5 * torch.cos(math.pi * ((t - early_s) / early_s).clamp(0, 1)))


def noise_gain(speech: Tensor, noise: Tensor, snr_db: Tensor, sample_rate: int) -> Tensor:
    """Return the factor `[B]` that puts `noise [B, T]` `snr_db [B]` below `speech [B, T]`.

    It is 0 for an infinite SNR, 1 where nobody speaks. Levels are `active_level` and, for noise, RMS.
    """
    level = active_level(speech, sample_rate)
    scale = level * 10 ** (-snr_db / 20) / noise.square().mean(-1).sqrt().clamp(min=EPS)
    return torch.where(level > EPS, scale, 1.0).nan_to_num(0.0)


def level_gain(heard: Tensor, all_of_it: Tensor, level_dbfs: Tensor, sample_rate: int) -> Tensor:
    """Return the factor `[B]` that puts `heard` at `level_dbfs`, with `all_of_it` at most .99."""
    scale = 10 ** (level_dbfs / 20) / active_level(heard, sample_rate).clamp(min=1e-5)
    return torch.minimum(scale, 0.99 / all_of_it.abs().flatten(1).amax(1).clamp(min=EPS))


def room_response(x: np.ndarray, rate: int, wanted: int, name: str) -> np.ndarray:
    """Return an impulse response `x [T]` at another rate, from the direct sound (gain 1) on.

    AudioError for one without a sample, which `name` names.
    """
    h = resampled(x, rate, wanted)
    peak = np.abs(h).argmax() if len(h) else 0
    if not len(h) or h[peak] == 0:
        raise AudioError(f"{name}: a silent room response; choose another, or remove it")
    return np.ascontiguousarray(h[peak:] / h[peak], np.float32)


def measured_rooms(path: str | Path, sample_rate: int, length: int) -> Tensor:
    """Return impulse responses `[N, length]` of a directory, from the direct sound (gain 1) on.

    The first of several channels is taken. AudioError for a response without a sample.
    """
    data = DataDir.read(path)
    rooms = torch.zeros(len(data.utterance_keys), length)
    for row, utterance in zip(rooms, data.utterances(), strict=True):
        x, rate = data.load(utterance)
        h = room_response(x[0], rate, sample_rate, f"{utterance.key} of {path}")[:length]
        row[: len(h)] = torch.from_numpy(h)
    return rooms


class Degrade(Simulation):
    """Makes (noisy, clean) pairs by random degradations of each row; ranges are uniform.

    Args:
        sample_rate, segment: See `Simulation`.
        snr_db, high_snr, clean: Range of most rows; fraction at `snr_db[1]`..40 dB; fraction without any
            noise, so that clean speech learns to pass.
        level_dbfs: Active level of the noisy signal.
        speed, noise_speed, speed_p: Playback speeds of speech and noises (pitch follows); their probability.
        eq_db, noise_eq_db: Half-range of the random equalisers.
        reverb_p, early_s: Fraction of rows in a room; seconds of it that the target keeps.
        rt60_s, drr_db: Reverberation time and direct-to-reverberant ratio of simulated rooms.
        rooms, rooms_share: Data directory of measured or simulated responses, or the responses `[N, L]`
            themselves, and the fraction of the rows in a room that use them.
        band_limit_p, clip_p: Fraction cut at 3.4 to 7.5 kHz, target too; fraction overloaded, target not.
        modulate_p, interfering_gain_db: Fraction with slow swings of the noise level; half-range of the level
            of each noise slot against the others.
        wind_p, wind_db: Fraction with wind among the noises, and its level against the others.
        codec_p, codecs: Fraction whose noisy signal went through one of `codecs` (see `data.channel.CODECS`).
        loss_p, loss, burst, packet_ms: Fraction whose noisy signal lost packets of `packet_ms`; fraction of
            packets lost, and mean length of their bursts.
    """

    rooms: Tensor | None

    def __init__(
        self,
        sample_rate: int | None = None,
        segment: int | None = None,
        snr_db: tuple[float, float] = (-5.0, 20.0),
        high_snr: float = 0.05,
        clean: float = 0.05,
        level_dbfs: tuple[float, float] = (-40.0, -12.0),
        speed: tuple[float, float] = (0.9, 1.12),
        noise_speed: tuple[float, float] = (0.7, 1.4),
        speed_p: float = 0.6,
        eq_db: float = 6.0,
        noise_eq_db: float = 10.0,
        reverb_p: float = 0.25,
        rt60_s: tuple[float, float] = (0.15, 1.0),
        drr_db: tuple[float, float] = (-3.0, 15.0),
        early_s: float = 0.05,
        rooms: str | Tensor | None = None,
        rooms_share: float = 0.3,
        band_limit_p: float = 0.06,
        clip_p: float = 0.04,
        modulate_p: float = 0.15,
        interfering_gain_db: float = 10.0,
        wind_p: float = 0.0,
        wind_db: tuple[float, float] = (-10.0, 15.0),
        codec_p: float = 0.0,
        codecs: Sequence[str] = ("opus", "mp3", "vorbis", "gsm", "mulaw", "adpcm", "g721"),
        loss_p: float = 0.0,
        loss: tuple[float, float] = (0.01, 0.15),
        burst: tuple[float, float] = (1.0, 4.0),
        packet_ms: float = 20.0,
    ):
        super().__init__(sample_rate, segment)
        unknown = sorted(set(codecs) - set(channel.CODECS))
        if unknown:
            raise ValueError(f"no codec {unknown[0]!r}; there are: {', '.join(channel.CODECS)}")
        self.wind_p, self.wind_db, self.codec_p, self.codecs = wind_p, wind_db, codec_p, tuple(codecs)
        self.loss_p, self.loss, self.burst, self.packet_ms = loss_p, loss, burst, packet_ms
        self.snr_db, self.high_snr, self.clean, self.level_dbfs = snr_db, high_snr, clean, level_dbfs
        self.speed, self.noise_speed, self.speed_p = speed, noise_speed, speed_p
        self.eq_db, self.noise_eq_db = eq_db, noise_eq_db
        self.reverb_p, self.rt60_s, self.drr_db, self.early_s = reverb_p, rt60_s, drr_db, early_s
        self.rooms_share = rooms_share
        if isinstance(rooms, str):
            rooms = measured_rooms(rooms, self.sample_rate, self.sample_rate // 2)
        self.register_buffer("rooms", rooms, persistent=False)
        self.band_limit_p, self.clip_p, self.modulate_p = band_limit_p, clip_p, modulate_p
        self.interfering_gain_db = interfering_gain_db

    @property
    def crop(self) -> int:
        return math.ceil(self.segment * max(self.speed[1], self.noise_speed[1])) + GRAIN

    def forward(self, speech: Tensor, noise: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return noisy and clean `[B, segment]` of `speech [B, L]`, `noise [B, K, L]`, L >= `crop`."""
        device, b, k = speech.device, speech.shape[0], noise.shape[1]
        sr, n = self.sample_rate, self.segment
        check_speeds(self, speech.shape[1])
        gusts = 3 + 4 * n // sr  # four gusts of wind a second
        draws = RowDraws(seeds, 40 + 9 * k + gusts, device)
        uniform, chance = draws.uniform, draws.chance

        def factors(range_: tuple[float, float], *shape: int) -> Tensor:
            return torch.where(chance(self.speed_p, *shape), uniform(*range_, *shape), 1.0)

        speech = varispeed(speech, factors(self.speed), n)

        # Rooms and equalisers act in one product of spectra, long enough that nothing wraps round.
        tail = sr // 2
        n_fft = n + tail
        h = statistical_rooms(uniform(*self.rt60_s), uniform(*self.drr_db), tail, sr, draws)
        if self.rooms is not None:
            pick = uniform(0, len(self.rooms)).long().clamp(max=len(self.rooms) - 1)
            measured = nn.functional.pad(self.rooms, (0, max(0, tail - self.rooms.shape[1])))[pick, :tail]
            h = torch.where(chance(self.rooms_share)[:, None], measured, h)
        dry = torch.zeros_like(h)
        dry[:, 0] = 1.0
        h = torch.where(chance(self.reverb_p)[:, None], h, dry)
        band = torch.where(chance(self.band_limit_p), uniform(3400, 7500), math.inf)
        band_gain = low_pass(band, n_fft, sr)
        voice = equaliser(uniform(-self.eq_db, self.eq_db, 6), n_fft, sr) * band_gain
        spectrum = torch.fft.rfft(speech, n_fft) * voice
        wet = torch.fft.irfft(spectrum * torch.fft.rfft(h, n_fft), n_fft)[:, :n]
        early = torch.fft.rfft(early_part(h, sr, self.early_s), n_fft)
        clean = torch.fft.irfft(spectrum * early, n_fft)[:, :n]

        # Draw how many noises play at once: mostly one.
        share = torch.tensor([0.6, 0.25, 0.15, *[0.05] * max(0, k - 3)][:k], device=device)
        edges = (share / share.sum()).cumsum(0)[:-1]
        used = torch.arange(k, device=device) <= (uniform(0, 1, 1) >= edges).sum(1, keepdim=True)
        row = used.nonzero()[:, 0]
        noise = varispeed(noise[used], factors(self.noise_speed, k)[used], n)
        colour = equaliser(uniform(-self.noise_eq_db, self.noise_eq_db, k, 6)[used], n_fft, sr)
        gain = 10 ** (uniform(-self.interfering_gain_db, self.interfering_gain_db, k, 1)[used] / 20)
        parts = torch.fft.rfft(channel.unit(noise), n_fft) * (colour * gain)
        summed = torch.zeros(b, parts.shape[1], dtype=parts.dtype, device=device).index_add_(0, row, parts)
        noise = torch.fft.irfft(summed * band_gain, n_fft)[:, :n]
        # Add slow swings of level: passing cars, doors, a head that turns.
        swing = nn.functional.interpolate(uniform(-15, 5, 1, 6), n, mode="linear", align_corners=True)[:, 0]
        noise = torch.where(chance(self.modulate_p)[:, None], noise * 10 ** (swing / 20), noise)

        if self.wind_p:
            gale = channel.wind(draws.rows(torch.randn, n), uniform(-25, 0, gusts), uniform(40, 250), sr)
            gale = gale * 10 ** (uniform(*self.wind_db) / 20)[:, None]
            noise = torch.where(chance(self.wind_p)[:, None], channel.unit(noise) + gale, noise)

        snr = uniform(*self.snr_db)
        u = uniform(0, 1)
        snr = torch.where(u < self.high_snr, uniform(self.snr_db[1], 40), snr)
        snr = torch.where(u > 1 - self.clean, math.inf, snr)
        noisy = wet + noise * noise_gain(wet, noise, snr, sr)[:, None]

        scale = level_gain(noisy, noisy, uniform(*self.level_dbfs), sr)[:, None]
        noisy, clean = noisy * scale, clean * scale
        limit = noisy.abs().amax(-1) * uniform(0.3, 0.9)
        limit = torch.where(chance(self.clip_p), limit, math.inf)[:, None]
        noisy = torch.minimum(torch.maximum(noisy, -limit), limit)
        if self.codec_p:
            noisy = self._coded(noisy, draws)
        if self.loss_p:
            count, size = packets.packets(n, sr, self.packet_ms)
            lost = packets.bursts(draws.rows(torch.rand, count), uniform(*self.loss), uniform(*self.burst))
            noisy = torch.where(chance(self.loss_p)[:, None], packets.lose(noisy, lost, size), noisy)
        return noisy, clean

    def _coded(self, x: Tensor, draws: RowDraws) -> Tensor:
        rows, which = draws.chance(self.codec_p), draws.uniform(0, len(self.codecs)).long()
        effort = draws.uniform(0, 1)
        x = x.clone()
        for i in rows.nonzero()[:, 0].tolist():
            codec = self.codecs[min(int(which[i]), len(self.codecs) - 1)]
            y = channel.coded(x[i].cpu().numpy(), self.sample_rate, codec, float(effort[i]))
            x[i] = torch.from_numpy(y).to(x.device)
        return x
