"""Import the DNS challenge of 2020 and 2021."""

from __future__ import annotations

import re
from pathlib import Path

from audiomask.data.kaldi.collector import Collector, as_key, audio_files
from audiomask.data.kaldi.directory import DataDir


def read(folder: str | Path, skipped: list[str] | None = None) -> dict[str, DataDir]:
    """Return the directories of the DNS challenge of 2020 and 2021.

    `folder` is `datasets`, with {clean,noise,impulse_responses,test_set}, or the folder round it. The
    directories are `clean` (speakers: the reader in book_B_chp_C_reader_R_N, or else the folder), `noise`
    (every clip its own kind, since names do not tell) and, where present, `rooms` (impulse responses, kind:
    the room) and `test_no_reverb`, `test_with_reverb`: pairs by the number after `_fileid_`. A recording that
    lies in two folders, as after unpacking two editions over each other, is a fault.
    """
    root = Path(folder)
    root = root / "datasets" if (root / "datasets").is_dir() else root
    seen: dict[tuple[str, int], list[Path]] = {}
    out = {}
    for name in ("clean", "noise", "impulse_responses"):
        part = root / name
        if name == "impulse_responses" and not part.is_dir():
            continue  # the edition of 2020 lacks it
        found = Collector(part, skipped, seen)
        for path in audio_files(part):
            inside = path.relative_to(part)
            key = who = as_key(str(inside.with_suffix("")))
            if name == "impulse_responses":
                if "noise" in path.name:
                    continue  # OpenSLR 28 keeps recordings of the rooms' own noise among their responses
                who = as_key(str(inside.parent))
            elif name == "clean":
                reader = re.search(r"reader_\d+", path.stem)
                who = reader.group() if reader else as_key(inside.parts[0] if len(inside.parts) > 1 else key)
                key = f"{who}-{key}"
            found.add(key, who, path)
        out["rooms" if name == "impulse_responses" else name] = found.finish()
    for part in sorted(root.glob("test_set/synthetic/*/noisy")):
        out[f"test_{part.parent.name}"] = _pairs(part, skipped)
    return out


def _pairs(noisy: Path, skipped: list[str] | None) -> DataDir:
    """Return the pairs of `noisy` and the folder `clean` beside it, with keys fileid_N."""
    found, clean = Collector(noisy, skipped), noisy.parent / "clean"
    sides: list[dict[str, Path]] = [{}, {}]
    for side, folder in zip(sides, (noisy, clean), strict=True):
        for path in audio_files(folder):
            match = re.search(r"fileid_\d+$", path.stem)
            if not match:
                found.fault(f"{path}: its name does not end in _fileid_NUMBER; remove or rename it")
            elif match.group() in side:
                found.fault(f"{path}: makes the same key {match[0]} as {side[match[0]]}; remove one")
            else:
                side[match.group()] = path
    for key, path in sides[0].items():
        found.add(key, key, path, clean=sides[1].get(key, clean / f"clean_{key}.wav"))
    for key in sides[1].keys() - sides[0].keys():
        found.fault(f"{sides[1][key]}: no *_{key}.wav in {noisy}; unpack it again")
    return found.finish()
