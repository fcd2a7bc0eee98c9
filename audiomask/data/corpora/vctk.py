"""Import VCTK 0.92 and 0.80."""

from __future__ import annotations

import re
from pathlib import Path

from audiomask.data.kaldi.collector import Collector, audio_files
from audiomask.data.kaldi.directory import DataDir


def read(folder: str | Path, skipped: list[str] | None = None) -> DataDir:
    """Return VCTK as a data directory, with keys SPEAKER_N.

    Files are wav48_silence_trimmed/SPEAKER/SPEAKER_N_mic1.flac (0.92) or wav48/SPEAKER/SPEAKER_N.wav (0.80).
    The first microphone of 0.92 is taken, since two speakers lack the second.
    """
    folder = Path(folder)
    found = Collector(folder, skipped)
    for path in audio_files(folder):
        match = re.fullmatch(r"((?:p|s)\d+)_\d+(?:_mic([12]))?", path.stem)
        if not match or match.group(1) != path.parent.name:
            found.fault(f"{path}: not a name of VCTK (SPEAKER/SPEAKER_N_micM.flac); remove it")
        elif match.group(2) != "2":
            found.add(path.stem.removesuffix("_mic1"), match.group(1), path)
    return found.finish()
