"""The simulation does to signals what its parameters say, and the same again for the same seed."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.simulate import degrade as simulate

RATE = 16000


def speechlike(rows: int, seconds: float = 2.0, seed: int = 0) -> torch.Tensor:
    """Noise bursts with pauses, `[rows, T]`."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, int(seconds * RATE), generator=g) * 0.1
    t = torch.arange(x.shape[1]) / RATE
    return x * (torch.sin(2 * math.pi * 2 * t) > 0)


def test_active_level_ignores_pauses():
    x = speechlike(3)
    active = x[x != 0].square().mean().sqrt()
    assert torch.allclose(simulate.active_level(x, RATE), active.expand(3), rtol=0.05)
    plain = x.square().mean(-1).sqrt()
    assert (simulate.active_level(x, RATE) > 1.3 * plain).all()


def test_active_level_of_silence_is_zero():
    assert simulate.active_level(torch.zeros(2, 8000), RATE).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_varispeed_moves_a_tone_by_its_factor(factor):
    n, tone = 16000, 1000.0
    x = torch.sin(2 * math.pi * tone * torch.arange(2 * n) / RATE)[None]
    y = simulate.varispeed(x, torch.tensor([factor]), n)
    peak = torch.fft.rfft(y[0] * torch.hann_window(n)).abs().argmax() * RATE / n
    played = round(n * factor / 320) * 320 / n  # whole grains
    assert float(peak) == pytest.approx(tone * played, abs=1)
    assert played == pytest.approx(factor, abs=0.011)
    assert float(y[0, 2000:-2000].abs().max()) == pytest.approx(1.0, abs=0.02)  # the level stays


def test_varispeed_agrees_with_scipy_resample():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 20000)).astype(np.float32))
    factor = 1.1
    n_in = round(16000 * factor / 320) * 320
    expected = scipy.signal.resample(x[0, :n_in].numpy(), 16000)
    y = simulate.varispeed(x, torch.tensor([factor]), 16000)[0].numpy()
    # scipy splits the bin at the new Nyquist frequency in two halves; the rest is the same transform
    assert np.abs(y - expected).max() < 0.02 * expected.std()


def test_a_speed_that_the_crop_cannot_hold_is_refused():
    with pytest.raises(AudioError, match=r"speed of 2 needs 32000 .* 16000, .* holds 24000: .* up to 1\.5"):
        simulate.varispeed(torch.zeros(1, 24000), torch.tensor([2.0]), 16000)
    # whatever is drawn: none of these rows need come near the limit
    degrade = simulate.Degrade(RATE, 16000, noise_speed=(0.7, 2.0), speed_p=1e-6)
    with pytest.raises(AudioError, match="speed of 2 "):
        degrade(torch.zeros(1, 24000), torch.zeros(1, 1, 24000), torch.tensor([1]))
    degrade(torch.rand(1, degrade.crop), torch.rand(1, 1, degrade.crop), torch.tensor([1]))


@settings(max_examples=20, deadline=None)
@given(st.floats(-10, 30), st.integers(0, 1000))
def test_mix_gives_the_snr_asked_for(snr, seed):
    speech, noise = (
        speechlike(2, 1.0, seed),
        torch.randn(2, RATE, generator=torch.Generator().manual_seed(seed + 1)),
    )
    scaled = noise * simulate.noise_gain(speech, noise, torch.full((2,), snr), RATE)[:, None]
    got = 20 * torch.log10(simulate.active_level(speech, RATE) / scaled.square().mean(-1).sqrt())
    assert torch.allclose(got, torch.full((2,), snr), atol=0.01)


def test_an_infinite_snr_silences_and_silent_speech_keeps_its_noise():
    noise = torch.randn(2, 8000)
    gain = simulate.noise_gain(speechlike(2, 0.5), noise, torch.full((2,), math.inf), RATE)
    assert gain.tolist() == [0, 0]
    assert simulate.noise_gain(torch.zeros(2, 8000), noise, torch.zeros(2), RATE).tolist() == [1, 1]


