"""Decode what phones and meetings record (m4a, mp4, mkv, webm, aac), by PyAV with FFmpeg.

PyAV is the extra `[media]`. Opus is decoded by libopus: FFmpeg's own decoder makes noise of some files.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from importlib import import_module
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from audiomask.audio import layout

OURS = {"tracknumber": "track"}  # FFmpeg's names of texts, where libsndfile's are others
TEXTS = ("title", "copyright", "artist", "comment", "date", "album", "license", "tracknumber", "genre")
TECHNICAL = (
    "encoder",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "handler_name",
    "vendor_id",
    "duration",
)
TIMED = {"mov", "matroska", "asf", "avi", "flv", "mpeg", "mpegts", "ogg"}  # containers that know time
GAP_S = 0.01  # a longer hole between the times of two frames is filled with silence


class NotInstalledError(Exception):
    """PyAV is not installed; the text is the remedy."""


class NotMediaError(Exception):
    """FFmpeg cannot read a file, or it has no sound."""


def library() -> Any:
    """Return the module `av`; NotInstalledError where it is missing."""
    try:
        return import_module("av")
    except ImportError:
        raise NotInstalledError("for phone and video formats: pip install 'audiomask[media]'") from None


# Formats that hold sound. FFmpeg knows others, among them play lists, that make it open other files.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,ogg,flac,mp3,wav,w64,aiff,au,caf,asf,avi,flv,amr,mpeg,mpegts,ac3,"
    "eac3,ape,wv,tta,dsf,mpc,mpc8"
)


def _opened(av: Any, path: str | RawIOBase, format: str | None = None) -> Any:
    """Open a file, or a part of one, by FFmpeg, and nothing but that file."""
    only = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    return av.open(path, format=format, metadata_errors="ignore", options=only)


def in_order(names: Sequence[str]) -> bool:
    """Return whether channels, as far as their speakers are known, are in the order of WAV."""
    places = [layout.SPEAKERS.index(name) for name in names if name in layout.SPEAKERS]
    return places == sorted(set(places))


class Decoder:
    """The sound of a media file, read forwards like a `soundfile.SoundFile`.

    Args:
        path: A file that FFmpeg opens, or an open part of one. Of several sound tracks the one is taken that
            players take.
        format: Its container by FFmpeg's name, where a few frames do not tell.

    Raises:
        NotInstalledError: PyAV is missing.
        NotMediaError: FFmpeg cannot read the file, or it has no sound.
    """

    def __init__(self, path: str | RawIOBase, format: str | None = None):
        av = library()
        self._error = av.error.FFmpegError
        try:
            self._container = _opened(av, path, format)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise NotMediaError(str(getattr(error, "strerror", None) or error)) from None
        self.faults: list[str] = []
        tracks = self._container.streams.audio
        if not tracks:
            self._container.close()
            raise NotMediaError("it has no sound")
        self.stream = self._container.streams.best("audio") or tracks[0]
        if len(tracks) > 1:
            self.faults.append(
                f"has {len(tracks)} sound tracks; number {tracks.index(self.stream) + 1} was used"
            )
        context = self.stream.codec_context
        shape = context.layout if context is not None else None
        if shape is None or not context.sample_rate or not shape.nb_channels:
            self._container.close()
            raise NotMediaError("its sound has no known coding, sample rate or channels")
        self.samplerate, self.channels = context.sample_rate, shape.nb_channels
        names = [channel.name for channel in shape.channels]
        if not in_order(names):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(shape))  # PyAV 18.1 frees such a layout twice
            self._container.close()
            raise NotMediaError("its channels are in an order of their own, which PyAV cannot read")
        known = all(name in layout.SPEAKERS for name in names) and shape.name != "mono"
        self.mask = layout.mask_of(" ".join(names)) if known else 0
        self._resampler = av.AudioResampler("flt", shape)
        self._codec = None
        if context.name == "opus":
            self._codec = av.CodecContext.create("libopus", "r")
            self._codec.extradata = context.extradata
            self.samplerate = 48000
        seconds = float(self.stream.duration * self.stream.time_base) if self.stream.duration else None
        if seconds is None and self._container.duration:
            seconds = self._container.duration / av.time_base
        self.frames = round((seconds or 0) * self.samplerate) or 2**62
        self.format, self.subtype = self._container.format.name.upper(), context.name.upper()
        theirs = {theirs: ours for ours, theirs in OURS.items()}
        texts = {key.lower(): text for key, text in self._container.metadata.items()}
        self.texts = {theirs.get(key, key): text for key, text in texts.items()}
        self.pictures = len(self._container.streams.video) > 0
        chapters = ["chapters"] if self._container.chapters() else []
        self.others = [key for key in self.texts if key not in (*TEXTS, *TECHNICAL)] + chapters
        self._damaged = 0
        self._blocks = self._decoded()
        self._rest = np.zeros((self.channels, 0), np.float32)

    def _frames(self) -> Iterator[Any]:
        """Yield decoded frames; packets that cannot be decoded are counted."""
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._error:
                self.faults.append("cut off: its last part cannot be read")
                return
            try:
                yield from self._codec.decode(packet) if self._codec is not None else packet.decode()
            except self._error:
                self._damaged += 1

    def _decoded(self) -> Iterator[np.ndarray]:
        """Yield the sound `[C, T]`, with silence where the file has a hole in time."""
        at = None
        timed = TIMED & set(self._container.format.name.split(","))
        for frame in self._frames():
            if (frame.layout.nb_channels, frame.sample_rate) != (self.channels, self.samplerate):
                self.faults.append(
                    f"changes to {frame.layout.nb_channels} channels of {frame.sample_rate} Hz; what comes "
                    "after was left out"
                )
                return
            x = self._packed(frame)
            if frame.pts is not None and timed:
                begin = float(frame.pts * frame.time_base) * self.samplerate
                hole = round(begin - at) if at is not None else 0
                if hole > GAP_S * self.samplerate:
                    yield np.zeros((self.channels, hole), np.float32)
                    self.faults.append(f"has a hole of {hole / self.samplerate:.2f} s, filled with silence")
                at = begin + x.shape[1]
            yield x
        if self._damaged:
            self.faults.append(f"damaged: {self._damaged} packets cannot be decoded and were left out")

    def _packed(self, frame: Any) -> np.ndarray:
        """Return a frame as float32 `[C, n]`.

        FFmpeg interleaves it first; PyAV 18.1 by itself may read beyond the memory of a frame.
        """
        parts = [part.to_ndarray() for part in self._resampler.resample(frame)]
        return np.concatenate(parts, 1).reshape(-1, self.channels).T

    def read(self, frames: int, **_: Any) -> np.ndarray:
        """Return the next samples `[<= frames, C]`, none at the end."""
        parts, have = [self._rest[:, :0]], 0
        while have < frames:
            if not self._rest.shape[1] and (x := next(self._blocks, None)) is not None:
                self._rest = x
            parts.append(self._rest[:, : frames - have])
            self._rest = self._rest[:, frames - have :]
            have += parts[-1].shape[1]
            if not parts[-1].shape[1]:
                break
        return np.concatenate(parts, 1).T

    def close(self) -> None:
        """Close the file."""
        self._container.close()


# Containers by suffix: FFmpeg's name of what writes them, and the usual coding of sound.
SUFFIXES = {
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".m4a": ("ipod", "aac"),
    ".mov": ("mov", "aac"),
    ".3gp": ("3gp", "aac"),
    ".aac": ("adts", "aac"),
    ".mkv": ("matroska", "libopus"),
    ".mka": ("matroska", "libopus"),
    ".webm": ("webm", "libopus"),
}
USUAL = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0(back)", 6: "5.1(back)", 7: "6.1", 8: "7.1"}
BITS = 96_000  # a second and channel, where the source has no rate of its own


def write_sound(
    sound: Path,
    target: Path,
    suffix: str,
    rate: int,
    mask: int = 0,
    texts: Mapping[str, str] | None = None,
    source: str | None = None,
) -> list[str]:
    """Encode sound into a media file, with picture, subtitles and metadata of `source`.

    Args:
        sound: A file that libsndfile reads; its first sample is at the time of the first one of `source`.
        target: The file that is written.
        suffix: Of the container, among `SUFFIXES`.
        rate: Samples a second.
        mask: The speakers of its channels, 0 for those that their number implies.
        texts: What the file says about its sound (`tags.TEXTS`), where `source` says nothing.
        source: The media file whose sound this replaces; None: a file of sound only.

    Returns:
        The streams of `source`, the texts and the speakers that the container cannot hold.

    Raises:
        OSError: The file cannot be written.
        NotMediaError: FFmpeg cannot encode such sound for this container.
    """
    av = library()
    try:
        lost = _written(av, sound, target, suffix, rate, mask, texts or {}, source)
        with contextlib.closing(Decoder(str(target))) as made:
            lost += [name for name in texts or {} if name not in made.texts]
            if source is not None:
                with contextlib.closing(Decoder(source)) as given:
                    lost += [name for name in given.others if name not in made.others]
            if mask not in (0, *layout.PLAIN) and layout.back(mask) != layout.back(made.mask):
                lost.append(f"speakers {' '.join(layout.names_of(mask))}")
            return lost
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: no such layout of channels
        if isinstance(error, OSError):
            raise
        raise NotMediaError(str(getattr(error, "strerror", None) or error)) from None


def _written(
    av: Any,
    sound: Path,
    target: Path,
    suffix: str,
    rate: int,
    mask: int,
    texts: Mapping[str, str],
    source: str | None,
) -> list[str]:
    """Do the work of `write_sound`; return the streams that the container cannot hold."""
    container, coding = SUFFIXES[suffix]
    lost: list[str] = []
    with contextlib.ExitStack() as stack:
        # edit lists say where a track begins, by default in milliseconds
        fine = {"movie_timescale": str(rate)} if container in ("mp4", "mov", "ipod", "3gp") else {}
        out = stack.enter_context(av.open(str(target), "w", format=container, options=fine))
        file = stack.enter_context(sf.SoundFile(str(sound)))
        original: Any = None
        copies, start, bits = dict[int, Any](), 0.0, 0
        streams: Any = ()
        out.metadata.update({OURS.get(name, name): text for name, text in texts.items()})
        if source is not None:
            taken = stack.enter_context(_opened(av, source))
            original, streams = taken.streams.best("audio"), taken.streams
            out.metadata.update(taken.metadata)
            out.set_chapters([_in_milliseconds(chapter) for chapter in taken.chapters()])
            start, bits = _begin(av, source), original.bit_rate or 0
            coding = _encoder(av, original.codec_context.name, out.format.name) or coding
        sink: Any = None if streams else _sound_stream(av, out, coding, rate, file.channels, mask, bits)
        for stream in streams:
            if stream is original:
                sink = _sound_stream(av, out, coding, rate, file.channels, mask, bits)
                sink.metadata.update(stream.metadata)
                continue
            if stream.type == "data":  # of no known coding, which ends the writing; or the chapters of MP4
                lost += [] if taken.chapters() else ["data"]
                continue
            try:
                copies[stream.index] = out.add_stream_from_template(stream)
                copies[stream.index].metadata.update(stream.metadata)
            except (av.error.FFmpegError, ValueError):
                lost.append(f"{stream.type} ({getattr(stream.codec_context, 'name', 'unknown')})")
        packets = taken.demux([s for s in streams if s.index in copies]) if copies else ()
        encoder = _encoded(av, sink, file, rate, start)
        ahead = next(encoder, None)
        for packet in packets:
            if packet.dts is None:
                continue
            time = float(packet.dts * packet.time_base)
            while ahead is not None and float((ahead.dts or 0) * ahead.time_base) <= time:
                out.mux(ahead)
                ahead = next(encoder, None)
            packet.stream = copies[packet.stream.index]
            out.mux(packet)
        while ahead is not None:
            out.mux(ahead)
            ahead = next(encoder, None)
    return lost


def _in_milliseconds(chapter: dict[str, Any]) -> dict[str, Any]:
    """Return a chapter in a clock that MP4 takes too; it drops the nanoseconds of Matroska."""
    times = {key: round(1000 * chapter[key] * chapter["time_base"]) for key in ("start", "end")}
    return {**chapter, **times, "time_base": Fraction(1, 1000)}


def _encoder(av: Any, codec: str, container: str) -> str | None:
    """Return the encoder of a coding, if there is one and the container holds its output."""
    name = {"opus": "libopus", "mp3": "libmp3lame"}.get(codec, codec)
    held = {"webm": ("libopus",), "adts": ("aac",), "ipod": ("aac", "alac"), "3gp": ("aac",)}.get(container)
    try:
        av.Codec(name, "w")
    except ValueError:
        return None
    return name if held is None or name in held else None


def _sound_stream(av: Any, out: Any, coding: str, rate: int, channels: int, mask: int, bits: int) -> Any:
    """Return a new stream of sound in a container; `bits` a second, 0 for what is usual."""
    rates = av.Codec(coding, "w").audio_rates
    rate = rate if not rates or rate in rates else _next(rates, rate)
    stream = out.add_stream(coding, rate=rate, layout=_layout(av, coding, rate, channels, mask))
    if coding not in ("alac", "flac") and not coding.startswith("pcm"):
        stream.bit_rate = bits or min(BITS * channels, 512_000)
    return stream


def _layout(av: Any, coding: str, rate: int, channels: int, mask: int) -> str:
    """Return the layout that an encoder takes for channels, their own if it can.

    Decoders know speakers behind, and only some of them those at the side; see `layout.back`.
    """
    usual = USUAL.get(channels, f"{channels}c")
    for text in ("+".join(layout.names_of(m)) for m in (layout.back(mask), mask) if mask):
        context = av.CodecContext.create(coding, "w")
        context.sample_rate, context.layout = rate, text
        context.format = (context.codec.audio_formats or [av.AudioFormat("s16")])[0]
        try:
            context.open()
        except (av.error.FFmpegError, ValueError):
            continue
        return text
    return usual


@cache
def _order(coding: str, text: str) -> list[int]:
    """Return in which order an encoder wants the channels of a layout.

    FFmpeg's encoder by libopus (in PyAV 18.1) mixes up those of 5.0 and 6.1. A tone in each channel shows it.
    """
    av = library()
    n = av.AudioLayout(text).nb_channels
    tones = np.sin(2 * np.pi * 12 * np.arange(1, n + 1)[:, None] * np.arange(36000) / 48000) / 4
    encoder, decoder = av.CodecContext.create(coding, "w"), av.CodecContext.create(coding, "r")
    encoder.sample_rate, encoder.layout, encoder.format = 48000, text, "flt"
    encoder.open()
    decoder.extradata = encoder.extradata
    frame = av.AudioFrame.from_ndarray(tones.T.reshape(1, -1).astype(np.float32), format="flt", layout=text)
    frame.sample_rate = 48000
    cut, packed = (
        av.AudioResampler("flt", text, 48000, encoder.frame_size),
        av.AudioResampler("flt", text, 48000),
    )
    packets = [packet for part in cut.resample(frame) for packet in encoder.encode(part)]
    heard = [y.to_ndarray() for p in packets for part in decoder.decode(p) for y in packed.resample(part)]
    sound = np.concatenate(heard, 1).reshape(-1, n)[8000:32000]
    power = np.abs(np.fft.rfft(sound, axis=0))[6 * np.arange(1, n + 1)]  # bins of 2 Hz
    found = power.argmax(0).tolist()
    return [found.index(i) for i in range(n)] if sorted(found) == list(range(n)) else list(range(n))


def _next(rates: Sequence[int], rate: int) -> int:
    """Return the lowest of an encoder's rates that keeps the whole band, else its highest."""
    return min((r for r in rates if r >= rate), default=max(rates))


