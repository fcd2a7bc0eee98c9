"""Encode, decode, or both, for a socket whose hello says `codec`.

An object of this module stands for a session in `batching`: it is fed what `pcm` takes apart, and gives bytes
of packets or samples of sound. The codec's header is not sent with the packets but in the answer to the hello
of who encodes, and in the hello of who decodes, in base64: then packets may be lost from the first one on.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Generator, Mapping
from math import ceil
from typing import Any

import numpy as np

from audiomask.audio import AudioError
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import probabilities_of
from audiomask.runtime.codes.coders import Likely
from audiomask.runtime.codes.container import End, Header, Packer, Packet, Unpacker, parse_header
from audiomask.runtime.codes.probabilities import Probabilities
from audiomask.runtime.files.coded import books_of, check_header, code_port, header_of, unpacking
from audiomask.runtime.net.batching import Stream
from audiomask.runtime.net.requests import BadValue, Refusal, rest
from audiomask.runtime.packets.intake import Intake
from audiomask.runtime.packets.jitter_buffer import JITTER_MS, JitterBuffer
from audiomask.runtime.pcm import Pcm
from audiomask.runtime.player import Player

Codec = tuple[Artifact, Artifact]  # encoder and decoder
MAX_ROWS = 8  # channels: each costs as much as a stream
MOST_BYTES, MOST_PACKETS = 65536, 16  # of a message
MOST_LIKELY = 600  # codes of a packet that is coded by probabilities: unpacking takes 30 us for each
DONE_S = 1.0  # of lost sound at the end of a signal, that is computed at once
# Of the hello's codec: types, and values where none is given.
FIELDS = {
    "do": (str, "both"), "kbps": ((int, float), 6.0), "frames": (int, 1), "header": (str, None),
    "plain": (bool, True), "jitter_ms": ((int, float), 60), "realtime": (bool, True),
}  # fmt: skip


class Coder:
    """A session that encodes, decodes, or does both; it is fed as a `Player` is."""

    outputs, bytes = 0, 0  # channels of the sound that it makes; bytes of the packets that it has made

    def __init__(self, header: Header, player: Player):
        self.header, self.player = header, player
        self.artifact, self.engine, self.ports = player.artifact, player.engine, player.ports
        self.hop, self.delay, self.latency = player.hop, player.delay, player.latency
        self.sample_rate = self.rate_out = header.rate
        self.channels = header.channels
        self.pace = (
            float(header.rate),
            player.hop,
            player.latency,
        )  # frames a second, of a hop, of the latency

    @property
    def cleaned(self) -> int:
        return self.player.cleaned

    @property
    def faults(self) -> int:
        return self.player.faults

    def set(self, controls: Mapping[str, Any] | None = None, *, dry: Any = None, bypass: Any = None) -> None:
        """Change controls, such as the books that are sent; ValueError for what a codec has not."""
        if dry is not None or bypass is not None:
            raise ValueError("a codec has no untouched sound; leave out dry and bypass")
        self.player.set(controls or {})

    def facts(self) -> dict[str, Any]:
        """Return what the answer to the hello says of the codec."""
        header = self.header
        return {
            "header": b64encode(header.to_bytes()).decode(),
            "frames": header.frames,
            "books": header.books,
            "kbps_of_a_book": header.kbps,
        }


class Encoder(Coder):
    """A coder of sound `[channels, T]` to bytes of packets; the end of a signal comes last."""

    def __init__(self, header: Header, player: Player, probabilities: Probabilities | None = None):
        super().__init__(header, player)
        self._name, self._samples = player.ports[0].name, 0
        self._probabilities = probabilities
        self._begin()

    def _begin(self) -> None:
        self._packer, self._samples = Packer(self.header, self._probabilities), 0
        self._packer.head()

    def codes(self, x: np.ndarray | None) -> Generator[Any, None, np.ndarray]:
        """Return the codes of a block, or those at the end, and count their bytes."""
        if x is not None:
            self._samples += x.shape[-1]
        made = yield from (self.player.flushing() if x is None else self.player.feeding(x))
        self._data = self._packer.push(made[self._name])
        if x is None:
            self._data += self._packer.finish(self._samples)
            self._begin()
        self.bytes += len(self._data)
        return made[self._name]

    def feeding(self, x: np.ndarray, lost: Any = None) -> Generator[Any, None, bytes]:
        yield from self.codes(x)
        return self._data

    def flushing(self) -> Generator[Any, None, bytes]:
        yield from self.codes(None)
        return self._data


class Decoder(Coder):
    """A coder of codes `[rows, frames]`, of which some are lost, to sound `[channels, T]`."""

    def __init__(self, header: Header, player: Player):
        super().__init__(header, player)
        self.outputs, self.coder = header.channels, unpacking(header, player.artifact)
        frames = header.clock / header.stride
        self.pace = frames, 1, ceil(player.latency / header.rate * frames)
        self.end: End | None = None
        self._fed = 0

    def feeding(self, codes: np.ndarray, lost: Any = None) -> Generator[Any, None, np.ndarray]:
        self._fed += codes.shape[1]
        flags = {} if lost is None or not self.artifact.lost else {self.artifact.lost.name: lost[None]}
        (y,) = (yield from self.player.feeding(codes, **flags)).values()
        return y

    def flushing(self) -> Generator[Any, None, np.ndarray]:
        header, end, parts = self.header, self.end, []
        if end:
            missing = header.needs(end.samples) - self._fed
            if 0 < missing <= DONE_S * self.pace[0]:
                none = np.full((self.player.channels, missing), -1, np.int64)
                parts.append((yield from self.feeding(none, np.ones(missing, bool))))
        (y,) = (yield from self.player.flushing()).values()
        cut = header.samples(self._fed) - end.samples if end else 0
        if 0 < cut < header.samples(1) + 1:  # else packets of the beginning are missing
            y = y[:, : max(0, y.shape[1] - cut)]
        self._fed, self.end = 0, None
        return np.concatenate([*parts, y], axis=1)


class ThereAndBack(Encoder):
    """A coder of sound to the sound that its codes become, which counts their bytes."""

    def __init__(
        self, header: Header, player: Player, decoder: Decoder, probabilities: Probabilities | None = None
    ):
        super().__init__(header, player, probabilities)
        self._decoder, self.outputs = decoder, header.channels
        self.ports = decoder.ports
        self.delay = player.delay + decoder.delay  # the decoder gets a frame whole
        self.latency = self.delay + self.hop

    @property
    def faults(self) -> int:
        return self.player.faults + self._decoder.faults

    def feeding(self, x: np.ndarray, lost: Any = None) -> Generator[Any, None, Any]:
        codes = yield from self.codes(x)
        return (yield from self._decoder.feeding(codes))

    def flushing(self) -> Generator[Any, None, Any]:
        samples = self._samples
        codes = yield from self.codes(None)
        y = yield from self._decoder.feeding(codes)
        self._decoder.end = End(self.header, samples, 0)
        return np.concatenate([y, (yield from self._decoder.flushing())], axis=1)


class CodePcm(Pcm):
    """A converter of codes of packets as they wait, and of sound as it goes out."""

    def __init__(self, format: str, rows: int):
        super().__init__(format, 1)
        self.rows, self.frame = rows, 4 * rows

    def decode(self, data: bytes | bytearray) -> np.ndarray:
        return np.frombuffer(data, "<i4").reshape(-1, self.rows).T

    @staticmethod
    def waiting(codes: np.ndarray) -> bytes:
        """Return codes `[rows, frames]` as they wait."""
        return codes.T.astype("<i4").tobytes()


def coder(
    codecs: Mapping[str, Codec], model: str | None, rate: int, channels: int | None, form: str, wanted: Any
) -> tuple[Coder, Pcm, dict[str, Any]]:
    """Return the session of a hello, what takes its bytes apart, and what it says of packets."""
    asked = rest(dict(wanted), **FIELDS)
    if not codecs:
        raise BadValue("no codec is offered here")
    name = model or next(iter(codecs))
    if name not in codecs:
        raise BadValue(f"codec {name[:50]!r} is not offered; there are: {' '.join(codecs)}")
    encoder, decoder = codecs[name]
    try:
        if asked["do"] == "decode":
            header = _header(asked["header"], decoder)
            made: Coder = Decoder(header, _decoding(decoder, header))
            return made, CodePcm(form, made.player.channels), asked
        if asked["do"] not in ("encode", "both"):
            raise BadValue(f"do is {asked['do'][:20]!r}, none of encode decode both")
        if asked["header"] is not None:
            raise BadValue("header is of who decodes; leave it out")
        width = encoder.streams[0].channels
        odds = None if asked["plain"] else probabilities_of(encoder)
        if odds is None and not asked["plain"]:
            raise BadValue(f"{encoder.name} has no probabilities to pack by; leave out plain")
        header = header_of(encoder, rate, channels or width, asked["frames"], odds)
        books = books_of(encoder, asked["kbps"])
        named = [port.name for port in encoder.controls.values() if port.type == "int"]
        how: dict[str, Any] = {
            "sample_rate": rate,
            "channels": header.channels,
            "controls": dict.fromkeys(named[:1], books),
        }
        player = Player(encoder, outputs=[code_port(encoder).name], **how)
        if asked["do"] == "encode":
            return Encoder(header, player, odds), Pcm(form, header.channels), asked
        back = Decoder(header, _decoding(decoder, header))
        return ThereAndBack(header, player, back, odds), Pcm(form, header.channels), asked
    except AudioError as error:
        raise BadValue(str(error)) from None


def _decoding(decoder: Artifact, header: Header) -> Player:
    return Player(decoder, sample_rate=header.rate, channels=header.streams * header.books)


def _header(text: str | None, decoder: Artifact) -> Header:
    """Return the header in a hello, or raise `BadValue`."""
    try:
        found = parse_header(b64decode(text or "", validate=True))[0]
    except (binascii.Error, ValueError):
        found = None
    if found is None:
        raise BadValue("header is not that of an .amk in base64")
    check_header(found, decoder, "header")
    if found.channels > MAX_ROWS:
        raise BadValue(f"channels {found.channels} are outside 1 to {MAX_ROWS}")
    count = found.streams * found.books * found.frames
    if found.coder == Likely.number and count > MOST_LIKELY:
        raise BadValue(f"packets of {count} codes by probabilities are too slow; {MOST_LIKELY} are taken")
    return found


class CodeIntake(Intake):
    """The packets of a socket that decodes, each message one or more whole records of an `.amk`."""

    def __init__(self, asked: Mapping[str, Any], stream: Stream, room: int):
        coder = stream.session
        assert isinstance(coder, Decoder)
        assert isinstance(stream.pcm, CodePcm)
        header, jitter_ms = coder.header, asked["jitter_ms"]
        low, high = JITTER_MS
        if not low <= jitter_ms <= high:
            raise BadValue(f"jitter of {jitter_ms:g} ms is outside {low:g} to {high:g} ms")
        period = header.frames / coder.pace[0]
        depth, realtime = ceil(jitter_ms / 1000 / period - 1e-6), asked["realtime"]
        self._prepare(stream, room, JitterBuffer(depth, period, realtime=realtime))
        self.coder, self.header, self._unpacker = coder, header, Unpacker(header)
        none = np.full((stream.pcm.rows, header.frames), -1)
        self.blank = CodePcm.waiting(none)
        wait = header.samples(depth * header.frames)
        self.facts = {"jitter": wait, "delay": wait + coder.latency, "realtime": realtime}

    def _waiting(self, packet: Packet) -> bytes:
        return CodePcm.waiting(packet.codes(self.header, self.coder.coder))

    def arrived(self, data: bytes, now: float) -> None:
        if len(data) > MOST_BYTES:
            raise Refusal(
                "too_big", 1009, f"a message of packets has {len(data)} bytes; {MOST_BYTES} are taken"
            )
        records = list(self._unpacker.push(data, last=True))
        if len(records) > MOST_PACKETS:  # each may be behind a hole of seconds
            records = []
        for record in records:
            if isinstance(record, End):
                self.coder.end = record
            elif isinstance(record, Packet):
                try:
                    self.jitter.put(record.number, self._waiting(record), now)
                except ValueError:
                    records = []
        if not records:
            raise Refusal(
                "bad_packet",
                1007,
                f"{len(data)} bytes are no 1 to {MOST_PACKETS} whole packets of the header's codec",
            )
        self._play()
