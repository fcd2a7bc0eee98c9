"""audiomask.runtime.net.server: the sound is the offline sound, and no client harms another."""

import asyncio
import json
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import small_artifacts
from serving import Running, client, close_to, ending, model, offline, pour, sound, wait
from websockets.exceptions import InvalidStatus

from audiomask.runtime import catalogue
from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.net import server as server_module
from audiomask.runtime.net.listener import bind
from audiomask.runtime.session import Session


def test_ready_says_what_a_client_has_to_know(running):
    with running.open({"rate": 44100, "channels": 2}) as ws:
        session = Session(model(running, "toy_48k"), sample_rate=44100, channels=2)
        controls = {"strength": {"minimum": 0, "maximum": 1, "default": 1, "unit": "", "doc": ""}}
        assert ws.ready == {
            "type": "ready",
            "version": 1,
            "model": "toy_48k",
            "rate": 44100,
            "format": "f32le",
            "channels": 2,
            "output": "enhanced",
            "outputs": 2,
            "rate_out": 44100,
            "hop": session.hop,
            "delay": session.delay,
            "latency": session.latency,
            "controls": controls,
        }


def test_frames_may_be_cut_anywhere_even_inside_a_sample(running, noise):
    x = noise(2, 5001)
    data = x.T.astype("<f4").tobytes()
    with running.open({"rate": 16000, "channels": 2}) as ws:
        for cut in range(0, len(data), 1003):
            ws.send(data[cut : cut + 1003])
        ws.send('{"type": "flush"}')
        y, report = sound(ws)
        assert close_to(y.reshape(-1, 2).T, offline(model(running), x))
        assert report == {
            "type": "flushed",
            "samples_in": 5001,
            "samples_out": 5001,
            "cleaned": 0,
            "faults": 0,
            "clipped": 0,
        }
        ws.send(data[: 8 * 1000] + b"\0\0\0")  # a new signal; the end of it is no whole frame
        ws.send('{"type": "close"}')
        y, report = sound(ws)
        assert close_to(y.reshape(-1, 2).T, offline(model(running), x[:, :1000]))
        assert (report["samples_in"], ending(ws)) == (1000, (None, 1000))


def test_s16le_clips_and_says_so_and_nan_is_cleaned(running, noise):
    x = np.rint(noise(1, 3000) * 32768).astype("<i2")
    with running.open({"format": "s16le"}) as ws:
        ws.send(x.tobytes())
        ws.send('{"type": "flush"}')
        y, _ = sound(ws, "<i2")
        assert np.abs(y - offline(model(running), x / np.float32(32768))[0] * 32768).max() <= 0.51
    before = running.count("cleaned_samples_total")
    with running.open({"controls": {"strength": 0}}) as ws:
        ws.send(np.array([0.5, np.nan, np.inf, -np.inf], "<f4").tobytes())
        ws.send('{"type": "flush"}')
        y, report = sound(ws)
        assert list(y) == [0.5, 0, 0, 0]
        assert report["cleaned"] == 3
        ws.send(bytes(16))
        ws.send('{"type": "flush"}')
        assert sound(ws)[1]["cleaned"] == 0
    wait(lambda: running.count("cleaned_samples_total") == before + 3)


def test_several_microphones_become_one(running, noise, toys):
    x = noise(3, 2000)
    with running.open({"model": "array3"}) as ws:
        assert (ws.ready["channels"], ws.ready["outputs"]) == (3, 1)
        ws.send(x.T.astype("<f4").tobytes())
        ws.send('{"type": "flush"}')
        y, report = sound(ws)
    assert close_to(y[None], offline(model(running, "array3"), x))
    assert report["samples_out"] == 2000


