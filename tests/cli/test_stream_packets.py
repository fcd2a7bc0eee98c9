"""audiomask stream --packets: records in whatever order, the sound in order out."""

import os
import signal
import struct

import concealer
import numpy as np
import pytest
from stream_pipe import pipe, stream


def record(number, x, dtype="<f4"):
    data = x.T.astype(dtype).tobytes()
    return struct.pack("<IH", number, len(data)) + data


def test_any_order_gives_the_sound_in_order(repeats, noise):
    x = noise(2, 160 * 40)
    pieces = [record((2**32 - 3 + n) % 2**32, x[:, 160 * n : 160 * (n + 1)]) for n in range(40)]
    order = [
        1,
        0,
        2,
        3,
        5,
        4,
        5,
        *range(7, 12),
        6,
        *range(12, 30),
        *range(35, 40),
    ]  # 6 is late, 30 to 34 lost
    data = b"".join(pieces[n] for n in order)
    words = ("--packets", "10", "--jitter", "30", "--channels", "2", "--format", "f32le")
    code, out, err = pipe(repeats, data, *words)
    assert code == 0, err
    lost = np.repeat([n == 6 or 30 <= n < 35 for n in range(40)], 160)
    assert np.array_equal(np.frombuffer(out, "<f4").reshape(-1, 2).T, concealer.repeat(x, lost))
    assert "packets of 10 ms; delay 32.5 ms (jitter 30 + model 2.5)" in err
    assert (
        "40 packets, 6 lost (15.0%); 36 received, of which 1 late, 1 duplicated, 2 reordered, 0 stray" in err
    )
    assert pipe(repeats, data, *words, "-q")[1:] == (out, "")


def test_other_rates_and_models_that_are_not_told(toy16, toys, noise):
    x = noise(1, 160 * 30)
    data = b"".join(record(n, x[:, 160 * n : 160 * (n + 1)]) for n in range(30) if n % 7 != 3)
    code, out, err = pipe(toy16, data, "--packets", "10", "--format", "f32le")
    assert code == 0
    assert "toy_16k is not told of losses; it gets silence for them" in err
    filled = x * np.repeat([n % 7 != 3 for n in range(30)], 160)
    assert np.abs(np.frombuffer(out, "<f4") - toys.lowpass(filled)[0]).max() < 1e-6
    code, out, err = pipe(toy16, data, "--packets", "20", "--rate", "8000", "--format", "f32le")
    assert (code, len(out)) == (0, 4 * 160 * 30)


def test_sound_comes_out_while_packets_come_in_and_sigterm_ends_it(repeat16, noise):
    x = noise(1, 320 * 10)
    process = stream(repeat16, "--packets", "20", "--jitter", "40", "--format", "f32le", "-q")
    process.stdin.write(b"".join(record(n, x[:, 320 * n : 320 * (n + 1)]) for n in range(10)))
    out = b""
    while len(out) < 4 * (320 * 8 - 40):
        out += os.read(process.stdout.fileno(), 65536)
    assert len(out) == 4 * (320 * 8 - 40)
    process.send_signal(signal.SIGTERM)
    rest, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, b"")
    assert np.array_equal(np.frombuffer(out + rest, "<f4"), x[0])


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", 0, "0 packets, 0 lost"),
        (record(0, np.zeros((1, 320)))[:-1], 0, "the last 1285 bytes were no whole packet; dropped"),
        (record(7, np.zeros((1, 300))), 1, "packet 7 has 1200 bytes, and 20 ms are 1280; check --packets"),
    ],
)
def test_what_is_no_whole_record(repeat16, data, code, words):
    got, out, err = pipe(repeat16, data, "--packets", "20", "--format", "f32le")
    assert (got, out) == (code, b"")
    assert words in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--packets 0.5", "packets of 0.5 ms are outside 1 to 200 ms"),
        ("--packets 20 --jitter -1", "jitter of -1 ms are outside 0 to 2000 ms"),
        ("--packets 20 --block 10", "--block 10: packets are the blocks"),
        ("--jitter 60", "--jitter 60: is for packets; give --packets MS"),
        ("--packets 200 --rate 48000 --channels 8", "--packets 200: are 153600 bytes; a record holds 65535"),
        ("", ": conceals losses that it is told of; give --packets MS"),
    ],
)
def test_usage(repeats, options, words):
    words_ = options.split()
    if "--rate" not in words_:
        words_ += ["--rate", "48000"]
    code, out, err = pipe(repeats, b"", *words_)
    assert (code, out) == (2, b"")
    assert words in err
