"""`audiomask doctor` names what is missing or broken, and what mends it."""

import importlib.metadata
import json

import pytest
import small_artifacts

from audiomask.cli import EXTRAS, doctor
from audiomask.cli.doctor import ABSENT, BROKEN, OK
from audiomask.runtime import catalogue
from audiomask.runtime.artifact import Artifact


@pytest.fixture
def versions(monkeypatch):
    """`versions[package] = "1.2"` or None changes what seems to be installed."""
    changed, real = {}, importlib.metadata.version

    def version(name):
        if name in changed:
            if changed[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return changed[name]
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return changed


def found(what):
    return next(f for f in doctor.examine(deep=False) if f.what == what)


def test_a_sound_installation_passes(cli):
    done = cli("doctor", "--quick", "--json")
    assert done.code == 0
    findings = {f["what"]: f for f in json.loads(done.out)["findings"]}
    for what in ("Python", "numpy", "onnxruntime", "audio formats", "shipped models"):
        assert findings[what]["state"] == OK, findings[what]
    assert "sieve_16k" in findings["shipped models"]["detail"]


def test_every_extra_is_looked_at():
    extras = {f.what.partition("(")[2].rstrip(")") for f in doctor.examine(deep=False)} - {""}
    assert extras >= set(EXTRAS) - {"all"}


def test_an_absent_extra_is_no_fault(cli, versions):
    versions["sounddevice"] = None
    assert found("sounddevice (live)").state == ABSENT
    done = cli("doctor", "--quick")
    assert done.code == 0
    assert "pip install 'audiomask[live]'" in done.out


@pytest.mark.parametrize(
    ("package", "version", "words", "remedy"),
    [
        ("numpy", None, "not installed", "pip install 'numpy>={least}'"),
        ("onnxruntime", "1.9.0", "needs {least} or newer", "pip install --upgrade 'onnxruntime>={least}'"),
        ("pytorch-lightning", "2.6.3", "malicious", "change your secrets"),
        ("torch", "2.9.1+cpu", "needs {least} or newer", "pip install --upgrade 'torch>={least}'"),
    ],
)
def test_what_is_broken_is_named_with_its_remedy(cli, versions, package, version, words, remedy):
    versions[package] = version
    least = next(least for name, _, least in doctor._requirements() if name == package)
    done = cli("doctor", "--quick")
    assert done.code == 1
    assert words.format(least=least) in done.out
    assert remedy.format(least=least) in done.out


def test_a_package_that_does_not_import_is_broken(monkeypatch):
    monkeypatch.setattr(doctor, "_imports", lambda name: "OSError: lib is missing" if name == "soxr" else "")
    finding = next(f for f in doctor.examine() if f.what == "soxr")
    assert finding.state == BROKEN
    assert "lib is missing" in finding.detail


def test_a_sound_library_that_is_absent_is_named(monkeypatch):
    gone = "OSError: PortAudio library not found"
    monkeypatch.setattr(doctor, "_imports", lambda name: gone if name == "sounddevice" else "")
    finding = next(f for f in doctor.examine() if f.what == "sounddevice (live)")
    assert finding.state == BROKEN
    assert gone in finding.detail
    assert "apt-get install libportaudio2" in finding.remedy


def test_an_import_is_tried_in_a_process_of_its_own():
    assert doctor._imports("json") == ""
    assert "ModuleNotFoundError" in doctor._imports("no_such_package")


def test_newer_is_newer():
    assert doctor._version("2.13.0+cpu") > doctor._version("2.9.1")
    assert doctor._version("1.23") == (1, 23)


def test_a_check_that_fails_is_reported(monkeypatch):
    def fail():
        raise OSError("libsndfile not found")

    monkeypatch.setattr(doctor, "_formats", fail)
    finding = next(f for f in doctor.examine(deep=False) if "libsndfile not found" in f.detail)
    assert finding.state == BROKEN


def test_parts_of_a_codec_are_tried_too(tmp_path, monkeypatch):
    """The doctor fed them a row of sound, and took an encoder that owes nothing at the end for broken."""
    parts = [
        Artifact.load(small_artifacts.build(tmp_path, name, small_artifacts.PLAIN))
        for name in ("encoder", "decoder")
    ]
    monkeypatch.setattr(catalogue, "shipped", lambda: parts)
    assert doctor._models() == doctor.Finding("shipped models", OK, ", ".join(part.name for part in parts))
