"""libopus as a concealer: aligned, nearly transparent without loss; the table of all methods."""

import json
import sys
from pathlib import Path

import corpus_trees
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from compare_concealers import METRICS, MissingPeer, Opus, find_opus, main, word_errors, words

try:
    find_opus()
except MissingPeer as error:
    pytest.skip(str(error), allow_module_level=True)


def test_the_output_is_aligned_and_close_without_loss():
    x = corpus_trees.excerpt("speech", 3)
    y = Opus().conceal(x, np.zeros(len(x), bool), 16000)
    assert y.shape == x.shape
    spectra = np.fft.rfft(y, 2 * len(x)) * np.fft.rfft(x, 2 * len(x)).conj()
    assert abs((np.fft.irfft(spectra).argmax() + len(x)) % (2 * len(x)) - len(x)) <= 1
    assert np.square(y - x).sum() < 0.2 * np.square(x).sum()


def test_packets_that_are_lost_change_the_output_from_there_on():
    x = corpus_trees.excerpt("speech", 3)
    lost = np.zeros(len(x), bool)
    whole = Opus().conceal(x, lost, 16000)
    lost[320 * 20 : 320 * 22] = True
    y = Opus().conceal(x, lost, 16000)
    changed = np.flatnonzero(y != whole)
    assert 320 * 20 - 160 < changed.min() < 320 * 21
    lost[320 * 30] = True
    with pytest.raises(ValueError, match="not those of packets of 20 ms"):
        Opus().conceal(x, lost, 16000)
    with pytest.raises(ValueError, match="not 11025 Hz"):
        Opus().conceal(x[:2205], np.zeros(2205, bool), 11025)
    with pytest.raises(ValueError, match="refuses -5000"):
        Opus(kbps=-5).conceal(x, np.zeros(len(x), bool), 16000)


def test_the_table(tmp_path, capsys):
    pytest.importorskip("pesq", reason="needs the extra score")
    files = [corpus_trees.put(tmp_path / f"{i}.wav", corpus_trees.excerpt("speech", i, 3.0)) for i in (1, 3)]
    assert main([*map(str, files), "--loss", "drop:0.3", "--json", str(tmp_path / "s.json")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    table = {(row[0], row[1]): [float(v) for v in row[2:]] for row in rows}
    assert table["none", "zero"][0] > 4.6
    assert table["none", "opus"][0] > 4
    assert set(table) == {("none", "zero"), ("none", "opus")} | {
        ("drop:0.3", m) for m in ("zero", "repeat", "repeat_faded", "repeat_pitch", "opus")
    }
    assert table["drop:0.3", "zero"][1] < table["drop:0.3", "repeat_pitch"][1] < 1
    scores = json.loads((tmp_path / "s.json").read_text())
    assert len(scores) == 2
    mean = np.mean([s["drop:0.3 opus"][METRICS[0]] for s in scores.values()])
    assert mean == pytest.approx(table["drop:0.3", "opus"][0], abs=1e-3)


def test_word_errors_are_the_least_edits():
    assert word_errors(["a", "b", "c", "d"], ["a", "b", "c", "d"]) == 0
    assert word_errors(["a", "b", "c", "d"], ["b", "x", "d", "e"]) == 3
    assert word_errors([], ["a", "b"]) == 2
    assert word_errors(["a", "b"], []) == 2


def test_speech_has_words_and_silence_hardly():
    pytest.importorskip("pocketsphinx", reason="needs the extra dev")
    assert len(words(np.zeros(16000, np.float32))) <= 1
    assert len(words(corpus_trees.excerpt("speech", 3))) > 3
