"""Other people's checkpoints are read without being run, and named when they do not belong."""

import pickle
import sys
import types
from collections import defaultdict
from functools import partial
from typing import Any

import pytest
import torch
import yaml

from audiomask import checkpoints
from audiomask.checkpoints import CheckpointError
from audiomask.models.demucs import Demucs

SMALL = {"hidden": 2, "depth": 3}


def small() -> Demucs:
    torch.manual_seed(0)
    return Demucs(**SMALL)


@pytest.mark.parametrize("holder", [None, "state_dict", "model", "best_state", "state"])
def test_a_state_dict_is_found_where_trainers_keep_it(tmp_path, holder):
    state, path = small().state_dict(), tmp_path / "a.th"
    wrapped = {holder: state, "epoch": 3, "optimizer": {"lr": 0.1}} if holder else state
    torch.save(wrapped, path)
    model, config, card = checkpoints.load("demucs", [path])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    assert config["init_args"]["hidden"] == 2
    assert "CC-BY-NC" in card["licence"]
    assert len(card["training"]["sha256"][0]) == 64


def test_names_of_data_parallel_training_are_shortened(tmp_path):
    torch.save({f"module.{k}": v for k, v in small().state_dict().items()}, tmp_path / "a.th")
    checkpoints.load("demucs", [tmp_path / "a.th"])


def test_what_the_weights_do_not_tell_can_be_given(tmp_path):
    torch.save(small().state_dict(), tmp_path / "a.th")
    model, _, _ = checkpoints.load("demucs", [tmp_path / "a.th"], stride=2, resample=2, name="mine")
    assert (model.stride, model.resample, model.name) == (2, 2, "mine")


class Trap:
    def __reduce__(self):
        return print, ("this must not run",)


def test_nothing_is_run(tmp_path, capsys):
    torch.save({"state": small().state_dict(), "class": Trap()}, tmp_path / "a.th")
    (tmp_path / "b.th").write_bytes(pickle.dumps(Trap()))
    for name in ("a.th", "b.th"):
        with pytest.raises(CheckpointError, match=r"not unpickled.*bare state dict"):
            checkpoints.load("demucs", [tmp_path / name])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read|not unpickled"),
        (b"PK\x03\x04 cut off", "cannot be read"),
        (b"no checkpoint at all", "not unpickled|cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, words):
    (tmp_path / "a.th").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"a\.th: .*({words})"):
        checkpoints.load("demucs", [tmp_path / "a.th"])


def test_the_wrong_family_is_named(tmp_path):
    torch.save(small().state_dict(), tmp_path / "a.th")
    for family in ("gtcrn", "cleanunet", "dtln"):
        with pytest.raises(CheckpointError, match=rf"a\.th: not a checkpoint of {family}"):
            checkpoints.load(family, [tmp_path / "a.th"])
    with pytest.raises(CheckpointError, match=r"no importer for 'sieve'; there are: .*cleanunet.*demucs"):
        checkpoints.load("sieve", [tmp_path / "a.th"])


def test_a_mistake_of_ours_is_not_blamed_on_the_file(tmp_path, monkeypatch):
    from audiomask.models import demucs

    torch.save(small().state_dict(), tmp_path / "a.th")

    def broken(state):
        return len(None)

    monkeypatch.setattr(demucs, "from_authors", broken)
    with pytest.raises(TypeError):
        checkpoints.load("demucs", [tmp_path / "a.th"])


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = small().state_dict()
    state.pop("lstm.lstm.bias_hh_l1")
    torch.save(state, tmp_path / "a.th")
    with pytest.raises(CheckpointError, match=r"a\.th: does not fit .*bias_hh_l1"):
        checkpoints.load("demucs", [tmp_path / "a.th"])


