"""Thresholds against the standard's tables, its steps written out in loops, and textbook cases of masking."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask.frontend.stft import Analysis, power, window
from audiomask.masks import hearing
from audiomask.masks.hearing import Johnston, Model1, bark, critical_bandwidth, quiet_db
from audiomask.streaming import Sequential

DEMO = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo"
MODELS = [Johnston, Model1]
both = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)

# Rows of the tables D.1 of ISO 11172-3, by rate and size of the spectrum (512 for layer I, 1024 for layer
# II): line, critical band rate in Bark, absolute threshold in dB.
TABLES = {
    (32000, 1024): """
        1 .309 58.23    2 .617 33.44    10 3.037 9.20   30 8.103 3.61   48 11.199 1.71    80 14.509 -2.64
        104 16.069 -4.96    132 17.434 -2.86    160 18.539 .48    240 20.912 3.89    312 22.304 9.63
        344 22.749 13.90    408 23.415 26.90    432 23.607 33.67    480 23.923 51.04""",
    (44100, 512): """
        1 .850 25.87    2 1.694 14.85    5 4.124 7.10    12 8.723 3.25    18 11.421 1.53    23 13.042 -.17
        29 14.504 -2.63    35 15.631 -4.60    39 16.260 -4.98    48 17.447 -2.82    58 18.534 .47
        70 19.635 2.11    94 21.342 4.98    116 22.420 10.54    140 23.213 21.64    164 23.749 40.25
        184 24.070 63.49    188 24.125 68    232 24.574 68""",
    (44100, 1024): """
        1 .425 45.05    3 1.273 18.70    19 7.274 4.11    45 12.900 .02    66 15.284 -4.09
        368 24.070 63.49""",
    (48000, 512): """
        1 .925 24.17    4 3.618 7.94    10 8.103 3.61    20 12.684 .29    28 14.807 -3.22    35 16.124 -4.98
        48 17.932 -1.24    60 19.226 1.66    84 21.188 4.54    100 22.113 8.33    124 23.072 18.77
        152 23.775 41.67    168 24.054 61.94    172 24.114 68    216 24.597 68""",
}


def frame_size(rate):
    return 2 * round(0.016 * rate)


def tone(hz, db, rate, seconds=0.5):
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (10 ** ((db - 96) / 20) * torch.sin(2 * math.pi * hz * t)).float()


def noise(db_per_hz, rate, seconds=2.0, seed=0):
    """White noise of a level in each Hz."""
    generator = torch.Generator().manual_seed(seed)
    scale = math.sqrt(0.5 * 10 ** ((db_per_hz - 96) / 10) * rate / 2)
    return scale * torch.randn(round(seconds * rate), generator=generator)


def speech(rate):
    x, own = soundfile.read(DEMO / "mixture_clean.flac", dtype="float32")
    return torch.from_numpy(soxr.resample(x, own, rate, "VHQ").astype(np.float32))


def masked(model, x, rate, full_scale_db=96.0):
    """What a sound as narrow as a critical band may have in dB SPL `[frames, F]`, and the lines' Hz."""
    size = frame_size(rate)
    ear = model(rate, size, full_scale_db=full_scale_db)
    y = Sequential(Analysis(size, size // 2, "hann"), ear)(x[None, None])[0, 0]
    return 10 * torch.log10(y * ear.scale / ear.part)[2:-2], ear.hz


def at(db, hz, *places):
    """Levels at places in Hz, the mean over frames."""
    return [float(db[:, np.abs(hz - place).argmin()].mean()) for place in places]


# --- scales -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_bark_and_absolute_threshold_equal_the_standards_tables(table):
    (rate, size), rows = table, TABLES[table]
    line, z, db = np.array(rows.split(), float).reshape(-1, 3).T
    np.testing.assert_allclose(bark(line * rate / size), z, atol=0.0011)
    np.testing.assert_allclose(quiet_db(line * rate / size), db, atol=0.0101)


def test_scales_at_their_known_points():
    assert bark(0) == 0
    # Zwicker's edges are whole numbers of Bark, which the formula meets to .25
    np.testing.assert_allclose(bark(np.array(hearing.EDGES_HZ)), np.arange(25), atol=0.25)
    assert quiet_db(0.0) == quiet_db(1e6) == 68
    assert 3200 < np.argmin(quiet_db(np.arange(20000))) < 3500
    np.testing.assert_allclose(critical_bandwidth([100, 1000, 10000]), [100.7, 162, 2306], rtol=3e-3)


@both
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 32000, 44100, 48000, 96000])
def test_silence_has_the_absolute_threshold(model, rate):
    db, hz = masked(model, torch.zeros(rate // 2), rate)
    np.testing.assert_allclose(db[0], quiet_db(hz), atol=1e-3)


@both
@pytest.mark.parametrize("name", ["hann", "sqrt_hann", "rect", "vorbis"])
def test_a_sine_of_full_scale_has_the_stated_level(model, name):
    rate, size = 16000, 512
    w = window(name, size)
    ear = model(rate, size, w, full_scale_db=80.0)
    lines = power(Analysis(size, 256, w)(tone(1000, 96, rate)[None, None]))[0, 0, 10] * ear.scale
    assert 10 * math.log10(lines.sum()) == pytest.approx(80.0, abs=0.01)


def test_the_bands_keep_the_power():
    for rate, size in ((8000, 64), (16000, 512), (44100, 1024), (96000, 3072)):
        ear = Johnston(rate, size)
        torch.testing.assert_close(ear.bands.sum(1), torch.ones(size // 2 + 1))
        torch.testing.assert_close(ear.to_lines.sum(1), torch.ones(ear.bands.shape[1]))


# --- the models, written out --------------------------------------------------------------------------------


def johnston_in_loops(p, hz, rate):
    """The paper's steps for one spectrum `p [F]`; for lines that lie within one band."""
    edges = [e for e in hearing.EDGES_HZ if e < rate / 2]
    band = np.array([max(i for i, e in enumerate(edges) if e <= f) for f in hz])
    energies = [p[(band == i) & (hz > 0)].sum() for i in range(len(edges))]

    def spread(d):
        return 10 ** ((15.81 + 7.5 * (d + 0.474) - 17.5 * math.sqrt(1 + (d + 0.474) ** 2)) / 10)

    seen = p[(hz > 0) & (hz <= 7000)]
    sfm = 10 * math.log10(np.exp(np.log(seen).mean()) / seen.mean())
    a = min(sfm / -60, 1)
    out = []
    for i in range(len(edges)):
        c = sum(spread(i - j) * energies[j] for j in range(len(edges)))
        offset = a * (14.5 + i + 1) + (1 - a) * 5.5
        out.append(c * 10 ** (-offset / 10) / sum(spread(i - j) for j in range(25)))
    return np.array(out)


@pytest.mark.parametrize("kind", ["speech", "noise", "tones"])
def test_johnston_equals_the_paper_in_loops(kind):
    rate = 16000
    x = {
        "speech": speech(rate)[8000:8512],
        "noise": noise(30, rate)[:512],
        "tones": (tone(440, 80, rate) + tone(3000, 60, rate) + noise(10, rate, 0.5))[:512],
    }[kind]
    ear = Johnston(rate, 512)
    p = power(Analysis(512, 512, "hann")(x[None, None]))[0, 0, 0] * ear.scale
    # no line on the edge of two bands, so that each is in one
    whole = (ear.bands.max(1).values > 0.999).numpy()
    p = p * torch.from_numpy(whole)
    ours = ear.in_bands(p) @ ear.spread.T
    a = ear.tonality(p)
    ours = ours * 10 ** (-(a * (14.5 + ear.offset) + (1 - a) * 5.5) / 10)
    theirs = johnston_in_loops(p.double().numpy() + ear.floor, ear.hz, rate)
    np.testing.assert_allclose(10 * np.log10(ours.numpy()), 10 * np.log10(theirs), atol=0.05)


def model1_in_loops(p, hz, widths, last):
    """Steps 2 to 7 of ISO 11172-3 annex D.1 for one spectrum, by lines as in the standard's text.

    `widths`: (from line, reach); every line is examined, and bands are Zwicker's.
    """
    count, x = len(p), 10 * np.log10(np.maximum(p, 1e-30))
    tonal, removed = {}, set()
    for k in range(3, last + 1):
        if not (x[k] > x[k - 1] and x[k] >= x[k + 1]):
            continue
        reach = [r for start, r in widths if k >= start][-1]
        around = [k + j for j in range(-reach, reach + 1) if abs(j) >= 2 and 0 <= k + j < count]
        if all(x[k] - x[j] >= 7 for j in around):
            tonal[k] = 10 * math.log10(p[k - 1] + p[k] + p[k + 1])
            removed |= set(range(k - reach, k + reach + 1))
    noise_maskers = {}
    for low, high in zip(hearing.EDGES_HZ, [*hearing.EDGES_HZ[1:], math.inf], strict=True):
        lines = [k for k in range(1, count) if low <= hz[k] < high]
        if lines:
            centre = round(math.exp(sum(math.log(k) for k in lines) / len(lines)))
            total = sum(p[k] for k in lines if k not in removed)
            if total > 0:
                noise_maskers[centre] = 10 * math.log10(total)
    z, quiet = bark(hz), quiet_db(hz)
    tonal = {k: v for k, v in tonal.items() if v >= quiet[k]}
    noise_maskers = {k: v for k, v in noise_maskers.items() if v >= quiet[k]}
    strongest = {
        k: v for k, v in tonal.items() if not any(abs(z[j] - z[k]) < 0.5 and w > v for j, w in tonal.items())
    }
    out = np.zeros(count)
    for i in range(count):
        total = 10 ** (quiet[i] / 10)
        for maskers, slope, more in ((strongest, 0.275, 4.5), (noise_maskers, 0.175, 0.5)):
            for j, level in maskers.items():
                d = z[i] - z[j]
                if -3 <= d < -1:
                    vf = 17 * (d + 1) - (0.4 * level + 6)
                elif -1 <= d < 0:
                    vf = (0.4 * level + 6) * d
                elif 0 <= d < 1:
                    vf = -17 * d
                elif 1 <= d < 8:
                    vf = -(d - 1) * (17 - 0.15 * level) - 17
                else:
                    continue
                total += 10 ** ((level - 1.525 - slope * z[j] - more + vf) / 10)
        out[i] = 10 * math.log10(total)
    return out


LAYER_1 = (512, ((0, 2), (63, 3), (127, 6)), 250)
LAYER_2 = (1024, ((0, 2), (63, 3), (127, 6), (255, 12)), 500)


@pytest.mark.parametrize(("size", "widths", "last"), [LAYER_1, LAYER_2], ids=["layer1", "layer2"])
@pytest.mark.parametrize("kind", ["speech", "noise", "tones", "chord"])
def test_model1_equals_the_standard_in_loops(size, widths, last, kind):
    rate = 44100
    chord = sum(tone(hz, db, rate) for hz, db in ((200, 60), (950, 70), (1030, 66), (1110, 62), (9000, 75)))
    x = {
        "speech": speech(rate)[60000 : 60000 + 3 * size],
        "noise": noise(30, rate)[: 3 * size],
        "tones": tone(440, 80, rate) + tone(3000, 60, rate) + tone(17000, 85, rate) + noise(0, rate, 0.5),
        "chord": chord + noise(-20, rate, 0.5),
    }[kind]
    ear = Model1(rate, size)
    lines = power(Analysis(size, size, "hann")(x[None, None]))[0, 0] * ear.scale
    ours = 10 * torch.log10(ear.global_threshold(lines)).numpy()
    grid = np.isin(np.float32(bark(ear.hz)), ear.places.numpy())
    assert grid.sum() == len(ear.places) > 90  # the standard's tables have 106 and 130 lines
    for row, p in zip(ours[:3], lines.double().numpy()[:3], strict=True):
        theirs = model1_in_loops(p, ear.hz, widths, last)
        np.testing.assert_allclose(row[grid], theirs[grid], atol=2e-3)
        assert np.abs(row - theirs).max() < 2.5  # between, a peak of 27 dB to the Bark is cut off


# --- textbook -----------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_a_tone_masks_a_softer_neighbour_and_not_a_distant_one(model, rate):
    db, hz = masked(model, tone(1000, 70, rate), rate)
    neighbour, below, distant = at(db, hz, 1100, 300, 3500)
    assert neighbour > 35
    assert below < 15  # one of 15 dB at 300 Hz is heard, as in silence
    assert distant < 15
    silent = quiet_db(300.0)
    assert below == pytest.approx(silent, abs=1)


@both
def test_noise_masks_better_than_a_tone_of_its_level(model):
    rate, level = 16000, 70.0
    per_hz = level - 10 * math.log10(critical_bandwidth(1000))
    (beside_noise,) = at(*masked(model, noise(per_hz, rate), rate), 1000)
    (beside_tone,) = at(*masked(model, tone(1000, level, rate), rate), 1000)
    assert beside_noise > beside_tone + 3


def test_johnstons_offsets_are_those_of_the_paper():
    rate = 16000
    ear = Johnston(rate, 512)
    analysis = Analysis(512, 256, "hann")

    def tonality(x):
        return float(ear.tonality(power(analysis(x[None, None])) * ear.scale)[0, 0, 2:-2].mean())

    assert tonality(noise(30, rate)) < 0.06  # noise under a window has a flatness of -2.5 dB
    assert tonality(tone(1000, 80, rate)) == 1
    # beside a tone, 14.5 + i dB less its band has, and the share that the spreading adds to a flat spectrum
    db, hz = masked(Johnston, tone(1000, 70, rate), rate)
    i = int(np.searchsorted(hearing.EDGES_HZ, 1000, side="right"))
    spread = [15.81 + 7.5 * (d + 0.474) - 17.5 * math.sqrt(1 + (d + 0.474) ** 2) for d in range(-i, 26 - i)]
    added = 10 * math.log10(sum(10 ** (s / 10) for s in spread))
    lines = 160 / critical_bandwidth(1000)
    assert at(db, hz, 1000)[0] == pytest.approx(70 - 14.5 - i - added - 10 * math.log10(lines), abs=0.2)


@both
@pytest.mark.parametrize("hz", [500, 1000, 3000])
def test_masking_spreads_further_up_than_down(model, hz):
    rate = 44100
    z = bark(np.arange(20000))
    below, above = (int(np.abs(z - z[hz] - d).argmin()) for d in (-2, 2))
    db, lines = masked(model, tone(hz, 80, rate), rate)
    low, high = at(db, lines, below, above)
    assert high > low + 5
    assert high > quiet_db(above) + 5


def test_model1_spreads_louder_tones_further_up():
    rate = 16000
    soft, loud = (at(*masked(Model1, tone(1000, db, rate), rate), 2000)[0] for db in (70, 90))
    assert loud - soft > 25


@both
def test_model_level_follows_the_signal(model):
    """Threshold and signal rise together: exactly in Johnston's, where the level has no say in the slopes."""
    rate = 16000
    x = 0.3 * speech(rate)[:32000] + 0.003 * torch.randn(32000, generator=torch.Generator().manual_seed(0))
    (soft, hz), (loud, _) = (masked(model, gain * x, rate) for gain in (1.0, 10**0.5))
    heard = soft > torch.from_numpy(quiet_db(hz)) + 3
    rise = (loud - soft)[heard]
    assert heard.float().mean() > 0.5
    if model is Johnston:
        assert (rise - 10).abs().max() < 0.02
    else:
        assert 9.5 < rise.mean() < 13


@both
def test_the_reference_level_moves_sound_against_silence(model):
    rate = 16000
    soft, _ = masked(model, noise(40, rate), rate, full_scale_db=76.0)
    same, _ = masked(model, noise(20, rate), rate)
    torch.testing.assert_close(soft, same, atol=0.01, rtol=0)


@both
@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_the_same_sound_has_the_same_threshold_at_other_rates(model, rate):
    def per_hz(at_rate):
        """Threshold in dB per Hz, median over frames, at places below 7 kHz."""
        x = speech(at_rate)[: 3 * at_rate]
        size = frame_size(at_rate)
        ear = model(at_rate, size)
        y = Sequential(Analysis(size, size // 2, "hann"), ear)(x[None, None])[0, 0] * ear.scale
        db = 10 * torch.log10(y / ear.spacing)
        places = np.arange(100, 7000, 50)
        return np.stack([np.interp(places, ear.hz, row) for row in db[:180].numpy()])

    apart = np.abs(per_hz(rate) - per_hz(16000))
    assert np.median(apart) < (0.2 if model is Johnston else 0.5)
    assert np.quantile(apart, 0.95) < (1.5 if model is Johnston else 6)


# --- as blocks ----------------------------------------------------------------------------------------------


@both
def test_rows_and_channels_are_judged_alone(model):
    rate = 16000
    x = torch.stack([speech(rate)[8000:24000], noise(30, rate, 1.0)])
    ear = model(rate, 512)
    one = Sequential(Analysis(512, 256, "hann"), ear)
    two = Sequential(Analysis(512, 256, "hann", channels=2), ear)
    alone = torch.cat([one(row[None, None]) for row in x])
    torch.testing.assert_close(one(x[:, None]), alone, rtol=1e-5, atol=0)
    torch.testing.assert_close(two(x[None]).transpose(0, 1), alone, rtol=1e-5, atol=0)


@both
@given(cuts=st.lists(st.integers(1, 30), min_size=1, max_size=20), rate=st.sampled_from([8000, 16000, 44100]))
@settings(max_examples=15, deadline=None)
def test_any_chunking_gives_the_thresholds_of_the_whole(model, cuts, rate):
    size = 256
    block = Sequential(Analysis(size, size // 2, "hann"), model(rate, size))
    x = noise(20, rate, sum(cuts) * (size // 2) / rate, seed=sum(cuts))[None, None]
    state, pieces = block.initial_state(1), []
    for piece in x.split([cut * size // 2 for cut in cuts], 2):
        y, state = block.step(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 2), block(x), rtol=1e-5, atol=1e-12)


@both
@given(rate=st.integers(8000, 200_000), half=st.integers(4, 1500), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_rate_and_frame_has_finite_thresholds_at_least_of_silence(model, rate, half, seed):
    ear = model(rate, 2 * half)
    x = torch.randn(1, 1, 6 * half, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 5)
    y = Sequential(Analysis(2 * half, half, "hann"), ear)(x)
    assert y.isfinite().all()
    assert (y * ear.scale >= ear.quiet * (1 - 1e-4)).all()


SOUNDS = {
    "silence": lambda: torch.zeros(8000),
    "speech": lambda: speech(16000)[8000:16000],
    "overload": lambda: (8 * speech(16000)[8000:16000]).clamp(-1, 1),
    "constant": lambda: torch.full((8000,), 0.5),
    "tone": lambda: tone(1000, 96, 16000),
    "whisper": lambda: 1e-20 * speech(16000)[8000:16000],
}


@both
@pytest.mark.parametrize("sound", SOUNDS)
def test_gradients_are_finite_and_there_where_something_is_heard(model, sound):
    x = SOUNDS[sound]()[None, None].requires_grad_()
    ear = model(16000, 512)
    y = Sequential(Analysis(512, 256, "hann"), ear)(x)
    (10 * torch.log10(y)).sum().backward()
    assert x.grad.isfinite().all()
    assert bool(x.grad.any()) == (sound not in ("silence", "whisper"))


@both
def test_the_gradient_is_that_of_the_threshold(model):
    torch.manual_seed(0)
    ear = model(16000, 256).double()
    block = Sequential(Analysis(256, 256, "hann").double(), ear)
    x = (0.02 * torch.randn(1, 1, 512, dtype=torch.float64)).requires_grad_()
    weight = torch.rand(1, 1, 2, 129, dtype=torch.float64)

    def loudness(x):
        return (weight * torch.log10(block(x))).sum()

    loudness(x).backward()
    direction = torch.randn_like(x)
    with torch.no_grad():
        slope = (loudness(x + 1e-6 * direction) - loudness(x - 1e-6 * direction)) / 2e-6
    assert float((x.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="even size"):
        Johnston(16000, 511)
    with pytest.raises(ValueError, match=r"\(256,\) given for frames of 512"):
        Model1(16000, 512, window("hann", 256))
    with pytest.raises(ValueError, match="129 bins; frames of 512 have 257"):
        Johnston(16000, 512)(torch.zeros(1, 2, 3, 129))
