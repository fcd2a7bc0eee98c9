"""Send sound through codecs and back: Opus, MP3, AAC, Vorbis, Lyra, neural codecs.

    blocks = through_ffmpeg(iter([x]), 16000, "opus", 12.0)      # x [C, T]
    y = np.concatenate(list(blocks), axis=1)                     # [C, T], aligned with x

Each function takes and yields blocks `[C, n]` float32 and gives as many samples as it takes, without the
delay of the codec. Opus, MP3 and AAC need PyAV, the extra `[media]`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audiomask.audio import AudioError, media
from audiomask.data.kaldi.directory import resampled
from audiomask.data.simulate.lyra import FRAME, RATE, Lyra
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import codec_part
from audiomask.runtime.codes.ecdc import segment_of
from audiomask.runtime.files.coded import books_of, code_port
from audiomask.runtime.player import Player

Blocks = Iterable[np.ndarray]
# By codec: FFmpeg's encoder, its decoder, and by how many samples what it decodes is late.
CODERS = {
    "opus": ("libopus", "libopus", 0),
    "mp3": ("libmp3lame", "mp3float", 0),
    "aac": ("aac", "aac", 1024),
}
MP3_KBPS = ((32000, 32, 320), (16000, 8, 160), (8000, 8, 64))  # from a rate on: the bit rates of its standard
SEARCH = 7  # halvings of the range of Vorbis' quality


def exactly(blocks: Blocks, taken: list[int]) -> Iterator[np.ndarray]:
    """Yield as many samples as `taken[0]`, which is right once all input is taken."""
    last, given = None, 0
    for y in blocks:
        last = y
        y = y[:, : max(0, taken[0] - given)]
        given += y.shape[1]
        if y.shape[1]:
            yield np.ascontiguousarray(y, np.float32)
    if last is not None and given < taken[0]:
        yield np.zeros((len(last), taken[0] - given), np.float32)


def counted(blocks: Blocks, taken: list[int]) -> Iterator[np.ndarray]:
    """Yield blocks unchanged, and add up their samples in `taken[0]`."""
    for x in blocks:
        taken[0] += x.shape[1]
        yield x


def coding_rate(codec: str, kbps: float, rate: int, rates: list[int]) -> int:
    """Return the rate that a codec works at: the lowest that keeps the band, else the highest."""
    if codec == "mp3":

        def holds(r: int) -> bool:
            low, high = next((low, high) for start, low, high in MP3_KBPS if r >= start)
            return low <= kbps <= high

        rates = [r for r in rates if holds(r)]
    return min((r for r in rates if r >= rate), default=max(rates))


def through_ffmpeg(blocks: Blocks, rate: int, codec: str, kbps: float) -> Iterator[np.ndarray]:
    """Yield sound that went through one of `CODERS` at `kbps` kbit/s in all its channels.

    Where the codec does not take the rate, or not at so many kbit/s, it works at another one. Raises
    `AudioError` for more than two channels, a bit rate that the encoder refuses, and where PyAV is missing.
    """
    taken = [0]
    yield from exactly(_through_ffmpeg(counted(blocks, taken), rate, codec, kbps), taken)


def _through_ffmpeg(blocks: Blocks, rate: int, codec: str, kbps: float) -> Iterator[np.ndarray]:
    try:
        av = media.library()
    except media.NotInstalledError:
        raise AudioError(f"{codec}: needs PyAV; pip install 'audiomask[media]'") from None
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        return
    if len(first) > 2:
        raise AudioError(f"{codec}: takes one or two channels, not {len(first)}; mix down before (mono)")
    name, decodes, late = CODERS[codec]
    layout = ("mono", "stereo")[len(first) - 1]
    encoder, decoder = av.CodecContext.create(name, "w"), av.CodecContext.create(decodes, "r")
    coded = coding_rate(codec, kbps, rate, encoder.codec.audio_rates)
    kind = next(f for f in encoder.codec.audio_formats if f.name in ("flt", "fltp"))
    encoder.sample_rate, encoder.layout, encoder.format = coded, layout, kind
    encoder.bit_rate, encoder.time_base = round(1000 * kbps), Fraction(1, coded)
    try:
        encoder.open()
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(f"{codec}:{kbps:g}: refused at {coded} Hz ({error}); choose another rate") from None
    if encoder.extradata:
        decoder.extradata = encoder.extradata
    else:
        decoder.sample_rate, decoder.layout = coded, layout
    cut = av.AudioResampler(encoder.format, layout, coded, encoder.frame_size)
    # Two, since the delay is of samples at the decoder's rate, before they are converted.
    flat, back, skip = av.AudioResampler("flt", layout), av.AudioResampler("flt", layout, rate), late

    def decoded(packets: Any) -> Iterator[np.ndarray]:
        nonlocal skip
        for packet in packets:
            for frame in decoder.decode(packet):
                for part in flat.resample(frame):
                    y = part.to_ndarray().reshape(-1, len(first))
                    y, skip = y[skip:], max(0, skip - len(y))
                    if len(y):
                        yield from _converted(_frame(av, y, layout, part.sample_rate), back, len(first))

    at = 0
    for x in chain([first], blocks):
        frame = _frame(av, np.clip(x, -1, 1).T, layout, rate)
        frame.pts, at = at, at + x.shape[1]
        for part in cut.resample(frame):
            yield from decoded(encoder.encode(part))
    for part in cut.resample(None):
        yield from decoded(encoder.encode(part))
    yield from decoded([*encoder.encode(None), None])
    yield from _converted(None, back, len(first))


def _frame(av: Any, x: np.ndarray, layout: str, rate: int) -> Any:
    """Return a frame of samples `[n, C]`."""
    flat = np.ascontiguousarray(x, np.float32).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(flat, format="flt", layout=layout)
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    return frame


def _converted(frame: Any, resampler: Any, channels: int) -> Iterator[np.ndarray]:
    for part in resampler.resample(frame):
        yield part.to_ndarray().reshape(-1, channels).T


def through_vorbis(x: np.ndarray, rate: int, kbps: float) -> np.ndarray:
    """Return `x [C, T]` through Vorbis at the quality whose file comes nearest to `kbps` kbit/s.

    Its scale of quality ends at about 48 kbit/s for a channel at 44.1 kHz, and 27 at 16 kHz.
    """
    sound, wanted = np.clip(x, -1, 1).T, 1000 * kbps * x.shape[1] / rate / 8

    def file(level: float) -> bytes:
        made = io.BytesIO()
        soundfile.write(made, sound, rate, format="OGG", subtype="VORBIS", compression_level=level)
        return made.getvalue()

    head = len(_empty_vorbis(rate, len(x)))
    best, low, high = file(1.0), 0.0, 1.0
    for _ in range(SEARCH if len(best) - head < wanted else 0):
        level = (low + high) / 2
        made = file(level)
        low, high = (level, high) if len(made) - head > wanted else (low, level)
        best = min(best, made, key=lambda data: abs(len(data) - head - wanted))
    y, _ = soundfile.read(io.BytesIO(best), dtype="float32", always_2d=True)
    return np.pad(y[: x.shape[1]], ((0, max(0, x.shape[1] - len(y))), (0, 0))).T


@lru_cache(16)
def _empty_vorbis(rate: int, channels: int) -> bytes:
    """Return a file without sound, which is the head of all others, some 4 kB of tables."""
    made = io.BytesIO()
    soundfile.write(made, np.zeros((1, channels)), rate, format="OGG", subtype="VORBIS")
    return made.getvalue()


@lru_cache(8)
def _parts(stem: str | None) -> tuple[Artifact, Artifact]:
    return codec_part(stem, "enc"), codec_part(stem, "dec")


def through_codec(blocks: Blocks, rate: int, kbps: float, stem: str | None = None) -> Iterator[np.ndarray]:
    """Yield sound that went through a neural codec at `kbps` kbit/s for each channel.

    `stem` is what `catalogue.codec_part` takes, None the shipped codec. Raises `AudioError` for a codec that
    cannot be found or has no such rate, and for those that code segments of two channels (EnCodec at 48 kHz).
    """
    encodes, decodes = _parts(stem)
    if segment_of(encodes) or encodes.streams[0].channels != 1:
        raise AudioError(f"{encodes.name}: codes segments of several channels; run audiomask codec instead")
    codes, books = code_port(encodes), books_of(encodes, kbps)
    named = [port.name for port in encodes.controls.values() if port.type == "int"]
    if not named and books != codes.channels:
        raise AudioError(f"{encodes.name}: has one rate, of all its {codes.channels} books")
    taken = [0]

    def made() -> Iterator[np.ndarray]:
        there = back = None
        for x in counted(blocks, taken):
            if there is None or back is None:
                how: dict[str, Any] = {"controls": {named[0]: books} if named else {}}
                there = Player(encodes, sample_rate=rate, channels=len(x), outputs=[codes.name], **how)
                back = Player(decodes, sample_rate=rate, channels=len(x) * decodes.streams[0].channels)
            yield _only(back.feed(there.feed(x)[codes.name]))
        if there is not None and back is not None:
            yield _only(back.feed(there.flush()[codes.name]))
            yield _only(back.flush())

    yield from exactly(made(), taken)


def through_lyra(x: np.ndarray, rate: int, kbps: float, models: str) -> np.ndarray:
    """Return `x [C, T]` through Lyra v2 at `kbps` kbit/s for each channel; see `lyra.Lyra`."""
    coder, wide = Lyra(kbps, Path(models)), resampled(x, rate, RATE)
    made = []
    for row in np.pad(wide, ((0, 0), (0, -wide.shape[1] % FRAME))):
        coder.start()
        made.append(coder(row))
    y = resampled(np.stack(made)[:, : wide.shape[1]], RATE, rate)[:, : x.shape[1]]
    return np.pad(y, ((0, 0), (0, x.shape[1] - y.shape[1])))


def _only(frames: dict[str, np.ndarray]) -> np.ndarray:
    (y,) = frames.values()
    return y
