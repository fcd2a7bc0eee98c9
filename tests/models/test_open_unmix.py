"""Open-Unmix has the published size, equals the published network, and runs over windows of a song."""

import importlib

import built_once
import contract
import pytest
import torch

from audiomask import checkpoints
from audiomask.cli import main
from audiomask.masks import gains
from audiomask.models.open_unmix import OpenUnmix, from_authors, refined
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.player import Player

TINY = {"size": 64, "stride": 16, "seen": 20, "hidden": 8, "layers": 2, "window": 12}


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """The same with statistics and scales that are not those of the beginning."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("input_mean", "running_mean")):
                tensor.uniform_(-0.5, 0.5)
            elif name.endswith(("running_var", "scale", "output_mean")) or ".bn" in name:
                tensor.uniform_(0.5, 1.5) if tensor.is_floating_point() else None
    return model.eval()


def tiny(**more) -> OpenUnmix:
    torch.manual_seed(0)
    return shaken(OpenUnmix(**TINY | more))


def test_published_size_and_ports():
    """Of umxhq and umxl, four networks of 8.9 million; umxl's are wider."""
    with torch.device("meta"):
        model, wide = OpenUnmix(), OpenUnmix(hidden=1024)
    assert sum(p.numel() for p in model.parameters()) == 4 * 8_893_348
    assert sum(p.numel() for p in wide.parameters()) == 4 * 28_257_188
    assert [(port.name, port.channels) for port in model.outputs] == [
        ("vocals", 2), ("drums", 2), ("bass", 2), ("other", 2),
    ]  # fmt: skip
    assert model.task == "separate"
    assert model.hop + model.windows.overlap == 256 * 1024


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    "promise", [*contract.CONTRACT, contract.delay_is_composed], ids=lambda f: f.__name__
)
def test_contract(promise, residual):
    promise(tiny(window=8, channels=1 + (not residual), residual=residual))


@pytest.mark.parametrize("channels", [1, 2])
@torch.no_grad()
def test_after_a_step_the_outputs_sum_to_the_mixture(channels):
    model = tiny(channels=channels)
    x = 0.3 * torch.randn(2, channels, 16 * 100)
    assert (model.whole(x).sum(1) - x).abs().max() < 2e-3  # what is left is the noise that no target explains
    alone = tiny(channels=channels, steps=0)
    assert (alone.whole(x).sum(1) - x).abs().max() > 0.1
    left = tiny(channels=channels, steps=0, residual=True).whole(x)
    torch.testing.assert_close(left.sum(1), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(left[:, :4], alone.whole(x))


@torch.no_grad()
def test_channels_that_are_alike_stay_alike_and_finite():
    model = tiny()
    loud = 30 * torch.randn(1, 1, 16 * 100).repeat(1, 2, 1)
    for x in (loud, 1e-6 * loud, 0 * loud):
        y = model.whole(x)
        assert y.isfinite().all()
        if x is loud:  # of what is near the noise that no target explains, little is left
            assert (y.sum(1) - x).abs().max() < 1e-2 * x.abs().max()


@torch.no_grad()
def test_a_step_is_the_multichannel_filter():
    torch.manual_seed(0)
    y = torch.randn(1, 3, 2, 2, 40, 5).double()
    x = y.sum(1) + 0.3 * torch.randn(1, 2, 2, 40, 5)
    s, mixture = (torch.complex(*part.unbind(-3)).transpose(-1, -2) for part in (y[0], x[0]))
    outer, power = gains.covariances(s)
    want = gains.multichannel_wiener(s.abs().square().mean(1), outer / power[..., None, None], mixture)
    got = torch.complex(*refined(y, x)[0].unbind(2)).transpose(-1, -2)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@torch.no_grad()
def test_windows_are_as_good_as_the_whole_where_the_network_looks_no_further():
    """With nothing but the gains of a bin, of one frame, what is left is the transform."""
    model = tiny(steps=0, overlap=0.5, window=60)
    for target in model.targets.values():
        target.lstm = Nothing(8)
    x = 0.3 * torch.randn(1, 2, 16 * 200)
    want = model.whole(x)
    inner = slice(64, -64)  # the whole is reflected at its ends
    for i, y in enumerate(model(x)):
        torch.testing.assert_close(y[..., inner], want[:, i, :, inner], rtol=0, atol=1e-5)


class Nothing(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return x.new_zeros(*x.shape[:2], self.width), None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"channels": 3}, "1 or 2"),
        ({"stems": ["vocals"]}, "set steps to 0"),
        ({"overlap": 0.6}, "0 to .5"),
        ({"window": 2}, "4 or more"),
    ],
)
def test_what_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        tiny(**wrong)


# --- as the authors name things -----------------------------------------------------------------------------


