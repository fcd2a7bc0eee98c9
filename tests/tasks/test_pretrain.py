"""Masked pretraining: what a row is, what the loss is of, and a run of `audiomask train` that is killed."""

import numpy as np
import pytest
import soundfile as sf
import torch
from patch_mask import Plain
from small_trainings import ROOT, checkpoint, killed_equals_whole, same_weights, train

from audiomask.audio import AudioError
from audiomask.data.crops.clips import Clips, Crops, confidences
from audiomask.data.crops.packed import PackedAudio, pack
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.modules import Sounds
from audiomask.frontend.logmel import LogMel
from audiomask.masks.patches.jepa import Curriculum
from audiomask.masks.patches.learned import Hardest
from audiomask.masks.patches.patterns import Disjoint, Frequency, Random, Time, tokens
from audiomask.masks.patches.scored import Confidence
from audiomask.masks.patches.staged import Staged
from audiomask.models.audio_mae import AudioMae
from audiomask.models.hpm import HPM, ranking
from audiomask.tasks.pretrain import Pretrain, some

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
    monkeypatch.setattr(run, "picture", lambda name, x, *_: shown.update({name.split("/")[1]: x}))
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


def masked_task(mask, kind=AudioMae, **options) -> Pretrain:
    torch.manual_seed(0)
    run = Pretrain(kind(**TINY), mask, LogMel(frames=64, bands=32), **options)
    run.log = lambda *args, **kwargs: None
    return run


def drawn(run, rows, training=True):
    """What `run` hides of a batch, bool `[B, 8]`."""
    with torch.no_grad():
        x, _, _, hidden = run._hide(rows, run.frontend(rows["audio"]), training)
    return torch.zeros(len(x), 8, dtype=torch.bool).scatter(1, hidden, True)


def half_silent(rows=2):
    """Noise in the first 21 frames, then next to nothing; at the end of the picture nothing at all."""
    audio = 1e-4 * torch.randn(rows, 9000, generator=torch.Generator().manual_seed(0))
    audio[:, :3500] *= 1000
    return {"audio": audio, "seed": torch.arange(rows) + 3}


def test_masks_look_at_the_picture_before_it_is_normalised():
    from audiomask.masks.patches.scored import Dispersion, Segments, Speech, cut, dispersion

    run, rows = masked_task(Speech(0.5)), half_silent()
    levels = run.frontend.raw(rows["audio"])  # 54 frames
    quietest = [min(row, key=lambda frame: frame.exp().sum()) for row in levels]
    padded = torch.cat([levels, torch.stack(quietest)[:, None].expand(-1, 10, -1)], 1)
    assert torch.allclose(run._levels(run.frontend(rows["audio"]), 9000), padded, atol=1e-4)
    for mask, scores in (
        (Dispersion(0.5), dispersion(cut(padded))),
        (Speech(0.5), Speech().look(padded, (16, 16))),
        (Segments(0.5), Segments().look(padded, (16, 16))),
    ):
        wanted = mask.sample(rows["seed"], (4, 2), scores).flatten(1)
        assert torch.equal(drawn(masked_task(mask), rows), wanted)
        assert torch.equal(drawn(masked_task(mask), rows, training=False), wanted)
        alone = {key: value[1:] for key, value in rows.items()}
        assert torch.equal(drawn(masked_task(mask), alone), wanted[1:])


def test_disjoint_views_are_rows_that_together_predict_everything():
    mask, rows = Disjoint(Random(0.75), 4), batch(3)
    run, sizes = masked_task(mask), []
    views = drawn(run, rows).view(3, 4, 8)
    assert (views.sum((1, 2)) == 4 * 6).all()
    assert views.sum(1).eq(3).all()  # hidden in three views, seen in one
    run.model.register_forward_hook(lambda module, inputs, y: sizes.append(inputs[0].shape[0]))
    loss = run.training_step(rows, 0)
    assert sizes == [12]
    x, squares = run.frontend(rows["audio"]), []
    for i in range(3):
        for view in mask.sample(rows["seed"][i : i + 1], (4, 2))[0]:
            guess, target = run.model(x[i : i + 1], *tokens(view[None]))
            squares.append((guess - target).square().mean())
    assert loss.item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-5)