def test_of_several_sounds_one_is_heard(serve, tmp_path, noise):
    running = serve(*(small_artifacts.build(tmp_path, name) for name in ("stems", "dither")))
    x = noise(1, 3000)
    with running.open({}) as ws:
        assert ws.ready["code"] == "bad_value"
        assert ws.ready["message"].endswith("which one is heard: vocals drums bass other")
        assert ending(ws) == (None, 1007)
    with running.open({"output": "piano"}) as ws:
        assert "has no output 'piano' of sound; it has: vocals drums bass other" in ws.ready["message"]
    for hello in ({"output": "bass"}, {"output": "vocals"}, {"model": "dither"}):
        with running.open(hello) as ws:
            output = hello.get("output", "sound")
            assert (ws.ready["output"], ws.ready["outputs"]) == (output, 1)
            ws.send(x.astype("<f4").tobytes())
            ws.send('{"type": "flush"}')
            want = offline(model(running, hello.get("model", "stems")), x, output=output)
            assert close_to(sound(ws)[0][None], want)


@pytest.mark.parametrize(("rate", "channels"), [(16000, 2), (44100, 1)])
def test_stems_are_turned(serve, tmp_path, noise, rate, channels):
    running = serve(small_artifacts.build(tmp_path, "cinema", task="separate"))
    x, gains = noise(channels, 6000), {"speech": -20, "music": None}
    hello = {"rate": rate, "channels": channels, "gains": gains}
    with running.open(hello) as ws:
        assert (ws.ready["output"], ws.ready["outputs"]) == ("remix", channels)
        assert ws.ready["gains"] == {"speech": -20, "music": None, "effects": 0}
        ws.send(x.T.astype("<f4").tobytes())
        ws.send('{"type": "flush"}')
        how = {"sample_rate": rate, "gains": {"speech": -20, "music": -np.inf}}
        want = offline(model(running, "cinema"), x, **how)
        assert close_to(sound(ws)[0].reshape(-1, channels).T, want)
        ws.send('{"type": "set", "gains": {"speech": 0, "music": 0}}')
        ws.send(x.T.astype("<f4").tobytes())
        ws.send('{"type": "flush"}')
        np.testing.assert_array_equal(sound(ws)[0].reshape(-1, channels).T, x)
        ws.send('{"type": "set", "gains": {"choir": 1}}')
        error, code = ending(ws)
        assert "has no sound 'choir' to turn; it has: speech music effects" in error["message"]
        assert code == 1007


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        ({"gains": {"music": 99}}, "gain music = 99 dB is outside -inf to 24"),
        ({"gains": {"music": "loud"}}, "loud"),
        ({"gains": {"music": 10**400}}, "too large"),
        ({"gains": [1]}, "gains is '[1]', of a wrong type"),
        ({"gains": {}, "output": "music"}, "output 'music' is one sound by itself, and gains are of all"),
        ({"gains": {}, "mark": {"key": "0" * 32}}, "packets, output, gains, speakers, codec and mark"),
        ({"speakers": 3, "mark": {"key": "0" * 32}}, "packets, output, gains, speakers, codec and mark"),
        ({"speakers": -1}, "speakers -1 are not the bits of a layout, 0 to 262143"),
        ({"speakers": 2**18}, "speakers 262144 are not the bits of a layout"),
        ({"model": "upsampler", "gains": {}}, "does not make of a sound others of its kind"),
    ],
)
def test_gains_that_cannot_be(serve, tmp_path, hello, words):
    running = serve(*(small_artifacts.build(tmp_path, name) for name in ("cinema", "upsampler")))
    with running.open(hello) as ws:
        assert (ws.ready["code"], words in ws.ready["message"]) == ("bad_value", True), ws.ready


def test_sessions_without_gains_take_none(running):
    with running.open({}) as ws:
        ws.send('{"type": "set", "gains": {"enhanced": 1}}')
        assert "has no sound 'enhanced' to turn; it was made without gains" in ending(ws)[0]["message"]


def test_an_output_at_another_rate(serve, tmp_path, noise):
    """It is counted in seconds of its own rate, and has no dry sound to be mixed with."""
    running = serve(small_artifacts.build(tmp_path, "upsampler"))
    x = noise(1, 4410)
    with running.open({"rate": 44100}) as ws:
        assert (ws.ready["rate"], ws.ready["rate_out"]) == (44100, 48000)
        ws.send(x.astype("<f4").tobytes())
        ws.send('{"type": "flush"}')
        y, report = sound(ws)
        assert close_to(y[None], offline(model(running, "upsampler"), x, sample_rate=44100))
        assert (report["samples_in"], report["samples_out"]) == (4410, 4800)
        ws.send('{"type": "set", "dry": 0.5}')
        assert ending(ws)[0]["code"] == "bad_value"
    assert running.count("audio_seconds_total", "out") == pytest.approx(0.1)


