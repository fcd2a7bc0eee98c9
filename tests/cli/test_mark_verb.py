"""audiomask mark: what goes in comes out marked, whatever the format; keys; tables of messages; errors."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
from marking import KEY, wav

from audiomask.audio import read
from audiomask.runtime.files.marked import parse_message
from audiomask.runtime.marks.carrier import read_key


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me.key").write_text(KEY + "\n")
    return tmp_path


@pytest.fixture
def mark(cli, here):
    return lambda *words: cli("mark", *words, "--key", "me.key")


@pytest.fixture
def detected(cli, here):
    """``detected(*files)``: file: message of each."""

    def call(*words, key="me.key"):
        done = cli("detect", *words, "--key", key, "--json", "-q")
        assert (done.code, done.err) == (0, "")
        facts = [json.loads(line) for line in done.out.splitlines()]
        assert all(fact["present"] == (fact["message"] is not None) for fact in facts)
        return {fact["file"]: fact["message"] for fact in facts}

    return call


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("a.wav", 8000, 1),
        ("a.flac", 16000, 2),
        ("a.ogg", 22050, 1),
        ("a.wav", 44100, 1),
        ("a.flac", 44100, 2),
        ("a.wav", 48000, 2),
        ("a.opus", 48000, 1),
    ],
)
def test_there_and_back(mark, detected, name, rate, channels):
    how = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    x = wav(name, rate=rate, channels=channels, **how)
    done = mark(name, "-o", f"out{name[1:]}", "--message", "BEEF")
    assert done.code == 0, done.err
    assert "model hallmark: 1" in done.err
    before, after = sf.info(name), sf.info(f"out{name[1:]}")
    for what in ("samplerate", "channels", "format", "subtype"):
        assert getattr(after, what) == getattr(before, what)
    assert detected(f"out{name[1:]}", name) == {f"out{name[1:]}": "beef", name: None}
    y = read(f"out{name[1:]}")[0].T
    assert y.shape == x.shape
    noise = np.square(y - x).mean()
    assert 20 < 10 * np.log10(np.square(x).mean() / noise) < 60
    Path("other.key").write_text("f" * 32)
    assert detected(f"out{name[1:]}", key="other.key") == {f"out{name[1:]}": None}


def test_a_film_keeps_its_picture(mark, detected, here):
    pytest.importorskip("av", reason="needs av: pip install 'audiomask[media]'")
    wav("a.wav", rate=48000)
    assert mark("a.wav", "-o", "a.mp4", "--message", "1").code == 0
    assert mark("a.mp4", "-o", "b.mp4", "--message", "1", "-f").code == 0
    assert detected("b.mp4") == {"b.mp4": "0001"}


def test_keys(cli, here):
    done = cli("mark", "--new-key", "new.key")
    assert (done.code, done.out) == (0, "")
    assert stat.S_IMODE(Path("new.key").stat().st_mode) == 0o600
    text = Path("new.key").read_text()
    assert (len(text), text[-1]) == (33, "\n")
    assert read_key("new.key") == bytes.fromhex(text)
    done = cli("mark", "--new-key", "new.key")
    assert done.code == 1
    assert "new.key: exists already, and without an old key" in done.err
    assert Path("new.key").read_text() == text
    Path("new.key").chmod(0o644)
    assert cli("mark", "--new-key", "new.key", "-f", "-q").err == ""
    assert Path("new.key").read_text() != text
    assert stat.S_IMODE(Path("new.key").stat().st_mode) == 0o600
    assert cli("mark", "--new-key", "none/new.key").code == 1
    assert "leave out a.wav" in cli("mark", "a.wav", "--new-key", "b.key").err
    assert sorted(path.name for path in here.iterdir()) == ["me.key", "new.key"]


def test_a_key_is_whole_or_absent(cli, here, monkeypatch):
    def full(self, *given):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    done = cli("mark", "--new-key", "new.key")
    assert done.code == 1
    assert "No space left" in done.err
    assert not list(here.glob("*new.key*"))


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--message", "1"], 2, "say by which key with --key FILE; audiomask mark --new-key FILE makes one"),
        (["--key", "me.key"], 2, "--message HEX, or --messages FILE"),
        (["--key", "me.key", "--message", "xyz"], 2, "'xyz' is no message: 1 to 4 hex digits, as in beef"),
        (["--key", "me.key", "--message", "12345"], 2, "'12345' is no message"),
        (["--key", "me.key", "--message", ""], 2, "'' is no message"),
        (["--key", "me.key", "--message", "1", "--messages", "t"], 2, "not allowed with"),
        (["--key", "me.key", "--messages", "t"], 1, "t: cannot be read"),
        (["--key", "no.key", "--message", "1"], 1, "no.key: no key can be read there (No such file"),
        (["--key", ".", "--message", "1"], 1, ".: no key can be read there"),
        (["--key", "a.wav", "--message", "1"], 1, "a.wav: no key, which is 32 hex digits"),
        (["--key", "short.key", "--message", "1"], 1, "short.key: no key, which is 32 hex digits"),
        (["--key", "me.key", "--message", "1", "--strength", "9"], 1, "strength = 9.0 is outside 0.0 to 4.0"),
        (["--key", "me.key", "--message", "1", "-m", "sieve"], 1, "takes no carrier of this kind of mark"),
        (["--key", "me.key", "--message", "1", "--channels", "2"], 2, "--channels: is of bare samples"),
        (["--key", "me.key", "--message", "1", "--raw", "s16le"], 2, "--raw: is for standard input"),
    ],
)
def test_wrong_usage(cli, here, words, code, text):
    wav("a.wav", 0.1)
    Path("short.key").write_text(KEY[:31])
    done = cli("mark", "a.wav", "-o", "b.wav", *words)
    assert done.code == code, done.err
    assert text in done.err
    assert not Path("b.wav").exists()


def test_nothing_to_mark(cli, here):
    done = cli("mark", "--message", "1", "--key", "me.key")
    assert done.code == 2
    assert "name what is to be marked" in done.err
    assert cli("mark", "none.wav", "-o", "b.wav", "--message", "1", "--key", "me.key").code == 1


@pytest.mark.parametrize(
    ("text", "message"), [("0", 0), ("f", 15), ("BEEF", 0xBEEF), ("0x7a", 0x7A), ("0X07A", 0x7A)]
)
def test_messages_are_hex(text, message):
    assert parse_message(text) == message


@pytest.mark.parametrize("text", ["", "0x", "-1", "+1", " 1", "1 ", "1_0", "g", "00001", "１"])
def test_what_is_no_message(text):
    with pytest.raises(ValueError, match="is no message"):
        parse_message(text)


def test_a_folder_by_a_table(mark, detected, here):
    for name in ("in/one.wav", "in/deep/two.wav", "in/three.wav", "in/deep/one.wav"):
        wav(name, 1.2)
    Path("t.txt").write_text("one 1\r\ndeep/two.wav 0x2\nthree.wav\tCAFE\ndeep/one.wav 4\n")
    done = mark("in", "-o", "out", "--messages", "t.txt", "-j", "2")
    assert done.code == 0, done.err
    assert detected("out") == {
        "out/one.wav": "0001", "out/deep/two.wav": "0002", "out/three.wav": "cafe", "out/deep/one.wav": "0004"
    }  # fmt: skip
    Path("t.txt").write_text("one 1\n")
    done = mark("in", "-o", "again", "--messages", "t.txt")
    assert done.code == 1
    assert "2 of 4 failed" in done.err
    assert "error: in/three.wav: t.txt has no message for it; add a line: three HEX" in done.err
    assert [path.name for path in sorted(Path("again").rglob("*.wav"))] == ["one.wav", "one.wav"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("one\n", "t.txt:1: 'one' is not 'NAME HEX'"),
        ("one 1\n\none 2\n", "t.txt:3: one appears twice"),
        ("one beefs\n", "t.txt:1: 'beefs' is no message"),
    ],
)
def test_bad_tables(mark, here, text, why):
    wav("one.wav", 0.1)
    Path("t.txt").write_text(text)
    done = mark("one.wav", "-o", "out.wav", "--messages", "t.txt")
    assert done.code == 1
    assert why in done.err


def test_a_data_directory(mark, detected, cli, here):
    wav("data/long.wav", 4)
    Path("data/wav.scp").write_text("rec long.wav\n")
    Path("data/segments").write_text("rec-1 rec 0 1.5\nrec-2 rec 2 3.5\n")
    Path("t.txt").write_text("rec-1 1\nrec-2 2\n")
    assert mark("data", "-o", "out", "--messages", "t.txt").code == 0
    assert Path("out/wav.scp").read_text() == "rec-1 out/rec-1.wav\nrec-2 out/rec-2.wav\n"
    assert detected("out/wav.scp") == {"rec-1": "0001", "rec-2": "0002"}
    Path("cat.scp").write_text("piped cat data/long.wav |\n")
    assert "--allow-pipes runs it" in mark("cat.scp", "-o", "p", "--message", "1").err
    assert mark("cat.scp", "-o", "p", "--message", "1", "--allow-pipes").code == 0
    assert detected("p/piped.wav") == {"p/piped.wav": "0001"}


def test_what_nobody_will_find_is_said(mark, here):
    sf.write("silent.wav", np.zeros(32000), 16000)
    wav("short.wav", 0.7)
    wav("loud.wav", 1.5)
    x, rate = sf.read("loud.wav")
    sf.write("loud.wav", np.clip(4 * x / np.abs(x).max(), -1, 1), rate)
    done = mark("silent.wav", "short.wav", "loud.wav", "-o", "out", "--message", "1")
    assert done.code == 0
    assert "warning: silent.wav: is silent, and there is no mark in silence" in done.err
    assert "warning: short.wav: is 0.70 s long, and no mark can be found in less than 1 s" in done.err
    assert "out/loud.wav: " in done.err
    assert "samples beyond full scale" in done.err
    assert not read("out/silent.wav")[0].any()
    assert len(done.err.splitlines()) == 4


def test_strength(mark, here):
    x = wav("a.wav", 1.2, subtype="FLOAT").T
    made = {}
    for strength in ("0", "0.5", "1"):
        assert mark("a.wav", "-o", f"{strength}.wav", "--message", "1", "--strength", strength).code == 0
        made[strength] = read(f"{strength}.wav")[0] - x
    assert not made["0"].any()
    np.testing.assert_allclose(2 * made["0.5"], made["1"], atol=1e-6)
    assert mark("a.wav", "--message", "1").code == 0
    np.testing.assert_array_equal(read("a_mark.wav")[0] - x, made["1"])


def test_a_file_through_a_pipe(mark, detected, here, monkeypatch):
    wav("a.flac")
    with Path("a.flac").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        assert mark("-", "-o", "b.wav", "--message", "ab").code == 0
    assert detected("b.wav") == {"b.wav": "00ab"}
    words = ["mark", "-", "--message", "ab", "--key", "me.key"]
    with Path("a.flac").open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "audiomask", *words], stdin=file, capture_output=True, check=True
        )
    Path("c.wav").write_bytes(done.stdout)
    np.testing.assert_array_equal(read("b.wav")[0], read("c.wav")[0])


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2)])
def test_bare_samples_are_marked_as_they_come(mark, here, rate, channels):
    x = wav("a.wav", 2, rate, channels, subtype="FLOAT")
    assert mark("a.wav", "-o", "b.wav", "--message", "ab").code == 0
    words = ["--raw", "f32le", "--rate", rate, "--channels", channels, "--message", "ab", "--key", "me.key"]
    process = subprocess.Popen(
        [sys.executable, "-m", "audiomask", "mark", "-", *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    data, late = x.astype("<f4").tobytes(), 4 * channels * round(0.06 * rate)
    y, block = b"", 50_000  # less than what pipes hold
    for at in (0, block):
        process.stdin.write(data[at : at + block])
        while len(y) < at + block - late:  # it does not wait for more
            y += process.stdout.read(65536)
    rest, err = process.communicate(data[2 * block :], timeout=60)
    assert process.returncode == 0, err
    y = np.frombuffer(y + rest, "<f4").reshape(-1, channels).T
    np.testing.assert_allclose(y, read("b.wav")[0], atol=1e-5)
    assert f"hallmark, {rate} Hz, {channels} channels, f32le; latency 4" in err.decode()


@pytest.mark.parametrize(
    "words",
    [
        ["enhance", "a.wav", "-o", "b.wav"],
        ["conceal", "a.wav", "-o", "b.wav"],
        ["enhance", "a.wav", "-o", "b.wav", "--set", "strength=1"],
    ],
)
def test_other_verbs_name_this_one(cli, here, words):
    """Without a carrier it would add nothing, and nobody would notice."""
    wav("a.wav", 0.1)
    done = cli(*words, "-m", "hallmark")
    assert done.code == 2
    assert "its task is mark: see audiomask mark --help" in done.err
    assert not Path("b.wav").exists()


def test_the_pipe_of_other_models_names_this_verb(here):
    done = subprocess.run(
        [sys.executable, "-m", "audiomask", "stream", "-m", "hallmark"],
        input=b"\0" * 320,
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"its task is mark: see audiomask mark --help" in done.stderr


def test_a_control_without_a_default_has_to_be_given(cli, here, toys):
    meta = toys.document()
    meta["inputs"][1]["default"] = None
    toys.build(here / "toy.onnx", metadata=json.dumps(meta))
    wav("a.wav", 0.1)
    done = cli("enhance", "a.wav", "-o", "b.wav", "-m", "toy.onnx")
    assert done.code == 2
    assert "toy: cannot run without its control strength; give --set strength=VALUE" in done.err
    assert cli("enhance", "a.wav", "-o", "b.wav", "-m", "toy.onnx", "--strength", "0.5").code == 0
