"""Data directories made from what corpora look like on disk, and lhotse manifests in both directions.

Every importer returns a `DataDir` whose entries are the paths as found below the folder that was named; give
an absolute folder to get a directory that works from anywhere.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.kaldi import DataDir, DataError, invert

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".w64", ".rf64", ".sph"}


def _audio_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"{folder}: no audio files below it ({', '.join(sorted(SUFFIXES))})")
    return files


def _key(text: str) -> str:
    """`text` as a key: no white space, no slash."""
    return re.sub(r"[\s/\\]+", "_", text)


def _finish(wav: dict[str, str], utt2spk: dict[str, str], **more: dict[str, str]) -> DataDir:
    """A DataDir with spk2utt and reco2dur filled in."""
    durations = {}
    for key, entry in wav.items():
        durations[key] = f"{audio.info(entry).seconds:.4f}"
    tables = {"wav.scp": wav, "utt2spk": utt2spk, "spk2utt": invert(utt2spk), "reco2dur": durations}
    return DataDir({**tables, **{name.replace("_scp", ".scp"): table for name, table in more.items()}})


def from_folder(folder: str | Path, speaker: str = "folder") -> DataDir:
    """Any folder of audio, recursively.

    `speaker` (the kind, for noise): "folder", that of the file; "file", each file its own; or a regular
    expression, searched in the path below `folder`, whose first group it is. Keys are SPEAKER-PATH: so the
    order by utterance is the order by speaker, which Kaldi's tools need.
    """
    folder = Path(folder)
    pattern = None
    if speaker not in ("folder", "file"):
        try:
            pattern = re.compile(speaker)
        except re.error as error:
            raise DataError(f"speaker pattern {speaker!r}: {error}") from error
        if pattern.groups < 1:
            raise DataError(
                f"speaker pattern {speaker!r} has no group; put ( ) round the speaker, as in '([^/-]+)-'"
            )
    wav: dict[str, str] = {}
    utt2spk: dict[str, str] = {}
    for path in _audio_files(folder):
        inside = path.relative_to(folder)
        stem = _key(str(inside.with_suffix("")))
        if pattern is not None:
            match = pattern.search(inside.as_posix())
            if not match or not match.group(1):
                raise DataError(f"{path}: the speaker pattern {speaker!r} does not match")
            who = _key(match.group(1))
        else:
            who = stem if speaker == "file" else _key(inside.parent.name or folder.resolve().name)
        key = stem if stem.startswith(who) else f"{who}-{stem}"
        if key in wav:
            raise DataError(f"{path}: makes the same key {key} as {wav[key]}; rename one")
        wav[key], utt2spk[key] = str(path), who
    return _finish(wav, utt2spk)


def from_librispeech(folder: str | Path) -> DataDir:
    """LibriSpeech's layout, READER/CHAPTER/READER-CHAPTER-NUMBER.flac with .trans.txt beside.

    Also flat folders.
    """
    folder = Path(folder)
    wav, utt2spk, text = {}, {}, {}
    for path in _audio_files(folder):
        parts = path.stem.split("-")
        if len(parts) != 3 or not all(p.isdigit() for p in parts):
            raise DataError(f"{path}: not a LibriSpeech name (READER-CHAPTER-NUMBER); use `import folder`")
        wav[path.stem], utt2spk[path.stem] = str(path), parts[0]
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for line in transcript.read_text(encoding="utf-8").splitlines():
            key, _, words = line.partition(" ")
            if key in wav:
                text[key] = words
    if text and len(text) < len(wav):
        raise DataError(
            f"{folder}: {len(wav) - len(text)} utterances have no transcript; complete or remove *.trans.txt"
        )
    return _finish(wav, utt2spk, **({"text": text} if text else {}))


def from_voicebank(folder: str | Path) -> dict[str, DataDir]:
    """VoiceBank+DEMAND as distributed: clean_X_wav and noisy_X_wav (X: trainset_28spk, trainset_56spk,
    testset, ...).

    Returns a directory for each X, with wav.scp the noisy and clean.scp the clean recordings.
    """
    folder = Path(folder)
    out = {}
    for noisy in sorted(folder.glob("noisy_*_wav")):
        part = noisy.name.removeprefix("noisy_").removesuffix("_wav")
        clean = folder / f"clean_{part}_wav"
        wav, clean_scp, utt2spk = {}, {}, {}
        for path in _audio_files(noisy):
            partner = clean / path.name
            if not partner.is_file():
                raise DataError(f"{path}: its clean partner {partner} is missing; unpack the corpus again")
            wav[path.stem], clean_scp[path.stem] = str(path), str(partner)
            utt2spk[path.stem] = path.stem.split("_")[0]
        out[part] = _finish(wav, utt2spk, clean_scp=clean_scp)
    if not out:
        raise DataError(f"{folder}: no noisy_*_wav folders; this is not the layout of VoiceBank+DEMAND")
    return out


def _json_lines(path: Path) -> Iterator[dict]:
    opener: Callable = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    item = json.loads(line)
                    if not isinstance(item, dict) or "id" not in item:
                        raise DataError(
                            f"{path}:{number}: not an object with an id; is this a lhotse manifest?"
                        )
                    yield item
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot read as lhotse jsonl ({error})") from error


def from_lhotse(recordings: str | Path, supervisions: str | Path | None = None) -> DataDir:
    """lhotse manifests (jsonl or jsonl.gz), recordings with one source of type "file" or "command".

    Supervisions become segments (or utterances, where each spans its recording), speakers and text.
    """
    wav, durations = {}, {}
    for item in _json_lines(Path(recordings)):
        sources = item.get("sources") or []
        if len(sources) != 1 or sources[0].get("type") not in ("file", "command"):
            raise DataError(f"{recordings}: {item['id']}: need exactly one source, a file or a command")
        source = sources[0]
        key = _key(item["id"])
        wav[key] = source["source"] + (" |" if source["type"] == "command" else "")
        durations[key] = f"{item['duration']:.4f}"
    tables = {"wav.scp": wav, "reco2dur": durations}
    if supervisions is not None:
        segments, utt2spk, text = {}, {}, {}
        for item in _json_lines(Path(supervisions)):
            key, recording, start = _key(item["id"]), _key(item["recording_id"]), float(item["start"])
            if recording not in wav:
                raise DataError(f"{supervisions}: {item['id']}: unknown recording {item['recording_id']}")
            segments[key] = f"{recording} {start:.4f} {start + float(item['duration']):.4f}"
            utt2spk[key] = _key(item.get("speaker") or key)
            text[key] = item.get("text") or ""
        whole = set(segments) == set(wav) and all(
            segments[k] == f"{k} 0.0000 {durations[k]}" for k in segments
        )
        tables |= {"utt2spk": utt2spk, "spk2utt": invert(utt2spk)}
        tables |= {} if whole else {"segments": segments}
        tables |= {"text": text} if any(text.values()) else {}
    return DataDir(tables)


def to_lhotse(data: DataDir, folder: str | Path) -> list[Path]:
    """Write recordings.jsonl.gz and supervisions.jsonl.gz that lhotse reads; returns the two paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recordings, supervisions = [], []
    durations: dict[str, float] = {}
    for key in data.recordings:
        entry = data.tables["wav.scp"][key]
        if entry.endswith("|"):
            raise DataError(
                f"{data.path}: {key} is a pipe; its rate and length are unknown, write it to a file first"
            )
        try:
            info = audio.info(data.resolve(entry))
        except AudioError as error:
            raise DataError(f"{data.path}: {key}: {error}") from error
        channels = list(range(info.channels))
        durations[key] = info.frames / info.rate
        source = {"type": "file", "channels": channels, "source": str(data.resolve(entry))}
        recordings.append(
            {
                "id": key,
                "sources": [source],
                "sampling_rate": info.rate,
                "num_samples": info.frames,
                "duration": durations[key],
                "channel_ids": channels,
            }
        )
    for utterance in data.utterances():
        end = durations[utterance.recording] if utterance.end is None else utterance.end
        item = {
            "id": utterance.key,
            "recording_id": utterance.recording,
            "start": utterance.start,
            "duration": round(end - utterance.start, 8),
            "channel": 0,
        }
        if utterance.speaker is not None:
            item["speaker"] = utterance.speaker
        if utterance.key in data.tables.get("text", {}):
            item["text"] = data.tables["text"][utterance.key]
        supervisions.append(item)
    paths = []
    for name, items in (("recordings", recordings), ("supervisions", supervisions)):
        path = folder / f"{name}.jsonl.gz"
        temporary = path.with_name(f".{path.name}.part")
        with gzip.open(temporary, "wt", encoding="utf-8") as out:
            out.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        paths.append(temporary.replace(path))
    return paths
