"""Import VoiceBank+DEMAND (Edinburgh DataShare 10283/2791)."""

from __future__ import annotations

from pathlib import Path

from audiomask.data.kaldi.collector import Collector, audio_files
from audiomask.data.kaldi.directory import DataDir, DataError


def read(folder: str | Path, skipped: list[str] | None = None) -> dict[str, DataDir]:
    """Return the directories of VoiceBank+DEMAND (Edinburgh DataShare 10283/2791).

    There is one for each X of trainset_28spk, trainset_56spk and testset: wav.scp lists noisy_X_wav,
    clean.scp clean_X_wav. No utterance may be in two: a test set must not be trained on.
    """
    folder = Path(folder)
    out: dict[str, DataDir] = {}
    for noisy in sorted(folder.glob("noisy_*_wav")):
        part = noisy.name.removeprefix("noisy_").removesuffix("_wav")
        clean = folder / f"clean_{part}_wav"
        found = Collector(noisy, skipped)
        for path in audio_files(noisy):
            inside = [p for p, data in out.items() if path.stem in data.tables["wav.scp"]]
            if inside:
                found.fault(f"{path}: {path.stem} is in {inside[0]} too; remove it from one of them")
                continue
            found.add(path.stem, path.stem.split("_")[0], path, clean=clean / path.relative_to(noisy))
        for path in audio_files(clean):
            if not (noisy / path.relative_to(clean)).is_file():
                found.fault(f"{path}: its noisy partner is missing in {noisy}; unpack it again")
        out[part] = found.finish()
    if not out:
        raise DataError(f"{folder}: no noisy_*_wav folders; this is not the layout of VoiceBank+DEMAND")
    return out
