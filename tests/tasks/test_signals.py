"""Training by recipe: what is compared, the schedule, what is kept; a run killed and resumed ends as one that
was not.
"""

import itertools
from datetime import timedelta

import inline
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from small_trainings import ROOT, SIEVE, checkpoint, command, killed_equals_whole, same_weights, train

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.example import Example, rms
from audiomask.data.simulate.degrade import Degrade
from audiomask.losses import L1Loss, Objective, PESQLoss, WeightedSum
from audiomask.models.sieve import Sieve
from audiomask.streaming import Port, StreamingModel
from audiomask.tasks import training
from audiomask.tasks.signals import Signals
from audiomask.tasks.task import warmup_stable_decay
from audiomask.tasks.training import KeepBest, parse


def test_schedule_warms_up_stays_and_falls():
    factor = [warmup_stable_decay(s, 10, 100, 0.25) for s in range(101)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[9:75] == [1.0] * 66
    assert all(a >= b for a, b in itertools.pairwise(factor[75:]))
    assert factor[100] == pytest.approx(0.01)
    assert warmup_stable_decay(500, 10, 100, 0.25) == pytest.approx(0.01)


@pytest.mark.timeout(600)
def test_a_run_killed_and_resumed_equals_one_that_was_not(data, tmp_path):
    options = {"model__mask_input": 0.2, "model__mask_attention": 0.2}  # drawn anew in every step
    killed_equals_whole(data, tmp_path, **options)
    for kind in ("model/config.json", "model/model.safetensors", "config.yaml", "run.json"):
        assert (tmp_path / "killed" / kind).stat().st_size > 0


def run_here(data, out, steps, *, recipe=SIEVE, **options):
    """A run in this process, whose checkpoints' period can be changed."""
    words = command(data, out, steps, recipe, **options)
    return training.fit(recipe, out, words[words.index(str(recipe)) + 1 : -2])


@pytest.mark.slow
def test_checkpoints_come_by_time_and_resume_inside_an_epoch(data, tmp_path, monkeypatch):
    """Epochs of 6 steps, checkpoints after every step: 4 steps, then 5 more, equal 9."""
    monkeypatch.setattr(training, "CHECKPOINT", timedelta(0))
    options = {"data__steps": 6, "model__warmup": 1}
    run_here(data, tmp_path / "stopped", 4, **options)
    assert checkpoint(tmp_path / "stopped")["global_step"] == 4
    assert sorted(p.name for p in (tmp_path / "stopped/checkpoints").iterdir()) == ["last.ckpt"]
    run_here(data, tmp_path / "stopped", 9, **options)
    run_here(data, tmp_path / "whole", 9, **options)
    same_weights(tmp_path / "whole", tmp_path / "stopped", 9)


def test_precision_follows_the_hardware_unless_it_is_given(data, tmp_path, monkeypatch):
    def chosen(**options):
        words = command(data, tmp_path, 1, trainer__precision=None, **options)
        return training.parse(SIEVE, words[words.index(str(SIEVE)) + 1 : -2]).trainer.precision

    assert chosen(trainer__accelerator="cpu") == "32-true"
    words = command(data, tmp_path, 1, trainer__precision="bf16-mixed", trainer__accelerator="cpu")
    assert training.parse(SIEVE, words[words.index(str(SIEVE)) + 1 : -2]).trainer.precision == "bf16-mixed"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_bfloat16 in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bfloat16, **_: has)
        assert training.precision("auto") == ("bf16-mixed" if has_bfloat16 else "32-true")
        assert training.precision("cpu") == "32-true"


def test_no_recipe_names_a_precision():
    """It follows the hardware."""
    for recipe in SIEVE.parents[1].glob("*/*.yaml"):
        assert "precision" not in recipe.read_text(), recipe


def test_the_medium_model_trains_on_from_grown_weights(data, tmp_path):
    small = {"channels": 8, "bands": 8, "blocks": 1, "heads": 2, "full": 8, "squeeze": 8}
    torch.manual_seed(0)
    config = {"class_path": "audiomask.models.sieve.Sieve", "init_args": small}
    weights.save(tmp_path / "small", Sieve(**small), config)
    large = {"channels": 12, "heads": 3, "full": 16, "squeeze": 12, "blocks": 2, "ahead": 2}
    _, grown = weights.grow(tmp_path / "small", config | {"init_args": small | large})
    weights.save(tmp_path / "grown", grown, config | {"init_args": small | large})

    options = {f"model__model__{key}": value for key, value in (small | large).items()}
    options |= {"recipe": ROOT / "recipes/denoise/sieve_medium.yaml", "model__start_from": tmp_path / "grown"}
    train(data, tmp_path / "run", 3, **options)
    before, after = (dict(weights.load(tmp_path / f)[0].named_parameters()) for f in ("grown", "run/model"))
    far = [float((after[name] - value).abs().max()) for name, value in before.items()]
    assert 0 < max(far) < 1e-3  # it has learned something, and began where it was told


