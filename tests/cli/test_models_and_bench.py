"""audiomask models and audiomask bench: what they say is what the artifact and the clock say."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile as sf

from audiomask.cli import bench
from audiomask.runtime import catalogue
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.session import Session


def test_no_models(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "PRETRAINED", tmp_path)
    done = cli("models")
    assert done.code == 0
    assert "no models ship" in done.out


def test_list_and_card(cli, toys, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "PRETRAINED", tmp_path)
    toys.build(tmp_path / "toy_16k.onnx", name="toy_16k", scores={"pesq": 2.5})
    listed = cli("models").out
    assert "toy_16k  enhance  16000        32.0" in listed
    assert "a delayed one-pole low-pass" in listed
    card = cli("models", "toy_16k").out
    assert "latency 32.0 ms (delay 16.0 + hop 16.0)" in card
    assert "control strength: 0.0 to 1.0, default 1.0" in card
    assert '{"pesq": 2.5}' in card
    (tmp_path / "toy_16k.md").write_text("# A card\n")
    assert cli("models", "toy").out == "# A card\n"
    (facts,) = json.loads(cli("models", "--json").out)
    assert (facts["name"], facts["hop"], facts["state_bytes"]) == ("toy_16k", 256, 257 * 4 + 8)
    assert "initial" not in facts["states"][0]
    assert cli("models", "other").code == 1


def test_bench(cli, toy):
    done = cli("bench", "-m", toy, "--seconds", "0.5", "--json")
    assert done.code == 0
    small, large = json.loads(done.out)
    assert (small["model"], small["delay_ms"], small["latency_ms"]) == ("toy_16k", 16, 32)
    assert small["state_bytes"] == 257 * 4 + 8
    assert (large["sample_rate"], large["block_ms"]) == (48000, 16)
    for r in (small, large):
        assert 0 < r["p50_ms"] <= r["p95_ms"] <= r["p99_ms"] <= r["max_ms"]
        # The mean is at least half of the median, which half of the blocks reach, and at most the longest.
        assert r["p50_ms"] / 2 <= r["rtf"] * r["block_ms"] <= r["max_ms"] * (1 + 1e-9)
        assert r["p99_share"] == pytest.approx(r["p99_ms"] / r["block_ms"])
    words = cli(
        "bench", "-m", toy / "toy_16k.onnx", "--seconds", "0.2", "--rate", "48000", "--block", "10"
    ).out
    assert words.splitlines()[0].split()[:2] == ["model", "Hz"]
    assert words.splitlines()[1].split()[:4] == ["toy_16k", "48000", "1", "10.0"]


def test_a_model_that_is_told_of_losses(cli, repeats, monkeypatch):
    """The card says so; bench tells it, alone and stacked, of a tenth."""
    card = cli("models", repeats / "repeat_16k.onnx").out
    assert "conceals losses that it is told of (lost): audiomask conceal, stream --packets, serve" in card
    told, feeding = [], Session.feeding
    monkeypatch.setattr(
        Session, "feeding", lambda s, x, lost=None: (told.append(lost), feeding(s, x, lost))[1]
    )
    rows = json.loads(cli("bench", "-m", repeats, "--seconds", "2", "--json").out)
    assert [r["model"] for r in rows] == ["repeat_16k", "repeat_48k"]
    assert all(flags is not None for flags in told)
    assert 0.05 < np.concatenate(told).mean() < 0.15


def test_bench_of_several_blocks_and_threads(cli, toy16):
    words = ("--seconds", "0.2", "--block", "10,32", "--threads", "1,2", "--channels", "2", "--json")
    rows = json.loads(cli("bench", "-m", toy16, *words).out)
    assert [(r["threads"], r["block_ms"]) for r in rows] == [(1, 10), (1, 32), (2, 10), (2, 32)]
    for r in rows:
        assert r["state_bytes"] == 2 * (257 * 4 + 8)
        assert r["sessions"] == 16
        assert 0 < r["round_p50_ms"] <= r["round_p99_ms"]
        assert r["sessions_per_core"] * r["cpu_ms_per_block"] == pytest.approx(r["block_ms"])
    head = cli("bench", "-m", toy16, "--seconds", "0.1").out.splitlines()[0]
    assert head.endswith("state bytes  sessions/core")


def test_bench_of_a_tagger_and_without_stacks(cli, tagger16):
    (facts,) = json.loads(cli("bench", "-m", tagger16, "--seconds", "1", "--json", "--sessions", "2").out)
    assert (facts["model"], facts["block_ms"], facts["delay_ms"], facts["latency_ms"]) == (
        "toy_tagger", 100, 0, 100
    )  # fmt: skip
    assert facts["sessions"] == 2
    assert facts["rtf"] > 0
    head = cli("bench", "-m", tagger16, "--seconds", "0.5", "--sessions", "0").out.splitlines()[0]
    assert head.endswith("state bytes")
    assert cli("bench", "-m", tagger16, "--sessions", "65").code == 2
    assert "probabilities of 3 labels: loud, quiet, a third, never" in cli("models", tagger16).out


@pytest.mark.parametrize("stacked", [True, False])
def test_rounds_of_sessions(toy16, stacked, monkeypatch):
    """Every session gets every block, whichever way."""
    artifact = Artifact.load(toy16)
    sessions = [Session(artifact, controls={"strength": 0.0}) for _ in range(3)]
    fed = Counter()
    feeding = Session.feeding
    monkeypatch.setattr(
        Session, "feeding", lambda s, x, lost=None: (fed.update([(s, x.size)]), feeding(s, x))[1]
    )
    facts = bench.many(sessions, 100, 10, stacked=stacked)
    assert fed == {(s, 100): 10 + bench.WARM_UP for s in sessions}
    assert facts["sessions"] == 3


def test_bench_on_a_recording(cli, toy16, tmp_path):
    sf.write(tmp_path / "a.wav", np.zeros(1000), 16000)
    assert cli("bench", "-m", toy16, "--seconds", "0.2", "--audio", tmp_path / "a.wav").code == 0
    done = cli("bench", "-m", toy16, "--audio", tmp_path / "a.wav", "--rate", "8000")
    assert done.code == 2
    assert "has 16000 Hz, the session 8000; give --rate 16000" in done.err
    assert cli("bench", "-m", toy16, "--seconds", "0").code == 2
    for wrong in (("--block", "10,0"), ("--block", "ten"), ("--threads", "1,0"), ("--threads", "")):
        assert cli("bench", "-m", toy16, *wrong).code == 2
