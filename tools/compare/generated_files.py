"""Make audio files of all kinds from a seed: formats, codings, headers, cuts, joins and lies.

    made = make(seed=0, number=17)          # the same bytes each time
    Path(f"a{made.suffix}").write_bytes(made.data)

A plain seeded generator and no search by hypothesis: a file is named by seed and number for good, any number
of processes share the work, and what encoders make of a shape need not be shrunk to be understood.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile as sf

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000, 12345, 37800)
EDGES = (0, 1, 2, 3, 63, 160, 256, 505, 512, 960, 1024, 1152, 2048, 4096, 4608, 16384)
MOST = 600_000  # values of a signal: channels times samples


@dataclass
class Made:
    """A file and all that is known of it.

    `parts` are whole files, of whose decodes the decode of `data` is made; `suffixes` and `rates` are theirs.
    `samples` are those that a lossless coding holds, [C, T] float32; of all parts they are `written`, and the
    referee where they are known. `seams` name the frames that a file without a mark there begins and ends
    with: between two that are equal, nothing says that another file begins. `length` is the number of
    samples, of Vorbis. `fields` are numbers of the header: offset and struct format. `unit` is the number of
    bytes of a frame of samples, or 0; the samples begin at `begin`.
    """

    data: bytes
    suffix: str
    words: str
    lossy: bool = False
    samples: np.ndarray | None = None
    fields: dict[str, tuple[int, str]] = field(default_factory=dict)
    unit: int = 0
    begin: int = 0
    tail: int = 0  # bytes behind the samples
    change: str = "none"
    rate: int = 0
    length: int = 0
    seams: tuple[str, str] = "", ""
    parts: list[bytes] = field(default_factory=list)
    written: list[np.ndarray | None] = field(default_factory=list)
    suffixes: list[str] = field(default_factory=list)
    rates: list[int] = field(default_factory=list)


class Dice(random.Random):
    """A seeded generator; `kept` is a rate and a number of channels that all shapes have, where it is set."""

    kept: tuple[int, int] | None = None
    last = 0, 0


def signal(rng: Dice, rate: int, channels: int, length: int) -> np.ndarray:
    """Channels that differ, [C, T] float64 within +-.6: two tones and some noise each."""
    t, noise = np.arange(length) / rate, np.random.default_rng(rng.getrandbits(32))
    tones = [
        0.3 * np.sin(2 * np.pi * rng.uniform(80, 0.2 * rate) * t + channel)
        + 0.2 * np.sin(2 * np.pi * rng.uniform(80, 1500) * t)
        for channel in range(channels)
    ]
    return np.array(tones).reshape(channels, length) + 0.02 * noise.uniform(-1, 1, (channels, length))


def shape(rng: Dice, most: int = 8, rates: tuple[int, ...] = RATES, least: int = 0) -> tuple[int, int, int]:
    """Rate, channels and samples."""
    rate = rng.choice(rates)
    channels = min(most, rng.choice((1, 1, 1, 1, 2, 2, 2, 2, 3, 4, 5, 6, 7, 8)))
    if rng.kept and rng.kept[0] in rates and rng.kept[1] <= most:
        rate, channels = rng.kept
    rng.last = rate, channels
    length = rng.choice(EDGES) + rng.choice((-1, 0, 0, 1))
    if rng.random() < 0.6:
        length = int(rate * 10 ** rng.uniform(-2, 0.6))
    return rate, channels, min(max(least, length), MOST // channels)


def whole_numbers(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples as integers of `bits`, [C, T] int64, and as the float32 that they stand for."""
    numbers = np.round(x * (2 ** (bits - 1) - 1)).astype(np.int64)
    return numbers, (numbers / 2.0 ** (bits - 1)).astype(np.float32)


# --- what libsndfile writes ---------------------------------------------------------------------------------


