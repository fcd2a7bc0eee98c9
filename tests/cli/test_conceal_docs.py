"""docs/conceal.md: its programs run, and what it says of numbers and defaults is so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiomask.masks.packets import write_trace
from audiomask.runtime.packets import jitter_buffer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/conceal.md").read_text()


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the page's programs; returns how to run a command line in it."""
    for text in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S):
        (tmp_path / re.match(r"# (\w+\.py)\n", text)[1]).write_text(text)
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(command):
        done = subprocess.run(
            command, shell=True, env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done

    return run


def test_recordings(desk, repeat16):
    for name in ("clean.wav", "clean/a.wav", "received.wav"):
        Path(name).parent.mkdir(exist_ok=True)
        sf.write(name, np.random.default_rng(0).uniform(-0.1, 0.1, 16000), 16000)
    Path("traces").mkdir()
    write_trace("traces/a.txt", np.arange(50) % 7 == 5)
    commands = re.search(r"^## Recordings\n\n```\n(.*?)^```$", PAGE, re.M | re.S)[1].splitlines()
    assert len(commands) == 5
    for command in commands:
        words = command.partition("#")[0]
        model = "" if " -m " in words else f"-m {repeat16}"
        words = words.replace("audiomask", "python -m audiomask")
        assert "lost " in desk(f"{words} {model} -f").stderr
    assert Path("out/a_lossy.wav").exists()
    assert Path("losses.json").exists()


def test_programs(desk, repeat16, monkeypatch):
    assert desk(f"python told.py {repeat16}").stdout.startswith("100% of what was received")
    (command,) = re.findall(r"^python records.*$", PAGE, re.M)
    done = desk(command.replace("audiomask stream", f"python -m audiomask stream -m {repeat16}"))
    said = re.search(r"error: `(50 packets, .*?)`", PAGE, re.S)[1].replace("\n", " ")
    assert said in done.stderr
    assert Path("out.pcm").stat().st_size == 32000
    monkeypatch.syspath_prepend(".")
    from rtp import Numbers

    numbers = Numbers(65534)
    got = [numbers.number(n) for n in (65534, 65535, 1, 0, 65533, 2)]
    assert got == [65534, 65535, 65537, 65536, 65533, 65538]


def test_defaults():
    assert (jitter_buffer.PACKET_MS, jitter_buffer.JITTER_MS) == ((1, 200), (0, 2000))
    times = (jitter_buffer.LEAP_S, jitter_buffer.PAUSE_S, jitter_buffer.AGAIN_S, jitter_buffer.PATIENCE_S)
    assert times == (10, 1, 0.08, 1.5)
    for kind in jitter_buffer.Counts.__annotations__:
        assert f"`{kind}`" in PAGE
