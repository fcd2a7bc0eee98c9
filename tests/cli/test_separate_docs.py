"""docs/separate.md: its commands and its example run, and it names options that exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_artifacts
import soundfile as sf

from audiomask.audio import read
from audiomask.runtime import catalogue

PAGE = (Path(__file__).parents[2] / "docs/separate.md").read_text()
FILES, PIPES = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the page's files, where two small models are those that ship."""
    models = tmp_path / "models"
    models.mkdir()
    for name, default in (("cinema", True), ("stems", False)):
        small_artifacts.build(models, name, task="separate", default=default)
    monkeypatch.setattr(catalogue, "PRETRAINED", models)
    monkeypatch.chdir(tmp_path)
    Path("songs").mkdir()
    for n, path in enumerate(("film.wav", "song.wav", "songs/one.wav")):
        sf.write(path, np.random.default_rng(n).uniform(-0.3, 0.3, (9000, 2)), 48000)
    return tmp_path


def test_the_commands_run(cli, desk):
    lines = [shlex.split(line, comments=True) for line in FILES.splitlines()]
    for _, *words in lines:
        done = cli(*words)
        assert done.code == 0, done.err
    for path in re.findall(r"\w+/\w+/\w+\.wav", FILES):
        assert Path(path).exists()
    assert Path("two/song/no_vocals.wav").exists()
    x = read("song.wav")[0]
    total = sum(read(path)[0] for path in Path("exact/song").iterdir())
    np.testing.assert_allclose(total, x, atol=1e-6)
    assert sf.info("all/one/speech.flac").channels == 2
    assert np.abs(read("karaoke.wav")[0] - x).max() > 0.01


def test_the_pipes_run(desk):
    (desk / "film.pcm").write_bytes(read("film.wav")[0].T.tobytes())
    for line in PIPES.splitlines():
        command = line.replace("audiomask ", f"{sys.executable} -m audiomask ")
        command = command.replace(" --gains", f" -m {desk}/models/cinema.onnx --gains")
        subprocess.run(command, shell=True, capture_output=True, check=True)
    assert (desk / "loud.pcm").read_bytes() == (desk / "louder.pcm").read_bytes()


def test_the_example_runs(desk):
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    names = {}
    exec(compile(example, "separate.md", "exec"), names)
    assert [*names["stems"]] == ["speech", "music", "effects", "rest"]
    assert names["y"].shape[1] + names["z"].shape[1] == 2 * 96000


def test_the_options_exist(cli):
    text = "".join(cli(verb, "--help").out for verb in ("separate", "stream", "live", "score"))
    options = set(re.findall(r"`[a-z ]*(--[a-z-]+)", PAGE))
    assert len(options) > 8
    assert all(option in text for option in options), options
