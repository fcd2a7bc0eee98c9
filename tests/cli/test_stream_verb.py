"""audiomask stream: samples in, as many out, live; ends of pipes and signals end it without a word."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest


def stream(model, *words, **options):
    words = [sys.executable, "-m", "audiomask", "stream", "-m", str(model), *words]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, **options
    )


def pipe(model, data, *words):
    process = stream(model, *words)
    out, err = process.communicate(data, timeout=60)
    assert b"Traceback" not in err
    return process.returncode, out, err.decode()


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(toy16, number, code):
    process = stream(toy16)
    process.stdin.write(bytes(65536))
    assert os.read(process.stdout.fileno(), 10)
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert b"Traceback" not in err


def test_a_full_disk(toy16):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        words = [sys.executable, "-m", "audiomask", "stream", "-m", str(toy16)]
        done = subprocess.run(words, input=bytes(65536), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"standard output: cannot be written (No space left on device); make room" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--rate", "100"], "--rate 100: is outside 4000 to 768000 Hz"),
        (["--channels", "1000"], "--channels 1000: are more than 128"),
        (["--channels", "0"], "0 is less than 1"),
        (["--block", "-1"], "--block -1.0: is outside"),
        (["--block", "nan"], "--block nan: is outside"),
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
