"""Run files through the parts of a codec: sound to codes in a file, and back.

    Encode(None, books_of(codec_part(None, "enc"), 6.0), Options())(job, tick)      # a.wav -> a.amk
    Decode(None, Options())(job, tick)                                              # a.amk -> b.wav

They are `Enhance` with other files: what goes in and comes out is aligned and has the rate, the channels and
the length of the sound.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from audiomask.audio import AudioError, AudioInfo, check_writable
from audiomask.audio.atomic import hidden, remedy
from audiomask.audio.sources import Source
from audiomask.ports import Port
from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.catalogue import PRETRAINED, codec_hash, codec_part, probabilities_of
from audiomask.runtime.codes.coders import Coder, Likely
from audiomask.runtime.codes.container import FRAMES_S, Header, Packer
from audiomask.runtime.codes.ecdc import (
    KINDS,
    LEVELS,
    STRIDE,
    EcdcFile,
    EcdcWriter,
    Language,
    kind_of,
    segment_of,
)
from audiomask.runtime.codes.files import AmkFile, CodesFile
from audiomask.runtime.codes.probabilities import Probabilities
from audiomask.runtime.files.batch import Job, Report, Tick, Work
from audiomask.runtime.files.packet_loss import Losses
from audiomask.runtime.files.play import Enhance, Options
from audiomask.runtime.files.sinks import Output

SUFFIXES = frozenset({".amk", ".ecdc"})
BULK_S = 2  # seconds of sound in a block of what is coded in segments


def code_port(artifact: Artifact) -> Port:
    """Return the port of an encoder's codes, or raise `ArtifactError` if no file can hold them."""
    ports = [port for port in artifact.outputs if port.type == "codes"]
    whole = segment_of(artifact) or (ports and ports[0].rate.numerator == 1)
    if len(ports) != 1 or ports[0].levels < 2 or not whole:
        raise ArtifactError(f"{artifact.path}: makes no codes of a known number at a whole stride")
    return ports[0]


def frame_rate(artifact: Artifact) -> Fraction:
    """Return an encoder's frames of codes a second, without what segments share."""
    rate = code_port(artifact).rate
    if segment := segment_of(artifact):
        rate = Fraction(code_port(artifact).per_hop(artifact.hop), segment)
    return artifact.sample_rate * rate


def books_of(artifact: Artifact, kbps: float) -> int:
    """Return how many books have so many kbit/s; `ArtifactError` names the rates there are."""
    port = code_port(artifact)
    each = frame_rate(artifact) * (port.levels - 1).bit_length() / 1000
    books = round(kbps / each)
    if not 1 <= books <= port.channels or abs(books * each - kbps) > 1e-3 * each:
        most = float(port.channels * each)
        raise ArtifactError(
            f"--kbps {kbps:g}: {artifact.name} has {float(each):g} to {most:g} kbit/s in steps of "
            f"{float(each):g}, such as {float(each * max(1, min(books, port.channels))):g}"
        )
    return books


def header_of(
    artifact: Artifact,
    rate: int,
    channels: int,
    frames: int | None = None,
    probabilities: Probabilities | None = None,
) -> Header:
    """Return the header of a file of codes, so many `frames` a packet; may raise `AudioError`.

    Packets are plain bits without `probabilities`.
    """
    port = code_port(artifact)
    if segment_of(artifact):
        raise AudioError(f"{artifact.name}: codes segments, which only .ecdc files hold; write X.ecdc")
    stride, streams = port.rate.denominator, channels // artifact.streams[0].channels
    facts: dict[str, Any] = {
        "name": artifact.name, "hash": codec_hash(artifact), "clock": artifact.sample_rate, "stride": stride,
        "rate": rate, "channels": channels, "streams": streams, "books": port.channels, "levels": port.levels,
    }  # fmt: skip
    if probabilities:
        check_fit(probabilities, port.channels, port.levels)
        facts |= {"coder": Likely.number, "probabilities": probabilities.hash}
    wanted = (
        [frames]
        if frames is not None
        else range(min(255, max(1, round(FRAMES_S * artifact.sample_rate / stride))), 0, -1)
    )
    why: Exception | None = None
    for count in wanted:
        try:
            return Header(**facts, frames=count)
        except ValueError as error:
            why = error
    raise AudioError(f"{artifact.name}, {rate} Hz, {channels} channels: cannot be packed; {why}")


