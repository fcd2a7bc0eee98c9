"""Denoise a microphone live, into a loudspeaker or a virtual microphone.

It shows the levels, the lag and what went wrong while it runs. Keys: b or space bypass the model, + and -
change its strength where it has one, q ends. At the start it shows where every millisecond of the lag goes.
To make a virtual microphone for calls, see docs/live.md.

  audiomask live --list-devices
  audiomask live -i 1 -o 4 --record-in heard.wav --record-out said.wav
"""

from __future__ import annotations

import argparse
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from audiomask.audio import AudioError
from audiomask.cli import Adder, UsageError, trace
from audiomask.cli._common import (
    add_gains,
    add_model_arguments,
    between,
    controls,
    gains_of,
    note,
    one_output,
    refuse_told,
    refuse_unset,
    table,
)
from audiomask.cli._terminal import keys, screen
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.card import portaudio
from audiomask.runtime.card.live import Device, DeviceError, Live, Status, least_buffer
from audiomask.runtime.card.recorder import Recorder
from audiomask.runtime.catalogue import choose, resolve, separators
from audiomask.runtime.session import Session, sounds

LEAST_BLOCK_MS, MOST_BLOCK_MS = 5, 40  # bounds of the default, so that calls are rare and blocks short
JITTER_MS = 5.0  # least lateness to allow callbacks and threads; else half a block
TRIES = 50  # blocks that measure the time of the model, before it starts
STEP = 0.1  # fraction of a control's range that a key changes
FLOOR_DB = -60.0
TICK_S = 0.1  # between two status lines
Cards: TypeAlias = tuple[portaudio.Card, portaudio.Card]  # of the microphone and the loudspeaker
_clock = time.perf_counter


def add_arguments(add: Adder) -> None:
    add("-i --input DEV", "microphone: a number, or a part of its name")
    add("-o --output DEV", "loudspeaker, or a virtual microphone's other end")
    add("--list-devices", "show the devices, and end")
    rate = "of both devices (default: the model's, if they take it)"
    add_model_arguments(add, rate=rate, channels="of the microphone (default: what the model takes)")
    add("--model-output NAME", "play this output of the model, where it has several")
    add_gains(add)
    block = between(1, 1000, unit="ms")
    add("--block MS", "work on blocks of this length (default: the model's hop)", type=block)
    lag = "from capture to play, to keep (default: the model's, two blocks, and a little for jitter)"
    add("--lag MS", lag, type=between(0, 60_000, unit="ms", above=True))
    add("--record-in FILE", "record what the microphone gives")
    add("--record-out FILE", "record what the model makes of it")
    add("-f --force", "overwrite recordings that exist")
    add("--seconds S", "end after so much sound", type=between(0, above=True))
    add("--reconnect", "wait for a device that leaves, and go on")
    add("-q --quiet", "show only warnings")


def run(args: argparse.Namespace) -> int:
    files = [os.path.realpath(path) for path in (args.record_in, args.record_out) if path]
    if len(set(files)) < len(files):
        raise UsageError(f"--record-in and --record-out are both {args.record_in}; they need a file each")
    sd = portaudio.load()
    if args.list_devices:
        rows = [(c.index, c.name, c.api, c.inputs, c.outputs, c.rate, c.default) for c in portaudio.cards(sd)]
        print(table(("number", "name", "system", "in", "out", "Hz", "default"), rows))
        return 0
    cards = _find(sd, args)
    gains = gains_of(args, args.model_output, "--model-output")
    family = separators(args.model, gains) if gains else resolve(args.model)
    refuse_told(family, "a microphone loses nothing; audiomask stream and serve take packets")
    refuse_unset(family, controls(args))
    rate = args.rate or _rate(sd, cards, family)
    artifact = choose(family, rate)
    sounds(artifact)  # refuses a model that makes no sound
    block = _block(artifact, rate, args.block)
    session = Session(
        artifact,
        sample_rate=rate,
        channels=args.channels,
        threads=args.threads,
        dry=args.dry,
        trim=False,
        block=block,
        output=None if gains else one_output(artifact, args.model_output, "--model-output").name,
        gains=gains,
        controls=controls(args),
    )
    compute_ms = _compute(session, block)
    if compute_ms > block * 1000 / rate:
        note(
            f"warning: {artifact.name} needs {compute_ms:.1f} ms for a block of {block * 1000 / rate:.1f} ms "
            "here and cannot keep up; try a longer --block, --threads, or another model (audiomask models)"
        )
    recorders: dict[str, Recorder] = {}
    buffer = _buffer(session, block, args.lag)
    live = None
    try:
        for option, path, channels in (
            ("record_in", args.record_in, session.channels),
            ("record_out", args.record_out, session.outputs),
        ):
            if path:
                recorders[option] = Recorder(path, rate, channels, block=block, overwrite=args.force)
        live = Live(session, block, buffer, clock=_clock, **recorders)
        with _worker(live):
            try:
                _sessions(args, sd, cards, live, compute_ms)
            finally:
                live.stop()
    finally:
        failed = _finish(recorders, args.quiet)
        if live is not None and live.seconds:
            _summary(live, buffer, args.quiet)
    return int(failed)


