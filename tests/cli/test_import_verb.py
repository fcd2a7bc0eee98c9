"""`audiomask import`: a checkpoint in, an artifact out that the other verbs take."""

import built_once
import numpy as np
import soundfile
import torch
from dtln_pair import write_pair

from audiomask.cli import main
from audiomask.models.demucs import Demucs


def test_dtln_runs_through_every_verb(tmp_path, capsys):
    pair = [str(path) for path in write_pair(tmp_path, 32, 6, 10, True)]
    model = str(tmp_path / "dtln.onnx")
    with built_once.graphs():
        assert main(["import", "dtln", *pair, "-o", model, "--weights", str(tmp_path / "weights")]) == 0
    out = capsys.readouterr().out
    assert "licence of the weights: MIT" in out
    assert "equals torch" in out
    noisy = tmp_path / "noisy.wav"
    soundfile.write(noisy, 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    assert main(["enhance", str(noisy), "-m", model, "-o", str(tmp_path / "out")]) == 0
    assert soundfile.info(tmp_path / "out/noisy.wav").frames == 8000
    assert main(["models", model]) == 0
    assert "MIT" in capsys.readouterr().out
    assert main(["bench", "-m", model, "--seconds", "0.2"]) == 0
    again = str(tmp_path / "again.onnx")
    with built_once.graphs():
        assert main(["export", str(tmp_path / "weights"), "-o", again, "--check"]) == 0


def test_it_overwrites_only_when_told(tmp_path, capsys):
    pair = [str(path) for path in write_pair(tmp_path, 32, 6, 10, False)]
    (tmp_path / "dtln.onnx").write_text("mine")
    command = ["import", "dtln", *pair, "-o", str(tmp_path / "dtln.onnx")]
    assert main(command) == 2
    assert "-f overwrites" in capsys.readouterr().err
    assert (tmp_path / "dtln.onnx").read_text() == "mine"
    assert main([*command, "-f"]) == 0


def test_an_argument_that_the_weights_do_not_tell(tmp_path):
    torch.manual_seed(0)
    torch.save(Demucs(8, depth=3).state_dict(), tmp_path / "a.th")  # whose graph test_demucs.py needs too
    out = tmp_path / "a.onnx"
    with built_once.graphs():
        assert main(["import", "demucs", str(tmp_path / "a.th"), "-o", str(out), "--arg", "name=mine"]) == 0
    from audiomask.runtime.artifact import Artifact

    assert Artifact.load(out).name == "mine"


def test_failures_leave_nothing(tmp_path, capsys):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.th")
    assert main(["import", "demucs", str(tmp_path / "a.th"), "-o", str(tmp_path / "a.onnx")]) == 1
    assert "a.th: not a checkpoint of demucs" in capsys.readouterr().err
    assert main(["import", "demucs", str(tmp_path / "a.th"), "-o", str(tmp_path / "a.bin")]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.th"]