def _begin(av: Any, source: str) -> float:
    """Return the time of the first sample of a file's sound, in seconds."""
    with _opened(av, source) as container:
        stream = container.streams.best("audio")
        for packet in container.demux(stream):
            if stream.codec_context.name == "opus" and packet.pts is not None:
                skipped = int.from_bytes(bytes(stream.codec_context.extradata[10:12]), "little")
                return float(packet.pts * packet.time_base) + skipped / 48000
            for frame in packet.decode():
                return float(frame.pts * frame.time_base) if frame.pts is not None else 0.0
    return 0.0


def _encoded(av: Any, stream: Any, file: sf.SoundFile, rate: int, start: float) -> Iterator[Any]:
    """Yield the packets of a sound, whose first sample is at `start` seconds."""
    context = stream.codec_context
    resampler = av.AudioResampler(
        context.format, context.layout, context.sample_rate, context.frame_size or None
    )
    at = round(start * rate)
    mixed_up = context.name == "libopus" and context.layout.nb_channels in (5, 7)
    order = _order(context.name, context.layout.name) if mixed_up else slice(None)
    while True:
        x = file.read(65536, dtype="float32", always_2d=True)[:, order]
        if len(x):
            frame = av.AudioFrame.from_ndarray(x.reshape(1, -1), format="flt", layout=context.layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
            at += len(x)
        for part in resampler.resample(frame if len(x) else None):
            yield from stream.encode(part)
        if not len(x):
            yield from stream.encode(None)
            return
