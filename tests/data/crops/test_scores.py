"""Scores are read, become piano rolls, and stay beside the sound they are of."""

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import AudioError
from audiomask.data.crops.packed import PackedAudio, pack
from audiomask.data.crops.scores import ScoredCrops, piano_roll, read_score
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.modules import ScoredSongs
from audiomask.masks.notes import LOWEST

RATE, HOP = 8000, 100


def test_a_score_becomes_a_piano_roll(tmp_path):
    path = tmp_path / "score.tsv"
    path.write_text(
        "bass\t0.5\t1.0\t40\nbass\t1.0\t1.001\t41\nother\t0\t9\t60\ndrums\t0.2\t0.3\t5\nvoice\t0\t1\t60\n"
    )
    score = read_score(path)
    roll = piano_roll(score, ("drums", "bass", "other", "flute"), 0.25, 100, HOP / RATE)
    assert roll.shape == (4, 100, 88)
    (frames,) = np.nonzero(roll[1, :, 40 - LOWEST])
    times = 0.25 + frames * HOP / RATE
    assert (times[0], times[-1]) == (0.5, pytest.approx(1.0 - HOP / RATE))
    assert roll[1, :, 41 - LOWEST].sum() == 1  # however short it is
    assert roll[2, :, 60 - LOWEST].all()
    assert roll[2].sum() == 100
    assert not roll[[0, 3]].any()  # beyond a piano, and not in the score


@pytest.mark.parametrize("text", ["bass\t1\t2\n", "bass 1 2 40\n", "bass\tone\t2\t40\n"])
def test_a_wrong_score_is_named(tmp_path, text):
    (tmp_path / "score.tsv").write_text(text)
    with pytest.raises(AudioError, match=r"score\.tsv: want lines of STEM, ONSET, OFFSET and NOTE"):
        read_score(tmp_path / "score.tsv")
    with pytest.raises(AudioError, match="cannot read"):
        read_score(tmp_path / "none.tsv")


def songs(tmp_path):
    """A song that is loud where a note sounds, and one shorter than a crop."""
    x = np.zeros(4 * RATE, np.float32)
    x[RATE : 2 * RATE] = 0.5
    entries = [("one", "one", lambda: x), ("two", "two", lambda: x[:RATE])]
    pack(entries, tmp_path / "pack", RATE)
    scores = {"one": {"bass": np.array([[1.0, 2.0, 50.0]])}, "two": {}}
    return PackedAudio(tmp_path / "pack"), scores


def test_notes_lie_where_they_sound(tmp_path):
    crops = ScoredCrops(*songs(tmp_path), ("bass",), 2 * RATE, HOP, RATE, 20)
    assert len(crops) == 20
    heard = 0
    for row in range(20):
        item = crops[row]
        audio, notes = item["audio"][0].numpy(), item["notes"][0, :, 50 - LOWEST].numpy()
        assert (audio.shape, notes.shape) == ((2 * RATE,), (2 * RATE // HOP + 1,))
        loud = np.abs(audio[: (len(notes) - 1) * HOP : HOP]) > 0.1
        assert np.abs(loud - notes[:-1]).sum() <= 2
        heard += notes.any()
        again = crops[row]
        assert all((item[key] == again[key]).all() for key in item)
    assert 0 < heard < 20


def test_a_module_reads_a_directory(tmp_path):
    sf.write(tmp_path / "one.wav", 0.1 * np.ones(3 * RATE), RATE)
    (tmp_path / "one.tsv").write_text("bass\t0\t3\t40\n")
    tables = {"wav.scp": {"one": str(tmp_path / "one.wav")}, "utt2spk": {"one": "one"}}
    DataDir(tables | {"utt2score": {"one": str(tmp_path / "one.tsv")}}).write(tmp_path / "data")
    more = {"sample_rate": RATE, "segment": 2 * RATE, "cache": str(tmp_path / "cache"), "hop_length": HOP}
    module = ScoredSongs(str(tmp_path / "data"), str(tmp_path / "data"), ["bass"], clips=3, **more)
    module.prepare_data()
    clips = module.clips(str(tmp_path / "data"))
    assert len(clips) == 3
    assert clips[0]["notes"].sum() == 161
    assert module.rows()[7]["audio"].shape == (1, 2 * RATE)
    DataDir(tables).write(tmp_path / "bare")
    with pytest.raises(AudioError, match="utt2score lacks the score of one"):
        ScoredSongs(str(tmp_path / "bare"), str(tmp_path / "bare"), ["bass"], **more).rows()
    with pytest.raises(AudioError, match="give stems, by name"):
        ScoredSongs(str(tmp_path / "bare"), str(tmp_path / "bare"), **more)