def saved(model, folder):
    """Files of the targets of `model`, as the authors have them."""
    for target, network in model.targets.items():
        state = {**network.state_dict(), "stft.window": torch.ones(64), "sample_rate": torch.tensor(44100.0)}
        torch.save(state, folder / f"{target}-0a1b2c3d.pth")
    return sorted(folder.glob("*.pth"))


def test_import_takes_a_file_a_target_or_their_folder(tmp_path, capsys):
    model = tiny()
    files, out = saved(model, tmp_path), tmp_path / "umx.onnx"
    words = ["--arg", "size=64", "--arg", "stride=16", "--arg", "window=12", "-o", str(out)]
    with built_once.graphs():
        assert main(["import", "open_unmix", *map(str, files), *words]) == 0
    assert "equals torch" in capsys.readouterr().out
    artifact = Artifact.load(out)
    assert [port.name for port in artifact.outputs] == ["vocals", "drums", "bass", "other"]
    ours, config, _ = checkpoints.load("open_unmix", [tmp_path], size=64, stride=16, window=12)
    assert {k: config["init_args"][k] for k in ("seen", "hidden", "layers", "channels", "steps")} == {
        "seen": 20, "hidden": 8, "layers": 2, "channels": 2, "steps": 1,
    }  # fmt: skip
    x = 0.3 * torch.randn(1, 2, 1000)
    with torch.no_grad():
        want = model(x)
        for mine, theirs in zip(ours(x), want, strict=True):
            assert torch.equal(mine, theirs)
    player = Player(artifact)
    first, rest = player.feed(x[0, :, :700].numpy()), player.feed(x[0, :, 700:].numpy())
    last = player.flush()
    for i, name in enumerate(first):
        made = torch.cat([torch.from_numpy(part[name]) for part in (first, rest, last)], 1)
        torch.testing.assert_close(made, want[i][0], rtol=0, atol=1e-5)


def test_files_that_do_not_go_together_are_refused(tmp_path):
    files = saved(tiny(), tmp_path)
    state = torch.load(files[0])
    torch.save(state, tmp_path / "bass-other.pth")
    with pytest.raises(checkpoints.CheckpointError, match="each target once"):
        checkpoints.load("open_unmix", [tmp_path])
    torch.save({"weight": torch.zeros(3)}, tmp_path / "bass-other.pth")
    with pytest.raises(checkpoints.CheckpointError, match="not a checkpoint of open_unmix"):
        checkpoints.load("open_unmix", [tmp_path / "bass-other.pth"])
    with pytest.raises(checkpoints.CheckpointError, match="no such file"):
        checkpoints.load("open_unmix", [tmp_path / "vocals.pth"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(checkpoints.CheckpointError, match="or their folder"):
        checkpoints.load("open_unmix", [tmp_path / "empty"])


def test_the_rate_follows_from_the_bins():
    state = OpenUnmix(["speech", "noise"], 1, 1024, 512, 513, 8, 1).targets["speech"].state_dict()
    arguments, _ = from_authors({"speech_f5e0d9f9.pth".replace("_", "-"): state, "noise-04a6fc2d.pth": state})
    assert (arguments["sample_rate"], arguments["size"], arguments["stride"]) == (16000, 1024, 512)
    assert (arguments["stems"], arguments["channels"]) == (["speech", "noise"], 1)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("channels", "steps", "residual"), [(2, 1, False), (2, 2, True), (1, 1, False), (2, 0, False)]
)
@torch.no_grad()
def test_equals_the_package(channels, steps, residual):
    importlib.import_module("audiomask.frontend.torchaudio_import")
    package = pytest.importorskip("openunmix.model")
    bins = TINY["size"] // 2 + 1
    networks = {
        name: package.OpenUnmix(bins, channels, TINY["hidden"], TINY["layers"], max_bin=TINY["seen"])
        for name in ("vocals", "drums", "bass", "other")
    }
    theirs = shaken(
        package.Separator(networks, steps, False, residual, 44100.0, TINY["size"], TINY["stride"], channels)
    )
    arguments, tensors = from_authors({f"{name}.pth": n.state_dict() for name, n in networks.items()})
    ours = OpenUnmix(**arguments | TINY | {"steps": steps, "residual": residual}).eval()
    ours.load_state_dict(tensors)
    x = 0.3 * torch.randn(2, channels, 16 * 250 + 7)
    want = theirs(x)
    torch.testing.assert_close(ours.whole(x), want, rtol=0, atol=1e-4 * want.abs().max())


@pytest.mark.peer
def test_has_as_many_parameters_as_the_package():
    importlib.import_module("audiomask.frontend.torchaudio_import")
    package = pytest.importorskip("openunmix.model")
    with torch.device("meta"):
        theirs, ours = package.OpenUnmix(2049, 2, 512, max_bin=1487), OpenUnmix()
    assert sum(p.numel() for p in ours.parameters()) == 4 * sum(p.numel() for p in theirs.parameters())
