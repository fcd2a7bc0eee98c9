"""Mixes of stems are a data directory, sum to their mixtures and have no two parts of one recording."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiomask.data.corpora.folder import read
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

TOOL = Path(__file__).parents[2] / "tools/corpora/mix_stems.py"


def test_mixes_are_a_data_directory_of_stems_at_one_level(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for i, (stem, channels) in enumerate((("speech", 1), ("music", 2))):
        for name in ("a", "b"):
            Path("raw", stem, name).mkdir(parents=True)
            x = 10.0**-i * random.uniform(-0.1, 0.1, (16000, channels))
            sf.write(f"raw/{stem}/{name}/{name}.wav", x, 16000, "FLOAT")
        read(f"raw/{stem}").write(f"data/{stem}")
    words = [sys.executable, TOOL, "data", "--stems", "speech", "music", "--seconds", "0.5", "-o", "mixes"]
    done = subprocess.run([*words, "--count", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert validate("mixes") == []
    mixes = DataDir.read("mixes")
    assert list(mixes.recordings) == ["mix000", "mix001"]
    for mix in mixes.utterances():
        (mixture, rate), *stems = (mixes.load(mix, table) for table in ("wav", "speech", "music"))
        assert (rate, mixture.shape) == (48000, (2, 24000))
        np.testing.assert_allclose(mixture, stems[0][0] + stems[1][0], atol=1e-6)
        assert np.array_equal(*stems[0][0])  # one channel stands in the middle
        levels = [20 * np.log10(np.sqrt((x**2).mean())) for x, _ in stems]
        assert levels == pytest.approx([-26, -26], abs=1)


def test_a_stem_that_is_silent_is_an_error(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("raw/music").mkdir(parents=True)
    sf.write("raw/music/a.wav", np.zeros((4000, 2)), 16000)
    read("raw/music").write("data/music")
    words = [sys.executable, TOOL, "data", "--stems", "music", "--seconds", "0.1", "-o", "mixes"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "data/music: 100 pieces of it are silent" in done.stderr
