"""Turn recordings into a few kilobits a second: .amk files, or live packets in a pipe.

Inputs are as in audiomask enhance: of any format, rate and number of channels. The rate of the codes is that
of one channel; the file says what it takes to get back the recording's rate, channels and exact length:

  audiomask encode talk.wav -o talk.amk --kbps 6
  audiomask encode talks/ -o coded/ --kbps 3 -j 2
  audiomask encode - --kbps 6 < talk.wav | audiomask decode - > back.wav

With --raw, standard input is bare samples and packets leave as soon as their frames are known:

  arecord -f S16_LE -r 16000 -t raw | audiomask encode - --raw s16le --frames-per-packet 1 |
    audiomask decode - --raw s16le --jitter 0 | aplay -f S16_LE -r 16000

  audiomask encode talk.wav -m encodec_24khz -o talk.ecdc --lm      # for EnCodec's own program

Where a codec has probabilities of its codes (STEM_prob.safetensors), they make packets smaller; --plain does
without. docs/codec.md has the format. A codec's encoder is found by the name that audiomask export got.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from audiomask.audio import FORMATS as FORMATS_OF_SOUND
from audiomask.audio import MAX_RATE, MIN_RATE
from audiomask.cli import Adder, UsageError
from audiomask.cli._codec import (
    add_codec_arguments,
    add_language_argument,
    books_wanted,
    output_of,
    tell_plain,
    tell_sizes,
)
from audiomask.cli._common import between, note, positive
from audiomask.cli._files import add_batch_arguments, run_sounds
from audiomask.cli._pipe import READ_BYTES, Pipe, check_piped, chunks, ended_by_sigterm, send
from audiomask.runtime.codes.container import Packer
from audiomask.runtime.files.coded import SUFFIXES, Encode, header_of
from audiomask.runtime.files.play import Options
from audiomask.runtime.pcm import FORMATS
from audiomask.runtime.player import Player


def add_arguments(add: Adder) -> None:
    inputs = "file, folder, glob, .scp, data directory or -"
    add_batch_arguments(add, inputs, "file, folder or - (default: beside the input)")
    add("--filename TEMPLATE", "of {stem} {model} {ext}", default="{stem}.{ext}")
    add_codec_arguments(add, kbps=True)
    add_language_argument(add, "codes by it, which takes long", nargs="?", const="")
    packet = (
        "frames of codes in a packet (default: half a second of them): fewer are sooner there and cost more"
    )
    add("--frames-per-packet N", packet, type=between(1, 255, int))
    add("--plain", "pack codes in plain bits, without the codec's probabilities")
    add("--format", "of the output (default: by -o, or amk)", choices=sorted(s[1:] for s in SUFFIXES))
    add("--raw", "standard input is bare samples of this format", choices=tuple(FORMATS))
    add("--rate HZ", "of the samples of --raw (default 16000)", type=between(MIN_RATE, MAX_RATE, int, "Hz"))
    add("--channels N", "of the samples of --raw, interleaved (default 1)", type=positive)


def run(args: argparse.Namespace) -> int:
    args.out = output_of(args)
    if args.raw:
        return _live(args)
    for option in ("rate", "channels"):
        if getattr(args, option) is not None:
            raise UsageError(f"--{option}: is of bare samples; give --raw")
    suffix = Path(args.out or "").suffix.lower()
    if suffix in FORMATS_OF_SOUND or (args.format and suffix in SUFFIXES - {f".{args.format}"}):
        raise UsageError(f"-o {args.out}: codes go into {' or '.join(sorted(SUFFIXES))}, by the suffix")
    suffix = f".{args.format}" if args.format else suffix if suffix in SUFFIXES else ".amk"
    if args.lm is not None and suffix != ".ecdc":
        raise UsageError("--lm: is for .ecdc files; name one with -o, or give --format ecdc")
    for option in ("frames_per_packet", "plain"):
        if suffix == ".ecdc" and getattr(args, option):
            raise UsageError(f"--{option.replace('_', '-')}: is of .amk packets, which .ecdc files have not")
    books = books_wanted(args)
    options = Options(overwrite=args.force, threads=args.threads)
    load = partial(
        Encode,
        args.model,
        books,
        options,
        args.frames_per_packet,
        suffix,
        plain=args.plain,
        language=args.lm,
    )
    if suffix == ".amk":
        tell_plain(args)
    code, reports = run_sounds(args, load)
    tell_sizes(reports, args.quiet)
    return code


def _live(args: argparse.Namespace) -> int:
    if args.inputs != ["-"] or args.out != "-":
        raise UsageError("--raw: is for standard input and output, as in: audiomask encode - --raw s16le")
    if args.format == "ecdc" or args.lm is not None or args.ray:
        raise UsageError("--raw: makes .amk on this machine; leave out --format, --lm and --ray")
    check_piped("samples and packets", "encode - --raw s16le < in.pcm > out.amk")
    with ended_by_sigterm(sys.stdin.fileno()) as terminated:
        _pipe(args)
        return 128 + signal.SIGTERM if terminated.is_set() else 0


def _pipe(args: argparse.Namespace) -> None:
    books, rate, channels = books_wanted(args), args.rate or 16000, args.channels or 1
    encode = Encode(args.model, books, Options(), plain=args.plain)
    tell_plain(args)
    (artifact,) = encode.family
    how = {"sample_rate": rate, "channels": channels, "threads": args.threads}
    player = Player(artifact, outputs=[encode.port.name], controls=encode.options.controls, **how)
    header = header_of(artifact, rate, channels, args.frames_per_packet, encode.probabilities)
    packer = Packer(header, encode.probabilities)
    pipe, fd, name, samples = Pipe(args.raw, channels, player.first), sys.stdout.fileno(), encode.port.name, 0
    wait = (header.frames - 1) * header.stride / header.clock
    note(
        f"{artifact.name}, {rate} Hz, {channels} channels, {args.raw} to {args.kbps:g} kbit/s a channel; "
        f"latency {1000 * (player.latency / rate + wait):.1f} ms, packets of {header.frames} frames",
        quiet=args.quiet,
    )
    send(fd, packer.head())
    for data in chunks(sys.stdin.fileno(), READ_BYTES, exact=False):
        x = pipe.decode(data)
        samples += x.shape[1]
        send(fd, packer.push(player.feed(x)[name]))
    if samples:
        send(fd, packer.push(player.flush()[name]))
    send(fd, packer.finish(samples))
    pipe.warn(player.cleaned, player.faults)
