"""Find where the samples of a file lie, and whether its header says the truth.

libsndfile believes headers: it drops samples that a stale size leaves out, says nothing of samples that are
missing, refuses sizes that were never filled in, and reads the first of joined files only. `scan` finds these
cases and says which bytes of the header must be replaced, and which parts of the file are files of their own.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from audiomask.audio.fmt_chunk import fill_up, mend_channels, mend_numbers
from audiomask.audio.mpeg import frame_of, id3_length, read_mp3, tag_at
from audiomask.audio.spans import PIECE, Scan, Span

# Chunks that may follow the samples of a RIFF or AIFF file; a cut one of these is not taken for samples.
AFTER = re.compile(
    rb"LIST|id3 |ID3 |bext|iXML|cue |fact|PEAK|smpl|inst|JUNK|junk|PAD |FLLR|afsp|acid|strc|_PMX|axml|chna|"
    rb"umid|DISP|ltxt|plst|NAME|AUTH|ANNO|COMT|\(c\) |MARK|INST|APPL|CHAN|FVER|AESD|MIDI"
)
TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")  # what taggers append to any file
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
            whole.start, whole.size, whole.at = start, total - start, 0
            one = _scan(whole)
            if not one.kind and (tags := _tagged(whole)):
                start += tags
                whole.start, whole.size, whole.at = start, total - start, 0
                one = _scan(whole)
            found.append((start, one))
            start += one.end
            whole.start, whole.size, whole.at = start, total - start, 0
            if not whole.size or not one.end or not one.kind or not _another(whole, 0, one.kind):
                whole.seek(0)
                if one.kind in ("mp3", "ogg") and 0 < start < total and not whole.read(11).startswith(TAGS):
                    one.warning = one.warning or f"left out: {total - start} bytes behind its end, no sound"
                return found


def _tagged(file: Span) -> int:
    """Return the length of ID3 tags before a file of another kind than MP3, which knows them."""
    at = 0
    file.seek(at)
    while (head := file.read(10))[:3] == b"ID3" and len(head) == 10:
        at += 10 + id3_length(head)
        file.seek(at)
    return at if _reader(head) else 0


def _another(file: Span, at: int, kind: str = "") -> bool:
    """Return whether a file begins at `at`, behind one of a `kind`."""
    file.seek(at)
    data = file.read(4096)
    while data[:3] == b"ID3" and len(data) >= 10:  # a tag alone is no file
        at, kind = at + 10 + id3_length(data), "mp3"
        file.seek(at)
        data = file.read(4096)
    frame = frame_of(data) if kind == "mp3" else None
    return len(data) >= 12 and (is_file(data) or (frame is not None and at + frame[0] <= file.size))


def _reader(head: bytes) -> Callable[[Span, Scan], None] | None:
    """Return what reads the container whose first bytes these are, or None."""
    if head[:4] == b"FORM" and head[8:12] not in (b"AIFF", b"AIFC"):
        return None
    return next((read for magic, read in READERS.items() if head.startswith(magic)), None)


def is_file(data: bytes) -> bool:
    """Return whether bytes are the beginning of an audio or video file, and not bare samples.

    MPEG and AAC frames have a mark of 11 bits only, which samples may have too: a second one must follow.
    """
    if _reader(data[:12]) is not None or MEDIA_FILES.match(data) or OTHERS.match(data):
        return True
    frame = frame_of(data[:4])
    length = frame[0] if frame else 0
    if re.match(rb"\xff[\xf0\xf1\xf8\xf9]", data) and len(data) > 6:
        length = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
    return 0 < length < len(data) - 1 and data[length : length + 2] == data[:2]


def _scan(file: Span) -> Scan:
    head, found = file.read(16), Scan(file.size, file.size)
    if MEDIA.match(head):
        found.kind = "media"
    read = _reader(head) or (read_mp3 if frame_of(head) else None)
    try:
        if found.kind == "media":
            _media(file, head, found)
        elif read is not None:
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
    if at >= file.size:
        return False
    if _another(file, at):
        found.end = at
        return True
    file.seek(at)
    head = file.read(11)
    if head.startswith(TAGS) or (len(head) < 8 and AFTER.match(head)):  # a chunk that is cut in its length
        return True
    begin = at
    while file.size - at >= 8:
        file.seek(at)
        head = file.read(12)
        name, length = struct.unpack(f"{order}4sI", head[:8])
        if _reader(head) or MEDIA_FILES.match(head):
            found.end = at
            return True
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


# ISO media (mp4, m4a, mov, 3gp), Matroska and WebM, ASF, AVI, FLV, AMR; and besides AAC in ADTS.
MEDIA_FILES = re.compile(rb"(?s)....ftyp|\x1aE\xdf\xa3|0&\xb2u\x8ef\xcf\x11|RIFF....AVI |FLV\x01|#!AMR")
MEDIA = re.compile(MEDIA_FILES.pattern + rb"|\xff[\xf0\xf1\xf8\xf9]")
# No samples either: WavPack, Monkey's Audio, True Audio, Musepack, VOC, SVX, PAF, PVF, AVR, DSD, IRCAM, SDS,
# XI, WVE, RealMedia, NUT, ADIF, MIDI, MPEG streams, AC-3, NumPy, MATLAB, packed files, text.
OTHERS = re.compile(
    rb"(?s)wvpk|MAC |TTA1|MPCK|MP\+|Creative Voice|FORM....(?:8SVX|16SV)| paf|fap |PVF1\n|2BIT|DSD |FRM8|"
    rb"d\xa3[\x01-\x04]\x00|\xf0~.\x01|Extended Instrument:|ALawSoundFile|\.RMF|nut/multimedia|ADIF|MThd|"
    rb"\x00\x00\x01\xba|G.{187}G.{187}G|\x0bw.{62,2046}\x0bw|\x93NUMPY|MATLAB 5|PK\x03\x04|\x1f\x8b\x08|"
    rb"[\t\n\r -~]{64}"
)


def _media(file: Span, head: bytes, found: Scan) -> None:
    """Note whether a media file ends before its outermost boxes do, or goes on with another one."""
    end = 0
    if head[:4] == b"RIFF":
        end = 8 + int.from_bytes(head[4:8], "little")
    elif head[:4] == b"\x1aE\xdf\xa3":
        for name in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):  # the header, and the segment with all the rest
            file.seek(end)
            length = file.read(12)
            count = 9 - length[4].bit_length() if length[:4] == name else 0
            bits = int.from_bytes(length[4 : 4 + count], "big") & (1 << 7 * count) - 1
            end += 4 + count + bits
            if not count or bits == (1 << 7 * count) - 1:
                return  # a length that was left open
    elif head[4:8] == b"ftyp":
        while end < found.size:
            file.seek(end)
            length, name = struct.unpack(">I4s", file.read(8))
            if end and _another(file, end):
                found.warning = f"left out: another file begins at byte {end}"
                return
            if not re.fullmatch(rb"[ -~\xa9]{4}", name) or not length:
                return  # something else, or a box without an end
            end += max(8, length if length > 1 else int.from_bytes(file.read(8), "big"))
    if end > found.size:
        found.warning = f"truncated: its header promises {end} bytes, {found.size} are there"
    file.seek(end)
    if end and file.read(4) != b"\x1aE\xdf\xa3" and _another(file, end):  # FFmpeg goes on with more Matroska
        found.warning = f"left out: another file begins at byte {end}"


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
    if at < found.size and (file.read(11).startswith(TAGS) or _another(file, at)):
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
            tail = promised < 2**62 and (_next(file, after, found) or _next(file, at + length, found))
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
            if coding == b"lpcm" and not fits and unit:  # no third number says which of the two is wrong
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


# --- FLAC: the last frame says how long the file is ---------------------------------------------------------


def _table(polynomial: int, bits: int) -> list[int]:
    """Return the remainders of all bytes, for a CRC of 8 or 16 bits, most significant bit first."""
    top, keep, table = 1 << (bits - 1), (1 << bits) - 1, []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & keep
        table.append(value)
    return table


MARKS = (b"RIF", b"RF64", b"BW64", b"FORM", b"caff", b"OggS", b"ID3", b"TAG", b"APETAGEX", b".snd", b"dns.",
         b"riff", b"NIST_1A", b"Xing", b"Info")  # fmt: skip
CRC8, CRC16 = _table(0x07, 8), _table(0x8005, 16)
SIZES = [0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << n for n in range(8))]


FLAC_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)


def _flac_frame(data: bytes, at: int, fixed: int) -> tuple[int, int, int] | None:
    """Return first sample, length and rate of the frame at `at`, or None (RFC 9639, 9.1).

    The rate is 0 where the frame does not say it.
    """
    head = data[at : at + 16]
    if len(head) < 6:
        return None
    variable, code, rate = head[1] & 1, head[2] >> 4, head[2] & 15
    extra = next((n for n in range(8) if not head[4] & (0x80 >> n)), 8)  # bytes of the coded number
    if extra == 1 or extra > 7 or code == 0 or rate == 15:
        return None
    number = head[4] & (0x7F >> extra if extra else 0x7F)
    for byte in head[5 : 4 + max(1, extra)]:
        number = number << 6 | byte & 0x3F
    end = 4 + max(1, extra)
    size = SIZES[code]
    if code in (6, 7):
        size = int.from_bytes(head[end : end + code - 5], "big") + 1
        end += code - 5
    more = {12: 1, 13: 2, 14: 2}.get(rate, 0)
    hertz = int.from_bytes(head[end : end + more], "big") * {12: 1000, 14: 10}.get(rate, 1)
    hertz, end = FLAC_RATES[rate] if rate < 12 else hertz, end + more
    if len(head) <= end:
        return None
    crc = 0
    for byte in head[:end]:
        crc = CRC8[crc ^ byte]
    if crc != head[end]:
        return None
    return (number if variable else number * fixed), size, hertz


def _flac(file: Span, found: Scan) -> None:
    """Read FLAC, whose header may leave the length open (written into a pipe) or promise more."""
    found.kind = "flac"
    at, tail, joined = 42, b"", -1
    file.seek(at)
    while joined < 0 and (data := tail + file.read(PIECE)):  # a whole file in memory would count as ours
        joined = data.find(b"fLaC\x00\x00\x00\x22")
        at, tail = at + len(data) - 7, data[-7:]
        if len(data) <= 7:
            break
    if joined >= 0:
        end = at - len(data) + 7 + joined
        file.seek(max(0, end - PIECE))
        before = file.read(end - file.at)
        tags = (m.start() for m in re.finditer(b"ID3", before))
        end -= next(
            (len(before) - i for i in tags if i + 10 + id3_length(before[i : i + 10]) == len(before)), 0
        )
        file.size = found.end = end
    file.seek(8)
    info = file.read(34)
    at = 42
    file.seek(4)
    last = file.read(1)[0] & 128 > 0
    while not last:
        file.seek(at)
        block = file.read(4)
        last, length = len(block) < 4 or block[0] & 128 > 0, int.from_bytes(block[1:], "big")
        if block[:1] and block[0] & 127 == 4:  # a Vorbis comment
            tag = re.search(rb"(?i)WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x([0-9a-f]+)", file.read(length))
            found.mask = int(tag[1], 16) if tag else 0
        at += 4 + length
    fixed, total = struct.unpack(">H", info[:2])[0], int.from_bytes(info[13:18], "big") & (2**36 - 1)
    reach = 2**14
    while True:
        start = max(42, found.end - reach)
        file.seek(start)
        data = file.read()
        places = [m.start() for m in re.finditer(rb"\xff[\xf8\xf9]", data)]
        frames = ((at, frame) for at in reversed(places) if (frame := _flac_frame(data, at, fixed)))
        last_frame = next(frames, None)
        if last_frame or start == 42 or reach >= 2**24:
            break
        reach *= 4
    if not last_frame:
        found.frames = 0
        if total:
            found.warning = f"truncated: its header promises {total} samples, none are there"
        elif at < found.end:
            found.warning = "damaged: no frame in it is whole"
        return
    at, (first, size, rate) = last_frame
    said = int.from_bytes(info[10:13], "big") >> 4
    if rate not in (0, said):
        packed = (rate << 44) | int.from_bytes(info[10:18], "big") & (2**44 - 1)
        info = info[:10] + packed.to_bytes(8, "big") + info[18:]
        found.patches = {18: info[10:18]}
        found.warning = f"stale header: it says {said} Hz, its frames say {rate} Hz, which was used"

    def shorten(frames: int, end: int) -> None:
        found.end, found.frames = end, frames
        packed = int.from_bytes(info[10:18], "big") & ~(2**36 - 1) | frames
        found.patches = {18: packed.to_bytes(8, "big")}
        if frames < total:
            found.warning = f"truncated: its header promises {total} samples, {frames} are there"

    def leave_out() -> None:
        shorten(first, start + at)
        found.warning = found.warning or "cut off: its last frame is damaged or not whole, and was left out"

    crc, ends = 0, []
    # where the promised samples are there, only another file behind them matters
    whole = first + size == total and all(data.find(mark, at) < 0 for mark in MARKS)
    for place, byte in enumerate(() if whole else data[at:], start + at + 1):
        crc = (crc << 8 & 0xFF00) ^ CRC16[crc >> 8 ^ byte]
        if not crc:
            ends.append(place)
    for end in ends:
        if end < found.end and (_another(file, end) or tag_at(file, end)):
            found.end, crc = end, 0
            break
    if crc and ends:  # something else follows, or the frame is cut, which its decoder finds out
        found.shorten = leave_out
        crc, found.end = 0, ends[-1]
    if first + size == total:  # whether all of that frame is there shows when it is decoded
        found.shorten = leave_out
    elif crc:
        leave_out()
    else:
        shorten(first + size, found.end)


# --- Ogg: files that were joined ----------------------------------------------------------------------------


def _ogg(file: Span, found: Scan) -> None:
    """Read Ogg page by page; a stream that begins after pages of others is the next file."""
    found.kind, at, begins, last, count, damaged = "ogg", 0, True, 0, 0, 0
    while True:
        file.seek(at)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            break
        table = file.read(head[26])
        end = at + 27 + len(table) + sum(table)
        if head[5] & 2 and not begins:
            break
        if end > found.size:
            last, at = 0, found.size
            break
        if not found.codec:
            magic = file.read(8)
            kinds = {b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"\x7fFLAC": "flac"}
            found.codec = next((kind for key, kind in kinds.items() if magic.startswith(key)), "")
        file.seek(at)
        count, damaged = count + 1, damaged + _damaged(file.read(end - at))
        begins, last, at = bool(head[5] & 2), head[5], end
    found.end = at
    if not last & 4:
        found.warning = "cut off: its last page is not the end of a stream"
    elif damaged:
        found.warning = f"damaged: {damaged} of its {count} pages were left out"


MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _damaged(page: bytes) -> bool:
    """Return whether the checksum of an Ogg page is wrong (RFC 3533); zlib has its mirror image."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(MIRROR)
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page[22:26].translate(MIRROR) != crc.to_bytes(4, "big")


READERS: dict[bytes, Callable[[Span, Scan], None]] = {
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"RF64": _riff,
    b"BW64": _riff,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": _au,
    b"NIST_1A": _sphere,
    b"riff\x2e\x91\xcf\x11": _w64,
    b"caff": _caf,
    b"fLaC": _flac,
    b"OggS": _ogg,
    b"ID3": read_mp3,
}
