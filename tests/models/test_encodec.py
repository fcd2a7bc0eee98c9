"""EnCodec has the published sizes, equals the published networks, and streams with either padding."""

import built_once
import contract
import numpy as np
import pytest
import torch
from codebooks import settle

from audiomask import checkpoints, weights
from audiomask.cli import main
from audiomask.export.onnx_file import export
from audiomask.models.encodec import EnCodec, EnCodecDecoder, EnCodecEncoder, from_authors
from audiomask.nn.seanet import whole
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.catalogue import codec_hash, codec_part
from audiomask.runtime.player import Player

TINY = {"filters": 2, "ratios": [4, 2], "latent": 2, "stages": 4, "levels": 64}
SEGMENTS = {"causal": False, "norm": "time_group_norm", "reflect": True, "segment": 80, "overlap": 0.1}
KINDS = {
    "zeros": {},
    "mirror": {"reflect": True},
    "look-ahead": {"causal": False, "shortcut": False},
    "look-ahead-mirror": {"causal": False, "reflect": True},
    "segments": SEGMENTS | {"channels": 2, "filters": 4},
}


@torch.no_grad()
def settled(model: EnCodec) -> EnCodec:
    """The model with codewords from among the latents of noise, and from what is left of them."""
    x = 0.1 * torch.randn(1, model.channels, model.segment or 24000)
    settle(model.quantizer.embed, whole(model.encoder, x)[0].T)
    return model


def tiny(cls: type[EnCodec], kind: str, **more) -> EnCodec:
    torch.manual_seed(0)
    return settled(cls(**TINY | KINDS[kind] | more).eval())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zeros"])  # that one has a recipe
@pytest.mark.parametrize("part", [EnCodecEncoder, EnCodecDecoder], ids=["enc", "dec"])
@pytest.mark.parametrize(
    "promise", [*contract.CONTRACT, contract.delay_is_composed], ids=lambda f: f.__name__
)
def test_contract(promise, part, kind):
    fine = promise is contract.future_never_changes_the_past  # two frames of one codebook are to show it
    promise(tiny(part, kind, **{"latent": 1, "levels": 4096} if fine else {}))


@pytest.mark.parametrize(
    ("arguments", "size", "hop", "delay"),
    [
        ({}, 14_851_810, 320, 0),
        ({"reflect": True}, 14_851_810, 320, 13 * 320),
        (
            SEGMENTS | {"channels": 2, "stages": 16, "segment": 48000, "overlap": 0.01},
            14_856_294,
            47520,
            47520,
        ),
    ],
    ids=["zeros", "mirror", "segments"],
)
def test_published_sizes_and_clocks(arguments, size, hop, delay):
    model = EnCodec(**arguments)
    assert sum(p.numel() for p in model.parameters()) == size
    assert (model.hop, model.delay) == (hop, delay)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_stream_equals_the_whole_up_to_its_end(kind):
    """The start too, which either padding makes."""
    model = tiny(EnCodec, kind)
    x = 0.1 * torch.randn(2, model.channels, 72 * 10)
    frames = model.encoded(x)
    whole_sound, streamed = model.decoded(frames, x.shape[2]), model(x)
    sure = 72 * 8  # samples that no window sees the end of
    assert (whole_sound - streamed)[:, :, :sure].abs().max() < 1e-5 * whole_sound.abs().max()
    codes = EnCodecEncoder(**TINY | KINDS[kind]).eval()
    codes.load_state_dict(model.state_dict())
    made = codes(x)
    made = made[0] if isinstance(made, tuple) else made
    assert torch.equal(made[:, :, :10], frames[0][0][:, :, :10])


