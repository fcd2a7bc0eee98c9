"""Rooms are what physics says, and scenes put into them what they were asked to."""

import math

import numpy as np
import pytest
import torch
from corpus_trees import mini

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.simulate.degrade import active_level
from audiomask.data.simulate.microphones import (
    LEAD,
    SOUND,
    ArrayScenes,
    Rooms,
    diffuse_field,
    simulate_rooms,
    write_scenes,
)

RATE = 16000
PLAIN = {"clean": 0.0, "diffuse": 0.0, "microphone_gain_db": 0.0, "self_noise_db": (200.0, 200.0)}
PLAIN |= {"speed_p": 0.0, "eq_db": 0.0, "noise_eq_db": 0.0}

SEEDS = torch.arange(4)


def anechoic(talker=(0, 4, 7), noise=(3, 0, 5)) -> Rooms:
    """Two rooms without walls: pure delays, in the second one sample more."""
    h = torch.zeros(2, 2, 3, 64)
    for room in range(2):
        for source, delays in enumerate((talker, noise)):
            for m, delay in enumerate(delays):
                h[room, source, m, LEAD + delay + room] = 1.0
    delays = torch.tensor([talker], dtype=torch.float) + LEAD + torch.arange(2)[:, None]
    return Rooms(RATE, torch.randn(3, 3), h, delays)


def test_rooms_have_their_direct_sound_where_geometry_says():
    places = np.array([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]])
    rooms = simulate_rooms(places, 3, noises=1, seconds=0.1, rt60_s=(0.15, 0.2), distance_m=(0.5, 1.0))
    assert rooms.responses.shape == (3, 2, 2, 1600)
    assert rooms.delays.amin(1).sub(LEAD + 0.5).abs().max() <= 0.5
    assert (rooms.delays[:, 0] - rooms.delays[:, 1]).abs().max() <= 0.2 / SOUND * RATE
    for h, delays in zip(rooms.responses[:, 0], rooms.delays, strict=True):
        for response, delay in zip(h, delays.tolist(), strict=True):
            pulse = torch.sinc(torch.arange(-3, 4) + round(delay) - delay)  # unit sound between samples
            found = response[round(delay) - 3 : round(delay) + 4]
            assert float(found @ pulse) == pytest.approx(1.0, abs=0.35)  # nearer than the mean, reflections
            assert abs(int(response.abs().argmax()) - delay) <= 1
    again = simulate_rooms(places, 1, noises=1, seconds=0.1, rt60_s=(0.15, 0.2), distance_m=(0.5, 1.0))
    assert torch.equal(again.responses[0], rooms.responses[0])
    assert (rooms.responses[0] - rooms.responses[1]).abs().max() > 0.1
    assert torch.allclose(rooms.microphones, torch.tensor([[-0.1, 0, 0], [0.1, 0, 0]]))


def test_rooms_are_kept_in_a_file(tmp_path):
    rooms = anechoic()
    rooms.save(tmp_path / "a" / "rooms.safetensors")
    back = Rooms.load(tmp_path / "a" / "rooms.safetensors")
    for name in ("microphones", "responses", "delays"):
        assert torch.equal(getattr(back, name), getattr(rooms, name))
    assert back.sample_rate == RATE
    (tmp_path / "other").write_bytes(b"x" * 100)
    for path in (tmp_path / "absent", tmp_path / "other"):
        with pytest.raises(AudioError, match="no bank of rooms"):
            ArrayScenes(str(path), RATE, RATE)(
                torch.zeros(1, 40000), torch.zeros(1, 1, 50000), torch.tensor([0])
            )
    with pytest.raises(AudioError, match="rooms at 16000 Hz, the scenes are at 8000"):
        _ = ArrayScenes(rooms, 8000, 8000).rooms
    with pytest.raises(AudioError, match="reference 3: the rooms have 3"):
        _ = ArrayScenes(rooms, RATE, RATE, reference=3).rooms


def test_a_diffuse_field_has_the_coherence_of_one():
    places = torch.tensor([[0.0, 0, 0], [0.04, 0, 0], [0, 0.15, 0]])
    g = torch.Generator().manual_seed(0)
    h = diffuse_field(places, 400, 256, RATE, 16, g)
    f = torch.fft.rfftfreq(256, 1 / RATE)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        k_d = 2 * math.pi * f / SOUND * (places[a] - places[b]).norm()
        coherence = (h[:, a] * h[:, b].conj()).mean(0)
        error = (coherence - torch.sinc(k_d / math.pi))[1:].abs()
        assert error.max() < 0.2  # 400 draws: .05 each way
        assert error.mean() < 0.06
    assert not h[..., 0].any()
    assert h.abs().square().mean() == pytest.approx(1.0, abs=0.05)


