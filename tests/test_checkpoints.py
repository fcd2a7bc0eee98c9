"""Other people's checkpoints are read without being run, and named when they do not belong."""

import pickle

import pytest
import torch

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
