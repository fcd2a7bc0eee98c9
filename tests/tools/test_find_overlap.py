import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiomask.audio import read
from audiomask.data.kaldi.directory import DataDir

ROOT = Path(__file__).parents[2]
NOISE = ROOT / "egs/mini/denoise/corpus/noise"
sys.path.insert(0, str(ROOT / "tools/corpora"))
find_overlap = pytest.importorskip("find_overlap")


def directory(path: Path, recordings: dict[str, Path]) -> str:
    table = {key: str(file) for key, file in sorted(recordings.items())}
    DataDir({"wav.scp": table, "utt2spk": {key: key for key in table}}).write(path)
    return str(path)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> tuple[str, str]:
    """Three clips, and recordings of which one holds a cut of the first, quieter, coded and in noise."""
    folder = tmp_path_factory.mktemp("overlap")
    files = {p.stem: p for p in sorted(NOISE.glob("train/*/*.opus"))}
    names = [n for n in files if files[n].parent.name in ("baby_cry", "helicopter", "sea_waves")]
    clips = {n: files[n] for n in (names[0], names[4], names[-1])}
    others = {n: files[n] for n in files if n not in clips}
    x, rate = read(clips[names[0]])
    rng = np.random.default_rng(0)
    place = np.concatenate([rng.normal(0, 0.01, 2 * rate), 0.3 * x[0, rate // 2 :]]).astype(np.float32)
    place += rng.normal(0, 0.003, len(place)).astype(np.float32)
    soundfile.write(folder / "mixed.ogg", place, rate, format="OGG", subtype="VORBIS")
    return (
        directory(folder / "clips", clips),
        directory(folder / "corpus", {**others, "mixed": folder / "mixed.ogg"}),
    )


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["find_overlap", *arguments])
    return find_overlap.main()


def test_finds_a_coded_cut_and_nothing_else(corpora, tmp_path, monkeypatch, capsys):
    clips, corpus = corpora
    out = tmp_path / "found.json"
    assert run(monkeypatch, "--clips", clips, "--corpus", corpus, "--json", str(out)) == 1
    found = json.loads(out.read_text())
    assert [row["recording"] for row in found] == ["mixed"]
    assert found[0]["clip"] == "1-187207-A"
    assert abs(found[0]["seconds"] - 1.5) < 0.05  # the clip began half a second before the cut
    assert "1 found" in capsys.readouterr().err


def test_nothing_to_find(corpora, tmp_path, monkeypatch):
    clips, _ = corpora
    others = {p.stem: p for p in sorted(NOISE.glob("valid/*/*.opus"))}
    assert run(monkeypatch, "--clips", clips, "--corpus", directory(tmp_path / "other", others)) == 0


def test_a_missing_directory(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--clips", str(tmp_path / "no"), "--corpus", str(tmp_path)) == 2
    assert "no" in capsys.readouterr().err
