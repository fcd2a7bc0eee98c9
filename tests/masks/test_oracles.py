"""Ideal masks of several sources: definitions, parity with norbert, and the order of their scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from audiomask import audio
from audiomask.masks import gains, oracles
from audiomask.metrics import score

RATE = 44100


def spectra(count=3, channels=2, bins=5, frames=40, seed=0):
    """Random sources `[N, C, F, T]` that come from places of their own."""
    random = np.random.default_rng(seed)
    s = random.standard_normal((count, 1, bins, frames, 2)).view(complex)[..., 0]
    s = s * random.gamma(0.5, size=(count, 1, bins, frames))
    place = random.standard_normal((count, channels, bins, 1)) + 1j * random.standard_normal(
        (count, channels, bins, 1)
    )
    diffuse = random.standard_normal((count, channels, bins, frames, 2)).view(complex)[..., 0]
    return place * s + 0.1 * abs(s) * diffuse


def test_masks_of_several_sources():
    s = spectra()
    y = s.sum(0)
    masks = {name: mask(s, y) for name, mask in gains.IDEAL.items()}
    np.testing.assert_array_equal(masks["binary"].sum(0), 1)
    np.testing.assert_array_equal(masks["binary"].argmax(0), abs(s).argmax(0))
    np.testing.assert_allclose(masks["wiener"].sum(0), 1)
    np.testing.assert_allclose(masks["ratio"] ** 2, masks["wiener"])
    np.testing.assert_allclose(masks["complex"] * y, s)
    assert abs(masks["complex_bounded"]).max() <= 1 + 1e-12
    assert (masks["phase_sensitive"].min(), masks["phase_sensitive"].max()) == (0, 1)
    for name, mask in gains.IDEAL.items():
        ours = mask(torch.from_numpy(s), torch.from_numpy(y))
        np.testing.assert_allclose(ours.numpy(), masks[name], err_msg=name)
        assert np.isfinite(mask(0 * s, 0 * y)).all()


def test_one_source_is_the_mixture():
    s = spectra(1)
    for mask in gains.IDEAL.values():
        np.testing.assert_allclose(mask(s, s[0]) * s[0], s)


def filtered(s):
    outer, power = gains.covariances(s)
    v = np.square(abs(s)).mean(1)
    return v, outer / power[..., None, None], gains.multichannel_wiener(
        v, outer / power[..., None, None], s.sum(0)
    )  # fmt: skip


def test_the_multichannel_filter_beats_the_gain_and_its_sources_sum_to_the_mixture():
    s = spectra()
    _, _, estimate = filtered(s)
    np.testing.assert_allclose(estimate.sum(0), s.sum(0), atol=1e-6)
    errors = [np.square(abs(e - s)).sum() for e in (estimate, gains.shares(s) * s.sum(0))]
    assert errors[0] < 0.7 * errors[1]
    ours = gains.multichannel_wiener(*(torch.from_numpy(x) for x in (*filtered(s)[:2], s.sum(0))))
    np.testing.assert_allclose(ours.numpy(), estimate, atol=1e-9)


def test_of_one_channel_the_multichannel_filter_is_the_wiener_gain():
    s = spectra(channels=1)
    np.testing.assert_allclose(filtered(s)[2], gains.shares(s) * s.sum(0), atol=1e-7)


def test_sources_that_all_lie_in_the_middle_have_no_inverse_and_are_filtered_all_the_same():
    s = np.repeat(spectra(channels=1), 2, 1)
    np.testing.assert_allclose(filtered(s)[2], gains.shares(s) * s.sum(0), atol=1e-5)
    assert np.isfinite(filtered(0 * s + 1e-30)[2]).all()


@pytest.mark.peer
def test_the_multichannel_filter_equals_norbert():
    norbert = pytest.importorskip("norbert")
    s = spectra()
    y = np.einsum("ncft->tfcn", s)
    models = [norbert.get_local_gaussian_model(y[..., j], 1e-12) for j in range(len(s))]
    v, spatial = (np.stack(part, -1) for part in zip(*((v, r[0]) for v, r in models), strict=True))
    inverse = norbert._invert(norbert.get_mix_model(v, spatial), 1e-12)
    ours = filtered(s)[2]
    for j in range(len(s)):
        gain = norbert.wiener_gain(v[..., j], spatial[..., j], inverse)
        theirs = norbert.apply_filter(y.sum(-1), gain)
        np.testing.assert_allclose(ours[j], np.einsum("tfc->cft", theirs), atol=1e-6)


# --- songs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def song():
    """Stems `[N, 2, T]`: real speech, drums as bursts of noise, and a bass; each at a place of its own."""
    random = np.random.default_rng(0)
    demo = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo/mixture_clean.flac"
    voice = audio.read(demo, 16000, 3 * 16000)[0][0].repeat(3)[: 3 * RATE]
    time = np.arange(len(voice)) / RATE
    drums = random.standard_normal(len(time)) * np.exp(-12 * (time % 0.4))
    bass = sum(np.sin(2 * np.pi * k * 55 * time + k) / k for k in range(1, 6)) * (time % 1.2 < 0.9)
    parts = [0.1 * x / np.std(x) for x in (voice, drums, bass)]
    sides = np.array([[0.8, 0.6], [0.4, 0.9], [0.7, 0.7]])
    return (sides[:, :, None] * np.stack(parts)[:, None]).astype(np.float32)


@pytest.fixture(scope="module")
def bounds(song):
    """SDR of each stem by mask."""
    made = {name: oracles.separated(song, name) for name in oracles.NAMES}
    return {
        name: np.array([score(s, e, RATE, ["sdr"])["sdr"] for s, e in zip(song, y, strict=True)])
        for name, y in made.items()
    }


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ("none", "ratio"),
        ("ratio", "wiener"),
        ("wiener", "multichannel_wiener"),
        ("binary", "phase_sensitive"),
        ("wiener", "phase_sensitive"),
        ("phase_sensitive", "complex_bounded"),
        ("complex_bounded", "complex"),
    ],
)
def test_the_order_is_that_of_theory(bounds, worse, better):
    assert (bounds[better] > bounds[worse]).all()


def test_the_free_complex_mask_gives_the_stems_and_the_mixture_back(song):
    made = oracles.separated(song, "complex")
    np.testing.assert_allclose(made, song, atol=1e-5)
    np.testing.assert_allclose(made.sum(0), song.sum(0), atol=1e-5)


@pytest.mark.parametrize("mask", ["wiener", "multichannel_wiener", "complex_bounded"])
def test_pieces_join_without_a_seam(song, mask, monkeypatch):
    whole = oracles.separated(song, mask, 1024)
    monkeypatch.setattr(oracles, "PIECE", 1 << 13)
    np.testing.assert_allclose(oracles.separated(song, mask, 1024), whole, atol=1e-6)


@pytest.mark.parametrize("length", [1, 511, 2049])
def test_any_length_comes_back(length):
    x = np.random.default_rng(0).standard_normal((2, 1, length)).astype(np.float32)
    np.testing.assert_allclose(oracles.separated(x, "complex", 512), x, atol=1e-5)


def test_other_masks_and_windows_are_refused(song):
    with pytest.raises(ValueError, match="no mask 'oracle'; there are none, ratio"):
        oracles.separated(song, "oracle")
    with pytest.raises(ValueError, match="a multiple of 4"):
        oracles.separated(song, "wiener", 1022)