def test_a_mask_is_told_the_step(monkeypatch):
    mask, rows = Staged(100, early=Time(0.5), late=Frequency(0.5)), batch(3)
    run = masked_task(mask)
    monkeypatch.setattr(Pretrain, "global_step", 100)
    assert torch.equal(drawn(run, rows), Frequency(0.5).sample(rows["seed"], (4, 2)).flatten(1))
    assert torch.equal(drawn(run, rows, False), Random(0.5).sample(rows["seed"], (4, 2)).flatten(1))
    monkeypatch.setattr(Pretrain, "global_step", 0)
    assert torch.equal(drawn(run, rows), mask.sample(rows["seed"], (4, 2)).flatten(1))


def test_hard_patches_are_those_of_the_average(monkeypatch):
    monkeypatch.setattr(Pretrain, "global_step", 10)
    run, rows = masked_task(Hardest(steps=10, ratio=0.5, end=1.0), HPM), batch(3)
    with torch.no_grad():
        for p in run.model.parameters():
            p += 0.3 * torch.randn_like(p)  # since the average was taken
    hard = run.teacher.scores(run.frontend(rows["audio"])).flatten(1).argsort(1)[:, 4:]
    own = run.model.scores(run.frontend(rows["audio"])).flatten(1).argsort(1)[:, 4:]
    assert torch.equal(drawn(run, rows), torch.zeros(3, 8, dtype=torch.bool).scatter(1, hard, True))
    assert not torch.equal(hard.sort(1).values, own.sort(1).values)
    assert not torch.equal(drawn(run, rows, training=False), drawn(run, rows))
    guess, target, hardness = run.model(run.frontend(rows["audio"]), *tokens(drawn(run, rows).view(3, 4, 2)))
    errors = (guess - target).square().mean(2)
    wanted = errors.mean() + ranking(hardness, errors)
    assert run.training_step(rows, 0).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_average_follows_a_step_late(monkeypatch):
    run = masked_task(Hardest(steps=10), HPM, momentum=(0.5, 0.9), momentum_steps=4)
    monkeypatch.setattr(Pretrain, "global_step", 2)
    before = {name: p.clone() for name, p in run.teacher.named_parameters()}

    def step(*args):
        with torch.no_grad():
            for p in run.model.parameters():
                p += 1

    monkeypatch.setattr("pytorch_lightning.LightningModule.optimizer_step", lambda self, *args: step())
    run.optimizer_step(0, 0, None)
    for name, p in run.teacher.named_parameters():
        assert torch.allclose(p, before[name] + 0.3, atol=1e-6), name  # 1 - (.5 + .4 / 2) of the way
    assert {n for n, _ in run.named_parameters() if n.startswith("teacher.")}


def test_disagreements_are_refused():
    with pytest.raises(AudioError, match=r"Hardest needs scores .* HPM for Hardest"):
        masked_task(Hardest(steps=3))
    with pytest.raises(AudioError, match="Curriculum: its masks are a context and targets"):
        masked_task(Curriculum(steps=3))
    with pytest.raises(AudioError, match=r"Random: ratio 0.05 hides 0 of the 8 patches"):
        masked_task(Random(0.05))
    with pytest.raises(AudioError, match="momentum"):
        masked_task(Hardest(steps=3), HPM, momentum=(0.9, 1.0))
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


@pytest.fixture
def sure(tmp_path):
    """A directory of two recordings, with the confidences of four parts and of two."""
    for key, n in (("a", 8000), ("b", 12000)):
        sf.write(tmp_path / f"{key}.wav", np.linspace(-0.5, 0.5, n), 16000, "FLOAT")
    tables = {"wav.scp": {"a": "a.wav", "b": "b.wav"}, "utt2confidence": {"a": "0 .2 .4 .6", "b": "1 0"}}
    data = DataDir(tables)
    data.write(tmp_path)
    return tmp_path


