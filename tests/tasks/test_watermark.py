"""A watermark trains: by its recipe, as small as it gets, and until the bits are found."""

import pytest
import torch
from small_trainings import ROOT, checkpoint, train

from audiomask import weights
from audiomask.data.example import Example, Simulation
from audiomask.data.simulate.attacks import Attack
from audiomask.losses import L1Loss, Objective
from audiomask.models.audioseal import AudioSeal, AudioSealDetector, AudioSealGenerator
from audiomask.tasks.watermark import Watermark

TINY = {"bits": 2, "filters": 4, "ratios": [4, 2], "latent": 8}


def task(**more) -> Watermark:
    torch.manual_seed(0)
    objective = Objective({"l1": L1Loss()}, {"l1": 1.0}, outside=["detection", "message"])
    made = Watermark(AudioSeal(**TINY), objective, Simulation(16000, 256), scored=0, **more)
    made.record = lambda part, values, rows: setattr(made, "kept", (part, values))
    return made


def batch(rows: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 0.1 * torch.randn(rows, 1, 256, generator=generator)
    mask = torch.ones_like(x)
    mask[1:, :, 100:] = 0
    message = torch.randint(2, (rows, 2), generator=generator)
    return {"audio": x, "message": message, "mask": mask, "fill": x.roll(1, 0)}


def test_terms_are_the_papers():
    """By hand: the detection of marked rows and of the unmarked one, and the bits where the mark is."""
    made, given = task(), batch()
    marked = given["audio"] + 0.01
    terms = made.found(marked, given)
    heard = torch.where(given["mask"] > 0, marked, given["fill"])
    present, logits = made.model.detect(heard)
    likely = torch.where(given["mask"] > 0, present, 1 - present).log()
    clean, _ = made.model.detect(given["audio"][:1])
    want = -likely.mean() - (1 - clean).log().mean() / 4
    torch.testing.assert_close(terms["detection"], want)
    bits = given["message"][..., None].float()
    right = (bits * (logits / 0.1).sigmoid() + (1 - bits) * (-logits / 0.1).sigmoid()).log()
    there = (given["mask"] > 0).expand_as(right)
    torch.testing.assert_close(terms["message"], -right[there].mean())


def test_attacks_are_drawn_in_training_only():
    made, given = task(attacks=["gain:-20", "polarity"], attack_p=1.0), batch()
    heard = []
    made.model.detect.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    untouched = made.eval().found(given["audio"], given)
    assert len(heard) == 1
    attacked = made.train().found(given["audio"], given)
    assert len(heard) == 4
    torch.testing.assert_close(heard[2], 0.1 * heard[1])
    assert torch.equal(heard[3], -heard[1])
    assert attacked["detection"] != untouched["detection"]
    made.attack_p = 0.0
    made.found(given["audio"], given)
    assert len(heard) == 5


@pytest.mark.parametrize(
    ("spec", "length", "marked"),  # samples of the result, and which of them are marked in rows 1 to 3
    [("speed:2", 128, (0, 50)), ("shift:0.0025", 216, (0, 60)), ("shift:-0.0025", 296, (40, 140))],
)
def test_the_mask_follows_the_sound(spec, length, marked):
    made, given = task(), batch()
    x, present = made._attacked(Attack(spec), given["audio"], given["mask"])
    assert x.shape == present.shape == (4, 1, length)
    want = torch.zeros(length)
    want[slice(*marked)] = 1
    assert (present[1:] == want).all()


def test_the_gradient_goes_through_an_attack():
    made, given = task(attacks=["mp3:64"], attack_p=1.0).train(), batch()
    marked = given["audio"].clone().requires_grad_()
    made.found(marked, given)["message"].backward()
    assert marked.grad.abs().sum() > 0


def test_bits_and_places_are_learnt():
    made = task().train()
    adam = torch.optim.Adam(made.model.parameters(), 3e-3)
    for _ in range(150):
        given = batch(8)
        given["message"] = torch.randint(2, (8, 2))
        _, terms = made.run(Example(given, {"marked": given["audio"]}, torch.ones(1)))
        adam.zero_grad()
        (terms["detection"] + terms["message"]).backward()
        adam.step()
    _, right = made.kept
    assert right["bits_right"] > 0.9, right
    assert right["samples_right"] > 0.9, right


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("watermark")
    small = {"bits": 3, "filters": 2, "ratios": "[8,5]", "latent": 4}
    options = {f"model__model__{name}": value for name, value in small.items()}
    train(
        data, out, 2, recipe=ROOT / "recipes/watermark/audioseal.yaml", model__simulation__bits=3,
        **options, data__valid=data / "speech_valid", data__steps=2, data__segment=8000,
    )  # fmt: skip
    return out


def test_the_recipe_trains(run):
    state = checkpoint(run)
    assert all(x.isfinite().all() for x in state["state_dict"].values() if torch.is_tensor(x))
    assert set(state["objective"]["balancer"]) == {"l1", "spectrum", "loudness", "adversarial", "features"}


def test_each_part_of_the_run_holds_its_own_weights(run):
    parts = weights.load_parts(run)
    assert {name: type(model) for name, (model, _) in parts.items()} == {
        "mark": AudioSealGenerator,
        "detect": AudioSealDetector,
    }
    whole, _ = weights.load(run)
    for name, (model, _) in parts.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, whole.state_dict()[f"{name}.{key}"])
