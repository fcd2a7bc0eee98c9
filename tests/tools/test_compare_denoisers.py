"""The comparison: fair alignment, a table of everything asked for, and peers whose delay is what we say."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from audiomask import audio
from audiomask.data.simulate.mixtures import mix_at_snr

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "egs/mini/denoise/corpus"
pytest.importorskip("pesq", reason="needs the extra score")
pytest.importorskip("pystoi")  # here, before the tool forks: each of its processes would import it


@pytest.fixture(scope="module")
def compare():
    sys.path.insert(0, str(ROOT / "tools/compare"))
    try:
        yield importlib.import_module("denoisers")
    finally:
        sys.path.remove(str(ROOT / "tools/compare"))


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Three mixtures of 2.3 s at 16 kHz, from the mini corpus: four times that is one window of DNSMOS, and
    eight times two seconds would be seven."""
    folder = tmp_path_factory.mktemp("valid")
    for name in ("clean", "noisy"):
        (folder / name).mkdir()
    noise, _ = audio.read(CORPUS / "demo/mixture_noisy.flac")
    reference, _ = audio.read(CORPUS / "demo/mixture_clean.flac")
    noise = noise[0] - reference[0]
    for i, path in enumerate(sorted((CORPUS / "speech/valid").iterdir())[:3]):
        speech = audio.read(path)[0][0, 16000:52800]
        clean, noisy = mix_at_snr(speech, noise[: len(speech)], 5 * i, -25)
        audio.write(folder / "clean" / f"m{i}.wav", clean, 16000)
        audio.write(folder / "noisy" / f"m{i}.wav", noisy, 16000)
    return folder


def run(compare, capsys, *words):
    assert compare.main([str(w) for w in words]) == 0
    return capsys.readouterr().out


def test_folders_and_unprocessed(compare, valid, capsys, tmp_path):
    words = (valid, "--peers", "none", "--limit", 2, "--jobs", 1, "--dir", f"oracle={valid / 'clean'}")
    rows = json.loads(run(compare, capsys, *words, "--json", "--cache", tmp_path / "cache"))
    assert [r["system"] for r in rows] == ["unprocessed", "oracle"]
    assert [r["files"] for r in rows] == [2, 2]
    noisy, oracle = (r["scores"] for r in rows)
    assert noisy["si_sdr"]["mean"] == pytest.approx(5.0, abs=0.2)  # the first and the last of 0, 5 and 10 dB
    assert oracle["pesq_wb"]["mean"] > 4.6 > noisy["pesq_wb"]["mean"]
    cached = json.loads(run(compare, capsys, *words, "--json", "--cache", tmp_path / "cache"))
    assert cached == rows
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert "| oracle | 4.64 | 1.000 |" in run(compare, capsys, *words, "--cache", tmp_path / "cache")


def test_our_artifact_runs_hop_by_hop_aligned(compare, valid, capsys, toys, tmp_path):
    model = toys.build(
        tmp_path / "delayed.onnx", name="delayed", pole=None
    )  # gives back what it gets, 16 ms later
    words = (
        valid,
        "--peers",
        "none",
        "--limit",
        2,
        "--jobs",
        1,
        "--runs",
        1,
        "--seconds",
        2,
        "--model",
        model,
        "--json",
    )
    unprocessed, ours = json.loads(run(compare, capsys, *words))
    assert ours["system"] == "audiomask delayed"
    assert ours["scores"]["si_sdr"]["mean"] == pytest.approx(
        unprocessed["scores"]["si_sdr"]["mean"], abs=1e-3
    )
    assert ours["mode"] == "frame by frame, 16 ms at 16 kHz"
    assert 0 < ours["speed"]["rtf_min"] <= ours["speed"]["rtf"]
    assert ours["speed"]["ratio"] == 1.0
    assert ours["speed"]["p50_ms"] <= ours["speed"]["p99_ms"]
    _, quiet = json.loads(run(compare, capsys, *words, "--gain", -40))
    assert quiet["scores"]["si_sdr"]["mean"] == pytest.approx(ours["scores"]["si_sdr"]["mean"], abs=0.01)
    with pytest.raises(SystemExit, match="2"):
        compare.main([str(w) for w in (*words, "--model", model)])


def test_wrong_requests_are_refused(compare, valid, tmp_path):
    for words, message in {
        (tmp_path,): "need noisy",
        (valid, "--peers", "nobody"): "2",
        (valid, "--peers", "none", "--dir", "nameonly"): "2",
        (valid, "--peers", "none", "--dir", f"x={tmp_path}"): "is missing",
    }.items():
        with pytest.raises(SystemExit, match=message):
            compare.main([str(w) for w in words])


@pytest.mark.peer
@pytest.mark.parametrize("name", ["rnnoise", "dtln", "dfn3"])
def test_peers_are_aligned_and_leave_clean_speech(compare, valid, name):
    peers = importlib.import_module("denoise_peers")
    try:
        system = peers.PEERS[name]()
    except peers.MissingPeer as missing:
        pytest.skip(str(missing))
    clean, _ = audio.read(valid / "clean" / "m0.wav")
    system.reset()
    out, times = system.run(clean[0], 16000)
    assert len(out) == clean.shape[1]
    assert len(times) == -(-(clean.shape[1] * system.rate // 16000 + system.delay) // system.frame)
    spectrum = np.fft.rfft(out, 2 * len(out)) * np.conj(np.fft.rfft(clean[0], 2 * len(out)))
    lag = int(np.argmax(np.fft.irfft(spectrum)))
    assert lag == 0  # aligned to the sample
    assert 0.5 < np.std(out) / np.std(clean) < 1.2  # neither muted nor scaled
    system.reset()
    again, _ = system.run(clean[0], 16000)
    np.testing.assert_array_equal(again, out)  # nothing is left of the run before


@pytest.mark.peer
def test_table_with_peers(compare, valid, capsys):
    out = run(compare, capsys, valid, "--limit", 1, "--jobs", 1, "--runs", 1, "--seconds", 1)
    for column in ("PESQ-WB", "ESTOI", "SI-SDR", "SIG", "BAK", "OVRL", "RTF", "ratio", "p99"):
        assert column in out
    assert "| unprocessed |" in out
