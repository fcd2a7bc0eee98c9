"""Hybrid Transformer Demucs has the published size, equals the published network, and runs over windows."""

import sys
import types
from fractions import Fraction

import built_once
import contract
import pytest
import torch

from audiomask import checkpoints
from audiomask.cli import main
from audiomask.models.htdemucs import HTDemucs, from_authors
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.player import Player

TINY = {"size": 64, "depth": 2, "width": 8, "bottom": 0, "layers": 2, "heads": 2, "window": 256}
TINY["sample_rate"] = 128


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """The same with norms and scales that are not those of the beginning."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "scale" in name or "gamma" in name or "norm" in name:
                p.uniform_(0.5, 1.5)
    return model.eval()


def tiny(**more) -> HTDemucs:
    torch.manual_seed(0)
    return shaken(HTDemucs(**TINY | more))


def test_published_size_and_ports():
    """The package's class has as many at the sizes of the published weights, see the last test."""
    with torch.device("meta"):
        model = HTDemucs()
    assert sum(p.numel() for p in model.parameters()) == 41_984_456
    assert [(port.name, port.channels) for port in model.outputs] == [
        ("drums", 2), ("bass", 2), ("other", 2), ("vocals", 2),
    ]  # fmt: skip
    assert model.task == "separate"
    assert model.hop + model.windows.overlap == 343_980 == 7.8 * model.sample_rate


@pytest.mark.parametrize("more", [{}, {"channels": 1, "bottom": 16, "both": False}, {"shifts": 2}])
@pytest.mark.parametrize(
    "promise", [*contract.CONTRACT, contract.delay_is_composed], ids=lambda f: f.__name__
)
def test_contract(promise, more):
    promise(tiny(**more | {"window": 1024} if "shifts" in more else more))


@torch.no_grad()
def test_with_shifts_a_window_is_the_mean_of_several_places():
    model = tiny(window=1024, shifts=3)
    assert model.spread == 64
    x = torch.randn(1, 2, 1024 + model.spread)
    middle = slice(model.spread, 1024)
    heard = [model.whole(x[:, :, n : n + 1024])[..., 64 - n : 1024 - n] for n in (0, 32, 64)]
    want = torch.stack(heard).mean(0).flatten(1, 2)
    torch.testing.assert_close(model.flat(x)[:, :, middle], want)


@torch.no_grad()
def test_a_window_is_used_in_its_middle():
    """And two of them are cross-faded, so that outputs follow the sound at their delay."""
    model = tiny()
    x = torch.randn(1, 2, 2000)
    y = torch.cat(model(x), 1)
    hop, shared = model.hop, model.windows.overlap
    at = 3 * hop - shared // 2  # somewhere between two fades: in the fourth window alone
    window = torch.nn.functional.pad(x, (shared, 0))[:, :, 3 * hop : 4 * hop + shared]
    inner = slice(at, at + hop - model.windows.fade)
    want = model.flat(window)[:, :, shared // 2 : shared // 2 + hop - model.windows.fade]
    torch.testing.assert_close(y[:, :, inner], want, rtol=0, atol=1e-5)


@torch.no_grad()
def test_silence_is_silent_and_quiet_sound_finite():
    model = tiny()
    x = torch.randn(1, 2, 1000)
    for level in (0.0, 1e-8, 1e3):
        for y in model(level * x):
            assert y.isfinite().all()
            assert level or not y.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"overlap": 0.6}, "0 to .5"),
        ({"window": 100}, "give 128 or more"),
        ({"depth": 3}, "too few frequencies for 3 layers"),
        ({"shifts": 0}, "give 1 or more"),
        ({"shifts": 2, "sample_rate": 1000}, "and a longer window"),
    ],
)
def test_what_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        tiny(**wrong)


# --- as the authors save it ---------------------------------------------------------------------------------


@pytest.fixture
def theirs(monkeypatch):
    """A class of their name, which their files hold beside the weights, and which must not be needed."""
    module = types.ModuleType("demucs.htdemucs")
    kind = type("HTDemucs", (), {"__module__": module.__name__})
    module.HTDemucs = kind
    package = types.ModuleType("demucs")
    package.htdemucs = module
    monkeypatch.setitem(sys.modules, "demucs", package)
    monkeypatch.setitem(sys.modules, "demucs.htdemucs", module)
    return kind


