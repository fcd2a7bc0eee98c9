"""Run files through a player in constant memory, with the same samples as live.

    work = Enhance(resolve("sieve"), Options())
    report = work(Job(Source("a.wav", "a.wav"), {"enhanced": Path("b.wav")}), lambda done, total: None)

A job reads blocks, feeds them to a player at the file's own rate and channels, and writes what comes out to
the files of `sinks.outputs_of`. Sound is aligned with the input and has its length, channels and, unless the
model or the options say otherwise, its rate and format. A model of several channels takes files of as many
channels. A model whose first stream is codes takes the `.npz` that an encoder's job wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiomask.audio import AudioError, AudioInfo, Reader, choose_format
from audiomask.audio.sources import SUFFIXES, Source
from audiomask.ports import Port
from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.catalogue import choose
from audiomask.runtime.codes.files import CodesFile
from audiomask.runtime.files.batch import LOSSY, Job, Report, Tick, Work, reported
from audiomask.runtime.files.sinks import Codes, Frames, Lines, Output, Sound, Text, needed, outputs_of
from audiomask.runtime.player import BULK_HOPS, Player
from audiomask.runtime.session import Session, sounds

if TYPE_CHECKING:
    from audiomask.runtime.files.packet_loss import Classical, Loss, Losses

SINKS = {".npz": Frames, ".jsonl": Lines, ".txt": Text}


@dataclass(frozen=True)
class Options:
    """The options that all files of a batch share."""

    dry: float = 0.0  # fraction 0..1 of the untouched sound in the output
    controls: dict[str, Any] = field(default_factory=dict)  # values for the model, by name
    subtype: str | None = None  # sample format of the output
    clip: str | None = None  # policy for samples beyond full scale, see `Writer`
    rate: int | None = None  # sample rate of the output, in Hz
    overwrite: bool = False
    threads: int = 1
    loss: Loss | None = None  # what is lost of the recordings, for models that conceal it
    output: str | None = None  # name of the one output that is wanted; None for all


class Enhance(Work):
    """Work that runs recordings through a family of models, into a file for each output."""

    whole = False  # whether the outputs hold what is above the model's band too

    def __init__(self, family: Sequence[Artifact | Classical], options: Options):
        self.family, self.options = family, options
        self.overwrite, self.threads = options.overwrite, options.threads
        for model in family:
            if isinstance(model, Artifact) and model.task == "tag":  # that has a verb of its own
                sounds(model)  # raises an error that names it
        self.outputs = self.outputs_of(family[0])
        self.takes_codes = family[0].streams[0].type != "pcm"
        self.suffixes = frozenset({".npz"}) if self.takes_codes else SUFFIXES
        for model in family[1:]:
            if [o.name for o in self.outputs_of(model)] != [o.name for o in self.outputs]:
                raise ArtifactError(
                    f"{family[0].name} and {model.name} differ in their outputs; name one file"
                )

    def outputs_of(self, model: Artifact | Classical) -> list[Output]:
        """Return the files that a recording becomes."""
        return outputs_of(model, self.options.output)

    def chosen(self, reader: Any) -> Any:
        """Return the model that a recording goes through."""
        return choose(self.family, reader.info.rate)

    def model_of(self, reader: Any) -> str:
        return self.chosen(reader).name

    def check(self, sources: Sequence[Source]) -> None:
        """Load the model that is needed first; raise `AudioError` for controls that it refuses."""
        rate = self.family[-1].sample_rate
        for source in sources:
            if source.path != "-" and not source.command:
                with suppress(AudioError), self.open(source) as reader:  # else its report will say so
                    rate = reader.info.rate
                    break
        model = choose(self.family, rate)
        if isinstance(model, Artifact):
            self._player(model)

    def open(self, source: Source) -> Any:
        """Return the open recording, or open codes, as a context manager."""
        streams = self.family[0].streams
        if self.takes_codes:
            return source.open(lambda path, name=None: Codes(path, streams, name=name))
        return source.open()

    def do(self, job: Job, reader: Reader | Codes | CodesFile, tick: Tick) -> Report:
        """Do a job and leave nothing half-written, whatever happens."""
        info, options = reader.info, self.options
        model = self.chosen(reader)
        player = self._open(model, reader)
        losses = options.loss.of(job.source, info) if options.loss else None
        facts = {
            "sample_rate": info.rate, "frames": info.frames, "model": model.name,
            "hash": getattr(model, "meta", {}).get("hash", ""), "clock": model.sample_rate,
        }  # fmt: skip
        sinks: list[Any] = []
        with ExitStack() as undo:  # all files of a job appear or none
            undo.callback(lambda: [sink.abort() for sink in sinks])
            if losses and LOSSY in job.files:  # it goes first, to be there before the output is
                lossy = self._sound(job, Port(LOSSY), info.channels, info.rate, reader, rate_out=info.rate)
                losses.copy = lambda x: lossy.write({LOSSY: x})
                sinks.append(lossy)
            for output in self.outputs_of(model):
                name, ports = output.name, output.ports
                if output.suffix:
                    sinks.append(self.sink(output, job.files[name], model, facts, reader))
                else:
                    rows, rate = player.rows[name], player.rates[name]
                    sinks.append(self._sound(job, ports[0], rows, rate, reader, rate_out=options.rate))
            outputs = sinks[LOSSY in job.files :]
            for frames in self._frames(reader, model, player, losses):
                tick(reader.position / info.rate, info.seconds)
                for sink in outputs:
                    sink.write(frames)
            facts["frames"] = reader.position
            for sink in sinks:
                sink.finish()
            for sink in sinks:
                sink.close()
                undo.callback(sink.path.unlink, missing_ok=True)
            undo.pop_all()
        report = reported(job, reader, model.name, player.faults, "were muted")
        report.bursts = losses.bursts() if losses else None
        report.notes += [text for sink in sinks for text in sink.notes]
        full = [s.rate for s in outputs if isinstance(s, Sound) and s.port.rate == 1 and not s.port.added]
        if not (self.takes_codes or self.whole) and full and model.sample_rate < min(info.rate, *full):
            report.notes.append(
                f"{job.source}: {model.name} works at {model.sample_rate} Hz, so nothing above "
                f"{model.sample_rate // 2} Hz is left of the {info.rate} Hz input"
            )
        return report

    def sink(self, output: Output, path: Path, model: Any, facts: dict[str, Any], reader: Any) -> Any:
        """Return the sink of an output but sound; `facts["frames"]` is right once all is read."""
        return SINKS[output.suffix](path, output.ports, facts, self.overwrite)

    def finished(self, job: Job) -> Report | None:
        """Return the report of a job that a lost worker had done, with its losses counted again."""
        report = super().finished(job)
        if report and self.options.loss:
            with self.open(job.source) as reader:
                losses = self.options.loss.of(job.source, reader.info)
                for _ in losses.heard(reader.blocks()):
                    pass
                report.bursts = losses.bursts()
        return report

    def _sound(self, job: Job, port: Port, rows: int, rate: Any, reader: Any, rate_out: int | None) -> Sound:
        """Return the sink of a port that gives `rows` channels at `rate` Hz, of a recording."""
        path, options, info = job.files[port.name], self.options, reader.info
        format, subtype = self.format_of(path, info)
        how: dict[str, Any] = {"format": format, "subtype": subtype, "clip": options.clip}
        how |= {"overwrite": options.overwrite, "mask": info.mask if rows == info.channels else 0}
        if info.frames < 2**62:
            how["frames"] = int(info.frames * (rate_out or rate) / info.rate)
        if isinstance(reader, Reader):
            how["tags"] = reader.tags
        return Sound(path, port, rows, rate, rate_out, **how)

    def format_of(self, path: Path, info: AudioInfo) -> tuple[str, str]:
        """Return format and subtype of a file that is made of a recording."""
        return choose_format(path, subtype=self.options.subtype, like=info)

    def _open(self, model: Artifact | Classical, reader: Any) -> Any:
        rate, channels, wanted = reader.info.rate, reader.info.channels, model.streams[0].channels
        if not isinstance(model, Artifact):
            return model.open(rate, channels)
        if not self.takes_codes and channels != wanted > 1:
            raise AudioError(
                f"{reader.name}: has {channels} channel{'s' * (channels > 1)}, and {model.name} takes "
                f"{wanted} microphones, a channel each; choose another file, or another model with -m"
            )
        return self._player(model, sample_rate=rate, channels=channels)

    def _player(self, model: Artifact, **given: Any) -> Player:
        """Return a `Session` if the model makes sound of one kind from sound, else a `Player`."""
        options = self.options
        given |= {"threads": options.threads, "controls": options.controls}
        ports = [port for output in self.outputs_of(model) for port in output.ports]
        kinds = {(port.type, port.rate, port.channels) for port in ports}
        if not self.takes_codes and len(kinds) == 1 and ports[0].type == "pcm":
            return Session(model, dry=options.dry, output=options.output, **given)
        if options.dry:
            raise ArtifactError(
                f"{model.name}: its outputs are not of one kind, so the untouched sound cannot be mixed in; "
                "leave out --dry, or choose an output of sound with --output"
            )
        if not self.takes_codes and (more := needed(model.streams)[1:]):
            raise ArtifactError(
                f"{model.name}: needs {more[0].name} beside the sound; feed a Player in Python"
            )
        return Player(model, outputs=[port.name for port in ports], **given)

    def _frames(
        self, reader: Any, model: Artifact | Classical, player: Any, losses: Losses | None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield by port what the player makes of a recording, after its losses."""
        info = reader.info

        def named(y: Any) -> dict[str, np.ndarray]:
            by_port = y if isinstance(y, dict) else {self.outputs[0].name: y}
            return {name: np.atleast_2d(x) for name, x in by_port.items()}  # a session of one channel: [n]

        if isinstance(reader, Codes | CodesFile):
            names = [port.name for port in player.ports]
            left = {name: ceil(info.frames * player.rates[name] / info.rate) for name in names}
            frames = {port.name: port.per_hop(model.hop) for port in model.streams}
            for given in chain(reader.blocks(BULK_HOPS, frames), [None]):
                y = player.flush() if given is None else player.feed(**given)
                yield {name: x[:, : left[name]] for name, x in y.items()}
                left = {name: max(0, left[name] - x.shape[1]) for name, x in y.items()}
            return
        blocks = reader.blocks(max(1, BULK_HOPS * model.hop * info.rate // model.sample_rate))
        for x, lost in losses.heard(blocks) if losses else ((x, None) for x in blocks):
            yield named(player.feed(x, lost))
        yield named(player.flush())
