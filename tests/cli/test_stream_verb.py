"""audiomask stream: samples in, as many out, live; ends of pipes and signals end it without a word."""

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st
from stream_pipe import pipe, stream

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.audio.beginnings import is_file
from audiomask.cli._pipe import Pipe
from audiomask.ports import Port


def test_s16le(toy16, toys, noise):
    x = np.rint(noise(1, 3001) * 32768).astype("<i2")
    code, out, err = pipe(toy16, x.tobytes())
    assert code == 0
    assert "toy_16k, 16000 Hz, 1 channels, s16le; latency 32.0 ms (delay 16.0 + hop 16.0)" in err
    y = np.frombuffer(out, "<i2")
    assert len(y) == 3001
    assert np.abs(y - toys.lowpass(x[0] / 32768) * 32768).max() <= 0.51


def test_a_model_that_is_no_good_live_says_so(tmp_path, toys, noise):
    model = toys.build(tmp_path / "late.onnx", name="late", hop=16000, delay=16000)
    code, out, err = pipe(model, noise(1, 3000).astype("<f4").tobytes(), "--format", "f32le")
    assert code == 0
    assert len(out) == 4 * 3000
    assert "late needs what comes after a sound and is 2.0 s late" in err


@pytest.mark.parametrize("block", ["1", "7.3", "500"])
def test_blocks_make_no_difference(toy, noise, block):
    x = noise(2, 4000).T.astype("<f4").tobytes()
    words = ("--rate", "44100", "--channels", "2", "--format", "f32le", "-q")
    code, whole, err = pipe(toy, x, *words)
    assert (code, err, len(whole)) == (0, "", len(x))
    split = pipe(toy, x, *words, "--block", block)[1]
    np.testing.assert_allclose(np.frombuffer(split, "<f4"), np.frombuffer(whole, "<f4"), atol=2e-6)


def test_odd_bytes_at_the_end(toy16, noise):
    x = noise(2, 500).T.astype("<f4").tobytes()
    code, out, err = pipe(toy16, x + b"\0\0\0\0\0", "--channels", "2", "--format", "f32le")
    assert (code, len(out)) == (0, len(x))
    assert "the last 5 bytes were no whole frame; dropped" in err


def test_nothing_in_nothing_out(toy16):
    assert pipe(toy16, b"")[:2] == (0, b"")
    assert pipe(toy16, b"\1")[:2] == (0, b"")


def test_nan_and_clipping_are_reported(toy16):
    x = np.full(2000, 2.0, "<f4")
    x[5] = np.nan
    code, _, err = pipe(toy16, x.tobytes(), "--format", "f32le", "--strength", "0")
    assert code == 0
    assert "1 samples were NaN or infinite" in err
    code, out, err = pipe(toy16, np.full(900, -32768, "<i2").tobytes(), "--strength", "0")
    assert (code, "beyond full scale" in err) == (0, False)
    assert set(np.frombuffer(out, "<i2")) == {-32768}


def test_samples_come_out_while_others_still_come_in(toy16, noise):
    """Live: after 4 hops and no end of file, all but the latency has been returned."""
    process = stream(toy16, "--format", "f32le")
    process.stdin.write(noise(1, 1024).astype("<f4").tobytes())
    out = b""
    while len(out) < 4 * (1024 - 256):
        out += os.read(process.stdout.fileno(), 65536)
    assert len(out) == 4 * (1024 - 256)
    process.stdin.close()
    assert len(process.stdout.read()) == 4 * 256
    assert process.wait(30) == 0
    process.stdout.close(), process.stderr.close()


def test_the_reader_leaves(toy16, noise):
    process = stream(toy16)
    process.stdout.close()
    try:
        for _ in range(100):
            process.stdin.write(bytes(65536))
        process.stdin.close()
    except BrokenPipeError:
        pass
    assert process.wait(30) == 128 + signal.SIGPIPE
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_ctrl_c(toy16):
    process = stream(toy16)
    process.stdin.write(bytes(65536))
    assert os.read(process.stdout.fileno(), 10)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err


