import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib import image

from audiomask.cli import main
from audiomask.cli.plot import TOP_DB, recording_figure, spectrogram_db

DEMO = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo"
CLEAN, NOISY = DEMO / "mixture_clean.flac", DEMO / "mixture_noisy.flac"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*words):
    return main(["plot", *map(str, words)])


def test_a_sine_of_full_scale_is_0_db_at_its_frequency():
    rate, hz = 16000, 1000.0
    x = np.sin(2 * np.pi * hz * np.arange(rate) / rate)
    level, hop = spectrogram_db(x, rate)
    assert hop == 128
    middle = level[:, level.shape[1] // 2]
    assert middle.argmax() * rate / 512 == hz
    assert middle.max() == pytest.approx(0.0, abs=0.01)


def test_a_click_is_drawn_at_its_time():
    rate = 16000
    x = np.zeros(rate)
    x[12000] = 1.0
    level, hop = spectrogram_db(x, rate)
    assert level.sum(axis=0).argmax() * hop == pytest.approx(12000, abs=hop)


def test_before_and_after_share_their_scales():
    rate = 16000
    random = np.random.default_rng(0)
    figure = recording_figure(
        [
            ("before", 0.5 * random.standard_normal(rate), rate),
            ("after", 0.01 * random.standard_normal(rate), rate),
        ]
    )
    waves, pictures = figure.axes[:2], figure.axes[2:4]
    assert waves[0].get_ylim() == waves[1].get_ylim()
    assert [axis.get_title() for axis in waves] == ["before", "after"]
    limits = [axis.images[0].get_clim() for axis in pictures]
    assert limits[0] == limits[1]
    assert limits[0][1] == TOP_DB
    louder, softer = (axis.images[0].get_array().mean() for axis in pictures)
    assert louder - softer == pytest.approx(20 * np.log10(50), abs=1.0)


def test_pictures_are_written_whole(capsys):
    assert run("spectrogram", NOISY, CLEAN, "-o", "a.png") == 0
    picture = image.imread("a.png")
    assert picture.shape[1] > 1000
    assert picture.std() > 0.1
    assert run("spectrogram", NOISY, "-o", "b.svg", "--start", "1", "--seconds", "2") == 0
    assert Path("b.svg").read_text().startswith("<?xml")
    assert sorted(p.name for p in Path().iterdir()) == ["a.png", "b.svg"]
    assert run("spectrogram", NOISY, "-o", "a.png") == 1
    assert "-f to overwrite" in capsys.readouterr().err
    assert run("spectrogram", NOISY, "-o", "a.png", "-f") == 0


def test_masks_of_a_mixture(capsys):
    assert run("masks", CLEAN, NOISY, "-o", "m.png", "--seconds", "2") == 0
    assert image.imread("m.png").std() > 0.1
    assert run("masks", CLEAN, NOISY, NOISY, "-o", "n.png") == 2
    assert "clean and a noisy one; 3 were given" in capsys.readouterr().err
    soundfile.write("short.wav", np.zeros(100), 16000)
    assert run("masks", "short.wav", NOISY, "-o", "n.png") == 2
    assert "fit each other" in capsys.readouterr().err
    assert not Path("n.png").exists()


def test_a_file_called_like_a_picture_changes_nothing(capsys):
    """`plot masks` meant another thing once a file called masks lay there."""
    soundfile.write("masks", soundfile.read(NOISY)[0], 16000, format="WAV")
    assert run("masks", CLEAN, NOISY, "-o", "m.png", "--seconds", "1") == 0
    assert run("masks", CLEAN, NOISY, NOISY, "-o", "n.png") == 2
    assert run("spectrogram", "masks", "-o", "s.png") == 0
    with pytest.raises(SystemExit, match="2"):
        run(NOISY, "-o", "a.png")
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["absent.wav", "-o", "a.png"], 1, "no such file"),
        ([NOISY, "-o", "a.txt"], 1, "is not a picture"),
        ([NOISY, "-o", "none/a.png"], 1, "folder does not exist"),
        ([NOISY, "-o", "a.png", "--channel", "1"], 1, "no channel 1"),
        ([NOISY, "-o", "a.png", "--start", "100"], 1, "start"),
        ([NOISY, "-o", "a.png", "--seconds", "0"], 2, "above 0"),
    ],
)
def test_bad_requests_end_in_one_line(words, code, says, capsys):
    assert run("spectrogram", *words) == code
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"a$b$ $x_{.wav", b"\xe6\xbc\xa2.wav"])
def test_any_name_becomes_a_title(name):
    path = os.fsdecode(name)
    soundfile.write(name, 0.1 * np.ones(4000), 16000, format="WAV")
    assert run("spectrogram", path, "-o", "a.png") == 0
    assert run("masks", path, "--kind", "block", "-o", "b.png") == 0


def test_what_was_cut_is_a_warning(capsys):
    soundfile.write("a.wav", 0.1 * np.ones(8000), 16000)
    data = Path("a.wav").read_bytes()
    Path("cut.wav").write_bytes(data[:9000])
    assert run("spectrogram", "cut.wav", "-o", "a.png") == 0
    assert capsys.readouterr().err.startswith("audiomask: warning: cut.wav: truncated")
