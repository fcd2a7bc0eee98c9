"""Import the PLC Challenge of Interspeech 2022."""

from __future__ import annotations

from pathlib import Path

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.kaldi.collector import Collector, audio_files
from audiomask.data.kaldi.directory import DataDir, DataError
from audiomask.masks.packets import TRACE_MS, read_trace

OPTIONS = {"references": ("DIR", "what was sent of the blind set", Path)}


def read(
    folder: str | Path, skipped: list[str] | None = None, *, references: str | Path | None = None
) -> dict[str, DataDir]:
    """Return the directories of the PLC Challenge of Interspeech 2022, one for each part.

    Part (train, blind, ...) has PART/lossy_signals/N.wav, N_is_lost.txt beside it, and
    PART/clean_signals/N.wav. wav.scp and clean.scp list the signals sent, lossy.scp those that arrived,
    utt2trace the packets lost. The blind set came without the signals sent; `references` is the folder into
    which they were unpacked later, and without it wav.scp lists those that arrived and there is no clean.scp.
    Talkers are not named: each recording is its own.
    """
    folder = Path(folder)
    seen: dict[tuple[str, int], list[Path]] = {}
    out: dict[str, DataDir] = {}
    for lossy in sorted(folder.rglob("lossy_signals")):
        part, clean = lossy.parent.name, lossy.parent / "clean_signals"
        if part in out:
            raise DataError(f"{lossy}: there are two parts named {part}; keep them in different folders")
        if not clean.is_dir() and references is not None:
            clean = Path(references)
        sent = {path.stem: path for path in audio_files(clean)} if clean.is_dir() else None
        found, traces = Collector(lossy, skipped, seen), {}
        for path in audio_files(lossy):
            trace = path.with_name(f"{path.stem}_is_lost.txt")
            try:
                short = len(read_trace(trace)) + 1 < audio.info(path).seconds * 1000 / TRACE_MS
            except AudioError as error:
                found.fault(str(error))
                continue
            if short:
                found.fault(f"{trace}: has fewer packets of {TRACE_MS:g} ms than {path.name}")
            elif sent is None:
                found.add(path.stem, path.stem, path)
            else:
                wav = sent.get(path.stem, clean / path.name)
                if not wav.is_file():
                    found.fault(f"{path}: what was sent, {wav}, is missing; unpack the corpus again")
                    continue
                found.add(path.stem, path.stem, wav, clean=wav, lossy=path)
            traces[path.stem] = str(trace)
        arrived = {path.stem for path in audio_files(lossy)}
        for path in [p for stem, p in (sent or {}).items() if stem not in arrived]:
            found.fault(f"{path}: nothing of its name in {lossy}; unpack it again")
        data = found.finish()
        data.tables["utt2trace"] = {key: traces[key] for key in data.recordings}
        out[part] = data
    if not out:
        raise DataError(
            f"{folder}: no folders lossy_signals below it; this is not the PLC Challenge's layout"
        )
    return out
