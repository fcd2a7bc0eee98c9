"""audiomask.runtime.net.sockets: what clients do wrong is told and counted, and harms no other."""

import asyncio
import contextlib
import gc
import json
import socket
import struct
import threading
import time
import weakref

import numpy as np
import pytest
from serving import client, close_to, ending, frame, model, offline, pour, sound, wait

from audiomask.runtime.net import listener, sockets
from audiomask.runtime.session import Session

HELLO = {"type": "hello"}


@pytest.mark.parametrize(
    ("messages", "code", "close"),
    [
        ([b"\0\0\0\0"], "unexpected", 1003),
        (["no json"], "bad_message", 1007),
        (["[]"], "bad_message", 1007),
        (["[" * 60000], "bad_message", 1007),
        (['{"type": 1}'], "bad_message", 1007),
        (["x" * 70000], "too_big", 1009),
        ([{"type": "flush"}], "unexpected", 1003),
        ([HELLO | {"model": "nobody"}], "bad_value", 1007),
        ([HELLO | {"model": ["toy"]}], "bad_value", 1007),
        ([HELLO | {"rate": 100}], "bad_value", 1007),
        ([HELLO | {"rate": True}], "bad_value", 1007),
        ([HELLO | {"rate": 1e4}], "bad_value", 1007),
        ([HELLO | {"format": "mp3"}], "bad_value", 1007),
        ([HELLO | {"channels": 0}], "bad_value", 1007),
        ([HELLO | {"channels": 9}], "bad_value", 1007),
        ([HELLO | {"channels": 1, "model": "array3"}], "bad_value", 1007),
        ([HELLO | {"dry": 2}], "bad_value", 1007),
        ([HELLO | {"dry": 10**400}], "bad_value", 1007),
        (['{"type": "hello", "dry": NaN}'], "bad_value", 1007),
        ([HELLO | {"controls": {"strength": 2}}], "bad_value", 1007),
        ([HELLO | {"controls": {"strength": {}}}], "bad_value", 1007),
        ([HELLO | {"controls": {"dry": 0.5}}], "bad_value", 1007),
        ([HELLO | {"controls": {"volume": 2}}], "bad_value", 1007),
        ([HELLO | {"volume": 2}], "bad_value", 1007),
        ([HELLO | {"version": 2}], "bad_value", 1007),
        ([HELLO | {"controls": {"self": 2}}], "bad_value", 1007),
        (['{"type": "hello", "\\ud800": 1}'], "bad_value", 1007),
        (['{"type": "hello", "model": "\\ud800"}'], "bad_value", 1007),
        ([HELLO, HELLO], "unexpected", 1003),
        ([HELLO, {"type": "sing"}], "unexpected", 1003),
        ([HELLO, {"type": "set", "controls": {"strength": "loud"}}], "bad_value", 1007),
        ([HELLO, {"type": "set", "dry": "much"}], "bad_value", 1007),
        ([HELLO, {"type": "set", "bypass": 1}], "bad_value", 1007),
        ([HELLO, {"type": "flush", "now": True}], "bad_value", 1007),
        ([HELLO, b"RI", b"FF\x24\0\0\0WAVEfmt "], "no_samples", 1007),
        ([HELLO, b"fLaC" + bytes(40)], "no_samples", 1007),
        ([HELLO, b"\0\0\0\x18ftypM4A " + bytes(8)], "no_samples", 1007),
        (
            [HELLO, b"<!doctype html><html><head><title>The page was not found</title></head></html>"],
            "no_samples",
            1007,
        ),
        ([HELLO, bytes(2**20 + 1)], None, 1009),
    ],
)
def test_errors_say_why_and_close(running, messages, code, close):
    before = running.count("errors_total", code or "too_big")
    with running.open() as ws:
        for message in messages:
            ws.send(json.dumps(message) if isinstance(message, dict) else message)
        error, closed = ending(ws)
    assert closed == close
    assert (error or {}).get("code") == code  # the last message before the end may be "ready"
    wait(lambda: running.count("errors_total", code or "too_big") == before + 1)
    wait(lambda: not running.service.sockets)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "protocol"),
        (frame(b"\xff\xfe", 1), "bad_message"),
        (frame(b"", length=2**62), "too_big"),
        (frame(b"abc", 3), "protocol"),
    ],
)
def test_garbage_ends_only_its_own_socket(running, noise, data, code):
    before = running.count("errors_total", code)
    with running.open({}) as ws:
        wire = running.raw({})
        ws.send(noise(1, 1000).astype("<f4").tobytes())
        wire.sendall(data)
        wait(lambda: running.count("errors_total", code) == before + 1)
        wait(lambda: len(running.service.sockets) == 1)
        ws.send('{"type": "flush"}')
        assert sound(ws)[1]["samples_out"] == 1000
        wire.close()


