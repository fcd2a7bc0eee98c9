"""The picture of a burst: where the loss is drawn, and what each column holds."""

import sys
from pathlib import Path

import corpus_trees
import numpy as np
import pytest
from matplotlib import image

from audiomask.masks.packets import write_trace

sys.path.insert(0, str(Path(__file__).parents[2] / "tools/compare"))

from burst_picture import burst_figure, main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A recording `a.wav` of 3 s, and `t.txt`, a trace of which packets 20 and 60 to 63 are lost."""
    monkeypatch.chdir(tmp_path)
    corpus_trees.put(tmp_path / "a.wav", corpus_trees.excerpt("speech", 3, 3.0))
    write_trace("t.txt", np.isin(np.arange(150), [20, 60, 61, 62, 63]))
    return tmp_path


def test_the_longest_burst_is_in_the_middle_and_shaded():
    x = np.sin(np.arange(48000) / 20)
    lost = np.isin(np.arange(48000) // 320, [20, 60, 61, 62, 63])
    figure = burst_figure([("sent", x), ("zero", np.where(lost, 0, x))], lost, 16000, None, 0.4, 16.0)
    waves, pictures = figure.axes[:2], figure.axes[2:4]
    assert [axis.get_title() for axis in waves] == ["sent", "zero"]
    for wave in waves:
        (patch,) = wave.patches
        left, right = patch.get_xy()[0], patch.get_xy()[0] + patch.get_width()
        assert (left, right) == pytest.approx((1.2, 1.28))
        assert wave.get_xlim() == pytest.approx((1.04, 1.44))
        assert wave.get_ylim() == waves[0].get_ylim()
    for picture, gap in zip(pictures, (False, True), strict=True):
        level = picture.images[0].get_array()  # every 4 ms from 1.024 s; the burst is frames 44 to 64
        assert (level[:, 48:60].max() < -90) == gap
        assert picture.images[0].get_clim() == pictures[0].images[0].get_clim()
    assert len(burst_figure([("sent", x)], lost, 16000, 0.41, 0.4, 16.0).axes[0].patches) == 1
    assert burst_figure([("sent", x)], lost, 16000, 0.1, 0.8, 16.0).axes[0].get_xlim() == (0.0, 0.8)
    with pytest.raises(ValueError, match=r"nothing is lost for 0\.4 s from 1\.80 s"):
        burst_figure([("sent", x)], lost, 16000, 2.0, 0.4, 16.0)


def test_it_draws(here, repeats, capsys):
    words = ["a.wav", "--loss", "t.txt", "-o", "p.png"]
    known = ["--methods", "zero", "repeat", "g711", str(repeats)]
    assert main([*words, *known]) == 0
    picture = image.imread("p.png")
    assert picture.shape[1] > 1200
    assert picture.std() > 0.1
    assert main([*words, *known]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "-f", *known, "--rate", "48000", "--at", "0.4"]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--loss none.txt --methods zero", "none.txt: no such file"),
        ("--loss t.txt --methods none.onnx", "none.onnx: cannot be read"),
        ("--loss t.txt --methods zero --at 2", "nothing is lost"),
        ("--loss t.txt --methods zero --seconds 0", "more than 0"),
    ],
)
def test_bad_requests_end_in_one_line(here, capsys, words, says):
    assert main(["a.wav", "-o", "p.png", *words.split()]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert not Path("p.png").exists()
