"""denoise a live pipe of samples from standard input to standard output

Bare interleaved samples go in and as many come out, aligned, each as soon as the model has it: after the
latency that is shown at the start. It plays with ffmpeg, sox and gstreamer:

  ffmpeg -i in.mp4 -f s16le -ar 48000 -ac 1 - |
    audiomask stream --rate 48000 | aplay -f S16_LE -r 48000

With --packets the input is records, of which some may be missing, late, double or in a wrong order: a number
of 4 bytes, the length of the samples in bytes in 2, both little-endian, and the samples of one packet. Every
packet's place comes out, --jitter and the model's delay later; docs/conceal.md.

The end of the input and SIGTERM end it alike: what has been read comes out to its last sample, and the exit
code is 0 or 143. It is 141 when the reader leaves, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from audiomask.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioError
from audiomask.cli import Terminated, UsageError
from audiomask.cli._common import add_model_arguments, controls, note, positive, refuse_told
from audiomask.runtime.artifact import choose, resolve
from audiomask.runtime.packets import RECORD, JitterBuffer, shape
from audiomask.runtime.pcm import FORMATS, Pcm
from audiomask.runtime.session import Session

READ_BYTES = 65536  # a pipe's usual capacity; a read returns what is there, so this adds no delay
GRACE_S = 5  # after SIGTERM for a reader to take the rest; supervisors kill after 10 or more
LIVE_MS = 500  # a conversation bears no more: ITU-T G.114 calls 400 ms one way unacceptable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--rate", type=positive, default=16000, metavar="HZ", help="of the samples (default 16000)"
    )
    parser.add_argument(
        "--channels", type=positive, metavar="N", help="interleaved (default: what the model takes, mostly 1)"
    )
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="s16le",
        help="of the samples, in and out (default s16le)",
    )
    parser.add_argument(
        "--block",
        type=float,
        metavar="MS",
        help="work on blocks of this length (default: whatever has arrived)",
    )
    parser.add_argument(
        "--packets", type=float, metavar="MS", help="the input is numbered packets of this length"
    )
    parser.add_argument(
        "--jitter",
        type=float,
        metavar="MS",
        help="how long a packet is waited for, with --packets (default 60)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show model and latency")


def run(args: argparse.Namespace) -> int:
    if not MIN_RATE <= args.rate <= MAX_RATE:
        raise UsageError(f"--rate {args.rate}: is outside {MIN_RATE} to {MAX_RATE} Hz")
    if args.channels and args.channels > MAX_CHANNELS:
        raise UsageError(f"--channels {args.channels}: are more than {MAX_CHANNELS}")
    if args.block is not None and not 0 < args.block <= 60_000:
        raise UsageError(f"--block {args.block}: is outside 0 to 60000 ms")
    if args.packets is None and args.jitter is not None:
        raise UsageError(f"--jitter {args.jitter:g}: is for packets; give --packets MS")
    if args.packets is not None and args.block is not None:
        raise UsageError(f"--block {args.block:g}: packets are the blocks; leave it out")
    if sys.stdin is None or sys.stdout is None:
        raise UsageError("standard input and output must be open")
    if sys.stdin.isatty() or sys.stdout.isatty():
        raise UsageError(
            "samples are piped: audiomask stream < in.pcm > out.pcm; for files use audiomask enhance"
        )
    # From here on: an exception while ONNX Runtime is imported would become an error of its own.
    with ended_by_sigterm(sys.stdin.fileno()) as terminated:
        _pipe(args)
        return 128 + signal.SIGTERM if terminated.is_set() else 0


def _pipe(args: argparse.Namespace) -> None:
    family = resolve(args.model, task="enhance" if args.packets is None else "conceal")
    if args.packets is None:
        refuse_told(family, "give --packets MS and numbered packets")
    session = Session(
        choose(family, args.rate),
        sample_rate=args.rate,
        channels=args.channels,
        threads=args.threads,
        dry=args.dry,
        controls=controls(args),
    )
    ms = 1000 / args.rate
    channels = f"{session.channels} channels" + f" to {session.outputs}" * (
        session.outputs < session.channels
    )
    note(
        f"{session.artifact.name}, {args.rate} Hz, {channels}, {args.format}; latency "
        f"{session.latency * ms:.1f} ms (delay {session.delay * ms:.1f} + hop {session.hop * ms:.1f})",
        quiet=args.quiet,
    )
    if session.latency * ms > LIVE_MS:
        late = f"{session.latency * ms / 1000:.1f} s late"
        note(
            f"{session.artifact.name} needs what comes after a sound and is {late}; to talk through it, "
            "take a causal model (audiomask models)",
            quiet=args.quiet,
        )
    pipe = Pipe(args.format, session.channels)
    if args.packets is not None:
        _packets(args, session, pipe)
        return
    size = READ_BYTES if args.block is None else max(1, round(args.block / ms)) * pipe.frame
    for data in chunks(sys.stdin.fileno(), size, exact=args.block is not None):
        pipe.write(sys.stdout.fileno(), session.feed(pipe.decode(data)))
    pipe.write(sys.stdout.fileno(), np.atleast_2d(session.flush()))
    pipe.report(session)


def _packets(args: argparse.Namespace, session: Session, pipe: Pipe) -> None:
    """As the rest of `_pipe`, of records."""
    try:
        size, depth = shape(args.packets, 60.0 if args.jitter is None else args.jitter, args.rate)
    except ValueError as error:
        raise UsageError(str(error)) from None
    length, ms = size * pipe.frame, 1000 / args.rate
    if length > 65535:
        raise UsageError(f"--packets {args.packets:g}: are {length} bytes; a record holds 65535")
    lag = session.lag_of(size)
    note(
        f"packets of {size * ms:g} ms; delay {(depth * size + lag) * ms:.1f} ms (jitter "
        f"{depth * size * ms:g} + model {lag * ms:.1f})",
        quiet=args.quiet,
    )
    if not session.artifact.lost:
        note(f"{session.artifact.name} is not told of losses; it gets silence for them", quiet=args.quiet)
    buffer, waiting = JitterBuffer(depth, size / args.rate), bytearray()

    def play(payloads: list[bytes | None]) -> None:
        if payloads:
            lost = np.repeat([payload is None for payload in payloads], size)
            x = pipe.decode(b"".join(payload or bytes(length) for payload in payloads))
            pipe.write(sys.stdout.fileno(), session.feed(x, lost))

    for data in chunks(sys.stdin.fileno(), READ_BYTES, exact=False):
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
    pipe.write(sys.stdout.fileno(), np.atleast_2d(session.flush()))
    if waiting:
        note(f"warning: standard input: the last {len(waiting)} bytes were no whole packet; dropped")
    pipe.report(session)
    note(str(buffer.counts), quiet=args.quiet)


@contextmanager
def ended_by_sigterm(fd: int) -> Iterator[threading.Event]:
    """SIGTERM becomes the end of the input ``fd``. A second one, or `GRACE_S` in which nobody takes the rest,
    raises `Terminated`."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated  # signals are somebody else's
        return

    def at_once(number, frame):
        raise Terminated

    def end(number, frame):
        terminated.set()
        signal.signal(signal.SIGTERM, at_once)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, at_once)
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
    """Bytes as they come, at most ``size``; ``exact``: collect that many, except at the end."""
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


