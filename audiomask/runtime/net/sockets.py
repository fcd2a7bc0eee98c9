"""Run a session per websocket: version 1 of the protocol of `audiomask serve`.

Two coroutines run per socket (docs/serve.md). The reader turns messages into sound for the worker and into
commands, which wait until the sound before them is through. The writer sends the outbox. Both queues are
bounded: a full inbox stops the reader, and so TCP stops the client; a full outbox stops the computing of that
stream, and so fills the inbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf, isinf
from pathlib import Path
from typing import Any

from audiomask.audio import MAX_RATE, MIN_RATE
from audiomask.audio.layout import SPEAKERS
from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.catalogue import choose, family
from audiomask.runtime.net.batching import Stream, Worker
from audiomask.runtime.net.coding import MAX_ROWS, Codec, CodeIntake, Coder, Decoder, coder
from audiomask.runtime.net.counters import Counters
from audiomask.runtime.net.marking import Finder, is_marker, marking
from audiomask.runtime.net.requests import BadValue, Refusal, field, message, rest
from audiomask.runtime.packets.intake import Intake
from audiomask.runtime.pcm import FORMATS, Pcm
from audiomask.runtime.session import REMIX, Session, sounds

VERSION = 1
INBOX = OUTBOX = 2**18  # bytes: four seconds of one channel at 16 kHz in f32le
HELLO_S = 10.0  # time until the hello
SLOW_S = 10.0  # time that a client may take nothing while something waits for it
CLOSE_S = 5.0  # time in which a client answers a close
MAX_MESSAGES = 1000  # per second and socket: blocks of a millisecond; each costs time, however short it is
CONTROL = ("minimum", "maximum", "default", "unit", "doc")  # facts on a control in the answer to the hello
CLOCK = ("channels", "outputs", "rate_out", "hop", "delay", "latency")  # facts on the session in it
SET: dict[str, tuple] = {"controls": (dict, {}), "dry": ((int, float), None), "bypass": (bool, None)}
SET["gains"] = (dict, None)  # decibels, or null for silence
FOUND = {1002: "protocol", 1007: "bad_message", 1009: "too_big"}  # errors that uvicorn finds, by its close
BURST_S = 10.0  # seconds of sound taken as fast as they come before the input rate is limited


@dataclass(frozen=True)
class Settings:
    """The settings that all sockets of a server share."""

    token: str | None = None
    origins: tuple[str, ...] = ()  # origins of web pages that may open sockets, besides the server's own
    loopback: bool = True  # only this machine is served: a request under another name is a trick with DNS
    max_sockets: int = 64
    max_rate: float = 20.0  # seconds of sound per second that a socket may send for long
    idle_s: float = 60.0
    threads: int = 1
    page: Path | None = None  # the folder of the web page


class Hub:
    """The part of a server that its sockets share; `report` gets unexpected exceptions."""

    def __init__(
        self, families: list[list[Artifact]], settings: Settings, report: Callable[[BaseException], None]
    ):
        self.families, self.settings, self.report = families, settings, report
        self.counters = Counters()
        self.workers: list[Worker] = []
        self.searcher: Worker  # of those who detect: a search takes many turns' time
        self.artifacts = {a.path.stem: a for group in families for a in group}
        self.codecs: dict[str, Codec] = {}  # by what a hello may name
        self.models: dict[str, list[Artifact]] = {}  # by what a hello may name: file, model, family
        for group in families:
            self.models.setdefault(family(group[0]), group)
        for artifact in self.artifacts.values():
            self.models.setdefault(artifact.path.stem, [artifact])
            self.models.setdefault(artifact.name, [artifact])
        self.markers = {
            name: group[0] for name, group in self.models.items() if len(group) == 1 and is_marker(group[0])
        }

    def fits(self, token: str | None) -> bool:
        """Return whether a client may come in; this takes as long for every token of one length."""
        wanted = self.settings.token
        return wanted is None or hmac.compare_digest((token or "").encode(errors="replace"), wanted.encode())


class Socket:
    """A websocket and its session; `abort` ends the connection without waiting for the client."""

    def __init__(self, hub: Hub, receive, send, abort, authorized: bool):
        self.hub, self.abort, self.authorized = hub, abort, authorized
        self._receive, self._send = receive, send
        self.stream: Stream | None = None
        self._loop = asyncio.get_running_loop()
        self.heard = self.sent = self._beat = self._loop.time()
        self._outbox: deque[tuple[bytes | str | int, float]] = deque()
        self._size = 0  # bytes of sound in the outbox
        self._filled = asyncio.Event()
        self._closing = False  # nothing more is read
        self._closed = False  # nothing more is put into the outbox
        self._sending = False
        self._before = self._reported = (0, 0)  # (cleaned samples, faults) of earlier signals; counted
        self.intake: Intake | None = None  # in packet mode

    async def run(self, refusal: Refusal | None = None) -> None:
        """Run from the accepted handshake to the connection's end; with a refusal, say only that."""
        writer = asyncio.create_task(self._write())
        try:
            try:
                if refusal:
                    raise refusal
                await self._start()
                while not self._closing:
                    await self._read()
            except Refusal as found:
                self.fail(found)
            except _Gone:
                raise
            except Exception as error:  # nobody's fault but ours
                self._break(error)
            while (await self._receive())["type"] != "websocket.disconnect":
                pass  # the client sent this before it heard of the close
        except _Gone as gone:
            if (code := FOUND.get(gone.args[0])) and not self._closed:
                self.hub.counters.add("errors_total", label=code)
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            self.account()
            if self.intake:
                self.intake.close()
            if self.stream:
                self.stream.worker.load -= 1

    def fail(self, refusal: Refusal) -> None:
        """Say why, close and count, once."""
        if self._closed:
            return
        self.hub.counters.add(refusal.counter, label=refusal.code)
        self._put(json.dumps({"type": "error", "code": refusal.code, "message": str(refusal)}))
        self._put(refusal.close)
        self._gone()

    def _break(self, error: Exception) -> None:
        self.hub.report(error)
        self.fail(Refusal("internal", 1011, "the server failed; its standard error says how"))

    async def depart(self, code: int) -> None:
        """Give what is owed for what was received, then close."""
        self._closing = True
        stream = self.stream
        if stream and not self._closed:
            stream.window = float("inf")  # the input rate no longer matters
            stream.worker.wake(stream)
            if stream.ending:  # the client has asked for the same
                await stream.worker.flush(stream)
            elif stream.samples_in or stream.whole or self.intake:
                await self._flush()
        self._put(code)
        self._gone()

    def check(self, now: float, idle_s: float) -> None:
        """End a socket that is idle or takes nothing; called once a second."""
        self.account()
        if self._sending:
            if now - self.sent > SLOW_S:
                self.hub.counters.add("errors_total", label="slow_reader")
                self._gone()
                self.abort()
        elif self.stream and now - self.heard > idle_s and not (self.stream.whole or self.stream.flying):
            self.fail(Refusal("idle", 1008, f"nothing came for {idle_s:g} s"))

    def account(self) -> None:
        """Add what the session counts to the server's counters."""
        add = self.hub.counters.add
        if self.stream:
            session = self.stream.session
            cleaned, faults = self._reported
            self._reported = session.cleaned, session.faults
            add("cleaned_samples_total", session.cleaned - cleaned)
            add("faults_total", session.faults - faults)
        if self.intake:
            for kind, count in self.intake.news("server").items():
                add("packets_total", count, kind)

    async def _event(self) -> dict[str, Any]:
        """Return the next message, or raise `_Gone`."""
        if (event := await self._receive())["type"] == "websocket.disconnect":
            raise _Gone(event.get("code", 1005))
        return event

    async def _start(self) -> None:
        """Take the hello, make a session, and answer."""
        try:
            first = await asyncio.wait_for(self._event(), HELLO_S)
        except TimeoutError:
            raise Refusal("hello_timeout", 1008, f"no hello came in {HELLO_S:g} s") from None
        if first.get("text") is None:
            raise Refusal("unexpected", 1003, "the first message has to be a text, the hello")
        kind, hello = message(first["text"])
        if kind != "hello":
            raise Refusal("unexpected", 1003, "the first message has to be the hello")
        token = field(hello, "token", str, "", secret=True)
        if not self.authorized and not self.hub.fits(token):
            raise Refusal("unauthorized", 1008, "the token is missing or wrong")
        model = field(hello, "model", str, None)
        rate = field(hello, "rate", int, 16000)
        form = field(hello, "format", str, "f32le")
        channels = field(hello, "channels", int, None)
        output = field(hello, "output", str, None)
        speakers = field(hello, "speakers", int, 0)
        version = field(hello, "version", int, VERSION)
        packets = field(hello, "packets", dict, None)
        codec = field(hello, "codec", dict, None)
        mark = field(hello, "mark", dict, None, secret=True)
        wanted = _settings(hello)
        if version != VERSION:
            raise BadValue(f"version {version} is not spoken here; {VERSION} is")
        if not MIN_RATE <= rate <= MAX_RATE:
            raise BadValue(f"rate {rate} is outside {MIN_RATE} to {MAX_RATE} Hz")
        if form not in FORMATS:
            raise BadValue(f"format {form[:50]!r} is not one of {' '.join(FORMATS)}")
        if codec is not None or mark is not None:
            kind, asked, begin = ("codec", codec, self._code) if mark is None else ("mark", mark, self._mark)
            others = packets is not None or output is not None or "gains" in wanted or speakers
            if others or None not in (codec, mark):
                words = "packets, output, gains, speakers, codec and mark are of different sockets"
                raise BadValue(f"{words}; say {kind} alone")
            if channels is not None and not 1 <= channels <= MAX_ROWS:
                raise BadValue(f"channels {channels} are outside 1 to {MAX_ROWS}")
            await begin(asked, model, rate, channels, form, wanted)
            return
        if model is not None and model not in self.hub.models:
            names = " ".join(self.hub.models)
            raise BadValue(f"model {model[:50]!r} is not offered; there are: {names}")
        informed = [group for group in self.hub.families if packets is not None and group[0].lost]
        artifact = choose(self.hub.models[model] if model else (informed or self.hub.families)[0], rate)
        if artifact.lost and packets is None:
            raise BadValue(f"{artifact.name} conceals losses that it is told of; say packets in the hello")
        if is_marker(artifact) and "carrier" not in wanted["controls"]:
            raise BadValue(f"{artifact.name} marks by a key; say mark in the hello")
        if missing := artifact.unset(wanted.get("controls") or ()):
            raise BadValue(f"{artifact.name} cannot run without {missing[0].name}; say it as one of controls")
        width = artifact.streams[0].channels
        if channels is not None and not 1 <= channels <= MAX_ROWS * width:
            raise BadValue(f"channels {channels} are outside 1 to {MAX_ROWS * width}")
        if not 0 <= speakers < 1 << len(SPEAKERS):
            raise BadValue(
                f"speakers {speakers} are not the bits of a layout, 0 to {(1 << len(SPEAKERS)) - 1}"
            )
        if output is not None and "gains" in wanted:
            raise BadValue(f"output {output[:50]!r} is one sound by itself, and gains are of all; say one")
        if output is None and "gains" not in wanted and len(heard := sounds(artifact)) > 1:
            words = f"{artifact.name} makes several sounds; say in the hello gains of them, or as output "
            words += "which one is heard: "
            raise BadValue(words + " ".join(heard))

        # It is made in a thread of its own, since the filters of odd rates take a while.
        given = {"sample_rate": rate, "channels": channels, "speakers": speakers, "output": output, **wanted}
        session = await self._checked(asyncio.to_thread(Session, artifact, **given))
        self._open(session, Pcm(form, session.channels))
        if packets is not None:
            assert self.stream
            self.intake = Intake(packets, self.stream, INBOX)
        self._ready(form, artifact.path.stem)

    async def _code(
        self, codec: dict, model: str | None, rate: int, channels: int | None, form: str, wanted: dict
    ) -> None:
        """Do the rest of `_start` for a socket that encodes, decodes, or does both."""
        given = self.hub.codecs, model, rate, channels, form, codec
        session, pcm, asked = await self._checked(asyncio.to_thread(coder, *given))
        await self._checked(asyncio.to_thread(session.set, **wanted))
        self._open(session, pcm)
        if isinstance(session, Decoder):
            assert self.stream
            self.intake = CodeIntake(asked, self.stream, INBOX)
        self._ready(form, model or next(iter(self.hub.codecs)), codec=session.facts())

    async def _mark(
        self, mark: dict, model: str | None, rate: int, channels: int | None, form: str, wanted: dict
    ) -> None:
        """Do the rest of `_start` for a socket that marks or detects."""
        given = self.hub.markers, model, rate, channels, form, mark
        session, pcm, facts = await self._checked(asyncio.to_thread(marking, *given))
        await self._checked(asyncio.to_thread(session.set, **wanted))
        self._open(session, pcm)
        self._ready(form, model or next(iter(self.hub.markers)), mark=facts)

    def _open(self, session: Any, pcm: Pcm) -> None:
        workers = [self.hub.searcher] if isinstance(session, Finder) else self.hub.workers
        worker = min(workers, key=lambda w: w.load)
        self.stream = Stream(session, pcm, worker, self._deliver, self.hub.settings.max_rate, BURST_S)
        worker.load += 1
        self.heard = self._loop.time()

    def _ready(self, form: str, model: str, **more: Any) -> None:
        """Answer the hello."""
        assert self.stream
        session = self.stream.session
        gains = getattr(session, "gains", {})
        ready = {
            "type": "ready",
            "version": VERSION,
            "model": model,
            "rate": session.sample_rate,
            "format": form,
            "output": None if not session.ports else REMIX if gains else session.ports[0].name,
            "controls": {
                name: {key: getattr(port, key) for key in CONTROL}
                for name, port in (session.artifact.controls.items() if session.ports else ())
            },
            **{key: getattr(session, key) for key in CLOCK},
            **more,
        }
        if gains:
            ready["gains"] = {name: None if isinf(gain) else gain for name, gain in gains.items()}
        if self.intake:
            ready["packets"] = self.intake.facts
        self._put(json.dumps(ready))

    async def _read(self) -> None:
        event = await self._event()
        data = event.get("bytes")
        assert self.stream
        stream, worker = self.stream, self.stream.worker
        self.heard = now = self._loop.time()
        self._beat = max(self._beat, now) + 1 / MAX_MESSAGES
        if self._beat > now + 1:
            await asyncio.sleep(self._beat - now - 1)
        if self._closing:
            return
        if data is not None:
            self.hub.counters.add("messages_total")
            if not self.intake and stream.pcm.begins_file(data):
                words = "the sound begins like a file, and bare samples are wanted; decode it first"
                raise Refusal("no_samples", 1007, words)
            if self.intake:
                self.intake.arrived(data, now)
                await self.intake.settled()
            else:
                worker.put(stream, data, now)
            while len(stream.inbox) > INBOX and not self._closing:
                await stream.move()
            return
        kind, command = message(event["text"])
        if kind not in ("set", "flush", "close"):
            raise Refusal("unexpected", 1003, f"a message of type {kind[:50]!r} has no meaning here")
        wanted = _settings(command) if kind == "set" else rest(command)
        if kind == "close":
            await self.depart(1000)
        elif kind == "flush":
            await self._flush()
        else:
            if "gains" in wanted and not isinstance(stream.session, Session):
                raise BadValue("gains turn the sounds of a model that separates, and here is none")
            while (stream.whole or stream.flying) and not self._closed:  # sound that came before it
                await stream.move()
            await self._checked(worker.call(lambda: stream.session.set(**wanted)))

    @staticmethod
    async def _checked(asked: Awaitable[Any]) -> Any:
        """Return what a client asks of a session; raise `Refusal` for values that it does not take."""
        try:
            return await asked
        except (ArtifactError, TypeError, ValueError, OverflowError) as error:
            raise BadValue(str(error)) from None

    async def _flush(self) -> None:
        """Send the rest of the signal, and a report on it."""
        assert self.stream
        stream, session = self.stream, self.stream.session
        if self.intake:
            await self.intake.flush()
        await stream.worker.flush(stream)
        cleaned, faults = self._before
        self._before = session.cleaned, session.faults
        report = {
            "type": "flushed",
            "samples_in": stream.samples_in,
            "samples_out": stream.samples_out,
            "cleaned": session.cleaned - cleaned,
            "faults": session.faults - faults,
            "clipped": stream.pcm.clipped,
        }
        if isinstance(session, Coder):
            report["bytes"], session.bytes = session.bytes, 0
        stream.samples_in = stream.samples_out = stream.pcm.clipped = 0
        if self.intake:
            report["packets"] = self.intake.news("client")
        self._put(json.dumps(report))

    def _deliver(self, output: bytes | str | Exception, since: float) -> None:
        """Take from the worker bytes of sound, a report, or the exception that was raised."""
        stream = self.stream
        if stream is None or self._closed:
            return
        if isinstance(output, Exception):
            self._break(output)
        elif isinstance(output, str):
            if output:
                self._put(output)
        elif output:
            outputs = stream.session.outputs  # 0 for one that encodes
            samples = len(output) // (stream.pcm.dtype.itemsize * outputs) if outputs else 0
            stream.samples_out += samples
            seconds = samples / stream.session.rate_out
            self.hub.counters.add("audio_seconds_total", seconds, "out")
            self._size += len(output)
            if self._size > OUTBOX and not stream.choked:
                stream.choked = True
                self.hub.counters.add("overflows_total")
            self._outbox.append((output, since))
            self._filled.set()

    def _put(self, item: str | int) -> None:
        """Put a text, or the code of the close, into the outbox."""
        if not self._closed:
            self._outbox.append((item, 0.0))
            self._filled.set()

    def _gone(self) -> None:
        """Take and compute nothing more; what waits in the outbox still goes out."""
        self._closing = self._closed = True
        if self.intake:
            self.intake.close()
        if self.stream:
            self.stream.worker.forget(self.stream)
            self.stream.moved.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._filled.wait()
                self._filled.clear()
                while self._outbox:
                    item, since = self._outbox.popleft()
                    if isinstance(item, int):
                        self._loop.call_later(CLOSE_S, self.abort)
                        await self._emit({"type": "websocket.close", "code": item})
                        return
                    await self._pass(item, since)
        except OSError:
            pass  # the client has gone; the reader hears of it too
        finally:
            self._gone()

    async def _emit(self, event: dict[str, Any]) -> None:
        """Send an event; raise OSError if the connection has ended."""
        try:
            await self._send(event)
        except RuntimeError as error:  # uvicorn has closed it, and the client has not yet answered
            raise OSError(str(error)) from None

    async def _pass(self, item: bytes | str, since: float) -> None:
        self.sent, self._sending = self._loop.time(), True
        if isinstance(item, str):
            await self._emit({"type": "websocket.send", "text": item})
        else:
            parts = [item]
            while self._outbox and isinstance(part := self._outbox[0][0], bytes):
                parts.append(part)  # a client that lags gets it at once
                self._outbox.popleft()
            item = b"".join(parts)
            await self._emit({"type": "websocket.send", "bytes": item})
            self._size -= len(item)
            stream = self.stream
            if stream and stream.choked and self._size <= OUTBOX // 2:
                stream.choked = False
                stream.worker.wake(stream)
            if since:
                self.hub.counters.histograms["block_seconds"].observe(self._loop.time() - since)
        self._sending = False


def _settings(command: dict[str, Any]) -> dict[str, Any]:
    """Return what a command sets of a session, as keywords; `Refusal` for anything else in it."""
    wanted = rest(command, **SET)
    gains = wanted.pop("gains")
    if gains is None:
        return wanted
    return wanted | {"gains": {name: -inf if gain is None else gain for name, gain in gains.items()}}


class _Gone(Exception):
    """The connection has ended, with the code that is the argument."""
