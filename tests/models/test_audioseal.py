"""AudioSeal has the published sizes, equals the published networks, and streams, causal or not."""

import built_once
import contract
import numpy as np
import pytest
import torch
from audioseal_file import lively, theirs

from audiomask import checkpoints
from audiomask.cli import main
from audiomask.models.audioseal import AudioSealDetector, AudioSealGenerator
from audiomask.runtime.player import Player

TINY = {"bits": 3, "filters": 2, "ratios": [4, 2], "latent": 4}
BOTH = pytest.mark.parametrize("causal", [True, False], ids=["streaming", "base"])
EACH = pytest.mark.parametrize("cls", [AudioSealGenerator, AudioSealDetector], ids=["generator", "detector"])


def tiny(cls, causal: bool, **more):
    torch.manual_seed(0)
    return lively(cls(**TINY | {"causal": causal} | more).eval())


@EACH
@pytest.mark.parametrize(
    "promise", [*contract.CONTRACT, contract.delay_is_composed], ids=lambda f: f.__name__
)
def test_contract(promise, cls):
    """The base networks have a recipe."""
    promise(tiny(cls, True))


@BOTH
def test_the_mark_is_aligned_with_the_sound(causal):
    model = tiny(AudioSealGenerator, causal)
    with torch.no_grad():
        model.decoder[-1].weight.mul_(0.1)
    contract.output_is_aligned_with_input(model)


@pytest.mark.parametrize(
    ("cls", "size", "delay"), [(AudioSealGenerator, 14_675_873, 2483), (AudioSealDetector, 8_647_298, 1280)]
)
def test_published_sizes_and_clocks(cls, size, delay):
    with torch.device("meta"):
        base, streaming = cls(), cls(causal=True)
    assert sum(p.numel() for p in base.parameters()) == size
    assert (base.hop, base.delay) == (320, delay)
    assert (streaming.hop, streaming.delay) == (320, 0)


@BOTH
@torch.no_grad()
def test_a_stream_equals_the_whole_up_to_its_end(causal):
    """The start too; a causal network to the last sample, if its last frame is full."""
    generator, detector = tiny(AudioSealGenerator, causal), tiny(AudioSealDetector, causal)
    x, message = 0.1 * torch.randn(2, 1, 800), torch.tensor([[0, 1, 1], [1, 0, 1]])
    y, sure = x + 0.5 * generator.watermark(x, message), 800 - generator.delay - (0 if causal else 8)
    made = generator(x, message=message, strength=torch.tensor(0.5).expand(2))
    assert (y - x).abs().max() > 1e-3
    assert (made - y)[:, :, :sure].abs().max() < 1e-5 * y.abs().max()
    for got, want in zip(detector(x), detector.detected(x), strict=True):
        sure = 800 - detector.delay - (0 if causal else 8)
        assert (got - want)[:, :, :sure].abs().max() < 1e-5 * want.abs().max()


@torch.no_grad()
def test_the_message_and_the_strength_are_heard():
    model = tiny(AudioSealGenerator, False)
    x = 0.1 * torch.randn(1, 1, 200)
    zeros, ones = (model(x, message=torch.full((1, 3), bit)) for bit in (0, 1))
    assert torch.equal(model(x), zeros)  # as the port says
    assert (zeros - ones).abs().max() > 1e-3
    assert torch.equal(model(x, strength=0.0), x)


# --- as the authors name and compute things -----------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dialect", ["audiocraft", "parametrized", "audioseal"])
def test_published_names_are_known(tmp_path, cls, dialect):
    model = tiny(cls, True)
    torch.save({"model": theirs(model, dialect), "xp.cfg": {"seanet": {"causal": True}}}, tmp_path / "a.pth")
    again, config, card = checkpoints.load("audioseal", [tmp_path / "a.pth"])
    assert type(again) is cls
    assert config["init_args"]["causal"] is True
    assert card["licence"].startswith("MIT")
    assert card["description"].startswith(cls.__name__)
    for name, want in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], want)
    torch.save(theirs(model, dialect) | {"other.weight": torch.ones(1)}, tmp_path / "b.pth")
    with pytest.raises(checkpoints.CheckpointError, match="not a checkpoint of audioseal"):
        checkpoints.load("audioseal", [tmp_path / "b.pth"])


def test_whether_it_is_causal_has_to_be_said_where_the_file_does_not(tmp_path):
    torch.save(theirs(tiny(AudioSealDetector, True), "audiocraft"), tmp_path / "a.pth")
    with pytest.raises(checkpoints.CheckpointError, match=r"what causal is; give --arg causal=VALUE"):
        checkpoints.load("audioseal", [tmp_path / "a.pth"])
    for causal in (True, False):
        model, config, _ = checkpoints.load("audioseal", [tmp_path / "a.pth"], causal=causal)
        assert config["init_args"]["causal"] is causal
        assert (model.delay == 0) is causal


