"""Models on disk and from configs."""

import json
from pathlib import Path

import pytest
import torch

from audiomask import weights
from audiomask.nn.conv import Conv1d
from audiomask.runtime.artifact import Artifact
from audiomask.streaming import Sequential
from audiomask.weights import WeightsError

CONFIG = {
    "class_path": "audiomask.nn.conv.Conv1d",
    "init_args": {"in_channels": 2, "out_channels": 3, "kernel_size": 4},
}


def test_saved_models_come_back(tmp_path):
    model = weights.load_model(CONFIG)
    weights.save(tmp_path / "run" / "model", model, CONFIG)
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        again, config = weights.load(folder)
        assert config == CONFIG
        assert not again.training
        assert torch.equal(again.weight, model.weight)
    names = {p.name for p in (tmp_path / "run" / "model").iterdir()}
    assert names == {"config.json", "model.safetensors"}


class Wrapper(Sequential):
    def __init__(self, inner, others):
        super().__init__(inner, *others)


def test_nested_configs():
    wait = {"class_path": "audiomask.streaming.Delay", "init_args": {"frames": 2, "shape": 1}}
    config = {"class_path": f"{__name__}.Wrapper", "init_args": {"inner": wait, "others": [wait, wait]}}
    assert weights.load_model(config).delay == 6


def test_changes_replace_arguments(tmp_path):
    weights.save(tmp_path, weights.load_model(CONFIG), CONFIG)
    model, config = weights.load(tmp_path, dilation=2)
    assert model.dilation == 2
    assert config["init_args"]["dilation"] == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "needs class_path"),
        ({"class_path": "audiomask.nn.conv.Conv3d"}, "no class 'audiomask.nn.conv.Conv3d'"),
        ({"class_path": "nowhere.Class"}, "no class 'nowhere.Class'"),
        ({"class_path": "Class"}, "no class 'Class'"),
        ({"class_path": "os.system", "init_args": {"command": "true"}}, "not a model"),
        ({"class_path": "subprocess.Popen", "init_args": {"args": "true"}}, "not a model"),
        ({"class_path": "torch.nn.Identity"}, "not a streaming model"),
        ({**CONFIG, "init_arguments": {}}, "unknown keys"),
        ({**CONFIG, "init_args": {"channels": 2}}, "unexpected keyword argument 'channels'"),
    ],
)
def test_bad_configs_say_what_is_wrong(config, message):
    with pytest.raises(WeightsError, match=message):
        weights.load_model(config)


def test_bad_folders_say_what_is_wrong(tmp_path):
    with pytest.raises(WeightsError, match=r"no config.json"):
        weights.load(tmp_path)
    weights.save(tmp_path, Conv1d(2, 3, 5), CONFIG)
    with pytest.raises(WeightsError, match="do not fit the config"):
        weights.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(WeightsError, match="damaged"):
        weights.load(tmp_path)
    weights.save(tmp_path, weights.load_model(CONFIG), CONFIG)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG)[:-5])
    with pytest.raises(WeightsError, match="damaged"):
        weights.load(tmp_path)


def test_a_model_without_weights_is_its_yaml(tmp_path):
    path = tmp_path / "hall.yaml"
    path.write_text("class_path: audiomask.models.hallmark.Hallmark\ninit_args: {closest: 6.0}\n")
    model, config = weights.load(path)
    assert (model.closest, config["init_args"]) == (6.0, {"closest": 6.0})
    assert weights.load(path, closest=7.0)[0].closest == 7.0
    for text, message in (
        ("class_path: audiomask.nn.conv.Conv1d\n" + f"init_args: {CONFIG['init_args']}", "has weights"),
        ("- 1", "holds no class_path"),
        ("{", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(WeightsError, match=message):
            weights.load(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        weights.load(tmp_path / "none.yaml")


def test_the_mark_that_ships_is_that_of_its_yaml():
    root = Path(__file__).parents[1]
    model, config = weights.load(root / "recipes/watermark/designed/hallmark.yaml")
    shipped = Artifact.load(root / "audiomask/pretrained/hallmark.onnx")
    assert shipped.meta["hash"] == weights.fingerprint(model, config)
