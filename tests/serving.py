"""A server in a thread of the test, and clients for it."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
from websockets.asyncio.client import connect as aconnect
from websockets.sync.client import connect

from audiomask.runtime.net import listener
from audiomask.runtime.net.server import Service, Settings, offer, offer_codecs
from audiomask.runtime.session import Session


class Running:
    """``names``: models; ``settings``: what differs from the defaults."""

    def __init__(self, *names, **settings):
        names = [str(name) for name in names]
        self.families, codecs = offer(names), offer_codecs(names)
        self.reports = []
        self.service = Service(
            self.families, replace(Settings(), **settings), self.reports.append, codecs=codecs
        )
        self.server = listener.server(self.service, certificate=None, key=None, say=lambda text: None)
        self.listening = listener.bind("127.0.0.1", 0)
        self.host = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.thread = threading.Thread(target=listener.run, args=(self.server, self.listening), daemon=True)
        self.thread.start()
        wait(lambda: self.server.started)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()

    @contextlib.contextmanager
    def open(self, hello=None, **options):
        """A websocket, its hello said; the answer is its attribute ``ready``."""
        with connect(f"ws://{self.host}/ws", compression=None, max_size=None, proxy=None, **options) as ws:
            if hello is not None:
                ws.send(json.dumps({"type": "hello", **hello}))
                ws.ready = json.loads(ws.recv(20))
            yield ws

    def get(self, path, method="GET", **headers):
        """An object with status, headers, body."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://{self.host}{path}", headers=names, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                answer.body = answer.read()
                return answer
        except urllib.error.HTTPError as error:
            error.body = error.read()
            return error

    def count(self, name, label=""):
        return self.service.counters.values[name].get(label, 0)

    def raw(self, hello=None):
        """A bare TCP connection after the handshake, and after the hello if there is one."""
        host, _, port = self.host.partition(":")
        wire = socket.socket()
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**15)  # what it does not read is soon felt
        wire.settimeout(20)
        wire.connect((host, int(port)))
        wire.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {self.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in wire.recv(4096):
            pass
        if hello is not None:
            wire.sendall(frame(json.dumps({"type": "hello", **hello}).encode(), 1))
            wire.recv(4096)
        return wire


def pour(wire, until, most=2**28):
    """Send zeros and read nothing, until it holds."""
    wire.settimeout(0.1)
    sent, block = 0, frame(bytes(2**16))
    while not until():
        with contextlib.suppress(TimeoutError):
            sent += wire.send(block[sent % len(block) :])
        assert sent < most


def frame(data, opcode=2, length=None):
    """A client's frame, masked with zeros; ``length``: another one than it has."""
    size = len(data) if length is None else length
    head = bytes([0x80 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return head + bytes(4) + data


def wait(condition, seconds=20):
    """Until it holds; it must within ``seconds``, which only a failing test uses up."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def sound(ws, dtype="<f4"):
    """What comes until the next text, and that text: ``[n]`` interleaved samples, a dict."""
    parts = []
    while True:
        message = ws.recv(20)
        if isinstance(message, str):
            return np.frombuffer(b"".join(parts), dtype), json.loads(message)
        parts.append(message)


def ending(ws):
    """The error that comes, if any, and the code of the close."""
    error = None
    with contextlib.suppress(Exception):
        while True:
            message = ws.recv(20)
            if isinstance(message, str):
                error = json.loads(message)
    return error, ws.close_code


def offline(artifact, x, **options):
    """``x [C, T]`` as one block."""
    session = Session(artifact, channels=x.shape[0], **options)
    return np.concatenate((np.atleast_2d(session.feed(x)), np.atleast_2d(session.flush())), axis=1)


async def client(host, x, hello, sizes, pause=0.0):
    """``x [C, T]`` in blocks of ``sizes`` frames, again and again, to what comes back ``[C, T]``."""
    data, at = x.T.astype("<f4").tobytes(), 0
    parts = []
    async with aconnect(f"ws://{host}/ws", compression=None, max_size=None, proxy=None) as ws:
        await ws.send(json.dumps({"type": "hello", "channels": x.shape[0], **hello}))
        ready = json.loads(await ws.recv())
        assert ready["type"] == "ready", ready

        async def play():
            nonlocal at
            turn = 0
            while at < len(data):
                size = sizes[turn % len(sizes)] * 4 * x.shape[0]
                await ws.send(data[at : at + size])
                at, turn = at + size, turn + 1
                await asyncio.sleep(pause)
            await ws.send('{"type": "flush"}')

        playing = asyncio.create_task(play())
        while not isinstance(message := await ws.recv(), str):
            parts.append(message)
        await playing
    assert json.loads(message)["samples_out"] == x.shape[1], message
    return np.frombuffer(b"".join(parts), "<f4").reshape(-1, x.shape[0]).T


def model(running, name="toy_16k"):
    return running.service.artifacts[name]


def close_to(y, wanted):
    return y.shape == wanted.shape and np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max()
