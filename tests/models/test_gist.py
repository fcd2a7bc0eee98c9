"""Gist: its sizes and latency, and codes that are the same however and wherever they are made."""

import built_once
import codec_pair
import numpy as np
import onnx
import pytest
import torch

from audiomask.export.onnx_file import export
from audiomask.models.gist import Gist, GistDecoder, GistEncoder
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.player import Player

TINY = codec_pair.TINY | {"stages": 3}


def part(cls=Gist, **changes):
    torch.manual_seed(0)
    return cls(**TINY | changes).eval()


def doubled(cls):
    """One with optional stages, whose codewords 5 and 9, and 2 and 13, of every codebook are equal."""
    model = part(cls)
    model.quantizer.certain = 1
    for a, b in ((5, 9), (2, 13)):
        model.quantizer.embed[:, :, b] = model.quantizer.embed[:, :, a]
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("gist"), []
    for cls, name in ((GistEncoder, "enc"), (GistDecoder, "dec")):
        path = folder / f"tiny_{name}.onnx"
        with built_once.graphs():
            export(
                doubled(cls), path, {"class_path": f"audiomask.models.gist.{cls.__name__}", "init_args": TINY}
            )
        found.append(path)
    return found


def test_sizes_and_latency():
    model = Gist()
    count = sum(p.numel() for p in model.parameters())
    assert (count, model.quantizer.embed.numel()) == (1_271_305, 221_184)
    assert count + model.quantizer.embed.numel() < 2_000_000
    assert (model.hop, model.delay) == (320, 320)
    assert model.quantizer.books * 10 * 50 == 9000  # bit/s


def test_the_untrained_codec_passes_low_frequencies_on():
    torch.manual_seed(0)
    model = Gist().eval()
    t = torch.arange(16000) / 16000
    x = torch.sin(2 * torch.pi * 300 * t)[None, None]
    z = model.encoder.step(x, model.encoder.initial_state(1))[0]
    y = model.decode(z, None, lambda name, z: model.decoder.step(z, model.decoder.initial_state(1))[0])
    x, y = x[0, 0, 3200:-640], y[0, 0, 3520:-320]  # 20 ms late
    assert torch.corrcoef(torch.stack([x, y.detach()]))[0, 1] > 0.8


def test_quiet_sound_has_nearly_the_codes_of_loud_sound():
    """But for what says how loud it is; with levels that weigh nothing, all codes."""
    model = part()
    with torch.no_grad():
        model.encoder.level.weight.zero_()
        x = torch.randn(1, 1, 16000)
        z = [model.encoder.step(g * x, model.encoder.initial_state(1))[0] for g in (1.0, 1e-3)]
    torch.testing.assert_close(*z, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("threads", [1, 2])
def test_codes_are_the_same_at_any_chunking_and_number_of_threads(files, threads):
    """Also between equally near codewords, of which the lower index is taken, in torch as in the runtime."""
    x = np.random.default_rng(0).standard_normal((1, 16000)).astype(np.float32) * 0.1
    with torch.no_grad():
        wanted = doubled(GistEncoder)(torch.from_numpy(x)[None])[0].numpy()
    assert not np.isin(wanted, [9, 13]).any()
    assert np.isin(wanted, [5, 2]).any()
    for sizes in ([16000], [320] * 50, [1, 5000, 319, 321, 10359]):
        player, at, found = Player(Artifact.load(files[0]), threads=threads), 0, []
        for size in sizes:
            found.append(player.feed(audio=x[:, at : at + size])["codes"])
            at += size
        found.append(player.flush()["codes"])
        assert np.array_equal(np.concatenate(found, 1), wanted)


def test_decoding_hop_by_hop_is_decoding_at_once(files):
    codes = np.random.default_rng(1).integers(-1, 16, (9, 40))
    lost = (np.random.default_rng(2).random((1, 40)) < 0.3).astype(np.float32)
    with torch.no_grad():
        wanted = doubled(GistDecoder)(torch.from_numpy(codes)[None], lost=torch.from_numpy(lost)[None])[0]
    player = Player(Artifact.load(files[1]))
    parts = [player.feed(codes=codes[:, i : i + 1], lost=lost[:, i : i + 1])["decoded"] for i in range(40)]
    y = np.concatenate([*parts, player.flush()["decoded"]], 1)
    np.testing.assert_allclose(y, wanted.numpy(), atol=1e-5 * float(wanted.abs().max()))


def test_codes_of_lost_frames_are_not_heard_and_their_loss_is(files):
    """Whatever stands in their place, such as the codes of the packet before."""
    codes = np.random.default_rng(1).integers(0, 16, (9, 30))
    lost = np.zeros((1, 30), np.float32)
    lost[0, 10:14] = 1
    other = codes.copy()
    other[:, 10:14] = (codes[:, 10:14] + 5) % 16

    def sound(codes, lost):
        player = Player(Artifact.load(files[1]))
        return np.concatenate([player.feed(codes=codes, lost=lost)["decoded"], player.flush()["decoded"]], 1)

    assert np.array_equal(sound(codes, lost), sound(other, lost))
    none = np.where(lost > 0, -1, codes)
    assert not np.allclose(sound(none, lost), sound(none, np.zeros_like(lost)))
    assert not np.allclose(sound(codes, lost), sound(codes, np.zeros_like(lost)))


def test_the_control_says_how_many_codebooks_are_sent(files):
    """And the graph leaves out the stages that nobody wants, which changes none of the others' codes."""
    x = np.random.default_rng(0).standard_normal((1, 3200)).astype(np.float32) * 0.1
    player = Player(Artifact.load(files[0]))
    first = player.feed(audio=x[:, :1600])["codes"]
    player.set({"books": 2})
    rest = np.concatenate([player.feed(audio=x[:, 1600:])["codes"], player.flush()["codes"]], 1)
    assert (first >= 0).all()
    assert (rest[:2] >= 0).all()
    assert (rest[2:] == -1).all()
    with torch.no_grad():
        wanted = doubled(GistEncoder)(torch.from_numpy(x)[None])[0].numpy()
    for books in range(1, 10):
        player.set({"books": books})
        codes = np.concatenate([player.feed(audio=x)["codes"], player.flush()["codes"]], 1)
        assert np.array_equal(codes, np.where(np.arange(9)[:, None] < books, wanted, -1))


def test_stages_that_nobody_wants_are_one_branch_of_the_graph_in_another(files):
    def depth(graph: onnx.GraphProto) -> int:
        inner = [a.g for node in graph.node if node.op_type == "If" for a in node.attribute]
        return max((1 + depth(graph) for graph in inner), default=0)

    assert depth(onnx.load(files[0]).graph) == 2
