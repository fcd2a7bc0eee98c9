"""Sockets of audiomask serve that mark, and that detect marks."""

import json
import math
import threading

import numpy as np
import pytest
import soundfile as sf
import soxr
from pages import ROOT
from serving import Running, close_to, ending, sound

from audiomask.runtime.marks.carrier import Carrier
from audiomask.runtime.marks.detector import Detection, Detector
from audiomask.runtime.marks.report import document
from audiomask.runtime.net.marking import Finder, is_marker
from audiomask.runtime.player import alone
from audiomask.runtime.session import Session

KEY, OTHER = "00112233445566778899aAbBcCdDeEfF", "ffeeddccbbaa99887766554433221100"
MARK = {"do": "mark", "key": KEY, "message": "beef"}
DETECT = {"do": "detect", "key": KEY}


@pytest.fixture(scope="module")
def server(toy16):
    running = Running(toy16, "hallmark")
    yield running
    running.stop()
    assert not running.reports


@pytest.fixture(scope="module")
def speech():
    x, rate = sf.read(ROOT / "egs/mini/denoise/corpus/demo/mixture_clean.flac", dtype="float32")
    return x, rate


def marked(x, rate, message=0xBEEF, key=KEY, **controls):
    """What a session makes of sound `[C, T]`, or `[T]`."""
    carrier = Carrier(bytes.fromhex(key)).wave(message)
    x = np.atleast_2d(x)
    controls = {"carrier": carrier, **controls}
    session = Session("hallmark", sample_rate=rate, channels=len(x), controls=controls)
    return np.concatenate([np.atleast_2d(y) for y in (session.feed(x), session.flush())], 1)


def detected(x, rate, key=KEY):
    detector = Detector(bytes.fromhex(key), rate, len(np.atleast_2d(x)))
    detector.feed(x)
    return document(detector.flush())


def agree(one, other):
    """Whether two documents are the same; p has some hundred decades, so it is their number that counts."""
    near = math.isclose(math.log(one["p"]), math.log(other["p"]), rel_tol=1e-3, abs_tol=1e-9)
    return near and one | {"p": 0} == other | {"p": 0}


def told(ws, x, sizes):
    """Send sound in blocks of so many bytes; return the reports on it, and what ends it."""
    data, at, n = np.atleast_2d(x).T.astype("<f4").tobytes(), 0, 0
    reports = []
    while at < len(data):
        ws.send(data[at : at + sizes[n % len(sizes)]])
        at, n = at + sizes[n % len(sizes)], n + 1
    ws.send('{"type": "flush"}')
    while (message := json.loads(ws.recv(20)))["type"] == "detected":
        del message["type"]
        reports.append(message)
    return reports, message


def test_a_socket_marks_as_a_session_does(server, speech):
    x = soxr.resample(np.stack((speech[0][:40000], speech[0][20000:60000]), 1), 16000, 44100).T
    data = x.T.astype("<f4").tobytes()
    with server.open({"rate": 44100, "channels": 2, "mark": {**MARK, "message": "BEEF"}}) as ws:
        assert ws.ready["mark"] == {"do": "mark", "message": "beef"}
        assert (ws.ready["model"], ws.ready["output"], ws.ready["outputs"]) == ("hallmark", "mark", 2)
        for _ in range(2):  # a second signal is marked alike
            for at in range(0, len(data), 7001):
                ws.send(data[at : at + 7001])
            ws.send('{"type": "flush"}')
            y, report = sound(ws)
            assert report["samples_out"] == x.shape[1]
            assert close_to(y.reshape(-1, 2).T, marked(x, 44100))
    assert 1e-4 < np.abs(marked(x, 44100) - x).max() < 0.1


def test_strength_is_set_before_and_while_sound_runs(server, speech):
    x = speech[0][None, :32000]
    for hello, half in (({"strength": 0}, x), ({"strength": 2}, marked(x, 16000, strength=2.0))):
        with server.open({"mark": {**MARK, **hello}}) as ws:
            ws.send(x[:, :16000].tobytes())
            ws.send('{"type": "set", "controls": {"strength": 0}}')
            ws.send(x[:, 16000:].tobytes())
            ws.send('{"type": "flush"}')
            y, _ = sound(ws)
        assert close_to(y[None, :15000], half[:, :15000])
        assert close_to(y[None, 18000:], x[:, 18000:])


