"""Frozen features against direct computations, and the two classifiers on them against their definitions."""

import numpy as np
import pytest
import soundfile as sf
import torch

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.kaldi.directory import DataDir
from audiomask.frontend.logmel import LogMel
from audiomask.models.audio_mae import AudioMae
from audiomask.models.gtcrn import GTCRN
from audiomask.models.vit_tagger import ViTTagger
from audiomask.tasks import encoders

SMALL = {"frames": 64, "bands": 32, "width": 16, "depth": 2, "heads": 2}
FRONTEND = {"class_path": "audiomask.frontend.logmel.LogMel", "init_args": {"frames": 64}}
HEARD = {"frontend": FRONTEND}
TINY = SMALL | {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}


def saved(folder, kind=AudioMae, arguments=TINY, said=HEARD):
    torch.manual_seed(0)
    model = kind(**arguments)
    name = f"{kind.__module__}.{kind.__qualname__}"
    weights.save(folder, model, {"class_path": name, "init_args": arguments} | said)
    return model.eval()


@pytest.fixture
def sounds(tmp_path):
    """Clips of 1 s, of 1.5 windows, and one shorter than a patch."""
    random = np.random.default_rng(0)
    for key, n in (("a", 16000), ("b", 15600), ("c", 500)):
        sf.write(tmp_path / f"{key}.wav", 0.1 * random.standard_normal(n), 16000, "FLOAT")
    data = DataDir({"wav.scp": {key: f"{key}.wav" for key in "abc"}})
    data.write(tmp_path)
    return DataDir.read(tmp_path)


@torch.no_grad()
def test_a_clip_is_the_mean_of_its_patches_in_windows(sounds, tmp_path):
    model = saved(tmp_path / "exp")
    loaded, frontend = encoders.load(tmp_path / "exp")
    found = encoders.features(loaded, frontend, sounds, batch=2)
    assert found.shape == (3, 16)
    for row, key in enumerate("abc"):
        x = torch.from_numpy(sf.read(tmp_path / f"{key}.wav", dtype="float32")[0])[None]
        whole = LogMel(frames=0, bands=32)(x)
        tokens = [model.norm(model.encode(part))[0, 1:] for part in whole.split(64, dim=1)]
        assert len(tokens) == (1 if key == "c" else 2)
        assert torch.allclose(found[row], torch.cat(tokens).mean(0), atol=1e-5)
    first = encoders.features(loaded, frontend, sounds, layers=[1])
    both = encoders.features(loaded, frontend, sounds, layers=[2, 1])
    last, whole = model.encode(whole)[0, 1:].mean(0), model.blocks[0](model.embed(whole))[0, 1:].mean(0)
    assert torch.allclose(both[2], torch.cat([last, whole]), atol=1e-5)
    assert torch.allclose(both[:, 16:], first, atol=1e-5)
    with pytest.raises(AudioError, match=r"layers \[3\]: the model has blocks 1 to 2"):
        encoders.features(loaded, frontend, sounds, layers=[3])


def test_any_encoder_is_loaded_with_the_front_end_of_its_run(tmp_path):
    said = {"frontend": FRONTEND | {"init_args": {"mean": -3.0, "frames": 64}}}
    saved(tmp_path / "run/model", ViTTagger, SMALL | {"classes": 3}, said)
    for folder in ("run", "run/model"):
        made = encoders.load(tmp_path / folder)[1]
        assert (made.mean, made.bands, made.frames) == (-3.0, 32, 0)
    assert encoders.load(tmp_path / "run", "esc")[1].mean == LogMel("esc").mean
    saved(tmp_path / "mute", said={})
    assert encoders.load(tmp_path / "mute", "esc")[1].mean == LogMel("esc").mean
    with pytest.raises(AudioError, match="nothing says what makes its pictures"):
        encoders.load(tmp_path / "mute")
    saved(tmp_path / "gtcrn", GTCRN, {})
    with pytest.raises(AudioError, match=r"audiomask.models.gtcrn.GTCRN is no ViT"):
        encoders.load(tmp_path / "gtcrn")


def test_what_cannot_be_used_is_named(sounds, tmp_path):
    saved(tmp_path / "exp")
    loaded, frontend = encoders.load(tmp_path / "exp")
    sf.write(tmp_path / "b.wav", np.zeros(100), 16000)
    with pytest.raises(AudioError, match="b: a clip of 100 samples is shorter than one frame"):
        encoders.features(loaded, frontend, sounds)
    sf.write(tmp_path / "b.wav", np.zeros(4000), 16000)
    assert encoders.features(loaded, frontend, sounds).isfinite().all()


def test_nearest_neighbours_vote():
    known = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    target = torch.eye(3)[[0, 0, 1, 1, 2]]
    asked = torch.tensor([[5.0, 0.2], [0.1, 3.0], [-2.0, 0.1]])
    assert encoders.votes(known, target, asked, 3).argmax(1).tolist() == [0, 1, 2]
    by_number = encoders.votes(known, target, asked[2:], 5, temperature=1e6)  # 2 to 2 to 1
    assert by_number.argmax(1).tolist() != [2]


def test_votes_are_weighted_by_nearness():
    g = torch.Generator().manual_seed(0)
    known, asked = torch.randn(40, 5, generator=g), torch.randn(30, 5, generator=g)
    labels = torch.arange(40) % 4
    scores = encoders.votes(known, torch.eye(4)[labels], asked, 7)
    assert torch.allclose(scores.sum(1), torch.ones(30))
    for row, x in zip(scores, asked, strict=True):
        cosine = torch.cosine_similarity(known, x[None])
        near = cosine.topk(7).indices
        wanted = [(cosine[near] / 0.07).exp()[labels[near] == k].sum() for k in range(4)]
        torch.testing.assert_close(row, torch.stack(wanted) / sum(wanted))
    target = torch.zeros(40, 4)
    target[3, 1:] = 1
    assert torch.equal(encoders.votes(known, target, known[3:4], 1), torch.tensor([[0.0, 1, 1, 1]]))


def test_standardised():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9, 0]) + 4
    known, other = encoders.standardised(x, x[:2])
    assert torch.allclose(known[:, :2].mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(known[:, :2].std(0, correction=0), torch.ones(2), atol=1e-5)
    assert torch.equal(known[:2], other)
    assert (known[:, 2] == 0).all()


@pytest.mark.parametrize("multi", [False, True])
def test_the_regression_is_at_its_minimum(multi):
    """Where the gradient is nothing: X' (p - y) / N + l2 W = 0, and the mean of p - y; from any start."""
    random = np.random.default_rng(0)
    x = random.standard_normal((60, 4))
    y = np.eye(3)[random.integers(3, size=60)]
    if multi:
        y = np.maximum(y, random.random((60, 3)) < 0.3)
    probe = encoders.Logistic(4, 3, multi).fit(torch.from_numpy(x), torch.from_numpy(y), 3.0)
    probe.fit(torch.from_numpy(x), torch.from_numpy(y), 0.05)
    weight, bias = probe.weight.detach().numpy(), probe.bias.detach().numpy()
    z = x @ weight.T + bias
    p = 1 / (1 + np.exp(-z)) if multi else np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert np.abs((p - y).T @ x / 60 + 0.05 * weight).max() < 1e-5
    assert np.abs((p - y).mean(0)).max() < 1e-5
    assert np.allclose(probe.scores(torch.from_numpy(x)), z, atol=1e-5)
