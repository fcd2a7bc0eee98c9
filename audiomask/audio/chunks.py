"""Read and write what containers hold besides sound and the texts that libsndfile knows.

A WAV has it in chunks, which go into another WAV as they are; markers and speakers go into AIFF and CAF, and
the time reference (bext) into W64. Whatever else is met is named, so that nothing gets lost in silence.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from audiomask.audio import layout
from audiomask.audio.spans import Span

# What is copied from WAV to WAV, what libsndfile reads and writes itself, and what is only room or a cache.
CARRIED = frozenset(b"bext|iXML|cue |smpl|axml|chna|umid|inst|acid|cart|id3 |ID3 |_PMX|DISP|adtl".split(b"|"))
KNOWN = frozenset(
    b"fmt |data|fact|ds64|INFO|PEAK|JUNK|junk|PAD |FLLR|levl|COMM|SSND|FVER|NAME|AUTH|(c) |ANNO|"
    b"CHAN|MARK|desc|chan|mark|strg|info|kuki|pakt|free|peak|ovvw|riff|wave".split(b"|")
)
GUID = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # of W64, behind four letters
LARGEST = 2**20  # bytes of a chunk that is carried
TIME_REFERENCE = 338  # of bext (EBU Tech 3285): samples since midnight, 64 bits
BITMAP = 0x10000  # the tag of a Core Audio layout that is the bits of WAV
# Vorbis comments, parts of INFO, frames of ID3 that libsndfile reads, or that only say what wrote the file.
COMMENTS = frozenset(
    b"TITLE COPYRIGHT ARTIST COMMENT DATE ALBUM LICENSE TRACKNUMBER GENRE SOFTWARE ENCODER "
    b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK".split()
)
INFO = frozenset(b"INAM ICOP ISFT IART ICMT ICRD IPRD IGNR ITRK".split())
FRAMES = frozenset(b"TIT2 TCOP TPE1 COMM TDRC TYER TALB TRCK TCON TSSE TENC TLEN".split())

Marker = tuple[int, str]  # sample, label


@dataclass
class Notes:
    """A record of what a container says besides its texts.

    Attributes: `speakers` of the channels, in their order; `chunks` of WAV and W64 by name (`adtl`: the list
    of labels); `markers`; `others`, the names of what cannot go into any other file.
    """

    speakers: list[str] = field(default_factory=list)
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    markers: list[Marker] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def cut(self, begin: int, frames: int) -> Notes:
        """Return what is true of a stretch of the sound, that begins at a sample and has so many."""
        chunks = {k: x for k, x in self.chunks.items() if k not in (b"cue ", b"adtl", b"smpl")}
        if b"bext" in chunks:
            chunks[b"bext"] = _moved(chunks[b"bext"], [TIME_REFERENCE], "<Q", Fraction(1), begin)
        markers = [(at - begin, label) for at, label in self.markers if 0 <= at - begin < frames]
        loops = ["smpl"] if b"smpl" in self.chunks else []
        return Notes(self.speakers, chunks, markers, self.others + loops)


def read(file: Span, kind: str) -> Notes:
    """Return the notes of a container of a kind of `spans.Scan`, as far as they are sound."""
    found = Notes()
    try:
        if kind in WALKS:
            _chunked(file, kind, found)
        elif kind in ("flac", "ogg", "mp3"):
            {"flac": _flac, "ogg": _ogg, "mp3": _id3}[kind](file, found)
    except (struct.error, ValueError, IndexError):
        pass
    return found


WALKS = {  # what introduces a chunk, where the first one is, bytes that its length counts too, its alignment
    "wav": ("<4sI", 12, 0, 2),
    "aiff": (">4sI", 12, 0, 2),
    "caf": (">4sq", 8, 0, 1),
    "w64": ("<16sQ", 40, 24, 8),
}


def _walk(file: Span, kind: str) -> list[tuple[bytes, int, int]]:
    """Return name, place and length of the content of all chunks, or those up to the sound."""
    form, at, own, step = WALKS[kind]
    head, wide, found, before = struct.calcsize(form), 0, list[tuple[bytes, int, int]](), 0
    while file.size - at >= head:
        file.seek(at)
        name, length = struct.unpack(form, file.read(head))
        at, length = at + head, length - own
        if name == b"data" and kind == "wav" and length == 0xFFFFFFFF and wide:
            file.seek(wide + 8)
            (length,) = struct.unpack("<Q", file.read(8))
        if not re.fullmatch(rb"[ -~]{4}", name[:4]) or not 0 <= length <= file.size - at:
            return found[:before] if before else found
        wide = at if name == b"ds64" else wide
        found.append((name[:4], at, length))
        if name[:4] in (b"data", b"SSND"):
            before = len(found)
        at += -(-length // step) * step
    return found


def _chunked(file: Span, kind: str, found: Notes) -> None:
    """Read the chunks of WAV, AIFF, CAF or W64."""
    file.seek(0)
    carried: frozenset[bytes] = {"wav": CARRIED, "w64": frozenset([b"bext"])}.get(kind, frozenset())
    if file.read(4) == b"RIFX":
        carried = frozenset([b"iXML", b"axml"])  # the others are in its order of bytes
    known: dict[bytes, bytes] = {}
    for name, at, length in _walk(file, kind):
        file.seek(at)
        content = file.read(min(length, LARGEST)) if name not in (b"data", b"SSND") else b""
        if name == b"LIST":
            name, content = content[:4], content[4:]
        if name == b"INFO":
            found.others += [key.decode("latin-1") for key, _ in _entries(content) if key not in INFO]
        if name in carried and length <= LARGEST:
            found.chunks[name] = content
        elif name in KNOWN:
            known[name] = content
        else:
            found.others.append(name.decode("latin-1").strip())
    layouts = known.get(b"chan") or known.get(b"CHAN")
    form = known.get(b"fmt ", b"") if kind == "w64" else b""
    if layouts:
        found.speakers = _core_speakers(layouts)
    elif form[:2] == b"\xfe\xff":
        found.speakers = layout.names_of(struct.unpack_from("<I", form, 20)[0])
    if b"cue " in found.chunks:
        found.markers = list(_cue_markers(found.chunks[b"cue "], found.chunks.get(b"adtl", b"")))
    elif b"MARK" in known:
        found.markers = list(_aiff_markers(known[b"MARK"]))
    elif b"mark" in known:
        found.markers = list(_caf_markers(known[b"mark"], known.get(b"strg", b"")))


def _core_speakers(content: bytes) -> list[str]:
    """Return the speakers of a Core Audio layout, by a number, bits or labels; none if unknown."""
    tag, bits, count = struct.unpack_from(">3I", content)
    if tag:
        return layout.names_of(bits) if tag == BITMAP else layout.CORE.get(tag >> 16, "").split()
    labels = [struct.unpack_from(">I", content, 12 + 20 * i)[0] for i in range(min(count, 128))]
    known = all(1 <= label <= len(layout.SPEAKERS) for label in labels) and len(set(labels)) == len(labels)
    return [layout.SPEAKERS[label - 1] for label in labels] if known else []


# --- markers ------------------------------------------------------------------------------------------------


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of the parts of a LIST chunk."""
    at = 0
    while at + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, at)
        yield name, content[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _cue_markers(cue: bytes, adtl: bytes) -> Iterator[Marker]:
    labels = dict[int, str]()
    for name, entry in _entries(adtl):
        if name == b"labl" and len(entry) >= 4:
            (key,) = struct.unpack_from("<I", entry)
            labels[key] = entry[4:].split(b"\0")[0].decode("utf-8", "replace")
    for at in range(4, len(cue) - 23, 24):
        key, sample = struct.unpack_from("<I16xI", cue, at)
        yield sample, labels.get(key, "")


def _aiff_markers(content: bytes) -> Iterator[Marker]:
    (count,), at = struct.unpack_from(">H", content), 2
    for _ in range(count):
        sample, length = struct.unpack_from(">2xIB", content, at)
        yield sample, content[at + 7 : at + 7 + length].decode("utf-8", "replace")
        at += 7 + length + (length + 1) % 2


def _caf_markers(content: bytes, texts: bytes) -> Iterator[Marker]:
    (count,) = struct.unpack_from(">I", texts) if texts else (0,)
    labels = dict[int, str]()
    for i in range(count):
        key, place = struct.unpack_from(">Iq", texts, 4 + 12 * i)
        labels[key] = texts[4 + 12 * count + place :].split(b"\0")[0].decode("utf-8", "replace")
    for at in range(8, len(content) - 27, 28):
        sample, key = struct.unpack_from(">4xdI", content, at)
        yield max(0, round(sample)), labels.get(key, "")


def _cue(markers: list[Marker]) -> dict[bytes, bytes]:
    """Return markers as chunks of WAV."""
    cue, adtl = struct.pack("<I", len(markers)), b""
    for key, (sample, label) in enumerate(markers, 1):
        cue += struct.pack("<II4sIII", key, sample, b"data", 0, 0, sample)
        text = label.encode() + b"\0"
        if label:
            adtl += struct.pack("<4sII", b"labl", 4 + len(text), key) + text + bytes(len(text) % 2)
    return {b"cue ": cue} | ({b"adtl": adtl} if adtl else {})


def _mark_aiff(markers: list[Marker]) -> dict[bytes, bytes]:
    content = struct.pack(">H", len(markers))
    for key, (sample, label) in enumerate(markers, 1):
        text = label.encode()[:255]
        content += struct.pack(">HIB", key, sample, len(text)) + text + bytes((len(text) + 1) % 2)
    return {b"MARK": content}


def _mark_caf(markers: list[Marker]) -> dict[bytes, bytes]:
    mark, places, texts = struct.pack(">II", 0, len(markers)), b"", b""
    for key, (sample, label) in enumerate(markers, 1):
        mark += struct.pack(">IdI8sI", 0, sample, key, b"\xff" * 8, 0)  # generic, at no time code
        places += struct.pack(">Iq", key, len(texts))
        texts += label.encode() + b"\0"
    return {b"mark": mark, b"strg": struct.pack(">I", len(markers)) + places + texts}


# --- writing ------------------------------------------------------------------------------------------------


def held(format: str) -> frozenset[bytes]:
    """Return the names of the chunks that an output format can hold, cues as its own markers."""
    markers = frozenset([b"cue ", b"adtl"])
    return {
        "WAV": CARRIED, "WAVEX": CARRIED, "RF64": CARRIED, "AIFF": markers, "CAF": markers,
        "W64": frozenset([b"bext"]),
    }.get(format, frozenset())  # fmt: skip


def append(path: Path, format: str, mask: int, chunks: dict[bytes, bytes], markers: list[Marker]) -> None:
    """Append to a whole file the chunks that it can hold, and in AIFF and CAF the speakers."""
    kind = {"WAVEX": "wav", "RF64": "wav"}.get(format, format.lower())
    chunks = {name: content for name, content in chunks.items() if name in held(format)}
    if format in ("AIFF", "CAF"):
        chunks = {"AIFF": _mark_aiff, "CAF": _mark_caf}[format](markers) if markers else {}
        if mask:
            chunks[b"CHAN" if format == "AIFF" else b"chan"] = struct.pack(">3I", BITMAP, mask, 0)
    elif markers and kind == "wav" and b"cue " not in chunks:
        chunks |= _cue(markers)
    if not chunks or kind not in WALKS:
        return
    form, _, own, step = WALKS[kind]
    with path.open("r+b") as file:
        magic = file.read(4)
        file.seek(0, 2)
        for name, content in chunks.items():
            if name == b"adtl":
                name, content = b"LIST", b"adtl" + content
            file.write(bytes(-file.tell() % step))
            name = name + GUID if format == "W64" else name
            file.write(struct.pack(form, name, len(content) + own) + content + bytes(-len(content) % step))
        size = file.tell()
        if magic == b"RF64":
            file.seek(20)  # in ds64, which comes first
            file.write(struct.pack("<Q", size - 8))
        elif format == "W64":
            file.seek(16)
            file.write(struct.pack("<Q", size))
        elif format != "CAF":
            file.seek(4)
            file.write(struct.pack(">I" if format == "AIFF" else "<I", size - 8))


def scaled(name: bytes, content: bytes, factor: Fraction) -> bytes:
    """Return a chunk with its times in samples multiplied by `factor`."""
    if name == b"bext":
        return _moved(content, [TIME_REFERENCE], "<Q", factor)
    if name == b"cue ":  # the place in the play order, and in the samples
        return _moved(
            content, [at + n for at in range(4, len(content) - 23, 24) for n in (4, 20)], "<I", factor
        )
    if name == b"smpl":  # nanoseconds of a sample; begin and end of loops
        loops = [at + n for at in range(36, len(content) - 23, 24) for n in (8, 12)]
        return _moved(_moved(content, [8], "<I", 1 / factor), loops, "<I", factor)
    return content


def _moved(content: bytes, places: list[int], form: str, factor: Fraction, shift: int = 0) -> bytes:
    """Return a chunk in which the numbers at some places are shifted, then multiplied."""
    data, size = bytearray(content), struct.calcsize(form)
    for at in places:
        if at + size <= len(data):
            (time,) = struct.unpack_from(form, data, at)
            struct.pack_into(form, data, at, min(round((time + shift) * factor), 256**size - 1))
    return bytes(data)


# --- FLAC, Ogg, MP3 -----------------------------------------------------------------------------------------


def _comments(data: bytes) -> Iterator[str]:
    """Yield the names of Vorbis comments that no other file gets."""
    (length,) = struct.unpack_from("<I", data)
    (count,), at = struct.unpack_from("<I", data, 4 + length), 8 + length
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, at)
        name = data[at + 4 : at + 4 + length].partition(b"=")[0].upper()
        if name not in COMMENTS:
            yield "picture" if name == b"METADATA_BLOCK_PICTURE" else name.decode("ascii", "replace")
        at += 4 + length


