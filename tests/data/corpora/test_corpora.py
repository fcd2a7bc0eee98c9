"""Corpora as distributed become sound data directories, and every fault of theirs is named with its file."""

import shutil

import corpus_trees
import numpy as np
import pytest

from audiomask import audio
from audiomask.data.corpora.chime3 import read as from_chime3
from audiomask.data.corpora.dnr import read as from_dnr
from audiomask.data.corpora.dns import read as from_dns
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.corpora.moisesdb import read as from_moisesdb
from audiomask.data.corpora.musdb import STEMS
from audiomask.data.corpora.musdb import read as from_musdb
from audiomask.data.corpora.plc import read as from_plc
from audiomask.data.corpora.slakh import read as from_slakh
from audiomask.data.corpora.vctk import read as from_vctk
from audiomask.data.corpora.voicebank import read as from_voicebank
from audiomask.data.kaldi.directory import DataError


def test_voicebank(tree, sound):
    parts = sound(from_voicebank(tree("voicebank")))
    assert set(parts) == {"trainset_28spk", "testset"}
    assert parts["trainset_28spk"].speakers == ["p226", "p227", "p228", "p287"]
    assert parts["testset"].tables["clean.scp"]["p232_001"].endswith("clean_testset_wav/p232_001.wav")


def test_dns(tree, sound):
    folder = tree("dns")
    parts = sound(from_dns(folder))
    assert set(parts) == {"clean", "noise", "rooms", "test_no_reverb"}
    assert parts["clean"].speakers == [f"reader_0670{i}" for i in range(4)]
    assert len(parts["noise"].speakers) == 4
    assert len(parts["rooms"].recordings) == 2  # and not the recording of a room's noise
    test = parts["test_no_reverb"].tables
    assert set(test["wav.scp"]) == {"fileid_7", "fileid_12"}
    assert test["clean.scp"]["fileid_12"].endswith("clean/clean_fileid_12.wav")
    assert from_dns(folder / "datasets").keys() == parts.keys()


def test_chime3(tree, sound):
    folder = tree("chime3")
    parts = sound(from_chime3(folder))
    assert set(parts) == {"tr05_simu", "tr05_org", "dt05_bth", "et05_simu", "et05_real", "noise"}
    real, simulated = parts["et05_real"].tables, parts["et05_simu"].tables
    assert real["wav.scp"]["F05_440C0201_CAF_REAL"].endswith("et05_caf_real/F05_440C0201_CAF.CH5.wav")
    assert simulated["utt2spk"] == {"F05_440C0201_CAF_SIMU": "F05"}
    assert real["ch1.scp"]["F05_440C0201_CAF_REAL"].endswith("F05_440C0201_CAF.CH1.wav")
    assert "clean.scp" not in simulated
    assert "ch0.scp" not in real
    assert parts["noise"].speakers == ["BUS", "CAF"]
    references = folder / "data/audio/16kHz/isolated_ext"
    with_references = sound(from_chime3(folder, channel=3, references=references))
    clean = with_references["et05_simu"].tables["clean.scp"]["F05_440C0201_CAF_SIMU"]
    assert clean.endswith("isolated_ext/et05_caf_simu/F05_440C0201_CAF.CH3.Clean.wav")
    assert "clean.scp" not in with_references["et05_real"].tables
    with pytest.raises(DataError, match="channels 1 to 6"):
        from_chime3(folder, channel=7)


