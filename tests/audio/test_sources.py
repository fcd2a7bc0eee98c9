"""audiomask.audio.sources: every way to name recordings finds them, once each."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.audio.sources import find_audio
from audiomask.data.kaldi.directory import DataDir


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
    words = "standard input: not audio .*; bare samples go through audiomask stream, or --raw"
    with pytest.raises(AudioError, match=words), source.open():
        pass


def tone(seconds, rate=16000):
    return (0.2 * np.sin(0.05 * np.arange(round(seconds * rate)))).astype(np.float32)


def test_segments_are_honoured(tmp_path):
    x = tone(3)
    for name in ("a.wav", "a.ogg", "a.flac"):
        audio.write(tmp_path / name, x, 16000)
    (tmp_path / "wav.scp").write_text("r a.wav\ns a.ogg\nt a.flac\n")
    lines = ["r1 r 0.5 1.25", "r2 r 2 3.4", "s1 s 1 2", "t1 t 0 -1", "t2 t 2.5 3"]
    (tmp_path / "segments").write_text("\n".join(lines) + "\n")
    whole = {name: audio.read(tmp_path / f"a.{name}")[0] for name in ("wav", "ogg", "flac")}
    found = find_audio([tmp_path])
    assert [source.relative for source in found] == ["r1.wav", "r2.wav", "s1.ogg", "t1.flac", "t2.flac"]
    wanted = [("wav", 8000, 20000), ("wav", 32000, 48000), ("ogg", 16000, 32000), ("flac", 0, 48000)]
    for source, (kind, start, stop) in zip(found, [*wanted, ("flac", 40000, 48000)], strict=True):
        with source.open() as reader:
            assert reader.info.frames == stop - start
            y = np.concatenate(list(reader.blocks(1000)), 1)
            assert not reader.notes
        assert np.array_equal(y, whole[kind][:, start:stop])
    for line, words in (("r9 r 3.1 3.2", "is not in its 3.00 s"), ("r9 r 2 3.6", "is not in its")):
        (tmp_path / "segments").write_text(line + "\n")
        (source,) = find_audio([tmp_path])
        with pytest.raises(AudioError, match=words), source.open():
            pass
    (tmp_path / "segments").write_text("r9 nobody 0 1\n")
    with pytest.raises(AudioError, match=r"segments:1: nobody is not in wav\.scp"):
        find_audio([tmp_path])
    for wrong in ("r9 r 0", "r9 r 2 1", "r9 r nan 1", "r9 r a b"):
        (tmp_path / "segments").write_text(wrong + "\n")
        with pytest.raises(AudioError, match=r"segments:1: .*; audiomask data fix drops it"):
            find_audio([tmp_path])


def test_archives_of_kaldi(tmp_path):
    x, blob, lines = tone(1), b"", []
    for i in (1, 2, 3):
        audio.write(tmp_path / "w.wav", i * x, 16000, overwrite=True)
        lines.append(f"u{i} wav.ark:{len(blob) + 3}\n")
        blob += f"u{i} ".encode() + (tmp_path / "w.wav").read_bytes()
    (tmp_path / "wav.ark").write_bytes(blob)
    (tmp_path / "wav.scp").write_text("".join(lines))
    for i, source in enumerate(find_audio([tmp_path]), 1):
        with source.open() as reader:
            assert np.abs(reader.read(16000) - i * x).max() < 1e-4
            assert (reader.info.frames, reader.read(1).shape) == (16000, (1, 0))
            assert not reader.notes
    data = DataDir.read(tmp_path)
    assert [len(data.load(u)[0][0]) for u in data.utterances()] == [16000] * 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0BFM \4\1\0\0\0", "features, no sound"),
        (b"\0B\4\5\0\0\0", "features, no sound"),
        (b" [ 1 2 ]", "no sound"),
        (b"NPY\1\x80", "an array of NumPy"),
        (b"PKL\x80\3", "a pickle"),
        (b"fLaC", "FLAC without its length"),
        (b"NIST_1A\n", "SPHERE"),
        (b"AUDIO\xff", "no sound"),
        (b"", "no sound"),
    ],
)
def test_what_is_no_sound_in_an_archive_is_named(tmp_path, content, words):
    (tmp_path / "a.ark").write_bytes(b"u1 " + content + bytes(100) * bool(content))
    with pytest.raises(AudioError, match=rf"a\.ark:3: holds {words}"):
        audio.read(tmp_path / "a.ark:3")


def in_audio(data):
    """An entry as kaldiio 2.18 writes it: the number of bytes of the length, then the length."""
    length = len(data).to_bytes((len(data).bit_length() + 7) // 8, "little")
    return b"AUDIO" + bytes([len(length)]) + length + data


@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg"])
def test_archives_of_files(tmp_path, suffix):
    """ESPnet's flac.ark: segments and data directories are read from it too."""
    x, blob, lines = tone(1), b"", []
    for i in (1, 2, 3):
        audio.write(tmp_path / f"w.{suffix}", i * x, 16000, overwrite=True)
        lines.append(f"u{i} all.ark:{len(blob) + 3}\n")
        blob += f"u{i} ".encode() + in_audio((tmp_path / f"w.{suffix}").read_bytes())
    (tmp_path / "all.ark").write_bytes(blob)
    (tmp_path / "wav.scp").write_text("".join(lines))
    (tmp_path / "segments").write_text("s1 u2 0.25 0.5\ns2 u3 0.5 -1\n")
    near = 0.05 if suffix == "ogg" else 1e-4
    for i in (1, 2, 3):
        y, rate = audio.read(tmp_path / lines[i - 1].split()[1])
        assert (y.shape, rate) == ((1, 16000), 16000)
        assert np.abs(y - i * x).max() < near
    first, second = find_audio([tmp_path])
    for source, want in ((first, 2 * x[4000:8000]), (second, 3 * x[8000:])):
        with source.open() as reader:
            assert np.abs(reader.read(16000) - want).max() < near
            assert not reader.notes
    data = DataDir.read(tmp_path)
    assert [data.load(u)[0].shape[1] for u in data.utterances()] == [4000, 8000]
    (tmp_path / "all.ark").write_bytes(blob[:-1000])  # the last one is cut
    if suffix == "wav":
        with audio.Reader(tmp_path / lines[2].split()[1]) as reader:
            list(reader.blocks())
            assert "truncated" in reader.notes[0]


