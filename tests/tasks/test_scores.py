"""Supervision by scores: each loss is least where it should be, and trains what it should."""

from pathlib import Path

import inline
import numpy as np
import pytest
import soundfile as sf
import torch

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.kaldi.directory import DataDir
from audiomask.masks.notes import LOWEST, NOTES, harmonics
from audiomask.models import score_separator as networks
from audiomask.models.score_separator import ScoreSeparator
from audiomask.tasks.scores import ScoreSupervision, frozen, remixed

ROOT = Path(__file__).parents[2]
STEMS, RATE, SIZE, HOP = ("drums", "bass", "other"), 16000, 256, 64
SMALL = {"size": SIZE, "hop_length": HOP, "width": 8, "hidden": 8, "layers": 2, "repeats": 1, "window": 16}


def supervision(stage="separate", **more):
    torch.manual_seed(0)
    return ScoreSupervision(ScoreSeparator(STEMS, **SMALL), stage, **more)


def played(*notes, frames=41):
    """Notes `[1, 3, frames, 88]`, each of (stem, MIDI number)."""
    roll = torch.zeros(1, len(STEMS), frames, NOTES)
    for stem, note in notes:
        roll[0, STEMS.index(stem), :, note - LOWEST] = 1
    return roll


def test_harmonics_are_where_notes_sound():
    table = harmonics(RATE, 1024)
    assert table.shape == (NOTES, 513)
    a4 = table[69 - LOWEST]
    bins = {round(440 * h * 1024 / RATE) for h in range(1, 18)}
    assert all(a4[n] for n in bins)
    assert not any(a4[round(440 * (h + 0.5) * 1024 / RATE)] for h in range(1, 5))
    assert not a4[:20].any()
    assert table[0].mean() > a4.mean()  # low notes have dense harmonics


@torch.no_grad()
def test_a_perfect_separator_has_the_least_losses_but_for_the_notes(monkeypatch):
    """Of a tone of the bass and silence else: the mask that gives it to the bass is better than others."""
    task = supervision()
    x = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(40 * HOP) / RATE)[None, None]
    notes, found = played(("bass", 69)), {}
    for name, shares in {"right": (0, 1, 0), "all": (1, 1, 1), "none": (0, 0, 0), "other": (0, 0, 1)}.items():
        masks = torch.tensor(shares).float()[None, :, None, None]
        monkeypatch.setattr(task.model, "masks", lambda seen, m=masks: m.expand(1, 3, *seen.shape[1:]))
        found[name] = task.losses(x, notes)
    assert found["right"]["mixture"] < 1e-5
    assert found["right"]["harmonic"] < 0.3 * found["other"]["harmonic"]
    for name in ("all", "none", "other"):
        assert found[name]["mixture"] > 1
    assert found["none"]["harmonic"] == 0


