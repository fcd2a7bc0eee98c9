"""WaLLoC has the published size, equals the published network, and streams."""

import sys
import types
from importlib.machinery import ModuleSpec

import built_once
import pytest
import soundfile as sf
import torch

from audiomask import checkpoints, weights
from audiomask.cli import main
from audiomask.models.walloc import WaLLoC, WaLLoCDecoder, WaLLoCEncoder, from_authors

TINY = {"levels": 3, "latent": 4, "width": 9, "full_scale": 100.0}  # so loud that latents fill their levels


def tiny(cls=WaLLoC, **more):
    torch.manual_seed(0)
    return cls(**TINY | more).eval()


def test_published_size_and_clock():
    with torch.device("meta"):
        model = WaLLoC()
    assert sum(p.numel() for p in model.parameters()) == 16_346_074
    assert sum(p.numel() for p in model.encoder.parameters()) == 55_404
    assert (model.hop, model.quantizer.books, model.quantizer.levels) == (256, 108, 255)
    assert model.delay < 0.54 * model.sample_rate


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_a_stream_equals_the_whole_but_for_its_ends(padded):
    model = tiny(padded=padded)
    x = 0.3 * torch.randn(2, 2, 8 * 300)
    codes = model.encoded(x)
    assert codes.shape == (2, 4, 302 if padded else 300)
    theirs, streamed = model.decoded(codes, x.shape[2]), model(x)
    sure = slice(8 * 110, -8 * 110)  # the last filter, of 64 samples to each side, reaches far here
    assert (theirs - streamed)[:, :, sure].abs().max() < 1e-5 * theirs.abs().max()
    made = tiny(WaLLoCEncoder)(x)
    inner = codes[:, :, 1:-1] if padded else codes
    assert torch.equal(made[:, :, 5:-5], inner[:, :, 5:-5])


@torch.no_grad()
def test_what_is_over_full_scale_is_clipped_as_the_authors_do_but_not_in_a_stream():
    model = tiny(full_scale=1.0)
    x = 0.3 * torch.randn(1, 2, 8 * 100)
    model.decoder.post.bias += 3
    assert model(x).max() > 1
    assert model.learn(x)[0].max() == model.decoded(model.encoded(x), 800).max() == 1


@pytest.mark.parametrize("length", [1, 7, 8, 9, 100])
@torch.no_grad()
def test_any_length_comes_back(length):
    model = tiny()
    x = 0.3 * torch.randn(1, 2, length)
    assert model.encoded(x).shape[2] == -(-length // 8)
    assert model.decoded(model.encoded(x), length).shape == model(x).shape == x.shape


def test_the_untrained_part_of_the_wavelets_returns_the_sound():
    """With as many latents as bands, and networks that pass them on, only the rounding is left."""
    model = tiny(latent=16, width=16, post=False, full_scale=1.0)
    x = torch.rand(1, 2, 800) - 0.5
    with torch.no_grad():
        y = model.decoder.packets(model.encoder.packets(x))
    torch.testing.assert_close(y[:, :, 80:-80], x[:, :, 80:-80], rtol=0, atol=1e-5)


def test_noise_stands_for_rounding_and_teaches_the_encoder():
    model = tiny().train()
    x = 0.3 * torch.randn(2, 2, 8 * 50)
    torch.manual_seed(1)
    y, terms = model.learn(x, books=torch.tensor([4, 4]))
    torch.manual_seed(2)
    other, _ = model.learn(x)
    assert not torch.equal(y, other)
    assert terms["commitment"] == 0
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.encoder.project.weight.grad.any()


def test_a_decoder_narrower_than_the_latents_is_refused():
    with pytest.raises(ValueError, match="3 channels at most for 4 latents"):
        tiny(width=3)


# --- as the authors name things -----------------------------------------------------------------------------

PARTS = {
    "into": "conv1", "wide.0": "block.0.snake1", "wide.1": "block.0.conv_t1", "narrow.0": "block.1.snake1",
    "narrow.1": "block.1.conv_t1", "snake": "snake1", "out": "conv2",
}  # fmt: skip
UNIT = {"0": "snake1", "1": "conv1", "2": "snake2", "3": "conv2"}


def theirs(model: WaLLoC) -> dict[str, torch.Tensor]:
    """The state dict of `model` under the authors' names."""
    state = {"wt.h0": torch.zeros(1, 1, 10), "iwt.g1": torch.zeros(1, 1, 10)}
    for key, value in model.state_dict().items():
        name = key.removeprefix("decoder.")
        for ours, kind in (("original0", "weight_g"), ("original1", "weight_v")):
            name = name.replace(f"parametrizations.weight.{ours}", kind)
        place, _, kind = name.rpartition(".")
        if key.startswith("encoder."):
            state[f"encoder.0.{kind}"] = value
        elif place == "post":
            state[name] = value
        else:
            if place not in PARTS:
                stage, unit, _, _, part = place.split(".")
                place = f"block.{int(stage == 'narrow')}.res_unit{int(unit) - 1}.{UNIT[part]}"
            else:
                place = PARTS[place]
            state[f"decoder.1.{place}.{kind}"] = value[None] if kind in ("alpha", "beta") else value
    return state


@pytest.mark.parametrize("post", [True, False])
def test_the_authors_names_are_known(post):
    model = tiny(post=post)
    arguments, tensors = from_authors(theirs(model))
    assert arguments["padded"]
    assert (arguments["levels"], arguments["latent"], arguments["width"]) == (3, 4, 8)
    again = WaLLoC(**arguments)
    again.load_state_dict(tensors)
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in model.state_dict().items())


