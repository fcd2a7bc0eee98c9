"""More than one process gives what one gives; data in shards resumes; the switches for speed do run."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from small_trainings import (
    ROOT,
    SIEVE,
    checkpoint,
    command,
    environment,
    killed_equals_whole,
    train,
    train_and_kill,
)

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.crops import shards
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.traces import write_traces
from audiomask.data.modules import NoisySpeech
from audiomask.masks.packets import Gilbert
from audiomask.tasks.task import keep_recurrent_layers_whole
from audiomask.tasks.training import parse

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TWO = {"trainer__devices": 2, "trainer__accelerator": "cpu"}
DIVIDED = (  # FSDP2
    '{"class_path": "pytorch_lightning.strategies.ModelParallelStrategy", '
    '"init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": false}}'
)


@pytest.fixture
def recipe(tmp_path):
    """The recipe, with Muon and averaged weights, for a network without batch norms: torch has SyncBatchNorm
    for GPUs only."""
    config = yaml.safe_load(SIEVE.read_text())
    assert config["model"]["init_args"]["optimizer"] == "muon"
    assert "EMAWeightAveraging" in config["trainer"]["callbacks"][0]["class_path"]
    config["model"]["init_args"]["model"] = {
        "class_path": "audiomask.models.cleanunet.CleanUNet",
        "init_args": {"hidden": 16, "most": 32, "depth": 4, "blocks": 1, "width": 16, "heads": 2,
                      "feed_forward": 24},
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", ["ddp", DIVIDED], ids=["ddp", "fsdp2"])
def test_two_processes_killed_and_resumed_equal_one_with_twice_the_rows(data, tmp_path, recipe, strategy):
    """Two started by the trainer, killed, resumed under torchrun, against one process that was left alone.
    Averaged weights are not divided, so the run that divides does without.

    What AdamW moves agrees to float32. Muon orthogonalises in bfloat16, which makes of 1e-7 between two sums
    of gradients up to a quarter of a step after six of them: there the distance is measured against how far
    training went (other rows give about 1 and more).
    """
    options = {"recipe": recipe, "model__lr": 2e-4, "model__warmup": 1}
    kinds = {"current_model_state": 0.5, "state_dict": 0.1}  # the weights, and their average
    if strategy != "ddp":
        options["trainer__callbacks"], kinds = "null", {"state_dict": 0.5}
    out, two = tmp_path / "two", {**TWO, "trainer__strategy": strategy}
    steps = train_and_kill(data, out, **two, **options) + 4
    train(data, out, steps, start=TORCHRUN, **two, **options)
    train(data, tmp_path / "one", steps, data__batch_size=4, **options)
    one, two = checkpoint(tmp_path / "one"), checkpoint(out)
    assert one["global_step"] == two["global_step"] == steps

    words = command(data, out, steps, **options)
    start = parse(recipe, words[words.index(str(recipe)) + 1 : -2]).model.model.state_dict()
    matrices = 0
    for kind, share in kinds.items():
        for name, value in one[kind].items():
            apart = (value - two[kind][name]).norm()
            if value.ndim > 1 and min(value.shape[0], value[0].numel()) >= 16:
                matrices += 1
                assert apart < share * (value - start[name.removeprefix("model.")]).norm(), f"{kind} {name}"
            else:
                assert torch.allclose(value, two[kind][name], atol=1e-5), f"{kind} {name}"
    assert matrices
    shipped = weights.load(out)[0].state_dict()  # gathered, where the best was kept
    assert shipped.keys() == start.keys()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("loss", ["least_squares", "hinge"])
def test_two_processes_with_an_adversary_equal_one_with_twice_the_rows(data, tmp_path, loss):
    """The concealer's recipe, killed and resumed: network, discriminators, norms of the balancer. AdamW moves
    everything, since Muon works in bfloat16."""
    speech = DataDir.read(data / "speech_valid")
    traced = tmp_path / "traced"
    write_traces(speech.subset(speech.utterance_keys[:1]), traced, Gilbert(0.1, 0.5))
    config = yaml.safe_load((ROOT / "recipes/conceal/darn.yaml").read_text())
    task = config["model"]["init_args"]
    assert "Adversary" in task["objective"]["init_args"]["adversary"]["class_path"]
    adversary = task["objective"]["init_args"]["adversary"]["init_args"]
    adversary |= {"loss": loss, "first": 2, "segment": 4000, "lr": 1e-3, "update": 0.7}
    adversary |= {"turns": "all"} if loss == "hinge" else {}
    for discriminator in adversary["discriminators"]:
        discriminator["init_args"]["channels"] = 2
    task["objective"]["init_args"]["balancer"]["init_args"]["per_batch_item"] = loss == "hinge"
    task["model"] = {  # informed, and without batch norms
        "class_path": "audiomask.models.nsnet2_plc.NSNet2PLC",
        "init_args": {"size": 64, "units": [6, 5, 7, 4]},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config))

    options = {"recipe": recipe, "data__valid": traced, "model__optimizer": "adamw", "model__lr": 1e-3,
               "model__warmup": 1, "trainer__callbacks": "null"}  # fmt: skip
    out, two = tmp_path / "two", {**TWO, "trainer__strategy": "ddp"}
    steps = train_and_kill(data, out, **two, **options) + 6
    train(data, out, steps, start=TORCHRUN, **two, **options)
    train(data, tmp_path / "one", steps, data__batch_size=4, **options)
    one, two = checkpoint(tmp_path / "one"), checkpoint(out)
    assert one["global_step"] == two["global_step"] == steps
    words = command(data, out, steps, **options)
    start = parse(recipe, words[words.index(str(recipe)) + 1 : -2]).model
    began = {"state_dict": start.state_dict(), "networks": start.objective.adversary.networks.state_dict()}
    for found in (one, two):
        found["networks"] = found["objective"]["adversary"]["networks"]
    for kind, before in began.items():
        for name, value in one[kind].items():
            assert torch.allclose(value, two[kind][name], atol=2e-5), f"{kind} {name}"
        far = max(float((one[kind][name] - value).abs().max()) for name, value in before.items())
        assert far > 2e-3, f"{kind} stayed where it was"
    sums = [found["objective"]["balancer"] for found in (one, two)]
    assert sums[0].keys() == sums[1].keys() == {"distance", "adversarial", "features"}
    for name, values in sums[0].items():
        assert values == pytest.approx(sums[1][name], rel=1e-3), name


@pytest.fixture(scope="module")
def sharded(data):
    """The speech of the mini corpus in shards."""
    folder = data / "shards"
    count, failed = shards.write(DataDir.read(data / "speech_train"), folder, 16000, shard_bytes=200_000)
    assert count >= 3
    assert not failed
    return folder


def loader(data, speech, step: int, rank: int = 0, **options):
    """The batches that a training at `step` sees, without the training."""
    module = NoisySpeech(
        **{"train": str(speech), "noise": str(data / "noise_train"), "valid": "",
           "cache": str(data / "cache"), "batch_size": 2, "steps": 1000, "segment": 8000, "workers": 2,
           "sample_rate": 16000, **options}
    )  # fmt: skip
    module.trainer = SimpleNamespace(
        global_step=step, accumulate_grad_batches=1, global_rank=rank, world_size=1
    )
    return module.train_dataloader()


def test_rows_of_shards_go_on_where_they_stopped(data, sharded):
    """With two loading processes, from an odd step, across the end of a shard."""
    whole = list(itertools.islice(loader(data, sharded, 0), 40))
    resumed = list(itertools.islice(loader(data, sharded, 13), 27))
    for a, b in zip(whole[13:], resumed, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("speech", "noise", "seed"))
    assert not torch.equal(whole[0]["speech"], whole[1]["speech"])
    corpus = loader(data, sharded, 0).dataset.speech
    assert len({corpus.shard_of(row) for row in range(0, 80, 4)}) > 1


def test_a_damaged_shard_stops_the_loading_process_with_its_name(data, sharded, tmp_path):
    for path in sharded.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: None if path.suffix == ".json" else 5000])
    with pytest.raises(AudioError, match=r"shard-.*tar: .*copy it again"):
        next(iter(loader(data, tmp_path, 0)))


def test_shards_know_no_weights(data, sharded):
    with pytest.raises(AudioError, match="without weights"):
        loader(data, sharded, 0, speech_weights={"a": 1.0})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_on_shards_killed_and_resumed_equals_one_that_was_not(data, sharded, tmp_path):
    killed_equals_whole(data, tmp_path, 5, data__train=sharded, data__workers=2)


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        ("fsdp", "requires a GPU"),
        (DIVIDED, "averaged weights cannot be: add --trainer.callbacks null"),
    ],
)
def test_what_cannot_be_divided_is_refused(data, tmp_path, strategy, text):
    from audiomask.tasks.training import fit

    words = command(data, tmp_path / "out", 1, trainer__strategy=strategy, trainer__accelerator="cpu")
    with pytest.raises(AudioError, match=text):
        fit(SIEVE, tmp_path / "out", words[words.index(str(SIEVE)) + 1 : -2])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_processes_that_would_train_on_rows_of_their_own_are_refused(data, tmp_path, recipe):
    """Lightning's default is as many parts as machines: here one, and gradients would not be shared."""
    undivided = '{"class_path": "pytorch_lightning.strategies.ModelParallelStrategy"}'
    options = {"trainer__strategy": undivided, "trainer__callbacks": "null", "recipe": recipe}
    words = command(data, tmp_path / "out", 1, **TWO, **options)
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "add data_parallel_size: 2, tensor_parallel_size: 1" in done.stderr


