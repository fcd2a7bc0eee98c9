"""Serve an application on a port, with limited connections, TLS and a clean end on a signal."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from audiomask.audio import AudioError
from audiomask.runtime.net.server import Service
from audiomask.runtime.net.sockets import HELLO_S, MAX_MESSAGES

READ = 2**14  # bytes taken from a connection at a time
MAX_MESSAGE = 2**20  # bytes: 16 s of one channel at 16 kHz in f32le
KERNEL = 2**18  # bytes that the system holds per connection and direction; by default it goes to megabytes
SPARE = 64  # connections beside the sockets: pages, metrics, and clients that are refused when all are taken
HTTP_S = 300.0  # limit of a connection that is no socket: it gets a page and its models, over a slow line


class Http(H11Protocol):
    """A protocol that bounds the number of connections, and the time of one that is no socket."""

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.born = self.loop.time()
        service: Service = self.config.app  # type: ignore[assignment]
        if len(self.connections) > 2 * service.settings.max_sockets + SPARE:
            service.counters.add("refused_total", label="connections")
            transport.abort()

    def check(self, now: float) -> None:
        """End a connection that requests nothing or stays for ever; this runs once a second."""
        if now - self.born > (HELLO_S if self.cycle is None else HTTP_S):
            self.transport.abort()


class Wire(WebSocketsSansIOProtocol):
    """A protocol that bounds what the application does not see: pings, pongs, parts of messages."""

    _beat, _pong = 0.0, b""

    def handle_connect(self, event) -> None:
        # The scope, made in super(), gets a copy of this, so that the application can end the connection.
        self.app_state = {**self.app_state, "abort": self.transport.abort}
        super().handle_connect(event)

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        # Asyncio's own 256 KiB could hold 40,000 messages of a byte, which are all parsed in one go.
        transport.max_size = READ

    def _unseen(self) -> bool:
        """Count a frame, and return whether the connection may go on."""
        now = self.loop.time()
        self._beat = max(self._beat, now) + 1 / MAX_MESSAGES
        if self._beat > now + 1 and not self.transport.is_closing():
            service: Service = self.config.app  # type: ignore[assignment]
            service.counters.add("errors_total", label="flood")
            self.transport.abort()
        return not self.transport.is_closing()

    def handle_ping(self) -> None:
        # If a client does not read, only its last pings are answered (RFC 6455, 5.5.3), once it does.
        self._pong = b"".join(self.conn.data_to_send()) or self._pong
        if self._unseen() and self.writable.is_set():
            self.resume_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._pong:
            self.transport.write(self._pong)
            self._pong = b""

    def handle_pong(self, event) -> None:
        if self._unseen():
            super().handle_pong(event)

    def handle_cont(self, event) -> None:
        if self._unseen():
            super().handle_cont(event)


class Server(uvicorn.Server):
    """A server that lets its sockets finish before it stops; `say` gets lines for people."""

    def __init__(self, config: uvicorn.Config, service: Service, say: Callable[[str], None]):
        super().__init__(config)
        self.service, self.say = service, say

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Http):
                    connection.check(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.service.sockets:
            self.say(f"stopping; {len(self.service.sockets)} sockets get what they are owed")
        if late := await self.service.drain(lambda: self.force_exit):
            self.say(f"cut off {late} sockets that took too long")
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket on that address, or raise `AudioError`; port 0 takes any that is free."""
    try:
        family, *_, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # If no protocol is named, asyncio leaves Nagle's algorithm on, and an answer waits for the next block
        # of the client, whose packet acknowledges the answer before.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for direction in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # connections inherit it
            made.setsockopt(socket.SOL_SOCKET, direction, KERNEL)
        made.bind(address)
        made.listen(2048)  # now, so that a reader of the address can connect at once
    except (OSError, UnicodeError) as error:  # the latter for names that no host can have
        words = getattr(error, "strerror", None) or error
        raise AudioError(
            f"{host}:{port}: cannot be listened on ({words}); choose another --host or --port"
        ) from None
    return made


def server(
    service: Service, *, certificate: Path | None, key: Path | None, say: Callable[[str], None]
) -> Server:
    """Return a server for `run`, or raise `AudioError` for TLS files that cannot be used."""
    logging.getLogger("uvicorn.error").addFilter(_worth_a_line)
    config = uvicorn.Config(
        service,
        interface="asgi3",
        loop="asyncio",
        http=Http,
        ws=Wire,
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=None,  # an answer can wait behind sound that back-pressure holds up
        ws_per_message_deflate=False,  # sound does not shrink, and it would cost more than the model
        lifespan="on",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise AudioError(
            f"{certificate}: with the key {key or 'in the same file'}, TLS cannot use it "
            f"({error.strerror or error}); give PEM files that belong together"
        ) from None
    return Server(config, service, say)


def run(server: Server, listening: socket.socket) -> None:
    """Serve until a signal, and raise it again once all clients left; may raise `AudioError`."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        if server.config.is_ssl:  # its default is a minute, in which nothing counts the connection
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=HELLO_S)  # type: ignore
        await server.serve(sockets=[listening])

    try:
        asyncio.run(serve())
    except SystemExit:  # uvicorn's way, with a code of its own
        raise AudioError("serve: the server did not start; the lines above say why") from None


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Return False for what a client alone is to blame for; that is counted instead."""
    return not record.getMessage().startswith("Invalid UTF-8")
