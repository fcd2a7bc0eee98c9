"""Make data directories from corpora on disk, and convert lhotse manifests both ways.

Every importer returns a `DataDir` whose entries are the paths as found below the named folder; give an
absolute folder to get a directory that works from anywhere.
"""

from __future__ import annotations

import filecmp
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from audiomask import audio
from audiomask.audio import AudioError, replacing
from audiomask.data.kaldi import DataDir, DataError, invert

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".w64", ".rf64", ".sph"}


def audio_files(folder: Path) -> list[Path]:
    """Return the audio below `folder`, sorted, without hidden files (macOS writes `._NAME`)."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; unpack the corpus, or name the folder that holds it")
    named = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    files = sorted(p for p in named if p.is_file())
    if not files:
        raise DataError(f"{folder}: no audio files below it ({', '.join(sorted(SUFFIXES))})")
    return files


def as_key(text: str) -> str:
    """Return `text` as a key, without white space or slashes."""
    return re.sub(r"[\s/\\]+", "_", text)


class Collector:
    """A data directory in the making: entries as they are found, with the faults of each file.

    `finish` raises one DataError that lists all faults, so that a corpus is mended in one go. With a list
    `skipped`, bad entries are left out instead and their faults appended to it. `seen`, shared by several
    collectors, makes a recording that lies in two places a fault of the second.
    """

    SHOWN = 20  # faults in a message; a wrong folder may have thousands

    def __init__(
        self,
        folder: Path,
        skipped: list[str] | None = None,
        seen: dict[tuple[str, int], list[Path]] | None = None,
    ):
        self.folder, self.skipped, self.seen = folder, skipped, seen
        self.tables: dict[str, dict[str, str]] = {"wav.scp": {}, "utt2spk": {}, "reco2dur": {}}
        self.faults: list[str] = []

    def fault(self, message: str) -> None:
        """Add a fault."""
        self.faults.append(message)

    def add(self, key: str, speaker: str, wav: Path, label: str | None = None, **partners: Path) -> bool:
        """Add a recording and `partners` of its rate and length; return False for a fault.

        `clean=` goes to clean.scp, and `label` to utt2label.
        """
        if key in self.tables["wav.scp"]:
            self.fault(f"{wav}: makes the same key {key} as {self.tables['wav.scp'][key]}; rename one")
            return False
        before = len(self.faults)
        info = self._info(wav)
        for name, path in partners.items():
            if not path.is_file():
                self.fault(f"{wav}: its {name} partner {path} is missing; unpack the corpus again")
                continue
            other = self._info(path)
            if info and other and (info.rate, info.frames) != (other.rate, other.frames):
                self.fault(
                    f"{path}: {other.frames} samples at {other.rate} Hz, but {wav} has {info.frames} at "
                    f"{info.rate} Hz; unpack both again"
                )
        if self.seen is not None and info:
            same = self.seen.setdefault((wav.name, wav.stat().st_size), [])
            twin = next((p for p in same if filecmp.cmp(p, wav, shallow=False)), None)
            if twin:
                self.fault(f"{wav}: the same recording as {twin}; remove one of them")
            same.append(wav)
        if info is None or len(self.faults) > before:
            return False
        self.tables["wav.scp"][key], self.tables["utt2spk"][key] = str(wav), speaker
        self.tables["reco2dur"][key] = f"{info.seconds:.4f}"
        more = {f"{name}.scp": str(path) for name, path in partners.items()}
        for name, value in (more | ({"utt2label": label} if label is not None else {})).items():
            self.tables.setdefault(name, {})[key] = value
        return True

    def _info(self, path: Path) -> audio.AudioInfo | None:
        try:
            return audio.verify(path)
        except AudioError as error:
            self.fault(str(error))
            return None

    def finish(self, **more: dict[str, str]) -> DataDir:
        """Return the directory with the tables `more`; DataError for faults, and if nothing is left."""
        shown = [f"  {fault}" for fault in self.faults[: self.SHOWN]]
        if len(self.faults) > self.SHOWN:
            shown.append(f"  and {len(self.faults) - self.SHOWN} more")
        if self.faults and self.skipped is None:
            raise DataError(
                f"{self.folder}: {len(self.faults)} of its files cannot be used:\n"
                + "\n".join(shown)
                + "\nmend them, or leave them out with --bad-files skip"
            )
        if self.skipped is not None:
            self.skipped += self.faults
        if not self.tables["wav.scp"]:
            raise DataError(f"{self.folder}: not one of its files can be used\n" + "\n".join(shown))
        return DataDir({**self.tables, "spk2utt": invert(self.tables["utt2spk"]), **more})


def _naming(what: str, how: str) -> Callable[[Path], str]:
    """Return a function from a file's path to its speaker (or label), see `from_folder`."""
    if how in ("folder", "file"):
        return lambda inside: inside.parent.name if how == "folder" else str(inside.with_suffix(""))
    try:
        pattern = re.compile(how)
    except re.error as error:
        raise DataError(f"{what} pattern {how!r}: {error}") from error
    if pattern.groups < 1:
        raise DataError(f"{what} pattern {how!r} has no group; put ( ) round the {what}, as in '([^/-]+)-'")

    def name(inside: Path) -> str:
        match = pattern.search(inside.as_posix())
        if not match or not match.group(1):
            raise DataError(f"{inside}: the {what} pattern {how!r} does not match")
        return match.group(1)

    return name


