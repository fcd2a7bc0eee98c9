"""tools/compare/beamformers.py: beamformers do to known scenes what they are made for."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from audiomask import audio, metrics

TOOLS = Path(__file__).parents[2] / "tools/compare"
CORPUS = Path(__file__).parents[2] / "egs/mini/denoise/corpus"
RATE = 16000
DELAYS = (0, 5, 9)  # samples, of the talker at each microphone; the noise comes from elsewhere


@pytest.fixture(scope="module")
def compare():
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module("beamformers")
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def scene():
    """Three microphones `[3, T]` without a room, speech at the first `[T]`; one noise at 0 dB, and hiss."""
    speech, _ = audio.read(sorted((CORPUS / "speech/valid").iterdir())[0])
    speech = speech[0, 16000:64000] / speech[0, 16000:64000].std() * 0.05
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.standard_normal(speech.size)
    noisy = [np.roll(speech, d) + np.roll(noise, 7 - 3 * m) for m, d in enumerate(DELAYS)]
    noisy = np.stack(noisy) + 0.001 * rng.standard_normal((3, speech.size))
    return noisy.astype(np.float32), speech.astype(np.float32)


def si_sdr(scene, estimate):
    return metrics.score(scene[1], estimate, RATE, ["si_sdr"])["si_sdr"]


def test_beamformers_are_aligned_and_gain(compare, scene):
    noisy, clean = map(torch.from_numpy, scene)
    before = si_sdr(scene, scene[0][0])
    assert before == pytest.approx(0, abs=0.1)
    summed = compare.delay_and_sum(noisy, torch.tensor(DELAYS, dtype=torch.float), 0)
    assert si_sdr(scene, summed) - before == pytest.approx(10 * np.log10(3), abs=0.5)  # noises add in power
    assert si_sdr(scene, compare.oracle_mvdr(noisy, clean, 0)) - before > 10  # one noise can be nulled
    silent = compare.delay_and_sum(noisy, torch.zeros(3), 0)
    assert si_sdr(scene, silent) < si_sdr(scene, summed) - 3


def test_the_table(compare, scene, toys, tmp_path, capsys):
    for name, x in (("noisy", scene[0]), ("clean", scene[1][None])):
        audio.write(tmp_path / f"{name}.wav", x, RATE)
        (tmp_path / ("wav.scp" if name == "noisy" else "clean.scp")).write_text(f"a {name}.wav\n")
    with pytest.raises(SystemExit, match="no utt2delay"):
        compare.main([str(tmp_path)])
    (tmp_path / "utt2delay").write_text("a 0 5 9\n")
    first = toys.build(tmp_path / "first.onnx", name="first", pole=None, gains=(1.0, 0.0, 0.0))
    assert compare.main([str(tmp_path), "--model", str(first)]) == 0
    rows = {
        r.split(" | ")[0][2:]: r.split(" | ")[1:] for r in capsys.readouterr().out.splitlines() if "|" in r
    }
    assert rows["first (first)"] == rows["unprocessed"]  # a model that gives back its first microphone
    assert float(rows["MVDR, oracle masks"][0]) > float(rows["unprocessed"][0]) + 0.3
