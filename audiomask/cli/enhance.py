"""Denoise recordings: files, folders, globs, Kaldi data directories, standard input.

The output has the input's length, channels and format and is aligned with it; it has its rate too, unless the
model makes another. A model for a microphone array takes files of a channel per microphone and makes one
channel of them. Without -o it is written beside the input; with -o it goes to a file (one input), into a
folder (which mirrors the input's), or with '-o -' to standard output. A bad file does not stop the others:
failures are listed at the end, and the exit code is 1.

Any model runs: a model of several sounds writes a file for each, NAME_SOURCE.wav; codes and bits go to
NAME.npz, which a model that decodes them takes as input; probabilities go to NAME.jsonl, text to NAME.txt.
"""

from __future__ import annotations

import argparse
from functools import partial

from audiomask.cli._common import refuse_told, refuse_unset
from audiomask.cli._files import add_sound_arguments, run_sounds, sound_options
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.files.play import Enhance, Options

add_arguments = add_sound_arguments


def run(args: argparse.Namespace) -> int:
    return run_sounds(args, partial(work, args.model, sound_options(args)))[0]


def work(model: str | None, options: Options) -> Enhance:
    """Return the work of the verb; `UsageError` for a model that has to be informed of losses."""
    family = resolve(model)
    refuse_told(family, "use audiomask conceal")
    refuse_unset(family, options.controls)
    return Enhance(family, options)