@pytest.mark.parametrize("count", [2, 4, 6])
def test_their_file_is_read(tmp_path, monkeypatch, theirs, count):
    names = [f"s{n}" for n in range(count)]
    model = tiny(stems=names, bottom=16)
    kwargs = {"sources": names, "segment": Fraction(39, 5), "t_heads": 2}
    state = {key: value.half() for key, value in model.state_dict().items()}
    package = {
        "klass": theirs,
        "args": (),
        "kwargs": kwargs,
        "state": state,
        "training_args": {"epochs": 360},
    }
    torch.save(package, tmp_path / "955717e8-8726e21a.th")
    monkeypatch.delitem(sys.modules, "demucs.htdemucs")
    monkeypatch.delitem(sys.modules, "demucs")
    ours, config, card = checkpoints.load(
        "htdemucs", [tmp_path / "955717e8-8726e21a.th"], heads=2, window=256, sample_rate=128
    )
    found = [port.name for port in ours.outputs]
    assert found == {
        2: ["stem1", "stem2"],
        4: ["drums", "bass", "other", "vocals"],
        6: ["drums", "bass", "other", "vocals", "guitar", "piano"],
    }[count]  # fmt: skip
    want = {"size": 64, "depth": 2, "width": 8, "bottom": 16, "layers": 2, "both": True}
    assert {key: config["init_args"][key] for key in want} == want
    assert card["training"]["imported"] == ["955717e8-8726e21a.th"]
    for key, value in ours.state_dict().items():
        assert torch.equal(value, state[key].float()), key


def test_import_writes_what_plays(tmp_path, capsys):
    torch.save({"state": tiny().state_dict()}, tmp_path / "mine.th")
    out, words = (
        tmp_path / "htdemucs.onnx",
        [f"{key}={TINY[key]}" for key in ("heads", "window", "sample_rate")],
    )
    with built_once.graphs():
        options = [word for pair in words for word in ("--arg", pair)]
        assert main(["import", "htdemucs", str(tmp_path / "mine.th"), *options, "-o", str(out)]) == 0
    assert "equals torch" in capsys.readouterr().out
    x = 0.3 * torch.randn(2, 1000)
    player = Player(Artifact.load(out))
    first, last = player.feed(x.numpy()), player.flush()
    with torch.no_grad():
        want = tiny()(x[None])
    for name, y in zip(first, want, strict=True):
        made = torch.cat([torch.from_numpy(part[name]) for part in (first, last)], 1)
        torch.testing.assert_close(made, y[0], rtol=0, atol=1e-5)


def test_another_file_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.th")
    with pytest.raises(checkpoints.CheckpointError, match="not a checkpoint of htdemucs"):
        checkpoints.load("htdemucs", [tmp_path / "other.th"])


@pytest.mark.peer
@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 8, "nfft": 1024, "bottom_channels": 32, "t_heads": 4, "dconv_mode": 3, "depth": 3},
        {"channels": 8, "nfft": 2048, "t_heads": 2, "dconv_mode": 1, "t_layers": 3, "audio_channels": 1},
    ],
)
@torch.no_grad()
def test_equals_the_package(sizes):
    package = pytest.importorskip("demucs.htdemucs")
    torch.manual_seed(0)
    network = shaken(package.HTDemucs(["drums", "bass", "other", "vocals"], use_train_segment=False, **sizes))
    arguments, tensors = from_authors(network.state_dict())
    ours = HTDemucs(**arguments | {"heads": sizes["t_heads"], "window": 16384}).eval()
    ours.load_state_dict(tensors)
    for length in (20011, 16384, 8192):
        x = 0.3 * torch.randn(2, arguments["channels"], length)
        want = network(x)
        torch.testing.assert_close(ours.whole(x), want, rtol=0, atol=1e-5 * want.abs().max())


@pytest.mark.peer
def test_has_as_many_parameters_as_the_package():
    package = pytest.importorskip("demucs.htdemucs")
    with torch.device("meta"):
        theirs = package.HTDemucs(["drums", "bass", "other", "vocals"], dconv_mode=3, bottom_channels=512)
        ours = HTDemucs()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    want = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == want
