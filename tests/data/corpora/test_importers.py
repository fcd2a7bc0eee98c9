"""Corpora as they lie on disk become sound data directories; lhotse manifests go both ways."""

import gzip
import json

import numpy as np
import pytest
from corpus_trees import put

from audiomask.data.corpora.folder import read as from_folder
from audiomask.data.corpora.lhotse import read as from_lhotse
from audiomask.data.corpora.lhotse import write as to_lhotse
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.kaldi.directory import DataDir, DataError

NOISE = np.random.default_rng(0).standard_normal(16000) * 0.1


def test_folder_by_folder_file_and_pattern(tmp_path, sound):
    for name in ("rain/a b.wav", "rain/c.flac", "wind/a b.wav", "top.wav"):
        put(tmp_path / "in" / name, NOISE)
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    data = sound({"": from_folder(tmp_path / "in")})[""]
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
    put(tmp_path / "in" / "x" / "a.wav", NOISE)
    put(tmp_path / "in" / "x" / "a.flac", NOISE)
    with pytest.raises(DataError, match="same key x_a"):
        from_folder(tmp_path / "in")


def test_librispeech_with_transcripts(tmp_path, sound):
    for name in ("19/198/19-198-0000.flac", "19/198/19-198-0001.flac", "26/495/26-495-0000.flac"):
        put(tmp_path / "in" / name, NOISE)
    (tmp_path / "in/19/198/19-198.trans.txt").write_text("19-198-0000 HELLO WORLD\n19-198-0001 AGAIN\n")
    with pytest.raises(DataError, match="1 utterances have no transcript"):
        from_librispeech(tmp_path / "in")
    (tmp_path / "in/26/495/26-495.trans.txt").write_text("26-495-0000 THE END\n")
    data = sound({"": from_librispeech(tmp_path / "in")})[""]
    assert data.tables["spk2utt"] == {"19": "19-198-0000 19-198-0001", "26": "26-495-0000"}
    assert data.tables["text"]["19-198-0000"] == "HELLO WORLD"
    put(tmp_path / "in" / "other.wav", NOISE)
    with pytest.raises(DataError, match="not a LibriSpeech name"):
        from_librispeech(tmp_path / "in")


@pytest.mark.parametrize("segmented", [False, True])
def test_lhotse_there_and_back(tmp_path, segmented):
    put(tmp_path / "r1.wav", NOISE)
    put(tmp_path / "r2.wav", NOISE[:8000])
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
