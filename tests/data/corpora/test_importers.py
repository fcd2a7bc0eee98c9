"""Corpora as they lie on disk become sound data directories; lhotse manifests go both ways."""

import gzip
import json

import numpy as np
import pytest

from audiomask import audio
from audiomask.data.corpora.folder import read as from_folder
from audiomask.data.corpora.lhotse import read as from_lhotse
from audiomask.data.corpora.lhotse import write as to_lhotse
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.kaldi.directory import DataDir, DataError
from audiomask.data.kaldi.health import validate


def sound(path, seconds=0.5, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, np.random.default_rng(0).standard_normal(round(seconds * rate)) * 0.1, rate)


def sound_directory(data, tmp_path):
    data.write(tmp_path / "out")
    assert validate(tmp_path / "out") == []
    return DataDir.read(tmp_path / "out")


def test_folder_by_folder_file_and_pattern(tmp_path):
    for name in ("rain/a b.wav", "rain/c.flac", "wind/a b.wav", "top.wav"):
        sound(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    data = sound_directory(from_folder(tmp_path / "in"), tmp_path)
    assert data.tables["utt2spk"] == {
        "in-top": "in",
        "rain_a_b": "rain",
        "rain_c": "rain",
        "wind_a_b": "wind",
    }
    assert len(from_folder(tmp_path / "in", speaker="file").speakers) == 4
    assert from_folder(tmp_path / "in", speaker=r"([a-z])[^/]*\.\w+$").speakers == ["a", "c", "t"]
    for pattern, message in {"nomatch(x)": "does not match", "rain": "has no group", "(": "missing"}.items():
        with pytest.raises(DataError, match=message):
            from_folder(tmp_path / "in", speaker=pattern)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no audio files"):
        from_folder(tmp_path / "empty")
    with pytest.raises(DataError, match="no such folder"):
        from_folder(tmp_path / "nowhere")


def test_two_files_with_one_key_are_refused(tmp_path):
    sound(tmp_path / "in" / "x" / "a.wav")
    sound(tmp_path / "in" / "x" / "a.flac")
    with pytest.raises(DataError, match="same key x_a"):
        from_folder(tmp_path / "in")


def test_librispeech_with_transcripts(tmp_path):
    for name in ("19/198/19-198-0000.flac", "19/198/19-198-0001.flac", "26/495/26-495-0000.flac"):
        sound(tmp_path / "in" / name)
    (tmp_path / "in/19/198/19-198.trans.txt").write_text("19-198-0000 HELLO WORLD\n19-198-0001 AGAIN\n")
    with pytest.raises(DataError, match="1 utterances have no transcript"):
        from_librispeech(tmp_path / "in")
    (tmp_path / "in/26/495/26-495.trans.txt").write_text("26-495-0000 THE END\n")
    data = sound_directory(from_librispeech(tmp_path / "in"), tmp_path)
    assert data.tables["spk2utt"] == {"19": "19-198-0000 19-198-0001", "26": "26-495-0000"}
    assert data.tables["text"]["19-198-0000"] == "HELLO WORLD"
    sound(tmp_path / "in" / "other.wav")
    with pytest.raises(DataError, match="not a LibriSpeech name"):
        from_librispeech(tmp_path / "in")


@pytest.mark.parametrize("segmented", [False, True])
def test_lhotse_there_and_back(tmp_path, segmented):
    sound(tmp_path / "r1.wav", 1.0)
    sound(tmp_path / "r2.wav", 0.5)
    tables = {
        "wav.scp": {r: str(tmp_path / f"{r}.wav") for r in ("r1", "r2")},
        "reco2dur": {"r1": "1.0000", "r2": "0.5000"},
    }
    if segmented:
        tables["segments"] = {"u1": "r1 0.2500 0.7500", "u2": "r2 0.0000 0.5000"}
    utterances = ("u1", "u2") if segmented else ("r1", "r2")
    tables["utt2spk"] = dict.fromkeys(utterances, "anna")
    tables["spk2utt"] = {"anna": " ".join(utterances)}
    tables["text"] = dict(zip(utterances, ("good morning", "grüß Gott"), strict=True))
    recordings, supervisions = to_lhotse(DataDir(tables), tmp_path / "manifests")
    item = json.loads(gzip.decompress(recordings.read_bytes()).splitlines()[0])
    assert (item["sampling_rate"], item["num_samples"], item["channel_ids"]) == (16000, 16000, [0])
    assert from_lhotse(recordings, supervisions=supervisions).tables == tables


def test_lhotse_faults_are_named(tmp_path):
    manifest = tmp_path / "recordings.jsonl"
    manifest.write_text('{"id": "a"}\n{"recording": 1}\n')
    with pytest.raises(DataError, match="a: need exactly one source"):
        from_lhotse(manifest)
    manifest.write_text("{broken\n")
    with pytest.raises(DataError, match="cannot read as lhotse"):
        from_lhotse(manifest)
    manifest.write_text("[1]\n")
    with pytest.raises(DataError, match=":1: not an object with an id"):
        from_lhotse(manifest)
    with pytest.raises(DataError, match="cannot read as lhotse"):
        from_lhotse(tmp_path / "none.jsonl.gz")
    with pytest.raises(DataError, match="x is a pipe"):
        to_lhotse(DataDir({"wav.scp": {"x": "cat x |"}}), tmp_path / "out")