class Pipe(Pcm):
    """Samples of a pipe; a frame cut by a block border waits for the rest of it."""

    _waiting = b""

    def decode(self, data: bytes) -> np.ndarray:  # type: ignore[override]
        data = self._waiting + data
        whole = len(data) // self.frame * self.frame
        self._waiting = data[whole:]
        return super().decode(data[:whole])

    def write(self, fd: int, y: np.ndarray) -> None:
        """Everything, at once: no buffer may hold live sound back. Errors: BrokenPipeError if nobody
        reads."""
        data = memoryview(self.encode(y))
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BrokenPipeError:
                raise
            except OSError as error:
                raise AudioError(
                    f"standard output: cannot be written ({error.strerror}); make room"
                ) from None

    def warn(self, cleaned: int, faults: int) -> None:
        """Of what came in."""
        if self._waiting:
            note(f"warning: standard input: the last {len(self._waiting)} bytes were no whole frame; dropped")
        if cleaned:
            note(f"warning: standard input: {cleaned} samples were NaN or infinite and were set to 0")
        if faults:
            note(f"warning: the model failed in {faults} blocks, which were muted")

    def report(self, session: Session) -> None:
        self.warn(session.cleaned, session.faults)
        if self.clipped:
            note(f"warning: standard output: {self.clipped} samples beyond full scale were cut; try f32le")
