"""Write fixed mixtures of speech and noise, for validation sets and tiny corpora.

Training mixes as it runs (`degrade.py`). A validation set must instead stay the same for months, so it is
drawn once, with nothing but numpy: a seed and two data directories give the same mixtures on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from audiomask import audio
from audiomask.data.kaldi.directory import DataDir, DataError, Utterance, read_mono

SILENCE_DBFS = -60.0  # a crop quieter than this holds neither speech nor noise worth mixing
TRIES = 20  # crops and recordings drawn before silence is an error
CACHED_FILES = 64  # decoded files kept: noise files are long, and drawn again and again


@dataclass(frozen=True)
class MixSettings:
    """Settings of the draws for each mixture; ranges are uniform."""

    sample_rate: int = 16000
    seconds: tuple[float, float] = (3.0, 6.0)
    snr_db: tuple[float, float] = (0.0, 15.0)
    level_dbfs: tuple[float, float] = (-30.0, -20.0)  # RMS of the speech in the mixture

    def __post_init__(self) -> None:
        for name in ("seconds", "snr_db", "level_dbfs"):
            low, high = getattr(self, name)
            if not (np.isfinite([low, high]).all() and low <= high):
                raise DataError(f"{name}: want the lower bound first, got {low} {high}")
        if self.seconds[0] <= 0 or self.sample_rate <= 0:
            raise DataError(f"seconds {self.seconds} and sample_rate {self.sample_rate} must be positive")


@dataclass(frozen=True)
class Mixture:
    """A mixture `noisy [T]` float32 of `clean [T]` and a noise, which is noisy - clean."""

    key: str
    speech: Utterance
    noise: Utterance
    snr_db: float  # over the whole crop
    clean: np.ndarray
    noisy: np.ndarray


def rms_dbfs(x: np.ndarray) -> float:
    """Return the RMS level of `x [T]` in dB re full scale, -inf for digital silence."""
    power = float(np.mean(np.square(x, dtype=np.float64))) if len(x) else 0.0
    return 10.0 * float(np.log10(power)) if power > 0 else -np.inf


def mix_at_snr(
    speech: np.ndarray, noise: np.ndarray, snr_db: float, level_dbfs: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (clean, noisy): speech `[T]` at `level_dbfs`, and with noise `snr_db` below it.

    Levels are of all T samples, pauses included. If one would exceed .99, both signals are scaled by one
    factor, which leaves the SNR as drawn. DataError for a silent signal.
    """
    levels = rms_dbfs(speech), rms_dbfs(noise)
    if not np.isfinite(levels).all():
        raise DataError("cannot mix a silent signal at a given SNR")
    clean = speech * np.float32(10 ** ((level_dbfs - levels[0]) / 20))
    noisy = clean + noise * np.float32(10 ** ((level_dbfs - snr_db - levels[1]) / 20))
    highest = max(float(np.abs(noisy).max()), float(np.abs(clean).max()))
    gain = np.float32(min(1.0, 0.99 / highest))
    return clean * gain, noisy * gain


