"""Turn codes back into sound: .amk and .ecdc files, or packets in a pipe, damaged or not.

The output has the rate, the channels and the length of what was encoded. What is damaged or missing is
concealed by the decoder, with a warning, and all other packets come out as they went in:

  audiomask decode talk.amk -o talk.wav
  audiomask decode coded/ -o back/ --loss gilbert:0.05,0.5        # lose packets of 20 ms on the way
  audiomask decode - < talk.amk > talk.wav

With --raw, standard output is bare samples, each as soon as it is known, of packets of which some may be
missing, late or double. An .ecdc file needs the codec that it was made by, EnCodec at 24 or 48 kHz, and
perhaps its language model (--lm), on such a processor and with as many --threads as it was made on.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from audiomask.cli import Adder, UsageError
from audiomask.cli._codec import add_codec_arguments, add_language_argument, output_of
from audiomask.cli._common import between, note
from audiomask.cli._files import (
    add_batch_arguments,
    add_loss_arguments,
    add_output_arguments,
    loss_of,
    run_sounds,
)
from audiomask.cli._pipe import READ_BYTES, Pipe, check_piped, chunks, ended_by_sigterm
from audiomask.ports import Port
from audiomask.runtime.codes.live import Received
from audiomask.runtime.files.coded import SUFFIXES, Decode
from audiomask.runtime.files.play import Options
from audiomask.runtime.packets.jitter_buffer import JITTER_MS
from audiomask.runtime.pcm import FORMATS


def add_arguments(add: Adder) -> None:
    inputs = "file, folder, glob, .scp or -"
    add_batch_arguments(add, inputs, "file, folder or - (default: NAME_decoded.wav beside the input)")
    add_codec_arguments(add, kbps=False)
    add_language_argument(add, "what some were coded by")
    add_output_arguments(add, "wav, 16 bits")
    add_loss_arguments(add)
    add("--raw", "standard output is bare samples of this format", choices=tuple(FORMATS))
    wait = "how long a packet is waited for, with --raw (default 60)"
    add("--jitter MS", wait, type=between(*JITTER_MS, unit="ms"))


def options(args: argparse.Namespace) -> Options:
    loss = loss_of(args) if args.loss else None
    same = {name: getattr(args, name) for name in ("subtype", "clip", "rate", "threads")}
    return Options(overwrite=args.force, loss=loss, **same)


def run(args: argparse.Namespace) -> int:
    args.out = output_of(args)
    if args.raw:
        return _live(args)
    if Path(args.out or "").suffix.lower() in SUFFIXES:
        raise UsageError(f"-o {args.out}: is sound, such as out.wav; codes are what it is made of")
    if args.jitter is not None:
        raise UsageError(f"--jitter {args.jitter:g}: is for live packets; give --raw")
    return run_sounds(args, partial(Decode, args.model, options(args), args.lm))[0]


def _live(args: argparse.Namespace) -> int:
    if args.inputs != ["-"] or args.out != "-":
        raise UsageError("--raw: is for standard input and output, as in: audiomask decode - --raw s16le")
    for option in ("ray", "rate", "format", "subtype", "clip", "loss", "lm"):
        if getattr(args, option):
            raise UsageError(f"--{option}: is of files; leave out --raw")
    check_piped("packets and samples", "decode - --raw s16le < in.amk > out.pcm")
    with ended_by_sigterm(sys.stdin.fileno()) as terminated:
        _pipe(args)
        return 128 + signal.SIGTERM if terminated.is_set() else 0


def _pipe(args: argparse.Namespace) -> None:
    decode = Decode(args.model, Options())
    received = Received(60.0 if args.jitter is None else args.jitter, decode.decoder_of, args.threads)
    sink: Pipe | None = None
    for data in chunks(sys.stdin.fileno(), READ_BYTES, exact=False):
        y = received.push(data)
        if sink is None and received.header:
            header = received.header
            sink = Pipe(args.raw, header.channels, Port("decoded", channels=header.channels))
            note(f"{header.name}, {header.rate} Hz, {header.channels} channels, {args.raw}", quiet=args.quiet)
        if sink and y.size:
            sink.write(sys.stdout.fileno(), y)
    y = received.flush()
    if sink and y.size:
        sink.write(sys.stdout.fileno(), y)
        sink.warn_clipped()
    for text in received.notes:
        note(f"warning: {text}")
    note(str(received.counts), quiet=args.quiet)