def test_a_loss_for_another_rate_is_refused():
    objective = Objective({"all": WeightedSum({"pesq": PESQLoss()})})
    with pytest.raises(AudioError, match="loss pesq is for 16000 Hz and the model runs at 48000 Hz"):
        Signals(Sieve(48000, channels=8, bands=8, heads=2), objective, Degrade(48000, 48000))


def test_unknown_keys_and_missing_recipes_are_errors(tmp_path):
    missing = inline.run("train", "no.yaml")
    assert missing.returncode == 2
    assert "no.yaml: no such recipe" in missing.stderr
    unknown = inline.run("train", SIEVE, "--model.colour", "red", "--out", tmp_path / "x")
    assert unknown.returncode == 2
    assert "colour" in unknown.stderr
    assert not (tmp_path / "x").exists()


class Stems(StreamingModel):
    """Halves its input into two outputs, one of two channels."""

    outputs = (Port("voice"), Port("rest", channels=2))

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def step(self, x, state, **controls):
        return (self.gain * x, (1 - self.gain) * x.expand(-1, 2, -1)), state


def stems(wanted, **given) -> Signals:
    task = Signals(Stems(), Objective({"l1": L1Loss()}), Degrade(16000, 16000), relative=False)
    task.log_dict = lambda *args, **kwargs: None
    return task, Example(given, wanted, rms(torch.ones(2, 1)))


