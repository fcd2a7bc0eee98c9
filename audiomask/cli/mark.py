"""Mark recordings with a message that only the holder of a key can find, and nobody hears.

Inputs, outputs and errors are those of audiomask enhance. The mark lies below what the ear hears beside the
sound, and audiomask detect finds it by the key. A message is 16 bits, 1 to 4 hex digits:

  audiomask mark --new-key me.key                                  # once; keep it, and keep it secret
  audiomask mark talk.wav -o marked.wav --message beef --key me.key
  audiomask mark talks/ -o marked/ --messages messages.txt --key me.key

messages.txt has a line NAME HEX for each recording: its file, with or without the folder and the suffix, or
its key of Kaldi's. With --raw, bare samples go through a pipe and each leaves as soon as it is marked:

  ffmpeg -i in.mp4 -f s16le -ar 48000 -ac 2 - |
    audiomask mark - --raw s16le --rate 48000 --channels 2 --message beef --key me.key > marked.pcm

docs/watermark.md says what a mark survives, and what it cannot prove.
"""

from __future__ import annotations

import argparse
import os
from functools import partial

from audiomask.audio import AudioError
from audiomask.cli import Adder, UsageError
from audiomask.cli._codec import output_of
from audiomask.cli._common import add_model_arguments, note
from audiomask.cli._files import add_batch_arguments, add_output_arguments, run_sounds
from audiomask.cli._pipe import add_raw_arguments, run_raw
from audiomask.runtime.files.marked import Mark, parse_message, read_messages, unmarkable
from audiomask.runtime.files.play import Options
from audiomask.runtime.marks.carrier import read_key, write_key


def add_arguments(add: Adder) -> None:
    inputs = "file, folder, glob, .scp, data directory or -"
    add_batch_arguments(add, inputs, "file, folder or - (default: beside the input)", nargs="*")
    add("--key FILE", "the key: 32 hex digits")
    add("--new-key FILE", "make a key, and end")
    message = add.exclusive()
    message("--message HEX", "1 to 4 hex digits, the same for all inputs", type=_message)
    message("--messages FILE", "a table of lines NAME HEX, a message for each input")
    add(
        "--strength S", "gain of the mark (default 1): louder ones survive more, and may be heard", type=float
    )
    add_model_arguments(add, controls=False)
    add_output_arguments(add, "the input's")
    add_raw_arguments(add)


def _message(text: str) -> int:
    try:
        return parse_message(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    if args.new_key:
        return _new_key(args)
    if not args.inputs:
        raise UsageError(
            "name what is to be marked, as in: audiomask mark talk.wav --message beef --key FILE"
        )
    if not args.key:
        raise UsageError("say by which key with --key FILE; audiomask mark --new-key FILE makes one")
    if args.message is None and args.messages is None:
        raise UsageError("say what the mark is to say: --message HEX, or --messages FILE for one each")
    args.out = output_of(args)
    if args.raw:
        return _live(args)
    if args.channels is not None:
        raise UsageError("--channels: is of bare samples; give --raw")
    messages = args.message if args.messages is None else read_messages(args.messages)
    load = partial(Mark, args.model, read_key(args.key), messages, _options(args), args.messages or "")
    return run_sounds(args, load)[0]


def _new_key(args: argparse.Namespace) -> int:
    if args.inputs:
        raise UsageError(
            f"--new-key {args.new_key}: makes a key and marks nothing; leave out {args.inputs[0]}"
        )
    if os.path.lexists(args.new_key) and not args.force:
        raise AudioError(
            f"{args.new_key}: exists already, and without an old key its marks cannot be found; give another "
            "name, or -f to overwrite it"
        )
    write_key(args.new_key, overwrite=args.force)
    note(f"{args.new_key}: who has it can find, make and forge its marks; keep it secret", quiet=args.quiet)
    return 0


def _options(args: argparse.Namespace) -> Options:
    controls = {} if args.strength is None else {"strength": args.strength}
    same = {name: getattr(args, name) for name in ("subtype", "clip", "rate", "threads")}
    return Options(controls=controls, overwrite=args.force, **same)


def _live(args: argparse.Namespace) -> int:
    if args.messages:
        raise UsageError("--messages: is of files; leave out --raw")
    work = Mark(args.model, read_key(args.key), args.message, _options(args))
    example = "mark - --raw s16le --message HEX --key FILE < in.pcm > out.pcm"
    warnings = partial(unmarkable, "standard input")
    return run_raw(args, work.family, example, warnings, controls=work.controls_of(args.message))
