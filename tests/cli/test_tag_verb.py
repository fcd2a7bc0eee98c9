"""audiomask tag: labels of files, folders and pipes; every kind of bad input; nothing half-written."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from toy_tagger import HOP, loud


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wav(path, level=0.05, samples=10 * HOP, rate=16000, channels=1, subtype="FLOAT"):
    """Noise whose mean size is `level`, the same in all channels."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(0).uniform(-2 * level, 2 * level, samples).astype(np.float32)
    sf.write(path, np.repeat(x[:, None], channels, 1), rate, subtype=subtype)
    return x


def entries(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_file(here, cli, tagger16):
    x = wav("a.wav")
    done = cli("tag", "a.wav", "-m", tagger16, "--json")
    assert done.code == 0
    (entry,) = entries(done.out)
    assert (entry["file"], entry["start"], entry["end"]) == ("a.wav", 0, 1)
    assert [tag["label"] for tag in entry["tags"]] == ["loud", "quiet", "a third, never"]
    assert entry["tags"][0]["probability"] == pytest.approx(loud(x)[1:].mean(), abs=1e-5)
    assert "1 file, 1.0 s of sound" in done.err
    most = entries(cli("tag", "a.wav", "-m", tagger16, "--json", "--pool", "max", "--top", "1", "-q").out)
    assert most[0]["tags"] == [{"label": "loud", "probability": pytest.approx(loud(x)[1:].max(), abs=1e-5)}]
    text = cli("tag", "a.wav", "-m", tagger16, "--threshold", "0.9", "-q")
    assert (text.out, text.err) == ("a.wav\n     0.00 -     1.00 s         -\n", "")


@pytest.mark.parametrize("channels", [2, 6])
def test_opposite_channels(here, cli, tagger16, channels):
    """A plug soldered the wrong way round is not heard as silence, nor embedded so."""
    x = wav("mono.wav", 0.05, 30 * HOP)
    both = np.stack([x, -x] * (channels // 2), 1)
    sf.write("both.wav", both, 16000, subtype="FLOAT")
    mono, stereo = (
        entries(cli("tag", f"{n}.wav", "-m", tagger16, "--json", "-q").out) for n in ("mono", "both")
    )
    assert stereo[0]["tags"] == mono[0]["tags"]
    assert cli("embed", "mono.wav", "both.wav", "-m", tagger16, "-o", "e.npz", "-q").code == 0
    with np.load("e.npz") as found:
        np.testing.assert_allclose(*found["embeddings"], atol=1e-6)


def test_rows_and_segments(here, cli, tagger16):
    x = wav("a.wav", 0.08)
    x[5 * HOP :] = 0
    sf.write("a.wav", x, 16000, subtype="FLOAT")
    done = cli("tag", "a.wav", "-m", tagger16, "--every", "0.3", "--top", "1", "--csv")
    assert list(csv.reader(io.StringIO(done.out))) == [
        ["file", "start", "end", "label", "probability"],
        *[
            ["a.wav", start, end, label, f"{p:.6f}"]
            for start, end, label, p in (
                ("0.100", "0.300", "loud", loud(x)[2]), ("0.400", "0.600", "loud", loud(x)[5]),
                ("0.700", "0.900", "quiet", 1), ("0.800", "1.000", "quiet", 1),
            )
        ],
    ]  # fmt: skip
    segments = entries(cli("tag", "a.wav", "-m", tagger16, "--segments", "--json").out)
    assert [(s["start"], s["end"], s["tags"][0]["label"]) for s in segments] == [
        (0.0, 0.5, "loud"), (0.6, 1.0, "quiet")
    ]  # fmt: skip


def test_into_a_file(here, cli, tagger16):
    wav("in/a.wav")
    wav("in/sub/b.wav", 0.001)
    assert cli("tag", "in", "-m", tagger16, "-o", "t.csv").code == 0
    lines = list(csv.reader(Path("t.csv").read_text().splitlines()))
    assert [line[0] for line in lines] == ["file"] + ["in/a.wav"] * 3 + ["in/sub/b.wav"] * 3
    before = Path("t.csv").read_bytes()
    refused = cli("tag", "in", "-m", tagger16, "-o", "t.csv")
    assert (refused.code, Path("t.csv").read_bytes()) == (1, before)
    assert "t.csv: exists already; give -f" in refused.err
    assert cli("tag", "in/a.wav", "-m", tagger16, "-o", "t.csv", "-f").code == 0
    assert len(Path("t.csv").read_text().splitlines()) == 4
    assert cli("tag", "in", "-m", tagger16, "-o", "t.jsonl", "-j", "3").code == 0
    assert [e["file"] for e in entries(Path("t.jsonl").read_text())] == ["in/a.wav", "in/sub/b.wav"]
    done = cli("tag", "no.wav", "-m", tagger16, "-o", "none.json")
    assert done.code == 1
    assert "none.json: not written" in done.err
    assert not list(here.glob("none*"))
    assert not list(here.glob(".*"))


def test_into_a_folder_that_is_completed(here, cli, tagger16):
    wav("in/a.wav")
    wav("in/sub/b.wav")
    assert cli("tag", "in/sub", "-m", tagger16, "-o", "out/sub").code == 0
    done = cli("tag", "in", "-m", tagger16, "-o", "out")
    assert done.code == 1
    assert "out/sub/b.json: exists already" in done.err
    assert entries(Path("out/a.json").read_text())[0]["file"] == "in/a.wav"
    assert cli("tag", "in", "-m", tagger16, "-o", "out", "--csv").code == 0
    assert (
        Path("out/sub/b.csv").read_text().startswith("file,start,end,label,probability\nin/sub/b.wav,0.000")
    )
    wav("in/a.flac", subtype="PCM_16")
    done = cli("tag", "in", "-m", tagger16, "-o", "other")
    assert (done.code, "would both become other/a.json" in done.err) == (2, True)


@pytest.mark.parametrize("out", ["t.json", "t.csv", "folder"])
def test_names_that_are_no_text(here, cli, tagger16, out):
    name = os.fsdecode(b"caf\xe9.wav")
    wav(here / "a.wav")
    (here / "a.wav").rename(here / name)
    assert cli("tag", name, "-m", tagger16, "-o", out).code == 0
    (made,) = [path for path in here.rglob("*") if path.is_file() and path.suffix in (".json", ".csv")]
    assert b"caf\xe9.wav" in made.read_bytes()
    assert cli("embed", name, "-m", tagger16, "-o", "e.npz").code == 0
    assert (
        cli("conceal", name, "-m", "repeat", "--loss", "drop:0.1", "-o", "c.wav", "--report", "r.json").code
        == 0
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.wav", {"samples": 1}), ("a.wav", {"samples": 100, "rate": 8000}), ("a.wav", {"rate": 192000}),
     ("a.wav", {"channels": 6, "rate": 44100}), ("a.wav", {"level": 0.0}),
     ("a.flac", {"channels": 2, "subtype": "PCM_24"}), ("a.ogg", {"rate": 48000, "subtype": "VORBIS"})],
)  # fmt: skip
def test_all_kinds_of_sound(here, cli, tagger16, name, options):
    wav(name, **{"samples": 2 * options.get("rate", 16000)} | options)
    done = cli("tag", name, "-m", tagger16, "--json")
    assert done.code == 0, done.err
    tags = {t["label"]: t["probability"] for t in entries(done.out)[0]["tags"]}
    assert sum(tags.values()) == pytest.approx(1, abs=1e-5)
    if not options.get("level", 1):
        assert tags["quiet"] == 1
    elif options.get("samples", 100) > 100:
        assert tags["loud"] == pytest.approx(0.5, abs=0.2)  # conversion takes part of the noise


def test_bad_files_are_listed_and_the_others_tagged(here, cli, tagger16):
    wav("good.wav")
    x = wav("nan.wav")
    x[:100] = np.nan
    sf.write("nan.wav", x, 16000, subtype="FLOAT")
    wav("short.wav", subtype="PCM_16")
    Path("short.wav").write_bytes(Path("short.wav").read_bytes()[:-4000])
    Path("text.wav").write_text("no sound in here")
    Path("empty.wav").touch()
    sf.write("none.wav", np.zeros(0), 16000)
    names = ["good.wav", "nan.wav", "short.wav", "text.wav", "empty.wav", "none.wav", "missing.wav"]
    done = cli("tag", *names, "-m", tagger16, "--json", "-j", "2")
    assert done.code == 1
    assert [e["file"] for e in entries(done.out)] == names[:3]
    assert "4 of 7 failed" in done.err
    for words in (
        "nan.wav: 100 samples were NaN", "short.wav: truncated", "text.wav: not audio", "empty.wav: is empty",
        "none.wav: holds no samples", "missing.wav: no such file",
    ):  # fmt: skip
        assert done.err.count(words) == 1, words


def test_data_directories(here, cli, tagger16):
    wav("x.wav")
    Path("data").mkdir()
    Path("data/wav.scp").write_text("u2 cat x.wav |\nu1 x.wav\n")
    done = cli("tag", "data", "-m", tagger16, "--json", "--allow-pipes")
    assert [e["file"] for e in entries(done.out)] == ["u2", "u1"]
    assert "is a shell command" in cli("tag", "data", "-m", tagger16).err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["a.wav", "--top", "0"], 2, "0 is less than 1"),
        (["a.wav", "--threshold", "2"], 2, "2 is outside 0 to 1"),
        (["a.wav", "--every", "0"], 2, "--every: 0 is outside 0 to 86400 s"),
        (["a.wav", "--every", "1", "--segments"], 2, "not allowed with"),
        (["a.wav", "--json", "--csv"], 2, "not allowed with"),
        (["a.wav", "--rate", "8000"], 2, "--rate: is of bare samples"),
        (["a.wav", "-", "--json"], 2, "alone, without other inputs"),
        (["-", "-o", "t.json"], 2, "go to standard output"),
        (["-", "--rate", "7"], 2, "--rate: 7 is outside"),
        (["a.wav", "-o", "no/t.json"], 1, "its folder does not exist"),
        (["a.wav", "-o", "a.wav/t"], 1, "cannot become a folder"),
    ],
)
def test_wrong_usage(here, cli, tagger16, words, code, text):
    wav("a.wav")
    done = cli("tag", *words, "-m", tagger16)
    assert done.code == code, done.err
    assert text in done.err
    assert sorted(p.name for p in here.iterdir()) == ["a.wav"]


