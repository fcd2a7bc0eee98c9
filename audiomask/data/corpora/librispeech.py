"""Import LibriSpeech, and corpora of its layout."""

from __future__ import annotations

from pathlib import Path

from audiomask.data.kaldi.collector import Collector, audio_files
from audiomask.data.kaldi.directory import DataDir, DataError


def read(folder: str | Path, skipped: list[str] | None = None) -> DataDir:
    """Read READER/CHAPTER/READER-CHAPTER-NUMBER.flac with .trans.txt beside, or flat folders."""
    folder = Path(folder)
    found, text = Collector(folder, skipped), {}
    for path in audio_files(folder):
        parts = path.stem.split("-")
        if len(parts) != 3 or not all(p.isdigit() for p in parts):
            raise DataError(f"{path}: not a LibriSpeech name (READER-CHAPTER-NUMBER); use `import folder`")
        found.add(path.stem, parts[0], path)
    wav = found.tables["wav.scp"]
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for line in transcript.read_text(encoding="utf-8").splitlines():
            key, _, words = line.partition(" ")
            if key in wav:
                text[key] = words
    if text and len(text) < len(wav):
        raise DataError(
            f"{folder}: {len(wav) - len(text)} utterances have no transcript; complete or remove *.trans.txt"
        )
    return found.finish(**({"text": text} if text else {}))
