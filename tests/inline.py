"""Command lines that run in this process, which has imported torch already: a process of its own costs 2 to
6 s of processor time before it does anything. For tests of what a command does; what it does as a process
(its exit by a signal, its pipes, its imports, its memory) is tested in one.
"""

import contextlib
import io
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Give back the environment, the path, the random states and the settings of torch."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(mock.patch.object(sys, "path", list(sys.path)))
        if torch := sys.modules.get("torch"):
            from pytorch_lightning.utilities.seed import isolate_rng

            stack.enter_context(isolate_rng())
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_num_threads(1)  # one order of summation
        yield


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `audiomask WORDS`, or a script where the first word is one, as `subprocess.run` with captured text
    does."""
    from audiomask.cli import main

    argv = [str(word) for word in words]
    script = argv[0] if argv[0].endswith(".py") else None
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code: object = 0
    with (
        _as_it_was(),
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", argv if script else ["audiomask", *argv]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            if script:
                sys.path.insert(0, str(Path(script).parent))
                runpy.run_path(script, run_name="__main__")
            else:
                code = main(argv)
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):  # as Python does
                print(code, file=sys.stderr)
                code = 1
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return subprocess.CompletedProcess(argv, int(code or 0), *said)
