"""Import MUSDB18-HQ, or the mixes of MUSDB18."""

from __future__ import annotations

from pathlib import Path

from audiomask.data.kaldi.collector import Collector, as_key, audio_files
from audiomask.data.kaldi.directory import DataDir, DataError

STEMS = ("vocals", "drums", "bass", "other")
COMPRESSED = ".stem.mp4"
# The songs of train that the package musdb and most of the field validate on.
VALID = {
    "ANiMAL - Rockshow",
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
}


def read(folder: str | Path, skipped: list[str] | None = None) -> dict[str, DataDir]:
    """Return the directories of MUSDB18-HQ or MUSDB18: train, valid and test.

    The songs are PART/SONG/mixture.wav with vocals.wav, drums.wav, bass.wav and other.wav beside it, which
    vocals.scp and the like list; or PART/SONG.stem.mp4, of which the mix alone is read, by the extra [media].
    The 14 songs of train that the field validates on are in valid. Artists are not told apart: each song is
    its own speaker.
    """
    folder = Path(folder)
    seen: dict[tuple[str, int], list[Path]] = {}
    out: dict[str, DataDir] = {}
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            continue
        parts = {name: Collector(folder / part, skipped, seen) for name in (part, "valid")}
        for path in audio_files(folder / part):
            whole = path.name.endswith(COMPRESSED)
            song = path.name.removesuffix(COMPRESSED) if whole else path.parent.name
            found = parts["valid" if part == "train" and song in VALID else part]
            if whole:
                found.add(as_key(song), as_key(song), path)
            elif path.stem == "mixture":
                stems = {name: path.with_name(f"{name}{path.suffix}") for name in STEMS}
                found.add(as_key(song), as_key(song), path, None, **stems)
            elif path.stem not in STEMS:
                found.fault(f"{path}: neither a mixture nor one of {', '.join(STEMS)}; remove it")
            elif not path.with_name(f"mixture{path.suffix}").is_file():
                found.fault(f"{path}: the mixture is missing beside it; unpack the corpus again")
        for name, found in parts.items():
            if name != "valid" or found.tables["wav.scp"] or found.faults:
                out[name] = found.finish()
    if not out:
        raise DataError(f"{folder}: no folders train and test; this is not the layout of MUSDB18")
    return out