@pytest.mark.parametrize("name", ["config.yaml", "model/model.safetensors"])
def test_a_folder_of_others_is_no_run(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("theirs")
    with pytest.raises(AudioError, match="is of no training run"):
        training.fit(SIEVE, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name.split("/")[0]]


def test_outputs_are_compared_by_name():
    x, y = torch.randn(2, 1, 800), torch.randn(2, 2, 800)
    task, example = stems({"rest": y, "voice": x}, audio=x)
    scalar, parts, made = task.compare(example)
    apart = (x / 2).abs().mean(), (x / 2 - y).abs().mean()
    assert scalar.item() == parts["l1"].item() == pytest.approx(sum(apart).item() / 2)
    assert set(made) == {"rest", "voice"}
    with pytest.raises(AudioError, match=r"makes \['voice', 'rest'\], and \['drums'\] are wanted too"):
        task.compare(stems({"drums": x, "voice": x}, audio=x)[1])
    with pytest.raises(AudioError, match=r"takes audio and the simulation gives \['codes'\]"):
        task.compare(stems({"voice": x, "rest": y}, codes=x)[1])


def test_validation_scores_each_stem_by_its_name(monkeypatch):
    """Those of a perfect stem and of one that is off are told apart, and the loss alone chooses."""
    x = torch.randn(1, 1, 800, generator=torch.Generator().manual_seed(0))
    logged = {}
    task, example = stems({"voice": x / 2, "rest": x.expand(-1, 2, -1) + x.roll(1, 2)}, audio=x)
    task.log_dict = lambda values, **kwargs: logged.update(values)
    task.scored, task.shown = 0, 0
    monkeypatch.setattr(task.simulation, "example", lambda batch: example)
    task.eval()
    with torch.no_grad():
        task.validation_step({}, 0)
    task.on_validation_epoch_end()
    assert logged["val/si_sdr_voice"] > 90
    assert -3 < logged["val/si_sdr_rest"] < 3
    assert logged["val/si_sdr"] == pytest.approx(
        (logged["val/si_sdr_voice"] + 2 * logged["val/si_sdr_rest"]) / 3
    )
    assert logged["val/select"] == pytest.approx(-float(logged["val/loss"]))
    assert not {"val/select_voice", "val/select_rest"} & set(logged)


class Trained:
    """As much of a trainer as `KeepBest` looks at."""

    sanity_checking, is_global_zero, global_step = False, True, 3

    def __init__(self, **metrics):
        self.callback_metrics = {key.replace("__", "/"): torch.tensor(x) for key, x in metrics.items()}


def test_weights_are_chosen_by_a_value_that_must_be_there(tmp_path):
    task, _ = stems({})
    config = {"class_path": "audiomask.models.sieve.Sieve", "init_args": {}}
    keep = KeepBest(tmp_path, config)
    with pytest.raises(AudioError, match=r"gave no val/select, .* it gave val/loss, val/si_sdr"):
        keep.on_validation_end(Trained(val__si_sdr=3.0, val__loss=1.0), task)
    assert not list(tmp_path.iterdir())
    keep.on_validation_end(Trained(val__select=2.0), task)
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    keep.on_validation_end(Trained(val__select=1.0), task)
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    last = KeepBest(tmp_path, config, monitor=None)
    last.on_validation_end(Trained(val__loss=1.0), task)
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns > before


def test_a_run_without_validation_keeps_the_last_weights_and_says_so(data, tmp_path):
    done = train(data, tmp_path / "run", 3, trainer__limit_val_batches=0)
    assert "no validation chose weights, so the last are kept" in done.stderr
    last = checkpoint(tmp_path / "run")["state_dict"]
    for name, value in weights.load(tmp_path / "run")[0].state_dict().items():
        assert torch.equal(value, last[f"model.{name}"])


def test_rate_and_segment_are_said_once(tmp_path):
    """Data and simulation take them over; written again they must agree."""
    cli = parse(SIEVE, ["--model.model.sample_rate", "48000", "--data.segment", "9600"])
    assert cli.model.simulation.sample_rate == cli.datamodule.sample_rate == 48000
    assert cli.model.simulation.segment == cli.datamodule.segment == 9600
    assert cli.config.model.init_args.simulation.init_args.segment == 9600  # as config.yaml has it
    parse(SIEVE, ["--model.simulation.segment", "32000", "--data.sample_rate", "16000"])
    with pytest.raises(AudioError, match=r"model.simulation.segment is 8000 and data.segment 32000"):
        parse(SIEVE, ["--model.simulation.segment", "8000"])
    with pytest.raises(AudioError, match=r"data.sample_rate is 8000 and the sample rate of the model 16000"):
        parse(SIEVE, ["--data.sample_rate", "8000"])
    conceal = ROOT / "recipes/conceal/frn.yaml"
    assert parse(conceal, ["--data.segment", "960"]).model.simulation.sent.segment == 960
    with pytest.raises(AudioError, match=r"model.simulation.sent.sample_rate is 16000"):
        parse(conceal, ["--model.simulation.sent.sample_rate", "16000"])


class Board(TensorBoardLogger):
    """Keeps what is shown, by name."""

    def __init__(self):
        self.sounds, self.pictures = {}, {}

    @property
    def experiment(self):
        return self

    def add_audio(self, name, x, step, rate):
        self.sounds[name] = x

    def add_image(self, name, x, step):
        self.pictures[name] = x


@pytest.mark.parametrize("rate", [16000, 48000])
def test_stems_are_shown_by_name_and_in_all_their_channels(monkeypatch, rate):
    monkeypatch.setattr(Stems, "sample_rate", rate)
    board = Board()
    monkeypatch.setattr(Signals, "logger", board)
    task = Signals(Stems(), Objective({"l1": L1Loss()}), Degrade(rate, rate), scored=0, measured=())
    task.record = task.log_dict = lambda *args, **kwargs: None
    voice = 0.1 * torch.sin(torch.arange(rate) * 2 * torch.pi * 1000 / rate)[None, None]
    rest = torch.cat([torch.zeros_like(voice), voice], 1)  # all of it on the right
    task.simulation.example = lambda batch: Example(
        {"audio": voice}, {"voice": voice, "rest": rest}, rms(voice[0])
    )
    with torch.no_grad():
        task.validation_step({}, 0)
    shown = [
        "0/given/audio",
        *(f"0/{side}/{name}" for side in ("wanted", "made") for name in ("voice", "rest")),
    ]
    assert sorted(board.sounds) == sorted(shown)
    assert sorted(board.pictures) == sorted(f"{name}_spectrogram" for name in shown)
    torch.testing.assert_close(board.sounds["0/wanted/rest"], voice[0, 0] / 2)
    torch.testing.assert_close(board.sounds["0/wanted/voice"], voice[0, 0])
    picture = board.pictures["0/wanted/rest_spectrogram"][0]  # the highest frequency on top
    bins = picture.shape[0] - 1
    assert bins == {16000: 256, 48000: 1024}[rate]
    brightest = bins - int(picture.mean(1).argmax())
    assert brightest == pytest.approx(1000 / (rate / 2) * bins, abs=1)
