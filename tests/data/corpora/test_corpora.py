"""Corpora as distributed become sound data directories, and every fault of theirs is named with its file."""

import shutil

import corpus_trees
import pytest

from audiomask.data.corpora.chime3 import read as from_chime3
from audiomask.data.corpora.dns import read as from_dns
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.corpora.musdb import STEMS
from audiomask.data.corpora.musdb import read as from_musdb
from audiomask.data.corpora.plc import read as from_plc
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
