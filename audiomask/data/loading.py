"""Random crops of packed audio: the raw material of every training batch.

A corpus is decoded once, to one flat int16 file with an index (`pack`), and read through a memory map
afterwards (`PackedAudio`): a random crop then costs a page fault instead of a codec start, and any number of
processes share the pages. What is done with the crops (mixing, rooms, levels) is `simulate.py`'s business and
runs on the training device.

Everything drawn for batch number `i` comes from a generator seeded with `(seed, i)`. A resumed run therefore
sees the same data in the same order as one that never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from audiomask.audio import AudioError


def pack(
    entries: Iterable[tuple[str, str, Callable[[], np.ndarray]]], prefix: str | Path, sample_rate: int
) -> int:
    """Write `prefix.i16` and `prefix.json` from (key, group, read) entries; returns the number of samples.

    `group` is what crops are balanced over: a speaker, a kind of noise. `read()` gives mono float samples
    `[T]` in [-1, 1] at `sample_rate` (Hz). The index is written last, so a pack that was interrupted is not
    mistaken for a finished one.
    """
    prefix = Path(prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    index: list[tuple[str, str, int, int]] = []
    offset = 0
    partial = prefix.with_suffix(".i16.part")
    with partial.open("wb") as f:
        for key, group, read in entries:
            x = np.asarray(read(), np.float32)
            if x.ndim != 1:
                raise AudioError(
                    f"{key}: expected mono samples, got shape {x.shape}; mix down before packing"
                )
            if not len(x):
                continue
            x = np.nan_to_num(x) / max(1.0, float(np.abs(x).max()))
            f.write(np.round(x * 32767).astype("<i2").tobytes())
            index.append((key, group, offset, len(x)))
            offset += len(x)
    if not index:
        partial.unlink()
        raise AudioError(f"{prefix}: no audio to pack; check the data directory it was made from")
    partial.rename(prefix.with_suffix(".i16"))
    prefix.with_suffix(".json").write_text(json.dumps({"sample_rate": sample_rate, "entries": index}))
    return offset


class PackedAudio:
    """Crops of a packed corpus.

    Args:
        prefix: path without suffix of the `.i16` and `.json` files.
        weights: sampling weight by group; a key ending in `*` covers all groups that begin so, and shares
            its weight among them. Groups without a weight are drawn in proportion to their length from what
            is left when the weights sum to less than 1, and not at all otherwise. None draws every second of
            audio alike.
        exclude: groups (or `prefix*`) left out: held-out speakers and noises.
        only: the opposite: nothing but these.
    """

    def __init__(
        self,
        prefix: str | Path,
        weights: Mapping[str, float] | None = None,
        exclude: Iterable[str] = (),
        only: Iterable[str] | None = None,
    ):
        prefix = Path(prefix)
        index = prefix.with_suffix(".json")
        if not index.exists():
            raise AudioError(
                f"{index}: no such packed corpus; make it with `audiomask train`'s --data.cache or pack()"
            )
        meta = json.loads(index.read_text())
        self.sample_rate: int = meta["sample_rate"]
        self.samples = np.memmap(prefix.with_suffix(".i16"), "<i2", "r")
        keep = [
            e
            for e in meta["entries"]
            if not any(_matches(e[1], x) for x in exclude)
            and (only is None or any(_matches(e[1], x) for x in only))
        ]
        if not keep:
            raise AudioError(
                f"{prefix}: nothing is left of {len(meta['entries'])} entries after `only` and `exclude`"
            )
        self.keys = [e[0] for e in keep]
        self.groups = np.array([e[1] for e in keep])
        self.offsets = np.array([e[2] for e in keep])
        self.lengths = np.array([e[3] for e in keep])
        p = self.lengths.astype(np.float64)
        if weights is not None:
            p = np.zeros(len(keep))
            rest = np.ones(len(keep), bool)
            for pattern, weight in weights.items():
                hit = rest & np.array([_matches(g, pattern) for g in self.groups])
                if not hit.any():
                    raise AudioError(f"{prefix}: no group matches the weight for {pattern!r}")
                p[hit] = weight * self.lengths[hit] / self.lengths[hit].sum()
                rest &= ~hit
            left = 1 - sum(weights.values())
            if left > 1e-6 and rest.any():
                p[rest] = left * self.lengths[rest] / self.lengths[rest].sum()
        self.p = p / p.sum()
        self._cdf = np.cumsum(self.p)

    @property
    def duration_s(self) -> float:
        return float(self.lengths.sum()) / self.sample_rate

    def draw(self, rng: np.random.Generator) -> int:
        """The number of a recording, by the weights and the lengths."""
        return min(int(np.searchsorted(self._cdf, rng.random(), side="right")), len(self.p) - 1)

    def crop(self, rng: np.random.Generator, length: int, fill: str = "loop") -> np.ndarray:
        """Samples `[length]` float32 from a random place.

        A shorter recording is repeated from a random phase (`fill="loop"`, for noise) or set at random
        among zeros (`"pad"`, right for speech, which then also teaches silence).
        """
        i = self.draw(rng)
        start, n = self.offsets[i], self.lengths[i]
        if n >= length:
            at = start + rng.integers(n - length + 1)
            return self.samples[at : at + length].astype(np.float32) / 32768
        x = self.samples[start : start + n].astype(np.float32) / 32768
        if fill == "loop":
            return np.resize(np.roll(x, rng.integers(n)), length)
        out = np.zeros(length, np.float32)
        at = rng.integers(length - n + 1)
        out[at : at + n] = x
        return out


def _matches(group: str, pattern: str) -> bool:
    return group.startswith(pattern[:-1]) if pattern.endswith("*") else group == pattern


class SpeechAndNoise(Dataset[dict[str, torch.Tensor]]):
    """Batch `i` of raw crops for `simulate.Degrade`: speech, and several noise signals for each.

    Args:
        speech, noise: packed corpora. music: optional third one.
        batch_size: rows; length: samples of a crop (longer than the training segment, since speed changes
            eat some).
        noises: noise slots a row.
        babble, music_share, synthetic: chance that a slot holds several talkers, music, or Gaussian noise
            (which the simulation then colours) instead of a recording.
        steps: length of the data set in batches; seed: with the batch number, all there is to know about
            a batch.

    Item: `speech [B, L]`, `noise [B, K, L]` float32, `seed` int64 (for the simulation).
    """

    def __init__(
        self,
        speech: PackedAudio,
        noise: PackedAudio,
        batch_size: int,
        length: int,
        steps: int,
        music: PackedAudio | None = None,
        noises: int = 3,
        babble: float = 0.1,
        music_share: float = 0.06,
        synthetic: float = 0.08,
        seed: int = 0,
    ):
        self.speech, self.noise, self.music = speech, noise, music
        self.batch_size, self.length, self.steps, self.noises = batch_size, length, steps, noises
        self.babble, self.synthetic, self.seed = babble, synthetic, seed
        self.music_share = music_share if music is not None else 0.0

    def __len__(self) -> int:
        return self.steps

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        u = rng.random()
        if u < self.synthetic:
            return rng.standard_normal(self.length, np.float32) * 0.1
        u -= self.synthetic
        if u < self.babble:
            talkers = rng.integers(3, 9)
            return sum(
                self.speech.crop(rng, self.length) * 10 ** (rng.uniform(-6, 6) / 20) for _ in range(talkers)
            ) / np.sqrt(talkers)
        if u < self.babble + self.music_share and self.music is not None:
            return self.music.crop(rng, self.length)
        return self.noise.crop(rng, self.length)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        rng = np.random.default_rng([self.seed, step])
        speech = np.stack([self.speech.crop(rng, self.length, "pad") for _ in range(self.batch_size)])
        noise = np.stack(
            [[self._noise(rng) for _ in range(self.noises)] for _ in range(self.batch_size)], dtype=np.float32
        )
        return {
            "speech": torch.from_numpy(speech),
            "noise": torch.from_numpy(noise),
            "seed": torch.tensor(int(rng.integers(2**62))),
        }