def test_a_carrier_may_be_made_by_the_client(server, speech):
    """Then the server never learns the key."""
    x = speech[0][None, :16000]
    carrier = [round(float(c), 6) for c in Carrier(bytes.fromhex(KEY)).wave(0xBEEF)]
    with server.open({"model": "hallmark", "controls": {"carrier": carrier}}) as ws:
        ws.send(x.tobytes())
        ws.send('{"type": "flush"}')
        np.testing.assert_allclose(sound(ws)[0][None], marked(x, 16000), atol=1e-5)
    with server.open() as ws:
        ws.send('{"type": "hello", "model": "hallmark"}')
        assert "hallmark marks by a key; say mark in the hello" in ending(ws)[0]["message"]


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_socket_detects_as_a_detector_does(server, speech, rate):
    x = soxr.resample(speech[0], 16000, rate)
    spliced = x.copy()
    cut = slice(3 * rate, 7 * rate)
    spliced[cut] = marked(x, rate)[0, cut]
    want = detected(spliced, rate)
    assert (want["present"], want["message"]) == (True, "beef")
    with server.open({"rate": rate, "mark": {**DETECT, "every": 1}}) as ws:
        assert ws.ready["mark"] == {"do": "detect", "every": 1}
        assert (ws.ready["outputs"], ws.ready["output"], ws.ready["controls"]) == (0, None, {})
        for sizes in ([4096], [3, 50001, 999]):  # the second signal begins anew
            (*early, last), report = told(ws, spliced, sizes)
            assert agree(last, want)
            assert (report["samples_in"], report["samples_out"]) == (8 * rate, 0)
            at = [one["seconds"] for one in early]
            assert at == sorted(at)
            assert at[0] >= 1
            assert [one["present"] for one in early if one["seconds"] < 3] == [False] * sum(s < 3 for s in at)
            assert early[-1]["present"]
    with server.open({"rate": rate, "mark": {"do": "detect", "key": OTHER}}) as ws:
        *_, last = told(ws, spliced, [65536])[0]
    assert not last["present"]
    assert (last["message"], last["bits"], last["segments"], last["speed"]) == (None, [], [], None)


def test_stereo_silence_garbage_and_nothing(server, speech):
    x = marked(speech[0][:80000], 16000)
    both = np.concatenate((np.zeros_like(x), x))
    spoiled = both.copy()
    spoiled[0, 1000:1010] = np.nan
    with server.open({"channels": 2, "mark": DETECT}) as ws:
        assert agree(told(ws, both, [40000])[0][-1], detected(both, 16000))
        (*_, last), report = told(ws, spoiled, [40000])
        assert (last["message"], report["cleaned"]) == ("beef", 10)
        (last,), report = told(ws, np.zeros((2, 40000)), [40000])
        assert not last["present"]
        assert last["p"] > 0.01
        (last,), report = told(ws, np.zeros((2, 0)), [1])
        assert (last["p"], last["seconds"], report["samples_in"]) == (1.0, 0.0, 0)


def test_a_search_holds_up_no_live_stream(server, noise, monkeypatch):
    """Searches run in a thread of their own: one that never ends leaves all other sockets alone."""
    begun, go = threading.Event(), threading.Event()
    feed = Detector.feed

    def slow(self, block):
        begun.set()
        assert go.wait(20)
        feed(self, block)

    monkeypatch.setattr(Detector, "feed", slow)
    x = noise(1, 16000)
    with server.open({"mark": DETECT}) as ws, server.open({"mark": MARK}) as other:
        ws.send(x.tobytes())
        assert begun.wait(20)
        other.send(x.tobytes())
        other.send('{"type": "flush"}')
        assert sound(other)[1]["samples_out"] == 16000
        assert not go.is_set()
        go.set()
        ws.send('{"type": "flush"}')
        assert json.loads(ws.recv(20))["type"] == "detected"


def test_reports_grow_apart_with_the_signal(monkeypatch):
    """Each looks at all of the sound so far."""
    monkeypatch.setattr(Detector, "feed", lambda self, block: None)
    monkeypatch.setattr(Detector, "found", lambda self: Detection())
    finder = Finder(bytes(16), 16000, 1)
    at = [n for n in range(2 * 3600) if alone(finder.feeding(np.zeros((1, 16000), np.float32)))]
    apart = np.diff(at)
    assert (at[0], apart[0]) == (4, 5)  # s
    assert 0.9 * 0.02 * 7200 < apart[-1] < 0.03 * 7200
    assert len(at) < 300


