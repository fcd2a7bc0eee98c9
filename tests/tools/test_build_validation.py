"""The validation builder holds out whole speakers and kinds of noise, and never changes a finished set."""

import subprocess
import sys
from pathlib import Path

import pytest

from audiomask.data.corpora.folder import read as from_folder
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "egs/mini/denoise/corpus"
pytest.importorskip("pesq", reason="needs the extra score")


@pytest.fixture
def build(tmp_path):
    from_librispeech(CORPUS / "speech/valid").write(tmp_path / "speech")
    from_folder(CORPUS / "noise/valid").write(tmp_path / "noise")

    def call(*words):
        command = [sys.executable, str(ROOT / "tools/corpora/build_validation.py"), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    return call


def test_it_holds_out_speakers_and_kinds(build, tmp_path):
    words = ("--speech", "speech/wav.scp", "--noise", "noise", "--out", "set")
    done = build(*words, "--speakers", 2, "--kinds", "rain,heli*", "--count", 3, "--clean", 1)
    assert done.returncode == 0, done.stderr
    data = DataDir.read(tmp_path / "set")
    assert validate(tmp_path / "set") == []
    assert (tmp_path / "set/kinds").read_text().split() == ["helicopter", "rain"]
    held = (tmp_path / "set/speakers").read_text().split()
    readers = sorted({p.name.split("-")[0] for p in (CORPUS / "speech/valid").iterdir()}, key=int)
    assert sorted(held, key=int) == readers[-2:]
    assert set(data.speakers) <= set(held)
    assert all(n.startswith(("helicopter", "rain")) for n in data.tables["utt2noise"].values())
    assert len(list((tmp_path / "set/clean_best").iterdir())) == 1
    again = build(*words, "--speakers", 2)
    assert (again.returncode, "must never change" in again.stderr) == (1, True)


def test_too_many_held_out(build):
    done = build("--speech", "speech", "--noise", "noise", "--out", "set", "--speakers", 6)
    assert (done.returncode, "cannot hold out 6 of 6" in done.stderr) == (1, True)
