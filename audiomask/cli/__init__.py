"""Run `audiomask VERB ...`, one file per verb; a verb's file is imported only when it runs."""

from __future__ import annotations

import argparse
import atexit
import difflib
import gc
import importlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

from audiomask import __version__

# Static, so that --help imports nothing. A test compares it with the first lines of the verbs' docstrings.
VERBS = {
    "enhance": "denoise recordings: files, folders, globs, Kaldi data directories, standard input",
    "conceal": "conceal lost packets of recordings, with losses from a trace, a model or the sound itself",
    "separate": "separate recordings into their sounds: speech, music and effects, or the parts of a song",
    "encode": "turn recordings into a few kilobits a second: .amk files, or live packets in a pipe",
    "decode": "turn codes back into sound: .amk and .ecdc files, or packets in a pipe, damaged or not",
    "codec": "encode recordings and decode them again, to hear and measure what a bit rate leaves",
    "tag": "say what is heard: labels and probabilities of recordings, or live of a pipe of samples",
    "embed": "turn recordings into vectors: one each, or one every so often",
    "mark": "mark recordings with a message that only the holder of a key can find, and nobody hears",
    "detect": "detect marks in recordings: whether, which message, where, and how sure that is",
    "attack": "attack marked sound as the world may: codecs, noise, filters, speed, crops, rooms",
    "stream": "denoise a live pipe of samples from standard input to standard output",
    "live": "denoise a microphone live, into a loudspeaker or a virtual microphone",
    "serve": "serve models to other programs and to browsers: a websocket per live sound, and a page",
    "models": "list the models that ship, or show the card of one",
    "train": "train a model from a recipe",
    "weights": "average trained weights, or grow them into a larger network",
    "score": "measure quality: PESQ, STOI, SDR, SI-SDR, DNSMOS and more, with confidence intervals",
    "import": "take over a checkpoint of its authors: demucs, cleanunet, gtcrn, dtln and others",
    "export": "turn a trained model into one self-describing ONNX file, and check it",
    "bench": "measure speed and latency of a model on this machine",
    "probe": "judge a pretrained encoder by what its frozen features tell of labels",
    "plot": "draw recordings as spectrograms, before and after",
    "data": "validate, fix, split, import and shard Kaldi data directories",
    "doctor": "say what is missing or broken, and the command that mends it",
}

# The extra that brings each module that the core does without.
EXTRAS = {
    "train": "torch torchaudio pytorch_lightning lightning jsonargparse tensorboard safetensors onnx "
    "onnxscript pyroomacoustics sklearn webdataset yaml",
    "score": "pesq pystoi speechmos librosa scipy matplotlib",
    "live": "sounddevice",
    "media": "av",
    "serve": "starlette uvicorn websockets",
    "ray": "ray",
    "dev": "hypothesis pytest",
}


class UsageError(Exception):
    """The command line asks for something that makes no sense; exit code 2."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken like Ctrl-C so that everything on the way cleans up; exit code 143."""


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {line}" for verb, line in VERBS.items())
    return (
        "usage: audiomask VERB [options]\n\n"
        "Audio and speech by masking: offline, live, with the same result.\n\n"
        f"verbs:\n{verbs}\n\n"
        "audiomask VERB --help shows the options of a verb; audiomask --version the version.\n"
        "AUDIOMASK_DEBUG=1 shows where an error comes from.\n"
    )


def trace(error: BaseException | None) -> None:
    """Print the traceback of an error that is about to become one line, where AUDIOMASK_DEBUG=1."""
    if os.environ.get("AUDIOMASK_DEBUG") != "1":
        return
    link = error
    while link is not None:  # its causes are hidden from users, not from those who ask for them
        link.__suppress_context__ = False
        link = link.__cause__ or link.__context__
    traceback.print_exception(error)


def _say(text: str, error: BaseException | None = None) -> None:
    trace(error)
    print(f"audiomask: error: {text}", file=sys.stderr)


def _missing(verb: str, error: ModuleNotFoundError) -> str:
    top = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if top in modules.split():
            return f"{verb}: needs {top}, which is not installed; pip install 'audiomask[{extra}]'"
    return f"{verb}: cannot import {error.name}; install audiomask again"


def terminate(number: int, frame: FrameType | None) -> None:
    """Raise `Terminated`, for a signal."""
    raise Terminated


