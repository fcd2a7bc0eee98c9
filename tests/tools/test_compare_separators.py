"""The floors that separators are compared with take apart what they are made for, and the table says so."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import small_artifacts
import soundfile as sf

pytest.importorskip("librosa")
sys.path.insert(0, str(Path(__file__).parents[2] / "tools/compare"))
import separators

RATE = 44100


@pytest.fixture
def parts():
    """Noise in the middle, a tone at the left, and clicks at the right."""
    rng, t = np.random.default_rng(0), np.arange(RATE) / RATE
    clicks = np.zeros(RATE)
    clicks[2000::6000] = 1.0
    silence = np.zeros(RATE)
    sounds = {
        "speech": [0.05 * rng.standard_normal(RATE)] * 2,
        "music": [0.3 * np.sin(2 * np.pi * 440 * t), silence],
        "effects": [silence, np.convolve(clicks, 0.5 * rng.standard_normal(40), "same")],
    }
    return {name: np.array(x, np.float32) for name, x in sounds.items()}


def gain(stem, floor, ref, mix):
    return separators.si_sdr(ref, separators.FLOORS[floor](mix, RATE)[stem], RATE) - separators.si_sdr(
        ref, mix, RATE
    )


def test_what_is_in_the_middle_is_the_speech(parts):
    assert gain("speech", "centre", parts["speech"], sum(parts.values())) > 3


def test_tones_are_music_and_clicks_effects(parts):
    both = parts["music"][0] + parts["effects"][1]
    mix = np.stack([both, both])
    for stem, channel in (("music", 0), ("effects", 1)):
        assert gain(stem, "hpss", np.stack([parts[stem][channel]] * 2), mix) > 6


def test_what_is_low_and_sounds_on_is_the_bass():
    t = np.arange(RATE) / RATE
    tones = {"bass": np.sin(2 * np.pi * 60 * t), "other": np.sin(2 * np.pi * 700 * t)}
    mix = np.stack([0.2 * sum(tones.values())] * 2).astype(np.float32)
    found = separators.FLOORS["bands"](mix, RATE)
    for stem, tone in tones.items():
        assert separators.si_sdr(np.stack([tone] * 2), found[stem], RATE) > 20


def test_the_table(tmp_path, monkeypatch, capsys, parts):
    (tmp_path / "mixes/one").mkdir(parents=True)
    for name, x in (parts | {"mixture": sum(parts.values())}).items():
        sf.write(tmp_path / f"mixes/one/{name}.wav", x.T, RATE, "FLOAT")
    model = small_artifacts.build(tmp_path, "cinema", task="separate")
    words = [str(tmp_path / "mixes"), "--model", str(model), "--floors", "centre", "denoise"]
    monkeypatch.setattr(sys, "argv", ["separators.py", *words])
    separators.main()
    head, mix, ours, centre, denoise, end = capsys.readouterr().out.splitlines()
    assert head.split() == ["SI-SDR,", "dB", "effects", "music", "speech"]
    assert mix.startswith("the mix")
    assert len(re.findall(r"-?\d+\.\d\d \(", ours)) >= 1
    assert centre.split()[:3] == ["centre", "-", "-"]
    assert len(denoise.split()) >= 4
    assert end.startswith("1 mixes")


def test_a_gain_is_of_what_is_heard_alone(parts):
    heard = []

    def system(x, rate):
        heard.append(float(np.abs(x).max()))
        return {"speech": 0.5 * x, "music": x * x}

    mix = sum(parts.values())
    made = separators.turned(system, -20.0)(mix, RATE)
    assert heard[0] == pytest.approx(0.1 * np.abs(mix).max())
    np.testing.assert_allclose(made["speech"], 0.5 * mix, rtol=1e-5)
    np.testing.assert_allclose(made["music"], 0.1 * mix * mix, rtol=1e-5, atol=1e-7)