def check_fit(probabilities: Probabilities, books: int, levels: int) -> None:
    """Raise `AudioError` unless probabilities are of so many books and levels."""
    if probabilities.books < books or probabilities.levels != levels:
        raise AudioError(
            f"the probabilities of {probabilities.name} are of {probabilities.books} books of "
            f"{probabilities.levels} codes, and {books} of {levels} are coded; train them for this codec"
        )


def unpacking(header: Header, decoder: Artifact) -> Coder:
    """Return what unpacks the codes of a decoder's codec, or raise `AudioError`."""
    if header.coder != Likely.number:
        return header.coder_of()
    probabilities = probabilities_of(decoder, header.probabilities)
    assert probabilities
    check_fit(probabilities, header.books, header.levels)
    return header.coder_of(probabilities)


def check_header(header: Header, decoder: Artifact, name: str) -> None:
    """Raise `AudioError` unless a header, of what is called `name`, is of a decoder's codec."""
    if codec_hash(decoder) != header.hash:
        raise AudioError(
            f"{name}: was made by {header.name} ({header.hash.hex()}), and {decoder.name} "
            f"({codec_hash(decoder).hex()}) is another codec; name the right one with -m"
        )
    codes, (sound,) = decoder.streams[0], [port for port in decoder.outputs if port.type == "pcm"]
    theirs = header.clock, header.stride, header.books, header.levels, header.channels
    ours = decoder.sample_rate, 1 / codes.rate, codes.channels, codes.levels, header.streams * sound.channels
    if theirs != ours:
        raise AudioError(f"{name}: its header does not fit {header.name}; it is damaged or made by hand")


