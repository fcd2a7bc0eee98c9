"""Bandit is the authors' network, version 1 and 2, run over windows."""

import contract
import pytest
import torch
from msst_peer import msst

from audiomask import checkpoints
from audiomask.checkpoints import CheckpointError
from audiomask.frontend.splits import split
from audiomask.models.bandit import Bandit, from_authors
from audiomask.weights import load_model

SMALL = {"dim": 8, "hidden": 12, "mlp": 10, "pairs": 1}
TINY = {
    **SMALL, "bands": 6, "fft": 64, "hop_length": 16, "segment": 0.002, "sample_rate": 16000,
}  # fmt: skip

# The published table, speech, music and effects, in millions; and to the unit, as the authors' code has it.
PUBLISHED = {
    ("vox7", 0): (25.7, 25_676_176),
    ("musical", 48): (33.5, 33_549_328),
    ("musical", 64): (37.0, 37_022_688),
    ("mel", 48): (32.8, 32_753_744),
    ("bark", 48): (64.5, 64_480_864),
    ("bark", 64): (82.6, 82_621_200),
}


def tiny(**changes) -> Bandit:
    torch.manual_seed(0)
    return Bandit(**{**TINY, **changes}).eval()


@pytest.mark.parametrize("kind", PUBLISHED, ids=str)
def test_sizes_are_the_published_ones(kind):
    with torch.device("meta"):
        count = sum(p.numel() for p in Bandit(split=kind[0], bands=kind[1]).parameters())
    published, exact = PUBLISHED[kind]
    assert count == exact
    assert round(count / 1e6, 1) == published


@pytest.mark.parametrize(
    "changes",
    [{"split": "bark", "pad": "reflect"}, {"channels": 2, "stems": ["vocals"], "cell": "LSTM"}],
    ids=str,
)
def test_contract_of_variants(changes):
    model = tiny(**changes)
    contract.random_chunking_equals_whole(model)
    contract.onnx_equals_torch(model)


@torch.no_grad()
def test_channels_are_separated_each_by_itself():
    x = torch.randn(1, 2, 300)
    mono = tiny()
    stereo = tiny(channels=2)
    stereo.load_state_dict(mono.state_dict())
    for both, left, right in zip(stereo(x), mono(x[:, :1]), mono(x[:, 1:]), strict=True):
        torch.testing.assert_close(both, torch.cat([left, right], 1), rtol=0, atol=1e-6)


@torch.no_grad()
def test_decoders_come_off():
    full = tiny()
    alone = tiny(stems=["music"])
    alone.load_state_dict(full.state_dict())
    x = torch.randn(1, 1, 300)
    torch.testing.assert_close(alone(x), full.by_port(full(x))["music"], rtol=0, atol=1e-6)
    with pytest.raises(RuntimeError, match=r"mask_estim\.speech"):
        full.load_state_dict(alone.state_dict())


@torch.no_grad()
def test_masks_of_one_give_the_mixture_back():
    """The bands' weights sum to 1 in every bin, and the windows and transforms to the identity."""
    for changes in ({}, {"split": "vox7"}, {"pad": "reflect"}):
        model = tiny(**changes)
        for heads in model.mask_estim.values():
            for head in heads:
                head.output.weight.zero_()
                head.output.bias.zero_()
                half = len(head.output.bias) // 2
                head.output.bias[:half:2], head.output.bias[half:] = 1.0, 100.0  # real parts; open gates
        x = torch.randn(2, 1, 777)
        for y in model(x):
            torch.testing.assert_close(y, x, rtol=0, atol=1e-5)


