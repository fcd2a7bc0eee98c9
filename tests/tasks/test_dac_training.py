"""A run of `audiomask train` with DAC's recipe, as small as it gets."""

import json

import torch
from small_trainings import ROOT, checkpoint, train

SMALL = [
    {"class_path": "audiomask.losses.PeriodDiscriminator", "init_args": {"period": 3, "widths": [4, 8]}},
    {"class_path": "audiomask.losses.BandDiscriminator", "init_args": {"fft": 512, "filters": 4}},
]


def test_the_recipe_trains(data, tmp_path):
    out = tmp_path / "run"
    small = {"filters": 2, "ratios": "[2,4]", "latent": 4, "width": 8, "levels": 16}
    options = {f"model__model__{name}": value for name, value in small.items()}
    train(
        data, out, 2, recipe=ROOT / "recipes/codec/dac_44khz.yaml",
        **options, data__valid=data / "speech_valid", data__steps=2, data__segment=8192,
        model__objective__adversary__discriminators=json.dumps(SMALL),
    )  # fmt: skip
    state = checkpoint(out)
    assert all(
        x.isfinite().all()
        for x in state["state_dict"].values()
        if torch.is_tensor(x) and x.is_floating_point()
    )
    assert len(state["objective"]["adversary"]["networks"]) == 9 + 78