def test_sound_reaches_each_microphone_through_the_room():
    scenes = ArrayScenes(anechoic(), RATE, 8000, reference=1, snr_db=(500.0, 500.0), **PLAIN)
    speech = torch.randn(3, 12000) * 0.1
    noisy, clean = scenes(speech, torch.randn(3, 2, 12000), torch.tensor([0]))
    assert (noisy.shape, clean.shape) == ((3, 3, 8000), (3, 8000))
    assert torch.allclose(noisy[:, 1], clean, atol=1e-6)  # no noise, no room: the target is what is heard
    assert torch.allclose(noisy[:, 0, :-4], noisy[:, 1, 4:], atol=1e-6)
    assert torch.allclose(noisy[:, 2, 3:], noisy[:, 1, :-3], atol=1e-6)
    level = 20 * active_level(noisy[:, 1], RATE).log10()
    assert ((level > -35.1) & (level < -14.9)).all()


def test_noise_comes_from_its_own_place_at_the_snr_asked_for():
    scenes = ArrayScenes(anechoic(), RATE, 16000, reference=1, snr_db=(-5.0, 5.0), **PLAIN)
    speech = torch.randn(8, 16000) * 0.1
    noisy, clean = scenes(speech, torch.randn(8, 3, 16000), torch.tensor([5]))
    noise = noisy[:, 1] - clean
    snr = 20 * torch.log10(active_level(clean, RATE) / noise.square().mean(-1).sqrt())
    assert snr.min() > -5.1
    assert snr.max() < 5.1
    assert snr.std() > 1
    said = torch.nn.functional.pad(clean, (0, 4))[:, 4:]  # as microphone 0 hears the talker
    heard = (noisy[:, 0] - said)[:, 3:-4]
    assert torch.allclose(heard, noise[:, : heard.shape[1]], atol=1e-6)  # 3 samples after microphone 1


def test_diffuse_noise_gains_and_own_noise_differ_between_microphones():
    still = torch.zeros(4, 12000)
    loud = PLAIN | {"sample_rate": RATE, "snr_db": (0.0, 0.0), "segment": 8000}
    alone = ArrayScenes(anechoic(noise=(0, 0, 0)), **loud)(still, torch.randn(4, 1, 12000), SEEDS)[0]
    assert torch.allclose(alone[:, 0], alone[:, 2], atol=1e-6)  # one point, all at once
    spread = ArrayScenes(anechoic(noise=(0, 0, 0)), **loud | {"diffuse": 1.0})
    field = spread(still, torch.randn(4, 1, 12000), SEEDS)[0]
    assert (field[:, 0] - field[:, 2]).square().mean() > 0.2 * field.square().mean()
    gains = ArrayScenes(anechoic(noise=(0, 0, 0)), **loud | {"microphone_gain_db": 3.0})
    db = 20 * (gains(still, torch.randn(4, 1, 12000), SEEDS)[0].square().mean(2).sqrt()).log10()
    assert 0.5 < (db[:, 2] - db[:, 0]).abs().max() < 6
    gains = ArrayScenes(anechoic(), **loud | {"microphone_gain_db": 3.0, "clean": 1.0, "reference": 2})
    noisy, clean = gains(torch.randn(4, 12000), still[:, None], SEEDS)
    assert torch.allclose(noisy[:, 2], clean, atol=1e-6)  # the target is at the level of its microphone
    hiss = ArrayScenes(anechoic(), **loud | {"clean": 1.0, "self_noise_db": (20.0, 20.0)})
    noisy, clean = hiss(torch.randn(4, 12000), torch.randn(4, 1, 12000), SEEDS)
    below = 10 * torch.log10(clean.square().mean(1) / (noisy[:, 0] - clean).square().mean(1))
    assert torch.allclose(below, torch.tensor(20.0), atol=0.5)


def test_a_seed_replays_a_batch_and_silence_stays_finite():
    scenes = ArrayScenes(anechoic(), RATE, 8000)
    speech, noise = torch.randn(2, 14000), torch.randn(2, 3, 14000)
    a, b, c = (scenes(speech, noise, SEEDS + shift)[0] for shift in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    for quiet in ((speech * 0, noise), (speech, noise * 0), (speech * 0, noise * 0)):
        assert all(x.isfinite().all() for x in scenes(*quiet, SEEDS))


def test_fixed_scenes_are_a_data_directory(tmp_path):
    scenes = ArrayScenes(anechoic(), RATE, RATE, reference=2, clean=0.0)
    data = write_scenes(scenes, *mini("valid"), tmp_path / "a", 2, seed=3)
    write_scenes(scenes, *mini("valid"), tmp_path / "b", 2, seed=3)
    first, second = data.utterances()
    for u in (first, second):
        noisy, clean = (data.load(u, table)[0] for table in ("wav", "clean"))
        assert noisy.shape == (3, clean.shape[1])
        again, _ = audio.read(tmp_path / "b" / "noisy" / f"{u.key}.wav")
        assert np.array_equal(again, noisy)
        assert np.corrcoef(noisy[2], clean[0])[0, 1] > 0.3
        delays = [float(d) for d in data.tables["utt2delay"][u.key].split()]
        assert [d - delays[0] for d in delays] == [0, 4, 7]
    assert len(set(data.tables["utt2speech"].values())) == 2
