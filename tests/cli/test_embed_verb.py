"""audiomask embed: vectors of recordings, from an artifact and from weights."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from toy_tagger import HOP, loud

NET = {"frames": 64, "bands": 32, "width": 16, "depth": 1, "heads": 2, "classes": 2}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in/sub").mkdir(parents=True)
    return tmp_path


def wav(path, samples, rate=16000, channels=1):
    x = np.random.default_rng(samples).uniform(-0.1, 0.1, (samples, channels)).astype(np.float32)
    sf.write(path, x, rate, subtype="FLOAT")
    return x.T


@pytest.fixture
def encoder(tmp_path):
    torch = pytest.importorskip("torch")
    from audiomask import weights
    from audiomask.models.vit_tagger import ViTTagger

    torch.manual_seed(0)
    front = {"class_path": "audiomask.frontend.logmel.LogMel", "init_args": {"frames": 64, "bands": 32}}
    config = {"class_path": "audiomask.models.vit_tagger.ViTTagger", "init_args": NET, "frontend": front}
    weights.save(tmp_path / "run/model", ViTTagger(**NET), config)
    return tmp_path / "run"


def test_scenes_of_an_artifact(here, cli, tagger16):
    a, b = wav("in/a.wav", 5 * HOP)[0], wav("in/sub/b.wav", 2 * HOP + 1)[0]
    done = cli("embed", "in", "missing.wav", "-m", tagger16, "-o", "e.npz")
    assert done.code == 1
    assert "missing.wav: no such file" in done.err
    found = np.load("e.npz")
    assert found["names"].tolist() == ["in/a.wav", "in/sub/b.wav"]
    assert found["embeddings"].dtype == np.float32
    wanted = [[loud(a)[1:].mean(), 1], [loud(b)[1], 1]]
    np.testing.assert_allclose(found["embeddings"], wanted, rtol=1e-5)
    assert cli("embed", "in", "-m", tagger16, "-o", "v").code == 0
    np.testing.assert_array_equal(np.load("v/sub/b.npy"), found["embeddings"][1])
    again = cli("embed", "in", "-m", tagger16, "-o", "v")
    assert "v/a.npy: exists already" in again.err


def test_rows_of_an_artifact(here, cli, tagger16):
    a, b = wav("in/a.wav", 5 * HOP)[0], wav("in/sub/b.wav", 2 * HOP + 1)[0]
    assert cli("embed", "in", "-m", tagger16, "-o", "e.npz", "--timestamps", "-q").err == ""
    found = np.load("e.npz")
    assert found["offsets"].tolist() == [0, 5, 7]  # the last middle, at 250 ms, is past the end
    np.testing.assert_allclose(found["embeddings"][:, 0], np.concatenate([loud(a), loud(b)[:2]]), rtol=1e-5)
    np.testing.assert_allclose(found["times_ms"], [50, 150, 250, 350, 450, 50, 150])
    assert cli("embed", "in", "-m", tagger16, "-o", "v", "--timestamps").code == 0
    own = np.load("v/sub/b.npz")
    np.testing.assert_array_equal(own["embeddings"], found["embeddings"][5:])
    np.testing.assert_array_equal(own["times_ms"], found["times_ms"][5:])


def test_weights(here, cli, encoder):
    """As the API of HEAR on the samples of the file; at another rate and in stereo nearly so."""
    import torch

    from audiomask import hear

    x = wav("in/a.wav", 30000)
    sf.write("in/b.wav", np.repeat(x, 2, 0).T, 16000, subtype="FLOAT")
    wav("in/c.wav", 100, 44100, 6)
    assert cli("embed", "in", "-m", encoder, "-o", "e.npz").code == 0
    found = np.load("e.npz")["embeddings"]
    model = hear.load_model(encoder)
    np.testing.assert_allclose(found[0], hear.get_scene_embeddings(torch.from_numpy(x), model)[0], atol=1e-6)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    assert found.shape == (3, 16)
    assert np.isfinite(found).all()
    assert cli("embed", "in", "-m", encoder, "-o", "v", "--timestamps").code == 0
    values, times = hear.get_timestamp_embeddings(torch.from_numpy(x), model)
    own = np.load("v/a.npz")
    np.testing.assert_allclose(own["embeddings"], values[0], atol=1e-6)
    np.testing.assert_array_equal(own["times_ms"], times[0])


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["in"], 2, "say where to write with -o"),
        (["in", "-o", "-"], 2, "say where to write with -o"),
        (["no.wav", "-o", "e.npz"], 1, "e.npz: not written"),
        (["in", "-o", "no/e.npz"], 1, "its folder does not exist"),
    ],
)
def test_wrong_usage(here, cli, tagger16, words, code, text):
    wav("in/a.wav", 100)
    done = cli("embed", *words, "-m", tagger16)
    assert done.code == code
    assert text in done.err
    assert sorted(p.name for p in here.iterdir()) == ["in"]


def test_models_that_do_not_embed(here, cli, toy16):
    wav("in/a.wav", 100)
    done = cli("embed", "in", "-m", toy16, "-o", "e.npz")
    assert done.code == 1
    assert "toy_16k: is a model to enhance, whose output is pcm, not embedding" in done.err
