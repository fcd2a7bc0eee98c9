"""Import Speech Commands 0.01 and 0.02."""

from __future__ import annotations

import re
from pathlib import Path

from audiomask.data.kaldi.collector import Collector, as_key, audio_files
from audiomask.data.kaldi.directory import DataDir, read_text

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
NOISE = "_background_noise_"
OPTIONS = {
    "classes": ("words|12", "each word (default), or ten of them, _unknown_ and _silence_", str),
    "test": ("DIR", "with --classes 12: the test archive", Path),
}


def read(
    folder: str | Path,
    skipped: list[str] | None = None,
    *,
    classes: str = "words",
    test: str | Path | None = None,
) -> dict[str, DataDir]:
    """Return train, valid and test of Speech Commands 0.01 or 0.02.

    Files are WORD/SPEAKER_nohash_N.wav, validation_list.txt, testing_list.txt. Each word (30 or 35) is a
    label; background noises are left out. Keys are SPEAKER-WORD-N: speaker and number recur in other words.

    `classes` "12" gives ten commands, all other words as `_unknown_`, and `_silence_`: the seconds of the
    background noises, those of the last file (running_tap) in valid and all others in train. Published tables
    of the twelve use a separate test archive; `test` is its folder (of 12 folders), and takes the place of
    testing_list.txt, whose test set has no `_silence_`.
    """
    twelve = classes == "12"
    if classes not in ("words", "12"):
        raise ValueError(f"--classes {classes}: want words or 12")
    if test is not None and not twelve:
        raise ValueError("--test is the archive of the twelve labels; add --classes 12")
    folder = Path(folder)
    part_of: dict[str, str] = {}
    found = Collector(folder, skipped, {})
    for name, part in (("validation_list.txt", "valid"), ("testing_list.txt", "test")):
        for line in read_text(folder / name, "name the folder of the words and lists").split():
            if part_of.setdefault(line, part) != part:
                found.fault(f"{folder / name}: {line} is in the other list too; remove one")
            elif not (folder / line).is_file():
                found.fault(f"{folder / line}: is in {name} and missing; unpack the corpus again")
    keys: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    noises = []
    for path in audio_files(folder):
        inside = path.relative_to(folder).as_posix()
        match = re.fullmatch(r"([^/]+)/([0-9a-f]+)_nohash_(\d+)\.\w+", inside)
        if path.parent.name == NOISE:
            noises.append(path)
        elif not match:
            found.fault(f"{path}: not a name of Speech Commands (WORD/SPEAKER_nohash_N.wav); remove it")
        else:
            key = f"{match[2]}-{match[1]}-{match[3]}"
            label = match[1] if not twelve or match[1] in COMMANDS else "_unknown_"
            if found.add(key, match[2], path, label):
                keys[part_of.get(inside, "train")].append(key)
    silence = [f"noise-{path.stem}" for path in noises] if twelve else []
    for key, path in zip(silence, noises, strict=False):
        found.add(key, key, path)
    data = found.finish()
    if twelve:
        _cut_silence(data, silence, keys)
    parts = {part: data.subset(names) for part, names in keys.items() if names}
    if test is not None:
        parts["test"] = _test_archive(Path(test), skipped)
    return parts


def _cut_silence(data: DataDir, silence: list[str], keys: dict[str, list[str]]) -> None:
    """Cut recordings `silence` into utterances of a second; words get segments of full length."""
    tables = data.tables
    tables["segments"] = {key: f"{key} 0.0000 -1" for key in tables["wav.scp"] if key not in silence}
    for recording in [key for key in silence if key in tables["wav.scp"]]:
        del tables["utt2spk"][recording]
        for second in range(int(float(tables["reco2dur"][recording]))):
            key = f"{recording}-{second:03d}"
            tables["segments"][key] = f"{recording} {second:.4f} {second + 1:.4f}"
            tables["utt2spk"][key], tables["utt2label"][key] = recording, "_silence_"
            keys["valid" if recording == silence[-1] else "train"].append(key)


def _test_archive(folder: Path, skipped: list[str] | None) -> DataDir:
    """Return the test archive, which has a folder for each of the twelve labels."""
    found = Collector(folder, skipped, {})
    for path in audio_files(folder):
        label = path.parent.name
        if label not in (*COMMANDS, "_unknown_", "_silence_"):
            found.fault(f"{path}: {label} is none of the twelve labels; is this the test archive?")
            continue
        who, _, rest = path.stem.partition("_nohash_")
        key = as_key(f"{who}-{label}-{rest}" if rest else f"{who}-{label}")
        found.add(key, as_key(who), path, label)
    return found.finish()