@EACH
def test_the_verb_writes_a_file_that_plays(tmp_path, cls):
    model, path = tiny(cls, False), tmp_path / "a.onnx"
    torch.save({"best_state": {"model": theirs(model, "audiocraft")}}, tmp_path / "a.pth")
    options = ["--arg", "causal=false", "-o", str(path)]
    with built_once.graphs():
        assert main(["import", "audioseal", str(tmp_path / "a.pth"), *options]) == 0
    x = (0.1 * torch.randn(1, 1, 803)).numpy()
    controls = {"message": [1, 0, 1], "strength": 0.5} if cls is AudioSealGenerator else {}
    given = {name: torch.tensor([value]) for name, value in controls.items()}
    with torch.no_grad():
        want = model.by_port(model(torch.from_numpy(x), **given))
    player, at, made = Player(path, controls=controls), 0, []
    for size in np.random.default_rng(0).integers(1, 60, 40):
        made.append(player.feed(x[0, :, at : at + size]))
        at += size
        if at >= 803:
            break
    made.append(player.flush())
    for name, y in want.items():
        got = np.concatenate([part[name] for part in made if name in part], 1)
        assert np.abs(got - y[0].numpy()).max() < 1e-5 * np.abs(got).max()


@torch.no_grad()
def test_a_message_changes_while_sound_is_running(tmp_path):
    """From the next block on: as in torch, hop by hop."""
    model, path = tiny(AudioSealGenerator, True), tmp_path / "a.onnx"
    torch.save(theirs(model, "audioseal"), tmp_path / "a.pth")
    with built_once.graphs():
        words = [str(tmp_path / "a.pth"), "-o", str(path), "--arg", "causal=true"]
        assert main(["import", "audioseal", *words]) == 0
    x, state, player = 0.1 * torch.randn(1, 1, 80), model.initial_state(1), Player(path)
    for n, message in enumerate(([0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 1])):
        part = x[:, :, 16 * n : 16 * n + 16]
        want, state = model.step(part, state, message=torch.tensor([message]))
        player.set({"message": message})
        got = player.feed(part[0].numpy())["marked"]
        np.testing.assert_allclose(got, want[0].numpy(), atol=1e-6)


# --- the package itself -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def builder():
    pytest.importorskip("audioseal")
    from audioseal import builder

    return builder


def peers(builder, causal: bool):
    """The package's generator and detector, with random weights."""
    sizes = builder.SEANetConfig(
        channels=1, dimension=128, n_filters=32, n_residual_layers=1, ratios=[8, 5, 4, 2], activation="ELU",
        activation_params={"alpha": 1.0}, norm="none", norm_params={}, kernel_size=7, last_kernel_size=7,
        residual_kernel_size=3, dilation_base=2, causal=causal, pad_mode="constant", true_skip=True,
        compress=2, lstm=2, disable_norm_outer_blocks=0,
    )  # fmt: skip
    torch.manual_seed(0)
    decoder = builder.DecoderConfig(None, None, 1.0)
    generator = builder.create_generator(builder.AudioSealWMConfig(16, sizes, decoder))
    detector = builder.create_detector(builder.AudioSealDetectorConfig(16, sizes))
    return lively(generator.eval()), lively(detector.eval())


def copied(peer, path, causal: bool):
    """Our network with the weights of a package's, by a file as they publish it."""
    omegaconf = pytest.importorskip("omegaconf")
    config = {
        "seanet": {"causal": causal, "ratios": [8, 5, 4, 2], "norm": "none"},
        "nbits": 16,
        "n": "${nbits}",
    }
    torch.save({"xp.cfg": omegaconf.OmegaConf.create(config), "model": peer.state_dict()}, path)
    model, arguments, _ = checkpoints.load("audioseal", [path])
    assert arguments["init_args"]["causal"] is causal
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in peer.parameters())
    return model


@pytest.mark.peer
@BOTH
@torch.no_grad()
def test_equals_the_package_from_start_to_tail(builder, tmp_path, causal):
    generator, detector = peers(builder, causal)
    own_generator, own_detector = (copied(peer, tmp_path / "a.pth", causal) for peer in (generator, detector))
    message = torch.randint(2, (2, 16))
    for length in (320 * 40, 320 * 25 + 77, 319, 1):
        x = 0.1 * torch.randn(2, 1, length)
        want = generator.get_watermark(x, message=message)
        w = own_generator.watermark(x, message)
        assert (w - want).abs().max() < 1e-5 * want.abs().max()
        marked = generator(x, message=message, alpha=0.7)
        assert (x + 0.7 * w - marked).abs().max() < 1e-5 * marked.abs().max()
        both, bits = detector(x)
        present, logits = own_detector.detected(x)
        assert (present - both[:, 1:]).abs().max() < 1e-5
        assert (logits.mean(2).sigmoid() - bits).abs().max() < 1e-5


@pytest.mark.peer
@BOTH
@torch.no_grad()
def test_a_stream_equals_the_package(builder, tmp_path, causal):
    """Hop by hop, as far as the look-ahead does not reach the end."""
    generator, detector = peers(builder, causal)
    own_generator, own_detector = (copied(peer, tmp_path / "a.pth", causal) for peer in (generator, detector))
    message, x = torch.randint(2, (1, 16)), 0.1 * torch.randn(1, 1, 320 * 20)
    for own, want, given in (
        (own_generator, generator(x, message=message), {"message": message}),
        (own_detector, detector(x)[0][:, 1:], {}),
    ):
        state, made = own.initial_state(1), []
        for hop in torch.nn.functional.pad(x, (0, 320 * 8)).split(320, 2):
            y, state = own.step(hop, state, **given)
            made.append(y[0] if isinstance(y, tuple) else y)
        sure = x.shape[2] - own.delay - (0 if causal else 320)
        got = torch.cat(made, 2)[:, :, own.delay :][:, :, :sure]
        assert (got - want[:, :, :sure]).abs().max() < 1e-5 * want.abs().max()