def test_other_shapes_are_refused(tmp_path):
    state = theirs(tiny())
    torch.save(state | {"encoder.1.weight": torch.zeros(2)}, tmp_path / "deep.pth")
    with pytest.raises(checkpoints.CheckpointError, match=r"encoder\.1\.weight"):
        checkpoints.load("walloc", [tmp_path / "deep.pth"])


class Config:
    """What the authors keep their options in."""


@pytest.mark.parametrize("bag", [Config, types.SimpleNamespace])
def test_the_verb_writes_both_parts(tmp_path, capsys, monkeypatch, bag):
    config = bag()
    config.latent_dim = 4
    monkeypatch.setattr(Config, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Config", Config, raising=False)
    torch.save({"model_state_dict": theirs(tiny()), "config": config}, tmp_path / "a.pth")
    monkeypatch.delattr(sys.modules["__main__"], "Config")
    out = tmp_path / "a.onnx"
    with built_once.graphs():
        words = ["import", "walloc", tmp_path / "a.pth", "-o", out, "--weights", tmp_path / "w"]
        assert main([*map(str, words)]) == 0
    assert "none named by the authors" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == ["a_dec.onnx", "a_enc.onnx"]
    sf.write(tmp_path / "in.wav", 0.1 * torch.randn(30_001, 2).numpy(), 44100)
    coded, back = tmp_path / "in.amk", tmp_path / "back.wav"
    with built_once.graphs():
        assert main(["export", str(tmp_path / "w"), "-o", str(tmp_path / "b.onnx")]) == 0
    words = ["-m", str(tmp_path / "b"), "-q"]
    assert main(["encode", str(tmp_path / "in.wav"), "-o", str(coded), "--kbps", "176.4", *words]) == 0
    assert main(["decode", str(coded), "-o", str(back), *words]) == 0
    info = sf.info(back)
    assert (info.frames, info.channels, info.samplerate) == (30_001, 2, 44100)
    assert 15_000 < coded.stat().st_size < 16_000  # 3751 frames of 4 bytes, and headers
    parts = weights.load_parts(tmp_path / "w")
    assert {name: type(model) for name, (model, _) in parts.items()} == {
        "enc": WaLLoCEncoder,
        "dec": WaLLoCDecoder,
    }


# --- the package itself -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package():
    """The package, without torchvision and pkg_resources, which it imports and its sound does not need."""
    import audiomask.frontend.torchaudio_import  # noqa: F401 (transformers imports torchaudio)

    pytest.importorskip("pywt")
    pytest.importorskip("diffusers.models.autoencoders")
    with pytest.MonkeyPatch.context() as patch:
        names = {"torchvision": (), "torchvision.transforms": ("ToPILImage", "PILToTensor")}
        for name, needs in (names | {"pkg_resources": ("resource_stream",)}).items():
            try:
                __import__(name)
            except ImportError:
                stand_in = types.ModuleType(name)
                stand_in.__spec__ = ModuleSpec(name, None)
                vars(stand_in).update(dict.fromkeys(needs))
                patch.setitem(sys.modules, name, stand_in)
        yield pytest.importorskip("walloc.walloc")


@pytest.mark.peer
@pytest.mark.parametrize(
    "sizes",
    [{"J": 8, "Nd": 768, "latent_dim": 108, "post_filter": True}, {"J": 4, "Nd": 50, "latent_dim": 12}],
    ids=["published", "small"],
)
@torch.no_grad()
def test_equals_the_package(package, sizes):
    torch.manual_seed(0)
    peer = package.Codec1D(
        **{"channels": 2, "Ne": 0, "latent_bits": 8, "lightweight_encode": True, "post_filter": False} | sizes
    ).eval()
    peer.encoder[0].weight.mul_(60)  # so that latents fill their levels
    peer.encoder[0].bias.mul_(300)
    peer.decoder[1].conv1.weight_g.mul_(1 / 60)
    peer.decoder[1].conv2.weight_g.mul_(0.3)  # and the sound is not clipped
    arguments, tensors = from_authors(peer.state_dict())
    ours = WaLLoC(**arguments | {"full_scale": 1.0}).eval()
    ours.load_state_dict(tensors)
    for length in (2**14, 41 * 256):
        x = 0.1 * torch.randn(1, 2, length)
        bands, mine = peer.wavelet_analysis(x, sizes["J"]), x
        for block in ours.encoder.packets.children():
            mine = block.whole(mine)
        torch.testing.assert_close(mine, bands, rtol=0, atol=1e-5 * float(bands.abs().max()))
        want, codes = peer.encoder(bands), ours.encoded(x)
        assert want.std() > 10
        assert torch.equal(codes - 127, want.long())
        y = peer(x)[0]
        assert y.abs().max() < 0.5
        assert (ours.decoded(codes, length) - y).abs().max() < 1e-5 * y.abs().max()