def test_plc(tree, sound):
    folder = tree("plc")
    parts = sound(from_plc(folder))
    assert set(parts) == {"train", "blind"}
    train, blind = parts["train"].tables, parts["blind"].tables
    assert train["wav.scp"]["3"].endswith("train/clean_signals/3.wav")
    assert train["clean.scp"] == train["wav.scp"]
    assert train["lossy.scp"]["3"].endswith("train/lossy_signals/3.wav")
    assert train["utt2trace"]["3"].endswith("train/lossy_signals/3_is_lost.txt")
    assert blind["wav.scp"]["5"].endswith("blind/lossy_signals/5.wav")
    assert "clean.scp" not in blind
    references = folder / "blind_set_reference"
    blind = sound(from_plc(folder, references=references))["blind"].tables
    assert blind["clean.scp"]["5"] == blind["wav.scp"]["5"] == str(references / "5.wav")
    train = folder / "test_train/train"
    for name in ("2.wav", "2_is_lost.txt"):
        shutil.copy(train / "lossy_signals" / name, folder / "blind/lossy_signals")
    shutil.copy(train / "clean_signals/2.wav", references)
    with pytest.raises(DataError, match=r"clean_signals/2\.wav: the same recording as .*reference/2\.wav"):
        from_plc(folder, references=references)
    (references / "2.wav").unlink()
    (folder / "blind/lossy_signals/2.wav").unlink()
    with pytest.raises(DataError, match="not the PLC Challenge's layout"):
        from_plc(references)
    (references / "6.wav").unlink()
    with pytest.raises(DataError, match=r"6\.wav: what was sent, .*6\.wav, is missing"):
        from_plc(folder, references=references)


@pytest.mark.parametrize(
    ("text", "message"),
    [("0\n1\n2\n", "1_is_lost.txt:3: '2' is neither"), ("0\n" * 58, "has fewer packets"), ("", "is empty")],
)
def test_a_bad_trace_is_named_and_can_be_left_out(tree, text, message):
    folder = tree("plc")
    trace = folder / "test_train/train/lossy_signals/1_is_lost.txt"
    trace.write_text("0\n" * 59)  # one packet that is not whole may lack its line
    from_plc(folder)
    trace.write_text(text)
    with pytest.raises(DataError, match=message):
        from_plc(folder)
    skipped = []
    data = from_plc(folder, skipped=skipped)["train"]
    assert len(skipped) == 1
    assert set(data.tables["utt2trace"]) == {"2", "3", "4"} == set(data.recordings)


def test_vctk(tree, sound):
    folder = tree("vctk")
    data = sound({"": from_vctk(folder)})[""]
    assert data.speakers == ["p225", "p226", "p232", "p257", "p287", "s5"]
    assert len(data.recordings) == 12
    assert data.tables["wav.scp"]["s5_002"].endswith("s5/s5_002_mic1.flac")
    old = folder / "wav48/p225"
    old.mkdir(parents=True)
    shutil.copy(folder / "wav48_silence_trimmed/p225/p225_001_mic1.flac", old / "p225_003.flac")
    assert len(from_vctk(folder).recordings) == 13
    shutil.move(old / "p225_003.flac", old / "other.flac")
    with pytest.raises(DataError, match=r"other\.flac: not a name of VCTK"):
        from_vctk(folder)


def test_musdb(tree, sound):
    folder = tree("musdb")
    parts = sound(from_musdb(folder))
    assert {name: len(data.recordings) for name, data in parts.items()} == {"train": 3, "valid": 2, "test": 1}
    assert parts["valid"].speakers == ["ANiMAL_-_Rockshow", "Leaf_-_Summerghost"]
    for stem in STEMS:
        assert parts["test"].tables[f"{stem}.scp"] == {"C_-_Four": str(folder / f"test/C - Four/{stem}.wav")}
    assert parts["train"].tables["wav.scp"]["B_-_Three"].endswith("train/B - Three/mixture.wav")
    (folder / "train/B - Three/mixture.wav").unlink()
    with pytest.raises(DataError, match="mixture is missing"):
        from_musdb(folder)


def test_musdb_compressed(tree, sound):
    pytest.importorskip("av")
    parts = sound(from_musdb(tree("compressed")))
    assert {name: len(data.recordings) for name, data in parts.items()} == {"train": 3, "valid": 2, "test": 1}
    assert parts["test"].tables["wav.scp"]["C_-_Four"].endswith("test/C - Four.stem.mp4")
    assert "vocals.scp" not in parts["test"].tables


