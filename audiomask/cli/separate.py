"""Separate recordings into their sounds: speech, music and effects, or the parts of a song.

Inputs, outputs and errors are those of audiomask enhance. Each sound is a file, DIR/INPUT/STEM.wav, of the
input's rate, channels, length and level; without -o, INPUT is a folder beside the input:

  audiomask separate film.wav -o stems                          # stems/film/speech.wav, music, effects
  audiomask separate song.wav -o stems --stems vocals,drums     # by a model that has these
  audiomask separate song.wav -o stems --two-stems vocals       # vocals.wav, and no_vocals.wav
  audiomask separate song.wav -o stems --exact                  # stems that sum to the song
  audiomask separate song.wav -o quiet.wav --gains vocals=-20   # the song, with its vocals turned down

--gains turns stems within the input, in decibels (-inf to 24); what belongs to no stem stays. With --raw,
bare samples go through a pipe, for --gains or one stem:

  ffmpeg -i in.mp4 -f s16le -ar 48000 -ac 2 - |
    audiomask separate - --raw s16le --rate 48000 --channels 2 --gains music=-inf > out.pcm
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from functools import partial

from audiomask.cli import Adder, UsageError
from audiomask.cli._codec import output_of
from audiomask.cli._common import add_model_arguments, parse_gains
from audiomask.cli._files import add_batch_arguments, add_output_arguments, run_sounds
from audiomask.cli._pipe import add_raw_arguments, run_raw
from audiomask.runtime.files.batch import Job
from audiomask.runtime.files.play import Options
from audiomask.runtime.files.separated import RESIDUAL, Separate, Wanted


def add_arguments(add: Adder) -> None:
    out = "folder of INPUT/STEM.wav (default: beside the input); a file or - for one sound"
    add_batch_arguments(add, "file, folder, glob, .scp, data directory or -", out)
    kind = add.exclusive()
    kind("--stems NAME,NAME", "write these only, by the model that has them")
    kind("--two-stems NAME", "write this one, and no_NAME: the input without it")
    kind("--gains NAME=DB,NAME=DB", "write the input with these stems turned", action="append")
    exact = "stems that sum to the input: what is left is one more file, or (default) shared by energy"
    add("--exact residual|shared", exact, nargs="?", const="shared", choices=(RESIDUAL, "shared"))
    add_model_arguments(add, controls=False)
    add_output_arguments(add, "the input's", "{stem}/{source}.{ext}, with --gains as of audiomask enhance")
    add_raw_arguments(add)


def run(args: argparse.Namespace) -> int:
    wanted = _wanted(args)
    one = wanted.gains is not None or (len(wanted.stems) == 1 and wanted.rest is None)
    args.out = output_of(args) if one else args.out
    same = {name: getattr(args, name) for name in ("subtype", "clip", "rate", "threads")}
    load = partial(Separate, args.model, Options(overwrite=args.force, **same), wanted)
    if args.raw:
        if not one or wanted.exact:
            raise UsageError("--raw: a pipe takes one sound; give --gains, or --stems with one")
        work, example = load(), "separate - --raw s16le --gains NAME=DB < in.pcm > out.pcm"
        how = {"output": wanted.stems} if wanted.gains is None else {"gains": wanted.gains}
        return run_raw(args, work.family, example, **how)
    if args.channels is not None:
        raise UsageError("--channels: is of bare samples; give --raw")
    own = wanted.gains is None and not args.filename
    args.filename = "{stem}/{source}.{ext}" if own else args.filename
    args.chooses = "--stems"
    jobs: list[Job] = []

    def seen(found: list[Job]) -> list[Job]:
        jobs.extend(found)
        return found

    try:
        return run_sounds(args, load, seen)[0]
    finally:
        for job in jobs if own else ():
            with suppress(OSError):  # unless there is something in it
                job.output.parent.rmdir()


def _wanted(args: argparse.Namespace) -> Wanted:
    if args.gains:
        if args.exact:
            raise UsageError("--exact: is of stems; leave out --gains, which changes their sum")
        return Wanted(gains=parse_gains(args.gains))
    if args.two_stems is not None:
        return Wanted((args.two_stems,), f"no_{args.two_stems}", exact=bool(args.exact))
    stems = [name.strip() for name in (args.stems or "").split(",")]
    if args.stems is not None and not all(stems):
        raise UsageError(f"--stems {args.stems}: expected names, as in --stems vocals,drums")
    stems = [*dict.fromkeys(filter(None, stems))]
    rest = RESIDUAL if args.exact == RESIDUAL else None
    return Wanted(tuple(stems), rest, shared=args.exact == "shared", exact=bool(args.exact))