def test_confidences_travel_with_their_samples(sure):
    cache = str(sure / "cache")
    sounds = Sounds(str(sure), str(sure), cache=cache, sample_rate=16000, segment=2000, confidence=True)
    sounds.prepare_data()
    beside = PackedAudio(sounds._pack_confidence())
    crops = Crops(PackedAudio(sounds._pack(str(sure))), 2000, True, beside=beside)
    for row in range(20):
        item = crops[row]
        plain = Crops(crops.corpus, 2000, False)[row]["audio"]
        assert torch.equal(item["audio"], Crops(crops.corpus, 2000)[row]["audio"])
        # a ramp: its height tells the place; both have 2000 samples
        falls = (item["audio"].diff() < -1e-3).nonzero()
        by = int(falls[0]) + 1 if len(falls) else 0
        confidence = item["confidence"].roll(-by)
        slope = float(plain.diff().mean())
        n, values = (8000, [0, 0.2, 0.4, 0.6]) if slope > 1 / 10000 else (12000, [1, 0])
        at = ((plain + 0.5) * (n - 1)).round().long()
        wanted = torch.tensor(values)[(at * len(values)).div(n, rounding_mode="floor")]
        assert (confidence - wanted).abs().gt(0.01).sum() <= 4  # 16 bits do not tell all samples apart


def test_masks_by_confidence(sure):
    run = masked_task(Confidence(0.5, top=0.5, span=1))
    columns = torch.tensor([[0.1, 0.9, 0.8, 0.2]])
    rows = batch(1) | {"confidence": columns.repeat_interleave(2560, 1)}
    assert drawn(run, rows).view(4, 2)[1:3].all()
    short = {"audio": rows["audio"][:, :9000], "seed": rows["seed"], "confidence": torch.ones(1, 9000)}
    assert run._columns(short["confidence"], run.frontend(short["audio"])).tolist() == [
        [1, 1, 1, pytest.approx((9000 - 3 * 2560) / 2560)]
    ]
    run.trainer = type("Trainer", (), {"datamodule": Sounds("a", "b", sample_rate=16000)})()
    with pytest.raises(AudioError, match=r"Confidence needs scores .* --data.confidence true"):
        run.on_fit_start()
    run.trainer.datamodule = Sounds("a", "b", sample_rate=16000, confidence=True)
    run.on_fit_start()
    clips = Clips(sure, 16000, 4000, confidence=True)
    assert clips[0]["confidence"].unique().tolist() == pytest.approx([0, 0.2])
    for bad in ("", "0.1 x", "0.2 1.5", "nan"):
        with pytest.raises(AudioError, match=r"utt2confidence: a has '.*want numbers from 0 to 1"):
            confidences(DataDir({"utt2confidence": {"a": bad}}), "a", 10)


OPTIONS = {
    "recipe": ROOT / "recipes/pretrain/audio_mae.yaml",
    "data__noise": None, "model__scored": None,
    **{f"model__model__{key}": value for key, value in TINY.items()},
    "model__frontend__frames": 64, "model__frontend__bands": 32, "model__warmup": 2,
    "data__segment": 10400,
}  # fmt: skip


@pytest.mark.timeout(600)
def test_a_run_killed_and_resumed_equals_one_that_was_not(data, tmp_path):
    killed_equals_whole(data, tmp_path, **OPTIONS)
    assert (tmp_path / "killed/model/model.safetensors").stat().st_size > 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "whole/tensorboard"))
    events.Reload()
    assert {"0/original", "0/masked", "0/reconstructed"} <= set(events.Tags()["images"])
    assert "val/loss" in events.Tags()["scalars"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", ["hpm", "ada_mae"])
def test_guided_runs_resume_exactly(data, tmp_path, recipe):
    """The average that picks hard patches included."""
    options = OPTIONS | {"recipe": ROOT / f"recipes/pretrain/{recipe}.yaml"}
    if recipe == "hpm":
        options |= {"model__mask__steps": 4, "model__momentum_steps": 4, "model__model__predictor_depth": 1}
    else:
        options |= {
            f"model__model__sampler_{key}": n for key, n in (("width", 16), ("depth", 1), ("heads", 2))
        }
    train(data, tmp_path / "parts", 3, **options)
    train(data, tmp_path / "parts", 6, **options)
    train(data, tmp_path / "whole", 6, **options)
    state = same_weights(tmp_path / "whole", tmp_path / "parts", 6)
    averaged = {name: value for name, value in state.items() if name.startswith("teacher.")}
    assert bool(averaged) == (recipe == "hpm")
    for name, value in averaged.items():
        if name.endswith("qkv.weight"):
            assert not torch.equal(value, state[name.replace("teacher.", "model.")]), name


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