def test_causal_networks_with_zeros_stream_to_the_last_frame():
    model = tiny(EnCodec, "zeros")
    x = 0.1 * torch.randn(1, 1, 8 * 20)
    with torch.no_grad():
        theirs = model.decoded(model.encoded(x), x.shape[2])
        assert (model(x) - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("length", [1, 79, 80, 81, 72 * 2 + 1, 72 * 2 + 2])
def test_a_last_segment_of_any_length_is_coded(length):
    model = tiny(EnCodec, "segments")
    x = 0.1 * torch.randn(1, 2, length)
    with torch.no_grad():
        y = model.decoded(model.encoded(x), length)
    assert y.shape == x.shape
    assert y.isfinite().all()


@pytest.mark.parametrize("length", [1, 7, 71, 72, 73, 79, 80, 81, 72 * 3 + 7, 72 * 3 + 8, 72 * 3 + 75])
@torch.no_grad()
def test_a_stream_that_is_told_its_end_equals_the_whole(length):
    """With the last segments in one call with others, and beside a row without an end."""
    parts = {cls: tiny(cls, "segments") for cls in (EnCodec, EnCodecEncoder, EnCodecDecoder)}
    model, encoder, decoder = parts.values()
    count = -(-length // 72)
    x = 0.1 * torch.randn(2, 2, length)
    told = torch.tensor([min(80, length - at) for at in range(0, length, 72)]).expand(2, 1, -1).clone()
    told[1] = 0
    wanted = model.encoded(x[:1])
    given = torch.nn.functional.pad(x, (0, 72 * (count + 1) - length))
    (codes, scale), _ = encoder.step(
        given, encoder.initial_state(2), length=torch.nn.functional.pad(told, (0, 1))
    )
    codes, scale = codes[:, :, 10:], scale[:, :, 1:]
    for n, (theirs, level) in enumerate(wanted):
        assert torch.equal(codes[:1, :, 10 * n : 10 * n + theirs.shape[2]], theirs)
        torch.testing.assert_close(scale[:1, :, n : n + 1], level)
    y, _ = decoder.step(codes, decoder.initial_state(2), scale=scale, length=told)
    want = model.decoded(wanted, length)
    assert (y[:1, :, :length] - want).abs().max() < 1e-5 * want.abs().max()
    assert y.isfinite().all()


@torch.no_grad()
def test_stages_that_nobody_wants_are_left_out():
    model = tiny(EnCodecEncoder, "zeros")
    model.quantizer.certain = 2  # as that of full size
    z = whole(model.encoder, 0.1 * torch.randn(2, 1, 800))
    every = model.quantizer.encode(z)
    assert (every >= 0).all()
    some = model.quantizer.encode(z, torch.tensor([1, 2]))
    assert torch.equal(some[:, :2], every[:, :2])
    assert (some[:, 2:] == -1).all()
    assert torch.equal(model.quantizer.encode(z, torch.tensor([1, 3])), every)
    sent = model.sending(every, torch.tensor([1, 3]))
    assert ((sent >= 0).sum(1)[:, 0] == torch.tensor([1, 3])).all()


def test_segments_need_whole_frames_and_an_overlap():
    for wrong in ({"segment": 81}, {"overlap": 0.0}, {"overlap": 0.7}):
        with pytest.raises(ValueError, match="overlap"):
            EnCodec(**TINY, **SEGMENTS | wrong)
    with pytest.raises(ValueError, match="segment"):
        EnCodec(**TINY, causal=False, norm="time_group_norm")


def test_training_of_segments_takes_a_row_as_one():
    model = tiny(EnCodec, "segments").train()
    x = 0.1 * torch.randn(3, 2, 80)
    y, terms = model.learn(x, books=torch.tensor([4, 4, 4]))
    (y.square().mean() + terms["commitment"]).backward()
    assert y.shape == x.shape
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- as the authors name and compute things -----------------------------------------------------------------


def theirs(model: EnCodec, dialect: str) -> dict[str, torch.Tensor]:
    """The state dict of `model` under the names of "encodec" (and audiocraft) or "transformers"."""
    old, state = dialect == "encodec", {}
    for key, value in model.state_dict().items():
        side, _, rest = key.partition(".")
        if side == "quantizer":
            for i, row in enumerate(value):
                home = f"quantizer.vq.layers.{i}._codebook" if old else f"quantizer.layers.{i}.codebook"
                state[f"{home}.{rest}"] = row.float().reshape(1) if rest == "inited" else row[0]
            continue
        place, _, rest = rest.partition(".")
        inner = "conv.conv" if old else "conv"
        if side == "decoder" and old and place in ("3", "6"):
            inner = "convtr.convtr"
        if "lstm" in rest or "_l0" in rest or "_l1" in rest:
            rest = rest.replace("branches.1", "lstm")
        elif rest.startswith("branches.0"):
            rest = rest.replace("branches.0", f"shortcut.{inner}")
        elif rest.startswith("branches.1"):
            rest = rest.replace("branches.1", "block")
            rest = rest[: len("block.1")] + f".{inner}" + rest[len("block.1") :]
        else:
            rest = f"{inner}.{rest}"
        if old:
            rest = rest.replace("parametrizations.weight.original0", "weight_g")
            rest = rest.replace("parametrizations.weight.original1", "weight_v")
        rest = rest.replace(f"{inner}.norm", inner.partition(".")[0] + ".norm" if old else "norm")
        state[f"{side}.{'model' if old else 'layers'}.{place}.{rest}"] = value
    return state


@pytest.mark.parametrize("dialect", ["encodec", "transformers"])
@pytest.mark.parametrize("kind", ["mirror", "look-ahead", "segments"])
def test_names_of_every_dialect_are_known(dialect, kind):
    model = tiny(EnCodec, kind)
    arguments, tensors = from_authors(theirs(model, dialect))
    assert arguments["filters"] == model.encoder[0].weight.shape[0]
    assert arguments["ratios"] == [4, 2]
    assert arguments["causal"] == (kind == "mirror")
    again = EnCodec(
        **arguments | {key: KINDS[kind][key] for key in ("segment", "overlap") if key in KINDS[kind]}
    )
    again.load_state_dict(tensors)
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in model.state_dict().items())


def test_the_verb_writes_both_parts(tmp_path, capsys):
    model = tiny(EnCodec, "mirror")
    torch.save({"best_state": {"model": theirs(model, "encodec")}, "xp.cfg": "seed: 1"}, tmp_path / "a.th")
    out = tmp_path / "a.onnx"
    with built_once.graphs():
        code = main(
            ["import", "encodec", str(tmp_path / "a.th"), "-o", str(out), "--weights", str(tmp_path / "w")]
        )
    assert code == 0
    assert "MIT" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == ["a_dec.onnx", "a_enc.onnx"]
    assert sorted(weights.load_parts(tmp_path / "w")) == ["dec", "enc"]
    assert codec_hash(codec_part(tmp_path / "a", "enc")) == codec_hash(codec_part(tmp_path / "a", "dec"))


def test_weights_of_audiocraft_are_not_for_commercial_use(tmp_path):
    torch.manual_seed(0)
    model = EnCodec(**TINY | {"levels": 2048}, **KINDS["look-ahead"])
    torch.save(theirs(model, "encodec"), tmp_path / "a.th")
    _, config, card = checkpoints.load("encodec", [tmp_path / "a.th"], name="mine")
    assert "CC-BY-NC" in card["licence"]
    assert config["init_args"]["sample_rate"] == 16000


# --- the package itself -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package():
    import audiomask.frontend.torchaudio_import  # noqa: F401 (the package imports torchaudio)

    return pytest.importorskip("encodec")


@torch.no_grad()
def pair(package, rate: int):
    """The package's network with random weights, and ours with the same."""
    torch.manual_seed(rate)
    make = (
        package.EncodecModel.encodec_model_24khz
        if rate == 24000
        else package.EncodecModel.encodec_model_48khz
    )
    peer = make(pretrained=False).eval()
    peer.set_target_bandwidth(24.0)
    arguments, tensors = from_authors(peer.state_dict())
    ours = EnCodec(**arguments).eval()
    ours.load_state_dict(tensors)
    settled(ours)
    for i, layer in enumerate(peer.quantizer.vq.layers):
        layer._codebook.embed.copy_(ours.quantizer.embed[i, 0])
    return peer, ours


@pytest.mark.peer
@pytest.mark.parametrize(
    ("rate", "lengths"),
    [(24000, (24000, 24001, 12345, 1000, 7)), (48000, (48000, 33600, 110400, 70000))],
)
@torch.no_grad()
def test_equals_the_package_from_start_to_tail(package, rate, lengths):
    peer, ours = pair(package, rate)
    for length in lengths:
        x = 0.1 * torch.randn(1, peer.channels, length)
        want = peer.encode(x)
        got = ours.encoded(x)
        assert len(got) == len(want)
        for (codes, scale), (their_codes, their_scale) in zip(got, want, strict=True):
            assert torch.equal(codes, their_codes)
            if scale is not None:
                assert (scale.reshape(-1) - their_scale.reshape(-1)).abs().max() < 1e-6
        z, their_z = whole(ours.encoder, x), peer.encoder(x)
        assert (z - their_z).abs().max() < 1e-5 * their_z.abs().max()
        y = peer.decode(want)[:, :, :length]
        assert (ours.decoded(got, length) - y).abs().max() < 1e-5 * y.abs().max()


@pytest.mark.peer
@torch.no_grad()
def test_a_stream_equals_the_package(package):
    """Whole frames, from the mirrored start to the last."""
    peer, ours = pair(package, 24000)
    x = 0.1 * torch.randn(1, 1, 320 * 30)
    y = peer(x)
    assert (ours(x) - y).abs().max() < 1e-5 * y.abs().max()


@torch.no_grad()
def test_segments_play_block_by_block_at_their_rate(tmp_path):
    """Codes and scales of both exported parts, fed as they come, give what the authors do of the whole."""
    artifacts = []
    with built_once.graphs():
        for cls in (EnCodecEncoder, EnCodecDecoder):
            model = tiny(cls, "segments", sample_rate=48000)
            config = TINY | KINDS["segments"] | {"sample_rate": 48000}
            path = tmp_path / f"{cls.__name__}.onnx"
            export(model, path, {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": config})
            artifacts.append(Artifact.load(path))
    # A generator of its own: else the sound hangs on whether the graph was exported here or by another test.
    generator = torch.Generator().manual_seed(0)
    x = 0.1 * torch.randn(2, 72 * 40 + 31, generator=generator)
    encoder, decoder = map(Player, artifacts)
    sound, at = [], 0
    while at < x.shape[1]:
        n = int(torch.randint(1, 400, (), generator=generator))
        sound.append(decoder.feed(**encoder.feed(x[:, at : at + n].numpy()))["decoded"])
        at += n
    sound += [decoder.feed(**encoder.flush())["decoded"], decoder.flush()["decoded"]]
    played = torch.from_numpy(np.concatenate(sound, 1))
    whole_model = tiny(EnCodec, "segments", sample_rate=48000)
    wanted = whole_model.decoded(whole_model.encoded(x[None]), x.shape[1])[0]
    sure = 72 * 39  # the last segment is padded, which the authors do within the network
    assert played.shape[1] >= x.shape[1]
    assert (played[:, :sure] - wanted[:, :sure]).abs().max() < 1e-5 * wanted.abs().max()
    assert encoder.bulk * encoder.hop <= 64 * 72  # of which no call takes more
