"""audiomask enhance: names, formats, batches, interrupts; no half-written file, always the right code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from marking import speech

from audiomask import audio
from audiomask.audio import Reader, Writer, read
from audiomask.audio.chunks import Notes
from audiomask.audio.tags import Tags


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wav(path, channels=1, samples=2000, rate=16000, subtype="PCM_16", seed=0, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    x = 0.1 * np.random.default_rng(seed).standard_normal((samples, channels))
    sf.write(path, x, rate, subtype=subtype, **options)
    return x.T.astype(np.float32)


def leftovers(folder):
    return [p for p in folder.rglob("*") if p.name.endswith((".part", ".spool"))]


def test_one_file(here, cli, toy16, toys):
    x = wav("a.wav", subtype="FLOAT")
    done = cli("enhance", "a.wav", "-m", toy16)
    assert done.code == 0
    assert "1 file" in done.err
    assert "model toy_16k: 1" in done.err
    y, rate = read("a_enhanced.wav")
    assert (rate, y.shape) == (16000, x.shape)
    assert np.abs(y - toys.lowpass(x)).max() < 1e-6
    assert cli("enhance", "a.wav", "-o", "b.wav", "-m", toy16, "-q").err == ""
    assert np.array_equal(read("b.wav")[0], y)


@pytest.mark.parametrize(
    ("name", "channels", "rate", "subtype"),
    [("a.wav", 1, 8000, "PCM_16"), ("a.wav", 2, 48000, "PCM_24"), ("a.wav", 6, 44100, "FLOAT"),
     ("a.flac", 2, 16000, "PCM_24"), ("a.ogg", 1, 44100, "VORBIS"), ("a.mp3", 2, 48000, "MPEG_LAYER_III"),
     ("a.wav", 1, 192000, "PCM_U8"), ("a.aiff", 2, 22050, "PCM_16"), ("a.au", 1, 16000, "ULAW")],
)  # fmt: skip
def test_keeps_rate_channels_format_and_length(here, cli, toy, name, channels, rate, subtype):
    wav(name, channels, 6000, rate, subtype)
    done = cli("enhance", name, "-o", "out/", "-m", toy)
    assert done.code == 0, done.err
    before, after = sf.info(name), sf.info(f"out/{name}")
    for what in ("samplerate", "channels", "format", "subtype"):
        assert getattr(after, what) == getattr(before, what)
    assert after.frames == before.frames or name == "a.mp3"
    assert f"model toy_{16 if rate <= 16000 else 48}k: 1" in done.err


@pytest.mark.parametrize("rate", [16000, 44100])
def test_an_array_as_a_file_and_through_a_pipe(here, cli, array3, toys, rate):
    """Three microphones in, one channel out, the same from both; the dry share is of the reference."""
    x = wav("a.wav", 3, 30001, rate, "FLOAT")
    wav("stereo.wav", 2)
    done = cli("enhance", "stereo.wav", "a.wav", "-o", "out/", "-m", array3, "--dry", "0.25")
    assert done.code == 1
    assert "error: stereo.wav: has 2 channels, and array3 takes 3 microphones" in done.err
    assert not Path("out/stereo.wav").exists()
    y, got = read("out/a.wav")
    assert (y.shape, got) == ((1, 30001), rate)
    words = ("stream", "-m", str(array3), "--rate", str(rate), "--format", "f32le", "--dry", "0.25")
    piped = subprocess.run(
        [sys.executable, "-m", "audiomask", *words], input=x.T.tobytes(), capture_output=True, check=True
    )
    assert f"array3, {rate} Hz, 3 channels to 1, f32le" in piped.stderr.decode()
    np.testing.assert_allclose(np.frombuffer(piped.stdout, "<f4"), y[0], atol=1e-5 * np.abs(y).max())
    if rate == 16000:
        wet = toys.lowpass(np.asarray(toys.gains, np.float32) @ x)
        assert np.abs(y[0] - (0.75 * wet + 0.25 * x[1])).max() < 1e-5
    other = cli("enhance", "a.wav", "-o", "b.wav", "-m", array3, "--rate", "8000")
    assert (other.code, read("b.wav")[0].shape) == (0, (1, -(-30001 * 8000 // rate)))


def test_equals_the_stream(here, cli, toy):
    """A 48 kHz stereo file, as a file and through a pipe."""
    x = wav("a.wav", 2, 50001, 48000, "FLOAT")
    assert cli("enhance", "a.wav", "-o", "b.wav", "-m", toy).code == 0
    words = [
        sys.executable,
        "-m",
        "audiomask",
        "stream",
        "--rate",
        "48000",
        "--channels",
        "2",
        "--format",
        "f32le",
    ]
    done = subprocess.run([*words, "-m", toy], input=x.T.tobytes(), capture_output=True, check=True)
    streamed = np.frombuffer(done.stdout, "<f4").reshape(-1, 2).T
    y, _ = read("b.wav")
    assert y.shape == streamed.shape == x.shape
    assert np.abs(y - streamed).max() <= 1e-5 * np.abs(y).max()


def test_one_sample_and_silence(here, cli, toy):
    for name, samples in (
        ("one.wav", np.array([0.5])),
        ("still.wav", np.zeros(3000)),
        ("clipped.wav", np.ones(3000)),
    ):
        sf.write(name, samples, 44100)
        assert cli("enhance", name, "-m", toy).code == 0
        assert sf.info(name.replace(".", "_enhanced.")).frames == len(samples)
    assert not read("still_enhanced.wav")[0].any()


def test_integers_in_floats_are_named_and_heard_alike(here, cli):
    x, rate = speech()[:, 0], 16000
    for name, scale in (("a.wav", 1), ("b.wav", 32768)):
        sf.write(name, scale * x, rate, subtype="FLOAT")
    done = cli("enhance", "a.wav", "b.wav")
    assert done.code == 0
    assert "a.wav: its peak" not in done.err
    assert (
        f"b.wav: its peak is {32768 * np.abs(x).max():.0f}, where floats have a full scale of 1" in done.err
    )
    a, b = (sf.read(f"{name}_enhanced.wav")[0] for name in "ab")
    assert np.abs(b / 32768 - a).max() < 1e-3 * np.abs(a).max()


def test_nan_is_reported(here, cli, toy16):
    sf.write("a.wav", np.array([0.1, np.nan, np.inf, 0.1] * 100), 16000, subtype="FLOAT")
    done = cli("enhance", "a.wav", "-m", toy16)
    assert done.code == 0
    assert "warning: a.wav: 200 samples were NaN or infinite and were set to 0" in done.err
    assert np.isfinite(read("a_enhanced.wav")[0]).all()


def test_band_limit_is_said(here, cli, toy16):
    wav("a.wav", rate=44100)
    assert "nothing above 8000 Hz is left of the 44100 Hz input" in cli("enhance", "a.wav", "-m", toy16).err


def test_controls_and_conversion(here, cli, toy16, toys):
    x = wav("a.wav", subtype="FLOAT")
    assert cli("enhance", "a.wav", "-o", "s0.wav", "-m", toy16, "--strength", "0").code == 0
    assert np.abs(read("s0.wav")[0] - x).max() < 1e-6
    assert cli("enhance", "a.wav", "-o", "dry.wav", "-m", toy16, "--dry", "1").code == 0
    assert np.abs(read("dry.wav")[0] - x).max() < 1e-6
    assert (
        cli(
            "enhance", "a.wav", "-o", "set.wav", "-m", toy16, "--set", "strength=.5", "--subtype", "PCM_24"
        ).code
        == 0
    )
    assert np.abs(read("set.wav")[0] - (x + toys.lowpass(x)) / 2).max() < 1e-6
    assert sf.info("set.wav").subtype == "PCM_24"
    assert cli("enhance", "a.wav", "-o", "r.flac", "-m", toy16, "--rate", "48000").code == 0
    assert (sf.info("r.flac").samplerate, sf.info("r.flac").frames) == (48000, 6000)
    assert cli("enhance", "a.wav", "--format", "flac", "-m", toy16).code == 0
    assert sf.info("a_enhanced.flac").format == "FLAC"
    assert cli("enhance", "a.wav", "-o", "x/", "--filename", "{stem}-{model}.{ext}", "-m", toy16).code == 0
    assert Path("x/a-toy_16k.wav").exists()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["a.wav", "--strength", "2"], 1, "strength = 2.0 is outside 0.0 to 1.0"),
        (["a.wav", "--atten-lim", "12"], 1, "has no control 'atten_lim'; it has: strength"),
        (["a.wav", "--set", "strength"], 2, "expected CONTROL=NUMBER"),
        (["a.wav", "--set", "trim=0"], 1, "has no control 'trim'; it has: strength"),
        (["a.wav", "--set", "dry=0.5"], 1, "has no control 'dry'; it has: strength"),
        (["a.wav", "--set", "self=1"], 1, "has no control 'self'; it has: strength"),
        (["a.wav", "--dry", "2"], 2, "2 is outside 0 to 1"),
        (["a.wav", "--filename", "{nope}.wav"], 2, "use only {stem}"),
        (["a.wav", "b.wav", "-o", "-"], 2, "standard output takes one file"),
        (["-"], 2, "say where to write with -o"),
        (["a.wav", "-o", "o.avi"], 2, "-o o.avi: .avi cannot be written here"),
        (["a.wav", "-o", "o.wav", "--subtype", "FLOAT3"], 1, "cannot hold subtype FLOAT3"),
        (["a.wav", "-o", "a.wav/x/"], 1, "cannot become a folder"),
        (["a.wav", "b/a.wav", "-o", "o/"], 2, "would both become"),
        (["a.wav", "b.wav", "-o", ".", "--filename", "b.wav", "-f"], 2, "would both become"),
        (["c.wav", "b.wav", "-f", "-o", ".", "--filename", "x{stem}.wav"], 1, "no such file"),
        (["a.wav", "ab.wav", "-f", "-o", ".", "--filename", "a{stem}.wav"], 2, ""),
    ],
)
def test_wrong_usage(here, cli, toy16, words, code, text):
    for name in ("a.wav", "b.wav", "b/a.wav"):
        wav(name)
    if "ab.wav" in words:
        words = ["b.wav", "ab.wav", *words[2:]]
        wav("ab.wav")
        text = "would overwrite the input ab.wav"
    done = cli("enhance", *words, "-m", toy16)
    assert done.code == code, done.err
    assert text in done.err
    assert not leftovers(here)


def test_overwriting_is_refused_without_force(here, cli, toy16):
    wav("a.wav")
    (here / "b.wav").write_bytes(b"precious")
    done = cli("enhance", "a.wav", "-o", "b.wav", "-m", toy16)
    assert done.code == 1
    assert "b.wav: exists already; give -f" in done.err
    assert (here / "b.wav").read_bytes() == b"precious"
    assert cli("enhance", "a.wav", "-o", "b.wav", "-m", toy16, "-f").code == 0
    assert sf.info("b.wav").frames == 2000
    assert cli("enhance", "a.wav", "-o", "a.wav", "-m", toy16, "-f").code == 0  # in place


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_batch_goes_on_past_bad_files(here, cli, toy16, jobs):
    for n in range(4):
        wav(f"in/sub{n}/good.wav", seed=n)
    (here / "in" / "empty.wav").touch()
    (here / "in" / "bad.flac").write_bytes(b"nonsense")
    (here / "nothing").mkdir()
    done = cli("enhance", "nothing", "in", "none.wav", "-o", "out", "-m", toy16, "-j", jobs)
    assert done.code == 1
    assert "4 of 8 failed:" in done.err
    for text in (
        "nothing: holds no audio",
        "empty.wav: is empty",
        "bad.flac: not audio",
        "none.wav: no such file",
    ):
        assert done.err.count(text) == 1
    assert sorted(str(p.relative_to(here)) for p in (here / "out").rglob("*.*")) == [
        f"out/sub{n}/good.wav" for n in range(4)
    ]
    again = cli("enhance", "in", "-o", "in/out", "-m", toy16)  # the output below the input is no input
    assert "4 files" in again.err
    assert "4 files" in cli("enhance", "in", "-o", "in/out", "-m", toy16, "-f").err


def test_kaldi_in_kaldi_out(here, cli, toy16):
    wav("x.wav")
    (here / "data").mkdir()
    (here / "data" / "wav.scp").write_text("utt2 cat x.wav |\nutt1 x.wav\nutt3 false |\n")
    done = cli("enhance", "data", "-o", "out", "-m", toy16, "--allow-pipes")
    assert done.code == 1
    assert "utt3: its command" in done.err
    assert (here / "out" / "wav.scp").read_text() == "utt1 out/utt1.wav\nutt2 out/utt2.wav\n"
    assert np.array_equal(read("out/utt1.wav")[0], read("out/utt2.wav")[0])


def test_pipes(here, toy16):
    wav("a.wav")
    words = [sys.executable, "-m", "audiomask", "enhance", "-", "-o", "-", "-m", toy16]
    done = subprocess.run(words, input=(here / "a.wav").read_bytes(), capture_output=True, check=True)
    (here / "b.wav").write_bytes(done.stdout)
    assert sf.info("b.wav").frames == 2000
    done = subprocess.run(words, input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"standard input: is empty" in done.stderr


def test_a_terminal_gets_a_bar_with_speed(here, toy16):
    import pty

    wav("[x].wav", samples=16000 * 20)
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "audiomask", "enhance", "[x].wav", "-o", "out/", "-m", toy16]
    process = subprocess.Popen(words, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    assert b"[x].wav" in shown
    assert b" x real time" in shown
    assert b"Traceback" not in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_leaves_nothing(here, toy16, number, code, jobs):
    for n in range(2):
        wav(f"in/{n}.wav", samples=16000 * 600)
    words = [sys.executable, "-m", "audiomask", "enhance", "in", "-o", "out", "-m", toy16, "-j", jobs]
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not leftovers(here) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert leftovers(here), "it never began"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert b"Traceback" not in err
    assert not leftovers(here)
    assert not list((here / "out").iterdir())


HEADERS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III", "aiff": "PCM_16"}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for suffix, subtype in HEADERS.items():
        wav(str(folder / f"a.{suffix}"), 2, 3000, 16000, subtype)
    return {suffix: (folder / f"a.{suffix}").read_bytes() for suffix in HEADERS}


@given(data=st.data(), suffix=st.sampled_from(sorted(HEADERS)))
@settings(max_examples=120, deadline=None)
def test_damaged_files(toy16, sounds, tmp_path_factory, data, suffix):
    """Bytes of real files are changed, mostly in the header: a whole output or none, exit code 0 or 1."""
    from audiomask.cli import main

    content = bytearray(sounds[suffix])
    for _ in range(data.draw(st.integers(1, 6))):
        end = 64 if data.draw(st.integers(0, 3)) else len(content) - 1
        at = data.draw(st.integers(0, end))
        content[at : at + 1] = data.draw(st.binary(min_size=0, max_size=4))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    folder = tmp_path_factory.mktemp("fuzz")
    source, output = folder / f"in.{suffix}", folder / "out.wav"
    source.write_bytes(content)
    code = main(["enhance", str(source), "-o", str(output), "-m", str(toy16), "-q", "-j", "1"])
    assert code in (0, 1)
    assert output.exists() == (code == 0)
    assert {p.name for p in folder.iterdir()} <= {source.name, output.name}
    if code == 0:
        assert sf.info(output).frames > 0
        assert np.isfinite(read(output)[0]).all()


@pytest.mark.slow
def test_an_hour_needs_no_more_memory_than_a_minute(here, toys):
    """Peak memory of the whole process, for a model that costs little. Ten hours were measured by hand."""
    toys.build("delay.onnx", pole=None)
    peaks = {}
    for minutes in (1, 60):
        with sf.SoundFile(f"{minutes}.wav", "w", 48000, 2, "PCM_16") as file:
            for _ in range(minutes):
                file.write(np.zeros((48000 * 60, 2), np.int16))
        code = (
            "import re, sys; from pathlib import Path; from audiomask.cli import main\n"
            f"code = main(['enhance', '{minutes}.wav', '-m', 'delay.onnx', '-q'])\n"
            "peak = re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]\n"
            "print(peak); sys.exit(code)\n"  # not ru_maxrss: a child inherits it from whoever forked it
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks[minutes] = int(done.stdout) / 1024
        assert sf.info(f"{minutes}_enhanced.wav").frames == 48000 * 60 * minutes
    assert peaks[60] < peaks[1] + 20
    assert peaks[60] < 300


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-"])
def test_closed_standard_streams(toy16, tmp_path, noise, closed):
    audio.write(tmp_path / "a.wav", noise(1, 4000), 16000)
    line = f"{sys.executable} -m audiomask enhance {tmp_path}/a.wav -m {toy16} -o {tmp_path}/b.wav {closed}"
    assert subprocess.run(line, shell=True, check=False).returncode == 0
    assert audio.info(tmp_path / "b.wav").frames == 4000


def test_names_that_are_long_in_bytes_or_no_text(toy16, tmp_path, noise):
    names = ["\u97f3" * 83 + ".wav", os.fsdecode(b"b\xff\xfe.wav"), "\u00e9 \u2014.wav"]
    (tmp_path / "in").mkdir()
    for name in names:
        audio.write(tmp_path / "in" / name, noise(1, 1000), 16000)
    command = [sys.executable, "-m", "audiomask", "enhance", str(tmp_path / "in"), "-m", str(toy16)]
    for code, folder in (("utf-8", "a"), ("ascii", "b"), ("cp1252", "c")):
        done = subprocess.run(
            [*command, "-o", str(tmp_path / folder)],
            env={**os.environ, "PYTHONIOENCODING": code},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == sorted(names)


def test_lists_of_the_user_are_not_replaced_and_ours_are_completed(cli, toy16, tmp_path, noise, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        audio.write(f"{name}.wav", noise(1, 1000), 16000)
    Path("d").mkdir()
    Path("d/wav.scp").write_text("a a.wav\nb b.wav\nc c.wav\n")
    Path("d/one.scp").write_text("a a.wav\n")
    before = Path("d/wav.scp").read_text()
    assert cli("enhance", "d/one.scp", "-m", toy16, "-o", "d/clean.wav").code == 0
    assert Path("d/wav.scp").read_text() == before
    done = cli("enhance", "d/one.scp", "-m", toy16, "-o", "d")
    assert (done.code, "d/wav.scp: lists other files; give -f" in done.err) == (1, True)
    assert Path("d/wav.scp").read_text() == before
    assert not Path("d/a.wav").exists()
    for name in "ab":
        Path("one.scp").write_text(f"{name} {name}.wav\n")
        assert cli("enhance", "one.scp", "-m", toy16, "-o", "out").code == 0
    assert Path("out/wav.scp").read_text() == "a out/a.wav\nb out/b.wav\n"
    Path("out/a.wav").unlink()
    Path("one.scp").write_text("c c.wav\n")
    assert cli("enhance", "one.scp", "-m", toy16, "-o", "out").code == 0
    assert Path("out/wav.scp").read_text() == "b out/b.wav\nc out/c.wav\n"


def test_the_sound_of_a_film_is_replaced(cli, toy16, tmp_path):
    """By one command; the picture is copied bit for bit."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "talk.mp4"), "w") as out:
        video, sound = out.add_stream("mpeg4", rate=25), out.add_stream("aac", rate=16000, layout="mono")
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for i in range(25):
            out.mux(
                video.encode(
                    av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * i, np.uint8), format="rgb24")
                )
            )
        frame = av.AudioFrame.from_ndarray(np.full((1, 16000), 0.1, np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        resampler = av.AudioResampler("fltp", "mono", 16000, 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(sound.encode(part))
        out.mux(sound.encode(None))
        out.mux(video.encode(None))
    done = cli("enhance", tmp_path / "talk.mp4", "-m", toy16, "-o", tmp_path / "clean.mp4")
    assert done.code == 0, done.err
    pictures = []
    for name in ("talk", "clean"):
        with av.open(str(tmp_path / f"{name}.mp4")) as file:
            pictures.append([bytes(packet) for packet in file.demux(video=0) if packet.size])
    assert len(pictures[0]) == 25
    assert pictures[0] == pictures[1]
    assert abs(audio.info(tmp_path / "clean.mp4").frames - audio.info(tmp_path / "talk.mp4").frames) <= 2048


def test_loudspeakers_and_tags_go_through(cli, toy16, tmp_path, noise):
    mask = 0x60F  # 5.1 with side speakers
    tags = Tags({"title": "Rain"}, Notes(chunks={b"iXML": b"<x/>"}), 16000)
    with Writer(tmp_path / "a.wav", 16000, 6, mask=mask, tags=tags) as writer:
        writer.write(noise(6, 8000))
    for suffix, kept in (("wav", mask), ("flac", mask), ("ogg", 0x3F)):
        done = cli("enhance", tmp_path / "a.wav", "-m", toy16, "-o", tmp_path / f"b.{suffix}")
        assert done.code == 0
        assert ("cannot hold iXML" in done.err) == (suffix != "wav")
        with Reader(tmp_path / f"b.{suffix}") as reader:
            assert (reader.info.mask, reader.tags.texts["title"]) == (kept, "Rain")
