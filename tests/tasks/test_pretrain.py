"""Masked pretraining: what a row is, what the loss is of, and a run of `audiomask train` that is killed."""

import numpy as np
import pytest
import soundfile as sf
import torch
from patch_mask import Plain
from training import ROOT, checkpoint, train, train_and_kill

from audiomask.audio import AudioError
from audiomask.data.kaldi import DataDir
from audiomask.data.loading import PackedAudio, pack
from audiomask.frontend.logmel import LogMel
from audiomask.masks.patches import tokens
from audiomask.models.audio_mae import AudioMae
from audiomask.tasks.pretrain import Clips, Crops, Pretrain, some

TINY = {
    "frames": 64, "bands": 32, "width": 16, "depth": 2, "heads": 2,
    "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2,
}  # fmt: skip


def task(decoder="window", **options) -> Pretrain:
    torch.manual_seed(0)
    return Pretrain(AudioMae(decoder=decoder, **TINY), Plain(), LogMel(frames=64, bands=32), **options)


def batch(rows=3, samples=10400):
    g = torch.Generator().manual_seed(1)
    return {"audio": 0.1 * torch.randn(rows, samples, generator=g), "seed": torch.arange(rows) + 7}


def test_the_loss_is_over_the_rows_own_hidden_patches():
    run = task()
    rows = batch()
    loss = run.training_step(rows, 0)
    x = run.frontend(rows["audio"])
    squares = []
    for i in range(3):
        mask = Plain().sample(rows["seed"][i : i + 1], (4, 2))
        visible, hidden = tokens(mask)
        guess, target = run.model(x[i : i + 1], visible, hidden)
        squares.append((guess - target).square().mean())
    assert loss.item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in run.model.parameters())


def test_a_part_of_the_hidden_patches_is_the_rows_own():
    hidden = torch.arange(40).expand(3, -1) * 2
    seeds = torch.tensor([5, 6, 2**61])
    part = some(hidden, 0.25, seeds)
    assert part.shape == (3, 10)
    assert (part.diff() > 0).all()
    assert (part % 2 == 0).all()
    assert torch.equal(part[1:2], some(hidden[:1], 0.25, seeds[1:2]))
    assert not torch.equal(part[0], part[1])
    assert some(hidden, 1.0, seeds) is hidden
    run, sizes = task("cross", share=0.5), []
    run.model.register_forward_hook(lambda module, inputs, y: sizes.append(y[0].shape[1]))
    run.training_step(batch(), 0)
    assert sizes == [3]  # of the 6 that are hidden


def test_validation_hides_the_same_each_time(monkeypatch):
    run, logged = task(), []
    monkeypatch.setattr(run, "log_dict", lambda values, **kwargs: logged.append(float(values["val/loss"])))
    shown = {}
    monkeypatch.setattr(run, "_show", lambda name, pictures: shown.update(pictures))
    for step in range(2):
        torch.manual_seed(step)
        with torch.no_grad():
            run.validation_step(batch(1), 0)
    assert logged[0] == logged[1] > 0
    x = run.frontend(batch(1)["audio"])[0]
    assert torch.equal(shown["original"], x)
    hidden = (shown["masked"] != x).float().mean()
    assert hidden == pytest.approx(0.75, abs=0.01)
    assert torch.equal(shown["reconstructed"] != x, shown["masked"] != x) or hidden < 0.76


def test_disagreements_are_refused():
    with pytest.raises(AudioError, match=r"frontend has 128 bands and patches of 16, the model 32 and 16"):
        Pretrain(AudioMae(**TINY), Plain(), LogMel())
    with pytest.raises(AudioError, match="decoder 'window' computes all patches"):
        task(share=0.5)
    with pytest.raises(AudioError, match="share 0"):
        task("cross", share=0)


@pytest.fixture
def corpus(tmp_path):
    """Three recordings, a ramp each, so that every sample tells where it is from."""
    entries = []
    for i, n in enumerate((3000, 500, 8000)):
        x = (0.1 * (i + 1) + np.arange(n) * 1e-5).astype(np.float32)
        entries.append((f"r{i}", f"r{i}", lambda x=x: x))
    pack(entries, tmp_path / "corpus", 16000)
    return PackedAudio(tmp_path / "corpus")


