"""Every fault of a corpus is named with its file, which can be left out."""

import os

import corpus_trees
import numpy as np
import pytest

from audiomask import audio
from audiomask.data.corpora import (
    audioset,
    chime3,
    dnr,
    dns,
    esc10,
    esc50,
    folder,
    moisesdb,
    musdb,
    plc,
    slakh,
    speechcommands,
    vctk,
    voicebank,
)
from audiomask.data.kaldi.directory import DataDir, DataError

READERS = {
    module.__name__.rpartition(".")[2]: module.read
    for module in (audioset, chime3, dnr, dns, esc10, esc50, musdb, plc, speechcommands, voicebank)
}
READERS["vctk"] = lambda folder, **how: {"": vctk.read(folder, **how)}
READERS["slakh"] = lambda folder, **how: slakh.read(folder, sums=folder.parent / "sums", **how)
READERS["moisesdb"] = lambda folder, **how: {"": moisesdb.read(folder, sums=folder.parent / "sums", **how)}
FAULTS = [
    ("plc", "test_train/train/clean_signals/2.wav", "missing", "what was sent"),
    ("plc", "test_train/train/lossy_signals/2.wav", "missing", "nothing of its name"),
    ("plc", "test_train/train/lossy_signals/2.wav", "truncated", "truncated"),
    ("plc", "test_train/train/lossy_signals/2_is_lost.txt", "missing", "cannot be read as a trace"),
    ("vctk", "wav48_silence_trimmed/p225/p225_001_mic1.flac", "not audio", "not audio"),
    ("voicebank", "clean_trainset_28spk_wav/p227_002.wav", "missing", "its clean partner"),
    ("voicebank", "noisy_trainset_28spk_wav/p227_002.wav", "missing", "its noisy partner is missing"),
    ("voicebank", "clean_trainset_28spk_wav/p227_002.wav", "truncated", "copy or unpack it again"),
    ("voicebank", "noisy_testset_wav/p232_001.wav", "empty", "is empty"),
    ("dns", "datasets/noise/noise_Freesound_2.wav", "not audio", "not audio"),
    ("dns", "datasets/noise/noise_Freesound_2.wav", "truncated", "its header promises"),
    ("dns", "datasets/test_set/synthetic/no_reverb/clean/clean_fileid_7.wav", "missing", "unpack the corpus"),
    (
        "chime3",
        "data/audio/16kHz/isolated/tr05_bus_simu/011_011C0201_BUS.CH5.wav",
        "missing",
        "other channels",
    ),
    ("chime3", "data/audio/16kHz/isolated/et05_caf_real/F05_440C0201_CAF.CH2.wav", "missing", "ch2 partner"),
    ("chime3", "data/audio/16kHz/backgrounds/BGD_150203_010_CAF.CH6.wav", "truncated", "truncated"),
    ("musdb", "train/A Band - One/bass.wav", "missing", "its bass partner"),
    ("musdb", "train/Leaf - Summerghost/other.wav", "truncated", "copy or unpack it again"),
    ("musdb", "train/B - Three/mixture.wav", "not audio", "not audio"),
    ("dnr", "tr/1000/sfx.wav", "missing", "its effects partner"),
    ("dnr", "eng/train/000001/music.wav", "truncated", "copy or unpack it again"),
    ("slakh", "train/Track00001/stems/S01.flac", "missing", "no such file"),
    ("slakh", "train/Track00002/stems/S03.flac", "truncated", "truncated"),
    ("slakh", "train/Track00002/mix.flac", "not audio", "not audio"),
    ("moisesdb", "moisesdb_v0.1/song-1/drums/111.wav", "missing", "no such file"),
    ("moisesdb", "moisesdb_v0.1/song-1/guitar/130.wav", "truncated", "truncated"),
    ("esc50", "ESC-50-master/audio/3-3001-A-10.wav", "missing", "is listed in esc50.csv and missing"),
    ("esc50", "ESC-50-master/audio/3-3001-A-10.wav", "truncated", "truncated"),
    ("esc10", "002 - Rain/4-4001-A.wav", "empty", "is empty"),
    ("esc10", "002 - Rain/4-4001-A.wav", "not audio", "not audio"),
    ("speechcommands", "go/cb2929ce_nohash_0.wav", "missing", "is in validation_list.txt and missing"),
    ("speechcommands", "go/0a7c2a8d_nohash_0.wav", "truncated", "truncated"),
    ("audioset", "clips/eval/YbcdefghijK.wav", "truncated", "truncated"),
]


@pytest.mark.parametrize(("kind", "file", "how", "message"), FAULTS, ids=lambda x: x if " " not in x else "")
def test_a_bad_file_is_named_and_can_be_left_out(tree, kind, file, how, message):
    folder, before, skipped = tree(kind), [], []
    whole = sum(len(data.recordings) for data in READERS[kind](folder, skipped=before).values())
    bad = corpus_trees.spoil(folder / file, how)
    with pytest.raises(DataError) as error:
        READERS[kind](folder)
    assert "--bad-files skip" in str(error.value)
    if kind == "chime3":  # whose sets of one utterance would be empty
        skipped = [str(error.value)]
    else:
        left = READERS[kind](folder, skipped=skipped)
        assert sum(len(data.recordings) for data in left.values()) == whole - 1
    (fault,) = set(skipped) - set(before)
    assert bad.name in fault
    assert message in fault


@pytest.mark.parametrize("kind", READERS)
def test_another_folder_is_refused(kind, tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        READERS[kind](tmp_path)


@pytest.mark.parametrize(
    ("name", "words"), [(b"caf\xe9.wav", "not UTF-8"), (b"a\nb.wav", "line break"), (b" a/b.wav", None)]
)
def test_names_that_no_table_holds_are_faults(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    for file in (path, tmp_path / "good.wav"):
        audio.write(file, np.ones(1000), 16000)
    skipped = []
    made = folder.read(tmp_path, skipped)
    assert len(made.recordings) == 1 + (words is None)
    assert all(words in fault and "rename it" in fault for fault in skipped)
    made.write(tmp_path / "d")
    assert DataDir.read(tmp_path / "d").tables["wav.scp"] == made.tables["wav.scp"]


def test_linked_folders_are_imported_and_what_is_passed_over_is_named(tmp_path):
    for place in ("in/a.wave", "in/b.aifc", "else/c.bwf"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        audio.write(tmp_path / place, np.ones(1000), 16000, format="WAV", subtype="PCM_16")
    (tmp_path / "in/notes.txt").write_text("")
    (tmp_path / "in/link").symlink_to(tmp_path / "else")
    with pytest.warns(audio.AudioWarning, match=r"passed over 1 files, no audio by their names: \.txt"):
        made = folder.read(tmp_path / "in")
    assert made.recordings == ["in-a", "in-b", "link_c"]
