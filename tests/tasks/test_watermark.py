"""A watermark trains: by its recipe, as small as it gets, and until the bits are found."""

import re

import pytest
import torch
import yaml
from small_trainings import ROOT, checkpoint, train

from audiomask import weights
from audiomask.data.example import Example, Simulation
from audiomask.data.simulate.attacks import Attack
from audiomask.losses import L1Loss, Objective
from audiomask.models.audioseal import AudioSeal, AudioSealDetector, AudioSealGenerator
from audiomask.models.silentcipher import SilentCipher, SilentCipherDetector, SilentCipherMarker
from audiomask.tasks.training import parse
from audiomask.tasks.watermark import SymbolWatermark, Watermark

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


# --- symbols, frame by frame --------------------------------------------------------------------------------

CIPHER = {
    "sample_rate": 16000, "size": 64, "band": 24, "symbols": 3, "length": 4, "encoder_layers": 2,
    "decoder_layers": 2, "detector_layers": 3, "width": 8, "detector_width": 16, "masking": "none",
}  # fmt: skip


def symbols(sdr: float = 47.0, **more) -> SymbolWatermark:
    torch.manual_seed(0)
    objective = Objective({"error": L1Loss()}, {"error": 0.0}, outside=["symbols"])
    model = SilentCipher(**CIPHER, sdr=sdr)
    made = SymbolWatermark(model, objective, Simulation(16000, 512), scored=0, **more)
    made.record = lambda part, values, rows: setattr(made, "kept", (part, values))
    return made


def spelt(rows: int = 4, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.randn(rows, 1, 512, generator=generator)
    return {"audio": x, "message": torch.randint(3, (rows, 3), generator=generator)}


def test_symbols_are_compared_in_each_frame():
    """By hand: the end token is 0, symbol s is s + 1, and frame n has that of place n."""
    made, given = symbols().eval(), spelt()
    terms = made.found(given["audio"], given)
    logits = made.model.logits(given["audio"])
    losses = []
    for row, message in zip(logits.log_softmax(1), given["message"].tolist(), strict=True):
        tokens = [s + 1 for s in message] + [0]
        losses += [-row[tokens[n % 4], n] for n in range(16)]  # the rest is padding
    torch.testing.assert_close(terms["symbols"], torch.stack(losses).mean())
    assert set(terms) == {"symbols"}


def test_the_marker_learns_on_whole_signals():
    made, given = symbols().train(), spelt()
    made, _ = made.run(Example(given, {"marked": given["audio"]}, torch.ones(1)))
    again = symbols().train().model.marked(given["audio"], given["message"])
    torch.testing.assert_close(made["marked"], again)


@pytest.mark.parametrize(("seconds", "first"), [(0.002, 1), (0.008, 4), (-0.004, -2), (0.0031, 2)])
def test_symbols_follow_the_sound(seconds, first):
    """A hop is .002 s: the frames after a cut have later symbols, those before the sound none."""
    made, given = symbols(), spelt()
    x, at = made.attacked(Attack(f"shift:{seconds}"), given["audio"])
    frames = made._frames(at, made.model.logits(x).shape[2], 512)
    sounding = 16 - first
    want = [n if 0 <= n < 16 else -1 for n in range(first, first + frames.shape[1])]
    assert frames[0, : sounding - 1].tolist() == want[: sounding - 1]
    tokens = made.model.tokens(given["message"], frames)
    assert ((tokens < 0) == (frames < 0)).all()
    assert tokens[0, max(0, -first)] == [*(given["message"][0] + 1), 0][max(0, first) % 4]


def test_a_step_draws_one_attack_or_none():
    made, given = symbols(attacks=["gain:-20", "polarity"]), spelt()
    heard = []
    own = made.model.logits
    made.model.logits = lambda x: (heard.append(x), own(x))[1]
    made.train()
    for _ in range(60):
        made.found(given["audio"], given)
    x = given["audio"]
    kinds = {"none": x, "soft": 0.1 * x, "turned": -x}
    counts = {name: sum(torch.allclose(y, kind) for y in heard) for name, kind in kinds.items()}
    assert sum(counts.values()) == 60
    assert min(counts.values()) > 8
    heard.clear()
    made.eval().found(x, given)
    assert len(heard) == 1
    assert torch.equal(heard[0], x)


def test_symbols_are_learnt():
    """Far louder than in use: to show that the marker is taught by what the detector reads."""
    made = symbols(sdr=6.0).train()
    adam = torch.optim.Adam(made.model.parameters(), 1e-2)
    for step in range(160):
        given = spelt(8, step)
        _, terms = made.run(Example(given, {"marked": given["audio"]}, torch.ones(1)))
        adam.zero_grad()
        terms["symbols"].backward()
        adam.step()
    _, right = made.kept
    assert right["symbols_right"] > 0.8, right


# --- the recipes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cipher(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("cipher")
    text = (ROOT / "recipes/watermark/silentcipher.yaml").read_text()
    small = yaml.safe_load(re.search(r"^# tiny: (\{.*\})", text, re.MULTILINE)[1])
    options = {f"model__model__{name}": value for name, value in small.items()}
    train(
        data, out, 4, recipe=ROOT / "recipes/watermark/silentcipher.yaml", model__simulation__bits=3,
        model__simulation__levels=3, model__model__sample_rate=16000, **options,
        data__valid=data / "speech_valid", data__steps=4, data__segment=4000,
    )  # fmt: skip
    return out


def test_the_recipe_of_symbols_trains(cipher):
    state = checkpoint(cipher)
    assert all(x.isfinite().all() for x in state["state_dict"].values() if torch.is_tensor(x))
    parts = weights.load_parts(cipher)
    assert {name: type(model) for name, (model, _) in parts.items()} == {
        "mark": SilentCipherMarker,
        "detect": SilentCipherDetector,
    }
    whole, _ = weights.load(cipher)
    fresh = SilentCipher(**yaml.safe_load((cipher / "model/config.json").read_text())["init_args"])
    names = {name for name, _ in fresh.named_parameters()}
    started = torch.load(cipher / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    assert len(started) == len(names)  # every parameter had a gradient
    assert all(torch.isfinite(x).all() for x in whole.state_dict().values())


def test_the_recipe_of_symbols_has_its_other_rate():
    recipe = ROOT / "recipes/watermark/silentcipher.yaml"
    other = yaml.safe_load(re.search(r"^# 16 kHz: (\{.*\})", recipe.read_text(), re.MULTILINE)[1])
    cli = parse(recipe, [part for key, value in other.items() for part in (f"--{key}", str(value))])
    model = cli.model.model
    assert sum(p.numel() for p in model.parameters()) == 2_915_349
    assert cli.model.simulation.sample_rate == 16000
    given = cli.model.simulation.example({"audio": torch.randn(2, 1, 4096)}).given
    assert model.learn(**{"x": given["audio"], "message": given["message"]})[0].shape == (2, 1, 4096)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("watermark")
    small = {"bits": 3, "filters": 2, "ratios": "[8,5]", "latent": 4}
    options = {f"model__model__{name}": value for name, value in small.items()}
    train(
        data, out, 2, recipe=ROOT / "recipes/watermark/audioseal.yaml", model__simulation__bits=3,
        **options, model__attack_p=1.0, data__valid=data / "speech_valid", data__steps=2, data__segment=8000,
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