def _find(sd: Any, args: argparse.Namespace) -> Cards:
    return portaudio.find(sd, args.input, "input"), portaudio.find(sd, args.output, "output")


def _rate(sd: Any, cards: Cards, family: list[Artifact]) -> int:
    """Return the model's highest rate that both devices take, else the microphone's."""
    for artifact in reversed(family):  # conversion would add lag
        rate = artifact.sample_rate
        if portaudio.takes(sd, cards[0], "input", rate) and portaudio.takes(sd, cards[1], "output", rate):
            return rate
    return cards[0].rate


def _block(artifact: Artifact, rate: int, ms: float | None) -> int:
    """Return a block's samples: `ms`, else whole hops from 5 ms, or a part of a very long hop."""
    if ms is not None:
        return max(1, round(ms * rate / 1000))
    hop_ms = artifact.hop * 1000 / artifact.sample_rate
    hops: float = math.ceil(LEAST_BLOCK_MS / hop_ms)
    if hop_ms > MOST_BLOCK_MS:
        hops = 1 / math.ceil(hop_ms / MOST_BLOCK_MS)
    return max(1, round(hops * hop_ms * rate / 1000))


def _buffer(session: Session, block: int, lag_ms: float | None) -> int:
    """Return the samples to keep in flight; `UsageError` for a lag that blocks and model exceed."""
    rate = session.sample_rate
    least = least_buffer(block, block, block)
    if lag_ms is None:
        return least + max(round(JITTER_MS * rate / 1000), block // 2)
    buffer = round(lag_ms * rate / 1000) - session.lag
    if buffer < least:
        ms = 1000 / rate
        raise UsageError(
            f"--lag {lag_ms}: {session.artifact.name} takes {session.lag * ms:.1f} ms and two blocks "
            f"{least * ms:.1f}; give at least {math.ceil((session.lag + least) * ms)}, or a shorter --block"
        )
    return buffer


def _compute(session: Session, block: int) -> float:
    """Return the median milliseconds per block; the session is reset, with its memory allocated."""
    x = (0.05 * np.random.default_rng(0).standard_normal((session.channels, block))).astype(np.float32)
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        session.feed(x)
        times.append(time.perf_counter() - start)
    session.reset()
    return float(np.median(times)) * 1000


@contextmanager
def _worker(live: Live) -> Iterator[None]:
    """Run the model's thread; an exception in it ends the run, even on the last blocks."""
    stop = threading.Event()
    thread = threading.Thread(target=live.work, args=(stop,), name="live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    live.check()


def _open(sd: Any, cards: Cards, live: Live) -> tuple[Device, Device]:
    outputs = live.session.outputs
    outputs = min(2, cards[1].outputs) if outputs == 1 else outputs  # one channel goes to both ears
    source = portaudio.SoundCard(sd, cards[0], "input", live.rate, live.session.channels, live.block)
    return source, portaudio.SoundCard(sd, cards[1], "output", live.rate, outputs, live.block)


def _sessions(args: argparse.Namespace, sd: Any, cards: Cards, live: Live, compute_ms: float) -> None:
    """Play until the end, with --reconnect again and again; raise `DeviceError`."""
    first = True
    with keys() as key, screen(args.quiet) as show:
        panel = Panel(live)
        while True:
            try:
                devices = _open(sd, cards, live)
                live.start(*devices)
                note(_explain(live, *devices, compute_ms), quiet=args.quiet or not first)
                first = False
                while not (args.seconds and live.seconds >= args.seconds):
                    live.check()
                    if panel.press(key(TICK_S)):
                        return
                    show(panel.line(live.status()))
                return
            except DeviceError as error:
                live.stop()
                if first or not args.reconnect:
                    raise
                note(f"warning: {error}")
            while True:
                if panel.press(key(1.0)):
                    return
                try:
                    portaudio.rescan(sd)
                    cards = _find(sd, args)
                    break
                except DeviceError:
                    show("waiting for the device")


def _explain(live: Live, source: Device, sink: Device, compute_ms: float) -> str:
    """Return where every millisecond of the lag goes, from the air to the air."""
    session, ms = live.session, 1000 / live.rate
    block, artifact = live.block * ms, session.artifact
    delay = min(session.delay, session.lag) * ms
    total = live.lag * ms + (source.latency + sink.latency) * 1000
    rows = [
        ("capture", source.latency * 1000, f"buffers of {source.name} and the system, by PortAudio"),
        ("block", block, "being recorded"),
        ("compute", compute_ms, "the model's time for a block, measured now"),
        ("model", delay, f"what {artifact.name} waits for: its delay, and rate conversion if any"),
        ("hop", session.lag * ms - delay, "what its hop does not share with the block"),
        ("buffer", live.buffer * ms - block - compute_ms, "the block being played, and room for jitter"),
        ("play", sink.latency * 1000, f"buffers of {sink.name} and the system, by PortAudio"),
        ("in all", total, f"of it {live.lag * ms:.1f} ours: --lag"),
    ]
    channels = f"{session.channels} channel{'s' * (session.channels > 1)}"
    return (
        f"{artifact.name}, {live.rate} Hz, {channels}, blocks of {block:.1f} ms; keys: b bypass, "
        f"+ - strength, q quit. The lag:\n"
        + table(("", "ms", ""), [(name, float(f"{value:.1f}"), text) for name, value, text in rows])
    )


class Panel:
    """A panel of what the keys change, with a line that shows the state."""

    def __init__(self, live: Live):
        self.live, self.bypass = live, False
        self.port = live.session.artifact.controls.get("strength")
        value = live.session.engine.controls["strength"] if self.port else 0.0
        self.strength = float(np.ravel(value)[0])

    def press(self, key: str) -> bool:
        """React to a key; return True for the one that ends."""
        if key in ("b", "B", " "):
            self.bypass = not self.bypass
            self.live.set(bypass=self.bypass)
        elif key in ("+", "=", "-", "_") and self.port:
            low = 0.0 if self.port.minimum is None else self.port.minimum
            high = 1.0 if self.port.maximum is None else self.port.maximum
            step = STEP * (high - low) * (1 if key in "+=" else -1)
            self.strength = round(min(high, max(low, self.strength + step)), 6)
            self.live.set(controls={"strength": self.strength})
        return key in ("q", "Q")

    def line(self, status: Status) -> str:
        live, ms = self.live, 1000 / self.live.rate
        counts = live.counts
        parts = [
            f"in {meter(status.peak_in)}  out {meter(status.peak_out)}",
            f"lag {status.lag * ms:.0f}/{live.lag * ms:.0f} ms",
            f"speed {status.speed:.2f}",
            f"xruns {counts.overflows} in {counts.underflows} out {counts.recovered} mended",
        ]
        if live.session.cleaned or live.session.faults:
            parts.append(f"cleaned {live.session.cleaned}, faults {live.session.faults}")
        if self.port:
            parts.append(f"strength {self.strength:.2f}")
        if self.bypass:
            parts.append("BYPASS")
        if not status.running:
            parts.append("filling")
        return "  ".join(parts)


def meter(peak: float, width: int = 10) -> str:
    """Return a bar over 60 dB and the level: `#####.....  -30 dBFS`."""
    db = max(FLOOR_DB, 20 * math.log10(max(peak, 1e-9)))
    full = round(min(1.0, 1 - db / FLOOR_DB) * width)
    return f"{'#' * full}{'.' * (width - full)} {db:4.0f} dBFS"


def _finish(recorders: dict[str, Recorder], quiet: bool) -> bool:
    """Close the recordings, each whatever becomes of the other; return whether one failed."""
    failed = False
    for recorder in recorders.values():
        try:
            for text in recorder.close():
                note(text, quiet=quiet and not text.startswith("warning"))
            failed |= recorder.error is not None
        except AudioError as error:
            trace(error)
            note(f"error: {error}")
            failed = True
    return failed


def _summary(live: Live, buffer: int, quiet: bool) -> None:
    counts, ms = live.counts, 1000 / live.rate
    note(
        f"{live.seconds:.1f} s; {counts.overflows} input overflows, {counts.underflows} output underflows "
        f"({counts.silent * ms:.0f} ms of silence), lag mended {counts.recovered} times "
        f"({(counts.lost_in + counts.lost_out) * ms:.0f} ms dropped), {counts.splices} splices for drift",
        quiet=quiet,
    )
    if live.buffer > buffer:
        note(
            "warning: the devices hand over longer chunks than the block, so the lag was raised by "
            f"{(live.buffer - buffer) * ms:.0f} ms to {live.lag * ms:.0f}"
        )
    if live.session.cleaned:
        note(f"warning: {live.session.cleaned} samples of the input were NaN or infinite and were set to 0")
    if live.session.faults:
        note(f"warning: the model failed in {live.session.faults} blocks, which were muted")
