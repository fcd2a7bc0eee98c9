"""Denoise a live pipe of samples from standard input to standard output.

Bare interleaved samples go in and as many come out, aligned, each as soon as the model has it: after the
latency that is shown at the start. It plays with ffmpeg, sox and gstreamer:

  ffmpeg -i in.mp4 -f s16le -ar 48000 -ac 1 - |
    audiomask stream --rate 48000 | aplay -f S16_LE -r 48000

A model of other rates or types runs too: sound goes out at the rate that the model makes, which is shown at
the start; codes, bits and other integers go in and out as little-endian 32-bit integers and all other types
as 32-bit floats, the channels of a frame one after the other:

  audiomask stream -m ENCODER --rate 48000 < in.pcm | audiomask stream -m DECODER --rate 48000 > out.pcm

With --packets the input is records, of which some may be missing, late, double or in a wrong order: a number
of 4 bytes, the length of the samples in bytes in 2, both little-endian, and the samples of one packet. Every
packet's place comes out, --jitter and the model's delay later; see docs/conceal.md.

The end of the input and SIGTERM end it alike: everything that has been read comes out to its last sample, and
the exit code is 0 or 143. It is 141 when the reader leaves, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from typing import Any

import numpy as np

from audiomask.audio import AudioError
from audiomask.cli import Adder, UsageError
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
)
from audiomask.cli._pipe import READ_BYTES, Pipe, check_piped, chunks, ended_by_sigterm
from audiomask.runtime.catalogue import choose, resolve, separators
from audiomask.runtime.files.sinks import needed
from audiomask.runtime.packets.jitter_buffer import RECORD, JitterBuffer, shape
from audiomask.runtime.pcm import FORMATS
from audiomask.runtime.player import Player
from audiomask.runtime.session import Session

LIVE_MS = 500  # most that a conversation bears: ITU-T G.114 calls 400 ms one way unacceptable


def add_arguments(add: Adder) -> None:
    channels = "interleaved (default: what the model takes, mostly 1)"
    add_model_arguments(add, rate="of the samples (default 16000)", channels=channels)
    add.parser.set_defaults(rate=16000)
    add("--output NAME", "write this output of the model, where it has several")
    add_gains(add)
    add("--format", "of the samples, in and out", choices=tuple(FORMATS), default="s16le")
    block = between(0, 60_000, unit="ms", above=True)
    add("--block MS", "work on blocks of this length (default: whatever has arrived)", type=block)
    add("--packets MS", "the input is numbered packets of this length", type=float)
    add("--jitter MS", "how long a packet is waited for, with --packets (default 60)", type=float)
    add("-q --quiet", "do not show model and latency")


def run(args: argparse.Namespace) -> int:
    if args.packets is None and args.jitter is not None:
        raise UsageError(f"--jitter {args.jitter:g}: is for packets; give --packets MS")
    if args.packets is not None and args.block is not None:
        raise UsageError(f"--block {args.block:g}: packets are the blocks; leave it out")
    check_piped("samples", "stream < in.pcm > out.pcm; for files use audiomask enhance")
    # From here on: an exception while ONNX Runtime is imported would become an error of its own.
    with ended_by_sigterm(sys.stdin.fileno()) as terminated:
        _pipe(args)
        return 128 + signal.SIGTERM if terminated.is_set() else 0


def _pipe(args: argparse.Namespace) -> None:
    gains = gains_of(args, args.output, "--output")
    if gains:
        family = separators(args.model, gains)
    else:
        family = resolve(args.model, task="enhance" if args.packets is None else "conceal")
    if args.packets is None:
        refuse_told(family, "give --packets MS and numbered packets")
    refuse_unset(family, controls(args))
    artifact = choose(family, args.rate)
    first = artifact.streams[0]
    port = artifact.outputs[0] if gains else one_output(artifact, args.output)
    how: dict[str, Any] = {"sample_rate": args.rate, "channels": args.channels, "threads": args.threads}
    player: Player
    if first.type == port.type == "pcm":
        heard = {"gains": gains} if gains else {"output": port.name}
        player = Session(artifact, dry=args.dry, controls=controls(args), **heard, **how)
    else:
        for option in ("packets", "dry"):
            if getattr(args, option):
                raise UsageError(f"--{option}: {artifact.name} makes no sound of sound; leave it out")
        if more := needed(artifact.streams)[1:]:
            raise UsageError(f"{artifact.name}: needs {more[0].name} beside {first.name}, and a pipe has one")
        player = Player(artifact, outputs=[port.name], controls=controls(args), **how)
    source = Pipe(args.format, player.channels, first)
    sink = Pipe(args.format, player.rows[port.name], port)
    rate, rate_out, ms = player.rates[first.name], player.rates[port.name], 1000 / args.rate
    if isinstance(player, Session):
        hz = f"{rate} Hz" + f" to {rate_out}" * (rate_out != rate)
        channels = f"{source.channels} channels" + f" to {sink.channels}" * (sink.channels != source.channels)
        form = f"{hz}, {channels}, {args.format}"
    else:
        form = f"{source.form(rate)} to {sink.form(rate_out)}"
    say = partial(note, quiet=args.quiet)
    delay = f"(delay {player.delay * ms:.1f} + hop {player.hop * ms:.1f})"
    say(f"{artifact.name}, {form}; latency {player.latency * ms:.1f} ms {delay}")
    if player.latency * ms > LIVE_MS:
        say(
            f"{artifact.name} needs what comes after a sound and is {player.latency * ms / 1000:.1f} s late; "
            "to talk through it, take a causal model (audiomask models)"
        )
    if args.packets is not None:
        assert isinstance(player, Session)
        _packets(args, player, source, sink)
        return
    size = READ_BYTES if args.block is None else max(1, round(args.block / 1000 * rate)) * source.frame

    def write(y: Any) -> None:
        sink.write(sys.stdout.fileno(), np.atleast_2d(y[port.name] if isinstance(y, dict) else y))

    for data in chunks(sys.stdin.fileno(), size, exact=args.block is not None):
        write(player.feed(source.decode(data)))
    write(player.flush())
    source.warn(player.cleaned, player.faults)
    sink.warn_clipped()


def _packets(args: argparse.Namespace, session: Session, pipe: Pipe, sink: Pipe) -> None:
    """Do the rest of `_pipe` for records of packets."""
    try:
        size, depth = shape(args.packets, 60.0 if args.jitter is None else args.jitter, args.rate)
    except ValueError as error:
        raise UsageError(str(error)) from None
    length, ms = size * pipe.frame, 1000 / args.rate
    if length > 65535:
        raise UsageError(f"--packets {args.packets:g}: are {length} bytes; a record holds 65535")
    lag = session.lag_of(size)
    say = partial(note, quiet=args.quiet)
    parts = f"(jitter {depth * size * ms:g} + model {lag * ms:.1f})"
    say(f"packets of {size * ms:g} ms; delay {(depth * size + lag) * ms:.1f} ms {parts}")
    if not session.artifact.lost:
        say(f"{session.artifact.name} is not told of losses; it gets silence for them")
    buffer, waiting = JitterBuffer(depth, size / args.rate), bytearray()

    def play(payloads: list[bytes | None]) -> None:
        if payloads:
            lost = np.repeat([payload is None for payload in payloads], size)
            x = pipe.decode(b"".join(payload or bytes(length) for payload in payloads))
            sink.write(sys.stdout.fileno(), session.feed(x, lost))

    for data in chunks(sys.stdin.fileno(), READ_BYTES, exact=False):
        pipe.check(data)
        waiting += data
        while len(waiting) >= RECORD.size:
            number, found = RECORD.unpack_from(waiting)
            if found != length:
                raise AudioError(
                    f"standard input: packet {number} has {found} bytes, and {size * ms:g} ms are {length}; "
                    "check --packets, --rate, --channels and --format"
                )
            if len(waiting) < RECORD.size + length:
                break
            buffer.put(number, bytes(waiting[RECORD.size : RECORD.size + length]))
            del waiting[: RECORD.size + length]
        play(buffer.take())
    play(buffer.flush())
    sink.write(sys.stdout.fileno(), np.atleast_2d(session.flush()))
    if waiting:
        note(f"warning: standard input: the last {len(waiting)} bytes were no whole packet; dropped")
    pipe.warn(session.cleaned, session.faults)
    sink.warn_clipped()
    say(str(buffer.counts))
