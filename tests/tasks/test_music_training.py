"""Runs of `audiomask train` with the recipes for stereo music, as small as they get."""

import numpy as np
import pytest
import soundfile as sf
import torch
from small_trainings import ROOT, checkpoint, killed_equals_whole, train

from audiomask import weights
from audiomask.data.kaldi.directory import DataDir
from audiomask.models.walloc import WaLLoCDecoder, WaLLoCEncoder

STEMS = ("vocals", "drums", "bass", "other")
NONE = {"data__noise": None, "model__scored": 0, "data__heard": 8000}


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Two songs of half a second, in stereo, with their stems."""
    folder, rng = tmp_path_factory.mktemp("songs"), np.random.default_rng(0)
    tables = {name: {} for name in ("wav", *STEMS)}
    for song in ("a", "b"):
        stems = 0.05 * rng.standard_normal((4, 12000, 2))
        for name, x in zip(tables, (stems.sum(0), *stems), strict=True):
            sf.write(folder / f"{song}_{name}.wav", x, 44100)
            tables[name][song] = str(folder / f"{song}_{name}.wav")
    DataDir({f"{name}.scp": table for name, table in tables.items()}).write(folder)
    return folder


def options(songs, recipe: str, **more) -> dict:
    return {
        "recipe": ROOT / f"recipes/codec/{recipe}.yaml",
        "data__train": songs,
        "data__valid": songs,
        "data__cache": songs / "cache",
        **NONE,
        **more,
    }


def walloc(songs) -> dict:
    small = {"levels": 3, "latent": 4, "width": 9, "full_scale": 0.5}
    return options(
        songs, "walloc", **{f"model__model__{name}": value for name, value in small.items()},
        model__simulation__books="[4]", model__lr=1e-3, model__warmup=0,
    )  # fmt: skip


def test_walloc_trains_and_keeps_both_parts(songs, tmp_path):
    train(songs, tmp_path / "run", 4, **walloc(songs))
    state = checkpoint(tmp_path / "run")
    assert state["global_step"] == 4
    assert all(x.isfinite().all() for x in state["state_dict"].values())
    parts = weights.load_parts(tmp_path / "run/model")
    assert {name: type(model) for name, (model, _) in parts.items()} == {
        "enc": WaLLoCEncoder,
        "dec": WaLLoCDecoder,
    }


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(songs, tmp_path):
    """The noise of the bottleneck too is drawn by the row's seed."""
    killed_equals_whole(songs, tmp_path, **walloc(songs))


def test_encodec_trains_on_segments_of_stereo(songs, tmp_path):
    small = {
        "filters": 4, "ratios": "[8,5]", "latent": 4, "stages": 16, "levels": 16, "segment": 4800,
        "overlap": 0.05,
    }  # fmt: skip
    train(
        songs, tmp_path / "run", 2, **options(songs, "encodec_48khz", data__segment=4800),
        **{f"model__model__{name}": value for name, value in small.items()}, data__steps=2,
    )  # fmt: skip
    state = checkpoint(tmp_path / "run")
    tensors = state["state_dict"]
    assert tensors["model.quantizer.inited"][:2].all()
    assert all(x.isfinite().all() for x in tensors.values() if torch.is_tensor(x) and x.is_floating_point())
    assert len(state["objective"]["adversary"]["networks"]) == 5 * 17
    assert set(state["objective"]["balancer"]) == {"l1", "spectrum", "adversarial", "features"}