def test_equaliser_passes_through_its_points():
    gains = torch.tensor([[-6.0, 0.0, 3.0, 12.0]])
    curve = 20 * torch.log10(simulate.equaliser(gains, 16000, RATE))
    hz = torch.fft.rfftfreq(16000, 1 / RATE)
    for gain, f in zip(gains[0], np.geomspace(60, 8000, 4), strict=True):
        assert float(curve[0, (hz - f).abs().argmin()]) == pytest.approx(float(gain), abs=0.15)


def test_low_pass_stops_what_is_above():
    curve = simulate.low_pass(torch.tensor([3400.0, math.inf]), 16000, RATE)
    assert curve[0, :3400].min() > 0.999
    assert curve[0, 3601:].max() < 1e-6
    assert (curve[1] == 1).all()


def test_rooms_have_the_reverberation_time_and_level_asked_for():
    rt60, drr = torch.tensor([0.3, 0.8]), torch.tensor([0.0, 10.0])
    h = simulate.statistical_rooms(rt60, drr, RATE, RATE, simulate.RowDraws(torch.arange(2), 0))
    assert (h[:, 0] == 1).all()
    tail = h[:, 1:].square().sum(-1)
    assert torch.allclose(-10 * torch.log10(tail), drr, atol=0.01)
    for row, expected in zip(h, rt60, strict=True):  # Schroeder's backward integral, -5 to -25 dB
        decay = torch.flip(torch.cumsum(torch.flip(row[1:].square(), [0]), 0), [0])
        db = 10 * torch.log10(decay / decay[0])
        first, last = (int((db < level).nonzero()[0]) for level in (-5, -25))
        assert 3 * (last - first) / RATE == pytest.approx(float(expected), rel=0.2)


def test_degrade_replays_a_seed_and_differs_between_seeds():
    degrade = simulate.Degrade(RATE, 16000)
    speech, noise = speechlike(4, degrade.crop / RATE + 0.01), torch.randn(4, 3, degrade.crop + 160)
    a, b, c = (degrade(speech, noise, torch.arange(first, first + 4)) for first in (7, 7, 8))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], c[0])
    assert a[0].shape == a[1].shape == (4, 16000)
    assert a[0].abs().max() <= 1


@pytest.mark.parametrize("rooms", [None, torch.randn(3, 800)])
def test_a_row_is_the_same_in_any_batch(rooms):
    degrade = simulate.Degrade(RATE, 8000, rooms=rooms, reverb_p=0.7, clip_p=0.5)
    speech, noise, seeds = speechlike(6), torch.randn(6, 3, 32000), torch.arange(6)
    whole = degrade(speech, noise, seeds)
    for rows in (slice(0, 3), slice(3, 6), slice(4, 5)):
        part = degrade(speech[rows], noise[rows], seeds[rows])
        for x, y in zip(part, whole, strict=True):
            assert torch.allclose(x, y[rows], atol=1e-5)


def test_numbers_are_spread_as_asked_and_no_row_or_kind_is_like_another():
    draws = simulate.RowDraws(torch.arange(4000), 7)
    u, v, c = draws.uniform(-2, 6), draws.uniform(0, 1, 2, 2), draws.chance(0.25, 2)
    assert (float(u.mean()), float(u.std())) == pytest.approx((2, 8 / 12**0.5), abs=0.1)
    assert -2 <= float(u.min()) <= float(u.max()) <= 6
    assert v.shape == (4000, 2, 2)
    assert c.float().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.corrcoef(torch.cat([u[:, None], v.flatten(1)], 1).T).fill_diagonal_(0).abs().max() < 0.06
    assert torch.corrcoef(torch.stack([u[1:], u[:-1]]))[0, 1].abs() < 0.06  # neighbouring seeds
    with pytest.raises(RuntimeError):
        draws.uniform(0, 1)


