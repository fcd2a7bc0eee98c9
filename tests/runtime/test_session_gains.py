"""audiomask.runtime.session: stems that are turned within the sound, what is left of it, several outputs."""

from math import inf

import numpy as np
import pytest
import small_artifacts

from audiomask.audio.layout import mask_of
from audiomask.runtime.artifact import Artifact, ArtifactError
from audiomask.runtime.crossfade import RAMP_S
from audiomask.runtime.player import feed_all
from audiomask.runtime.session import Session

RATE = small_artifacts.RATE
RATES = pytest.mark.parametrize("rate", [8000, 16000, 44100, 96000])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Artifacts by name: `stems` of one channel, `cinema` of two."""
    folder = tmp_path_factory.mktemp("separators")
    names = ("stems", "cinema", "upsampler", "stereo_stems")
    return {name: Artifact.load(small_artifacts.build(folder, name, task="separate")) for name in names}


def play(session, x, sizes=(700, 1, 3000, 0, 4096)):
    """All that a session gives of `x`, by name or as one array, fed in blocks of these sizes and one more."""
    parts = [session.feed(part) for part in np.split(x, np.cumsum(sizes), axis=-1)] + [session.flush()]
    if isinstance(parts[0], dict):
        return {name: joined([part[name] for part in parts]) for name in parts[0]}
    return joined(parts)


def joined(parts):
    """One array of those that blocks of `[1, n]` and the flush after them give."""
    return np.concatenate([*map(np.atleast_2d, parts)], -1)


@RATES
@pytest.mark.parametrize(("name", "channels"), [("stems", 1), ("stems", 3), ("cinema", 2)])
def test_gains_are_of_the_stems_that_it_gives(models, noise, name, channels, rate):
    x = noise(channels, 12345)
    stems = play(Session(models[name], sample_rate=rate, channels=channels), x)
    gains = dict(zip(stems, (-20.0, -inf, 6.0), strict=False))
    session = Session(models[name], sample_rate=rate, channels=channels, gains=gains)
    assert session.heard == ["remix"]
    factors = {stem: 10 ** (gains.get(stem, 0) / 20) for stem in stems}
    want = x + sum((factors[stem] - 1) * y for stem, y in stems.items())
    np.testing.assert_allclose(play(session, x), want, atol=1e-6)
    np.testing.assert_allclose(play(session, x, (5000,)), want, atol=1e-6)


@RATES
def test_at_0_db_the_sound_is_untouched(models, noise, rate):
    x = noise(2, 12345)
    for gains in ({}, {"music": 0}):
        np.testing.assert_array_equal(play(Session(models["cinema"], sample_rate=rate, gains=gains), x), x)


def test_solo_leaves_what_belongs_to_no_stem(models, noise):
    x = noise(2, 9000)
    y = play(Session(models["cinema"], gains={"music": -inf, "effects": -inf}), x)
    stems = small_artifacts.REFERENCES["cinema"](x)
    np.testing.assert_allclose(y, x - stems["music"] - stems["effects"], atol=1e-6)


@pytest.mark.parametrize("block", [37, 128, 4096])
@pytest.mark.parametrize("trim", [True, False])
def test_a_gain_moves_without_a_click_and_arrives(models, block, trim):
    """Of a constant every step of the output is one of the ramp."""
    x = np.full(20 * 4096, 0.5, np.float32)
    session, parts = Session(models["stems"], gains={"vocals": -inf, "drums": 3}, trim=trim), []
    for n in range(0, len(x), block):
        if n // 4096 == 3:
            session.set(gains={"vocals": 12})
        elif n // 4096 == 9:
            session.set(gains={"drums": -inf})
        parts.append(session.feed(x[n : n + block]))
    y = np.concatenate([*parts, session.flush()])[session.lag :]
    stems = {name: a * 0.5 + b * 0.25 for name, (a, b) in small_artifacts.STEMS.items()}
    loudest = max(map(abs, stems.values()))
    assert np.abs(np.diff(y[1000:-1000])).max() <= 1.01 * loudest / (RAMP_S * RATE)

    def turned(vocals, drums):
        return 0.5 + (10 ** (vocals / 20) - 1) * stems["vocals"] + (10 ** (drums / 20) - 1) * stems["drums"]

    assert y[2000] == pytest.approx(turned(-inf, 3), abs=1e-6)
    assert y[8 * 4096] == pytest.approx(turned(12, 3), abs=1e-6)
    assert y[-1000] == pytest.approx(turned(12, -inf), abs=1e-6)
    assert session.gains == {"vocals": 12, "drums": -inf, "bass": 0, "other": 0}


def test_a_fixed_lag_plays_the_same_later(models, noise):
    x = noise(2, 8000)
    want = play(Session(models["cinema"], gains={"speech": -6}, sample_rate=44100), x)
    session = Session(models["cinema"], gains={"speech": -6}, sample_rate=44100, trim=False, block=100)
    y = np.concatenate([session.feed(x[:, n : n + 100]) for n in range(0, 8000, 100)], 1)
    np.testing.assert_allclose(y[:, session.lag :], want[:, : 8000 - session.lag], atol=1e-6)


def test_a_snapshot_remembers_gains_on_their_way(models, noise):
    x = noise(2, 9000)
    session = Session(models["cinema"], gains={"speech": 0})
    session.feed(x[:, :4000])
    session.set(gains={"speech": -30})
    session.feed(x[:, 4000:4100])  # the ramp has begun
    kept = session.snapshot()
    want = session.feed(x[:, 4100:])
    session.set(gains={"speech": 9, "music": -inf})
    session.feed(x)
    session.restore(kept)
    assert session.gains["speech"] == -30
    np.testing.assert_array_equal(session.feed(x[:, 4100:]), want)
    with pytest.raises(ValueError, match="does not fit"):
        Session(models["cinema"]).restore(kept)


def test_reset_keeps_gains_and_forgets_the_rest(models, noise):
    x = noise(2, 5000)
    session = Session(models["cinema"], gains={"music": -6})
    want = play(session, x)
    session.feed(x[:, :777])
    session.set(gains={"speech": -12})
    session.set(gains={"speech": 0})
    session.reset()
    np.testing.assert_array_equal(play(session, x), want)


def test_sessions_with_and_without_gains_share_calls(models, noise, monkeypatch):
    x = noise(2, 4096)
    how = [{"gains": {"speech": -20}}, {}, {"gains": {"music": 3}}, {"residual": "rest"}]
    want = [Session(models["cinema"], **kind).feed(x) for kind in how]
    sessions, calls = [Session(models["cinema"], **kind) for kind in how], []
    from audiomask.runtime import player

    run = player.run_steps
    monkeypatch.setattr(player, "run_steps", lambda steps: (calls.append(len(steps)), run(steps)))
    got = feed_all([(session, x) for session in sessions])
    assert calls[0] == 4
    for a, b in zip(got, want, strict=True):
        for name in a if isinstance(a, dict) else ():
            np.testing.assert_allclose(a[name], b[name], atol=1e-6)
        if not isinstance(a, dict):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(("dry", "bypass", "fraction"), [(0.25, False, 0.25), (0, True, 1)])
def test_dry_and_bypass_are_of_the_remix(models, noise, dry, bypass, fraction):
    x = noise(2, 5000)
    wet = play(Session(models["cinema"], gains={"music": -20}), x)
    y = play(Session(models["cinema"], gains={"music": -20}, dry=dry, bypass=bypass), x)
    np.testing.assert_allclose(y, (1 - fraction) * wet + fraction * x, atol=1e-6)


@RATES
def test_the_residual_completes_the_sound(models, noise, rate):
    x = noise(2, 9000)
    x[0, 100] = np.nan
    for output in (None, "speech", ["effects", "speech"]):
        session = Session(models["cinema"], sample_rate=rate, output=output, residual="rest")
        y = play(session, x)
        names = [output] if isinstance(output, str) else output or [*small_artifacts.FILM]
        assert list(y) == session.heard == [*names, "rest"]
        np.testing.assert_allclose(sum(y.values()), np.nan_to_num(x), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("stems", {"gains": {"choir": 1}}, "has no sound 'choir' to turn; it has: vocals drums bass other"),
        ("stems", {"gains": {"bass": 24.5}}, "gain bass = 24.5 dB is outside -inf to 24"),
        ("stems", {"gains": {"bass": np.nan}}, "gain bass = nan dB is outside -inf to 24"),
        ("stems", {"residual": "bass"}, "makes bass itself; give the residual another name"),
        ("stems", {"output": ["bass", "choir"]}, "has no output 'choir' of sound; it has: vocals drums"),
        ("upsampler", {"gains": {}}, "does not make of a sound others of its kind"),
        ("stereo_stems", {"residual": "rest"}, "does not make of a sound others of its kind"),
    ],
)
def test_what_cannot_be_turned(models, name, options, words):
    with pytest.raises(ArtifactError, match=words):
        Session(models[name], **options)


def test_a_wrong_change_changes_nothing(models):
    session = Session(models["stems"], gains={"bass": -3})
    for gains in ({"bass": -6, "choir": 1}, {"bass": -6, "drums": inf}):
        with pytest.raises(ArtifactError):
            session.set(gains=gains, dry=0.5)
    assert (session.gains["bass"], session.dry) == (-3, 0)
    with pytest.raises(ArtifactError, match="has no sound 'bass' to turn; it was made without gains"):
        Session(models["stems"]).set(gains={"bass": -3})


def film(mask, samples=9000, seed=0):
    """Noise with another level in each channel of a layout."""
    names = mask.split()
    x = np.random.default_rng(seed).standard_normal((len(names), samples)).astype(np.float32) * 0.1
    return x * np.linspace(0.5, 1, len(names), dtype=np.float32)[:, None]


def reference(x, groups, low=()):
    """What the cinema model makes of groups of channels, each by itself."""
    want = {name: np.zeros_like(x) for name in small_artifacts.FILM}
    for group in groups:
        given = x[[group[0], group[-1]]]
        for name, y in small_artifacts.REFERENCES["cinema"](given).items():
            want[name][list(group)] = y if len(group) == 2 else y.mean(0, keepdims=True)
    for channel in low:
        want["effects"][channel] = x[channel]
    return want


LAYOUTS = {
    "FC": ([(0,)], []),
    "FL FR": ([(0, 1)], []),
    "FL FR FC": ([(0, 1), (2,)], []),
    "FL FR FC LFE BL BR": ([(0, 1), (2,), (4, 5)], [3]),
    "FL FR FC LFE SL SR": ([(0, 1), (2,), (4, 5)], [3]),
    "FL FR FC LFE BL BR SL SR": ([(0, 1), (2,), (4, 5), (6, 7)], [3]),
    "FL FR FC LFE BC SL SR": ([(0, 1), (2,), (4,), (5, 6)], [3]),
    "FL FR BL BR": ([(0, 1), (2, 3)], []),
    "FL FR LFE": ([(0, 1)], [2]),
}


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("names", LAYOUTS)
def test_channels_sit_by_their_speakers(models, names, rate):
    """Speech is first of all in the centre, which nothing else may meet."""
    x, (groups, low) = film(names), LAYOUTS[names]
    how = {"sample_rate": rate, "channels": len(x), "speakers": mask_of(names)}
    y = play(Session(models["cinema"], **how), x)
    if rate == RATE:
        for name, want in reference(x, groups, low).items():
            np.testing.assert_allclose(y[name], want, atol=1e-6)
    else:  # as the same groups are by themselves
        for group in groups:
            alone = play(Session(models["cinema"], sample_rate=rate), x[[group[0], group[-1]]])
            for name, want in alone.items():
                np.testing.assert_allclose(y[name][list(group)], want[: len(group)], atol=1e-6)
    for channel in low:
        np.testing.assert_array_equal(y["effects"][channel], x[channel])
        assert not y["speech"][channel].any()
    remix = play(Session(models["cinema"], **how, gains={"speech": -inf}), x)
    np.testing.assert_allclose(remix, x - y["speech"], atol=1e-6)
    rest = play(Session(models["cinema"], **how, residual="rest"), x)
    np.testing.assert_allclose(sum(rest.values()), x, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, [(0,)]), (3, [(0, 1), (2,)]), (4, [(0, 1), (2, 3)]), (5, [(0, 1), (2, 3), (4,)])],
)
def test_channels_of_unknown_speakers_are_pairs(models, channels, groups):
    x = film(" ".join("x" * channels))
    for speakers in (0, mask_of("FL FR FC LFE BL BR")):  # which do not fit the channels
        y = play(Session(models["cinema"], channels=channels, speakers=speakers), x)
        for name, want in reference(x, groups).items():
            np.testing.assert_allclose(y[name], want, atol=1e-6)


def test_a_snapshot_is_of_one_layout(models):
    film5, x = "FL FR FC BL BR", film("FL FR FC BL BR")
    sessions = [Session(models["cinema"], channels=5, speakers=mask) for mask in (mask_of(film5), 0)]
    sessions[0].feed(x)
    kept = sessions[0].snapshot()
    with pytest.raises(ValueError, match="does not fit"):
        sessions[1].restore(kept)
    want = sessions[0].feed(x)
    sessions[0].restore(kept)
    for name, y in sessions[0].feed(x).items():
        np.testing.assert_array_equal(y, want[name])


def test_one_channel_comes_as_one(models, noise):
    x = noise(1, 3000)[0]
    for options in ({"gains": {"music": -6}}, {"output": "music"}):
        assert Session(models["cinema"], channels=1, **options).feed(x).ndim == 1
    session = Session(models["cinema"], channels=1, trim=False)
    assert {y.shape for y in session.feed(x[:1000]).values()} == {(1000,)}


def test_a_model_of_one_channel_lets_low_frequency_effects_pass(models):
    x = film("FL FR FC LFE BL BR")
    speakers = mask_of("FL FR FC LFE BL BR")
    y = play(Session(models["stems"], channels=6, speakers=speakers), x)
    want = small_artifacts.REFERENCES["stems"](x)
    for name in want:
        want[name][3] = x[3] if name == "other" else 0
        np.testing.assert_allclose(y[name], want[name], atol=1e-6)


def test_what_is_lost_of_seated_channels_is_silent(models, noise):
    x, lost = noise(3, 2000), np.zeros(2000)
    lost[500:700] = 1
    session = Session(models["cinema"], channels=3, residual="rest")
    parts = [session.feed(x, lost), session.flush()]
    total = sum(np.concatenate([part[name] for part in parts], 1) for name in session.heard)
    np.testing.assert_allclose(total, x * (1 - lost), atol=1e-6)


def test_silence_stays_silent(models):
    x = np.zeros((2, 5000), np.float32)
    session = Session(models["cinema"], residual="rest")
    assert not any(y.any() for y in play(session, x).values())


@pytest.mark.parametrize("samples", [1, 47, 127])
def test_less_than_a_hop(models, noise, samples):
    x = noise(2, samples)
    y = play(Session(models["cinema"], residual="rest"), x, ())
    assert {part.shape for part in y.values()} == {(2, samples)}
    np.testing.assert_allclose(sum(y.values()), x, atol=1e-6)
    for name, want in small_artifacts.REFERENCES["cinema"](x).items():
        np.testing.assert_allclose(y[name], want, atol=1e-6)
