"""Demucs keeps the contract, has the published sizes, and equals the published network on whole files."""

import built_once
import contract
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiomask.models.demucs import Demucs, from_authors


def tiny(**changes) -> Demucs:
    """The one without changes is imported in test_import_verb.py too."""
    torch.manual_seed(0)
    return Demucs(8, **({"depth": 3} | changes)).eval()


@pytest.mark.parametrize(
    "options", [{"resample": 1, "depth": 2}, {"resample": 4}], ids=["1", "4"]
)  # 2: by the recipe
@pytest.mark.parametrize("promise", contract.CONTRACT, ids=lambda f: f.__name__)
def test_contract(promise, options):
    with built_once.graphs():
        promise(tiny(**options))


@pytest.mark.parametrize(("hidden", "size"), [(48, 18_867_937), (64, 33_533_569)])
def test_published_sizes_and_clock(hidden, size):
    with torch.device("meta"):
        model = Demucs(hidden)
    assert sum(p.numel() for p in model.parameters()) == size
    assert model.hop == 256
    assert model.latency == 851  # 53 ms


@pytest.mark.parametrize("promise", contract.CONTRACT, ids=lambda f: f.__name__)
def test_contract_of_the_non_causal_one(promise):
    promise(tiny(stride=2, resample=2, causal=False, segment=0.008, depth=2))


def test_the_non_causal_one_has_the_published_size_and_says_how_late_it_is():
    with torch.device("meta"):
        model = Demucs(64, stride=2, resample=2, causal=False)
    assert sum(p.numel() for p in model.parameters()) == 60_813_953
    assert model.hop == 32000
    assert model.latency == 50000


def test_a_factor_without_stages_is_refused():
    with pytest.raises(ValueError, match="resample by 3"):
        Demucs(8, resample=3)


def resampled(x, up):
    """x2 or x1/2 by the sinc written out sample by sample."""
    window = torch.hann_window(4 * 56 + 1, periodic=False, dtype=torch.float64)[1::2]
    kernel = (torch.sinc(torch.arange(112, dtype=torch.float64) - 55.5) * window).to(x.dtype)[None, None]
    if up:
        between = F.conv1d(F.pad(x, (55, 56)), kernel)
        return torch.stack([x, between], -1).flatten(2)
    even, odd = F.pad(x, (0, x.shape[2] % 2)).unflatten(2, (-1, 2)).unbind(-1)
    return (even + F.conv1d(F.pad(odd, (56, 55)), kernel)) / 2


@torch.no_grad()
def offline(
    model: Demucs, x: torch.Tensor, stages: int, stride: int = 4, level: torch.Tensor | None = None
) -> torch.Tensor:
    """The published network on a file, from torch's own layers and the weights of `model`."""
    level = x.std(2, keepdim=True) if level is None else level
    y, skips = x / (0.001 + level), []
    for _ in range(stages):
        y = resampled(y, True)
    for encode in model.encoder:
        conv, pointwise = encode[0], encode[2]
        y = F.relu(F.conv1d(y, conv.weight, conv.bias, stride=stride))
        y = F.glu(F.conv1d(y, pointwise.weight, pointwise.bias), 1)
        skips.append(y)
    both = hasattr(model.lstm, "linear")
    lstm = nn.LSTM(y.shape[1], y.shape[1], 2, bidirectional=both)
    lstm.load_state_dict(model.lstm.get_submodule("lstm").state_dict())
    y = lstm(y.permute(2, 0, 1))[0]
    y = (F.linear(y, model.lstm.linear.weight, model.lstm.linear.bias) if both else y).permute(1, 2, 0)
    for i, decode in enumerate(model.decoder):
        pointwise, up = decode[0], decode[2]
        y = y + skips.pop()[:, :, : y.shape[2]]
        y = F.glu(F.conv1d(y, pointwise.weight, pointwise.bias), 1)
        y = F.conv_transpose1d(y, up.weight, up.bias, stride=stride)
        y = y if i == len(model.decoder) - 1 else F.relu(y)
    for _ in range(stages):
        y = resampled(y, False)
    return level * y


