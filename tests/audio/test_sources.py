"""audiomask.audio.sources: every way to name recordings finds them, once each."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import AudioError
from audiomask.audio.sources import find_audio


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A working folder with a.wav, sub/b.flac, sub/c.WAV, a hidden file and a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("in/a.wav", "in/sub/b.flac", "in/.hidden.wav"):
        sf.write(name, np.zeros(100), 16000)
    sf.write("in/sub/c.wav", np.zeros(100), 16000)
    Path("in/sub/c.wav").rename("in/sub/c.WAV")
    (tmp_path / "in" / "notes.txt").write_text("no sound")
    return tmp_path


def names(*inputs, **options):
    return [(s.path, s.relative) for s in find_audio(inputs, **options)]


def test_files_folders_globs_without_duplicates(tree):
    assert names("in/a.wav") == [("in/a.wav", "a.wav")]
    folder = [("in/a.wav", "a.wav"), ("in/sub/b.flac", "sub/b.flac"), ("in/sub/c.WAV", "sub/c.WAV")]
    assert names("in") == folder
    assert names("in", "in/a.wav") == folder
    assert names("in/**/*.flac") == [("in/sub/b.flac", "b.flac")]
    assert names("in", exclude="in/sub") == folder[:1]
    assert names("missing.wav") == [("missing.wav", "missing.wav")]
    assert names("y" * 5000) == [("y" * 5000, "y" * 5000)]


def test_a_file_whose_name_looks_like_a_pattern(tree):
    Path("in/a.wav").rename("in/a[1].wav")
    assert names("in/a[1].wav") == [("in/a[1].wav", "a[1].wav")]


def test_nothing_found(tree):
    (tree / "empty").mkdir()
    with pytest.raises(AudioError, match="empty: holds no audio files"):
        find_audio(["empty"])
    with pytest.raises(AudioError, match=r"in/\*\.mp3: matches no file"):
        find_audio(["in/*.mp3"])


def test_kaldi(tree):
    data = tree / "data"
    data.mkdir()
    (data / "wav.scp").write_text("utt1 in/a.wav\n\n../utt2 cat in/a.wav |\nutt3 moved.wav\n")
    sf.write(data / "moved.wav", np.zeros(10), 8000)
    found = find_audio(["data"], allow_pipes=True)
    assert [(s.key, s.relative, s.command) for s in found] == [
        ("utt1", "utt1.wav", False),
        ("../utt2", "_utt2.wav", True),
        ("utt3", "utt3.wav", False),
    ]
    assert found[2].path in (str(data / "moved.wav"), "data/moved.wav")
    assert [s.key for s in find_audio(["data/wav.scp"])] == [s.key for s in found]
    with found[1].open() as reader:
        assert reader.info.frames == 100
    refused = find_audio(["data"])[1]
    with pytest.raises(AudioError, match=r"utt2: is a shell command .*--allow-pipes"), refused.open():
        pass
    (data / "wav.scp").write_text("utt1\n")
    with pytest.raises(AudioError, match=r"wav\.scp:1: 'utt1' is not 'name path'"):
        find_audio(["data"])
    (data / "wav.scp").write_text("")
    with pytest.raises(AudioError, match="is empty"):
        find_audio(["data"])
    (data / "wav.scp").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AudioError, match="must be UTF-8"):
        find_audio(["data"])


def test_a_command_that_fails(tree):
    (tree / "x.scp").write_text("a echo oops >&2; exit 3 |\nb true |\nc echo no audio |\n")
    a, b, c = find_audio(["x.scp"], allow_pipes=True)
    with pytest.raises(AudioError, match=r"a: its command in the \.scp ended with 3 \(oops\)"), a.open():
        pass
    with pytest.raises(AudioError, match="b: is empty"), b.open():
        pass
    with pytest.raises(AudioError, match=r"^c: not audio"), c.open():
        pass


def test_standard_input(tree, monkeypatch):
    class Input:
        buffer = io.BytesIO((tree / "in" / "a.wav").read_bytes())

    monkeypatch.setattr(sys, "stdin", Input)
    (source,) = find_audio(["-"])
    with source.open() as reader:
        assert (reader.info.frames, reader.name) == (100, "standard input")
    Input.buffer = io.BytesIO(b"\1\2" * 1000)
    words = "standard input: not audio .* use: audiomask stream"
    with pytest.raises(AudioError, match=words), source.open():
        pass
