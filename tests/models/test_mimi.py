"""Mimi has the published size, equals the published networks, and streams in torch and without it."""

import copy
from fractions import Fraction

import built_once
import contract
import numpy as np
import pytest
import soundfile as sf
import torch
from codebooks import settle

from audiomask import checkpoints
from audiomask.cli import main
from audiomask.export import graph, proof
from audiomask.models.mimi import Mimi, MimiDecoder, MimiEncoder, from_authors
from audiomask.nn.seanet import whole
from audiomask.runtime.player import Player

TINY = {"filters": 2, "ratios": [4, 2], "latent": 64, "layers": 1, "heads": 1, "hidden": 8, "window": 6}
TINY |= {"dim": 2, "stages": 4, "levels": 64}


@torch.no_grad()
def settled(model: Mimi) -> Mimi:
    """The model with codewords near what is coded, and a layer scale that is heard."""
    for name, parameter in model.named_parameters():
        if "scale" in name:
            parameter.uniform_(0.1, 0.5)
    z = whole(model.encoder, 0.1 * torch.randn(1, 1, 200 * model.hop))
    for stack in (model.quantizer.first, model.quantizer.rest):
        settle(stack.embed, stack.into(z)[0].T)
        stack.cluster_size.uniform_(0.5, 3.0)
        stack.embed_avg.copy_(stack.embed * stack.cluster_size[..., None])
        stack.embed.copy_(stack.embed_avg / stack.cluster_size[..., None])
    return model


def tiny(cls: type[Mimi], **more) -> Mimi:
    torch.manual_seed(0)
    return settled(cls(**TINY | more).eval())


# that ONNX Runtime equals torch is proven where the verb writes both parts
IN_TORCH = [promise for promise in contract.CONTRACT if promise is not contract.onnx_equals_torch]


@pytest.mark.parametrize("part", [MimiEncoder, MimiDecoder], ids=["enc", "dec"])
@pytest.mark.parametrize("promise", [*IN_TORCH, contract.delay_is_composed], ids=lambda f: f.__name__)
def test_contract(promise, part):
    fine = promise is contract.future_never_changes_the_past  # two frames of one codebook are to show it
    promise(tiny(part, **{"dim": 1, "levels": 4096} if fine else {}))


def test_published_size_and_clock():
    with torch.device("meta"):
        model = Mimi()
    assert sum(p.numel() for p in model.parameters()) == 79_308_609
    assert (model.hop, model.delay, model.codes.rate) == (1920, 0, Fraction(1, 1920))


@torch.no_grad()
def test_a_stream_equals_the_whole_to_the_last_full_frame():
    model, encoder = tiny(Mimi), tiny(MimiEncoder)
    x = 0.1 * torch.randn(2, 1, 16 * 40)
    codes = model.encoded(x)
    assert torch.equal(encoder(x), codes)
    y = model.decoded(codes, x.shape[2])
    assert (model(x) - y).abs().max() < 1e-5 * y.abs().max()


@torch.no_grad()
def test_fewer_codebooks():
    model, encoder, decoder = tiny(Mimi), tiny(MimiEncoder), tiny(MimiDecoder)
    x = 0.1 * torch.randn(2, 1, 16 * 20)
    sent = encoder(x, books=torch.tensor([1, 3]))
    assert ((sent >= 0).sum(1)[:, 0] == torch.tensor([1, 3])).all()
    y = decoder(sent[1:])
    assert (y - model.decoded(model.encoded(x[1:], 3), x.shape[2])).abs().max() < 1e-5 * y.abs().max()