def test_dnr(tree, sound):
    parts = sound(from_dnr(tree("dnr")))
    keys = {name: data.recordings for name, data in parts.items()}
    languages = ["deu_000001", "eng_000001"]
    assert keys == {
        "train": ["1000", "1001", *languages],
        "valid": ["1002", *languages],
        "test": ["1003", *languages],
    }
    valid = parts["valid"].tables
    assert valid["effects.scp"]["eng_000001"].endswith("eng/val/000001/sfx.wav")
    assert valid["wav.scp"]["eng_000001"].endswith("mixture.wav")
    assert valid["wav.scp"]["1002"].endswith("cv/1002/mix.wav")
    assert set(valid) == {f"{x}.scp" for x in ("wav", "speech", "music", "effects")} | {
        "utt2spk",
        "spk2utt",
        "reco2dur",
    }


def test_dnr_of_one_language(tree):
    folder = tree("dnr") / "eng"
    assert from_dnr(folder)["train"].recordings == ["000001"]
    (folder / "train/000001/mixture.wav").unlink()
    with pytest.raises(DataError, match="mixture is missing"):
        from_dnr(folder)


def stems_of(data, key, names):
    """The signals `[C, T]` of a recording, by table."""
    u = next(u for u in data.utterances() if u.key == key)
    return {name: data.load(u, name)[0] for name in ("wav", *names)}


def test_slakh(tree, sound, tmp_path):
    pytest.importorskip("yaml")
    folder = tree("slakh")
    parts = sound(from_slakh(folder, sums=tmp_path / "sums"))
    keys = {name: data.recordings for name, data in parts.items()}
    assert keys == {
        "train": ["Track00001", "Track00002"],
        "valid": ["Track01501"],
        "test": ["Track01876"],
    }
    tables = parts["test"].tables
    assert tables["bass.scp"]["Track01876"] == str(folder / "test/Track01876/stems/S01.flac")
    assert tables["other.scp"]["Track01876"] == str(tmp_path / "sums/Track01876/other.flac")
    x = stems_of(parts["test"], "Track01876", ("drums", "bass", "other"))
    assert np.abs(x["wav"] - x["drums"] - x["bass"] - x["other"]).max() < 1e-4  # five files of 16 bits
    more = from_slakh(folder, sums=tmp_path / "more", stems="piano,guitar,organ")["train"]
    assert {name for name in more.tables if name.endswith(".scp")} == {
        f"{name}.scp" for name in ("wav", "piano", "guitar", "organ", "other")
    }
    x = stems_of(more, "Track00001", ("piano", "guitar", "organ", "other"))
    assert not x["organ"].any()
    assert x["piano"].any()
    assert np.abs(x["wav"] - x["piano"] - x["guitar"] - x["other"]).max() < 1e-4
    for how, message in (
        ({}, "--sums"),
        ({"sums": tmp_path, "stems": "lute"}, "no 'lute' among bass, brass"),
    ):
        with pytest.raises(ValueError, match=message):
            from_slakh(folder, **how)
    (folder / "test/Track01876/metadata.yaml").write_text("stems: [")
    with pytest.raises(DataError, match=r"metadata\.yaml: not the metadata of a song"):
        from_slakh(folder, sums=tmp_path / "sums")


def test_moisesdb(tree, sound, tmp_path):
    folder = tree("moisesdb")
    data = sound({"": from_moisesdb(folder, sums=tmp_path / "sums")})[""]
    assert data.recordings == ["song-0", "song-1", "song-2"]
    assert data.speakers == ["A_Band", "B"]
    for key in data.recordings:
        x = stems_of(data, key, ("vocals", "drums", "bass", "other"))
        assert np.abs(x["wav"] - sum(x[name] for name in x if name != "wav")).max() < 1e-6
        assert x["bass"].any() == (key != "song-2")
    vocals = data.tables["vocals.scp"]["song-0"]
    assert vocals == str(folder / "moisesdb_v0.1/song-0/vocals/000.wav")
    guitar = from_moisesdb(folder, sums=tmp_path / "more", stems="guitar").tables
    assert guitar["guitar.scp"]["song-1"].endswith("song-1/guitar/130.wav")
    assert "vocals.scp" not in guitar
    with pytest.raises(ValueError, match="--sums"):
        from_moisesdb(folder)
    about = folder / "moisesdb_v0.1/song-1/data.json"
    for text in ("{", "{}", '{"stems": [{"stemName": "bass"}]}', '{"stems": 3}', '{"stems": []}'):
        about.write_text(text)
        with pytest.raises(DataError, match=r"song-1/data\.json: (not the data of a song|names no tracks)"):
            from_moisesdb(folder, sums=tmp_path / "sums")