def waiting_in(pipe):
    """Bytes that nobody has read yet."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


@pytest.mark.parametrize("block", [[], ["--block", "100"]])
def test_sigterm_brings_out_what_went_in(toy16, toys, noise, block):
    process = stream(toy16, "--format", "f32le", *block)
    x = noise(1, 4010)
    process.stdin.write(x.astype("<f4").tobytes())
    out = os.read(process.stdout.fileno(), 65536)
    while len(out) < 4 * (2816 if block else 3584):
        out += os.read(process.stdout.fileno(), 65536)
    while waiting_in(process.stdin):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out += process.stdout.read()  # the input stays open
    assert process.wait(30) == 143
    y = np.frombuffer(out, "<f4")
    assert y.shape == (4010,)
    np.testing.assert_allclose(y, toys.lowpass(x)[0], atol=1e-6)
    assert b"Traceback" not in process.stderr.read()
    process.stdin.close(), process.stdout.close(), process.stderr.close()


def test_sigterm_while_the_model_is_loaded(toy16):
    code = (
        "import os, signal, sys\n"
        "from audiomask.cli import main, stream\n"
        "class Session(stream.Session):\n"
        "    def __init__(self, *args, **options):\n"
        "        try:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        except BaseException:  # what an extension module makes of it\n"
        "            raise ImportError('initialization failed') from None\n"
        "        super().__init__(*args, **options)\n"
        "stream.Session = Session\n"
        "sys.exit(main(['stream', '-m', sys.argv[1]]))\n"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", code, str(toy16)], **pipes)
    assert process.wait(30) == 143  # the input is open
    out, err = process.communicate()
    assert out == b""
    assert b"Traceback" not in err


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_does_not_wait_for_a_reader_that_sleeps(toy16, signals):
    process = stream(toy16)
    process.stdin.write(bytes(60000))
    assert os.read(process.stdout.fileno(), 10)
    os.set_blocking(process.stdin.fileno(), False)
    full = 0
    while full < 5:  # the pipes and the buffers in between
        try:
            full = 0 if process.stdin.write(bytes(65536)) else full + 1
        except BlockingIOError:
            full += 1
        if full:
            time.sleep(0.2)
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert process.wait(30) == 143, process.stderr.read()
    assert b"Traceback" not in process.stderr.read()
    process.stdin.close(), process.stdout.close(), process.stderr.close()


FIRST = {
    "ffmpeg": "ffmpeg -v error -i in.wav -f s16le -",
    "sox": "sox in.wav -t raw -e signed -b 16 -",
}
LAST = {
    "ffmpeg": "ffmpeg -v error -f s16le -ar 44100 -ac 2 -i - -c:a pcm_s16le out.wav",
    "sox": "sox -t raw -e signed -b 16 -r 44100 -c 2 - out.wav",
}


@pytest.mark.parametrize(("first", "last"), [("ffmpeg", "ffmpeg"), ("sox", "ffmpeg"), ("ffmpeg", "sox")])
def test_between_sox_and_ffmpeg(toy, cli, tmp_path, noise, first, last):
    for program in (first, last):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    sf.write(tmp_path / "in.wav", noise(2, 100_000).T, 44100)
    verb = f"{sys.executable} -m audiomask stream -m {toy} --rate 44100 --channels 2 -q"
    line = f"set -o pipefail; {FIRST[first]} | {verb} | {LAST[last]}"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, timeout=60)
    assert cli("enhance", "-m", toy, tmp_path / "in.wav", "-o", tmp_path / "file").code == 0
    live, rate = sf.read(tmp_path / "out.wav", dtype="int16")
    file, _ = sf.read(tmp_path / "file" / "in.wav", dtype="int16")
    assert (rate, live.shape) == (44100, (100_000, 2))
    assert np.abs(live.astype(int) - file).max() <= 1


def test_a_full_disk(toy16):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        words = [sys.executable, "-m", "audiomask", "stream", "-m", str(toy16)]
        done = subprocess.run(words, input=bytes(65536), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"standard output: cannot be written (No space left on device); make room" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--rate", "100"], "--rate: 100 is outside 4000 to 768000 Hz"),
        (["--channels", "1000"], "--channels: 1000 is outside 1 to 128"),
        (["--channels", "0"], "--channels: 0 is outside 1 to"),
        (["--block", "-1"], "--block: -1 is outside 0 to 60000 ms"),
        (["--block", "nan"], "--block: nan is outside"),
    ],
)
def test_wrong_usage(cli, toy16, words, text):
    done = cli("stream", "-m", toy16, *words)
    assert done.code == 2
    assert text in done.err


def test_closed_standard_input(toy16):
    words = f"'{sys.executable}' -m audiomask stream -m '{toy16}' <&-"
    done = subprocess.run(words, shell=True, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"must be open" in done.stderr


@pytest.mark.parametrize(
    "kind", ["wav", "rf64", "w64", "flac", "ogg", "mp3", "aiff", "au", "caf", "m4a", "mkv", "aac"]
)
@pytest.mark.parametrize("chunk", [7, 65536])
def test_a_file_is_not_played_as_samples(tmp_path, noise, kind, chunk):
    """Its bytes would be noise at full scale."""
    if kind == "aac":  # ADTS, as a radio stream sends it
        frame = bytes([0xFF, 0xF1, 0x60, 0x40, 0x03, 0x9F, 0xFC]) + bytes(21)
        data = frame * 20
    else:
        audio.write(tmp_path / f"a.{kind}", noise(1, 16000), 16000)
        data = (tmp_path / f"a.{kind}").read_bytes()
    pipe = Pipe("s16le", 1, Port("audio"))

    def play():
        for at in range(0, 4096, chunk):
            pipe.decode(data[at : at + chunk])

    with pytest.raises(AudioError, match=r"begins like a file, .* ffmpeg .* -f s16le -ac 1"):
        play()


@pytest.mark.parametrize("kind", sorted(set(sf.available_formats()) - {"RAW", "SD2", "HTK", "MAT4", "MPC2K"}))
def test_every_header_that_libsndfile_writes_is_known(tmp_path, noise, kind):
    """SD2 has none, and those of HTK, MAT4 and MPC2K are numbers that samples may be."""
    for coding in sf.available_subtypes(kind):
        with contextlib.suppress(sf.LibsndfileError):  # codings of other rates, subtypes of other byte orders
            sf.write(tmp_path / "a", noise(1, 8000)[0], 8000, format=kind, subtype=coding)
            assert is_file((tmp_path / "a").read_bytes()[:4096]), coding


@pytest.mark.parametrize(
    "data",
    [
        b"G@\0\x10" + bytes(184) + b"G@\x11\x10" + bytes(184) + b"G" + bytes(100),  # MPEG transport stream
        (b"\x0bw" + bytes(126)) * 4,  # AC-3
        b".RMF\0\0\0\x12",
        b"PK\3\4" + bytes(30),
        b"<!doctype html>\n<html><head><title>404: there is no such page here</title></head>",
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfirst.ts\n",
        b"-0.001 0.002 0.004 -0.001 0.002 0.004 -0.001 0.002 0.004 -0.001 0.002 0.004 0.1\n",
    ],
)
def test_other_files_are_known_too(data):
    assert is_file(data)


def test_a_file_is_no_packets_either(repeat16, tmp_path, noise):
    audio.write(tmp_path / "a.flac", noise(1, 16000), 16000)
    code, out, err = pipe(repeat16, (tmp_path / "a.flac").read_bytes(), "--packets", "20")
    assert (code, out) == (1, b"")
    assert "begins like a file" in err


@given(st.binary(min_size=64, max_size=5000))
def test_samples_are_not_taken_for_a_file(data):
    assert not is_file(b"\x01\x02" + data)
    assert not is_file(b"\xff\xfb" + bytes(5000))