def test_mostly_one_noise_sometimes_more():
    """Each slot is a tone of its own, so that the spectrum counts them."""
    degrade = simulate.Degrade(RATE, 1600, snr_db=(0, 0), high_snr=0, clean=0, speed_p=0, modulate_p=0,
                               clip_p=0, reverb_p=0, band_limit_p=0, interfering_gain_db=0,
                               noise_eq_db=0)  # fmt: skip
    t = torch.arange(4000) / RATE
    tones = torch.stack([torch.sin(2 * math.pi * hz * t) for hz in (1000, 2000, 3000)])
    noisy, _ = degrade(torch.full((150, 4000), 1e-3), tones.expand(150, 3, -1), torch.arange(150))
    lines = torch.fft.rfft(noisy).abs()[:, [100, 200, 300]]
    count = (lines > 0.1 * lines.amax(1, keepdim=True)).sum(1)
    assert [(count == n).float().mean().item() for n in (1, 2, 3)] == pytest.approx(
        [0.6, 0.25, 0.15], abs=0.1
    )


def test_clean_rows_are_untouched_by_noise():
    degrade = simulate.Degrade(RATE, 16000, clean=1.0, high_snr=0.0, reverb_p=0.0, clip_p=0.0)
    noisy, clean = degrade(speechlike(4), torch.randn(4, 3, 32000), torch.arange(4))
    assert torch.allclose(noisy, clean, atol=1e-6)


def test_snr_of_pairs_lies_in_the_range():
    degrade = simulate.Degrade(
        RATE, 32000, snr_db=(0, 10), clean=0, high_snr=0, reverb_p=0, clip_p=0, modulate_p=0
    )
    noisy, clean = degrade(speechlike(16, 3.0), torch.randn(16, 3, 48000), torch.arange(16))
    noise = (noisy - clean).square().mean(-1).sqrt()
    snr = 20 * torch.log10(simulate.active_level(clean, RATE) / noise)
    assert snr.min() > -0.1
    assert snr.max() < 10.1
    assert snr.std() > 1


@pytest.mark.parametrize("broken", ["speech", "noise"])
def test_silent_material_gives_finite_pairs(broken):
    degrade = simulate.Degrade(RATE, 16000)
    speech, noise = speechlike(4), torch.randn(4, 3, 32000)
    (speech if broken == "speech" else noise).zero_()
    for seed in range(3):
        seeds = torch.arange(4) + 4 * seed
        assert all(x.isfinite().all() for x in degrade(speech, noise, seeds))


def test_measured_rooms_start_with_the_direct_sound(tmp_path):
    h = np.zeros(4000, np.float32)
    h[[100, 600, 3300]] = [-0.5, 0.25, 0.3]
    audio.write(tmp_path / "room.wav", np.stack([h, h]), 2 * RATE)
    (tmp_path / "wav.scp").write_text(f"room {tmp_path / 'room.wav'}\n")
    rooms = simulate.measured_rooms(tmp_path, RATE, 800)
    assert rooms.shape == (1, 800)
    assert float(rooms[0, 0]) == pytest.approx(1.0)
    assert float(rooms[0, 250]) == pytest.approx(-0.5, abs=0.05)  # 500 samples later at twice the rate
    degrade = simulate.Degrade(RATE, 8000, reverb_p=1.0, rooms=str(tmp_path), rooms_share=1.0)
    noisy, clean = degrade(speechlike(2), torch.zeros(2, 3, 32000), torch.arange(2))
    assert not torch.allclose(noisy, clean, atol=1e-3)  # the late part is in the one, not in the other
    audio.write(tmp_path / "room.wav", np.zeros((1, 100), np.float32), RATE, overwrite=True)
    with pytest.raises(AudioError, match="silent room"):
        simulate.measured_rooms(tmp_path, RATE, 800)