def test_many_streams_at_once_are_each_the_offline_sound(running, noise):
    rates = (16000, 48000, 44100, 8000)
    jobs = [(noise(1 + i % 2, 4000 + 100 * i, i), rates[i % 4], [160 + 7 * i, 1, 900]) for i in range(16)]

    async def all_of_them():
        return await asyncio.gather(
            *(client(running.host, x, {"rate": rate}, sizes, 0.001) for x, rate, sizes in jobs)
        )

    for (x, rate, _), y in zip(jobs, asyncio.run(all_of_them()), strict=True):
        assert close_to(
            y, offline(model(running, "toy_48k" if rate > 16000 else "toy_16k"), x, sample_rate=rate)
        )
    histogram = running.service.counters.histograms["stacked_rows"]
    assert histogram.sum > sum(histogram.counts), "no two streams ever shared a turn"


def test_controls_change_where_they_are_sent(running, noise):
    """What is sent before a change has the old value: the model's strength turned from 1 to 0."""
    x = noise(1, 256 * 40)
    data = x.astype("<f4").tobytes()
    with running.open({}) as ws:
        ws.send(data[: len(data) // 2])
        ws.send('{"type": "set", "controls": {"strength": 0}}')
        ws.send(data[len(data) // 2 :])
        ws.send('{"type": "flush"}')
        y, _ = sound(ws)
    half = x.shape[1] // 2
    wet = offline(model(running), x)[0]
    assert close_to(y[: half - 256], wet[: half - 256])
    assert close_to(y[half + 512 :], x[0, half + 512 :])
    with running.open({"dry": 1}) as ws:
        ws.send(data)
        ws.send('{"type": "flush"}')
        assert close_to(sound(ws)[0], x[0])


# Who may come in


def test_origins(serve):
    running = serve(origins=("https://friend.example",))
    host = running.host
    for origin in (None, f"http://{host}", "https://friend.example"):
        with running.open({}, origin=origin):
            pass
    for origin in ("http://evil.example", "null", "https://friend.example.evil", "http://[::1"):
        with pytest.raises(InvalidStatus, match="403"), running.open({}, origin=origin):
            pass
    assert running.count("refused_total", "origin") + running.count("refused_total", "host") == 4
    assert running.get("/models", Host="evil.example").status == 403  # a name that leads to 127.0.0.1
    assert running.get("/health", Host="localhost:1").status == 200


def test_tokens(serve):
    running = serve(token="correct horse battery")
    right = {"additional_headers": {"Authorization": "Bearer correct horse battery"}}
    wrong = {"additional_headers": {"Authorization": "Bearer wrong"}}
    for hello, options in (({}, right), ({"token": "correct horse battery"}, {})):
        with running.open(hello, **options) as ws:
            assert ws.ready["type"] == "ready"
    with pytest.raises(InvalidStatus, match="401"), running.open({}, **wrong):
        pass
    for hello in ({}, {"token": "wrong"}, {"token": "корректно"}, {"token": "\ud800"}):
        with running.open(hello) as ws:
            assert (ws.ready["code"], ending(ws)[1]) == ("unauthorized", 1008)
    assert running.count("errors_total", "unauthorized") == 4
    assert running.count("refused_total", "token") == 1
    for path in ("/metrics", "/models", "/models/toy_16k.onnx"):
        assert running.get(path).status == 401
        assert running.get(path, Authorization="Bearer correct horse battery").status == 200
    assert running.get("/health").status == 200


def test_answers_do_not_wait_for_the_next_block():
    """Asyncio turns Nagle's algorithm off where the listening socket says that it is of TCP."""
    with bind("127.0.0.1", 0) as listening:
        listening.listen()
        assert listening.proto == socket.IPPROTO_TCP
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.proto == socket.IPPROTO_TCP


# Pages


def test_health_metrics_and_models(running, toy16, noise):
    with running.open({}) as ws:
        ws.send(noise(1, 20000).astype("<f4").tobytes())
        ws.send('{"type": "flush"}')
        sound(ws)
    wait(lambda: not running.service.sockets)
    health = json.loads(running.get("/health").body)
    assert health["status"] == "ok"
    assert health["models"] == ["toy_16k", "toy_48k", "array3"]
    text = running.get("/metrics").body.decode()
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) audiomask_\w+ .+|audiomask_\w+(\{\w+="[^"]+"\})? \S+', line), line
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert float(samples["audiomask_sockets"]) == 0
    assert float(samples['audiomask_audio_seconds_total{direction="in"}']) > 1
    buckets = [float(v) for k, v in samples.items() if k.startswith("audiomask_block_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == float(samples["audiomask_block_seconds_count"]) > 0
    entry = json.loads(running.get("/models").body)[0]
    meta = model(running).meta
    for key in ("task", "sample_rate", "hop", "delay", "latency", "inputs", "outputs", "states"):
        assert entry[key] == meta[key]
    answer = running.get(entry["url"])
    assert answer.body == toy16.read_bytes()
    assert answer.headers["Content-Type"] == "application/octet-stream"
    again = running.get(entry["url"], If_None_Match=answer.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert running.get("/models/nobody.onnx").status == 404
    assert running.get("/models/..%2F..%2Fetc%2Fpasswd.onnx").status == 404
    assert running.get("/health", method="POST").status == 405
    assert running.get("/").status == 404


def test_the_page_is_isolated_and_typed(serve, tmp_path):
    kinds = {
        "index.html": "text/html; charset=utf-8",
        "page.js": "text/javascript; charset=utf-8",
        "ort.mjs": "text/javascript; charset=utf-8",
        "ort.wasm": "application/wasm",
        "page.css": "text/css; charset=utf-8",
    }
    for name in kinds:
        (tmp_path / name).write_text(name)
    (tmp_path.parent / "secret").write_text("secret")
    running = serve(page=tmp_path)
    for name, kind in kinds.items():
        answer = running.get(f"/{name}")
        assert (answer.body.decode(), answer.headers["Content-Type"]) == (name, kind)
        for header, value in server_module.HEADERS.items():
            assert answer.headers[header] == value
    assert running.get("/").body == b"index.html"
    assert running.get("/../secret").status == 404
    assert running.get("/%2e%2e/secret").status == 404


# The end


def test_draining_gives_everybody_what_they_are_owed(serve, noise):
    running = serve()
    x = noise(1, 5000)
    with running.open({}) as ws, running.open() as silent:
        ws.send(x.astype("<f4").tobytes())
        wait(lambda: running.count("audio_seconds_total", "in") == 5000 / 16000)
        running.server.should_exit = True
        y, report = sound(ws)
        assert close_to(y, offline(model(running), x)[0])
        assert report["samples_out"] == 5000
        assert ending(ws) == (None, 1001)
        assert ending(silent) == (None, 1001)
    running.thread.join(20)
    assert not running.thread.is_alive()
    assert not [t for t in running.service.workers if t._thread.is_alive()]


def test_draining_while_a_client_has_asked_for_its_end(serve, swift):
    """Both ask for the same flush; the client, who does not read at first, gets one report."""
    running = serve(swift, max_rate=1e6)
    with running.open({}) as ws:
        (one,) = running.service.sockets
        one.stream.choked = True  # as if nothing had been read
        ws.send(bytes(4 * 1000))
        ws.send('{"type": "flush"}')
        wait(lambda: one.stream.ending)
        running.server.should_exit = True
        wait(lambda: running.service.draining and one._closing)
        one.stream.choked = False
        running.service.workers[0]._loop.call_soon_threadsafe(running.service.workers[0].wake, one.stream)
        y, report = sound(ws)
        assert (len(y), report["samples_in"], report["samples_out"]) == (1000, 1000, 1000)
        assert ending(ws) == (None, 1001)
    running.thread.join(20)
    assert not running.thread.is_alive()


def test_a_change_waits_for_nothing_but_the_sound_before_it(running, noise):
    """Bypass, and back, in the midst of a file that is sent at once."""
    x = noise(1, 256 * 60)
    data = x.astype("<f4").tobytes()
    with running.open({"bypass": True}) as ws:
        ws.send(data[: len(data) // 2])
        ws.send('{"type": "set", "bypass": false}')
        ws.send(data[len(data) // 2 :])
        ws.send('{"type": "flush"}')
        y, _ = sound(ws)
    half, wet = x.shape[1] // 2, offline(model(running), x)[0]
    assert np.abs(y[: half - 256] - x[0, : half - 256]).max() <= 1e-6
    assert close_to(y[half + 512 :], wet[half + 512 :])


def test_draining_does_not_wait_for_ever(serve, swift, monkeypatch):
    monkeypatch.setattr(server_module, "DRAIN_S", 1.0)
    running = serve(swift, max_rate=1e6)
    wire = running.raw({})
    pour(wire, lambda: running.count("overflows_total"))
    running.server.should_exit = True
    wait(lambda: running.service.draining)
    assert running.get("/health").status == 503
    with running.open() as ws:
        error, code = ending(ws)
        assert (error["code"], code) == ("draining", 1001)
    running.thread.join(20)
    assert not running.thread.is_alive()
    wire.close()


# Models


def test_what_is_offered(toy, tmp_path, toys):
    with pytest.raises(ArtifactError, match="rename one"):
        Running(toy, toy)
    deaf = toys.document(name="deaf")
    deaf["outputs"] = [{"name": "enhanced", "kind": "stream", "type": "probabilities", "rate": "1"}]
    path = toys.build(tmp_path / "deaf.onnx", metadata=json.dumps(deaf))
    with pytest.raises(ArtifactError, match="no audio-to-audio model"):
        Running(path)
    offered = [[a.name for a in family] for family in server_module.offer([])]
    assert offered[0] == [a.name for a in catalogue.resolve(None)]
    played = [a.name for a in catalogue.shipped() if a.task not in ("tag", "encode", "decode")]
    assert sorted(name for names in offered for name in names) == sorted(played)


def test_a_control_without_a_default_belongs_into_the_hello(toys, tmp_path):
    meta = toys.document()
    meta["inputs"][1]["default"] = None
    path = toys.build(tmp_path / "toy.onnx", metadata=json.dumps(meta))
    assert [port.name for port in Artifact.load(path).unset()] == ["strength"]
    server = Running(path)
    try:
        with server.open({}) as ws:
            assert ws.ready["code"] == "bad_value"
            assert "toy cannot run without strength; say it as one of controls" in ws.ready["message"]
        with server.open({"controls": {"strength": 0.5}}) as ws:
            assert ws.ready["type"] == "ready"
    finally:
        server.stop()


def test_a_damaged_model_is_named(toy16, toys, tmp_path, monkeypatch):
    from onnx import helper

    nonsense = [helper.make_node("NoSuchThing", ["x"], ["q"])]
    broken = toys.build(tmp_path / "broken.onnx", metadata=json.dumps(toys.document(name="broken")),
                        extra_nodes=nonsense)  # fmt: skip
    every = [Artifact.load(path) for path in (toy16, broken)]
    every += [
        Artifact.load(small_artifacts.build(tmp_path, n)) for n in ("encoder", "decoder")
    ]  # other verbs'
    monkeypatch.setattr(server_module, "shipped", lambda: every)
    monkeypatch.setattr(server_module, "resolve", lambda name: every[:1])
    refused = {}
    assert [[a.name for a in group] for group in server_module.offer([], refused)] == [[every[0].name]]
    assert list(refused) == ["broken"]
    assert refused["broken"].startswith("ONNX Runtime refuses it")
    service = server_module.Service([every[:1]], server_module.Settings(), refused=refused)
    health = asyncio.run(service._health(None))
    assert json.loads(health.body)["refused"] == refused


def test_no_torch_and_no_server_where_it_is_not_asked_for():
    code = (
        "import sys, audiomask.runtime.net.listener; "
        "print([m for m in ('torch', 'scipy', 'librosa') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
