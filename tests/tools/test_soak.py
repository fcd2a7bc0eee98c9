"""tools/bench/soak.py: minutes in every run of the tests, ten hours with `pytest -m nightly`."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import resolve
from audiomask.runtime.session import Session

TOOL = Path(__file__).parents[2] / "tools/bench/soak.py"


@pytest.fixture(scope="module")
def tool():
    folder = str(Path(__file__).parents[2] / "tools/bench")
    sys.path.insert(0, folder)
    yield importlib.import_module("soak")
    sys.path.remove(folder)


@pytest.mark.parametrize(
    ("name", "options", "seconds"),
    [("toy", ("--rate", "44100", "--channels", "2"), 40), ("sieve_16k", (), 180)],
)
def test_minutes(toy16, name, options, seconds):
    """In a process of its own: its memory is measured, and other tests leave theirs behind."""
    model = str(toy16) if name == "toy" else name
    words = [sys.executable, TOOL, "--model", model, "--hours", str(seconds / 3600), "--json", *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts["failures"] == []
    assert facts["fed"] == seconds * facts["sample_rate"] == facts["returned"]
    assert facts["blocks"] > 5 * seconds
    assert facts["peak"] > 0.1
    assert facts["latest"] > facts["latency"] // 2


@pytest.mark.nightly
@pytest.mark.timeout(6 * 3600)
def test_ten_hours(tool):
    artifact = resolve("sieve_16k")[0]
    assert tool.failures(tool.soak(lambda: Session(artifact), 36_000)) == []


def drop(session, y):
    return y[:, 1:] if session._given["audio"] == 16000 * 10 else y


def repeat(session, y):
    return np.concatenate((y, y[:, -1:]), axis=1) if session._given["audio"] == 16000 * 10 else y


def bend(session, y):
    return y * np.float32(1.001) if session._given["audio"] > 16000 * 15 else y


def poison(session, y):
    return y * np.float32("nan") if session._given["audio"] == 16000 * 10 else y


def hold(session, y):
    """Everything comes 200 samples later."""
    late = np.concatenate((getattr(session, "late", np.zeros((1, 200), np.float32)), y), axis=1)
    y, session.late = late[:, : y.shape[1]], late[:, y.shape[1] :]
    return y


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (drop, "319999 came out"),
        (repeat, "320001 came out"),
        (bend, "differ by"),
        (poison, "differ by"),
        (hold, "differ by"),
    ],
)
def test_it_finds_what_it_looks_for(tool, toy16, harm, words):
    artifact, made = Artifact.load(toy16), []

    class Harmed(Session):
        def feed(self, block):
            return harm(self, super().feed(block))

    def make():
        made.append((Session if made else Harmed)(artifact))
        return made[-1]

    assert words in " ".join(tool.failures(tool.soak(make, 20)))


def test_it_finds_a_leak_and_a_late_sample(tool):
    good = {"error": 0, "peak": 1, "fed": 9, "returned": 9, "returned_whole": 9, "uncompared": 0}
    good |= {"latest": 5, "latency": 5, "growth_mib": 4.9, "faults": 0}
    assert tool.failures(good) == []
    for change, words in (
        ({"growth_mib": 5.1}, "grew by 5.1 MiB"),
        ({"latest": 6}, "came 6 samples late; the latency is 5"),
        ({"faults": 1}, "failed in 1 blocks"),
        ({"error": float("nan")}, "differ by"),
        ({"uncompared": 1}, "9 samples went in"),
    ):
        assert words in " ".join(tool.failures(good | change))


def test_memory_is_measured(tool):
    """In a process of its own: one that has run other tests takes the block from what it has freed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, soak\n"
        "before = soak.resident_mib()\n"
        "block = np.ones(2**24, np.uint8)\n"
        "print(soak.resident_mib() - before)\n"
    )
    tools = str(Path(tool.__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, tools], capture_output=True, text=True, check=True)
    assert 14 < float(done.stdout) < 40
