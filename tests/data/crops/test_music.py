"""Crops of music keep channels and stems together; what is mixed is drawn as published."""

import numpy as np
import pytest
import soundfile as sf

from audiomask.audio import AudioError
from audiomask.data.crops.music import MusicClips, MusicCrops
from audiomask.data.crops.packed import PackedAudio
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.modules import Music

RATE, LENGTH = 16000, 2000
STEMS = ("vocals", "drums")


@pytest.fixture
def folder(tmp_path):
    """Two songs whose samples say which song, stem, channel and place they are of; wav.scp is the sum."""
    tables = {name: {} for name in ("wav", *STEMS)}
    for song in range(2):
        place = np.arange(LENGTH)
        stems = [
            np.stack([(song + 1) * 0.01 + stem * 0.1 + c * 0.2 + place / 1e5 for c in (0, 1)])
            for stem in range(2)
        ]
        for name, x in zip(tables, (sum(stems), *stems), strict=True):
            path = tmp_path / f"{song}_{name}.wav"
            sf.write(path, x.T, RATE, "FLOAT")
            tables[name][f"song{song}"] = str(path)
    DataDir({f"{name}.scp": table for name, table in tables.items()}).write(tmp_path / "data")
    return tmp_path / "data"


def module(folder, **options) -> Music:
    return Music(str(folder), str(folder), cache=str(folder / "cache"), sample_rate=RATE, **options)


def packed(folder, **options) -> PackedAudio:
    return PackedAudio(module(folder, **options)._pack(str(folder)))


def test_stems_and_channels_of_a_crop_are_of_one_song_and_place(folder):
    crops = MusicCrops(packed(folder, stems=STEMS), 300, 2, stems=2)
    songs = set()
    for row in range(12):
        x = crops[row]["sources"].numpy()
        assert x.shape == (2, 2, 300)
        steps = np.diff(x, axis=2)
        assert np.allclose(steps, steps.mean(), atol=1e-4)
        unit = 1e5 * steps.mean()  # songs are brought to a peak of 1
        assert np.allclose((x[1] - x[0]) / unit, 0.1, atol=2e-3)
        assert np.allclose((x[:, 1] - x[:, 0]) / unit, 0.2, atol=2e-3)
        songs.add(round(float(unit), 1))
    assert len(songs) == 2


def test_whole_songs_and_mono_ones(folder):
    sf.write(folder / "mono.wav", np.full(50, 0.5), RATE)
    data = DataDir.read(folder)
    data.tables["wav.scp"] = {"mono": str(folder / "mono.wav")}
    DataDir({"wav.scp": data.tables["wav.scp"]}).write(folder / "other")
    others = PackedAudio(module(folder)._pack(str(folder / "other")))
    x = MusicCrops(others, 80, 2)[0]["sources"].numpy()
    assert x.shape == (2, 2, 80)
    for channel in x[0]:
        assert (channel > 0.99).sum() == 50
        assert (channel == 0).sum() == 30


def test_sources_are_drawn_by_the_published_chances(folder):
    music, others = packed(folder), packed(folder)
    others.lengths = others.lengths * 3

    def shares(crops: MusicCrops) -> dict[str, float]:
        rng = np.random.default_rng(0)
        rows = ["".join("m" if corpus is music else "o" for corpus in crops._drawn(rng)) for _ in range(4000)]
        return {row: rows.count(row) / len(rows) for row in sorted(set(rows))}

    found = shares(MusicCrops(music, 80, 2, others=others))
    assert found.pop("mm") + found.pop("mo") + found.pop("om") + found.pop("oo") == pytest.approx(
        0.24, abs=0.03
    )
    assert found == pytest.approx({"m": 0.32, "o": 0.32, "ooo": 0.12}, abs=0.03)
    alone = shares(MusicCrops(music, 80, 2))
    assert alone == pytest.approx({"m": 0.32 / 0.56, "mm": 0.24 / 0.56}, abs=0.03)


def test_clips_are_the_middle_of_a_recording(folder):
    (clip, *_) = (MusicClips(folder, RATE, 2, length)[0]["audio"].numpy() for length in (500,))
    whole = MusicClips(folder, RATE, 2)[0]["audio"].numpy()
    assert whole.shape == (2, LENGTH)
    assert np.array_equal(clip, whole[:, 750:1250])
    assert MusicClips(folder, RATE, 2, 10 * LENGTH)[0]["audio"].shape == (2, LENGTH)


def test_what_cannot_be_is_said(folder):
    with pytest.raises(AudioError, match=r"no bass\.scp"):
        packed(folder, stems=("vocals", "bass"))
    with pytest.raises(AudioError, match=r"leave out data\.stems"):
        module(folder, stems=STEMS, others=str(folder))
    sf.write(folder.parent / "0_drums.wav", np.zeros((7, 2)), RATE)
    with pytest.raises(
        AudioError, match=r"song0: the stems differ in length \(vocals 2000, drums 7 samples\)"
    ):
        packed(folder, stems=STEMS)
