"""DAC has the published sizes, equals the published networks, and streams, late by its look-ahead."""

import built_once
import contract
import numpy as np
import pytest
import torch

from audiomask import checkpoints
from audiomask.cli import main
from audiomask.models.dac import DAC, DACDecoder, DACEncoder, from_authors
from audiomask.nn.seanet import whole
from audiomask.runtime.player import Player

TINY = {"filters": 2, "ratios": [2, 5], "latent": 8, "width": 8, "dim": 2, "stages": 3, "levels": 64}


@torch.no_grad()
def lively(model: torch.nn.Module) -> torch.nn.Module:
    """The network with frequencies and biases that are heard; by the names of ours and the package."""
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            parameter.uniform_(0.3, 3.0)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.05)
    return model


def tiny(cls: type[DAC], **more) -> DAC:
    torch.manual_seed(0)
    return lively(cls(**TINY | more).eval())


# that ONNX Runtime equals torch is proven where the verb writes both parts
IN_TORCH = [promise for promise in contract.CONTRACT if promise is not contract.onnx_equals_torch]


@pytest.mark.parametrize("part", [DACEncoder, DACDecoder], ids=["enc", "dec"])
@pytest.mark.parametrize("promise", [*IN_TORCH, contract.delay_is_composed], ids=lambda f: f.__name__)
def test_contract(promise, part):
    fine = promise is contract.future_never_changes_the_past  # two frames of one codebook are to show it
    promise(tiny(part, **{"levels": 4096} if fine else {}))


@pytest.mark.parametrize(
    ("arguments", "size", "hop", "delay"),
    [
        ({}, 76_651_890, 512, 8853),
        ({"latent": 128, "stages": 18}, 64_213_250, 512, 8853),
        ({"ratios": [2, 4, 5, 8], "stages": 32}, 74_708_706, 320, 5701),
        ({"ratios": [2, 4, 5, 8], "stages": 12}, 74_175_906, 320, 5701),
    ],
    ids=["44kHz", "44kHz-16kbps", "24kHz", "16kHz"],
)
def test_published_sizes_and_clocks(arguments, size, hop, delay):
    with torch.device("meta"):
        model = DAC(**arguments)
    assert sum(p.numel() for p in model.parameters()) == size
    assert (model.hop, model.delay) == (hop, delay)


@pytest.mark.parametrize("ratios", [[2, 5], [2, 4]], ids=["odd", "even"])
@torch.no_grad()
def test_a_stream_equals_the_whole_up_to_its_end(ratios):
    """The start too, before which the layers are padded with zeros."""
    model, encoder, decoder = (tiny(cls, ratios=ratios) for cls in (DAC, DACEncoder, DACDecoder))
    x = 0.1 * torch.randn(2, 1, 100 * model.hop)
    codes = model.encoded(x)
    sure = 100 - encoder.delay // model.hop - 1  # frames that see no end
    assert 50 < sure < 100
    assert torch.equal(encoder(x)[:, :, :sure], codes[:, :, :sure])
    y = model.decoded(codes, x.shape[2])
    assert not torch.equal(encoder(x), codes)
    sure = x.shape[2] - int(decoder.delay) - model.hop
    assert (decoder(codes) - y)[:, :, :sure].abs().max() < 1e-5 * y.abs().max()


@torch.no_grad()
def test_fewer_codebooks():
    model, encoder, decoder = (tiny(cls) for cls in (DAC, DACEncoder, DACDecoder))
    x = 0.1 * torch.randn(2, 1, 400)
    sent = encoder(x, books=torch.tensor([1, 3]))
    assert ((sent >= 0).sum(1)[:, 0] == torch.tensor([1, 3])).all()
    codes = model.encoded(x, 2)
    kept = torch.cat([codes, torch.full_like(codes[:, :1], -1)], 1)
    y = model.decoded(codes, 400)
    assert (decoder(kept) - y)[:, :, :100].abs().max() < 1e-5 * y.abs().max()


