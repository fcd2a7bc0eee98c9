"""docs/published_marks.md: commands and examples run as they stand, on small networks of the same names."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import audioseal_file
import built_once
import numpy as np
import pytest
import silentcipher_folder
import soundfile as sf
import torch

from audiomask.models.audioseal import AudioSealDetector, AudioSealGenerator

PAGE = (Path(__file__).parents[2] / "docs/published_marks.md").read_text()
SMALL = {"SR": 8000, "N_FFT": 128, "HOP_LENGTH": 64, "message_band_size": 30, "message_dim": 5,
         "message_len": 21}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the checkpoints and recordings that the page names."""
    home = tmp_path_factory.mktemp("desk")
    torch.manual_seed(0)
    for name, cls in (("generator", AudioSealGenerator), ("detector", AudioSealDetector)):
        model = audioseal_file.lively(cls(bits=16, filters=2, ratios=[4, 2], latent=4).eval())
        state = {"model": audioseal_file.theirs(model, "audiocraft"), "xp.cfg": {"seanet": {"causal": False}}}
        torch.save(state, home / f"{name}_base.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(silentcipher_folder.PUBLISHED, "desk", SMALL)
        silentcipher_folder.write(home / "44_1_khz/73999_iteration", "desk", 4, 6, (2, 2, 2))
    for name, rate in (("talk", 16000), ("song", 8000)):
        x = 0.1 * np.random.default_rng(0).standard_normal(4 * rate)
        sf.write(home / f"{name}.wav", x, rate)
    return home


def test_the_page_runs(desk, cli, monkeypatch):
    monkeypatch.chdir(desk)
    (commands,) = blocks("bash")
    with built_once.graphs():
        for line in commands.splitlines():
            program, *words = shlex.split(line)
            assert program == "audiomask"
            done = cli(*words)
            assert done.code == 0, done.err
    said = []
    for i, example in enumerate(blocks("python")):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(example, f"published_marks.md, example {i}", "exec"), {})
        said.append(out.getvalue())
    assert len(said) == 3
    assert re.match(r"\d+% of the samples are marked\n", said[0])
    assert re.match(r"(True|False) [-\d.]+ 23\n", said[1])
    assert said[2].startswith("Reading(symbols=")
    marked, rate = sf.read(desk / "marked.wav")
    assert (len(marked), rate) == (64000, 16000)