def test_rows_replay_and_differ(corpus):
    rows = Crops(corpus, 2000, seed=3)
    a, b = rows[11], rows[11]
    assert torch.equal(a["audio"], b["audio"])
    assert a["seed"] == b["seed"]
    assert a["audio"].dtype == torch.float32
    assert a["audio"].shape == (2000,)
    assert a["seed"] != rows[12]["seed"] != Crops(corpus, 2000, seed=4)[12]["seed"]


def test_crops_are_rolled_and_scaled(corpus):
    gains, breaks = [], []
    for row in range(60):
        plain, changed = (Crops(corpus, 2000, augment)[row]["audio"] for augment in (False, True))
        gain = float(changed.mean() / plain.mean())
        spectra = [torch.fft.rfft(x - x.mean()) for x in (changed, plain)]
        at = int(torch.fft.irfft(spectra[0] * spectra[1].conj()).argmax())  # where they agree best
        assert torch.allclose(changed.roll(-at), plain * gain, atol=1e-4)
        gains.append(gain)
        breaks.append(at)
    assert 0.95 < np.mean(gains) < 1.05
    assert 0.6 < min(gains) < 0.9 < 1.1 < max(gains) < 1.4
    assert np.std(breaks) > 300


def test_clips_are_cut_and_numbered(tmp_path):
    for key, n in (("a", 5000), ("b", 20000)):
        sf.write(tmp_path / f"{key}.wav", 0.1 * np.random.default_rng(0).standard_normal(n), 16000)
    DataDir({"wav.scp": {"a": "a.wav", "b": "b.wav"}}).write(tmp_path)
    clips = Clips(tmp_path, 16000, 16000)
    assert [(c["key"], len(c["audio"]), int(c["seed"])) for c in (clips[0], clips[1])] == [
        ("a", 5000, 0), ("b", 16000, 1),
    ]  # fmt: skip


OPTIONS = {
    "recipe": ROOT / "recipes/pretrain/audio_mae.yaml",
    "data__noise": None, "model__degrade__segment": None, "model__scored": None,
    **{f"model__model__{key}": value for key, value in TINY.items()},
    "model__frontend__frames": 64, "model__frontend__bands": 32, "model__warmup": 2,
    "data__segment": 10400,
}  # fmt: skip


@pytest.mark.timeout(600)
def test_a_run_killed_and_resumed_equals_one_that_was_not(data, tmp_path):
    out = tmp_path / "killed"
    steps = train_and_kill(data, out, **OPTIONS) + 6
    train(data, out, steps, **OPTIONS)
    train(data, tmp_path / "whole", steps, **OPTIONS)
    whole, resumed = checkpoint(tmp_path / "whole"), checkpoint(out)
    assert whole["global_step"] == resumed["global_step"] == steps
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert (out / "model/model.safetensors").stat().st_size > 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "whole/tensorboard"))
    events.Reload()
    assert {"0/original", "0/masked", "0/reconstructed"} <= set(events.Tags()["images"])
    assert "val/loss" in events.Tags()["scalars"]


def test_it_learns_what_can_be_guessed():
    """Tones: a band that is loud in one patch is so in the others. Every step a new batch; after 150 of them
    the guesses of unseen rows are better than the best that knows nothing, which has a loss of 1."""
    run = task(lr=3e-3)
    optimizer = torch.optim.AdamW(run.model.parameters(), 3e-3, (0.9, 0.95))
    t = torch.arange(10400) / 16000

    def tones(step):
        g = torch.Generator().manual_seed(step)
        pitch = 300 + 3000 * torch.rand(8, 1, generator=g)
        noise = 0.003 * torch.randn(8, len(t), generator=g)
        return {"audio": 0.1 * (2 * torch.pi * pitch * t).sin() + noise, "seed": torch.arange(8) + 8 * step}

    for step in range(150):
        loss = run.training_step(tones(step), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert run.training_step(tones(1000), 0) < 0.7


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_compiled_network_trains_in_bfloat16(data, tmp_path, monkeypatch):
    """With the C++ that the compiler wrote as the witness that it was there."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    options = OPTIONS | {"data__steps": 2, "trainer__precision": "bf16-mixed", "model__compile": True}
    train(data, tmp_path / "out", 2, **options)
    assert list((tmp_path / "compiled").rglob("*.cpp"))
    trained = checkpoint(tmp_path / "out")["state_dict"]
    assert set(trained) == {f"model.{name}" for name in task().model.state_dict()}  # as without the compiler
    assert all(value.isfinite().all() for value in trained.values())