def test_training_reaches_all_of_it():
    model = tiny(DAC).train()
    y, terms = model.learn(0.1 * torch.randn(3, 1, 400), books=torch.tensor([1, 2, 3]))
    (y.square().mean() + terms["commitment"]).backward()
    assert y.shape == (3, 1, 400)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- as the authors name and compute things -----------------------------------------------------------------


def theirs(model: DAC) -> dict[str, torch.Tensor]:
    """The state dict of `model` under the names of the package."""
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace("parametrizations.weight.original0", "weight_g")
        key = key.replace("parametrizations.weight.original1", "weight_v")
        side, place, *rest = key.split(".")
        if key == "quantizer.words":
            state |= {f"quantizer.quantizers.{i}.codebook.weight": row for i, row in enumerate(value)}
        elif side == "quantizer":
            state[f"quantizer.quantizers.{rest[0]}.{place.replace('into', 'in')}_proj.{rest[1]}"] = value
        else:
            name = ".".join(rest[:-1]).replace("branches.1", "block")
            home = f"{side}.{'block' if side == 'encoder' else 'model'}.{place}"
            state[f"{home}{'.block.' if name else ''}{name}.{rest[-1]}"] = value
    return state


def saved(model: DAC, folder) -> str:
    """A file as the package writes it."""
    torch.save(
        {"state_dict": theirs(model), "metadata": {"kwargs": {"encoder_dim": 2}}}, folder / "weights.pth"
    )
    return str(folder / "weights.pth")


def test_names_of_the_package_are_known(tmp_path):
    model = tiny(DAC)
    again, config, card = checkpoints.load("dac", [saved(model, tmp_path)])
    assert config["init_args"] == TINY | {"sample_rate": 16000, "name": "dac_16khz"}
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in model.state_dict().items())
    assert card["licence"].startswith("MIT")
    torch.save(theirs(model) | {"quantizer.other.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(checkpoints.CheckpointError, match="not a checkpoint of dac"):
        checkpoints.load("dac", [tmp_path / "a.pth"])


@torch.no_grad()
def test_in_pieces_without_torch(tmp_path):
    """Any pieces, in ONNX Runtime: the codes are those of the whole, and the sound is."""
    model, x = tiny(DAC, ratios=[5]), 0.1 * torch.randn(1, 1, 303)  # that of recipes/codec has two strides
    with built_once.graphs():
        assert main(["import", "dac", saved(model, tmp_path), "-o", str(tmp_path / "d.onnx")]) == 0
    codes = tiny(DACEncoder, ratios=[5])(x)
    sound = tiny(DACDecoder, ratios=[5])(codes)
    for sizes in ([5] * 61, np.random.default_rng(0).integers(1, 30, 40)):
        player = Player(tmp_path / "d_enc.onnx")
        pieces = [piece for piece in np.split(x[0].numpy(), np.cumsum(sizes), axis=1) if piece.shape[1]]
        made = [player.feed(piece)["codes"] for piece in pieces] + [player.flush()["codes"]]
        np.testing.assert_array_equal(np.concatenate(made, 1), codes[0].numpy())
        player = Player(tmp_path / "d_dec.onnx")
        pieces = np.split(codes[0].numpy(), np.cumsum(sizes) // 5, axis=1)
        y = [player.feed(piece)["decoded"] for piece in pieces if piece.shape[1]]
        y = np.concatenate([*y, player.flush()["decoded"]], 1)
        assert np.abs(y - sound[0].numpy()).max() < 1e-5 * np.abs(y).max()


# --- the package itself -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package():
    import audiomask.frontend.torchaudio_import  # noqa: F401 (the package imports torchaudio)

    return pytest.importorskip("dac", exc_type=ImportError)


@pytest.mark.peer
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"latent_dim": 128, "n_codebooks": 18},
        {
            "encoder_rates": [2, 4, 5, 8],
            "decoder_rates": [8, 5, 4, 2],
            "n_codebooks": 32,
            "sample_rate": 24000,
        },
        {
            "encoder_rates": [2, 4, 5, 8],
            "decoder_rates": [8, 5, 4, 2],
            "n_codebooks": 12,
            "sample_rate": 16000,
        },
    ],
    ids=["44kHz", "44kHz-16kbps", "24kHz", "16kHz"],
)
@torch.no_grad()
def test_equals_the_package_from_start_to_tail(package, kind):
    torch.manual_seed(0)
    peer = lively(package.DAC(**kind).eval())
    arguments, tensors = from_authors(peer.state_dict())
    assert arguments["sample_rate"] == peer.sample_rate
    ours = DAC(**arguments).eval()
    ours.load_state_dict(tensors)
    hop = int(peer.hop_length)
    for length in (24 * hop, 13 * hop + 77, 100):
        x = 0.1 * torch.randn(1, 1, length)
        want, codes = peer(x), ours.encoded(x)
        assert torch.equal(codes, want["codes"])
        padded = peer.preprocess(x, None)
        z, their_z = whole(ours.encoder, padded), peer.encoder(padded)
        assert (z - their_z).abs().max() < 1e-5 * their_z.abs().max()
        assert torch.equal(ours.encoded(x, 5), codes[:, :5])
        y = want["audio"]
        assert 0 <= length - y.shape[2] <= 8
        sound = ours.decoded(codes, length)
        assert (sound[:, :, : y.shape[2]] - y).abs().max() < 1e-5 * y.abs().max()
        fewer = peer(x, n_quantizers=5)["audio"]
        assert (
            ours.decoded(codes[:, :5], length)[:, :, : y.shape[2]] - fewer
        ).abs().max() < 1e-5 * fewer.abs().max()
        theirs, loss = peer.quantizer(their_z), ours.quantizer(their_z)[1]
        torch.testing.assert_close(loss, theirs[4] + 0.25 * theirs[3])


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", exc_type=ImportError)


