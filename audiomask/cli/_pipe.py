"""Read and write pipes of bare samples, with SIGTERM as the end of the input."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np

from audiomask.audio import MAX_CHANNELS, AudioError
from audiomask.cli import Adder, UsageError, terminate
from audiomask.cli._common import between, note
from audiomask.ports import Port
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import choose
from audiomask.runtime.pcm import FORMATS, Pcm
from audiomask.runtime.session import Session

READ_BYTES = 65536  # a pipe's usual capacity; a read returns what is there, so this adds no delay
GRACE_S = 5  # time after SIGTERM for a reader to take the rest; supervisors kill after 10 or more


@contextmanager
def ended_by_sigterm(fd: int) -> Iterator[threading.Event]:
    """Make SIGTERM the end of the input `fd`; yield the event that it has come.

    A second SIGTERM, or `GRACE_S` in which nobody takes the rest, raises `Terminated`.
    """
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated  # signals are somebody else's
        return

    def end(number, frame):
        terminated.set()
        signal.signal(signal.SIGTERM, terminate)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, terminate)
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, fd)  # a read that waits is repeated by Python, and finds the end
        os.close(null)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield terminated
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, before)


def chunks(fd: int, size: int, *, exact: bool):
    """Yield bytes as they come, at most `size`; `exact`: collect that many, except at the end."""
    waiting = b""
    while True:
        try:
            data = os.read(fd, size - len(waiting))
        except OSError as error:
            raise AudioError(f"standard input: cannot be read ({error.strerror})") from None
        if not data:
            break
        waiting += data
        if not exact or len(waiting) == size:
            yield waiting
            waiting = b""
    if waiting:
        yield waiting


def send(fd: int, data: bytes) -> None:
    """Write everything at once: no buffer may hold live sound. BrokenPipeError if nobody reads."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise AudioError(f"standard output: cannot be written ({error.strerror}); make room") from None


def check_piped(what: str, files: str) -> None:
    """Raise `UsageError` unless standard input and output are open and no terminal."""
    if sys.stdin is None or sys.stdout is None:
        raise UsageError("standard input and output must be open")
    if sys.stdin.isatty() or sys.stdout.isatty():
        raise UsageError(f"{what} are piped: audiomask {files}")


def add_raw_arguments(add: Adder) -> None:
    """Add `--raw` and `--channels`, for bare samples in a pipe; see `run_raw`."""
    add("--raw", "standard input and output are bare samples of this format", choices=tuple(FORMATS))
    channels = between(1, MAX_CHANNELS, int)
    add(
        "--channels N",
        "of the samples of --raw, interleaved (default 1); their --rate is 16000",
        type=channels,
    )


def run_raw(
    args: argparse.Namespace,
    family: Sequence[Artifact],
    example: str,
    warnings: Callable[[float, bool], list[str]] = lambda seconds, silent: [],
    **options: Any,
) -> int:
    """Play bare samples through a `Session` with `options`, and return the exit code.

    `warnings` are of a sound's length and whether it was silent. Raises `UsageError`, with an `example` of
    the verb, unless the command line is of a pipe.
    """
    if args.inputs != ["-"] or args.out != "-":
        raise UsageError(f"--raw: is for standard input and output, as in: audiomask {example}")
    for option in ("ray", "format", "subtype", "clip", "filename"):
        if getattr(args, option):
            raise UsageError(f"--{option}: is of files; leave out --raw")
    check_piped("samples", example)
    rate, channels, fd = args.rate or 16000, args.channels or 1, sys.stdout.fileno()
    options |= {"sample_rate": rate, "channels": channels, "threads": args.threads}
    with ended_by_sigterm(sys.stdin.fileno()) as terminated:
        session = Session(choose(family, rate), **options)
        source, sink = (Pipe(args.raw, channels, port) for port in (session.first, session.ports[0]))
        form, ms = f"{rate} Hz, {channels} channels, {args.raw}", 1000 * session.latency / rate
        note(f"{session.artifact.name}, {form}; latency {ms:.1f} ms", quiet=args.quiet)
        samples, silent = 0, True
        for data in chunks(sys.stdin.fileno(), READ_BYTES, exact=False):
            x = source.decode(data)
            samples, silent = samples + x.shape[1], silent and not x.any()
            sink.write(fd, np.atleast_2d(session.feed(x)))
        sink.write(fd, np.atleast_2d(session.flush()))
        for text in warnings(samples / rate, silent):
            note(f"warning: {text}")
        source.warn(session.cleaned, session.faults)
        sink.warn_clipped()
        return 128 + signal.SIGTERM if terminated.is_set() else 0


class Pipe(Pcm):
    """A pipe of frames; a frame that is cut by a block's border waits for the rest of it."""

    _waiting = b""

    def __init__(self, format: str, channels: int, port: Port):
        super().__init__(format, channels)
        self.port, self._sound = port, port.type == "pcm"
        if not self._sound:
            self.dtype = np.dtype(f"<{port.dtype.kind}4")
            self.frame = 4 * channels
        self._format = format

    def form(self, rate: Fraction) -> str:
        """Return a description of the frames, `rate` of them a second."""
        if self._sound:
            return f"{rate} Hz, {self.channels} channels, {self._format}"
        return f"{self.port.name}, {self.channels} x {self.dtype.name}, {float(rate):g} a second"

    def decode(self, data: bytes) -> np.ndarray:  # type: ignore[override]
        if self._sound:
            self.check(data)
        data = self._waiting + data
        whole = len(data) // self.frame * self.frame
        self._waiting = data[whole:]
        if self._sound:
            return super().decode(data[:whole])
        return np.frombuffer(data[:whole], self.dtype).reshape(-1, self.channels).T

    def check(self, data: bytes) -> None:
        """Raise `AudioError` if the input so far, ending with `data`, is a file and no samples."""
        if self.begins_file(data):
            raise AudioError(
                "standard input: begins like a file, and bare samples are wanted; name the file to "
                "audiomask enhance or tag, or send its samples, as in: ffmpeg -v error -i FILE "
                f"-f {self._format} -ac {self.channels} -ar RATE - | audiomask ..."
            )

    def encode(self, y: np.ndarray) -> bytes:
        return super().encode(y) if self._sound else y.T.astype(self.dtype).tobytes()

    def write(self, fd: int, y: np.ndarray) -> None:
        """Write frames at once, see `send`."""
        send(fd, self.encode(y))

    def warn(self, cleaned: int, faults: int) -> None:
        """Say what was wrong with the input."""
        if self._waiting:
            note(f"warning: standard input: the last {len(self._waiting)} bytes were no whole frame; dropped")
        if cleaned:
            note(f"warning: standard input: {cleaned} samples were NaN or infinite and were set to 0")
        if faults:
            note(f"warning: the model failed in {faults} blocks, which were muted")

    def warn_clipped(self) -> None:
        """Say how many loud samples were cut in the output."""
        if self.clipped:
            note(f"warning: standard output: {self.clipped} samples beyond full scale were cut; try f32le")