@pytest.mark.peer
def test_kaldiio_writes_what_we_read(tmp_path):
    kaldiio = pytest.importorskip("kaldiio")
    samples = {f"u{i}": (16000, (tone(1) * i * 2**15).astype(np.int16)) for i in (1, 2)}
    for name, how in {
        "wav": {},
        "flac": {"write_function": "soundfile", "write_kwargs": {"format": "flac"}},
    }.items():
        scp = tmp_path / f"{name}.scp"
        kaldiio.save_ark(str(tmp_path / f"{name}.ark"), samples, scp=str(scp), **how)
        for source, (_, x) in zip(find_audio([scp]), samples.values(), strict=True):
            with source.open() as reader:
                np.testing.assert_array_equal(reader.read(20000)[0] * 2**15, x)


def test_linked_folders_are_searched_once_and_what_is_passed_over_is_named(tmp_path):
    (tmp_path / "in/far").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    for place in ("in/a.wave", "in/far/b.aifc", "else/c.bwf", "else/d.mp2", "else/e.m4a"):
        (tmp_path / place).write_bytes(b"")
    for place in ("in/notes.txt", "in/more.txt", "else/cover.jpg"):
        (tmp_path / place).write_bytes(b"")
    (tmp_path / "in/link").symlink_to(tmp_path / "else")
    (tmp_path / "in/round").symlink_to(tmp_path / "in")
    passed = []
    found = find_audio([tmp_path / "in"], passed=passed)
    assert [s.relative for s in found] == ["a.wave", "far/b.aifc", "link/c.bwf", "link/d.mp2", "link/e.m4a"]
    assert passed == [f"{tmp_path / 'in'}: passed over 3 files, no audio by their names: .txt (2), .jpg (1)"]
