"""`audiomask plot masks FILE --kind hearing` draws the masking threshold; its page shows what it says."""

import io
import re
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib import image

from audiomask.cli import _hearing, parser, plot
from audiomask.masks.hearing import quiet_db

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "egs/mini/denoise/corpus/demo"
CLEAN, NOISY = DEMO / "mixture_clean.flac", DEMO / "mixture_noisy.flac"
PAGE = (ROOT / "docs/hearing.md").read_text()


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names():
    return sorted(p.name for p in Path().iterdir())


def curves(x, rate, **options):
    """The curves at the loudest moment, by name, and the figure's axes."""
    axes = _hearing.figure(x, rate, **options).axes
    frame = next(axis for axis in axes if axis.lines and axis.get_xscale() == "log")
    return {line.get_label(): line.get_xydata().T for line in frame.lines}, axes


def test_the_threshold_over_the_spectrum_of_a_tone():
    rate = 16000
    x = 10 ** ((70 - 96) / 20) * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    found, axes = curves(x, rate, start=2.0)
    assert len(found) == 4
    for name in ("threshold, model 1", "threshold, Johnston"):
        khz, db = found[name]
        assert db[np.abs(khz - 1.1).argmin()] > 25
        assert db[np.abs(khz - 5).argmin()] < 0
    khz, db = found["the sound"]
    assert db.max() == pytest.approx(70 - 1.8, abs=0.1)
    assert khz[db.argmax()] == 1.0
    khz, db = found["threshold in silence"]
    assert (db <= quiet_db(1000 * khz) + 1e-3).all()
    pictures = [axis.images[0] for axis in axes if axis.images]
    assert len(pictures) == 2
    assert pictures[0].get_clim() == pictures[1].get_clim()
    assert pictures[0].get_extent()[0] == 2.0


def test_the_loudest_moment_is_shown():
    rate = 16000
    x = 1e-3 * np.random.default_rng(0).standard_normal(rate)
    x[12000:12400] *= 100
    title = [axis.get_title() for axis in curves(x, rate)[1] if axis.get_title().startswith("at ")]
    assert float(title[0].split()[1]) == pytest.approx(12200 / rate, abs=0.02)


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_any_rate_silence_and_short_sounds_are_drawn(cli, rate):
    soundfile.write("silence.wav", np.zeros(rate // 2), rate)
    soundfile.write("short.wav", 0.1 * np.ones(3), rate)
    for name in ("silence", "short"):
        done = cli("plot", "masks", f"{name}.wav", "-o", f"{name}.png", "--kind", "hearing", "--dpi", 40)
        assert done.code == 0, done.err
        assert image.imread(f"{name}.png").std() > 0.05


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["masks", CLEAN, "--ratio", ".5"], 2, "--ratio is for patches, and --kind hearing has none"),
        (["masks", CLEAN, "--seed", "1"], 2, "--seed is for patches"),
        (["masks", CLEAN, "--save", "m.npz"], 2, "--save is for patches"),
        (["masks", CLEAN, NOISY], 2, "--kind is for the patches of one recording"),
        (["masks", "absent.wav"], 1, "absent.wav: no such file"),
        (["masks", CLEAN, "--window-ms", "0"], 2, "--window-ms must be above 0"),
        (["reconstruction", "exp", CLEAN], 2, "--kind hearing: there are all, random"),
    ],
)
def test_bad_requests_end_in_one_line(words, code, says, cli):
    result = cli("plot", *words, "-o", "a.png", "--kind", "hearing")
    assert result.code == code
    assert says in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert names() == []


def test_without_torch_the_remedy_is_named(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = cli("plot", "masks", CLEAN, "-o", "a.png", "--kind", "hearing")
    assert result.code == 1
    assert "plot: needs torch, which is not installed; pip install 'audiomask[train]'" in result.err
    assert names() == []


def test_a_picture_named_by_kind(cli):
    assert cli("plot", "masks", CLEAN, "-o", "{kind}.png", "--kind", "hearing", "--seconds", 1).code == 0
    assert names() == ["hearing.png"]
    assert cli("plot", "masks", CLEAN, "-o", "{kind}.png", "--kind", "hearing", "--seconds", 1).code == 1


def test_the_page_runs_and_its_table_is_what_it_prints(cli):
    soundfile.write("talk.wav", *soundfile.read(CLEAN))
    first, second = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S)
    assert cli(*shlex.split(first)[1:]).code == 0
    assert names() == ["heard.png", "talk.wav"]
    options = parser("plot", plot).parse_args(shlex.split(second)[2:])
    assert f"({options.out.relative_to('docs')})" in PAGE
    assert (ROOT / options.out).stat().st_size < 200_000
    assert (ROOT / options.files[0]).samefile(CLEAN)
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(example, "hearing.md", "exec"), {})
    printed = [
        re.findall(r"[\d.]+(?= dB)|(?<=PESQ )[\d.]+", line) for line in printed.getvalue().splitlines()
    ]
    table = re.findall(r"^\| (\d+) dB \| (\d+) dB, ([\d.]+) \| (\d+) dB, ([\d.]+) \|$", PAGE, re.M)
    rows = [row for margin, *pair in table for row in ((margin, *pair[:2]), (margin, *pair[2:]))]
    assert len(rows) == 8
    # another processor may round the last digit otherwise
    np.testing.assert_allclose(np.array(printed, float), np.array(rows, float), atol=0.11)