@pytest.mark.parametrize("resample", [1, 2, 4])
@pytest.mark.parametrize("frames", [300, 4001])
def test_equals_the_published_network_from_start_to_tail(resample, frames):
    """The file ends in zeros, as many as the last windows reach into: see the module's docstring."""
    model = tiny(resample=resample)
    x = 0.1 * torch.randn(2, 1, frames)
    # The file network wants a length that its windows fill: multiples of all strides, and the first window.
    grid = 4**3 // resample
    room = F.pad(x, (0, -(frames + 1024) % grid + 1024 + 4 * sum(4**i for i in range(3)) // resample))
    want = offline(model, room, {1: 0, 2: 1, 4: 2}[resample])[:, :, :frames]
    level = room.std(2)[:, 0]
    with torch.no_grad():
        got = model(x, level=level)
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("frames", [1, 3333])
@torch.no_grad()
def test_whole_is_the_published_network_on_any_file(causal, frames):
    """No zeros at its end are asked for: what fills the last window is part of the authors' way."""
    model = tiny(causal=causal, **({} if causal else {"stride": 2, "resample": 2}))
    stride, stages = (4, 2) if causal else (2, 1)

    def fits(length: int) -> bool:
        """Three layers take in all of it, so that as much comes back."""
        length <<= stages
        for _ in range(3):
            if length < 8 or (length - 8) % stride:
                return False
            length = (length - 8) // stride + 1
        return True

    room = next(n for n in range(frames, frames + 1000) if fits(n))
    x = torch.randn(2, 1, frames)
    want = offline(model, F.pad(x, (0, room - frames)), stages, stride, torch.tensor(0.999))[..., :frames]
    got = 0.999 * model.whole(x / (0.001 + 0.999))
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


@torch.no_grad()
def test_windows_of_the_non_causal_one_agree_with_the_whole_inside():
    """Windows begin in another place, so equality holds as far as the LSTM has forgotten."""
    model = tiny(stride=2, resample=2, causal=False, segment=0.2)
    x = torch.randn(1, 1, 16000)
    windows, whole = model(x, level=torch.tensor([0.999])), 0.999 * model.whole(x)
    assert windows.shape == whole.shape
    assert (windows - whole).abs().mean() < 0.01 * whole.abs().mean()


def test_import_tells_the_kinds_apart():
    for model in (tiny(), tiny(stride=2, resample=2, causal=False)):
        arguments, tensors = from_authors(model.state_dict())
        again = Demucs(**arguments)
        again.load_state_dict(tensors)
        assert (again.stride, again.resample, again.hop) == (model.stride, model.resample, again.hop)
        assert isinstance(again.lstm, type(model.lstm))


@torch.no_grad()
def test_all_of_it_moves_to_another_precision_or_device():
    """The filters of the resamplers too, which are no parameters."""
    model, x = tiny(), 0.1 * torch.randn(1, 1, 3000)
    want = model(x)
    got = model.double()(x.double())
    assert got.dtype == torch.float64
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


@torch.no_grad()
def test_the_running_level_makes_it_blind_to_gain():
    model = tiny()
    x = torch.randn(1, 1, 16000)
    loud, quiet = model(x), model(x * 0.1)
    assert (quiet / 0.1 - loud).abs().max() < 0.05 * loud.abs().max()  # the floor of .001 is 1 % of .1


def test_the_authors_class_agrees():
    """Only where their package (of a non-commercial licence) happens to be installed."""
    theirs = pytest.importorskip("denoiser.demucs").Demucs(hidden=8, depth=5).eval()
    ours = Demucs(8).eval()
    ours.load_state_dict(theirs.state_dict())
    x = F.pad(0.1 * torch.randn(1, 1, 8000), (0, 1000))
    with torch.no_grad():
        want, got = theirs(x)[..., :8000], ours(x, level=x.std(2)[:, 0])[..., :8000]
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