@torch.no_grad()
def test_notes_of_an_estimate_are_those_of_its_stem(monkeypatch):
    task, notes = supervision(mixture=0.0, harmonic=0.0), played(("bass", 40), ("other", 60), ("other", 64))
    x = 0.1 * torch.randn(1, 1, 40 * HOP)
    apart = networks.piano_rolls_apart(notes)
    assert apart.shape == (3, 3, 41, NOTES)
    assert [int(apart[i].sum(-1).amax()) for i in range(3)] == [0, 1, 2]
    for logits, most in ((40 * apart - 20, 1e-3), (40 * notes.expand(3, -1, -1, -1) - 20, None)):
        monkeypatch.setattr(task.model.transcriptor, "forward", lambda m, y=logits: (y, y.new_zeros(3, 41)))
        value = task.losses(x, notes)["notes"]
        assert value < most if most else value > 1  # it hears every instrument in each estimate


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        ("transcribe", {"transcriptor"}),
        ("separate", {"separator"}),
        ("adversarial", {"separator", "transcriptor"}),
    ],
)
def test_each_stage_trains_what_it_should(stage, trained):
    task = supervision(stage)
    found = task.losses(0.1 * torch.randn(2, 1, 40 * HOP), played(("bass", 40)).repeat(2, 1, 1, 1))
    torch.stack([*found.values()]).sum().backward()
    got = {
        name.split(".")[0] for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert got == trained


def test_a_leak_is_hidden_by_the_separator_and_sought_by_the_transcriptor():
    """The losses of both sides are of one network's output, and pull it apart."""
    task = supervision("adversarial", mixture=0.0, harmonic=0.0, real=0.0)
    notes = played(("bass", 40), ("other", 60))
    found = task.losses(0.1 * torch.randn(1, 1, 40 * HOP), notes)
    networks_of = {"notes": "separator", "leak": "transcriptor", "mixtures": "transcriptor"}
    for name, part in networks_of.items():
        task.zero_grad()
        found[name].backward(retain_graph=True)
        got = {
            n.split(".")[0] for n, p in task.model.named_parameters() if p.grad is not None and p.grad.any()
        }
        assert got == {part}, name


@torch.no_grad()
def test_all_that_is_left_in_an_estimate_is_to_be_heard(monkeypatch):
    task, notes = supervision("adversarial"), played(("bass", 40), ("other", 60))
    x, leaks = 0.1 * torch.randn(1, 1, 40 * HOP), []
    for heard in (notes.expand(3, -1, -1, -1), networks.piano_rolls_apart(notes)):

        def hear(seen, y=40 * heard - 20):
            return y[: len(seen)], seen.new_zeros(len(seen), 41)

        monkeypatch.setattr(task.model.transcriptor, "forward", hear)
        leaks.append(task.losses(x, notes)["leak"])
    assert leaks[0] < 1e-3
    assert leaks[1] > 1


def test_parameters_are_frozen_for_a_while():
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with frozen(layer):
        assert not layer.weight.requires_grad
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (True, False)


def test_a_remix_takes_each_stem_from_another_song():
    made = torch.arange(4.0)[:, None, None, None] * torch.tensor([1.0, 10, 100])[None, :, None, None]
    assert remixed(made)[:, 0, 0].tolist() == [230.0, 301.0, 12.0, 123.0]


def test_what_does_not_fit_is_named():
    with pytest.raises(AudioError, match=r"scores of 3 stems and 40 frames do not fit 3 stems and 41 frames"):
        supervision().losses(torch.zeros(1, 1, 40 * HOP), played(frames=40))
    with pytest.raises(AudioError, match="want transcribe, separate or adversarial"):
        supervision("both")


def write_songs(folder, count, seed):
    """Songs of a bass and another instrument, a sine each at random notes, with their scores."""
    rng, rate, tables = np.random.default_rng(seed), 8000, {"wav.scp": {}, "utt2spk": {}, "utt2score": {}}
    for n in range(count):
        x, lines, t = np.zeros(4 * rate), [], np.arange(rate // 2) / rate
        for k in range(8):
            for stem, low, high in (("bass", 40, 52), ("other", 64, 76)):
                note = int(rng.integers(low, high))
                x[k * rate // 2 :][: rate // 2] += 0.2 * np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * t)
                lines.append(f"{stem}\t{k / 2}\t{k / 2 + 0.5}\t{note}\n")
        folder.mkdir(parents=True, exist_ok=True)
        sf.write(folder / f"{n}.wav", x, rate)
        (folder / f"{n}.tsv").write_text("".join(lines))
        for table, value in (
            ("wav.scp", folder / f"{n}.wav"),
            ("utt2spk", n),
            ("utt2score", folder / f"{n}.tsv"),
        ):
            tables[table][str(n)] = str(value)
    DataDir(tables).write(folder)


@pytest.mark.slow
def test_three_stages_are_trained_one_after_the_other(tmp_path):
    for part, count, seed in (("train", 4, 0), ("valid", 2, 1)):
        write_songs(tmp_path / part, count, seed)
    small = {
        "stems": "[bass, other]", "size": 512, "hop_length": 128, "sample_rate": 8000, "width": 16,
        "hidden": 32, "layers": 2, "repeats": 1, "window": 64,
    }  # fmt: skip
    words = [word for k, v in small.items() for word in (f"--model.model.{k}", v)]
    words += [
        "--data.train",
        tmp_path / "train",
        "--data.valid",
        tmp_path / "valid",
        "--data.hop_length",
        128,
    ]
    words += ["--data.segment", 8192, "--data.batch_size", 4, "--data.clips", 4]
    words += ["--data.workers", 0, "--data.cache", tmp_path / "cache"]
    words += [
        "--trainer.accelerator",
        "cpu",
        "--model.warmup",
        5,
        "--model.lr",
        0.01,
        "--seed_everything",
        1,
        "--data.seed",
        1,
    ]
    before, first = None, {}
    for stage, steps in (("transcribe", 250), ("separate", 250), ("adversarial", 50)):
        start = [] if before is None else ["--model.start_from", before]
        out = tmp_path / stage
        done = inline.run(
            "train", ROOT / "recipes/separate/score_separator.yaml", *words, "--model.stage", stage, *start,
            "--trainer.max_steps", steps, "--data.steps", steps, "--out", out,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        model, _ = weights.load(out / "model")
        for part in ("separator", "transcriptor"):
            state = {name: x for name, x in model.state_dict().items() if name.startswith(part)}
            same = part in first and all(torch.equal(x, first[part][name]) for name, x in state.items())
            assert same == (stage == "separate" and part == "transcriptor"), (stage, part)
            first[part] = state
        before = out / "model"
    # What was trained tells the bass from the rest, which it has never met by themselves.
    t = torch.arange(16384) / 8000
    low, high = (0.2 * torch.sin(2 * torch.pi * f * t)[None, None] for f in (110.0, 392.0))
    with torch.no_grad():
        bass, other = model(low + high)
    inner = slice(4000, 12000)
    for made, own, alien in ((bass, low, high), (other, high, low)):
        kept, leaked = (
            (made * of)[..., inner].mean() / of[..., inner].square().mean() for of in (own, alien)
        )
        assert kept - leaked > 0.3