def from_folder(
    folder: str | Path,
    speaker: str = "folder",
    skipped: list[str] | None = None,
    label: str | None = None,
) -> DataDir:
    """Return any folder of audio, recursively, as a data directory.

    `speaker` (the kind, for noise) is "folder", the folder of the file; "file", each file its own; or a
    regular expression, searched in the path below `folder`, whose first group it is. Keys are SPEAKER-PATH,
    so that the order by utterance is the order by speaker, which Kaldi's tools need. `label` makes utt2label
    in the same ways. `skipped`: see `Collector`.
    """
    folder = Path(folder)
    speaker_of, label_of = _naming("speaker", speaker), _naming("label", label) if label else None
    found = Collector(folder, skipped)
    for path in audio_files(folder):
        inside = path.relative_to(folder)
        stem = as_key(str(inside.with_suffix("")))
        who = as_key(speaker_of(inside) or folder.resolve().name)
        key = stem if stem.startswith(who) else f"{who}-{stem}"
        found.add(key, who, path, (label_of(inside) or folder.resolve().name) if label_of else None)
    return found.finish()


def from_librispeech(folder: str | Path, skipped: list[str] | None = None) -> DataDir:
    """Return LibriSpeech as a data directory; `skipped`: see `Collector`.

    The layout is READER/CHAPTER/READER-CHAPTER-NUMBER.flac with .trans.txt beside, or flat folders.
    """
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
    """Return lhotse manifests (jsonl or jsonl.gz) as a data directory.

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


def to_lhotse(data: DataDir, folder: str | Path) -> list[Path]:
    """Write recordings.jsonl.gz and supervisions.jsonl.gz for lhotse; return the two paths."""
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
        facts = {"id": key, "sources": [source], "sampling_rate": info.rate, "num_samples": info.frames}
        recordings.append(facts | {"duration": durations[key], "channel_ids": channels})
    for utterance in data.utterances():
        end = durations[utterance.recording] if utterance.end is None else utterance.end
        item = {"id": utterance.key, "recording_id": utterance.recording, "start": utterance.start}
        item |= {"duration": round(end - utterance.start, 8), "channel": 0}
        if utterance.speaker is not None:
            item["speaker"] = utterance.speaker
        if utterance.key in data.tables.get("text", {}):
            item["text"] = data.tables["text"][utterance.key]
        supervisions.append(item)
    paths = []
    for name, items in (("recordings", recordings), ("supervisions", supervisions)):
        path = folder / f"{name}.jsonl.gz"
        with replacing(path) as part, gzip.open(part, "wt", encoding="utf-8") as out:
            out.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        paths.append(path)
    return paths