def test_a_client_that_vanishes_in_the_middle_of_a_frame(running):
    for reset in (False, True):
        wire = running.raw({})
        wait(lambda: len(running.service.sockets) == 1)
        wire.sendall(frame(bytes(40000)) + frame(bytes(3000), length=40000))
        if reset:  # RST instead of FIN
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.close()
        wait(lambda: not running.service.sockets)
    assert not running.service.workers[0].load


def test_a_slow_reader_is_stopped_then_closed_and_harms_nobody(serve, swift, noise, monkeypatch):
    running = serve(swift, max_rate=1e6)
    wire = running.raw({})
    (slow,) = running.service.sockets
    pour(wire, lambda: running.count("overflows_total"))
    assert slow._size <= 2 * sockets.OUTBOX
    assert len(slow.stream.inbox) <= sockets.INBOX + 2**17
    with running.open({}) as ws:
        x = noise(1, 4000)
        ws.send(x.astype("<f4").tobytes())
        ws.send('{"type": "flush"}')
        assert close_to(sound(ws)[0], x[0])
    monkeypatch.setattr(sockets, "SLOW_S", 0.5)
    wait(lambda: running.count("errors_total", "slow_reader") == 1)
    wait(lambda: not running.service.sockets)
    wait(lambda: not running.server.server_state.connections)
    wire.close()


def test_a_client_that_vanishes_while_its_end_waits_for_room(serve, swift):
    running = serve(swift, max_rate=1e6)
    with running.raw({}) as wire:
        (one,) = running.service.sockets
        stream, sent = one.stream, 0
        while not stream.choked:
            wire.sendall(frame(bytes(4096)))
            sent += 1024
            wait(lambda: stream.samples_in == sent and not stream.flying)  # noqa: B023
        wire.sendall(frame(b'{"type": "flush"}', 1))
        wait(lambda: stream.ending)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait(lambda: not running.service.sockets)
    wait(lambda: not running.server.server_state.tasks)


def test_tiny_messages_are_taken_a_thousand_a_second(serve):
    running = serve()
    begin = time.monotonic()
    with running.raw({}) as wire:
        wire.sendall(frame(b"\0") * 3000)
        wait(lambda: running.count("messages_total") > 500)
        (one,) = running.service.sockets
        handled, passed = running.count("messages_total"), time.monotonic() - begin
        assert handled <= 1000 * (1 + passed) + 1
        wait(lambda: running.count("messages_total") == 3000)
        assert time.monotonic() - begin >= 2 - 0.01
        wait(lambda: one.stream.samples_in == 750)


@pytest.mark.parametrize("piece", [frame(bytes(125), 9), frame(b"", 10), b"\0\x80" + bytes(4)])
def test_a_flood_of_frames_that_are_no_messages_is_cut(serve, piece):
    """Pings, pongs, and empty parts of a message without end."""
    running = serve()
    with running.raw({}) as wire:
        with contextlib.suppress(ConnectionError):
            wire.sendall(b"\x02\x80" + bytes(4) if piece[0] == 0 else b"")
            for _ in range(50):
                wire.sendall(piece * 100)
        wait(lambda: running.count("errors_total", "flood") == 1)
        wait(lambda: not running.service.sockets)


def test_pings_of_a_client_that_does_not_read_hold_no_memory(serve, monkeypatch):
    monkeypatch.setattr(listener, "MAX_MESSAGES", 10**9)
    running = serve()
    with running.raw({}) as wire:
        (one,) = running.server.server_state.connections
        for _ in range(80):
            wire.sendall(frame(bytes(125), 9) * 1000)
        wire.sendall(frame(b"last", 9) + frame(bytes(4)))
        wait(lambda: running.count("messages_total") == 1)
        assert one.transport.get_write_buffer_size() < 2**18
        got = b""
        while not got.endswith(b"\x8a\x04last"):
            got += wire.recv(2**20)


def test_sockets_that_come_together_are_spread_over_the_threads(serve, monkeypatch):
    together = threading.Barrier(2)

    class Slow(Session):
        def __init__(self, *args, **options):
            together.wait(20)
            super().__init__(*args, **options)

    running = serve(threads=2)
    monkeypatch.setattr(sockets, "Session", Slow)
    with running.open() as a, running.open() as b:
        for ws in (a, b):
            ws.send(json.dumps(HELLO))
        assert [json.loads(ws.recv(20))["type"] for ws in (a, b)] == ["ready", "ready"]
        assert [worker.load for worker in running.service.workers] == [1, 1]