SMALL = {"encoder_hidden_size": 2, "decoder_hidden_size": 8, "n_codebooks": 3, "codebook_dim": 2}
KINDS = {
    "44kHz": {"sampling_rate": 44100},
    "odd": SMALL | {"downsampling_ratios": [2, 5]},
    "three": SMALL | {"downsampling_ratios": [2, 4, 8]},
}


@pytest.mark.peer
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_equals_that_of_transformers(transformers, kind, tmp_path):
    """It fills up no frame, so lengths are whole ones."""
    torch.manual_seed(0)
    peer = lively(transformers.DacModel(transformers.DacConfig(**kind)).eval())
    peer.save_pretrained(tmp_path)
    ours, config, _ = checkpoints.load("dac", [tmp_path / "model.safetensors"])
    assert isinstance(ours, DAC)
    assert config["init_args"]["sample_rate"] == kind.get("sampling_rate", 16000)
    for frames in (14, 5):
        length = frames * peer.config.hop_length
        x = 0.1 * torch.randn(1, 1, length)
        want = peer(x)
        codes = ours.encoded(x)
        assert torch.equal(codes, want.audio_codes)
        z, their_z = whole(ours.encoder, x), peer.encoder(x)
        assert (z - their_z).abs().max() < 1e-5 * their_z.abs().max()
        y, their_y = ours.decoded(codes, length)[:, 0], want.audio_values
        assert 0 <= length - their_y.shape[1] <= 8
        assert (y[:, : their_y.shape[1]] - their_y).abs().max() < 1e-5 * their_y.abs().max()


def test_names_of_transformers_that_are_none(tmp_path):
    for more in (
        {},
        {"encoder.block.0.res_unit4.conv1.weight": torch.ones(2, 2, 7)},
        {"encoder.block.x": torch.ones(1)},
    ):
        torch.save({"encoder.conv1.weight": torch.ones(2, 1, 7)} | more, tmp_path / "a.pth")
        with pytest.raises(checkpoints.CheckpointError, match="not a checkpoint of dac"):
            checkpoints.load("dac", [tmp_path / "a.pth"])
