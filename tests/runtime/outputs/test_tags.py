"""Sound in, frames out: any blocks, rates and channels; and what rows mean in time."""

import itertools

import numpy as np
import pytest
import toy_tagger
from toy_tagger import HOP, LABELS, loud

from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.outputs.tags import Clock, Row, listed, listener, pooled, segmented
from audiomask.runtime.player import Player, feed_all
from audiomask.runtime.session import Session, player_of


def tagger(model, rate=None):
    return listener(model if isinstance(model, Artifact) else Artifact.load(model), rate=rate)


def heard(player, x):
    return player.feed(x)["probabilities"]


def pieces(extractor, x, sizes):
    out, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= x.shape[-1]:
            break
        out.append(heard(extractor, x[..., at : at + size]))
        at += size
    return np.concatenate([*out, extractor.flush()["probabilities"]], axis=1)


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 10 * HOP, 33333])
@pytest.mark.parametrize("sizes", [(10**9,), (1, 7, 5000), (HOP,), (11 * HOP, 3)])
def test_any_blocks(tagger16, noise, samples, sizes):
    x = noise(1, samples)[0]
    y = pieces(tagger(tagger16), x, sizes)
    assert y.shape == (3, -(-samples // HOP))
    np.testing.assert_allclose(y[0], loud(x), rtol=1e-5)
    np.testing.assert_allclose(y.sum(0), 1, rtol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000, 192000])
def test_any_rate(tagger16, rate):
    """A tone of 500 Hz, whose mean size no rate changes."""
    seconds = 1.23
    x = (0.1 * np.sin(2 * np.pi * 500 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
    extractor = tagger(tagger16, rate)
    y = pieces(extractor, x, (1000, 17))
    assert y.shape == (3, 13)
    np.testing.assert_allclose(y[0, 1:12], 10 * 0.2 / np.pi, rtol=5e-3)  # of 32 samples a period: .3 %
    assert np.array_equal(y, pieces(extractor, x, (1000, 17)))  # flush begins anew
    assert extractor.hop == HOP * rate / 16000 or rate == 11025
    assert extractor.latency >= extractor.hop


def test_channels_are_mixed(tagger16, noise):
    x = noise(6, 5 * HOP)
    y = pieces(tagger(tagger16), x, (999,))
    np.testing.assert_allclose(y[0], loud(x.mean(0)), rtol=1e-4)
    with pytest.raises(ValueError, match=r"shape \(0, 5\)"):
        tagger(tagger16).feed(np.zeros((0, 5)))


@pytest.mark.parametrize("rate", [16000, 44100])
def test_opposite_channels_are_no_silence(tagger16, noise, rate):
    x = noise(1, 3 * rate)
    both = np.concatenate((x, -x))
    want, got = (pieces(tagger(tagger16, rate), one, (999,)) for one in (x, both))
    np.testing.assert_allclose(got[:, 2:], want[:, 2:], atol=1e-5)  # it shows within .1 s
    player = tagger(tagger16, rate)
    player.feed(both[:, :rate])
    saved, rest = player.snapshot(), [heard(player, both[:, rate:])]
    player.feed(x)
    player.restore(saved)
    np.testing.assert_array_equal(heard(player, both[:, rate:]), rest[0])


def test_nothing_gives_nothing(tagger16):
    assert tagger(tagger16).flush()["probabilities"].shape == (3, 0)
    assert tagger(tagger16, 48000).flush()["probabilities"].shape == (3, 0)
    assert heard(tagger(tagger16), np.zeros(0)).shape == (3, 0)


def test_garbage_becomes_silence(tagger16):
    x = np.full(HOP, 0.05, np.float32)
    x[:100] = np.nan
    x[100:200] = np.inf
    extractor = tagger(tagger16)
    y = heard(extractor, x)
    assert extractor.cleaned == 200
    np.testing.assert_allclose(y[0], 0.5 * (HOP - 200) / HOP, rtol=1e-5)


def test_another_output(tagger16, noise):
    x = noise(1, 3 * HOP)
    y = Player(tagger16, outputs=["embedding"]).feed(x)["embedding"]
    assert y.shape == (2, 3)
    assert (y[1] == 1).all()


def test_models_of_other_tasks(tagger16, toy16):
    with pytest.raises(
        ArtifactError, match=r"toy_16k: is a model to enhance, whose output is pcm, not probab"
    ):
        tagger(Artifact.load(toy16))
    with pytest.raises(
        ArtifactError, match=r"so a session cannot play it; its task is tag: see audiomask tag"
    ):
        Session(tagger16)
    assert isinstance(player_of(Artifact.load(toy16)), Session)
    assert not isinstance(player_of(Artifact.load(tagger16), sample_rate=8000), Session)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"labels": ["a"]}, "1 labels for 3 channels"), ({"span": -1}, "span -1 is no number")],
)
def test_wrong_ports_are_refused(tmp_path, change, words):
    outputs = toy_tagger.document()["outputs"]
    outputs[0] |= change
    with pytest.raises(ArtifactError, match=words):
        Artifact.load(toy_tagger.build(tmp_path / "a.onnx", outputs=outputs))