def test_recurrent_layers_stay_out_of_compiled_graphs():
    """What the compiler gets of a network with a GRU is what lies around it."""
    from audiomask.nn.recurrent import GRU

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = GRU(4, 4)

        def forward(self, x):
            return self.gru(x * 2) + 1

    graphs = []

    def backend(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    keep_recurrent_layers_whole()
    net, x = Net(), torch.randn(2, 4, 6)
    assert torch.allclose(torch.compile(net, backend=backend)(x), net(x))
    assert len(graphs) >= 2
    assert not any("gru" in target for graph in graphs for target in graph)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_compiled_network_trains_in_bfloat16(data, tmp_path, recipe, monkeypatch):
    """Two steps, with the C++ that the compiler wrote as the witness that it was there."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    options = {
        "recipe": recipe,
        "model__model__depth": 2,
        "data__steps": 2,
        "trainer__precision": "bf16-mixed",
    }
    train(data, tmp_path / "out", 2, model__compile=True, **options)
    assert list((tmp_path / "compiled").rglob("*.cpp"))
    words = command(data, tmp_path / "out", 2, **options)
    start = parse(recipe, words[words.index(str(recipe)) + 1 : -2]).model.state_dict()
    trained = checkpoint(tmp_path / "out")["current_model_state"]
    assert trained.keys() == start.keys()  # as without the compiler
    assert all(value.isfinite().all() for value in trained.values())
    assert any(not torch.equal(value, start[name]) for name, value in trained.items())