def test_models_of_other_tasks(here, cli, toy16, tagger16):
    wav("a.wav")
    done = cli("tag", "a.wav", "-m", toy16)
    assert done.code == 1
    assert "toy_16k: is a model to enhance, whose output is pcm, not probabilities" in done.err
    for verb in (["enhance", "a.wav"], ["conceal", "a.wav", "--loss", "drop:0.1"]):
        done = cli(*verb, "-m", tagger16)
        assert done.code == 1
        assert "see audiomask tag --help" in done.err
    assert cli("tag", "a.wav").code == 0  # the one that ships


def pipe(*words):
    words = [sys.executable, "-m", "audiomask", "tag", "-", *map(str, words)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def pcm(x):
    return np.rint(x * 32768).astype("<i2").tobytes()


def test_live_lines_come_as_soon_as_they_are_known(here, tagger16):
    x = wav("a.wav", samples=3 * HOP + 100)
    process = pipe("-m", tagger16, "--top", "1", "-q")
    assert process.stdin
    assert process.stdout
    lines = []
    for n in range(3):
        process.stdin.write(pcm(x[n * HOP : (n + 1) * HOP]))
        process.stdin.flush()
        lines.append(json.loads(process.stdout.readline()))  # before the next hop is there
    rest, err = process.communicate(pcm(x[3 * HOP :]), timeout=60)
    lines.append(json.loads(rest))
    assert (process.returncode, err) == (0, b"")
    assert [(e["start"], e["end"]) for e in lines] == [(0, 0.1), (0, 0.2), (0.1, 0.3), (0.106, 0.306)]
    wanted = np.maximum(loud(x), 1 - loud(x))
    np.testing.assert_allclose([e["tags"][0]["probability"] for e in lines], wanted, atol=1e-4)


def test_live_equals_the_file(here, cli, tagger16):
    x = np.repeat(wav("a.wav", rate=44100, samples=44100)[:, None], 2, 1)
    file = entries(cli("tag", "a.wav", "-m", tagger16, "--every", "0.1", "--json").out)
    process = pipe("-m", tagger16, "--rate", "44100", "--channels", "2", "--format", "f32le")
    out, err = process.communicate(x.astype("<f4").tobytes(), timeout=60)
    assert process.returncode == 0
    assert b"a row every 0.10 s, of the last 0.2 s" in err
    live = entries(out.decode())
    assert [e["start"] for e in live] == [e["start"] for e in file]
    for a, b in zip(live, file, strict=True):
        assert [t["label"] for t in a["tags"]] == [t["label"] for t in b["tags"]]
        assert a["tags"][0]["probability"] == pytest.approx(b["tags"][0]["probability"], abs=1e-5)
    out, _ = pipe("-m", tagger16, "--csv", "--every", "0.5", "--top", "1").communicate(
        pcm(x[:, 0]), timeout=60
    )
    assert len(out.splitlines()) == 1 + 6  # 44,100 samples at 16 kHz are 2.76 s


def test_live_inputs_that_are_none(here, tagger16):
    wav("a.wav")
    for data, words in ((b"", b"is empty"), (Path("a.wav").read_bytes(), b"begins like a file")):
        process = pipe("-m", tagger16)
        out, err = process.communicate(data, timeout=60)
        assert (process.returncode, out) == (1, b"")
        assert words in err
        assert b"Traceback" not in err


def test_sigterm_ends_a_live_sound(here, tagger16):
    process = pipe("-m", tagger16, "--segments")
    assert process.stdin
    process.stdin.write(pcm(wav("a.wav", 0.08)))
    process.stdin.flush()
    assert process.stderr
    process.stderr.readline()  # it has begun
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert entries(out.decode())[-1]["tags"][0]["label"] == "loud"


@pytest.mark.parametrize("out", ["t.json", "out"])
def test_an_interrupt_leaves_nothing(here, tagger16, out):
    for n in range(2):
        wav(f"in/{n}.wav", samples=16000 * 1800, subtype="PCM_16")
    words = [sys.executable, "-m", "audiomask", "tag", "in", "-o", out, "-m", str(tagger16), "--every", "0.1"]
    process = subprocess.Popen([*words, "-j", "2"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (list(here.glob(".*.part")) or Path("out").is_dir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it was to be interrupted in its middle"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert not [p for p in here.rglob("*") if p.name not in ("in", "0.wav", "1.wav", "out")]


def test_no_torch_is_needed(here, tagger16):
    wav("a.wav")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from audiomask.cli import main\n"
        f"a = main(['tag', 'a.wav', '-m', {str(tagger16)!r}])\n"
        f"b = main(['embed', 'a.wav', '-o', 'e.npz', '-m', {str(tagger16)!r}])\n"
        "sys.exit(a + b)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy())
    assert done.returncode == 0, done.stderr
    assert Path("e.npz").is_file()