def test_connections_that_ask_for_nothing_are_cut(serve, monkeypatch):
    monkeypatch.setattr(listener, "HELLO_S", 0.3)
    running = serve()
    host, _, port = running.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        wire.sendall(b"GET /health HTTP/1.1\r\n")  # and never the rest
        assert wire.recv(1) == b""
    assert not running.server.server_state.connections


def test_silence_is_ended(serve, monkeypatch):
    monkeypatch.setattr(sockets, "HELLO_S", 0.2)
    running = serve(idle_s=0.5)
    with running.open() as ws:
        error, code = ending(ws)
        assert (error["code"], code) == ("hello_timeout", 1008)
    with running.open({}) as ws:
        error, code = ending(ws)
        assert (error["code"], code) == ("idle", 1008)
    assert running.count("errors_total", "idle") == 1


def test_two_hundred_at_once(serve, noise):
    """20 sockets are allowed: the others are told so or dropped, and the live one beside them goes on."""
    running = serve(max_sockets=20)
    x = noise(1, 16000)

    async def visitor():
        try:
            await client(running.host, x[:, :1000], {}, [1000])
            return "served"
        except AssertionError as error:
            return "told" if "'code': 'full'" in str(error) else str(error)
        except Exception:
            return "dropped"

    async def crowd():
        live = asyncio.create_task(client(running.host, x, {}, [256], 0.002))
        await asyncio.sleep(0.1)
        return await asyncio.gather(live, *(visitor() for _ in range(200)))

    y, *visitors = asyncio.run(crowd())
    assert close_to(y, offline(model(running), x))
    assert set(visitors) <= {"served", "told", "dropped"}
    assert visitors.count("served") >= 19
    wait(lambda: not running.service.sockets)
    wait(lambda: not running.server.server_state.connections)
    refused = running.count("refused_total", "full") + running.count("refused_total", "connections")
    assert refused == 200 - visitors.count("served")
    assert running.count("sockets_total") == 1 + visitors.count("served")
    wait(lambda: not running.server.server_state.tasks)


def test_nothing_is_left_of_sockets_that_have_gone(running, noise, monkeypatch):
    monkeypatch.setattr(sockets, "CLOSE_S", 0.5)
    born = []

    class Watched(Session):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            born.append(weakref.ref(self))

    monkeypatch.setattr(sockets, "Session", Watched)
    for turn in range(12):
        block = noise(1, 1000).astype("<f4").tobytes()
        if turn % 3 == 2:
            with running.raw({}) as wire:
                wire.sendall(frame(block))
        else:
            with running.open({}) as ws:
                ws.send(block)
                ws.send(("garbage", '{"type": "close"}')[turn % 3])
                ending(ws)
    wait(lambda: not running.service.sockets and not running.server.server_state.tasks)
    wait(lambda: gc.collect() is not None and not any(ref() for ref in born))
    assert len(born) == 12
    assert not running.service.workers[0]._ready
    assert running.service.workers[0].load == 0


def test_a_model_that_raises_ends_its_own_stream(serve, noise):
    running = serve()
    with running.open({}) as good, running.open({}) as bad:
        streams = {s.stream.session: s for s in running.service.sockets}
        bad.send(noise(1, 100).astype("<f4").tobytes())
        wait(lambda: any(s.stream.samples_in for s in streams.values()))
        (session,) = (k for k, s in streams.items() if s.stream.samples_in)
        session.channels = 7  # no block fits it any more
        bad.send(bytes(4096))
        good.send(bytes(4096))
        error, code = ending(bad)
        assert (error["code"], code) == ("internal", 1011)
        good.send('{"type": "flush"}')
        assert sound(good)[1]["samples_out"] == 1024
    assert len(running.reports) == 1
    assert running.count("errors_total", "internal") == 1


def test_faults_of_a_model_are_muted_told_and_counted(serve, tmp_path, toys):
    running = serve(toys.build(tmp_path / "loud.onnx", name="loud", gains=(3e38,)))
    with running.open({}) as ws:
        ws.send(np.full(1000, 2, "<f4").tobytes())
        ws.send('{"type": "flush"}')
        y, report = sound(ws)
    assert not y.any()
    assert report["faults"] >= 1
    wait(lambda: running.count("faults_total") == report["faults"])
    assert f"audiomask_faults_total {report['faults']}" in running.get("/metrics").body.decode()
