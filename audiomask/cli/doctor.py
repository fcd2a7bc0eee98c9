"""Say what is missing or broken, and the command that mends it.

It checks Python, the packages of the core and of each extra, the formats that soundfile reads, the models
that ship, and whether a GPU and a C compiler are there. The exit code is 1 where something that is
installed does not work; an extra that is absent is no fault.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from audiomask import __version__
from audiomask.cli import Adder
from audiomask.cli._common import table

OK, ABSENT, BROKEN = "ok", "absent", "broken"
MALICIOUS = {("pytorch-lightning", "2.6.2"), ("pytorch-lightning", "2.6.3")}


@dataclass(frozen=True)
class Finding:
    """A line of the report: what was checked, its state, and what to do about it."""

    what: str
    state: str
    detail: str = ""
    remedy: str = ""


def _requirements() -> Iterator[tuple[str, str | None, str]]:
    """Yield (package, extra or None for the core, least version or "") of this installation."""
    for line in importlib.metadata.requires("audiomask") or []:
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?([^;]*)(?:;\s*extra == [\"']([\w-]+)[\"'])?", line)
        if match and match[1] != "audiomask":
            least = re.search(r">=\s*([\w.]+)", match[2])
            yield match[1], match[3], least[1] if least else ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:4])


def _imports(package: str) -> str:
    """Return why a package cannot be imported, else ""; in its own process, as some crash."""
    modules = {"scikit-learn": "sklearn", "torchaudio": "audiomask.frontend.torchaudio_import"}
    module = modules.get(package, package.replace("-", "_"))
    run = subprocess.run(
        [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=120
    )
    return "" if run.returncode == 0 else (run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1]


def _package(name: str, extra: str | None, least: str, deep: bool) -> Finding:
    want = f"{name}>={least}" if least else name
    install = f"pip install 'audiomask[{extra}]'" if extra else f"pip install '{want}'"
    what = f"{name} ({extra})" if extra else name
    try:
        have = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(what, ABSENT if extra else BROKEN, "not installed", install)
    upgrade = f"pip install --upgrade '{want}'"
    if (name, have) in MALICIOUS:
        remedy = f"{upgrade}, and change your secrets"
        return Finding(what, BROKEN, f"{have} was published with malicious code", remedy)
    if least and _version(have) < _version(least):
        return Finding(what, BROKEN, f"{have}, needs {least} or newer", upgrade)
    if deep and (why := _imports(name)):
        remedy = f"pip install --force-reinstall '{want}'"
        if "PortAudio library not found" in why:  # the wheels for macOS and Windows bring it along
            remedy = "apt-get install libportaudio2, or your system's PortAudio"
        return Finding(what, BROKEN, f"{have}: {why}", remedy)
    return Finding(what, OK, have)


def _compiler() -> Finding:
    what = "C compiler for pesq"
    if importlib.util.find_spec("pesq") or any(map(shutil.which, ("cc", "gcc", "clang", "cl"))):
        return Finding(what, OK, shutil.which("cc") or "not needed: pesq is installed")
    return Finding(what, ABSENT, "none found", "apt-get install gcc python3-dev, or your system's")


def _formats() -> Finding:
    import soundfile

    have = set(soundfile.available_formats())
    lacking = {"WAV", "FLAC", "OGG", "MP3", "RF64"} - have
    version = soundfile.__libsndfile_version__
    if "OPUS" not in soundfile.available_subtypes("OGG"):
        lacking.add("OPUS")
    if lacking:
        remedy = "pip install --upgrade soundfile, which brings a libsndfile of its own"
        why = f"libsndfile {version} without {', '.join(sorted(lacking))}"
        return Finding("audio formats", BROKEN, why, remedy)
    return Finding("audio formats", OK, f"libsndfile {version}")


def _models() -> Finding:
    import numpy as np

    from audiomask.runtime.catalogue import shipped
    from audiomask.runtime.player import Player

    what, remedy, artifacts = "shipped models", "pip install --force-reinstall audiomask", shipped()
    if not artifacts:
        return Finding(what, BROKEN, "none found", remedy)
    for artifact in artifacts:
        player = Player(artifact)
        shape = player.channels, int(artifact.sample_rate * player.first.rate)  # a second
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.1
        made = player.feed(x if player.first.type == "pcm" else np.zeros(shape)), player.flush()
        if player.faults or not all(any(y[name].shape[1] for y in made) for name in made[0]):
            return Finding(what, BROKEN, f"{artifact.name} fails", remedy)
    return Finding(what, OK, ", ".join(artifact.name for artifact in artifacts))


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        why = "torch is not installed; training only"
        return Finding("GPU", ABSENT, why, "pip install 'audiomask[train]'")
    import torch

    if torch.cuda.is_available():
        names = map(torch.cuda.get_device_name, range(torch.cuda.device_count()))
        return Finding("GPU", OK, ", ".join(names))
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        remedy = "reinstall torch from the index for your CUDA: pytorch.org, Get started"
        return Finding("GPU", BROKEN, "a GPU is here, but this torch is built for the CPU only", remedy)
    return Finding("GPU", ABSENT, "none; training runs on the CPU")


def examine(deep: bool = True) -> list[Finding]:
    """Return everything that `audiomask doctor` reports; `deep` also imports each package."""
    python = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 11)
    findings = [Finding("Python", BROKEN if old else OK, python, "install Python 3.11 or newer" * old)]
    findings += [_package(name, extra, least, deep) for name, extra, least in _requirements()]
    for check in (_compiler, _formats, _models, _gpu):
        try:
            findings.append(check())
        except Exception as error:  # a doctor who faints helps nobody
            why = f"{type(error).__name__}: {error}"
            findings.append(Finding(check.__name__.strip("_"), BROKEN, why, "see above"))
    return findings


def add_arguments(add: Adder) -> None:
    add("--quick", "do not import the packages")
    add("--json", "for programs")


def run(args: argparse.Namespace) -> int:
    findings = examine(deep=not args.quick)
    code = int(any(finding.state == BROKEN for finding in findings))
    if args.json:
        print(json.dumps({"audiomask": __version__, "findings": [asdict(f) for f in findings]}, indent=2))
        return code
    rows = [(f.what, f.state, f.detail) for f in findings]
    print(f"audiomask {__version__}\n")
    print(table(("what", "state", "detail"), rows))
    remedies = {f.remedy: f for f in reversed(findings) if f.remedy}
    heads = {BROKEN: "To mend what is broken:", ABSENT: "To add what is absent, if you need it:"}
    for state, head in heads.items():
        if lines := sorted(remedy for remedy, finding in remedies.items() if finding.state == state):
            print(f"\n{head}\n" + "\n".join(f"  {line}" for line in lines))
    return code
