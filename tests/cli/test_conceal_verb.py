"""audiomask conceal: what is lost, what is written, what is said; files as in enhance."""

import json
from pathlib import Path

import concealer
import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import read
from audiomask.masks.packets import write_trace
from audiomask.runtime import catalogue
from audiomask.runtime.packets.classical import repeat_pitch


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wav(path, channels=1, samples=8000, rate=16000, seed=0):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    x = (0.1 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)
    sf.write(path, x.T, rate, subtype="FLOAT")
    return x


@pytest.fixture
def trace(here):
    """A file ``trace.txt`` for 8000 samples at 16 kHz, and its flags, one for each sample."""
    lost = np.isin(np.arange(25), [3, 7, 8, 20])
    write_trace("trace.txt", lost)
    return np.repeat(lost, 320)


def test_a_trace(here, cli, repeat16, trace):
    """What arrived comes out bit for bit; what was left, and what was lost, are there to look at."""
    x = wav("a.wav", 2)
    words = ("-m", repeat16, "--loss", "trace.txt", "--write-lossy", "--report", "r.json")
    done = cli("conceal", "a.wav", "-o", "out/", *words)
    assert done.code == 0, done.err
    assert np.array_equal(read("out/a.wav")[0], concealer.repeat(x, trace))
    assert np.array_equal(read("out/a_lossy.wav")[0], np.where(trace, 0, x))
    assert "lost 16.0% of 25 packets of 20 ms in 3 bursts (3 to 120 ms), 27 ms in the mean, 40 ms" in done.err
    (facts,) = json.loads(Path("r.json").read_text())
    assert facts == {
        "input": "a.wav",
        "output": "out/a.wav",
        "packets": 25,
        "loss_rate": 0.16,
        "mean_burst": pytest.approx(4 / 3),
        "longest_burst": 2,
        "bursts": {"1": 2, "2": 1},
    }
    again = cli("conceal", "a.wav", "-o", "out/", *words)
    assert (again.code, "r.json: exists already; give -f" in again.err) == (1, True)
    assert cli("conceal", "a.wav", "-o", "out/", *words, "-f", "-q").err == ""


def test_without_loss_zeros_are_what_is_missing(here, cli, repeat16, trace):
    x = wav("a.wav")
    sf.write("lossy.wav", np.where(trace, 0, x).T, 16000, subtype="FLOAT")
    done = cli("conceal", "lossy.wav", "-o", "out.wav", "-m", repeat16)
    assert done.code == 0
    assert np.array_equal(read("out.wav")[0], concealer.repeat(x, trace))
    assert "lost 16.0% of 25 packets" in done.err
    assert cli("conceal", "a.wav", "-m", repeat16).code == 0
    assert np.array_equal(read("a_concealed.wav")[0], x)
    blind = cli("conceal", "a.wav", "-o", "b.wav", "-m", repeat16, "--loss", "trace.txt", "--blind")
    assert blind.code == 0
    assert np.array_equal(read("b.wav")[0], concealer.repeat(x, trace))


def test_a_model_that_is_not_told(here, cli, toy16, toys, trace):
    x = wav("a.wav")
    assert cli("conceal", "a.wav", "-o", "b.wav", "-m", toy16, "--loss", "trace.txt").code == 0
    assert np.abs(read("b.wav")[0] - toys.lowpass(np.where(trace, 0, x))).max() < 1e-6


def test_classical_methods(here, cli, trace):
    x = wav("a.wav", 2)
    for name in ("zero", "repeat", "g711"):
        words = (
            "-m",
            name,
            "--loss",
            "trace.txt",
            "--filename",
            "{stem}_{source}_{model}.{ext}",
            "-o",
            "out/",
        )
        assert cli("conceal", "a.wav", *words).code == 0
    assert np.array_equal(read("out/a_concealed_zero.wav")[0], np.where(trace, 0, x))
    y = read("out/a_concealed_repeat.wav")[0]
    assert np.array_equal(y, concealer.repeat(x, trace) + np.where(trace & np.roll(trace, 320), y, 0))
    want = np.stack([repeat_pitch(row, trace, 16000) for row in x])
    assert np.array_equal(read("out/a_concealed_g711.wav")[0], want)
    done = cli("conceal", "a.wav", "-o", "c.wav", "-m", "g711", "--strength", "0.5")
    assert (done.code, "-m g711: has no controls" in done.err) == (2, True)
    wav("low.wav", rate=6000)
    done = cli("conceal", "low.wav", "-o", "c.wav", "-m", "g711")
    assert (done.code, "convert it first" in done.err) == (1, True)
    assert not Path("c.wav").exists()


