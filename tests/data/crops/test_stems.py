"""Crops of stems: of songs together, or each of another, with silence for what a song lacks."""

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import AudioError
from audiomask.data.crops.packed import PackedAudio, pack
from audiomask.data.crops.stems import StemCrops
from audiomask.data.modules import StemSounds

N = 4000


@pytest.fixture
def corpora(tmp_path):
    """Ramps, so that a sample tells its song and place; song b has no drums."""
    ramps = {"a": np.arange(N) / 8000, "b": -np.arange(N) / 8000}
    made = {}
    for stem, songs in {"drums": "a", "bass": "ab"}.items():
        entries = [(song, song, lambda x=ramps[song]: np.concatenate([x, x])) for song in songs]
        pack(entries, tmp_path / stem, 8000)
        made[stem] = PackedAudio(tmp_path / stem)
    return made


def rows(crops: StemCrops, count: int):
    return [{k: v.numpy() for k, v in crops[i].items() if k != "seed"} for i in range(count)]


def test_together_they_are_of_one_song_and_place(corpora):
    crops = StemCrops(corpora, {"drums": 2, "bass": 2}, 500, together=1.0)
    found = rows(crops, 30)
    for row in found:
        assert row["drums"].shape == (1, 2, 500)
        if row["drums"].any():
            np.testing.assert_array_equal(row["drums"], row["bass"])
        else:
            assert row["bass"].min() < 0  # song b
    assert 0 < sum(row["drums"].any() for row in found) < 30


def test_apart_they_are_of_any_song(corpora):
    crops = StemCrops(corpora, {"drums": 2, "bass": 2}, 500)
    found = rows(crops, 30)
    assert all(row["drums"].any() for row in found)
    assert any((row["bass"] < 0).any() for row in found)
    assert any(not np.array_equal(row["drums"], row["bass"]) for row in found)


def test_a_second_layer_comes_by_its_chance(corpora):
    crops = StemCrops(corpora, {"drums": 2, "bass": 2}, 500, layers={"bass": 0.5})
    found = rows(crops, 40)
    assert all(row["bass"].shape == (2, 2, 500) and not row["drums"][1].any() for row in found)
    assert 8 < sum(row["bass"][1].any() for row in found) < 32


@pytest.fixture
def folder(tmp_path):
    """Speech of one channel in a directory of its own, and songs with a table of each stem."""
    rng = np.random.default_rng(0)
    for part, names in (("speech", ["s1", "s2"]), ("songs", ["one", "two"])):
        (tmp_path / part).mkdir()
        for name in names:
            sf.write(tmp_path / part / f"{name}.wav", rng.uniform(-0.5, 0.5, (N, 2)), 8000)
    listed = [f"{name} {tmp_path}/speech/{name}.wav\n" for name in ("s1", "s2")]
    (tmp_path / "speech" / "wav.scp").write_text("".join(listed))
    songs = [f"{name} {tmp_path}/songs/{name}.wav\n" for name in ("one", "two")]
    (tmp_path / "songs" / "wav.scp").write_text("".join(songs))
    (tmp_path / "songs" / "drums.scp").write_text(songs[0])
    (tmp_path / "songs" / "bass.scp").write_text("".join(songs))
    return tmp_path


def module(folder, train, stems, **more):
    settings = {
        "sample_rate": 8000,
        "segment": 800,
        "steps": 2,
        "batch_size": 2,
        "cache": str(folder / "cache"),
    }
    data = StemSounds(str(train), str(train), stems, clips=3, **(settings | more))
    data.trainer = None
    return data


def test_stems_in_directories_of_their_own(folder):
    data = module(folder, folder, ["speech"], mono=["speech"])
    data.prepare_data()
    clips = data.clips(str(folder))
    assert len(clips) == 3
    clip = clips[0]
    assert clip["speech"].shape == (1, 2, 800)
    assert (clip["speech"][0, 0] == clip["speech"][0, 1]).all()
    assert (data.clips(str(folder))[0]["speech"] == clip["speech"]).all()


def test_stems_in_tables_of_songs(folder):
    data = module(folder, folder / "songs", ["drums", "bass"], together=1.0)
    data.prepare_data()
    rows = [data.rows()[i] for i in range(20)]
    assert {bool(row["drums"].any()) for row in rows} == {True, False}  # song two has none
    assert all(row["bass"].any() for row in rows)


def test_faults_name_what_is_missing(folder):
    with pytest.raises(AudioError, match="neither vocals\\.scp nor a data directory vocals"):
        module(folder, folder / "songs", ["vocals"]).prepare_data()
    with pytest.raises(AudioError, match="layers name music"):
        module(folder, folder, ["speech"], layers={"music": 0.1})
    with pytest.raises(AudioError, match="give stems"):
        module(folder, folder, None)
