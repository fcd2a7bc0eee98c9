"""A run of `audiomask train` with EnCodec's recipe, as small as it gets."""

import torch
from small_trainings import ROOT, checkpoint, train


def test_the_recipe_trains(data, tmp_path):
    out = tmp_path / "run"
    small = {"filters": 2, "ratios": "[8,5]", "latent": 4, "stages": 32, "levels": 16}
    options = {f"model__model__{name}": value for name, value in small.items()}
    train(
        data, out, 2, recipe=ROOT / "recipes/codec/encodec_24khz.yaml",
        **options, data__valid=data / "speech_valid", data__steps=2, data__segment=4000,
    )  # fmt: skip
    state = checkpoint(out)
    weights = state["state_dict"]
    assert weights["model.quantizer.inited"][:2].all()  # the first stages take part in every bandwidth
    assert all(x.isfinite().all() for x in weights.values() if torch.is_tensor(x) and x.is_floating_point())
    assert len(state["objective"]["adversary"]["networks"]) == 5 * 17
    assert set(state["objective"]["balancer"]) == {"l1", "spectrum", "adversarial", "features"}
