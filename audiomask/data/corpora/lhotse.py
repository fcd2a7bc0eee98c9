"""Import lhotse manifests, and export data directories as such."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from audiomask import audio
from audiomask.audio import AudioError, make_folder, replacing
from audiomask.audio.reader import end_of
from audiomask.data.kaldi.collector import as_key
from audiomask.data.kaldi.directory import DataDir, DataError, invert


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


OPTIONS = {"supervisions": ("FILE", "the supervisions manifest", Path)}


def read(
    recordings: str | Path, skipped: list[str] | None = None, *, supervisions: str | Path | None = None
) -> DataDir:
    """Return lhotse manifests (jsonl or jsonl.gz) as a data directory; no audio is opened.

    Each recording has one source of type "file" or "command". Supervisions become segments (or utterances,
    where each spans its recording), speakers and text.
    """
    wav, durations = {}, {}
    for item in _json_lines(Path(recordings)):
        sources = item.get("sources") or []
        if len(sources) != 1 or sources[0].get("type") not in ("file", "command"):
            raise DataError(f"{recordings}: {item['id']}: need exactly one source, a file or a command")
        source = sources[0]
        key = as_key(item["id"])
        wav[key] = source["source"] + (" |" if source["type"] == "command" else "")
        durations[key] = f"{item['duration']:.4f}"
    tables = {"wav.scp": wav, "reco2dur": durations}
    if supervisions is not None:
        segments, utt2spk, text = {}, {}, {}
        for item in _json_lines(Path(supervisions)):
            key, recording, start = as_key(item["id"]), as_key(item["recording_id"]), float(item["start"])
            if recording not in wav:
                raise DataError(f"{supervisions}: {item['id']}: unknown recording {item['recording_id']}")
            segments[key] = f"{recording} {start:.4f} {start + float(item['duration']):.4f}"
            utt2spk[key] = as_key(item.get("speaker") or key)
            text[key] = item.get("text") or ""
        whole = segments == {key: f"{key} 0.0000 {seconds}" for key, seconds in durations.items()}
        tables |= {"utt2spk": utt2spk, "spk2utt": invert(utt2spk)}
        tables |= {} if whole else {"segments": segments}
        tables |= {"text": text} if any(text.values()) else {}
    return DataDir(tables)


NAMES = ("recordings.jsonl.gz", "supervisions.jsonl.gz")


def write(data: DataDir, folder: str | Path) -> list[Path]:
    """Write recordings.jsonl.gz and supervisions.jsonl.gz for lhotse; return the two paths."""
    folder = Path(folder)
    make_folder(folder)
    recordings, supervisions = [], []
    durations: dict[str, float] = {}
    for key in data.recordings:
        entry = data.tables["wav.scp"][key]
        if entry.endswith("|"):
            unknown = "its rate and length are unknown, write it to a file first"
            raise DataError(f"{data.path}: {key} is a pipe; {unknown}")
        try:
            info = audio.info(data.resolve(entry))
        except AudioError as error:
            raise DataError(f"{data.path}: {key}: {error}") from error
        channels = list(range(info.channels))
        durations[key] = info.frames / info.rate
        source = {"type": "file", "channels": channels, "source": str(data.resolve(entry))}
        facts = {"id": key, "sources": [source], "sampling_rate": info.rate, "num_samples": info.frames}
        recordings.append(facts | {"duration": durations[key], "channel_ids": channels})
    for utterance in data.utterances():
        seconds = durations[utterance.recording]
        if (end := end_of(utterance.start, utterance.end, seconds)) is None:
            raise DataError(f"{data.path}: {utterance.key} is not in the {seconds:.2f} s of its recording")
        item = {"id": utterance.key, "recording_id": utterance.recording, "start": utterance.start}
        item |= {"duration": round(end - utterance.start, 8), "channel": 0}
        if utterance.speaker is not None:
            item["speaker"] = utterance.speaker
        if utterance.key in data.tables.get("text", {}):
            item["text"] = data.tables["text"][utterance.key]
        supervisions.append(item)
    paths = [folder / name for name in NAMES]
    for path, items in zip(paths, (recordings, supervisions), strict=True):
        with replacing(path) as part, gzip.open(part, "wt", encoding="utf-8") as out:
            out.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    return paths
