"""audiomask detect: lines and JSON, in order; stretches, live too; never a false yes; always valid JSON."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from marking import KEY, speech, wav

from audiomask.cli.detect import _print
from audiomask.runtime.files.marked import Heard, listen
from audiomask.runtime.marks.carrier import Carrier
from audiomask.runtime.marks.detector import Detection
from audiomask.runtime.marks.report import LEAST_P
from audiomask.runtime.marks.search import fast_length
from audiomask.runtime.session import Session

KEYS = ["file", "present", "p", "message", "bits", "segments", "speed", "others", "seconds"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me.key").write_text(KEY)
    return tmp_path


@pytest.fixture
def detect(cli, here):
    return lambda *words: cli("detect", *words, "--key", "me.key")


def marked(x, message=0xBEEF, rate=16000):
    """Return sound `[T, C]` with a mark."""
    carrier = Carrier(bytes.fromhex(KEY)).wave(message)
    session = Session("hallmark", sample_rate=rate, channels=x.shape[1], controls={"carrier": carrier})
    return np.concatenate([np.atleast_2d(y) for y in (session.feed(x.T), session.flush())], 1).T


def entries(text):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_lines_and_json(detect, here):
    x = speech(2.5)
    sf.write("a.wav", marked(x), 16000)
    sf.write("b.wav", x, 16000)
    done = detect("b.wav", "a.wav")
    assert done.code == 0
    first, second = done.out.splitlines()
    assert first.startswith("b.wav: no mark (p = 0")
    assert second.startswith("a.wav: marked, message beef, p = ")
    assert second.endswith(", 0.0-2.5 s, speed 1")
    assert "2 files, 5.0 s of sound" in done.err
    done = detect("b.wav", "a.wav", "--json", "-q")
    assert (done.code, done.err) == (0, "")
    no, yes = entries(done.out)
    assert list(no) == list(yes) == KEYS
    assert no == {
        "file": "b.wav", "present": False, "p": no["p"], "message": None, "bits": [], "segments": [],
        "speed": None, "others": [], "seconds": 2.5,
    }  # fmt: skip
    assert 1e-6 < no["p"] < 1
    assert (yes["file"], yes["present"], yes["message"], yes["speed"]) == ("a.wav", True, "beef", 1)
    assert 0 < yes["p"] < 1e-30
    assert [bit for bit, sure in yes["bits"]] == [int(bit) for bit in f"{0xBEEF:016b}"]
    assert all(0.9 < sure <= 1 for bit, sure in yes["bits"])
    assert yes["segments"] == [[0, 2.5]]


def test_a_wrong_key_finds_nothing(detect, here):
    sf.write("a.wav", marked(speech()), 16000)
    Path("me.key").write_text("0" * 32)
    (fact,) = entries(detect("a.wav", "--json").out)
    assert not fact["present"]
    assert fact["p"] > 1e-6


def test_the_core_is_enough(here):
    """Without scipy, which the core does not install."""
    sf.write("a.wav", marked(speech(1.2)), 16000)
    program = "import sys; sys.modules['scipy'] = None; from audiomask.cli import main; sys.exit(main())"
    words = ["detect", "a.wav", "--key", "me.key", "--json"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert entries(done.stdout)[0]["message"] == "beef"


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000, 159_999, 160_000, 160_001, 163_841, 196_609, 262_145])
def test_lengths_for_the_transform(n):
    made = fast_length(n)
    assert n <= made < 1.4 * n + 1
    assert any(made % m == 0 and (made // m).bit_count() == 1 for m in (1, 3, 5))


def test_the_speed(detect, here):
    x = marked(speech(4))
    sf.write("fast.wav", soxr.resample(x, 16000 * 1.05, 16000), 16000)
    (fact,) = entries(detect("fast.wav", "--json").out)
    assert fact["message"] == "beef"
    assert fact["speed"] == pytest.approx(1.05, abs=1e-4)


@pytest.mark.parametrize(("made", "heard"), [(48000, 8000), (8000, 48000), (8000, 8000), (44100, 11025)])
def test_other_rates(detect, here, made, heard):
    sf.write("a.wav", soxr.resample(marked(speech(2, made), rate=made), made, heard), heard)
    (fact,) = entries(detect("a.wav", "--json").out)
    assert (fact["message"], fact["speed"]) == ("beef", pytest.approx(1, abs=1e-4))
    assert fact["p"] < 1e-20


def test_several_messages(detect, here):
    x = speech(6)
    sf.write("a.wav", np.concatenate([marked(x, 1), marked(x, 2)]), 16000)
    (fact,) = entries(detect("a.wav", "--json").out)
    assert [fact["message"], *fact["others"]] in (["0001", "0002"], ["0002", "0001"])
    assert f"other messages {fact['others'][0]}" in detect("a.wav").out


def test_the_order_is_that_of_the_inputs(detect, here):
    names = [f"in/{n}.wav" for n in "cab"]
    for name, seconds in zip(names, (3, 1, 2), strict=True):
        wav(name, seconds)
    (here / "bad.wav").write_bytes(b"no sound")
    done = detect(names[0], "bad.wav", names[1], "none.wav", names[2], "in", "--json", "-j", "4")
    assert done.code == 1
    assert [fact["file"] for fact in entries(done.out)] == names
    assert "2 of 5 failed" in done.err
    assert "error: bad.wav: not audio" in done.err
    assert "error: none.wav: no such file" in done.err
    done = detect("in", "--json", "-q")
    assert [fact["file"] for fact in entries(done.out)] == sorted(names)


def test_lists(detect, here):
    sf.write("data.wav", np.concatenate([speech(2), marked(speech(2))]), 16000)
    (here / "kaldi").mkdir()
    Path("kaldi/wav.scp").write_text("rec ../data.wav\n")
    Path("kaldi/segments").write_text("u1 rec 0 2\nu2 rec 2 4\n")
    facts = entries(detect("kaldi", "--json").out)
    assert [(fact["file"], fact["message"]) for fact in facts] == [("u1", None), ("u2", "beef")]


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 2), (44100, 2)])
def test_stretches(detect, here, rate, channels):
    x = speech(4, rate)
    x = np.repeat(np.concatenate([x, marked(x, rate=rate)]), channels, 1)
    sf.write("a.wav", x, rate, subtype="FLOAT")
    done = detect("a.wav", "--json", "--every", "3")
    *parts, whole = entries(done.out)
    assert list(parts[0]) == ["file", "from", "to", *KEYS[1:]]
    assert list(whole) == KEYS
    assert [(part["from"], part["to"]) for part in parts] == [(0, 3), (3, 6), (6, 8)]
    assert [part["message"] for part in parts] == [None, "beef", "beef"]
    ((start, end),) = parts[1]["segments"]
    assert start == pytest.approx(4, abs=0.2)
    assert end == pytest.approx(6, abs=0.1)
    assert whole["message"] == "beef"
    lines = detect("a.wav", "--every", "3").out.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("a.wav, 6.0-8.0 s: marked, message beef, p = ")


@pytest.mark.parametrize("every", ["0", "0.5", "nan", "x"])
def test_stretches_need_a_second(detect, here, every):
    assert detect("a.wav", "--every", every).code == 2


def test_blocks_do_not_matter():
    x = marked(speech(4))[:, 0]
    key, pieces = bytes.fromhex(KEY), [[x], np.split(x, np.arange(777, len(x), 777))]
    one, other = ([h.entry("") for h in listen((p[None] for p in ps), key, 16000, 1, 1.5)] for ps in pieces)
    assert one == other
    assert [entry.get("to") for entry in one] == [1.5, 3, 4, None]


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.zeros(32000), "is silent, and there is no mark in silence"),
        (np.zeros(1), "is silent"),
        (marked(speech(0.8))[:, 0], "is 0.80 s long, and no mark can be found in less than 1 s"),
        (np.array([0.5]), "is 0.00 s long"),
        (np.ones(32000), ""),
        (np.sin(np.arange(32000)), ""),
        (np.sign(np.sin(2 * np.pi * 50 * np.arange(32000) / 16000)), ""),
        (np.full(32000, np.nan), "samples were NaN"),
        (np.array([np.inf, 1e38, -1e38, 0] * 8000), "samples were NaN or infinite"),
        (1e-38 * np.ones(32000), ""),
    ],
    ids=["silence", "one-zero", "short", "one-sample", "direct", "tone", "square", "nan", "huge", "tiny"],
)
def test_never_a_false_yes(detect, here, x, text):
    sf.write("a.wav", x, 16000, subtype="FLOAT")
    done = detect("a.wav", "--json", "--every", "1")
    assert done.code == 0
    assert all(not fact["present"] and 1e-6 < fact["p"] <= 1 for fact in entries(done.out))
    assert f"warning: a.wav: {text}" in done.err if text[:2] == "is" else text in done.err
    assert ("warning" in done.err) == bool(text)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["a.wav"], 2, "--key"),
        (["--key", "me.key"], 2, "INPUT"),
        (["a.wav", "--key", "no.key"], 1, "no.key: no key can be read there"),
        (["a.wav", "--key", "me.key", "--rate", "8000"], 2, "--rate: is of bare samples; give --raw"),
        (["a.wav", "--key", "me.key", "--raw", "s16le"], 2, "--raw: is for standard input alone"),
        (["-", "--key", "me.key", "--raw", "s16le", "--ray", "local"], 2, "--ray: takes files"),
        (["empty", "--key", "me.key"], 1, "empty: holds no audio files"),
    ],
)
def test_wrong_usage(cli, here, words, code, text):
    (here / "empty").mkdir()
    done = cli("detect", *words)
    assert (done.code, done.out) == (code, "")
    assert text in done.err


# --- pipes --------------------------------------------------------------------------------------------------


def piped(*words, **how):
    return subprocess.Popen(
        [sys.executable, "-m", "audiomask", "detect", "-", "--key", "me.key", "--json", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, **how,
    )  # fmt: skip


def test_a_live_pipe_says_so_at_once(here):
    process = piped("--raw", "f32le", "--rate", "48000", "--channels", "2", "--every", "1.5")
    x = np.repeat(speech(3.5, 48000), 2, 1)
    x[200_000 // 2 :: 1000] = np.nan  # from 2.08 s on
    data = x.astype("<f4").tobytes()
    process.stdin.write(data[: 8 * 80000])
    (first,) = entries(process.stdout.readline().decode())  # while the input goes on
    assert (first["file"], first["from"], first["to"], first["present"]) == ("standard input", 0, 1.5, False)
    out, err = process.communicate(data[8 * 80000 :], timeout=60)
    assert process.returncode == 0, err
    assert [fact.get("to") for fact in entries(out.decode())] == [3, 3.5, None]
    assert b"samples were NaN or infinite and were set to 0" in err
    assert b"Warning" not in err


def test_a_stream_that_is_ended_by_sigterm(here):
    process = piped("--raw", "s16le", "--every", "1")
    x = np.rint(32767 * marked(speech(2.5))).astype("<i2").tobytes()
    process.stdin.write(x)
    lines = [process.stdout.readline() for _ in range(2)]
    while fcntl.ioctl(process.stdin, termios.FIONREAD, b"1234") != bytes(4):  # something is not read yet
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    lines += process.stdout.readlines()
    assert process.wait(timeout=60) == 143
    facts = entries(b"".join(lines).decode())
    assert [fact.get("to") for fact in facts] == [1, 2, 2.5, None]
    assert facts[-1]["message"] == "beef"
    process.stdin.close()


def test_a_file_through_a_pipe(here):
    sf.write("a.flac", marked(speech()), 16000)
    process = piped()
    out, err = process.communicate(Path("a.flac").read_bytes(), timeout=60)
    assert process.returncode == 0, err
    assert [(fact["file"], fact["message"]) for fact in entries(out.decode())] == [("standard input", "beef")]


@pytest.mark.parametrize(
    ("data", "words", "text"),
    [
        (b"", ["--raw", "s16le"], b"standard input: is empty"),
        (b"", [], b"standard input: is empty"),
        (b"\x01\x02" * 3000, [], b"bare samples go through audiomask stream, or --raw"),
        (b"RIFF\0\0\0\0WAVEfmt ", ["--raw", "s16le"], b"begins like a file"),
    ],
)
def test_bad_pipes(here, data, words, text):
    process = piped(*words)
    out, err = process.communicate(data, timeout=60)
    assert (process.returncode, out) == (1, b"")
    assert text in err


# --- JSON ---------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.floats(0, 1), st.floats(0, 1, width=32).map(np.float32), st.just(0.0), st.just(5e-324))
TIMES = st.floats(0, 1e6)
DETECTIONS = st.builds(
    Detection,
    present=st.booleans() | st.booleans().map(np.bool_),
    p=NUMBERS,
    message=st.none() | st.integers(0, 65535) | st.integers(0, 65535).map(np.int64),
    bits=st.lists(st.tuples(st.integers(0, 1), NUMBERS), max_size=16),
    segments=st.lists(st.tuples(TIMES, TIMES.map(np.float64)), max_size=9),
    speed=st.none() | st.floats(0.5, 2),
    others=st.lists(st.integers(0, 65535), max_size=3),
)
NAMES = st.text() | st.binary().map(os.fsdecode)


@settings(max_examples=100, deadline=None)
@given(found=DETECTIONS, stretch=st.none() | st.tuples(TIMES, TIMES), name=NAMES)
def test_json_is_always_valid(found, stretch, name):
    import contextlib
    import io
    from argparse import Namespace

    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    with contextlib.redirect_stdout(out):
        _print(Namespace(json=True), name, Heard(found, False, *(stretch or (None, None))))
    text = out.buffer.getvalue().decode()
    assert text.count("\n") == 1
    (fact,) = entries(text)
    assert set(fact) - {"from", "to"} == set(KEYS)
    assert ("from" in fact) == (stretch is not None)
    assert fact["file"] == name
    assert type(fact["present"]) is bool
    assert LEAST_P <= fact["p"] <= 1
    assert math.isfinite(fact["p"])
    for message in [fact["message"], *fact["others"]]:
        assert message is None or (len(message) == 4 and set(message) <= set("0123456789abcdef"))
    assert all(bit in (0, 1) and 0 <= sure <= 1 for bit, sure in fact["bits"])
    assert len(fact["segments"]) == len(found.segments)
    Heard(found, False).line("a.wav").encode()
