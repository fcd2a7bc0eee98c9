"""Fixed mixtures: the SNR is what was drawn, the seed decides everything, silence is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask import audio
from audiomask.data.kaldi.directory import DataDir, DataError
from audiomask.data.kaldi.health import validate
from audiomask.data.simulate.mixtures import MixSettings, mix_at_snr, mixtures, rms_dbfs, write_mixtures


@given(
    snr=st.floats(-20, 40),
    level=st.floats(-45, -5),
    speech_gain=st.floats(1e-3, 1),
    noise_gain=st.floats(1e-3, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_snr_and_level_are_as_asked(snr, level, speech_gain, noise_gain, seed):
    rng = np.random.default_rng(seed)
    speech = (rng.standard_normal(4000) * speech_gain).astype(np.float32)
    noise = (rng.uniform(-1, 1, 4000) * noise_gain).astype(np.float32)
    clean, noisy = mix_at_snr(speech, noise, snr, level)
    assert rms_dbfs(clean) - rms_dbfs(noisy - clean) == pytest.approx(snr, abs=0.05)
    assert max(np.abs(clean).max(), np.abs(noisy).max()) <= 0.99 + 1e-6
    if np.abs(noisy).max() < 0.98 and np.abs(clean).max() < 0.98:
        assert rms_dbfs(clean) == pytest.approx(level, abs=1e-3)
    else:
        assert rms_dbfs(clean) <= level + 1e-3


def test_silence_has_no_snr():
    with pytest.raises(DataError, match="silent"):
        mix_at_snr(np.zeros(10, np.float32), np.ones(10, np.float32), 0, -20)


@pytest.fixture
def corpus(tmp_path):
    """Speech of two speakers at 16 kHz, noise of kinds "many" (5 files) and "one" (a short one, 48 kHz)."""
    rng = np.random.default_rng(1)
    speech, noise = {}, {}
    for key in ("a-1", "a-2", "b-1"):
        audio.write(tmp_path / f"{key}.wav", rng.standard_normal(16000) * 0.1, 16000)
        speech[key] = f"{key}.wav"
    for i in range(5):
        audio.write(tmp_path / f"n{i}.wav", rng.standard_normal(16000) * 0.1, 16000)
        noise[f"many-{i}"] = f"n{i}.wav"
    audio.write(tmp_path / "short.wav", rng.standard_normal(4800) * 0.1, 48000)
    noise["one-0"] = "short.wav"
    talkers = DataDir({"wav.scp": speech, "utt2spk": {k: k[0] for k in speech}}, tmp_path)
    noises = DataDir({"wav.scp": noise, "utt2spk": {k: k.split("-")[0] for k in noise}}, tmp_path)
    return talkers, noises


SETTINGS = MixSettings(seconds=(0.3, 0.6))


def test_the_seed_decides_and_a_longer_set_begins_like_a_shorter(corpus):
    short = list(mixtures(*corpus, 3, seed=7, settings=SETTINGS))
    long = list(mixtures(*corpus, 6, seed=7, settings=SETTINGS))
    for one, other in zip(short, long[:3], strict=True):
        assert one.key == other.key
        np.testing.assert_array_equal(one.noisy, other.noisy)
    other_seed = next(mixtures(*corpus, 1, seed=8, settings=SETTINGS))
    assert len(other_seed.noisy) != len(short[0].noisy) or (other_seed.noisy != short[0].noisy).any()


def test_draws_keep_their_ranges_and_kinds_are_even(corpus):
    drawn = list(mixtures(*corpus, 90, settings=SETTINGS))
    assert all(0.3 * 16000 - 1 <= len(m.noisy) <= 0.6 * 16000 + 1 for m in drawn)
    assert all(0 <= m.snr_db <= 15 and -30.01 <= rms_dbfs(m.clean) <= -19.99 for m in drawn)
    assert 30 <= sum(m.noise.speaker == "one" for m in drawn) <= 60  # not 1 in 6
    assert {m.speech.key: sum(n.speech.key == m.speech.key for n in drawn) for m in drawn} == {
        "a-1": 30,
        "a-2": 30,
        "b-1": 30,
    }


def test_written_set_is_a_sound_directory_with_its_truth(corpus, tmp_path):
    out = tmp_path / "set"
    write_mixtures(*corpus, out, 5, seed=3, settings=SETTINGS)
    assert validate(out) == []
    data = DataDir.read(out)
    for utterance, mixture in zip(
        data.utterances(),
        sorted(mixtures(*corpus, 5, seed=3, settings=SETTINGS), key=lambda m: m.key),
        strict=True,
    ):
        noisy, rate = data.load(utterance)
        clean, _ = data.load(utterance, "clean")
        assert rate == 16000
        np.testing.assert_allclose(noisy[0], mixture.noisy, atol=1 / 32768)
        snr = rms_dbfs(clean[0]) - rms_dbfs(noisy[0] - clean[0])
        assert snr == pytest.approx(float(data.tables["utt2snr"][utterance.key]), abs=0.1)


def test_silent_sources_and_turned_ranges_are_refused(corpus, tmp_path):
    audio.write(tmp_path / "still.wav", np.zeros(16000), 16000)
    still = DataDir({"wav.scp": {"still": "still.wav"}, "utt2spk": {"still": "s"}}, tmp_path)
    with pytest.raises(DataError, match="every utterance is silent"):
        list(mixtures(still, corpus[1], 1, settings=SETTINGS))
    spoken = corpus[0].tables["wav.scp"]
    both = {
        "a-still": str(tmp_path / "still.wav"),
        **{k: str(corpus[0].resolve(v)) for k, v in spoken.items()},
    }
    left_out: set[str] = set()
    made = list(
        mixtures(DataDir({"wav.scp": both}), corpus[1], len(both), settings=SETTINGS, silent=left_out)
    )
    assert (len(made), left_out) == (len(both), {"a-still"})
    assert all(mixture.speech.key in spoken for mixture in made)
    with pytest.raises(DataError, match="20 draws in a row were silent"):
        list(mixtures(corpus[0], still, 1, settings=SETTINGS))
    with pytest.raises(DataError, match="snr_db: want the lower bound first"):
        MixSettings(snr_db=(15, 0))
    with pytest.raises(DataError, match="must be positive"):
        MixSettings(seconds=(0, 1))
