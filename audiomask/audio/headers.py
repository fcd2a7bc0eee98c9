"""Find where the samples of a file lie, and whether its header says the truth.

libsndfile believes headers: it drops samples that a stale size leaves out, says nothing of samples that are
missing, refuses sizes that were never filled in, and reads the first of joined files only. `scan` finds these
cases and says which bytes of the header must be replaced, and which parts of the file are files of their own.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from audiomask.audio.beginnings import TAGS, aac_length, begins, behind_id3, frame_of, kind_of
from audiomask.audio.films import read_film
from audiomask.audio.flac import read_flac
from audiomask.audio.fmt_chunk import fill_up, mend_channels, mend_numbers
from audiomask.audio.mpeg import read_aac, read_mp3
from audiomask.audio.ogg import read_ogg
from audiomask.audio.spans import Scan, Span

# Chunks that may follow the samples of a RIFF or AIFF file; a cut one of these is not taken for samples.
AFTER = re.compile(
    rb"LIST|id3 |ID3 |bext|iXML|cue |fact|PEAK|smpl|inst|JUNK|junk|PAD |FLLR|afsp|acid|strc|_PMX|axml|chna|"
    rb"umid|DISP|ltxt|plst|NAME|AUTH|ANNO|COMT|\(c\) |MARK|INST|APPL|CHAN|FVER|AESD|MIDI"
)
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
W64_FMT = b"fmt \xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


# What archives hold besides sound that says its sample rate and length.
IN_ARCHIVES = {
    b"\0B": "features, no sound",
    b"NPY": "an array of NumPy without a sample rate",
    b"PKL": "a pickle, which is not opened",
    b"fLaC": "FLAC without its length",
    b"NIST_1A": "SPHERE without its length",
}


def in_archive(path: str) -> tuple[str, int] | None:
    """Return file and offset of an entry of a Kaldi archive (`wav.ark:1234`), else None."""
    match = re.fullmatch(r"(.+):(\d+)", path)
    known = match is not None and not os.path.exists(path) and os.path.isfile(match[1])  # noqa: PTH110, PTH113
    return (match[1], int(match[2])) if match is not None and known else None


def archived(path: str, start: int) -> list[tuple[int, Scan]]:
    """Return a `scan` of an entry of an archive, which ends where its header says.

    It is a WAV, or a file of any format behind AUDIO and its length, as kaldiio and ESPnet write FLAC.
    """
    with Span(path, start) as file:
        head = file.read(14)
        if head[:4] == b"RIFF":
            file.size = min(file.size, 8 + int.from_bytes(head[4:8], "little"))
        elif head[:5] == b"AUDIO" and head[5] <= 8:
            begin = 6 + head[5]
            file.start += begin
            file.size = min(file.size - begin, int.from_bytes(head[6:begin], "little"))
        else:
            kind = next((kind for magic, kind in IN_ARCHIVES.items() if head.startswith(magic)), "no sound")
            raise ValueError(f"holds {kind}; write its sound to files first, as in: wav-copy or kaldiio")
        file.seek(0)
        return [(file.start, _scan(file))]


def scan(path: str | Path) -> list[tuple[int, Scan]]:
    """Return where each file in a (perhaps joined) file begins, and what its bytes say.

    What is no known container is left to libsndfile.
    """
    found: list[tuple[int, Scan]] = []
    start = 0
    with Span(path) as whole:
        total = whole.size
        while True:
            whole.start, whole.size = start, total - start
            tags = behind_id3(whole)
            if tags and _reader(whole.peek(tags, 16)) not in (None, read_mp3):  # which knows tags
                start += tags
                whole.start, whole.size = start, total - start
            one = _scan(whole)
            found.append((start, one))
            start += one.end
            whole.start, whole.size = start, total - start
            if not whole.size or not one.end or not one.kind or not begins(whole, 0):
                break
        behind = total - start if one.kind in ("mp3", "ogg") and start else 0
        if behind and not whole.peek(0, 11).startswith(TAGS):
            one.warning = one.warning or f"left out: {behind} bytes behind its end, no sound"
    return found


def _reader(head: bytes) -> Callable[[Span, Scan], None] | None:
    """Return what reads the container whose first bytes these are, or None."""
    if frame_of(head) or head[:3] == b"ID3":
        return read_mp3
    return READERS.get("aac" if aac_length(head) else kind_of(head))


def _scan(file: Span) -> Scan:
    found, read = Scan(file.size, file.size), _reader(file.peek(0, 16))
    try:
        if read is not None:
            read(file, found)
    except (struct.error, ValueError, IndexError):  # a header that breaks off: libsndfile says what is wrong
        return Scan(file.size)
    return found


def _sized(
    found: Scan,
    start: int,
    promised: int,
    unit: int,
    known: bool,
    tail: bool,
    align: int = 1,
    stop: int | None = None,
) -> int:
    """Return how many bytes of samples there are, and note what is missing or stale.

    Args:
        found: What is known of the file, with its size.
        start: Where the samples begin.
        promised: Their bytes by the header.
        unit: Bytes of a frame, or of a block of a compressed coding.
        known: Whether `promised` is a number at all, and not the sign of a writer that could not seek.
        tail: Whether something else than samples follows the promised ones.
        align: The number of bytes of whose multiple a chunk is filled up.
        stop: Where samples that go on beyond the promised ones end; None for the end of the file.
    """
    there = max(0, (found.size if stop is None else stop) - start)
    if known and promised > there:
        found.warning = f"truncated: its header promises {promised} bytes of samples, {there} are there"
    elif (
        tail or there // max(1, unit) <= promised // max(1, unit) or 0 < there - promised <= -promised % align
    ):
        return min(promised, there)
    elif known and promised:
        found.warning = f"stale header: it says {promised} bytes of samples, {there} are there; all were used"
    if known and promised and there < unit:
        found.frames = 0
    return there - there % max(1, unit)


def _followed(file: Span, at: int, order: str, found: Scan) -> bool:
    """Return whether chunks, a tag or another file follow at `at`, rather than more samples."""
    begin = at
    while at < file.size:
        head = file.peek(at, 11)
        if begins(file, at):
            found.end = at
            return True
        if head.startswith(TAGS):
            return True
        if len(head) < 8:  # perhaps a chunk that is cut in its length
            return at > begin or AFTER.match(head) is not None
        name, length = struct.unpack(f"{order}4sI", head[:8])
        if at == begin and AFTER.match(name):
            length = min(length, file.size - at - 8)  # a cut one
        if not re.fullmatch(rb"[ -~]{4}", name):
            return False
        at += 8 + length + length % 2
    return begin < at <= file.size + 1


def _trailing(file: Span, start: int, order: str) -> int:
    """Return where chunks begin that reach to the end of a file, behind samples."""
    low = max(start, file.size - 2**16)
    file.seek(low)
    data = file.read()
    for match in AFTER.finditer(data):
        at = match.start()
        while len(data) - at >= 8:
            name, length = struct.unpack(f"{order}4sI", data[at : at + 8])
            if not re.fullmatch(rb"[ -~]{4}", name):
                break
            at += 8 + length + length % 2
        if at in (len(data), len(data) + 1):
            return low + match.start()
    return file.size


def _chunks(file: Span, at: int, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, place and length of the content of each chunk of a RIFF or AIFF file."""
    while size - at >= 8:
        file.seek(at)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        yield name, at + 8, length
        at += 8 + length + length % 2