def _flac(file: Span, found: Notes) -> None:
    at, last = 4, False
    while not last:
        file.seek(at)
        head = file.read(4)
        last, kind, length = head[0] & 128 > 0, head[0] & 127, int.from_bytes(head[1:], "big")
        if kind == 4 and length <= LARGEST:
            found.others += _comments(file.read(length))
        elif kind == 2:
            found.others.append(f"application {file.read(4).decode('latin-1')}")
        elif kind in (5, 6):
            found.others.append({5: "cue sheet", 6: "picture"}[kind])
        at += 4 + length


def _ogg(file: Span, found: Notes) -> None:
    """Read the comments of Vorbis or Opus, the second packet of the first stream."""
    at, packet, second, serial = 0, b"", False, b""
    while len(packet) <= LARGEST:
        file.seek(at)
        head = file.read(27)
        table = file.read(head[26])
        serial = serial or head[14:18]
        data, place = file.read(sum(table)), 0
        for length in table if head[14:18] == serial else b"":
            packet += data[place : place + length] if second else b""
            place += length
            if length < 255 and second:
                found.others += _comments(packet[8 if packet[:8] == b"OpusTags" else 7 :])
                return
            second = second or length < 255
        at += 27 + len(table) + len(data)


def _id3(file: Span, found: Notes) -> None:
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or head[3] not in (3, 4):
        return
    end, at = 10 + _seven(head[6:]), 10
    while at + 10 <= end:
        file.seek(at)
        frame = file.read(10)
        if not re.fullmatch(rb"[A-Z0-9]{4}", frame[:4]):
            return
        if frame[:4] not in FRAMES:
            found.others.append({b"APIC": "picture", b"CHAP": "chapter"}.get(frame[:4], frame[:4].decode()))
        at += 10 + (_seven(frame[4:8]) if head[3] == 4 else int.from_bytes(frame[4:8], "big"))


def _seven(data: bytes) -> int:
    """Return a number of seven bits a byte."""
    return sum((byte & 127) << shift for byte, shift in zip(data, (21, 14, 7, 0), strict=True))
