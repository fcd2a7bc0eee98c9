"""The API of HEAR: what its validator asks of a module, from weights and from an artifact."""

import numpy as np
import pytest
import torch

from audiomask import hear, weights
from audiomask.audio import AudioError
from audiomask.frontend.logmel import LogMel
from audiomask.models.audio_mae import AudioMae
from audiomask.models.vit_tagger import ViTTagger

NET = {"frames": 64, "bands": 32, "width": 16, "depth": 2, "heads": 2}
MODELS = {
    "audio_mae.AudioMae": (AudioMae, {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}),
    "vit_tagger.ViTTagger": (ViTTagger, {"classes": 3}),
}


def save(folder, name, frontend=True):
    torch.manual_seed(0)
    cls, more = MODELS[name]
    config = {"class_path": f"audiomask.models.{name}", "init_args": {**NET, **more}}
    if frontend:
        config["frontend"] = {
            "class_path": "audiomask.frontend.logmel.LogMel",
            "init_args": {"corpus": "esc", "frames": 64, "bands": 32},
        }
    model = cls(**NET, **more).eval()
    weights.save(folder / "model", model, config)
    return model


@pytest.fixture(params=[*MODELS, "artifact"])
def model(request, tmp_path):
    if request.param == "artifact":
        return hear.load_model(request.getfixturevalue("tagger16"))
    save(tmp_path, request.param)
    return hear.load_model(str(tmp_path))


def noise(rows, samples):
    return torch.rand(rows, samples, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_what_the_validator_asks(model):
    """Its checks, of hearvalidator 2021.0.2, at its sizes."""
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate in (16000, 22050, 44100, 48000)
    assert type(model.scene_embedding_size) is int
    assert type(model.timestamp_embedding_size) is int
    values, times = hear.get_timestamp_embeddings(noise(16, 2 * model.sample_rate), model)
    assert (values.dtype, times.dtype) == (torch.float32, torch.float32)
    assert values.shape == (16, times.shape[1], model.timestamp_embedding_size)
    assert times.shape[0] == 16
    steps = times.diff()
    assert (steps - steps.mean()).abs().max() < 1e-3
    assert 0 < times[0, 0] < times[0, -1] < 2000 + float(steps[0, 0])  # ms
    scene = hear.get_scene_embeddings(noise(8, int(3.74 * model.sample_rate)), model)
    assert (scene.dtype, scene.shape) == (torch.float32, (8, model.scene_embedding_size))
    assert not scene.requires_grad


@pytest.mark.parametrize("samples", [1, 399, 400, 2799, 2800, 10480, 40000])
def test_any_length(model, samples):
    scene = hear.get_scene_embeddings(noise(2, samples), model)
    values, times = hear.get_timestamp_embeddings(noise(2, samples), model)
    assert scene.isfinite().all()
    assert values.isfinite().all()
    assert times.shape[1] == values.shape[1] > 0


def test_it_is_deterministic_and_rows_are_independent(model):
    x = noise(3, 30000)
    first = hear.get_scene_embeddings(x, model)
    assert torch.equal(first, hear.get_scene_embeddings(x, model))
    torch.testing.assert_close(first[1:2], hear.get_scene_embeddings(x[1:2], model), rtol=1e-4, atol=1e-5)
    broken = x.clone()
    broken[0, 5] = torch.nan
    assert hear.get_scene_embeddings(broken, model).isfinite().all()


def test_what_is_no_batch_is_refused(model):
    for wrong in (torch.zeros(100), torch.zeros(0, 100), torch.zeros(2, 0), torch.zeros(1, 2, 3)):
        with pytest.raises(ValueError, match="need \\[n_sounds, n_samples\\]"):
            hear.get_scene_embeddings(wrong, model)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_of_weights_it_is_the_network_on_its_pieces(tmp_path, name):
    """Pieces of 64 frames, columns of two patches; a scene is the mean of all."""
    net = save(tmp_path, name)
    model, x = (
        hear.load_model(tmp_path),
        noise(2, 24000),
    )  # 148 frames: two pieces of 4 columns, and 2 columns
    picture = LogMel("esc", frames=0, bands=32)(x)
    tokens = [net.features(picture[:, a : a + 64])[:, 1:] for a in (0, 64, 128)]
    columns = torch.cat([t.reshape(2, -1, 2, 16).mean(2) for t in tokens], 1)
    values, times = hear.get_timestamp_embeddings(x, model)
    torch.testing.assert_close(values, columns[:, :9])  # the tenth would be at 1527.5 ms, of 1500
    torch.testing.assert_close(hear.get_scene_embeddings(x, model), torch.cat(tokens, 1).mean(1))
    # of the first column, from 0 to (15 * 10 + 25) ms, the middle
    np.testing.assert_allclose(times[1], 87.5 + 160 * np.arange(9))


def test_what_cannot_embed_is_named(tmp_path, toy16):
    save(tmp_path, "audio_mae.AudioMae", frontend=False)
    with pytest.raises(AudioError, match="nothing says what makes its pictures"):
        hear.load_model(tmp_path)
    with pytest.raises(AudioError, match="whose output is pcm, not embedding"):
        hear.load_model(toy16)
    with pytest.raises(AudioError, match=r"no\.onnx: cannot be read"):
        hear.load_model(tmp_path / "no.onnx")
    with pytest.raises(AudioError, match="Linear: is no encoder of pictures"):
        hear.Encoder(torch.nn.Linear(1, 1), LogMel())
