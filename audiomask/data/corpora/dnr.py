"""Import Divide and Remaster (DnR), version 2 or 3."""

from __future__ import annotations

from pathlib import Path

from audiomask.data.kaldi.collector import Collector, as_key, audio_files
from audiomask.data.kaldi.directory import DataDir, DataError

STEMS = {"speech": "speech", "music": "music", "sfx": "effects"}  # tables by the names of their files
MIXES = ("mix", "mixture")  # of version 2, of version 3
PARTS = {"tr": "train", "cv": "valid", "tt": "test", "train": "train", "val": "valid", "test": "test"}


def read(folder: str | Path, skipped: list[str] | None = None) -> dict[str, DataDir]:
    """Return the directories of DnR: train, valid and test.

    A track is PART/NUMBER/mix.wav (version 3: mixture.wav) with speech.wav, music.wav and sfx.wav beside it,
    which speech.scp, music.scp and effects.scp list. PART is tr, cv or tt, in version 3 train, val or test.
    Folders between `folder` and PART, the languages of version 3, belong to the keys. Voices are not named:
    each track is its own speaker.
    """
    folder = Path(folder)
    found: dict[str, Collector] = {}
    for track in sorted({path.parent for path in audio_files(folder)}):
        *places, part, number = ["", "", *track.relative_to(folder).parts]
        if part not in PARTS:
            continue
        files = {path.stem: path for path in audio_files(track) if path.parent == track}
        mix = next((files[name] for name in MIXES if name in files), None)
        if mix is None and not files.keys() & STEMS.keys():
            continue
        made = found.setdefault(PARTS[part], Collector(folder, skipped))
        if mix is None:
            made.fault(f"{track}: the mixture is missing; unpack the corpus again")
            continue
        stems = {table: files.get(name, track / f"{name}.wav") for name, table in STEMS.items()}
        key = as_key("_".join([place for place in places if place] + [number]))
        made.add(key, key, mix, None, **stems)
    if not found:
        raise DataError(f"{folder}: no tracks in folders {', '.join(PARTS)}; this is not the layout of DnR")
    return {part: made.finish() for part, made in found.items()}
