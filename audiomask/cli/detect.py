"""Detect marks in recordings: whether, which message, where, and how sure that is.

A line comes for each input, in their order: is there a mark of this key, and with which p-value, the
probability that unmarked sound gives so much; what it says; where; and at which speed it is played:

  audiomask detect recordings/ --key me.key
  audiomask detect talk.mp4 --key me.key --json
  arecord -f S16_LE -r 16000 -t raw | audiomask detect - --raw s16le --key me.key --every 5

JSON is one object a line: file, present, p, message, bits, segments, speed, others (further messages) and
seconds. With --every there is also one, with from and to, for each stretch of so many seconds by
itself; of bare samples (--raw) it comes as soon as they are over. The exit code is 0 whether or not there is
a mark, and 1 where an input cannot be read. Sound of less than a second, or silence, is never marked.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from functools import partial

import numpy as np

from audiomask.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioError
from audiomask.cli import Adder, UsageError
from audiomask.cli._common import between, note
from audiomask.cli._files import add_batch_arguments, find, plan, run_batch
from audiomask.cli._pipe import READ_BYTES, Pipe, chunks, ended_by_sigterm
from audiomask.ports import Port
from audiomask.runtime.files.batch import Report
from audiomask.runtime.files.marked import LEAST_S, Detect, Heard, listen, unmarkable
from audiomask.runtime.marks.carrier import read_key
from audiomask.runtime.pcm import FORMATS


def add_arguments(add: Adder) -> None:
    add_batch_arguments(add, "file, folder, glob, .scp, data directory or -", None)
    add("--key FILE", "the key that marked: 32 hex digits", required=True)
    add("--json", "an object a line")
    every = between(LEAST_S, 86400, unit="s")
    add("--every S", "also look at each stretch of so many seconds by itself", type=every)
    add("--raw", "standard input is bare samples of this format", choices=tuple(FORMATS))
    add("--rate HZ", "of the samples of --raw (default 16000)", type=between(MIN_RATE, MAX_RATE, int, "Hz"))
    channels = between(1, MAX_CHANNELS, int)
    add("--channels N", "of the samples of --raw, interleaved (default 1)", type=channels)


def run(args: argparse.Namespace) -> int:
    load = partial(Detect, read_key(args.key), args.every)
    if args.raw:
        return _live(args, load())
    for option in ("rate", "channels"):
        if getattr(args, option) is not None:
            raise UsageError(f"--{option}: is of bare samples; give --raw")
    sources, failed = find(args)

    def take(report: Report) -> None:
        for heard in report.result:
            _print(args, str(report.job.source), heard)

    silent = sys.stdout.isatty()
    return run_batch(args, plan(args, sources, []), failed, load, load(), take=take, silent=silent)[0]


def _print(args: argparse.Namespace, source: str, heard: Heard) -> None:
    text = heard.line(source)
    if args.json:
        text = json.dumps(heard.entry(source), allow_nan=False)  # in ASCII: names need not be text
    print(text, flush=True)


def _live(args: argparse.Namespace, work: Detect) -> int:
    if args.inputs != ["-"]:
        raise UsageError(
            "--raw: is for standard input alone, as in: audiomask detect - --raw s16le --key FILE"
        )
    if args.ray:
        raise UsageError("--ray: takes files; standard input stays on one machine")
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("-: samples are piped: audiomask detect - --raw s16le --key FILE < in.pcm")
    rate, channels = args.rate or 16000, args.channels or 1
    pipe = Pipe(args.raw, channels, Port("audio", channels=channels))
    samples = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal samples
        for data in chunks(sys.stdin.fileno(), READ_BYTES, exact=False):
            x = pipe.decode(data)
            samples += x.shape[1]
            yield x
        if not samples:
            raise AudioError("standard input: is empty; pipe samples into it")

    with ended_by_sigterm(sys.stdin.fileno()) as terminated:
        for heard in listen(blocks(), work.key, rate, channels, work.every):
            _print(args, "standard input", heard)
        for text in unmarkable("standard input", samples / rate, heard.silent):
            note(f"warning: {text}")
        pipe.warn(heard.cleaned, 0)
        return 128 + signal.SIGTERM if terminated.is_set() else 0
