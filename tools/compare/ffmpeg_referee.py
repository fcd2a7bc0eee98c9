"""Decode a file as FFmpeg does (PyAV), for comparisons: native numbers, delays trimmed, Opus by libopus.

x, rate = decode("a.m4a")               # [C, T] float32
x, rate = decode_opus("a.opus", 16000)  # at the rate at which libsndfile decodes
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from opus_peer import find_opus

# From the order of Vorbis to that of WAV.
ORDER = {3: (0, 2, 1), 5: (0, 2, 1, 3, 4), 6: (0, 2, 1, 5, 3, 4), 7: (0, 2, 1, 6, 5, 3, 4),
         8: (0, 2, 1, 7, 5, 6, 3, 4)}  # fmt: skip
SCALES = {"u8": 2**7, "s16": 2**15, "s32": 2**31}


def decode(path: str) -> tuple[np.ndarray, int]:
    """All samples of the sound track that players take; raises what FFmpeg raises."""
    with opened(path) as file:
        stream = file.streams.best("audio")
        if stream is None:
            raise ValueError("no sound")
        context = stream.codec_context
        if context.name == "opus":
            extra, context = context.extradata, av.CodecContext.create("libopus", "r")
            context.extradata = extra
        delay, padding = lame(path) if file.format.name == "mp3" else (0, 0)
        ogg = file.format.name == "ogg" and context.name == "vorbis"
        context.flags2 |= MANUAL if delay or ogg else 0
        parts, rate, channels, convert = [], 0, 0, None
        packets = file.demux(stream)
        while True:
            try:
                packet = next(packets)
                frames = context.decode(packet)
            except StopIteration:
                break
            except av.error.FFmpegError:
                if not isinstance(packet, av.Packet) or packet.size == 0:
                    break
                continue
            for frame in frames:
                kind = frame.format.packed.name
                convert = convert or av.AudioResampler(kind, frame.layout)
                if rate and (rate, channels) != (frame.sample_rate, frame.layout.nb_channels):
                    raise ValueError("its rate or its channels change")
                rate, channels = frame.sample_rate, frame.layout.nb_channels
                for part in convert.resample(frame):
                    parts.append(numbers(part.to_ndarray(), kind).reshape(-1, channels).T)
        if not parts:
            raise ValueError("no samples")
        if ogg:  # the first block has nothing before it to overlap with
            parts = parts[1:] or [parts[0][:, :0]]
        x = np.concatenate(parts, 1)
        if ogg:
            x = x[:, : granule(path)]
        return x[:, delay : x.shape[1] - max(0, padding)], rate


def opened(path: str) -> Any:
    """The open file; AAC of a few frames, which are too few for FFmpeg to know it, by its suffix."""
    try:
        return av.open(path, metadata_errors="ignore")
    except av.error.InvalidDataError:
        if not path.endswith(".aac"):
            raise
        return av.open(path, format="aac", metadata_errors="ignore")


MANUAL = 1 << 29  # AV_CODEC_FLAG2_SKIP_MANUAL
DECODER = 529  # samples by which a decoder of MP3 is late


def lame(path: str) -> tuple[int, int]:
    """Samples that LAME's tag leaves out at the beginning and the end of an MP3.

    libavcodec 62 forgets the rest of a delay that is longer than the first packet, where the second has
    padding, so that MP3s of up to three frames come out long and late.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        data = file.read(2**16)
    at = data.find(b"LAME")
    at = data.find(b"Lavc") if at < 0 else at
    if at < 0 or not ({b"Xing", b"Info"} & {data[at - 120 : at - 116]}):
        return 0, 0
    number = int.from_bytes(data[at + 21 : at + 24], "big")
    return (number >> 12) + DECODER, (number & 4095) - DECODER


def granule(path: str) -> int | None:
    """The number of samples by the last page of an Ogg file that ends; it is the truth (Vorbis I, A.2).

    libavformat 62 leaves the padding in where all of a stream lies on one page, or takes samples for padding.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        last = list(pages(file.read()))[-1:]
    return last[0][1] if last and last[0][0] & 4 else None


def numbers(x: np.ndarray, kind: str) -> np.ndarray:
    """Native samples as float32 within +-1."""
    if kind not in SCALES:
        return x.astype(np.float32)
    return ((x.astype(np.float64) - (128 if kind == "u8" else 0)) / SCALES[kind]).astype(np.float32)


def pages(data: bytes) -> Iterator[tuple[int, int, list[int], bytes]]:
    """Flags, granule, lacing values and content of each whole page of an Ogg file."""
    at = 0
    while data[at : at + 4] == b"OggS" and at + 27 <= len(data):
        table = list(data[at + 27 : at + 27 + data[at + 26]])
        end = at + 27 + len(table) + sum(table)
        if end > len(data):
            return
        yield data[at + 5], struct.unpack_from("<q", data, at + 6)[0], table, data[at + 27 + len(table) : end]
        at = end


def decode_opus(path: str, rate: int) -> tuple[np.ndarray, int]:
    """An Ogg Opus file at `rate` (8, 12, 16, 24 or 48 kHz), by RFC 7845 and libopus of PyAV."""
    with open(path, "rb") as file:  # noqa: PTH123
        data = file.read()
    packets, rest, granule, ended = [], b"", 0, False
    for flags, place, table, content in pages(data):
        at = 0
        for length in table:
            rest += content[at : at + length]
            at += length
            if length < 255:
                packets.append(rest)
                rest = b""
        granule = place if place >= 0 else granule
        ended = bool(flags & 4)
    if len(packets) < 3:
        raise ValueError("no samples")
    head = packets[0]
    channels, skip, gain, family = (
        head[9],
        *struct.unpack_from("<H", head, 10),
        *struct.unpack_from("<hB", head, 16),
    )
    streams, coupled, mapping = (
        (head[19], head[20], head[21:]) if family else (1, channels - 1, bytes([0, 1]))
    )
    library, status = find_opus(), ctypes.c_int()
    library.opus_multistream_decoder_create.restype = ctypes.c_void_p
    state = ctypes.c_void_p(
        library.opus_multistream_decoder_create(
            rate, channels, streams, coupled, bytes(mapping[:channels]), ctypes.byref(status)
        )
    )
    library.opus_multistream_decoder_ctl(state, 4034, ctypes.c_int(gain))
    room = np.zeros((rate * 120 // 1000, channels), np.float32)
    pointer, parts = room.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), []
    for packet in packets[2:]:
        count = library.opus_multistream_decode_float(state, packet, len(packet), pointer, len(room), 0)
        if count > 0:
            parts.append(room[:count].copy())
    library.opus_multistream_decoder_destroy.restype = None
    library.opus_multistream_decoder_destroy(state)
    if not parts:
        raise ValueError("no samples")
    x = np.concatenate(parts).T
    x = x[list(ORDER[channels])] if channels in ORDER else x
    end = round(granule * rate / 48000) if ended else x.shape[1]
    return x[:, round(skip * rate / 48000) : end], rate
