"""Constants of a corpus are those of a direct computation over all its frames."""

import numpy as np
import pytest
import soundfile as sf
import soxr
import torch

from audiomask.audio import AudioError
from audiomask.cli import main
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.statistics import log_mel, some
from audiomask.frontend.logmel import LogMel


@pytest.fixture
def corpus(tmp_path):
    """Four recordings: noises of .5 and 1.3 s, silence, and one shorter than a frame; the first at 48 kHz."""
    rng, tables = np.random.default_rng(0), {"wav.scp": {}, "utt2label": {}}
    signals = [
        rng.standard_normal(24000) * 0.1,
        rng.standard_normal(20800) * 0.01,
        np.zeros(4000),
        np.ones(99),
    ]
    for i, x in enumerate(signals):
        sf.write(tmp_path / f"r{i}.wav", x, 48000 if i == 0 else 16000)
        tables["wav.scp"][f"r{i}"], tables["utt2label"][f"r{i}"] = f"r{i}.wav", ["b", "b,a", "no", "b"][i]
    DataDir(tables).write(tmp_path)
    return tmp_path


def test_they_equal_a_direct_computation(corpus):
    frontend, data = LogMel(frames=0, bands=32), DataDir.read(corpus)
    found, failed = log_mel(data, frontend, 16000)
    first, second, silence = (data.load(u)[0][0] for u in list(data.utterances())[:3])
    pieces = [soxr.resample(first, 48000, 16000), second[:16000], second[16000:], silence]
    frames = torch.cat([frontend.raw(torch.from_numpy(x)[None])[0] for x in pieces]).double()
    assert failed == []
    assert found.frames == len(frames)
    assert found.mean == pytest.approx(float(frames.mean()), rel=1e-6)
    assert found.std == pytest.approx(float(frames.std(correction=0)), rel=1e-6)
    frontend = LogMel(frames=0, bands=32, patch=1, mean=found.mean, std=found.std)
    y = torch.cat([frontend(torch.from_numpy(x)[None])[0] for x in pieces])
    assert float(y.mean()) == pytest.approx(0, abs=1e-4)
    assert float(y.std()) == pytest.approx(0.5, abs=1e-3)


def test_the_command_prints_what_the_training_takes(corpus, capsys):
    words = ["data", "stats", str(corpus), "--bands", "32", "--seconds", "1"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "3 classes: from 1 (a) to 3 (b)" in told
    assert main([*words, "--options"]) == 0
    options = capsys.readouterr().out.splitlines()
    found, _ = log_mel(DataDir.read(corpus), LogMel(frames=0, bands=32), 16000)
    assert options[:4:2] == ["--model.frontend.mean", "--model.frontend.std"]
    assert [float(x) for x in options[1:4:2]] == pytest.approx([found.mean, found.std], rel=1e-5)
    assert options[4:] == ["--model.model.classes", "3", "--model.model.labels", '["a", "b", "no"]']
    assert main([*words, "--options", "--no-audio"]) == 0
    assert capsys.readouterr().out.splitlines() == options[4:]
    assert main([*words, "--seconds", "0"]) == 2


def test_some_are_a_sample_and_a_bad_file_is_named(corpus, capsys):
    data = DataDir.read(corpus)
    drawn = [[u.key for u in some(data, 2, seed)] for seed in range(20)]
    assert {len(set(keys)) for keys in drawn} == {2}
    assert {key for keys in drawn for key in keys} == {"r0", "r1", "r2", "r3"}
    assert len(some(data, 9, 0)) == 4
    (corpus / "r1.wav").write_bytes(b"nonsense")
    assert main(["data", "stats", str(corpus), "--bands", "32"]) == 1
    told = capsys.readouterr()
    assert "r1.wav" in told.err
    assert "1 of 4 failed" in told.err
    assert "--model.frontend.mean" in told.out
    with pytest.raises(AudioError, match="no audio to measure"):
        log_mel(data, LogMel(frames=0), 16000, some(data, 4, 0)[3:])
