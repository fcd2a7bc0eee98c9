"""Fine-tuning: scores against their definition, what is sampled, which layer learns how fast, and a run."""

import json

import numpy as np
import pytest
import soundfile as sf
import torch
from small_trainings import ROOT, checkpoint, same_weights, train

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.cli import main
from audiomask.data.crops.clips import LabelledClips
from audiomask.data.crops.labels import LabelledCrops, count, labels_of
from audiomask.data.crops.packed import PackedAudio, pack
from audiomask.data.crops.shards import write
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate
from audiomask.frontend.logmel import LogMel
from audiomask.models.audio_mae import AudioMae
from audiomask.models.vit_tagger import ViTTagger
from audiomask.runtime.player import Player
from audiomask.tasks.classify import Classify, average_precision, heard, kept

TINY = {"frames": 64, "bands": 32, "width": 16, "depth": 2, "heads": 2}


def task(**options) -> Classify:
    torch.manual_seed(0)
    model = ViTTagger(3, **TINY)
    return Classify(model, LogMel(frames=64, bands=32), **{"spec_frames": 8, "spec_bands": 4} | options)


def batch(rows=4):
    g = torch.Generator().manual_seed(1)
    target = torch.eye(3)[torch.arange(rows) % 3]
    return {"audio": torch.randn(rows, 10400, generator=g), "target": target, "seed": torch.arange(rows)}


def test_average_precision_is_that_of_its_definition():
    g = torch.Generator().manual_seed(0)
    scores, truth = torch.rand(50, 4, generator=g), (torch.rand(50, 4, generator=g) < 0.3).float()
    truth[:, 2] = 0  # a class that does not occur does not count
    scores[:, 3] = scores[:, 3].mul(4).floor()  # ties
    found = average_precision(scores, truth)
    assert len(found) == 3
    for column, value in zip((0, 1, 3), found, strict=True):
        wanted = []
        for i in (truth[:, column] > 0).nonzero()[:, 0]:
            above = scores[:, column] >= scores[i, column]
            wanted.append(truth[above, column].mean())
        assert value.item() == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-6)
    assert average_precision(torch.tensor([[0.9], [0.1]]), torch.tensor([[1.0], [0.0]])) == 1