class _Sink:
    """A sink of codes that writes under a hidden name, block by block."""

    notes: list[str] = []

    def __init__(self, path: Path, port: Port, overwrite: bool):
        check_writable(path, overwrite=overwrite)
        self.path, self.port = Path(os.path.realpath(path)), port
        self._part = hidden(self.path)
        try:
            self._file = self._part.open("w+b")
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be written ({error.strerror}); {remedy(error)}") from None

    def write(self, frames: Mapping[str, np.ndarray]) -> None:
        try:
            self._put(frames[self.port.name])
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be written ({error.strerror}); make room") from None

    def finish(self) -> None:
        try:
            self._finish()
            self._file.close()
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be written ({error.strerror}); make room") from None

    def _put(self, codes: np.ndarray) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._part.replace(self.path)

    def abort(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


class AmkSink(_Sink):
    """A sink of codes into an `.amk` file, whose length is `facts["frames"]` at the end."""

    def __init__(self, path: Path, port: Port, overwrite: bool, packer: Packer, facts: Mapping[str, Any]):
        super().__init__(path, port, overwrite)
        self._packer, self._facts = packer, facts
        self._file.write(self._packer.head())

    def _put(self, codes: np.ndarray) -> None:
        self._file.write(self._packer.push(codes))

    def _finish(self) -> None:
        self._file.write(self._packer.finish(self._facts["frames"]))


class EcdcSink(_Sink):
    """A sink of codes `[books, frames]` into an `.ecdc` file, which keeps the first `books`."""

    def __init__(
        self,
        path: Path,
        port: Port,
        overwrite: bool,
        writer: tuple[str, int, Language | None],
        clock: Fraction,
        facts: Mapping[str, Any],
    ):
        super().__init__(path, port, overwrite)
        self._writer, self._clock, self._facts = EcdcWriter(self._file, *writer), clock, facts

    def _put(self, codes: np.ndarray) -> None:
        self._writer.push(codes[: self._writer.books])

    def _finish(self) -> None:
        self._writer.finish(ceil(self._facts["frames"] * self._clock))


class SegmentsSink(EcdcSink):
    """A sink of segments into an `.ecdc` file: their codes, `scale`, and `length` in samples."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._waiting: dict[str, list[np.ndarray]] = {}

    def write(self, frames: Mapping[str, np.ndarray]) -> None:
        for name, x in frames.items():
            self._waiting.setdefault(name, []).extend(x.T)
        size = KINDS[self._writer.model].segment // STRIDE
        while len(self._waiting[self.port.name]) >= size and self._waiting["scale"]:
            self._segment(size)

    def _segment(self, size: int) -> None:
        scales, lengths, codes = (self._waiting[name] for name in ("scale", "length", self.port.name))
        try:
            self._writer.open_segment(float(scales.pop(0)[0]))
            self._put(np.stack(codes[: -(-int(lengths.pop(0)[0]) // STRIDE)], axis=1))
            self._writer.close_segment()
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be written ({error.strerror}); make room") from None
        del codes[:size]

    def _finish(self) -> None:
        if self._waiting and self._waiting["scale"]:
            self._segment(len(self._waiting[self.port.name]))
        super()._finish()


def language_of(part: Artifact, folder: str | None, threads: int) -> Language:
    """Return EnCodec's language model, from a folder or from NAME_lm beside the codec.

    Raises `AudioError` where it is not there, or does not fit, or torch is not installed.
    """
    found = Path(folder or re.sub(r"_(enc|dec)\.onnx$", "_lm", str(part.path)))
    if not found.is_dir():
        raise AudioError(
            f"{found}: is no folder, and a language model is one; make it with: "
            f"audiomask import encodec_lm FILE --weights {found}"
        )
    try:
        from audiomask.models.encodec_lm import Predictions
    except ImportError as error:
        raise AudioError(
            f"a language model needs torch ({error}); pip install 'audiomask[train]', or leave out --lm"
        ) from None
    language = Predictions(found, threads)
    books = KINDS[kind_of(part)].books
    if (language.books, language.levels) != (books, LEVELS):
        raise AudioError(
            f"{found}: predicts {language.books} books of {language.levels}, and {part.name} has {books}"
        )
    return language


class Encode(Enhance):
    """Work that turns recordings into files of codes.

    Args:
        model: See `catalogue.codec_part`.
        books: Codebooks that are sent.
        options: Options of the batch.
        frames: Frames of a packet; None for about `FRAMES_S` seconds.
        suffix: Suffix of the files, `.amk` or `.ecdc`.
        plain: Pack plain bits; false: by the codec's probabilities, if there are any (`probabilities`).
        language: Folder of the language model that `.ecdc` files are to be coded by; "" for that beside the
            model, None for none.

    The `result` of a report is the size of the file in bytes.
    """

    def __init__(
        self,
        model: str | None,
        books: int,
        options: Options,
        frames: int | None = None,
        suffix: str = ".amk",
        plain: bool = False,
        language: str | None = None,
    ):
        artifact = codec_part(model, "enc")
        self._segment = segment_of(artifact)
        lm = None if language is None else language_of(artifact, language, options.threads)
        self._language: Language | None = lm
        self._books, self._frames_of_packet, self.suffix = books, frames, suffix
        self.port = code_port(artifact)
        self.probabilities = None if plain or suffix == ".ecdc" else probabilities_of(artifact)
        named = [port.name for port in artifact.controls.values() if port.type == "int"]
        controls = {named[0]: books} if named else {}
        if not named and books != self.port.channels:
            raise ArtifactError(f"{artifact.name}: has one rate, of all its {self.port.channels} books")
        super().__init__([artifact], replace(options, controls=controls))

    def outputs_of(self, model: Any) -> list[Output]:
        ports = (port for port in model.outputs if port.name == "scale" and self._segment)
        return [Output("codes", (self.port, *ports), self.suffix)]

    def sink(self, output: Output, path: Path, model: Any, facts: dict[str, Any], reader: Any) -> _Sink:
        info = reader.info
        if self.suffix != ".ecdc":
            header = header_of(model, info.rate, info.channels, self._frames_of_packet, self.probabilities)
            return AmkSink(path, self.port, self.overwrite, Packer(header, self.probabilities), facts)
        writer = kind_of(model), self._books, self._language
        if info.channels > (most := model.streams[0].channels):
            holds = f".ecdc holds {'one channel' if most == 1 else f'{most} channels'}, not {info.channels}"
            raise AudioError(f"{path}: {holds}; write .amk, or mix down")
        clock = Fraction(model.sample_rate, info.rate)
        kind = SegmentsSink if self._segment else EcdcSink
        return kind(path, self.port, self.overwrite, writer, clock, facts)

    def _open(self, model: Any, reader: Any) -> Any:
        if self._segment and reader.info.channels == 1:
            return self._player(model, sample_rate=reader.info.rate, channels=model.streams[0].channels)
        return super()._open(model, reader)

    def _frames(self, reader: Any, model: Any, player: Any, losses: Any) -> Iterator[dict[str, np.ndarray]]:
        if not self._segment:
            yield from super()._frames(reader, model, player, losses)
            return
        clock, stride = Fraction(model.sample_rate, reader.info.rate), model.hop
        rows, begun, taken = model.streams[0].channels, 0, 0
        for block, last in _blocks(reader, ceil((self._segment - stride + 1) / clock)):
            taken += block.shape[1]
            samples = taken * clock
            if last:
                ends = [ceil(samples) - n * stride for n in range(begun, ceil(samples / stride))]
            else:
                ends = [self._segment] * (int(samples / stride) - begun)
            begun += len(ends)
            length = np.array([ends], np.int64).clip(0, self._segment)
            y = player.feed(np.broadcast_to(block, (rows, block.shape[1])), length=length)
            yield {**y, "length": length}
        yield player.flush()

    def do(self, job: Job, reader: Any, tick: Tick) -> Report:
        report = super().do(job, reader, tick)
        report.result = job.output.stat().st_size
        (clock,) = (model.sample_rate for model in self.family)
        if clock < reader.info.rate:
            report.notes.append(
                f"{job.source}: {report.model} works at {clock} Hz, so nothing above {clock // 2} Hz is kept "
                f"of the {reader.info.rate} Hz input"
            )
        return report


def _blocks(reader: Any, least: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield blocks of a recording, each but the last with so many samples after it."""
    block = None
    for after in reader.blocks(ceil(BULK_S * reader.info.rate)):
        if block is not None and after.shape[1] >= least:
            yield block, False
            block = after
        else:
            block = after if block is None else np.concatenate((block, after), axis=1)
    if block is not None:
        yield block, True


def open_codes(path: str | Path, *, name: str | None = None, **stretch: Any) -> CodesFile:
    """Open a file of codes by what it begins with, or raise `AudioError`."""
    if stretch:
        raise AudioError(f"{name or path}: of a file of codes there are no segments; give the .scp")
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path would lose the text the user typed
            head = file.read(4)
    except (OSError, ValueError):
        head = b""  # the reader says why
    return (EcdcFile if head == b"ECDC" else AmkFile)(path, name=name)


class Decode(Enhance):
    """Work that turns files of codes into sound of the rate and length that was encoded.

    Args:
        model: See `catalogue.codec_part`; None for the shipped codec that a file names.
        options: Options of the batch; its `loss` takes frames away, which the decoder conceals.
        language: Folder of the language model that some `.ecdc` files need, by default that beside the model.
    """

    def __init__(self, model: str | None, options: Options, language: str | None = None):
        self._folder = language
        self._language: Language | None = None
        self._named, self._loss = model is not None, options.loss
        self._found: dict[str, Artifact] = {}
        super().__init__([codec_part(model, "dec")], replace(options, loss=None))
        self.suffixes = SUFFIXES

    def open(self, source: Source) -> Any:
        return source.open(open_codes)

    def chosen(self, reader: CodesFile) -> Artifact:
        """Return the decoder of a file's codes; `AudioError` if it is not at hand."""
        artifact = self.family[0]
        if isinstance(reader, EcdcFile):
            try:
                ours = kind_of(artifact)
            except AudioError:
                ours = ""
            if ours != reader.model:
                raise AudioError(
                    f"{reader.name}: is of {reader.model}, and -m is {artifact.name}; name that one"
                )
            if reader.lm and reader.language is None:
                reader.language = self._language or language_of(artifact, self._folder, self.threads)
                self._language = reader.language
            return artifact
        assert isinstance(reader, AmkFile)
        artifact, reader.coder = self.decoder_of(reader.header, reader.name)
        return artifact

    def decoder_of(self, header: Header, name: str = "standard input") -> tuple[Artifact, Coder]:
        """Return the decoder that a header names, and what unpacks its codes.

        Raises `AudioError` if one of them is not at hand.
        """
        artifact = self.family[0]
        if codec_hash(artifact) != header.hash and not self._named:
            shipped = {path.name for path in PRETRAINED.glob("*_dec.onnx")}
            if f"{header.name}_dec.onnx" in shipped:  # a stranger's name leads nowhere else
                if header.name not in self._found:
                    self._found[header.name] = codec_part(PRETRAINED / header.name, "dec")
                artifact = self._found[header.name]
        check_header(header, artifact, name)
        return artifact, unpacking(header, artifact)

    def check(self, sources: Any) -> None:
        """Load the decoder, or raise `AudioError`."""
        self._player(self.family[0])

    def do(self, job: Job, reader: Any, tick: Tick) -> Report:
        losses = self._lose(job.source, reader) if self._loss else None
        report = super().do(job, reader, tick)
        report.bursts = losses.bursts() if losses else None
        return report

    def _lose(self, source: Source, reader: CodesFile) -> Losses:
        """Flag the frames that the loss takes."""
        assert self._loss
        rate: Any = reader.frames / reader.info.seconds  # frames a second
        losses = self._loss.of(source, AudioInfo(reader.name, rate, 1, reader.frames, "", ""))
        ((_, reader.lost),) = losses.heard([np.zeros((1, reader.frames), np.float32)])
        return losses


class ThereAndBack(Work):
    """Work that encodes and decodes recordings; the `result` is the size of the codes in bytes."""

    def __init__(self, encode: Encode, decode: Decode):
        self.encode, self.decode = encode, decode
        self.family, self.outputs, self.suffixes = encode.family, decode.outputs, encode.suffixes
        self.overwrite, self.threads = decode.overwrite, decode.threads

    def check(self, sources: Any) -> None:
        """Load the models, or raise `AudioError`."""
        self.encode.check(sources)
        self.decode.check(sources)

    def do(self, job: Job, reader: Any, tick: Tick) -> Report:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="audiomask-") as folder:
            codes = Path(folder) / f"codes{self.encode.suffix}"
            encoded = self.encode.do(Job(job.source, {"codes": codes}), reader, tick)
            with open_codes(codes, name=str(job.source)) as file:
                report = self.decode.do(job, file, tick)
        report.notes = encoded.notes + report.notes
        report.result, report.elapsed = encoded.result, time.perf_counter() - start
        return report


def sizes(reports: Iterable[Report]) -> Iterator[tuple[Report, float]]:
    """Yield reports whose result is a size, and their kbit/s."""
    for report in reports:
        if isinstance(report.result, int) and report.seconds:
            yield report, report.result * 8 / report.seconds / 1000