def test_the_signal_of_a_client_that_leaves_is_dropped(server, speech):
    with server.open({"mark": DETECT}) as ws:
        ws.send(speech[0].tobytes())
    with server.open({"mark": DETECT}) as ws:
        ws.send(speech[0][:16000].tobytes())
        ws.send('{"type": "close"}')
        assert json.loads(ws.recv(20))["seconds"] == 1
        assert json.loads(ws.recv(20))["type"] == "flushed"
        assert ending(ws) == (None, 1000)


SECRETS = ("0011223344556677", "8899aabbccddeeff", "12345678901234567890")
WRONG = [
    ({"mark": {"do": "sing", "key": KEY}}, "do is none of mark detect"),
    ({"mark": {"do": "detect"}}, "key is not 32 hex digits"),
    ({"mark": DETECT | {"key": KEY[:31]}}, "key is not 32 hex digits"),
    ({"mark": DETECT | {"key": KEY + "\n"}}, "key is not 32 hex digits"),
    ({"mark": DETECT | {"key": KEY[:31] + "g"}}, "key is not 32 hex digits"),
    ({"mark": DETECT | {"key": 12345678901234567890}}, "key is of a wrong type"),
    ({"mark": DETECT | {"key": [KEY]}}, "key is of a wrong type"),
    ({"mark": KEY}, "mark is of a wrong type"),
    ({"mark": {"do": "detect", KEY: ""}}, "mark has do key message strength every, and nothing else"),
    ({"mark": {"do": "mark", "key": KEY}}, "message is not 1 to 4 hex digits"),
    ({"mark": MARK | {"message": "12345"}}, "message is not 1 to 4 hex digits"),
    ({"mark": MARK | {"message": "0x1f"}}, "message is not 1 to 4 hex digits"),
    ({"mark": MARK | {"message": KEY}}, "message is not 1 to 4 hex digits"),
    ({"mark": MARK | {"strength": 9}}, "strength = 9 is outside 0.0 to 4.0"),
    ({"mark": MARK | {"every": 2}}, "every is of who detects"),
    ({"mark": DETECT | {"message": "beef"}}, "message and strength are of who marks"),
    ({"mark": DETECT | {"every": 0.5}}, "every 0.5 s is outside 1 to 3600 s"),
    ({"mark": DETECT | {"every": float("nan")}}, "every nan s is outside"),
    ({"mark": DETECT, "controls": {"strength": 1}}, "who detects has no controls"),
    ({"mark": DETECT, "model": "toy_16k"}, "does not mark by a key; these do: hallmark"),
    ({"mark": MARK, "packets": {}}, "say mark alone"),
    ({"mark": MARK, "codec": {}}, "say mark alone"),
    ({"mark": MARK, "channels": 9}, "channels 9 are outside 1 to 8"),
    ({"token": 12345678901234567890}, "token is of a wrong type"),
]


@pytest.mark.parametrize(("hello", "words"), WRONG)
def test_hellos_that_make_no_sense(server, capfd, hello, words):
    with server.open() as ws:
        ws.send(json.dumps({"type": "hello", **hello}))
        error, close = ending(ws)
    assert (error["code"], close) == ("bad_value", 1007)
    assert words in error["message"]
    kept = json.dumps(error) + server.get("/metrics").body.decode() + server.get("/health").body.decode()
    kept = (kept + "".join(capfd.readouterr())).lower()
    assert not any(secret in kept for secret in SECRETS)


def test_a_key_is_nowhere_but_in_its_socket(server, speech, capfd):
    """Neither in what the server answers and writes, nor where a session fails."""
    with server.open({"mark": MARK}) as ws, server.open({"mark": DETECT}) as other:
        texts = [json.dumps(ws.ready), json.dumps(other.ready)]
        for each in (ws, other):
            each.send(speech[0][:16000].tobytes())
            each.send('{"type": "flush"}')
        texts += [json.dumps(sound(ws)[1]), other.recv(20), other.recv(20)]
        other.send('{"type": "set", "controls": {"strength": 1}}')
        texts.append(json.dumps(ending(other)[0]))
        texts += [
            server.get(path).body.decode(errors="replace") for path in ("/metrics", "/health", "/models")
        ]
    texts += capfd.readouterr()
    assert not any(secret in text.lower() for text in texts for secret in SECRETS)


def test_without_a_marker_nothing_is_marked_or_detected(running):
    for mark in (MARK, DETECT):
        with running.open() as ws:
            ws.send(json.dumps({"type": "hello", "mark": mark}))
            assert "no marks are offered here" in ending(ws)[0]["message"]


def test_markers_are_told_by_their_carrier(server, toy16):
    marker, other = (server.service.artifacts[name] for name in ("hallmark", "toy_16k"))
    assert is_marker(marker)
    assert not is_marker(other)