@torch.no_grad()
def test_windows_agree_with_the_whole_where_the_network_does_not_look_far():
    model = tiny(segment=0.05)
    for layer in model.tf_model[::2]:  # over time: only what is beside a frame
        layer.rnn.weight_hh_l0.zero_()
        layer.rnn.weight_hh_l0_reverse.zero_()
        for bias in (layer.rnn.bias_ih_l0, layer.rnn.bias_ih_l0_reverse):
            bias[12:24] = -50.0  # z = 0: nothing is kept
    x = 0.1 * torch.randn(1, 1, 3000)
    y = torch.cat(model(x), 1)
    inside = slice(64, -64)  # frames beyond the ends exist in windows only
    want = model.whole(x)[..., inside]
    torch.testing.assert_close(y[..., inside], want, rtol=0, atol=1e-4 * float(y.abs().max()))


def test_delay_is_what_it_says():
    model = tiny(segment=0.05)
    assert model.hop == 800
    assert model.delay == 400 + 50


def test_stems_twice_or_none_are_refused():
    for stems in ([], ["speech", "speech"]):
        with pytest.raises(ValueError, match="stems"):
            tiny(stems=stems)


def test_splits_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no split 'fourier'"):
        split("fourier", 44100, 2048, 48)
    with pytest.raises(ValueError, match="is empty"):
        split("mel", 44100, 128, 64)
    with pytest.raises(ValueError, match="at least 2"):
        split("erb", 44100, 2048, 1)


@pytest.mark.parametrize("kind", ["vox7", "musical", "mel", "bark", "tribark", "erb"])
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_splits_leave_no_bin_out_and_weigh_each_to_one(kind, rate):
    total = torch.zeros(1025, dtype=torch.float64)
    bands = split(kind, rate, 2048, 32)
    for band in bands:
        total[band.start : band.stop] += torch.from_numpy(band.weights)
    assert bands[0].start == 0
    torch.testing.assert_close(total[:-1], torch.ones(1024, dtype=torch.float64), rtol=0, atol=1e-9)
    assert total[-1] in (0, 1)  # half the rate is outside triangles and Hermansky's curves


# --- checkpoints --------------------------------------------------------------------------------------------


def as_published(model: Bandit, version: int) -> dict[str, torch.Tensor]:
    """The state dict as the authors' code would name and order it."""
    out = {"stft.window": torch.ones(2048), "istft.window": torch.ones(2048)}
    for key, value in model.state_dict().items():
        part, *path = key.split(".")
        if part == "mask_estim":
            stem, band, layer, kind = path
            layer = layer if layer == "norm" else f"{layer}.0"
            home = f"mask_estim.{stem}.norm_mlp.{band}"
            if version == 2:
                place = {"norm": "0", "hidden.0": "1.0", "output.0": "2.0"}[layer]
                out[f"{home}.combined._orig_mod.{place}.{kind}"] = value
            out[f"{'bsrnn.' if version == 1 else ''}{home}.{layer}.{kind}"] = value
            for i in range(len(model.split)):
                name = f"mask_estim.{stem}.freq_weights/{i}"
                out[("bsrnn." if version == 1 else "") + name] = model.weights_of(i).double()
        elif part == "band_split":
            band, layer, kind = path
            if version == 2:
                if layer == "norm" or kind == "weight":
                    value = value.unflatten(-1, (2, -1)).transpose(-2, -1).flatten(-2)
                layer = f"_orig_mod.combined.{('norm', 'fc').index(layer)}"
            home = f"band_split.norm_fc_modules.{band}.{layer}.{kind}"
            out[home if version == 2 else f"bsrnn.{home}"] = value
        elif version == 1:
            out[f"bsrnn.tf_model.seqband.{'.'.join(path)}"] = value
        else:
            out[f"tf_model._orig_mod.seqband.{2 * int(path[0])}.{'.'.join(path[1:])}"] = value
    return {f"model.{key}": value for key, value in out.items()}


