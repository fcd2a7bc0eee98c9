"""Fixed mixtures of speech and noise: what validation sets and tiny corpora are made of.

Training mixes on the fly and on the training device (`audiomask.data.simulate`). A validation set must instead stay the
same for months, so it is drawn once, here, with nothing but numpy, and written to disk: a seed and two lists of files
give the same mixtures on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from audiomask.audio import AudioError

SILENCE_DBFS = -60.0  # a crop quieter than this holds neither speech nor noise worth mixing


@dataclass(frozen=True)
class MixSettings:
    """What is drawn for each mixture; ranges are uniform and inclusive."""

    sample_rate: int = 16000
    seconds: tuple[float, float] = (3.0, 6.0)
    snr_db: tuple[float, float] = (0.0, 15.0)
    level_dbfs: tuple[float, float] = (-30.0, -20.0)  # RMS of the speech in the mixture
    peak: float = 0.99  # a mixture that would pass this is turned down as a whole, clean reference included


@dataclass(frozen=True)
class Source:
    """One file to draw from; `group` is the speaker, or the kind of noise."""

    key: str
    group: str
    path: Path


@dataclass(frozen=True)
class Mixture:
    """clean, noise, noisy: [T] float32 with noisy = clean + noise; `snr_db` over the whole crop."""

    key: str
    speech: Source
    noise_source: Source
    snr_db: float
    clean: np.ndarray
    noise: np.ndarray
    noisy: np.ndarray


def read_mono(path: Path, sample_rate: int) -> np.ndarray:
    """[T] float32 at `sample_rate`: channels averaged, soxr HQ. Raises AudioError for what soundfile cannot read."""
    try:
        x, rate = sf.read(str(path), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"{path}: cannot read ({error}); remove it from the list or convert it") from error
    x = x.mean(axis=1)
    return x if rate == sample_rate else soxr.resample(x, rate, sample_rate, quality="HQ")


def rms_dbfs(x: np.ndarray) -> float:
    """RMS level of x [T] in dB re full scale, -inf for digital silence."""
    power = float(np.mean(np.square(x, dtype=np.float64))) if len(x) else 0.0
    return 10.0 * np.log10(power) if power > 0 else -np.inf


def mix_at_snr(speech: np.ndarray, noise: np.ndarray, snr_db: float, level_dbfs: float, peak: float = 0.99):
    """Scale speech [T] to `level_dbfs`, noise [T] to `snr_db` below it; returns clean, noise, noisy (float32).

    SNR = 10 log10(sum s^2 / sum n^2) over all T samples, pauses included. If the sum would exceed `peak`, all three
    are scaled by one factor, which leaves the SNR as drawn.
    """
    clean = speech * np.float32(10 ** ((level_dbfs - rms_dbfs(speech)) / 20))
    scaled = noise * np.float32(10 ** ((level_dbfs - snr_db - rms_dbfs(noise)) / 20))
    highest = max(float(np.abs(clean + scaled).max()), float(np.abs(clean).max()))
    if highest > peak:
        clean, scaled = clean * np.float32(peak / highest), scaled * np.float32(peak / highest)
    return clean, scaled, clean + scaled


def _draw_crop(x: np.ndarray, length: int, rng: np.random.Generator, tries: int = 20) -> np.ndarray | None:
    """A random crop of `length`, louder than SILENCE_DBFS; a shorter signal is repeated. None if there is no such crop."""
    if len(x) == 0:
        return None
    if len(x) < length:
        x = np.tile(x, -(-length // len(x)))
    for _ in range(tries):
        start = int(rng.integers(0, len(x) - length + 1))
        crop = x[start : start + length]
        if rms_dbfs(crop) > SILENCE_DBFS:
            return crop
    return None


def mixtures(
    speech: Sequence[Source], noise: Sequence[Source], count: int, seed: int = 0, settings: MixSettings | None = None
) -> Iterator[Mixture]:
    """Yield `count` mixtures. Speech files are used in turn; noise is drawn by kind first, then file within the kind,

    so that one kind with many files does not outweigh the others. Each mixture has a generator seeded by
    (seed, its number): the first 10 of 200 are the same as the 10 of 10.
    """
    settings = settings or MixSettings()
    if not speech or not noise:
        raise AudioError(f"nothing to mix: {len(speech)} speech and {len(noise)} noise files; check the lists")
    kinds = sorted({s.group for s in noise})
    by_kind = {kind: sorted((s for s in noise if s.group == kind), key=lambda s: s.key) for kind in kinds}
    speech = sorted(speech, key=lambda s: s.key)
    cache: dict[Path, np.ndarray] = {}

    def load(source: Source) -> np.ndarray:
        if source.path not in cache:
            if len(cache) > 64:
                cache.pop(next(iter(cache)))
            cache[source.path] = read_mono(source.path, settings.sample_rate)
        return cache[source.path]

    for number in range(count):
        rng = np.random.default_rng([seed, number])
        talker = speech[number % len(speech)]
        length = round(rng.uniform(*settings.seconds) * settings.sample_rate)
        utterance = load(talker)
        length = min(length, len(utterance))  # speech is never repeated: the seam would be heard
        crop = _draw_crop(utterance, length, rng)
        if crop is None:
            raise AudioError(f"{talker.path}: silent; remove it from the speech list")
        for _ in range(20):
            pool = by_kind[kinds[int(rng.integers(len(kinds)))]]
            noise_source = pool[int(rng.integers(len(pool)))]
            noise_crop = _draw_crop(load(noise_source), length, rng)
            if noise_crop is not None:
                break
        else:
            raise AudioError(f"20 noise files in a row are silent, the last {noise_source.path}; check the noise list")
        snr, level = rng.uniform(*settings.snr_db), rng.uniform(*settings.level_dbfs)
        clean, scaled, noisy = mix_at_snr(crop, noise_crop, snr, level, settings.peak)
        yield Mixture(f"{talker.group}-mix{number:04d}", talker, noise_source, float(snr), clean, scaled, noisy)