def test_sums_that_go_beyond_full_scale_are_kept(tree, tmp_path):
    folder = tree("moisesdb")
    for path in (folder / "moisesdb_v0.1/song-0").glob("*/*.wav"):
        x, rate = audio.read(path)
        audio.write(path, x / np.abs(x).max(), rate, overwrite=True)
    data = from_moisesdb(folder, sums=tmp_path / "sums")
    assert data.tables["wav.scp"]["song-0"].endswith("mixture.wav")
    x = stems_of(data, "song-0", ("vocals", "drums", "bass", "other"))
    assert np.abs(x["wav"]).max() > 1
    assert np.abs(x["wav"] - sum(x[name] for name in x if name != "wav")).max() < 1e-6


def test_all_faults_come_at_once(tree):
    folder = tree("voicebank")
    for name in ("p226_001", "p228_003"):
        corpus_trees.spoil(folder / f"clean_trainset_28spk_wav/{name}.wav", "empty")
    with pytest.raises(DataError, match=r"2 of its files cannot be used(.|\n)*p226_001(.|\n)*p228_003"):
        from_voicebank(folder)


def test_lengths_of_partners_are_compared(tree):
    folder = tree("voicebank")
    corpus_trees.put(folder / "clean_testset_wav/p257_002.wav", corpus_trees.excerpt("speech", 1, 0.5), 48000)
    with pytest.raises(DataError, match=r"p257_002\.wav: 24000 samples at 48000 Hz, but"):
        from_voicebank(folder)


def test_doubles(tree):
    folder = tree("voicebank")
    for kind in ("clean", "noisy"):
        shutil.copy(folder / f"{kind}_testset_wav/p232_001.wav", folder / f"{kind}_trainset_28spk_wav")
    with pytest.raises(DataError, match="p232_001 is in testset too"):
        from_voicebank(folder)
    skipped = []
    assert "p232" not in from_voicebank(folder, skipped)["trainset_28spk"].speakers
    for kind in ("clean", "noisy"):
        (folder / f"{kind}_trainset_28spk_wav/p232_001.wav").unlink()
        nested = folder / f"{kind}_testset_wav/again"
        nested.mkdir()
        shutil.copy(folder / f"{kind}_testset_wav/p232_001.wav", nested)
    with pytest.raises(DataError, match="makes the same key p232_001"):
        from_voicebank(folder)

    data = tree("dns") / "datasets"
    shutil.copy(next((data / "clean/read_speech").iterdir()), data / "clean")
    with pytest.raises(DataError, match="the same recording as"):
        from_dns(data)
    test = data / "test_set/synthetic/no_reverb/noisy"
    shutil.copy(next(test.glob("*_7.wav")), test / "other_fileid_7.wav")
    (data / "clean" / next((data / "clean/read_speech").iterdir()).name).unlink()
    with pytest.raises(DataError, match="makes the same key fileid_7"):
        from_dns(data)

    isolated = tree("chime3") / "data/audio/16kHz/isolated"
    shutil.copytree(isolated / "et05_caf_simu", isolated / "et05_ped_simu")
    with pytest.raises(DataError, match="makes the same key F05_440C0201_CAF_SIMU"):
        from_chime3(isolated.parents[3])


def test_hidden_files_of_archives_are_passed_over(tree):
    folder = tree("voicebank")
    (folder / "noisy_testset_wav/._p232_001.wav").write_bytes(b"\0" * 100)
    assert len(from_voicebank(folder)["testset"].recordings) == 2


def test_a_flac_cut_short_is_found(tmp_path):
    path = corpus_trees.put(tmp_path / "19-198-0000.flac", corpus_trees.excerpt("speech", 0))
    assert from_librispeech(tmp_path).recordings == ["19-198-0000"]
    corpus_trees.spoil(path, "truncated")
    with pytest.raises(DataError, match="truncated: its header promises"):
        from_librispeech(tmp_path)