def test_training_reaches_all_of_it():
    model = tiny(Mimi).train()
    y, terms = model.learn(0.1 * torch.randn(3, 1, 16 * 20), books=torch.tensor([1, 2, 4]))
    (y.square().mean() + terms["commitment"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_hop_by_hop_without_torch(tmp_path):
    """Any pieces, in ONNX Runtime, beyond the window: the codes are those of the whole, and the sound is."""
    rates = {"ratios": [8, 5]}
    model, x = tiny(Mimi, **rates), 0.1 * torch.randn(1, 1, 80 * 60 + 5)
    codes = tiny(MimiEncoder, **rates)(x)
    sound = tiny(MimiDecoder, **rates)(codes)[0].numpy()
    with built_once.graphs():
        assert main(["import", "mimi", *saved(model, tmp_path), "-o", str(tmp_path / "m.onnx"), *WINDOW]) == 0
    for sizes in ([80] * 61, np.random.default_rng(0).integers(1, 500, 40)):
        player = Player(tmp_path / "m_enc.onnx")
        pieces = np.split(x[0].numpy(), np.cumsum(sizes), axis=1)
        made = [player.feed(piece)["codes"] for piece in pieces if piece.shape[1]] + [player.flush()["codes"]]
        np.testing.assert_array_equal(np.concatenate(made, 1), codes[0].numpy())
        player = Player(tmp_path / "m_dec.onnx")
        pieces = np.split(codes[0].numpy(), np.cumsum(sizes) // 80, axis=1)
        made = [player.feed(piece)["decoded"] for piece in pieces if piece.shape[1]]
        y = np.concatenate([*made, player.flush()["decoded"]], 1)
        assert np.abs(y - sound).max() < 1e-5 * np.abs(y).max()

    sf.write(tmp_path / "x.wav", x[0, 0].numpy(), 24000, subtype="FLOAT")
    pair, coded, back = (str(tmp_path / name) for name in ("m", "x.amk", "y.wav"))
    assert main(["encode", str(tmp_path / "x.wav"), "-m", pair, "-o", coded, "--kbps", "7.2"]) == 0
    assert main(["decode", coded, "-m", pair, "-o", back, "--subtype", "FLOAT"]) == 0
    y = sf.read(back, dtype="float32")[0]
    assert np.abs(y - sound[0, : len(y)]).max() < 1e-5 * np.abs(y).max()
    assert len(y) == x.shape[2]


@pytest.mark.slow
@torch.no_grad()
def test_the_published_size_streams():
    """12 s in ONNX Runtime, where the window is 10, in pieces of one frame and more."""
    torch.manual_seed(0)
    model = settled(Mimi().eval())
    parts = {cls: cls().eval() for cls in (MimiEncoder, MimiDecoder)}
    for part in parts.values():
        part.load_state_dict(model.state_dict())
    x = 0.1 * torch.randn(1, 1, 1920 * 150)
    codes = model.encoded(x)
    sound = model.decoded(codes, x.shape[2])
    for part, given, want in zip(parts.values(), (x, codes), (codes, sound), strict=True):
        inputs = {part.inputs[0].name: given}
        if part.task == "encode":
            inputs["books"] = torch.tensor([32])
        program = proof.Graph(graph.to_bytes(graph.build(copy.deepcopy(part))), part)
        pieces = [1, 2, 1, 9, 1, 100, 1, 1, 17, 1, 16]
        assert sum(pieces) == 150
        y = proof.run_pieces(program, part, inputs, pieces)[part.outputs[0].name]
        if part.task == "encode":
            assert torch.equal(y, want)
        else:
            assert (y - want).abs().max() < 1e-5 * want.abs().max()


# --- as the authors name and compute things -----------------------------------------------------------------

WINDOW = ("--arg", "window=6", "--arg", "heads=1")
NAMES = {
    "moshi": {
        "out.weight": "self_attn.out_projs.0.weight", "up.weight": "linear1.weight",
        "down.weight": "linear2.weight", "scale1": "layer_scale_1.scale", "scale2": "layer_scale_2.scale",
        "into": "input_proj", "out": "output_proj", "first": "rvq_first", "rest": "rvq_rest",
        "inited": "_initialized", "cluster_size": "cluster_usage", "embed_avg": "embedding_sum",
    },
    "transformers": {
        "out.weight": "self_attn.o_proj.weight", "up.weight": "mlp.fc1.weight",
        "down.weight": "mlp.fc2.weight",
        "norm1.weight": "input_layernorm.weight", "norm1.bias": "input_layernorm.bias",
        "norm2.weight": "post_attention_layernorm.weight", "norm2.bias": "post_attention_layernorm.bias",
        "scale1": "self_attn_layer_scale.scale", "scale2": "mlp_layer_scale.scale",
        "into": "input_proj", "out": "output_proj", "first": "semantic_residual_vector_quantizer",
        "rest": "acoustic_residual_vector_quantizer",
        "inited": "initialized", "cluster_size": "cluster_usage", "embed_avg": "embed_sum",
    },
}  # fmt: skip


def theirs(model: Mimi, dialect: str) -> dict[str, torch.Tensor]:
    """The state dict of `model` under the names of "moshi", "old" (as published), or "transformers"."""
    moshi = dialect == "moshi"
    names, state = NAMES["moshi" if moshi else "transformers"], {}
    if dialect == "older":
        moshi = True
        names = NAMES["moshi"] | {"out.weight": "self_attn.out_proj.weight", "embed_avg": "embed_sum",
                                  "inited": "inited", "cluster_size": "cluster_size"}  # fmt: skip
    for key, value in model.state_dict().items():
        side, what, *rest = key.split(".")
        if side == "quantizer":
            if rest[0] in ("into", "out"):
                state[f"quantizer.{names[what]}.{names[rest[0]]}.weight"] = value
            elif rest[0] != "embed":
                home = "vq.layers.{}._codebook" if moshi else "layers.{}.codebook"
                for i, row in enumerate(value):
                    name = f"quantizer.{names[what]}.{home.format(i)}.{names[rest[0]]}"
                    state[name] = row.float().reshape(1) if rest[0] == "inited" else row[0]
        elif what in ("down", "up"):
            inner = {"down": "conv.conv.conv", "up": "convtr.convtr.convtr"}[what] if moshi else "conv"
            state[f"{what}sample.{inner}.weight"] = value
        elif what == "transformer":
            home = f"{side}_transformer.{'transformer.' if moshi else ''}layers.{rest[1]}"
            own = ".".join(rest[2:])
            if own != "qkv.weight":
                state[f"{home}.{names.get(own, own)}"] = value
            elif moshi:
                q, k, v = value.chunk(3)
                q, k = (part.unflatten(0, (-1, 2, 32)).transpose(1, 2).flatten(0, 2) for part in (q, k))
                own = "in_proj_weight" if dialect == "older" else "in_projs.0.weight"
                state[f"{home}.self_attn.{own}"] = torch.cat([q, k, v])
            else:
                for name, part in zip("qkv", value.chunk(3), strict=True):
                    state[f"{home}.self_attn.{name}_proj.weight"] = part
        else:
            inner = (
                ("convtr.convtr" if side == "decoder" and rest[0] in ("2", "5") else "conv.conv")
                if moshi
                else "conv"
            )
            block = f"block.{rest[3]}." if rest[1] == "branches" else ""
            state[f"{side}.{'model' if moshi else 'layers'}.{rest[0]}.{block}{inner}.{rest[-1]}"] = value
    if dialect == "5.24":
        return {
            key.replace("encoder.layers", "encoder.encoder_seanet.layers")
            .replace("decoder.layers", "decoder.decoder_seanet.layers")
            .replace("encoder_transformer", "encoder.encoder_transformer")
            .replace("decoder_transformer", "decoder.decoder_transformer")
            .replace("downsample", "encoder.downsample")
            .replace("upsample", "decoder.upsample"): value
            for key, value in state.items()
        }
    return state


def saved(model: Mimi, folder) -> list[str]:
    from safetensors.torch import save_file

    save_file(
        {key: value.contiguous() for key, value in theirs(model, "moshi").items()}, folder / "a.safetensors"
    )
    return [str(folder / "a.safetensors")]


@pytest.mark.parametrize("dialect", ["moshi", "older", "transformers", "5.24"])
def test_names_of_every_dialect_are_known(dialect):
    model = tiny(Mimi, latent=128, heads=2)
    arguments, tensors = from_authors(theirs(model, dialect))
    assert arguments == {key: value for key, value in TINY.items() if key != "window"} | {
        "latent": 128,
        "heads": 2,
    }
    again = Mimi(**arguments)
    again.load_state_dict(tensors)
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in model.state_dict().items())


def test_strangers_are_refused(tmp_path):
    model = tiny(Mimi)
    state = theirs(model, "moshi")
    torch.save(state | {"quantizer.rvq_third.input_proj.weight": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(checkpoints.CheckpointError, match="not a checkpoint of mimi"):
        checkpoints.load("mimi", [tmp_path / "a.pt"])
    _, _, card = checkpoints.load("mimi", saved(model, tmp_path))
    assert card["licence"].startswith("CC-BY-4.0")


# --- the packages themselves --------------------------------------------------------------------------------


@torch.no_grad()
def same(peer: torch.nn.Module, **changes) -> Mimi:
    """Our model with the random weights of a peer, which gets our codewords."""
    for name, parameter in peer.named_parameters():
        if "norm" in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif "scale" in name:
            parameter.uniform_(0.0, 0.2)
    for name, buffer in peer.named_buffers():
        if name.endswith("nitialized"):
            buffer.fill_(1)
    arguments, tensors = from_authors(peer.state_dict())
    ours = Mimi(**arguments | changes).eval()
    ours.load_state_dict(tensors)
    scales = {name: value.clone() for name, value in ours.state_dict().items() if "scale" in name}
    settled(ours)
    ours.load_state_dict(ours.state_dict() | scales)
    return ours


def compare(ours: Mimi, z, codes, y, x, frames: int | None = None) -> None:
    got = ours.encoded(x)[:, :, :frames]
    assert torch.equal(got, codes)
    latents = whole(ours.encoder, x)[:, :, :frames]
    assert (latents - z).abs().max() < 1e-5 * z.abs().max()
    assert (ours.decoded(got, y.shape[2]) - y).abs().max() < 1e-5 * y.abs().max()


@pytest.mark.peer
@torch.no_grad()
def test_equals_transformers_from_start_to_tail():
    import audiomask.frontend.torchaudio_import  # noqa: F401 (the package imports torchaudio)

    package = pytest.importorskip("transformers")
    torch.manual_seed(0)
    peer = package.MimiModel(package.MimiConfig()).eval()
    assert sum(p.numel() for p in peer.parameters()) == 79_308_609
    ours = same(peer)
    mine = {
        f"quantizer.{NAMES['transformers'][stack]}.layers": getattr(ours.quantizer, stack)
        for stack in ("first", "rest")
    }
    for home, stack in mine.items():
        for layer, total, size in zip(
            peer.get_submodule(home), stack.embed_avg, stack.cluster_size, strict=True
        ):
            layer.codebook.embed_sum.copy_(total[0])
            layer.codebook.cluster_usage.copy_(size[0])
    for length in (1920 * 10, 1920 * 7 + 1001, 1000, 1920 * 140):
        x = 0.1 * torch.randn(1, 1, length)
        codes = peer.encode(x).audio_codes
        compare(ours, peer.encoder(x).latents, codes, peer.decode(codes).audio_values[:, :, :length], x)


@pytest.mark.peer
@torch.no_grad()
def test_a_stream_equals_moshi_to_the_tail():
    """It pads the signal to whole frames, as a stream does, and not layer by layer."""
    loaders = pytest.importorskip("moshi.models.loaders", exc_type=ImportError)
    torch.manual_seed(0)
    peer = loaders.get_mimi(None, num_codebooks=32).eval()
    ours = same(peer)
    for home, stack in (("rvq_first", ours.quantizer.first), ("rvq_rest", ours.quantizer.rest)):
        layers = peer.get_submodule(f"quantizer.{home}.vq.layers")
        for layer, total, size in zip(layers, stack.embed_avg, stack.cluster_size, strict=True):
            layer._codebook.embedding_sum.copy_(total[0])
            layer._codebook.cluster_usage.copy_(size[0])
    encoder = MimiEncoder().eval()
    encoder.load_state_dict(ours.state_dict())
    for length in (1920 * 10, 1920 * 7 + 1001):
        x = 0.1 * torch.randn(1, 1, length)
        codes = peer.encode(x)
        assert torch.equal(encoder(x), codes)
        y = peer.decode(codes)[:, :, :length]
        assert (ours(x) - y).abs().max() < 1e-5 * y.abs().max()
