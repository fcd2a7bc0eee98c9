"""Tell whether a file begins at some place of another, of whatever kind either of them is.

    begins(file, at)                        # "wav", "mp3", ..., "" where it is no beginning

Everything that reads a container asks this where its own samples end, so all kinds may be joined with all. A
magic number of four bytes or more is a beginning. The mark of a frame of MPEG audio or AAC has 11 bits, which
samples have too: the frame must end where another one begins, or a tag, a file of another kind, or nothing.
"""

from __future__ import annotations

import re

from audiomask.audio.spans import Span

# What a file begins with. All but films are read by libsndfile.
MAGIC = {
    "wav": rb"(?:RIF[FX]|RF64|BW64)....WAVE",
    "aiff": rb"FORM....AIF[FC]",
    "au": rb"\.snd|dns\.",
    "sphere": rb"NIST_1A",
    "w64": rb"riff\x2e\x91\xcf\x11",
    "caf": rb"caff",
    "flac": rb"fLaC",
    "ogg": rb"OggS",
    "mp4": rb"....ftyp",  # also m4a, mov, 3gp
    "matroska": rb"\x1aE\xdf\xa3",  # also WebM
    "avi": rb"RIFF....AVI ",
    "film": rb"0&\xb2u\x8ef\xcf\x11|FLV\x01|#!AMR",  # ASF, FLV, AMR
    # No samples either: WavPack, Monkey's Audio, True Audio, Musepack, VOC, SVX, PAF, PVF, AVR, DSD, IRCAM,
    # SDS, XI, WVE, RealMedia, NUT, ADIF, MIDI, other RIFF than a part of an AVI, MPEG streams, AC-3, NumPy,
    # MATLAB, packed files, text.
    "other": rb"wvpk|MAC |TTA1|MPCK|MP\+|Creative Voice|FORM....(?:8SVX|16SV)| paf|fap |PVF1\n|2BIT|DSD |"
    rb"FRM8|d\xa3[\x01-\x04]\x00|\xf0~.\x01|Extended Instrument:|ALawSoundFile|\.RMF|nut/multimedia|ADIF|"
    rb"MThd|RIF[FX]....(?!AVIX)|\x00\x00\x01\xba|G.{187}G.{187}G|\x0bw.{62,2046}\x0bw|\x93NUMPY|MATLAB 5|"
    rb"PK\x03\x04|\x1f\x8b\x08|[\t\n\r -~]{64}",
}
BEGINNING = re.compile(
    b"(?s)" + b"|".join(b"(?P<%s>%s)" % (kind.encode(), magic) for kind, magic in MAGIC.items())
)
TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")  # what taggers append to any file

RATES = (44100, 48000, 32000)
KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
KBITS[2, 3] = KBITS[2, 2]


def kind_of(data: bytes) -> str:
    """Return the kind of file, a key of MAGIC, that begins with `data`; "" for none."""
    match = BEGINNING.match(data)
    return str(match.lastgroup) if match else ""


def frame_of(head: bytes) -> tuple[int, int, int] | None:
    """Return bytes, samples and rate of the MPEG audio frame that begins here, else None."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = {3: 1, 2: 2, 0: 2.5}.get(head[1] >> 3 & 3), 4 - (head[1] >> 1 & 3)
    kbit, rate = head[2] >> 4, head[2] >> 2 & 3
    if version is None or layer == 4 or kbit in (0, 15) or rate == 3:
        return None
    rate = RATES[rate] // {1: 1, 2: 2, 2.5: 4}[version]
    bits = KBITS[1 if version == 1 else 2, layer][kbit - 1] * 1000
    pad = head[2] >> 1 & 1
    if layer == 1:
        return (12 * bits // rate + pad) * 4, 384, rate
    samples = 1152 if layer == 2 or version == 1 else 576
    return samples // 8 * bits // rate + pad, samples, rate


def aac_length(head: bytes) -> int:
    """Return the bytes of the AAC frame in ADTS that begins here (ISO 13818-7, 6.2), or 0."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length > 7 else 0


def length_of(head: bytes) -> int:
    """Return the bytes of the frame, of MPEG audio or AAC, that begins here, or 0."""
    frame = frame_of(head)
    return frame[0] if frame else aac_length(head)


def id3_length(head: bytes) -> int:
    """Return the bytes of the ID3v2 tag that begins here, or 0."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def behind_id3(file: Span, at: int = 0) -> int:
    """Return where the ID3v2 tags that begin at `at` end, which is there if none does."""
    while length := id3_length(file.peek(at, 10)):
        at += length
    return at


def tag_at(file: Span, at: int) -> int:
    """Return the length of the tag of another kind than ID3v2 at `at`, or 0."""
    head = file.peek(at, 32)
    if head[:3] == b"TAG":
        return min(128, file.size - at)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        size, flags = int.from_bytes(head[12:16], "little"), int.from_bytes(head[20:24], "little")
        return size + 32 if flags >> 29 & 1 else 32
    return 0


def begins(file: Span, at: int) -> str:
    """Return the kind of the file that begins at `at`, or behind ID3 tags there, or "".

    The kind is a key of MAGIC, mp3 (any MPEG audio), or aac. A tag alone is no file.
    """
    start = behind_id3(file, at)
    head = file.peek(start, 4096)
    if len(head) < 12:
        return ""
    length = length_of(head)
    if not length or start + length > file.size:
        return kind_of(head)
    behind = file.peek(start + length, 4096)
    if start > at or not behind or behind.startswith(TAGS) or length_of(behind) or kind_of(behind):
        return "mp3" if frame_of(head) else "aac"
    return ""


def is_file(data: bytes) -> bool:
    """Return whether bytes are the beginning of an audio or video file, and not bare samples.

    Of frames without a magic number, the second must be there and have the same mark as the first.
    """
    if kind_of(data) or data[:3] == b"ID3" or data[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return True
    length = length_of(data[:7])
    return 0 < length < len(data) - 1 and data[length : length + 2] == data[:2]
