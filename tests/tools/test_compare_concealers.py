"""libopus as a concealer: aligned, nearly transparent without loss; the table of all methods."""

import json
import sys
from pathlib import Path

import corpus_trees
import numpy as np
import pytest

from audiomask.audio import read, write
from audiomask.masks.packets import read_trace, write_trace
from audiomask.runtime.packets.classical import repeat_pitch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools/compare"))

from concealers import METRICS, main, word_errors, words
from opus_peer import MissingPeer, Opus, find_opus

pytest.importorskip("pystoi")  # here, before the tool forks: each of its processes would import it

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
    assert table["none", "zero"][3:] == [0, 2]
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


@pytest.fixture
def traces(tmp_path, monkeypatch):
    """Recordings `1.wav` and `3.wav`, 1.8 s at 48 kHz, and a folder with a trace for each: one of a packet in
    ten, one of bursts of 140 ms.
    """
    monkeypatch.chdir(tmp_path)
    Path("t").mkdir()
    n = np.arange(90)
    for name, lost in (("1", n % 10 == 4), ("3", n % 30 < 7)):
        corpus_trees.put(Path(f"{name}.wav"), corpus_trees.excerpt("speech", int(name), 1.8), 48000)
        write_trace(f"t/{name}.txt", lost)


def table(words, capsys):
    """The rows of a run: (loss, method) to a list of those of all its lines, as words."""
    assert main(words) == 0
    rows: dict[tuple[str, ...], list[list[str]]] = {}
    for line in capsys.readouterr().out.splitlines()[1:]:
        rows.setdefault(tuple(line.split()[:2]), []).append(line.split()[2:])
    return rows


def test_traces_by_name_and_in_turn(traces, capsys):
    pytest.importorskip("pesq", reason="needs the extra score")
    rows = table(["3.wav", "1.wav", "--loss", "t", "t/*", "--by-burst"], capsys)
    own, turn = rows["t", "zero"], rows["t/*", "zero"]
    assert [row[3:5] for row in own] == [["16.7", "2"], ["10.0", "1"], ["23.3", "1"]]
    assert [" ".join(row[5:]) for row in own] == ["", "longest loss to 120 ms", "longest loss to 320 ms"]
    assert [row[3:] for row in turn] == [row[3:] for row in own]
    assert turn[0][:3] != own[0][:3]  # 3.wav has the first of them
    assert main(["3.wav", "--loss", "none/*"]) == 1
    assert "none/*: matches no trace" in capsys.readouterr().err
    corpus_trees.put(Path("2.wav"), np.zeros(100))
    assert main(["2.wav", "--loss", "t"]) == 1
    assert "t has no trace of the name 2" in capsys.readouterr().err


def test_what_a_call_left_and_what_others_made_of_it(traces, capsys, repeats):
    """At 48 kHz; what was lost is found, and then all is as if the trace had been given."""
    pytest.importorskip("pesq", reason="needs the extra score")
    for name in "13":
        x, lost = read(f"{name}.wav")[0], read_trace(f"t/{name}.txt").repeat(960)
        write(f"lossy{name}.wav", np.where(lost, 0, x), 48000)
        write(f"made{name}.wav", repeat_pitch(x[0], lost, 48000), 48000, subtype="FLOAT")
    words = ["1.wav", "3.wav", "--rate", "48000", "--model", str(repeats)]
    others = ["--others", "a=made?.wav", "--others", "b=lossy1.wav", "b=lossy3.wav"]
    rows = table([*words, "--loss", "t", "--lossy", "lossy1.wav", "lossy3.wav", *others], capsys)
    for name in ("zero", "repeat_pitch", "opus", "repeat_48k"):
        assert rows["lossy", name] == rows["t", name]
    assert rows["lossy", "a"] == rows["t", "repeat_pitch"]
    assert rows["lossy", "b"] == rows["lossy", "zero"]
    assert rows["repeat_48k:", "RTF"]
    assert main(["1.wav", "--lossy", "lossy1.wav"]) == 1
    assert "lossy1.wav: 86400 samples at 48000 Hz, and 1.wav has 28800 at --rate 16000" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing is lost"),
        (["--loss", "drop:.1", "--others", "a=b.wav"], "name them with --lossy"),
        (["--lossy", "b.wav", "c.wav"], "--lossy: 2 files, and 1 clean ones"),
        (["--lossy", "b.wav", "--others", "a=b.wav", "c.wav"], "a: 2 files, and 1 clean ones"),
    ],
)
def test_usage(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["a.wav", *words])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_word_errors_are_the_least_edits():
    assert word_errors(["a", "b", "c", "d"], ["a", "b", "c", "d"]) == 0
    assert word_errors(["a", "b", "c", "d"], ["b", "x", "d", "e"]) == 3
    assert word_errors([], ["a", "b"]) == 2
    assert word_errors(["a", "b"], []) == 2


def test_speech_has_words_and_silence_hardly():
    pytest.importorskip("pocketsphinx", reason="needs the extra dev")
    assert len(words(np.zeros(16000, np.float32))) <= 1
    assert len(words(corpus_trees.excerpt("speech", 3))) > 3
