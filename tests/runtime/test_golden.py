"""Models that ship give the samples of their release, and files of format 1 those of 08a0d69."""

from pathlib import Path

import numpy as np
import pytest

from audiomask.audio import read
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import shipped
from audiomask.runtime.player import Player
from audiomask.runtime.session import Session

SPEECH = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo/mixture_noisy.flac"
GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-5  # of the peak: processors add in other orders; on one and the same it is below 1e-6
SHIPPED = np.load(GOLDEN / "shipped.npz")


@pytest.mark.parametrize("name", SHIPPED.files)
def test_shipped_models_give_the_samples_of_their_release(name):
    (artifact,) = (a for a in shipped() if a.path.stem == name)
    rng, n = np.random.default_rng(7), int(0.3 * artifact.sample_rate) * (4 if artifact.task == "tag" else 1)
    x = np.resize(read(SPEECH)[0][0, 16000:], n)
    if artifact.streams[0].channels == 2:
        x = np.stack([x, np.roll(x, 500)])
    lost = np.repeat(rng.random(n // artifact.hop + 1) < 0.2, artifact.hop)[:n]
    player = Player(artifact)
    port = player.ports[0].name
    first = player.feed(x, lost if artifact.lost else None)[port]
    y = np.concatenate([first, player.flush()[port]], 1)
    want = np.atleast_2d(SHIPPED[name])
    assert y.shape == want.shape
    assert np.abs(y - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("name", ["sieve", "darn"])
def test_files_of_format_1_load_and_give_their_samples(name):
    """Their controls are called constants, and what is lost is a mask."""
    artifact = Artifact.load(GOLDEN / f"{name}.onnx")
    assert artifact.meta["format"] == 1
    assert {p.kind for p in artifact.inputs} <= {"stream", "control"}
    rng = np.random.default_rng(0)
    x = (0.1 * rng.standard_normal(4000)).astype(np.float32)
    lost = np.repeat(rng.random(4000 // 160) < 0.3, 160)
    session = Session(artifact, controls={"strength": 0.5} if name == "sieve" else None)
    told = lost if artifact.lost else np.zeros(4000)
    parts = [session.feed(x[:1000], told[:1000]), session.feed(x[1000:], told[1000:]), session.flush()]
    want = np.load(GOLDEN / f"{name}.npy")
    assert np.abs(np.concatenate(parts) - want).max() <= TOLERANCE * np.abs(want).max()