def test_no_state_dict_and_no_file(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.th")
    with pytest.raises(CheckpointError, match="no state dict"):
        checkpoints.load("demucs", [tmp_path / "a.th"])
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoints.load("demucs", [tmp_path / "b.th"])
    with pytest.raises(CheckpointError, match="2 files"):
        checkpoints.load("demucs", [tmp_path / "a.th"] * 2)


class Filled:
    """An object of a class of OmegaConf, as its pickle has it: a dictionary, and no code."""

    def __init__(self, **values):
        self.__dict__ |= values


def omegaconf_of(monkeypatch, value, **more):
    """A configuration as OmegaConf pickles it, by stand-ins for its classes."""
    classes = {
        "dictconfig": ["DictConfig"],
        "listconfig": ["ListConfig"],
        "nodes": ["AnyNode"],
        "base": ["Metadata", "ContainerMetadata"],
    }
    made, modules = {}, {"omegaconf": types.ModuleType("omegaconf")}
    for home, kinds in classes.items():
        module = modules[f"omegaconf.{home}"] = types.ModuleType(home)
        for kind in kinds:
            made[kind] = type(kind, (Filled,), {"__module__": f"omegaconf.{home}"})
            setattr(module, kind, made[kind])
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def node(value, parent):
        kind = {dict: "DictConfig", list: "ListConfig"}.get(type(value), "AnyNode")
        held = type(value) if isinstance(value, dict | list) else None
        data = {"ref_type": Any, "object_type": held, "resolver_cache": defaultdict(dict)} | more
        own = made[kind](_metadata=made["Metadata" if kind == "AnyNode" else "ContainerMetadata"](**data))
        if kind == "AnyNode":
            own._val = value
        elif kind == "ListConfig":
            own._content = [node(item, own) for item in value]
        else:
            own._content = {key: node(item, own) for key, item in value.items()}
        own._parent = parent
        return own

    return node(value, None)


@pytest.fixture
def optional(monkeypatch):
    """Demucs, as if no weight told whether it is causal."""
    from audiomask.models import demucs

    monkeypatch.setattr(demucs, "AUTHORS_OPTIONS", {"causal": ("xp.cfg", "net", "causal")}, raising=False)


@pytest.mark.parametrize("kind", ["omegaconf", "yaml", "plain"])
def test_an_option_beside_the_weights_is_read(tmp_path, monkeypatch, optional, kind):
    config = {"net": {"ratios": [8, 5], "causal": True, "norm": None}, "seed": 1}
    wrap = {"omegaconf": partial(omegaconf_of, monkeypatch), "yaml": yaml.safe_dump, "plain": dict}[kind]
    torch.save({"model": small().state_dict(), "xp.cfg": wrap(config)}, tmp_path / "a.th")
    monkeypatch.undo()
    assert checkpoints._option(checkpoints.read([tmp_path / "a.th"])[1], ("xp.cfg", "net", "causal")) is True


@pytest.mark.parametrize(
    "config", [{}, {"net": {}}, {"net": {"causal": "${other}"}}, {"net": True}, "net: [", "causal", None]
)
def test_an_option_that_is_nowhere_has_to_be_given(tmp_path, optional, config):
    torch.save({"model": small().state_dict(), "xp.cfg": config}, tmp_path / "a.th")
    with pytest.raises(
        CheckpointError, match=r"a\.th: nothing in it says what causal is; give --arg causal="
    ):
        checkpoints.load("demucs", [tmp_path / "a.th"])
    _, found, _ = checkpoints.load("demucs", [tmp_path / "a.th"], causal=True)
    assert found["init_args"]["causal"] is True


def test_an_omegaconf_pickle_runs_nothing(tmp_path, monkeypatch, capsys):
    config = omegaconf_of(monkeypatch, {"net": {"causal": True}}, flags={"readonly": Trap()})
    torch.save({"model": small().state_dict(), "xp.cfg": config}, tmp_path / "a.th")
    with pytest.raises(CheckpointError, match="not unpickled"):
        checkpoints.load("demucs", [tmp_path / "a.th"])
    assert capsys.readouterr().out == ""