def test_tokens_are_left_out_by_columns_and_rows():
    visible = kept((10, 5), torch.arange(30), 0.2, 0.4)
    assert visible.shape == (30, 8 * 3)
    for row in visible:
        assert len({int(i) // 5 for i in row}) == 8
        assert len({int(i) % 5 for i in row}) == 3
        assert len(row.unique()) == 24
    assert len(visible.flatten().unique()) == 50
    assert torch.equal(kept((10, 5), torch.tensor([4]), 0.2, 0.4)[0], visible[4])
    assert torch.equal(kept((3, 2), torch.tensor([4]), 0.0, 0.0)[0], torch.arange(6))


def test_the_network_trains_on_the_kept_tokens_and_is_judged_on_all(monkeypatch):
    run, sizes = task(mask_time=0.5), []
    monkeypatch.setattr(run, "log_dict", lambda values, **kwargs: run.__dict__.update(values=values))
    run.model.blocks[0].register_forward_hook(lambda module, inputs, y: sizes.append(y.shape[1]))
    run.training_step(batch(), 0).backward()
    with torch.no_grad():
        run.validation_step(batch(), 0)
    assert sizes == [1 + 2 * 2, 1 + 4 * 2]
    run.on_validation_epoch_end()
    assert set(run.values) == {"val/map", "val/accuracy", "val/select"}
    assert 0 <= run.values["val/accuracy"] <= 1
    assert all(p.grad.isfinite().all() for p in run.model.parameters() if p.grad is not None)
    assert run.model.head.weight.grad.any()


@pytest.mark.parametrize(("mask_time", "count"), [(0.0, 8), (0.5, 4)])
def test_suppressed_tokens_are_there_but_nobody_attends_to_them(monkeypatch, mask_time, count):
    """As many in each row, its own, in training only; with nothing suppressed there is no mask."""
    run, found = task(suppress=0.25, mask_time=mask_time, mask_freq=0.0), []
    plain = run.model.encode
    monkeypatch.setattr(
        run.model, "encode", lambda x, visible, keys: found.append(keys) or plain(x, visible, keys)
    )
    run.training_step(batch(), 0).backward()
    assert found[0].shape == (4, count)
    assert ((~found[0]).sum(1) == count // 4).all()
    assert torch.equal(found[0][2:3], heard(count, batch()["seed"][2:3], 0.25))
    assert len(heard(100, torch.arange(20), 0.1).unique(dim=0)) == 20
    assert run.model.head.weight.grad.any()
    with torch.no_grad():
        run.validation_step(batch(), 0)
    task(suppress=0.0).training_step(batch(), 0)
    assert found[1] is None
    with pytest.raises(AudioError, match="suppress 1"):
        task(suppress=1.0)


def test_half_of_the_batches_are_only_a_beginning():
    run = task(shortest=0.25)
    x = torch.randn(2, 64, 8)
    found = [run._beginning(x, torch.tensor([seed, 7])) for seed in range(400)]
    patch, lengths = run.model.patch, [part.shape[1] for part in found]
    assert all(torch.equal(part, x[:, : part.shape[1]]) for part in found)
    assert min(lengths) == 16
    assert all(length % patch == 0 for length in lengths)
    assert 0.4 < np.mean([length == 64 for length in lengths]) < 0.65
    assert torch.equal(run._beginning(x, torch.tensor([3])), found[3])
    assert task()._beginning(x, torch.tensor([3])) is x
    with pytest.raises(AudioError, match="shortest 0"):
        task(shortest=0.0)


def test_rates_fall_with_depth_and_vectors_are_not_decayed():
    run = task(lr=1.0, layer_decay=0.5, weight_decay=0.1)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in run.groups() for p in g["params"]}
    names = dict(run.model.named_parameters())
    assert len(rates) == len(names)
    for name, wanted in {
        "head.weight": (1.0, 0.1), "fc_norm.weight": (1.0, 0.0), "blocks.1.attn.qkv.weight": (0.5, 0.1),
        "blocks.0.mlp.fc1.bias": (0.25, 0.0), "patch_embed.proj.weight": (0.125, 0.1),
        "cls_token": (0.125, 0.0),
    }.items():  # fmt: skip
        assert rates[id(names[name])] == wanted, name
    assert {g["maps"] for g in run.groups()} == {0}
    run = task(optimizer="muon")
    maps = {id(p): g["maps"] for g in run.groups() for p in g["params"]}
    names = dict(run.model.named_parameters())
    for name, stacked in {
        "blocks.1.attn.qkv.weight": 3,
        "blocks.0.mlp.fc1.weight": 1,
        "cls_token": 0,
    }.items():
        assert maps[id(names[name])] == stacked, name


def test_a_probe_trains_the_classifier_alone():
    run = task(frozen=True)
    assert {name for name, p in run.model.named_parameters() if p.requires_grad} == {
        "fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias",
    }  # fmt: skip
    assert sum(len(g["params"]) for g in run.groups()) == 4
    run.train()
    assert run.model.training
    assert not run.model.blocks[0].training


def test_losses_and_disagreements():
    logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    assert task()._loss(logits, target).item() == pytest.approx(
        float((logits.exp().add(1).log() - logits * target).mean())
    )
    expected = -(logits.log_softmax(1) * target / 2).sum()
    assert task(loss="ce")._loss(logits, target).item() == pytest.approx(float(expected))
    with pytest.raises(
        AudioError, match=r"the data have 5 classes and the model 3; add --model.model.classes 5"
    ):
        task()._loss(logits, torch.zeros(1, 5))
    with pytest.raises(AudioError, match="mask_time 1"):
        task(mask_time=1.0)
    smooth = task(loss="ce", smoothing=0.1)
    spread = 0.9 * target / 2 + 0.1 / 3
    assert smooth._loss(logits, target).item() == pytest.approx(
        float(-(logits.log_softmax(1) * spread).sum())
    )
    assert smooth.eval()._loss(logits, target).item() == pytest.approx(float(expected))
    for options in ({"smoothing": 0.1}, {"smoothing": 1.0, "loss": "ce"}):
        with pytest.raises(AudioError, match=r"smoothing .*, of the targets of loss ce"):
            task(**options)


@pytest.fixture
def labelled(tmp_path):
    """Nine clips: five of a low tone, three of a high one, and one of both."""
    rng, tables = np.random.default_rng(0), {"wav.scp": {}, "utt2label": {}}
    kinds = ["low"] * 5 + ["high"] * 3 + ["high,low"]
    for i, kind in enumerate(kinds):
        t = np.arange(8000 + 500 * i) / 16000
        x = sum(0.1 * np.sin(2 * np.pi * {"low": 400, "high": 3000}[k] * t) for k in kind.split(","))
        sf.write(tmp_path / f"c{i}.wav", x + 0.003 * rng.standard_normal(len(t)), 16000)
        tables["wav.scp"][f"c{i}"], tables["utt2label"][f"c{i}"] = f"c{i}.wav", kind
    DataDir(tables).write(tmp_path)
    return tmp_path


def crops(labelled, **options):
    data = DataDir.read(labelled)
    entries = ((u.key, u.key, lambda u=u: data.load(u)[0][0]) for u in data.utterances())
    pack(entries, labelled / "packed", 16000)
    names = labels_of(data)
    corpus = PackedAudio(labelled / "packed", labels=names)
    return LabelledCrops(corpus, count(names.values()), 10400, **options)


def test_balanced_rows_have_as_many_of_each_class(labelled):
    for balanced, wanted in ((True, 0.5), (False, 4 / 10)):
        rows = crops(labelled, balanced=balanced)
        total = torch.stack([rows[i]["target"] for i in range(1500)]).sum(0)
        share = float(total[0] / total.sum())
        # balanced by the inverse of the counts, 4 and 6; the clip of both has the weight 1/4 + 1/6
        assert share == pytest.approx(
            (3 / 4 + 5 / 12) / (3 / 4 + 5 / 6 + 10 / 12) if balanced else wanted, abs=0.03
        )


def test_mixed_rows_mix_their_labels(labelled):
    rows = crops(labelled, mixup=0.5, seed=2)
    assert all(torch.equal(rows[9][key], rows[9][key]) for key in ("audio", "target", "seed"))
    sums = [rows[i]["target"] for i in range(300)]
    mixed = [t for t in sums if ((t > 0) & (t < 1)).any()]
    assert 60 < len(mixed) < 150  # those of two different kinds
    assert 0.4 < np.mean([float(t[t < 1].max()) for t in mixed]) < 0.7
    plain = crops(labelled)
    assert all(set(plain[i]["target"].tolist()) <= {0.0, 1.0} for i in range(50))
    plain[0]["target"][:] = 9  # nobody else's
    assert plain[0]["target"].max() == 1


def test_wrong_label_files_are_named(labelled):
    clips = LabelledClips(labelled, 16000, 9000, ["high", "low"])
    assert clips[8]["target"].tolist() == [1, 1]
    assert len(clips[8]["audio"]) == 9000
    with pytest.raises(
        AudioError, match=r"utt2label: c5 has the label 'high', which is none of the 1 classes"
    ):
        LabelledClips(labelled, 16000, 0, ["low"])
    whole = (labelled / "utt2label").read_text()
    lines = whole.splitlines()
    for more, message in (
        ("c9 low\n", "utt2label:10: c9 is not"),
        ("c4 high\n", "c4 appears twice, with another value"),
        ("c4\n", "c4 has no value"),
    ):
        (labelled / "utt2label").write_text(whole + more)
        assert any(message in str(problem) for problem in validate(labelled))
        if "c9" not in more:
            with pytest.raises(AudioError, match=f"utt2label:10: {message}.*fix. drops such lines"):
                LabelledClips(labelled, 16000, 0, ["high", "low"])
    (labelled / "utt2label").write_text(whole + "c4 low\n")  # twice the same is no contradiction
    assert LabelledClips(labelled, 16000, 0, ["high", "low"])[4]["target"].tolist() == [0, 1]
    (labelled / "utt2label").write_text("")
    with pytest.raises(AudioError, match=r"no label for c0 \(9 in all\)"):
        LabelledClips(labelled, 16000, 0, ["high", "low"])
    (labelled / "utt2label").write_text(whole.replace("c4 low", "c4 , ,"))
    with pytest.raises(AudioError, match=r"no label for c4 \(1 in all\).*fix. drops"):
        LabelledClips(labelled, 16000, 0, ["high", "low"])
    (labelled / "utt2label").write_text("\n".join(lines[:4] + lines[5:]) + "\n")
    with pytest.raises(AudioError, match=r"no label for c4 \(1 in all\)"):
        LabelledClips(labelled, 16000, 0, ["high", "low"])
    (labelled / "utt2label").unlink()
    with pytest.raises(AudioError, match="no utt2label"):
        LabelledClips(labelled, 16000, 0, ["high", "low"])


def options(labelled, **more):
    """Of `train`, for a tagger of low and high tones."""
    return {
        "recipe": ROOT / "recipes/classify/audio_mae.yaml",
        "data__noise": None, "model__scored": None,
        "data__train": labelled, "data__valid": labelled, "data__segment": 10400, "data__steps": 15,
        "data__batch_size": 8, "model__frontend__frames": 64, "model__frontend__bands": 32,
        "model__model__classes": 2, "model__model__labels": "[high, low]",
        **{f"model__model__{key}": value for key, value in TINY.items()},
        "model__lr": 3e-3, "model__warmup": 3,
        "model__spec_frames": 4, "model__spec_bands": 2, "model__layer_decay": 1.0,
    } | more  # fmt: skip


def test_the_recipe_fine_tunes_what_was_pretrained(labelled, tmp_path):
    """Its encoder is where the run starts; after 30 steps low and high tones are told apart."""
    torch.manual_seed(0)
    mae = AudioMae(**TINY, decoder_width=16, decoder_depth=1, decoder_heads=2)
    config = {
        "class_path": "audiomask.models.audio_mae.AudioMae",
        "init_args": {**TINY, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    }
    weights.save(tmp_path / "mae", mae, config)
    begun, x = task(start_from=str(tmp_path / "mae")), torch.randn(1, 64, 32)
    assert torch.equal(begun.model.encode(x), mae.encode(x))
    words = options(labelled, model__start_from=tmp_path / "mae", data__test=labelled)
    train(labelled, tmp_path / "run", 30, **words)
    assert checkpoint(tmp_path / "run")["global_step"] == 30
    model, _ = weights.load(tmp_path / "run/model")
    assert model.labels == ["high", "low"]  # of the data; the loss says whether they exclude each other
    assert not model.exclusive
    assert task(loss="ce").arguments()["exclusive"]
    with pytest.raises(
        AssertionError, match=r"labels begins \['low', 'high'\] and the training data \['high'"
    ):
        train(labelled, tmp_path / "wrong", 1, **words | {"model__model__labels": "[low, high]"})
    clips = LabelledClips(labelled, 16000, 10400, ["high", "low"])
    frontend = LogMel(frames=64, bands=32)
    with torch.no_grad():
        logits = torch.cat([model(frontend(clips[i]["audio"][None])) for i in range(9)])
    assert logits[:8].argmax(1).tolist() == [1] * 5 + [0] * 3
    told = json.loads((tmp_path / "run/test.json").read_text())
    assert told["accuracy"] == 1
    truth = torch.stack([clips[i]["target"] for i in range(9)])
    assert told["map"] == pytest.approx(float(average_precision(logits, truth).mean()))
    assert told["clips"]["c8"]["labels"] == ["high", "low"]
    for i in range(9):
        chances = dict(zip(("high", "low"), logits[i].sigmoid().tolist(), strict=True))
        assert told["clips"][f"c{i}"]["likeliest"] == pytest.approx(chances, abs=1e-4)
    export = ["export", str(tmp_path / "run"), "-o", str(tmp_path / "t.onnx"), "--check", "--arg", "every=1"]
    assert main(export) == 0
    player, x = Player(tmp_path / "t.onnx"), clips[0]["audio"]
    assert player.ports[0].labels == ("high", "low")
    frames = player.feed(x.numpy())["probabilities"]
    columns = frames.shape[1] - 1
    assert columns == 2
    with torch.no_grad():
        whole = model(LogMel(frames=0, bands=32)(x[None, : columns * 2560 + 240]))
    np.testing.assert_allclose(frames[:, columns], whole.sigmoid()[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_shards_that_was_stopped_equals_one_that_was_not(labelled, tmp_path):
    write(DataDir.read(labelled), tmp_path / "shards", 16000, shard_bytes=40000)
    assert len(list((tmp_path / "shards").glob("*.tar"))) > 2
    words = options(labelled, data__train=tmp_path / "shards", data__steps=3, data__batch_size=2)
    words |= {"model__decay": 0.0, "trainer__limit_val_batches": 0}
    train(labelled, tmp_path / "stopped", 6, **words)
    train(labelled, tmp_path / "stopped", 12, **words)
    train(labelled, tmp_path / "whole", 12, **words)
    state = same_weights(tmp_path / "whole", tmp_path / "stopped", 12)
    kept = weights.load(tmp_path / "stopped/model")[0].state_dict()  # without a validation, the last
    assert torch.equal(kept["head.weight"], state["model.head.weight"])