def _draw_crop(x: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray | None:
    """Return a random crop louder than SILENCE_DBFS, or None; a shorter signal is repeated."""
    if len(x) < length:
        x = np.resize(x, length)
    for _ in range(TRIES):
        start = int(rng.integers(0, len(x) - length + 1))
        crop = x[start : start + length]
        if rms_dbfs(crop) > SILENCE_DBFS:
            return crop
    return None


def mixtures(
    speech: DataDir,
    noise: DataDir,
    count: int,
    seed: int = 0,
    settings: MixSettings | None = None,
    allow_pipes: bool = False,
    silent: set[str] | None = None,
) -> Iterator[Mixture]:
    """Yield `count` mixtures; speech is used in turn, noise is drawn by kind, then within it.

    The kind is in utt2spk; one kind with many files thus does not outweigh the others. Each mixture has a
    generator seeded by (seed, its number): the first 10 of 200 are the 10 of 10. Silent speech is left out,
    and its key put into `silent`.
    """
    settings = settings or MixSettings()
    rate = settings.sample_rate

    def reader(data: DataDir) -> tuple[list[Utterance], Callable[[int], np.ndarray]]:
        utterances = list(data.utterances())
        if not utterances:
            raise DataError(f"{data.path}: lists nothing to mix")
        read = lru_cache(CACHED_FILES)(lambda i: read_mono(data, utterances[i], rate, "wav", allow_pipes))
        return utterances, read

    talkers, read_speech = reader(speech)
    noises, read_noise = reader(noise)
    by_kind: dict[str, list[int]] = {}
    for i, utterance in enumerate(noises):
        by_kind.setdefault(utterance.speaker or "", []).append(i)
    kinds = sorted(by_kind)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        wanted = round(rng.uniform(*settings.seconds) * rate)
        for turn in range(number, number + len(talkers)):
            talker, said = talkers[turn % len(talkers)], read_speech(turn % len(talkers))
            # Speech is never repeated to fill the length: the seam would be heard as speech of nobody.
            length = min(wanted, len(said))
            if (crop := _draw_crop(said, length, rng)) is not None:
                break
            if silent is not None:
                silent.add(talker.key)
        else:
            raise DataError(f"{speech.path}: every utterance is silent; record or copy it again")
        for _ in range(TRIES):
            pool = by_kind[kinds[int(rng.integers(len(kinds)))]]
            at = pool[int(rng.integers(len(pool)))]
            chosen, noise_crop = noises[at], _draw_crop(read_noise(at), length, rng)
            if noise_crop is not None:
                break
        else:
            raise DataError(
                f"{noise.path}: {TRIES} draws in a row were silent, the last {chosen.key}; check the noises"
            )
        snr, level = float(rng.uniform(*settings.snr_db)), float(rng.uniform(*settings.level_dbfs))
        clean, noisy = mix_at_snr(crop, noise_crop, snr, level)
        key = f"{talker.speaker or talker.key}-mix{number:04d}"
        yield Mixture(key, talker, chosen, snr, clean, noisy)


def write_mixtures(
    speech: DataDir,
    noise: DataDir,
    out: str | Path,
    count: int,
    seed: int = 0,
    settings: MixSettings | None = None,
    allow_pipes: bool = False,
    silent: set[str] | None = None,
) -> DataDir:
    """Write `count` mixtures as 16-bit files, and the data directory `out`, which is returned.

    wav.scp lists out/noisy/*.wav, clean.scp out/clean/*.wav, utt2snr the SNR in dB, utt2noise and utt2speech
    the utterances mixed. Paths are relative to `out`, which can therefore be moved. `silent` gets the keys of
    speech that was left out.
    """
    settings = settings or MixSettings()
    drawn = mixtures(speech, noise, count, seed, settings, allow_pipes, silent)
    pairs = ((m, m.noisy, m.clean, {"utt2snr": f"{m.snr_db:.2f}"}) for m in drawn)
    return write_pairs(out, settings.sample_rate, pairs)


def write_pairs(
    out: str | Path,
    sample_rate: int,
    pairs: Iterable[tuple[Mixture, np.ndarray, np.ndarray, dict[str, str]]],
) -> DataDir:
    """Write (mixture, noisy `[T]` or `[M, T]`, clean `[T]`, more entries) and the directory."""
    out = Path(out)
    tables: dict[str, dict[str, str]] = {"wav.scp": {}, "clean.scp": {}}
    for name in ("noisy", "clean"):
        audio.make_folder(out / name)
    for mixture, noisy, clean, more in pairs:
        key = mixture.key
        for folder, x in (("noisy", noisy), ("clean", clean)):
            audio.write(out / folder / f"{key}.wav", x, sample_rate, overwrite=True)
        entries = {
            "wav.scp": f"noisy/{key}.wav",
            "clean.scp": f"clean/{key}.wav",
            "utt2spk": mixture.speech.speaker or mixture.speech.key,
            "utt2noise": mixture.noise.key,
            "utt2speech": mixture.speech.key,
            "reco2dur": f"{len(clean) / sample_rate:.4f}",
            **more,
        }
        for name, entry in entries.items():
            tables.setdefault(name, {})[key] = entry
    data = DataDir(tables, out)
    data.write(out)
    return data
