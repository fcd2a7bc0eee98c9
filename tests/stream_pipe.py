"""Run `audiomask stream` between two pipes."""

import subprocess
import sys


def stream(model, *words, **options):
    words = [sys.executable, "-m", "audiomask", "stream", "-m", str(model), *words]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, **options
    )


def pipe(model, data, *words):
    process = stream(model, *words)
    out, err = process.communicate(data, timeout=60)
    assert b"Traceback" not in err
    return process.returncode, out, err.decode()