def test_chance_is_the_same_in_any_order_and_company(here, cli, repeats):
    for n in range(3):
        wav(f"in/{n}.wav", rate=(16000, 48000, 8000)[n], seed=n)
    words = ("-m", repeats, "--loss", "gilbert:0.2,0.5", "--packet", "10", "--seed", "5")
    assert cli("conceal", "in", "-o", "all", *words, "-j", "2").code == 0
    for n in range(3):
        assert cli("conceal", f"in/{n}.wav", "-o", "one/", *words).code == 0
        assert np.array_equal(read(f"all/{n}.wav")[0], read(f"one/{n}.wav")[0])
        assert not np.array_equal(read(f"all/{n}.wav")[0], read(f"in/{n}.wav")[0])
    assert cli("conceal", "in", "-o", "other", *words[:-1], "6").code == 0
    assert not np.array_equal(read("all/0.wav")[0], read("other/0.wav")[0])


def test_a_data_directory_with_a_table_of_traces(here, cli, repeat16, trace):
    x = wav("w/a.wav"), wav("w/b.wav", seed=1)
    Path("data").mkdir()
    Path("data/wav.scp").write_text("u1 w/a.wav\nu2 w/b.wav\n")
    Path("traces.scp").write_text("u1 trace.txt\n")
    done = cli("conceal", "data", "-o", "out", "-m", repeat16, "--loss", "traces.scp")
    assert done.code == 1  # the other goes on
    assert "error: u2: traces.scp has no trace of the name u2" in done.err
    assert np.array_equal(read("out/u1.wav")[0], concealer.repeat(x[0], trace))
    assert Path("out/wav.scp").read_text() == "u1 out/u1.wav\n"


def test_a_trace_that_is_too_short_leaves_nothing(here, cli, repeat16, trace):
    wav("a.wav", samples=9000)
    done = cli("conceal", "a.wav", "-o", "out/", "-m", repeat16, "--loss", "trace.txt", "--write-lossy")
    assert done.code == 1
    assert "trace.txt: has 25 packets, and the signal 29" in done.err
    assert list(Path("out").iterdir()) == []


def test_write_lossy_overwrites_nothing(here, cli, repeat16):
    wav("a.wav")
    wav("a_lossy.wav")
    words = ("-m", repeat16, "--loss", "drop:0.5", "--write-lossy", "-f")
    done = cli("conceal", "a.wav", "a_lossy.wav", "-o", "./", *words)
    assert (done.code, "a_lossy.wav is an input or an output" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("--loss gilbert:2,1", 2, "gilbert:2,1: p is 2; a probability lies between 0 and 1"),
        ("--loss drop:x", 2, "want drop:RATE"),
        ("--loss nowhere.txt", 1, "nowhere.txt: no such file; a loss is a trace file"),
        ("--loss a.wav", 1, "a.wav: cannot be read as a trace"),
        ("--loss drop:.1 --packet 0", 2, "packets of 0 ms are outside 1 to 200 ms"),
        ("--loss drop:.1 --seed -1", 2, "-1 is outside 0"),
        ("--blind", 2, "--blind: without --loss nothing is told"),
        ("--write-lossy -o -", 2, "standard output takes one file"),
    ],
)
def test_usage(here, cli, repeat16, words, code, text):
    wav("a.wav")
    done = cli("conceal", "a.wav", "-m", repeat16, *words.split())
    assert done.code == code
    assert text in done.err


def test_verbs_that_cannot_tell_it_say_so(here, cli, repeat16, monkeypatch):
    wav("a.wav")
    done = cli("enhance", "a.wav", "-m", repeat16)
    assert (
        done.code,
        "repeat_16k: conceals losses that it is told of; use audiomask conceal" in done.err,
    ) == (2, True)
    monkeypatch.setattr(catalogue, "PRETRAINED", here)
    done = cli("conceal", "a.wav")
    assert (done.code, "no default model for conceal ships" in done.err) == (1, True)
    concealer.build("repeat_16k.onnx")
    assert cli("conceal", "a.wav", "--loss", "drop:0.2").code == 0  # the default of its task