class Adder:
    """A declarer of a parser's or a group's options: `add("-o --out FILE", "help", type=Path)`.

    The first words are the argument's names, the others its metavar, or its choices: `{png,pdf}`. An option
    without a metavar or settings is a switch. A default gives the type, and is named in the help if that
    does not speak of one. `action="append"` collects values in a list, which is empty at first.
    """

    def __init__(self, parser: Any):
        self.parser = parser

    def __call__(self, form: str, help: str = "", **how: Any) -> None:
        words = form.split()
        names = [word for word in words if word.startswith("-")] or words[:1]
        metavar = tuple(words[len(names) :])
        if metavar and metavar[0].startswith("{"):
            how["choices"] = tuple(metavar[0].strip("{}").split(","))
        elif metavar:
            how["metavar"] = metavar[0] if len(metavar) == 1 else metavar
        elif not how and form.startswith("-"):
            how["action"] = "store_true"
        if how.get("action") == "append":
            how.setdefault("default", [])
        elif "default" in how:
            default = how["default"]
            if not isinstance(default, list | tuple):
                how.setdefault("type", type(default))
                default = [default]
            if "default" not in help:
                values = " ".join(str(value).removesuffix(".0") for value in default)
                help = f"{help} (default {values})".lstrip()
        self.parser.add_argument(*names, help=help or None, **how)

    def exclusive(self, required: bool = False) -> Adder:
        """Return the declarer of options of which one may be given."""
        return Adder(self.parser.add_mutually_exclusive_group(required=required))

    def actions(self, metavar: str) -> Callable[..., Adder]:
        """Return `action("name", "help", **defaults)`, which returns the declarer of a new action."""
        actions = self.parser.add_subparsers(metavar=metavar, required=True)

        def action(name: str, help: str, **defaults: Any) -> Adder:
            made = actions.add_parser(name, help=help, description=help)
            made.set_defaults(**defaults)
            return Adder(made)

        return action


def parser(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """Return the argument parser of a verb; its module's docstring is the help text."""
    text = (module.__doc__ or "").strip()
    made = argparse.ArgumentParser(
        prog=f"audiomask {verb}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(Adder(made))
    return made


def _speakable() -> None:
    """Make standard output and error take whatever is printed, closed ones (`2>&-`) too.

    A closed one would get the next file that is opened, and messages with it; names of files may have bytes
    that are no text, and letters that a narrow code page lacks.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 failed, 2 usage, 128 + n for a signal."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _speakable()
    atexit.register(gc.freeze)  # else the exit looks for garbage, a tenth of a short run's time
    verb = argv[0] if argv else ""
    if verb in ("-h", "--help", "help", ""):
        print(_help(), end="", file=sys.stdout if verb else sys.stderr)
        return 0 if verb else 2
    if verb in ("-V", "--version", "version"):
        print(f"audiomask {__version__}")
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        _say(
            f"unknown verb {verb!r}; "
            + (f"did you mean {near[0]}?" if near else "audiomask --help lists them")
        )
        return 2
    if threading.current_thread() is not threading.main_thread():
        return _run(verb, argv[1:])  # signals are somebody else's
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        return _run(verb, argv[1:])
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(verb: str, argv: list[str]) -> int:
    try:
        return _verb(verb, argv)
    except Terminated:  # these two may come at any time, while modules are imported too
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("audiomask: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _verb(verb: str, argv: list[str]) -> int:
    if verb in (
        "enhance",
        "conceal",
        "separate",
        "encode",
        "decode",
        "codec",
        "tag",
        "embed",
        "mark",
        "detect",
        "attack",
        "stream",
        "live",
        "serve",
        "bench",
    ):
        # One thread per stream: numpy's linear algebra would take every core for the rate conversion.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from audiomask.audio import AudioError, AudioWarning

    def warned(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, AudioWarning):  # of a recording, not of a line of our code
            print(f"audiomask: warning: {message}", file=sys.stderr)
        else:
            usual(message, category, *where)

    usual = warnings.showwarning
    try:
        with warnings.catch_warnings():
            warnings.showwarning = warned  # type: ignore[assignment]
            module = importlib.import_module(f"audiomask.cli.{verb}")
            return module.run(parser(verb, module).parse_args(argv)) or 0
    except UsageError as error:
        _say(f"{verb}: {error}", error)
        return 2
    except AudioError as error:
        _say(str(error), error)
        return 1
    except ModuleNotFoundError as error:
        _say(_missing(verb, error), error)
        return 1
    except BrokenPipeError:
        # The reader of our output left; Python would complain again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