def _riff(file: Span, found: Scan) -> None:
    """Read RIFF, RIFX, RF64 and BW64: sizes in `data` and, of 64 bits, in `ds64`.

    libsndfile 1.2.2 does not know BW64, which is RF64 by another name, and takes no chunks of an odd length
    in either.
    """
    file.seek(0)
    magic = file.read(12)
    if magic[8:] != b"WAVE":
        return
    found.kind, order = "wav", ">" if magic[:4] == b"RIFX" else "<"
    unit, wide, tag, channels = 1, 0, 0, 0
    for name, at, length in _chunks(file, 12, found.size, order):
        file.seek(at)
        if wide and length % 2 and name != b"data":
            found.patches[at - 4] = struct.pack("<I", length + 1)
        if name == b"ds64":
            wide = at
            found.patches |= {0: b"RF64"} if magic[:4] == b"BW64" else {}
        elif name == b"fmt ":
            content = file.read(min(length, 40))
            tag, _, _, _, unit, _ = struct.unpack(f"{order}HHIIHH", content[:16])
            channels = mend_channels(found, at, content, order)
            channels = mend_channels(found, at, content, order)
            if tag in (1, 3, 6, 7, 0xFFFE):
                unit = mend_numbers(found, at, content, order)
            if tag == 0xFFFE and len(content) >= 24:
                (found.mask,) = struct.unpack(f"{order}I", content[20:24])
        elif name == b"data":
            promised = length
            if wide and length == 0xFFFFFFFF:
                file.seek(wide + 8)
                (promised,) = struct.unpack(f"{order}Q", file.read(8))
            streamed = promised == 0 or (0x7FFF0000 <= promised < 2**32 and not wide) or promised >= 2**62
            after = at + promised + promised % 2
            tail = (promised == 0 or not streamed) and _followed(file, after, order, found)
            stop = _trailing(file, at, order) if not tail and (streamed or after < found.size) else None
            if stop and unit == 1 and stop < found.size and file.peek(stop - 1, 1) == b"\0":
                stop -= 1  # it fills up: as a sample it would be of full scale, in all codings of a byte
            true = _sized(found, at, promised, unit, not streamed, tail, 2, stop)
            if not tail and true != promised:
                true = fill_up(found, at, true, unit, tag, channels)
            if true != promised and wide:
                found.patches |= {
                    wide: struct.pack(f"{order}QQ", found.size - 8, true),
                    wide + 16: struct.pack(f"{order}Q", true // max(1, unit)),
                    at - 4: b"\xff" * 4,
                }
            elif true != promised and true < 2**32 - 8:
                found.patches |= {
                    4: struct.pack(f"{order}I", min(found.size - 8, 2**32 - 1)),
                    at - 4: struct.pack(f"{order}I", true),
                }
            return


def _aiff(file: Span, found: Scan) -> None:
    """Read AIFF and AIFC: frames in `COMM`, bytes in `SSND`."""
    found.kind = "aiff"
    comm, unit, frames, coding = 0, 1, 0, b""
    for name, at, length in _chunks(file, 12, found.size, ">"):
        file.seek(at)
        if name == b"COMM":
            channels, frames, bits = struct.unpack(">HIH", file.read(8))
            comm, unit = at, channels * ((bits + 7) // 8)
            file.seek(at + 18)
            coding = file.read(4) if length >= 22 else b""
            if coding in (b"GSM ", b"dwvw", b"DWVW"):
                return  # blocks of other lengths
            unit = {b"ima4": 34, b"ulaw": 1, b"alaw": 1}.get(coding, unit // max(1, channels)) * channels
        elif name == b"SSND" and comm:
            promised = max(0, length - 8)
            after = at + length + length % 2
            tail = _followed(file, after, ">", found) if promised > 0 else _next(file, after, found)
            stop = _trailing(file, at + 8, ">") if not tail and after < found.size else None
            true = _sized(found, at + 8, promised, unit, promised > 0, tail, 2, stop)
            if true != promised:
                found.patches = {
                    4: struct.pack(">I", min(found.size - 8, 2**32 - 1)),
                    comm + 2: struct.pack(">I", true // max(1, unit)),
                    at - 4: struct.pack(">I", true + 8),
                }
            elif frames and unit and true % unit > 1 and true % frames == 0:  # as of other channels or bits
                found.refused = (
                    f"its header contradicts itself: {frames} samples of {channels} channels of {bits} bits "
                    f"in {true} bytes; mend it"
                )
            elif coding != b"ima4" and unit and frames != true // unit and abs(frames * unit - true) > 1:
                found.patches = {comm + 2: struct.pack(">I", true // unit)}
                found.warning = found.warning or (
                    f"stale header: it says {frames} samples, {true // unit} are there; all were used"
                )
            return


def _next(file: Span, at: int, found: Scan) -> bool:
    """Return whether another file, or a tag, begins at `at`, and note it."""
    file.seek(at)
    if at < found.size and (file.read(11).startswith(TAGS) or begins(file, at)):
        found.end = at
        return True
    return False


def _au(file: Span, found: Scan) -> None:
    """Read Sun AU, of either byte order; nothing but another file follows its samples."""
    file.seek(0)
    found.kind, order = "au", ">" if file.read(4) == b".snd" else "<"
    start, promised, coding, _, channels = struct.unpack(f"{order}5I", file.read(20))
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(coding)
    if width is None:
        return  # G.721 and G.723 come in blocks
    wrong = start < 24 or start > found.size  # then they are taken to follow the header
    patches = {4: struct.pack(f"{order}I", 24)} if wrong else {}
    if start > found.size:
        found.warning = f"stale header: its samples begin at byte {start}, behind its end; 24 was used"
    start = 24 if wrong else start
    known = promised not in (0, 0xFFFFFFFF)
    tail = promised != 0xFFFFFFFF and _next(file, start + promised, found)
    true = _sized(found, start, promised, width * max(1, channels), known, tail)
    if true != promised:
        patches[8] = struct.pack(f"{order}I", min(true, 2**32 - 2))
    found.patches = patches


def _sphere(file: Span, found: Scan) -> None:
    """Read NIST SPHERE, whose header is text of a length that its second line says."""
    file.seek(0)
    found.kind, head = "sphere", file.read(1024)
    length = int(head.split(b"\n")[1])
    head += file.read(max(0, length - 1024))
    numbers = {
        name: int(value)
        for name, value in re.findall(rb"^(sample_count|channel_count|sample_n_bytes) -\w+ (\d+)", head, re.M)
    }
    if len(numbers) < 3 or b"shorten" in head or b"wavpack" in head:
        return
    unit = numbers[b"channel_count"] * numbers[b"sample_n_bytes"]
    promised = numbers[b"sample_count"] * unit
    tail = _next(file, length + promised, found)
    true = _sized(found, length, promised, unit, promised > 0, tail)
    if true != promised:
        text = re.sub(rb"(?m)^sample_count -i \d+", b"sample_count -i %d" % (true // unit), head[:length])
        end = text.index(b"end_head\n") + 9
        found.patches = {0: text[:end].ljust(length, b" ")[:length]}


def _named(file: Span, at: int, name: int, order: str) -> bool:
    """Return whether a chunk begins at `at`: a `name` of so many bytes, a length of 64 bits."""
    file.seek(at)
    head = file.read(name + 8)
    length = int.from_bytes(head[name:], "little" if order == "<" else "big")
    return len(head) == name + 8 and re.match(rb"[ -~]{4}", head) is not None and 0 < length < 2**40


def _w64(file: Span, found: Scan) -> None:
    """Read Sony Wave64: names of 16 bytes, sizes of 64 bits that count their own 24 bytes."""
    found.kind, at, unit, tag, channels = "w64", 40, 1, 0, 0
    while found.size - at >= 24:
        file.seek(at)
        name, length = file.read(16), struct.unpack("<Q", file.read(8))[0]
        if name == W64_FMT:
            content = file.read(40)
            tag, channels, _, _, unit = struct.unpack("<HHIIH", content[:14])
            channels = mend_channels(found, at + 24, content, "<")
            unit = mend_numbers(found, at + 24, content, "<") if tag in (1, 3, 6, 7, 0xFFFE) else unit
            if tag == 0xFFFE and content[24:26] not in (b"\1\0", b""):
                found.patches[at + 24] = content[24:26]  # libsndfile takes every extended coding for PCM
        elif name == W64_DATA:
            promised = max(0, length - 24)
            after = at + (length + 7) // 8 * 8
            known = 0 < promised < 2**62
            # libsndfile 1.2.2 does not fill up
            tail = promised < 2**62 and (_next(file, at + length, found) or _next(file, after, found))
            if not tail and known and _named(file, after, 16, "<"):
                tail, found.end = True, after  # libsndfile takes chunks that it does not know for samples
            true = _sized(found, at + 24, promised, unit, known, tail, 8)
            if true == promised and not tail:  # and what fills up as well
                found.end = min(found.size, at + 24 + true)
            if not tail and true != promised:
                true = fill_up(found, at + 24, true, unit, tag, channels)
            if true != promised:
                found.patches |= {16: struct.pack("<Q", found.size), at + 16: struct.pack("<Q", true + 24)}
            return
        at += max(24, (length + 7) // 8 * 8)


def _caf(file: Span, found: Scan) -> None:
    """Read Apple's CAF, whose samples may be of unknown length (-1) where they come last."""
    found.kind, at, unit, odd = "caf", 8, 1, 0
    while found.size - at >= 12:
        if _next(file, at, found) or (odd and _next(file, at + 1, found)):
            return
        if odd and not _named(file, at, 4, ">") and _named(file, at + 1, 4, ">"):
            at += 1  # libsndfile 1.2.2 fills up to an even number
        file.seek(at)
        name, length = struct.unpack(">4sq", file.read(12))
        if name == b"desc":
            _, coding, _, unit, _, channels, bits = struct.unpack(">d4s5I", file.read(32))
            fits = 8 * unit == channels * bits or (bits == 24 and unit == 4 * channels)
            # no third number says which of the two is wrong
            if coding in (b"lpcm", b"alaw", b"ulaw") and not fits and unit:
                found.refused = (
                    f"its header contradicts itself: {channels} channels of {bits} bits in packets of {unit} "
                    "bytes; mend it"
                )
        elif name == b"data" and unit:  # else packets of their own sizes
            promised = max(0, length - 4)
            after = at + 12 + length
            known = length >= 4
            tail = known and (_next(file, after, found) or _next(file, after + length % 2, found))
            tail = tail or (length > 4 and _named(file, after, 4, ">"))
            true = _sized(found, at + 16, promised, unit, length > 4, tail, 2)
            if length != true + 4:
                found.patches[at + 4] = struct.pack(">q", true + 4)
            return
        at, odd = at + 12 + max(0, length), length % 2


READERS: dict[str, Callable[[Span, Scan], None]] = {
    "wav": _riff, "aiff": _aiff, "au": _au, "sphere": _sphere, "w64": _w64, "caf": _caf,
    "flac": read_flac, "ogg": read_ogg, "aac": read_aac,
    "mp4": read_film, "matroska": read_film, "avi": read_film, "film": read_film,
}  # fmt: skip