def by_libsndfile(
    x: np.ndarray, rate: int, format: str, subtype: str, endian: str = "FILE", **how: Any
) -> tuple[bytes, np.ndarray | None]:
    """A file, and the samples that it holds where the coding is lossless."""
    out, held = io.BytesIO(), None
    data: np.ndarray = x.astype(np.float32)
    if subtype in ("FLOAT", "DOUBLE"):
        held = data
    elif subtype.startswith(("PCM", "ALAC")):
        bits = 8 if subtype in ("PCM_U8", "PCM_S8") else int(subtype[-2:])
        numbers, held = whole_numbers(x, bits)
        data = (numbers << (32 - bits)).astype(np.int32)
    sf.write(out, data.T, rate, format=format, subtype=subtype, endian=endian, **how)
    made = out.getvalue()
    if subtype in ("ULAW", "ALAW"):
        codes = np.frombuffer(made, np.uint8)[_begin(made) :][: x.size]
        held = expanded(codes.reshape(-1, len(x)), subtype).T
    return made, held


def _begin(data: bytes) -> int:
    """Where samples begin in a file of libsndfile's."""
    if data[:4] in (b".snd", b"dns."):
        return int.from_bytes(data[4:8], "big" if data[:1] == b"." else "little")
    if data[:4] == b"NIST":
        return 1024
    return (
        data.rindex(b"SSND", 0, 2000) + 16
        if data[:4] == b"FORM"
        else data.index(b"data") + 16 + 8 * (data[:4] == b"riff")
    )


def aiff(rng: Dice) -> Made:
    subtype = rng.choice(
        "PCM_S8 PCM_16 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW PCM_U8 IMA_ADPCM".split()  # noqa: SIM905
    )
    rate, channels, length = shape(rng, 2 if subtype == "IMA_ADPCM" else 8)
    endian = "LITTLE" if subtype in ("PCM_16", "PCM_24", "PCM_32") and rng.random() < 0.4 else "FILE"
    data, held = by_libsndfile(signal(rng, rate, channels, length), rate, "AIFF", subtype, endian)
    comm, ssnd = data.index(b"COMM"), data.index(b"SSND")
    if (
        struct.unpack_from(">I", data, comm + 10)[0] != length
    ):  # libsndfile 1.2.2 rounds bytes to an even number
        held = None
    fields = {
        "form size": (4, ">I"),
        "channels": (comm + 8, ">H"),
        "frames": (comm + 10, ">I"),
        "bits": (comm + 14, ">H"),
        "size": (ssnd + 4, ">I"),
    }
    words = f"AIFF {subtype} {endian.lower()} {rate} Hz {channels} ch {length}"
    lossy = subtype == "IMA_ADPCM"
    made = Made(data, ".aiff", words, lossy, held, fields, _unit(data, held), ssnd + 16)
    made.tail = len(data) - made.begin - length * made.unit if made.unit else 0
    return made