def test_stacked(tagger16, noise):
    artifact, x = Artifact.load(tagger16), noise(2, 4 * HOP)
    both = feed_all([(tagger(artifact), x[0]), (tagger(artifact), x[1])])
    for row, y in zip(x, both, strict=True):
        np.testing.assert_allclose(y["probabilities"][0], loud(row), rtol=1e-5)


# --- time ---------------------------------------------------------------------------------------------------


def test_clock(tagger16):
    clock = Clock(tagger(tagger16))
    rows = [*clock.rows(np.zeros((3, 3))), *clock.rows(np.zeros((3, 1)), 0.35)]
    assert [(round(r.start, 6), round(r.end, 6), r.whole, r.full) for r in rows] == [
        (0, 0.1, True, False), (0, 0.2, True, True), (0.1, 0.3, True, True), (0.15, 0.35, False, True)
    ]  # fmt: skip


def row(value, whole=True, full=True, end=1.0):
    return Row(0.0, end, np.array([value, 0.0]), whole, full)


@pytest.mark.parametrize(
    ("rows", "mean", "largest"),
    [
        ([row(5, full=False), row(1), row(2), row(9, whole=False)], 1.5, 2),  # full windows of sound
        ([row(5, full=False), row(4, full=False), row(9, whole=False)], 4, 4),  # the longest stretch of sound
        ([row(3, whole=False, full=False)], 3, 3),  # all there is
    ],
)
def test_whole(rows, mean, largest):
    for most, wanted in ((False, mean), (True, largest)):
        assert pooled(rows, most).values[0] == wanted
    with pytest.raises(ValueError, match="no sound"):
        pooled([])


def test_segments():
    """A window of 3 hops: a sound in hop 3 is on in the rows 3, 4, 5."""
    a = [0, 0, 0, 0.6, 0.9, 0.7, 0.2, 0, 0, 0.8, 0.9]
    b = [0.5, 0.4, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    rows = [
        Row(max(0.0, n - 2.0), min(n + 1.0, 10.5), np.array(values))
        for n, values in enumerate(zip(a, b, strict=True))
    ]
    found = segmented(rows, ("a", "b"), 0.5, 1.0)
    assert [(t.start, t.end, t.tags) for t in found] == [
        (0.0, 1.0, (("b", 0.5),)), (3.0, 4.0, (("a", 0.9),)), (9.0, 10.5, (("a", 0.9),))
    ]  # fmt: skip


def test_listing(tagger16):
    def told(**options):
        extractor = tagger(tagger16)
        x = np.zeros(10 * HOP, np.float32)
        x[3 * HOP : 4 * HOP] = 0.09
        rows = Clock(extractor).rows(heard(extractor, x))
        found = listed(rows, extractor, **{"count": 2, "threshold": 0.0} | options)
        return [(round(t.start, 3), round(t.end, 3), t.tags) for t in found]

    (whole,) = told()
    assert whole[:2] == (0, 1)
    assert whole[2][0] == (
        "quiet",
        pytest.approx(1 - 2 * 0.9 / 9, rel=1e-4),
    )  # 9 full windows, 2 of which hear it
    assert [label for label, _ in whole[2]] == ["quiet", "loud"]
    assert told(largest=True)[0][2] == (("quiet", 1.0), ("loud", pytest.approx(0.9, rel=1e-4)))
    every = told(every=0.4, count=1)
    assert [t[:2] for t in every] == [(0.2, 0.4), (0.6, 0.8), (0.8, 1.0)]  # the rest at the end
    assert [t[2][0][0] for t in every] == ["loud", "quiet", "quiet"]
    assert told(threshold=0.95, every=0.0)[3][2] == ()
    assert [(t[:2], t[2][0][0]) for t in told(segments=True, threshold=0.5)] == [
        ((0.0, 0.2), "quiet"), ((0.3, 0.4), "loud"), ((0.5, 1.0), "quiet")
    ]  # fmt: skip
    assert len(LABELS) == 3
