"""The tagger that streams is the network that was trained, on every stretch that its window holds."""

import contract
import pytest
import torch

from audiomask import weights
from audiomask.export.document import describe
from audiomask.frontend.fbank import Fbank
from audiomask.frontend.logmel import LogMel
from audiomask.models.audio_mae import SIZES
from audiomask.models.tagger import Tagger
from audiomask.models.vit_tagger import ViTTagger
from audiomask.weights import WeightsError

NET = {"frames": 80, "bands": 32, "patch": 4, "width": 16, "depth": 2, "heads": 2}
COLUMN, OVERHANG = 640, 240  # samples of a column, and what its last frame reaches beyond


def pair(every=3, window=0, **options):
    """A tagger and the network it is made of, their weights not those of a fresh one."""
    torch.manual_seed(0)
    net = ViTTagger(3, **NET, **options).eval()
    with torch.no_grad():
        net.head.weight.normal_(0, 1)
        for block in net.blocks:
            block.attn.qkv.weight.mul_(3)
    front = LogMel("esc", frames=0, patch=4, bands=32)
    tagger = Tagger(3, front, **NET, **options, every=every, window=window).eval()
    tagger.load_state_dict(net.state_dict())
    return tagger, net, front


def sound(samples, rows=1, offset=0.0):
    g = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(rows, 1, samples, generator=g) * torch.linspace(0.1, 2, samples) + offset


@pytest.mark.parametrize("options", [{"every": 1}, {"every": 2, "window": 5, "exclusive": True}])
@pytest.mark.parametrize("promise", contract.CONTRACT, ids=lambda f: f.__name__)
def test_contract(promise, options):
    promise(pair(**options)[0])


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"exclusive": True}, {"post_norm": True, "pool": "cls"}])
@pytest.mark.parametrize(("every", "window"), [(1, 0), (3, 0), (3, 7), (2, 3)])
def test_streamed_is_whole(every, window, options):
    """Row n is the network on the columns that are complete by then, the last ones where the window is full.
    The level that the whole clip sits on does not matter.
    """
    tagger, net, front = pair(every, window, **options)
    x = sound(24 * COLUMN, rows=2, offset=0.05)
    p, e = tagger(x)
    assert p.shape == (2, 3, 24 // every)
    assert e.shape == (2, 16, 24 // every)
    apart = 0
    for n in range(24 // every):
        count = (n + 1) * every - 1  # the newest column lacks 15 ms
        if count == 0:
            assert not p[:, :, n].any()
            assert not e[:, :, n].any()
            continue
        first = max(0, count - (window or 20))
        clip = x[:, 0, first * COLUMN : count * COLUMN + OVERHANG]
        pooled = net.pooled(front(clip))
        assert front(clip).shape[1] == 4 * (count - first)
        torch.testing.assert_close(e[:, :, n], pooled, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(p[:, :, n], net.probabilities(net.head(pooled)), rtol=1e-5, atol=1e-5)
        apart += n > 0 and float((e[:, :, n] - e[:, :, n - 1]).abs().max()) > 1e-2
    assert apart > 24 // every - 4  # rows differ, so that equal ones could not hide a mistake
    if net.exclusive:
        assert torch.allclose(p[:, :, 1:].sum(1), torch.ones(()))


@torch.no_grad()
def test_what_was_before_the_start_is_not_heard():
    """Neither the empty places of the window nor the samples that stand for them: whatever is there."""
    tagger, _, _ = pair(2, 7)
    x = sound(4 * COLUMN)
    state = tagger.initial_state(1)
    y, _ = tagger.step(x, state)
    loud = {**state, "ring": torch.full_like(state["ring"], 50.0)}
    for a, b in zip(y, tagger.step(x, loud)[0], strict=True):
        assert torch.equal(a, b)
    later = {**loud, "seen": torch.full((1,), 9)}  # as a check of the check: once they count, they are heard
    assert (tagger.step(x, later)[0][0] - y[0]).abs().max() > 1e-3


def test_the_mean_of_the_clip_is_redundant():
    x = sound(16000, offset=0.3)
    fbank = Fbank(bands=128, window="hann", scale=1.0)
    n = fbank.complete(16000)  # the frames after them have less of the mean in them
    torch.testing.assert_close(fbank(x)[:, :, :n], fbank(x - x.mean())[:, :, :n], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_silence_and_a_single_sample():
    tagger, _, _ = pair(3)
    for samples in (1, 100, COLUMN, 5 * COLUMN + 1):
        p, _ = tagger(torch.zeros(1, 1, samples))
        assert p.shape[2] == -(-samples // (3 * COLUMN))
        assert p.isfinite().all()
        assert (p > 0).all()


def test_ports_tell_labels_and_span():
    tagger, _, _ = pair(3, 7, labels=["a", "b", "c"])
    document = describe(tagger, {})
    p, e = document["outputs"]
    assert (p["name"], p["type"], p["rate"], p["channels"]) == ("probabilities",) * 2 + (f"1/{3 * COLUMN}", 3)
    assert p["labels"] == ["a", "b", "c"]
    assert p["span"] == e["span"] == 7 * COLUMN + OVERHANG
    assert (document["task"], document["hop"], document["delay"]) == ("tag", 3 * COLUMN, 0)
    assert describe(pair()[0], {})["outputs"][0]["labels"] == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize("size", SIZES)
def test_full_sizes(size):
    """Ten seconds at .96 s: names and shapes are the network's, and nothing else is kept."""
    with torch.device("meta"):
        net = ViTTagger(527, **SIZES[size])
        tagger = Tagger(527, LogMel(), **SIZES[size])
    assert {k: v.shape for k, v in tagger.state_dict().items()} == {
        k: v.shape for k, v in net.state_dict().items()
    }
    assert tagger.hop == 15360
    assert tagger.initial_state(1, "meta")["ring"].shape == (1, 58, 8 * SIZES[size]["width"])


def test_from_a_folder_of_weights(tmp_path):
    _, net, front = pair()
    config = {
        "class_path": "audiomask.models.vit_tagger.ViTTagger",
        "init_args": {**NET, "classes": 3},
        "frontend": {
            "class_path": "audiomask.frontend.logmel.LogMel",
            "init_args": {"corpus": "esc", "patch": 4, "bands": 32},
        },
    }
    weights.save(tmp_path / "run/model", net, config)
    made, told = weights.load_parts(tmp_path / "run", window=9, every=2)[""]
    assert isinstance(made, Tagger)
    assert (made.window, made.every, made.mean) == (9, 2, front.mean)
    assert type(weights.load(tmp_path / "run")[0]) is ViTTagger
    assert weights.load_frontend(tmp_path / "run", frames=0).frames == 0
    again = weights.load_model(told)  # what the artifact says of itself is enough to build it
    assert again.hop == made.hop
    weights.save(tmp_path / "tagger", made, told)
    assert weights.load_parts(tmp_path / "tagger")[""][0].hop == made.hop
    for wrong, words in ((10, "window 9, every 10"), (0, "every 0")):
        with pytest.raises(WeightsError, match=words):
            weights.load_parts(tmp_path / "run", window=9, every=wrong)
    with pytest.raises(WeightsError, match=r"window 21, every 6: need 0 < every < window <= 20"):
        weights.load_parts(tmp_path / "run", window=21)
    del config["frontend"]
    weights.save(tmp_path / "bare", net, config)
    with pytest.raises(WeightsError, match="nothing says what makes its pictures; add"):
        weights.load_parts(tmp_path / "bare")
    with pytest.raises(ValueError, match="frontend has 128 bands and patches of 16"):
        Tagger(3, LogMel(), **NET)
