"""Read pressed keys and redraw a status line, for verbs that run until they are told to end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def screen(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that redraws a line (two if long), where standard error is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.live import Live as Picture
    from rich.text import Text

    with Picture(console=Console(stderr=True), transient=True, auto_refresh=False) as picture:
        yield lambda text: picture.update(Text(text), refresh=True)


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Yield `key(seconds)`, which returns the key that was pressed, or "" after so long."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield _sleep
        return
    if sys.platform == "win32":
        import msvcrt

        yield lambda seconds: msvcrt.getwch() if msvcrt.kbhit() else _sleep(seconds)
        return
    import select
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def key(seconds: float) -> str:
        if not select.select([fd], [], [], seconds)[0]:
            return ""
        return os.read(fd, 1).decode("ascii", "replace") or _sleep(seconds)

    try:
        tty.setcbreak(fd)  # Ctrl-C stays a signal
        yield key
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""