def _unit(data: bytes, held: np.ndarray | None) -> int:
    """Bytes of a frame, guessed from a file without much of a header; 0 for codings in blocks."""
    return 0 if held is None or not held.shape[1] else (len(data) // held.size) * len(held)


def au(rng: Dice) -> Made:
    subtype, endian = rng.choice("PCM_S8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW".split()), "FILE"  # noqa: SIM905
    rate, channels, length = shape(rng)
    if rng.random() < 0.2:
        endian = "LITTLE"
    data, held = by_libsndfile(signal(rng, rate, channels, length), rate, "AU", subtype, endian)
    order = ">" if data[:4] == b".snd" else "<"
    names = ("begin", "size", "coding", "rate", "channels")
    fields = {name: (4 + 4 * i, f"{order}I") for i, name in enumerate(names)}
    if order == "<":  # which FFmpeg does not know
        fields = {"size": fields["size"]}
    words = f"AU {subtype} {endian.lower()} {rate} Hz {channels} ch {length}"
    suffix = rng.choice((".au", ".snd"))
    begin = struct.unpack_from(f"{order}I", data, 4)[0]
    return Made(data, suffix, words, False, held, fields, (len(data) - begin) // max(1, length), begin)


def caf(rng: Dice) -> Made:
    subtype = rng.choice("PCM_S8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW ALAC_16 ALAC_24".split())  # noqa: SIM905
    rate, channels, length = shape(rng, 1 if subtype == "ALAC_24" else 8)  # libsndfile 1.2.2 damages stereo
    endian = "LITTLE" if subtype in ("PCM_16", "PCM_24", "FLOAT") and rng.random() < 0.4 else "FILE"
    data, held = by_libsndfile(signal(rng, rate, channels, length), rate, "CAF", subtype, endian)
    at = data.index(b"data", 52)
    fields = {"size": (at + 4, ">Q"), "packet bytes": (36, ">I"), "channels": (44, ">I"), "bits": (48, ">I")}
    words = f"CAF {subtype} {endian.lower()} {rate} Hz {channels} ch {length}"
    made = Made(data, ".caf", words, False, held, fields, struct.unpack_from(">I", data, 36)[0], at + 16)
    if made.unit and rng.random() < 0.2:
        data = data[: at + 16 + length * made.unit]  # without a byte that fills up
        made.data, made.words = data[: at + 4] + struct.pack(">q", -1) + data[at + 12 :], f"{words} streamed"
    return made


def sphere(rng: Dice) -> Made:
    subtype = rng.choice("PCM_S8 PCM_16 PCM_16 PCM_24 PCM_32 ULAW ALAW".split())  # noqa: SIM905
    rate, channels, length = shape(rng)
    endian = "LITTLE" if subtype == "PCM_16" and rng.random() < 0.5 else "FILE"
    data, held = by_libsndfile(signal(rng, rate, channels, length), rate, "NIST", subtype, endian)
    unit = (len(data) - 1024) // max(1, length)
    words = f"SPHERE {subtype} {endian.lower()} {rate} Hz {channels} ch {length}"
    return Made(data, rng.choice((".sph", ".nist")), words, False, held, {}, unit, 1024)


def wave64(rng: Dice) -> Made:
    subtype = rng.choice("PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM".split())  # noqa: SIM905
    rate, channels, length = shape(rng, 2 if "ADPCM" in subtype else 8)
    data, held = by_libsndfile(signal(rng, rate, channels, length), rate, "W64", subtype)
    at = data.index(b"data\xf3\xac\xd3\x11")
    fmt = data.index(b"fmt \xf3\xac\xd3\x11") + 24
    fields = {"file size": (16, "<Q"), "size": (at + 16, "<Q"), **_fmt(fmt, "<")}
    words = f"W64 {subtype} {rate} Hz {channels} ch {length}"
    block = struct.unpack_from("<H", data, fmt + 12)[0]
    if subtype == "MS_ADPCM":
        held = microsoft(data[at + 24 :], block, channels)
    made = Made(data, ".w64", words, False, held, fields, block, at + 24)
    if held is not None and subtype != "MS_ADPCM":
        made.tail = len(data) - made.begin - length * made.unit
    return made


def _fmt(at: int, order: str) -> dict[str, tuple[int, str]]:
    names, forms = ("tag", "channels", "rate", "byte rate", "block", "bits"), "HHIIHH"
    return {
        name: (at + struct.calcsize(f"{order}{forms[:i]}"), f"{order}{forms[i]}")
        for i, name in enumerate(names)
    }


def adpcm(rng: Dice) -> Made:
    subtype = rng.choice(("IMA_ADPCM", "MS_ADPCM"))
    rate, channels, length = shape(rng, 2)
    data, _ = by_libsndfile(signal(rng, rate, channels, length), rate, "WAV", subtype)
    at = data.index(b"data", 36)
    block = struct.unpack_from("<H", data, 32)[0]
    fields = {"riff size": (4, "<I"), "size": (at + 4, "<I"), "rate": (24, "<I")}
    words = f"WAV {subtype} {rate} Hz {channels} ch {length}"
    held = microsoft(data[at + 8 :], block, channels) if subtype == "MS_ADPCM" else None
    return Made(data, ".wav", words, False, held, fields, block, at + 8)


STEPS = (230, 230, 230, 230, 307, 409, 512, 614, 768, 614, 512, 409, 307, 230, 230, 230)
PAIRS = ((256, 0), (512, -256), (0, 0), (192, 64), (240, 0), (460, -208), (392, -232))


def microsoft(data: bytes, block: int, channels: int) -> np.ndarray:
    """Samples of Microsoft's ADPCM; all blocks at once, one sample after the other.

    libavcodec divides predictions by 256 and so rounds to zero, where libsndfile, SoX and Microsoft's own
    codec shift; by the end of a block this is up to .04.
    """
    blocks = np.frombuffer(data, np.uint8)[: len(data) // block * block].reshape(-1, block)
    head, rest = blocks[:, : 7 * channels], blocks[:, 7 * channels :]
    pairs = np.array(PAIRS)[head[:, :channels]]
    delta, one, two = (
        np.ascontiguousarray(head[:, channels * (1 + 2 * i) : channels * (3 + 2 * i)])
        .view("<i2")
        .astype(np.int64)
        for i in range(3)
    )
    codes = np.stack([rest >> 4, rest & 15], 2).reshape(len(rest), -1, channels).astype(np.int64)
    out = [two, one]
    for code in codes.swapaxes(0, 1):
        signed = np.where(code < 8, code, code - 16)
        new = np.clip((one * pairs[..., 0] + two * pairs[..., 1] >> 8) + signed * delta, -(2**15), 2**15 - 1)
        delta = np.maximum(np.array(STEPS)[code] * delta >> 8, 16)
        one, two = new, one
        out.append(new)
    return (np.stack(out, 1).reshape(-1, channels).T / 2**15).astype(np.float32)


# --- WAV by hand: chunks of all kinds -----------------------------------------------------------------------

CODINGS = {
    "PCM_U8": (1, 8), "PCM_16": (1, 16), "PCM_24": (1, 24), "PCM_32": (1, 32), "FLOAT": (3, 32),
    "DOUBLE": (3, 64), "ALAW": (6, 8), "ULAW": (7, 8),
}  # fmt: skip
GUID = bytes.fromhex("000000001000800000aa00389b71")
MASKS = {
    1: (4, 1, 0), 2: (3, 0, 48), 3: (7, 11, 0), 4: (51, 1539, 0), 5: (55, 1543, 0), 6: (63, 1551, 0),
    7: (1807, 0), 8: (1599, 255, 0),
}  # fmt: skip


def expanded(codes: np.ndarray, coding: str) -> np.ndarray:
    """Samples of A-law or mu-law, by G.711."""
    code = codes.astype(np.int64) ^ (0x55 if coding == "ALAW" else 0xFF)
    exponent, mantissa = code >> 4 & 7, code & 15
    if coding == "ALAW":
        size = np.where(exponent > 0, (mantissa * 16 + 264) << np.maximum(exponent - 1, 0), mantissa * 16 + 8)
        return (np.where(code & 128, size, -size) / 2**15).astype(np.float32)
    size = (((mantissa << 3) + 132) << exponent) - 132
    return (np.where(code & 128, -size, size) / 2**15).astype(np.float32)


def packed(x: np.ndarray, coding: str, order: str) -> tuple[bytes, np.ndarray | None]:
    """Interleaved bytes of samples, and what they stand for."""
    tag, bits = CODINGS[coding]
    if tag == 3:
        kept = x.astype(np.float32)
        return kept.T.astype(f"{order}f{bits // 8}").tobytes(), kept
    if tag != 1:  # any byte is a code
        codes = (np.abs(x.T) * 255).astype(np.uint8)
        return codes.tobytes(), expanded(codes, coding).T
    numbers, kept = whole_numbers(x, bits)
    if bits == 8:
        return (numbers.T + 128).astype(np.uint8).tobytes(), kept
    if bits != 24:
        return numbers.T.astype(f"{order}i{bits // 8}").tobytes(), kept
    four = (numbers.T << 8).astype(f"{order}i4").reshape(-1, 1).view(np.uint8)
    return (four[:, :3] if order == ">" else four[:, 1:]).tobytes(), kept


def chunk(rng: Dice, order: str, after: bool = False) -> bytes:
    """A chunk that is no sound, at times of an odd length."""
    names = [b"LIST", b"iXML", b"cue ", b"id3 "] + ([] if after else [b"bext", b"JUNK", b"PAD ", b"fact"])
    name = rng.choice(names)
    body = {
        b"LIST": b"INFOINAM" + struct.pack(f"{order}I", 5) + b"Rain\0\0",
        b"iXML": b"<BWFXML><PROJECT>x</PROJECT></BWFXML>" + b" " * rng.randrange(2),
        b"cue ": struct.pack(f"{order}I", 0),
        b"bext": bytes(602) + bytes(rng.randrange(3)),
        b"fact": struct.pack(f"{order}I", rng.randrange(2**20)),
        b"id3 ": b"ID3\x03\0\0\0\0\0\0",
    }.get(name, bytes(rng.randrange(1, 60)))
    return name + struct.pack(f"{order}I", len(body)) + body + bytes(len(body) % 2)


def wav(rng: Dice) -> Made:
    coding, form = rng.choice(list(CODINGS)), rng.choice("RIFF RIFF RIFF RIFX RF64 BW64".split())  # noqa: SIM905
    rate, channels, length = shape(rng)
    order = ">" if form == "RIFX" else "<"
    body, held = packed(signal(rng, rate, channels, length), coding, order)
    tag, bits = CODINGS[coding]
    unit = channels * bits // 8
    fmt = struct.pack(f"{order}HHIIHH", tag, channels, rate, min(rate * unit, 2**32 - 1), unit, bits)
    mask = rng.choice(MASKS[channels])
    words = f"WAV {form} {coding} {rate} Hz {channels} ch {length}"
    if rng.random() < 0.4 and form != "RIFX":
        guid = struct.pack(f"{order}H", tag) + GUID
        fmt = struct.pack(f"{order}H", 0xFFFE) + fmt[2:] + struct.pack(f"{order}HHI", 22, bits, mask) + guid
        words += f" mask {mask}"
    elif tag != 1:
        fmt += b"\0\0"
    before = b"".join(chunk(rng, order) for _ in range(rng.choice((0, 0, 1, 2))))
    middle = b"".join(chunk(rng, order) for _ in range(rng.choice((0, 0, 0, 1))))
    after = b"".join(chunk(rng, order, True) for _ in range(rng.choice((0, 0, 0, 1))))
    wide = form in ("RF64", "BW64")
    head = before + b"fmt " + struct.pack(f"{order}I", len(fmt)) + fmt + middle
    begin = 12 + 36 * wide + len(head) + 8
    size = begin + len(body) + len(body) % 2 + len(after) - 8
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, size, len(body), length, 0) if wide else b""
    data = (
        form.encode() + struct.pack(f"{order}I", 2**32 - 1 if wide else size) + b"WAVE" + ds64 + head
        + b"data" + struct.pack(f"{order}I", 2**32 - 1 if wide else len(body)) + body
        + bytes(len(body) % 2) + after
    )  # fmt: skip
    fields = {"riff size": (4, f"{order}I"), "size": (begin - 4, f"{order}I")}
    if wide:
        fields = {"riff size": (20, "<Q"), "size": (28, "<Q"), "frames": (36, "<Q")}
    fields |= _fmt(12 + 36 * wide + len(before) + 8, order)
    if form == "RIFX":  # FFmpeg takes the numbers of some, but not the samples, for big-endian
        fields = {}
    words += f"{' chunks before' * bool(before or middle)}{' chunks after' * bool(after)}"
    tail = len(data) - begin - len(body)
    return Made(data, rng.choice((".wav", ".wav", ".bwf")), words, False, held, fields, unit, begin, tail)


# --- FLAC, Ogg, MP3 -----------------------------------------------------------------------------------------


def flac(rng: Dice) -> Made:
    rate, channels, length = shape(rng, rates=tuple(r for r in RATES if r != 37800))
    bits = rng.choice((16, 16, 24, 8))
    x = signal(rng, rate, channels, length)
    if rng.random() < 0.5 or bits == 8:
        level = rng.random()
        data, held = by_libsndfile(
            x, rate, "FLAC", "PCM_S8" if bits == 8 else f"PCM_{bits}", compression_level=level
        )
    else:
        size = rng.choice((16, 192, 1000, 4096, 4608))
        how = {"compression_level": str(rng.randrange(9)), "frame_size": str(size)}
        data = by_ffmpeg(x, rate, "flac", "flac", encoding=how, bits=bits)
        held = whole_numbers(x, bits)[1]
    words, kind = f"FLAC {bits} bits {rate} Hz {channels} ch {length}", rng.random()
    if kind < 0.15 and length:
        packed = int.from_bytes(data[18:26], "big") & ~(2**36 - 1)
        data, words = data[:18] + packed.to_bytes(8, "big") + data[26:], f"{words} from a pipe"
    elif kind < 0.25:
        data, words = id3(rng) + data, f"{words} behind ID3"
        return Made(data, ".flac", words, False, held)
    elif kind < 0.35:
        data = by_ffmpeg(x, rate, "ogg", "flac", bits=min(16, bits))
        held = whole_numbers(x, min(16, bits))[1]
        return Made(data, ".oga", f"Ogg {words}", False, held)
    return Made(data, ".flac", words, False, held, {"rate": (18, ">H"), "total": (22, ">I")})


def id3(rng: Dice) -> bytes:
    """An ID3v2 tag, at times with padding."""
    text = b"\x03Rain on a roof"
    body = b"TIT2" + struct.pack(">IH", len(text), 0) + text + bytes(rng.choice((0, 7, 1000)))
    size = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3" + bytes([rng.choice((3, 4)), 0, 0]) + size + body


def vorbis(rng: Dice) -> Made:
    rate, channels, length = shape(rng, least=1)
    x = signal(rng, rate, channels, length)
    data, _ = by_libsndfile(x, rate, "OGG", "VORBIS", compression_level=rng.uniform(0, 0.8))
    return Made(data, ".ogg", f"Vorbis {rate} Hz {channels} ch {length}", True, length=length)


def opus(rng: Dice) -> Made:
    rate, channels, length = shape(rng, rates=(8000, 12000, 16000, 24000, 48000), least=1)
    x, suffix = signal(rng, rate, channels, length), rng.choice((".opus", ".ogg"))
    words = f"Opus {rate} Hz {channels} ch {length}"
    if rng.random() < 0.6:
        data, _ = by_libsndfile(x, rate, "OGG", "OPUS", compression_level=rng.random())
        return Made(data, suffix, words, True)
    how = {
        "frame_duration": rng.choice(("2.5", "10", "20", "60", "120")),
        "application": rng.choice(("voip", "audio", "lowdelay")),
    }
    data = by_ffmpeg(x, rate, "ogg", "libopus", encoding=how)
    return Made(data, suffix, f"{words} by FFmpeg {how}", True)


def mp3(rng: Dice) -> Made:
    rates: tuple[int, ...] = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
    if rng.random() < 0.1:
        rate, channels, length = shape(rng, 2, rates[3:], least=1)
        data = by_ffmpeg(signal(rng, rate, channels, length), rate, "mp2", "mp2")
        words = f"MP2 {rate} Hz {channels} ch {length}"
        return Made(data, ".mp2", words, True, seams=(words[: -len(str(length))],) * 2)
    rate, channels, length = shape(rng, 2, rates, least=1)
    x, words = signal(rng, rate, channels, length), f"MP3 {rate} Hz {channels} ch {length}"
    if rng.random() < 0.5:
        mode = rng.choice(("CONSTANT", "VARIABLE", "AVERAGE"))
        data, _ = by_libsndfile(
            x, rate, "MP3", "MPEG_LAYER_III", bitrate_mode=mode, compression_level=rng.uniform(0, 0.99)
        )
        at, words = data.find(b"LAME"), f"{words} by LAME {mode.lower()}"
        # As older encoders write it; without a frame with the length, that name only fills up another one.
        if at > 0 and rng.random() < 0.15 and _told(data):
            data, words = data[:at] + bytes(36) + data[at + 36 :], f"{words} with no delay said"
        return Made(data, ".mp3", words, True, seams=_seams(data, rate, channels))
    options = {
        "write_xing": rng.choice("01"),
        "id3v2_version": rng.choice("034"),
        "write_id3v1": rng.choice("01"),
    }
    coding = {"q": rng.choice("0369")} if rng.random() < 0.5 else {"b": rng.choice(("32k", "64k", "128k"))}
    data = by_ffmpeg(x, rate, "mp3", "libmp3lame", options, coding)
    made = Made(data, ".mp3", f"{words} by FFmpeg {options} {coding}", True)
    if rng.random() < 0.2:
        made.data, made.words = id3(rng) + data, f"{made.words} behind ID3"
    made.seams = _seams(made.data, rate, channels)
    return made


def _told(data: bytes) -> bool:
    """Whether an MP3 begins with a frame that says its length."""
    return b"Xing" in data[:200] or b"Info" in data[:200]


def _seams(data: bytes, rate: int, channels: int) -> tuple[str, str]:
    """The seams of an MP3: at low bit rates LAME, too, leaves out the frame with the length."""
    frames = f"MP3 {rate} Hz {channels} ch" * (not _told(data))
    return frames * (data[:3] != b"ID3"), frames * (data[-128:-125] != b"TAG")


# --- What phones and meetings write -------------------------------------------------------------------------

LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def by_ffmpeg(
    x: np.ndarray,
    rate: int,
    container: str,
    coding: str,
    options: dict[str, str] | None = None,
    encoding: dict[str, str] | None = None,
    bits: int = 16,
) -> bytes:
    """A file of one sound track; `options` are the container's, `encoding` the encoder's."""
    out = io.BytesIO()
    exact = coding in ("flac", "alac") or coding.startswith("pcm")
    numbers = whole_numbers(x, bits)[0] << ((32 if bits > 16 else 16) - bits)
    with av.open(out, "w", format=container, options=options or {}) as file:
        how = {**({} if exact else {"b": "96k"}), **(encoding or {})}
        if "q" in how:
            how |= {"flags": "+qscale", "global_quality": str(118 * int(how.pop("q")))}
        stream = file.add_stream(coding, rate=rate, layout=LAYOUTS[len(x)], options=how)
        context = stream.codec_context
        if exact and bits > 16:
            context.format = next(f.name for f in context.codec.audio_formats if "32" in f.name)
        context.open()
        kind, values = ("flt", x.astype(np.float32))
        if exact:
            kind, values = (
                ("s32", numbers.astype(np.int32)) if bits > 16 else ("s16", numbers.astype(np.int16))
            )
        convert = av.AudioResampler(context.format, context.layout, rate, context.frame_size or None)
        for at in range(0, x.shape[1], 65536):
            block = np.ascontiguousarray(values[:, at : at + 65536].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format=kind, layout=LAYOUTS[len(x)])
            frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
            for part in convert.resample(frame):
                file.mux(stream.encode(part))
        for part in convert.resample(None) if x.shape[1] else ():
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return out.getvalue()


MEDIA = {
    ".aac": ("adts", ("aac",)),
    ".m4a": ("ipod", ("aac", "alac")),
    ".mp4": ("mp4", ("aac", "libopus", "flac")),
    ".mov": ("mov", ("aac", "alac", "pcm_s16le", "pcm_s24le", "pcm_s16be")),
    ".mkv": ("matroska", ("aac", "libopus", "flac", "libmp3lame", "pcm_s16le", "pcm_s24le")),
    ".webm": ("webm", ("libopus",)),
    ".avi": ("avi", ("pcm_s16le", "libmp3lame")),
}


def media(rng: Dice) -> Made:
    suffix = rng.choice(list(MEDIA))
    container, codings = MEDIA[suffix]
    coding = rng.choice(codings)
    known = av.Codec(coding, "w").audio_rates
    rates = tuple(r for r in RATES if known is None or r in known)
    rate, channels, length = shape(rng, 2 if coding == "libmp3lame" else 8, rates, least=1)
    bits = 24 if "24" in coding else 16
    x = signal(rng, rate, channels, length)
    exact = coding in ("flac", "alac") or coding.startswith("pcm")
    options = {"movflags": "+frag_keyframe+empty_moov"} if suffix == ".mp4" and rng.random() < 0.2 else {}
    data = by_ffmpeg(x, rate, container, coding, options, bits=bits)
    words = f"{container} {coding} {rate} Hz {channels} ch {length} {options or ''}"
    seam = f"AAC {rate} Hz {channels} ch" if suffix == ".aac" else ""
    held = whole_numbers(x, bits)[1] if exact else None
    return Made(data, suffix, words, not exact, held, seams=(seam, seam))


# --- Cuts, joins, lies --------------------------------------------------------------------------------------

MAKERS: dict[Callable[[Dice], Made], int] = {
    wav: 8, adpcm: 2, aiff: 3, au: 2, caf: 3, sphere: 2, wave64: 2, flac: 4, vorbis: 3, opus: 3, mp3: 4,
    media: 6,
}  # fmt: skip


def cut(rng: Dice, made: Made) -> Made:
    """The file ends early: anywhere, in its header, or after a whole frame."""
    size = len(made.data)
    at = rng.randrange(1, size)
    if rng.random() < 0.2:
        at = rng.randrange(1, min(size, 200))
    elif made.unit and rng.random() < 0.3 and size > made.begin + made.unit:
        at = made.begin + made.unit * rng.randrange((size - made.begin) // made.unit)
    return replace(made, data=made.data[:at], change="cut", words=f"{made.words}, cut to {at} of {size}")


def joined(rng: Dice, made: Made, maker: Callable[[Dice], Made]) -> Made:
    """Files of one kind one behind the other, as `cat` makes them; at times the same twice."""
    others = [made]
    rng.kept = rng.last if rng.random() < 0.8 else None
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.5:
            others.append(maker(rng))
            others[-1].rate = rng.last[0]
        else:
            others.append(made)
    # Of unknown length is only the last.
    others = [other for other in others[:-1] if "streamed" not in other.words] + others[-1:]
    words = " + ".join(other.words for other in others)
    told = others[:1]
    for other in others[1:]:
        if other.seams[0] and told[-1].seams[1] == other.seams[0]:
            seams = told[-1].seams[0], other.seams[1]
            told[-1] = replace(told[-1], data=told[-1].data + other.data, seams=seams)
        else:
            told.append(other)
    others = told
    parts = [other.data for other in others]
    lossy = any(other.lossy for other in others)
    written = [other.samples for other in others]
    made = replace(made, data=b"".join(parts), parts=parts, written=written, change="joined", words=words)
    rates = [other.rate for other in others]
    return replace(made, lossy=lossy, suffixes=[other.suffix for other in others], rates=rates)


def lie(rng: Dice, made: Made) -> Made:
    """A number of the header is wrong; most often the size of the samples."""
    name = "size" if "size" in made.fields and rng.random() < 0.5 else rng.choice(list(made.fields))
    at, form = made.fields[name]
    true, most = struct.unpack_from(form, made.data, at)[0], 2 ** (8 * struct.calcsize(form)) - 1
    wrong = rng.choice(
        [0, most, true // 2, true // 2 // max(1, made.unit) * made.unit, true + 1, 2 * true + 7, true + 1000]
        if "size" in name or name in ("frames", "total")
        else [0, most, true + 1, true - 1, 2 * true, true // 2, rng.randrange(most)]
    )
    wrong = min(max(0, wrong), most)
    data = made.data[:at] + struct.pack(form, wrong) + made.data[at + struct.calcsize(form) :]
    change = "size" if "size" in name or name in ("frames", "total") else "field"
    return replace(made, data=data, change=change, words=f"{made.words}, {name} {wrong} instead of {true}")


def tail(rng: Dice, made: Made) -> Made:
    """Something that is no sound of this file comes behind its end."""
    kind = rng.choice(("ID3v1", "zeros", "garbage", "text"))
    more = {
        "ID3v1": b"TAG" + b"Rain".ljust(125, b"\0"),
        "zeros": bytes(rng.choice((1, 2, 100, 5000))),
        "garbage": rng.randbytes(rng.choice((1, 3, 100, 5000))),
        "text": b"this is no sound\n" * rng.choice((1, 100)),
    }[kind]
    return replace(
        made, data=made.data + more, change="tail", words=f"{made.words}, then {len(more)} of {kind}"
    )


def hurt(rng: Dice, made: Made) -> Made:
    """Some bytes behind the header are others."""
    at = rng.randrange(len(made.data) // 4, len(made.data))
    more = rng.randbytes(rng.choice((1, 4, 200)))[: len(made.data) - at]
    data = made.data[:at] + more + made.data[at + len(more) :]
    return replace(
        made, data=data, change="hurt", words=f"{made.words}, {len(more)} bytes at {at} are others"
    )


def make(seed: int, number: int) -> Made:
    """File `number` of the row that belongs to `seed`."""
    rng = Dice(f"{seed}/{number}")
    while True:
        maker = rng.choices(list(MAKERS), list(MAKERS.values()))[0]
        try:
            made = maker(rng)
        except (av.error.FFmpegError, sf.LibsndfileError, ValueError):
            continue  # no encoder takes such a shape
        if not made.data:
            continue
        made.rate = rng.last[0]
        made.parts, made.written, made.suffixes = [made.data], [made.samples], [made.suffix]
        made.rates = [made.rate]
        kind = rng.random()
        try:
            if kind < 0.4 or len(made.data) < 4:
                return made
            if kind < 0.6:
                return cut(rng, made)
            if kind < 0.7:
                return joined(rng, made, maker)
            if kind < 0.75:
                other = rng.choice(list(MAKERS))
                return replace(joined(rng, made, other), change="mixed")
            if kind < 0.92 and made.fields:
                return lie(rng, made)
            return tail(rng, made) if kind < 0.97 else hurt(rng, made)
        except (av.error.FFmpegError, sf.LibsndfileError, ValueError, OverflowError):
            continue
