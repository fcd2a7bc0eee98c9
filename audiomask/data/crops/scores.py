"""Cut crops of songs whose scores are known, with what is played in them as piano rolls.

A score is a file of lines `STEM<tab>ONSET<tab>OFFSET<tab>NOTE`, in seconds and MIDI numbers; the table
utt2score of a data directory names one for each song. `tools/corpora/render_stems.py` writes both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiomask.audio import AudioError
from audiomask.data.crops.packed import DrawnRows, PackedAudio, drawn
from audiomask.masks.notes import LOWEST, NOTES

Score = Mapping[str, np.ndarray]  # notes `[N, 3]` of each stem: onset, offset (s), MIDI number


def read_score(path: Path) -> Score:
    """Return the notes in a file, or raise `AudioError`."""
    found: dict[str, list[tuple[float, ...]]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            stem, *numbers = line.split("\t")
            onset, offset, note = map(float, numbers)
            found.setdefault(stem, []).append((onset, offset, note))
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"{path}: cannot read ({error})") from None
    except ValueError:
        raise AudioError(
            f"{path}: want lines of STEM, ONSET, OFFSET and NOTE, with tabs; not {line!r}"
        ) from None
    return {stem: np.array(notes) for stem, notes in found.items()}


def piano_roll(score: Score, stems: Sequence[str], start: float, frames: int, frame_s: float) -> np.ndarray:
    """Return 1 where a note sounds, `[stems, frames, 88]` float32, from `start` on, in seconds."""
    roll = np.zeros((len(stems), frames, NOTES), np.float32)
    for row, stem in zip(roll, stems, strict=True):
        for onset, offset, note in score.get(stem, ()):
            first, last = (int(np.ceil((t - start) / frame_s)) for t in (onset, offset))
            if last > 0 and first < frames and 0 <= note - LOWEST < NOTES:
                row[max(0, first) : max(first + 1, last), int(note) - LOWEST] = 1
    return roll


@dataclass(eq=False)
class ScoredCrops(DrawnRows):
    """Cuts crops of mixtures, `audio [1, L]`, and their `notes [stems, frames, 88]`.

    There is a frame each hop. Songs shorter than a crop end in silence. `count` rows make a data set that
    ends.
    """

    songs: PackedAudio
    scores: Mapping[str, Score]
    stems: Sequence[str]
    length: int
    hop_length: int
    sample_rate: int
    count: int = 0
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        i = drawn(self.songs.cdf, rng)
        samples = int(self.songs.lengths[i])
        at = int(rng.integers(max(1, samples - self.length + 1)))
        x = self.songs.read(i, at, min(self.length, samples))
        audio = np.pad(x, (0, self.length - len(x)))[None].astype(np.float32)
        frames, rate = self.length // self.hop_length + 1, self.sample_rate
        score = self.scores[self.songs.keys[i]]
        return {
            "audio": audio,
            "notes": piano_roll(score, self.stems, at / rate, frames, self.hop_length / rate),
        }