@pytest.mark.parametrize("version", [1, 2])
def test_published_checkpoints_load(version, tmp_path):
    rate, kind = (44100, "bark") if version == 1 else (48000, "musical")
    model = Bandit(split=kind, bands=48, sample_rate=rate, **SMALL).eval()
    state = as_published(model, version)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.ckpt")
    ours, config, card = checkpoints.load("bandit", [tmp_path / "a.ckpt"])
    loaded = ours.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())
    arguments = config["init_args"]
    assert {key: arguments[key] for key in SMALL} == SMALL
    assert (arguments["split"], arguments["bands"], arguments["sample_rate"]) == (kind, 48, rate)
    assert arguments["pad"] == ("constant" if version == 1 else "reflect")
    assert "CC BY-SA" in card["licence"]
    part, _, _ = checkpoints.load("bandit", [tmp_path / "a.ckpt"], stems=["effects"])
    assert [port.name for port in part.outputs] == ["effects"]
    assert load_model(config).delay == ours.delay
    state["model.unknown.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=r"does not fit.*unknown"):
        checkpoints.load("bandit", [tmp_path / "b.ckpt"])


def test_bands_of_no_known_split_are_named(tmp_path):
    state = as_published(Bandit(split="musical", bands=48, **SMALL), 1)
    key = "model.bsrnn.mask_estim.speech.freq_weights/7"
    torch.save(state | {key: state[key] + 0.01}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="no known split"):
        checkpoints.load("bandit", [tmp_path / "a.ckpt"])


STEMS = ["speech", "music", "effects"]


@pytest.mark.peer
@pytest.mark.parametrize(
    "kind", [*PUBLISHED, ("mel", 64), ("erb", 48), ("erb", 64), ("tribark", 48)], ids=str
)
@torch.no_grad()
def test_version_1_equals_msst(kind):
    package = msst("bandit.core.model.bsrnn.wrapper")
    name = "dnr:vox7" if kind[0] == "vox7" else kind[0]
    torch.manual_seed(0)
    peer = package.MultiMaskMultiSourceBandSplitRNNSimple(
        in_channel=1, stems=STEMS, band_specs=name, n_bands=kind[1], n_sqm_modules=1, rnn_type="GRU",
        emb_dim=16, rnn_dim=12, mlp_dim=20,
    ).eval()  # fmt: skip
    arguments, tensors = from_authors({f"model.{key}": value for key, value in peer.state_dict().items()})
    assert (arguments["split"], arguments["sample_rate"], arguments["weighted"]) == (kind[0], 44100, True)
    ours = Bandit(**arguments).eval()
    ours.load_state_dict(tensors)
    for length in (9001, 8192):
        x = 0.1 * torch.randn(2, 1, length)
        want, got = peer(x)[:, :, 0], ours.whole(x)
        assert got.shape == want.shape
        assert (got - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.peer
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
@pytest.mark.parametrize("weighted", [True, False])
@torch.no_grad()
def test_version_2_equals_msst(cell, weighted):
    package = msst("bandit_v2.bandit")
    torch.manual_seed(0)
    peer = package.Bandit(
        in_channels=1, stems=STEMS, n_bands=64, n_sqm_modules=1, rnn_type=cell, emb_dim=16, rnn_dim=12,
        mlp_dim=20, fs=48000, pad_mode="reflect", use_freq_weights=weighted,
    ).eval()  # fmt: skip
    arguments, tensors = from_authors(peer.state_dict())
    assert (arguments["sample_rate"], arguments["cell"], arguments["weighted"]) == (48000, cell, weighted)
    ours = Bandit(**arguments, channels=2).eval()
    ours.load_state_dict(tensors)
    x = 0.1 * torch.randn(2, 2, 9001)
    want, got = peer(x).flatten(1, 2), ours.whole(x)
    assert got.shape == want.shape
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.peer
@pytest.mark.parametrize("kind", [("musical", 48), ("erb", 64)], ids=str)
def test_sizes_equal_those_of_msst(kind):
    package = msst("bandit.core.model.bsrnn.wrapper")
    with torch.device("meta"):
        ours = Bandit(split=kind[0], bands=kind[1])
    peer = package.MultiMaskMultiSourceBandSplitRNNSimple(
        in_channel=1, stems=STEMS, band_specs=kind[0], n_bands=kind[1], n_sqm_modules=8, rnn_type="GRU"
    )
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())
