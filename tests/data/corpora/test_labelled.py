"""Corpora of labelled sounds become sound data directories, and every fault is named with its file."""

import shutil

import corpus_trees
import pytest

from audiomask.cli import main
from audiomask.data.corpora.audioset import read as from_audioset
from audiomask.data.corpora.esc50 import read as from_esc
from audiomask.data.corpora.folder import read as from_folder
from audiomask.data.corpora.speechcommands import read as from_speechcommands
from audiomask.data.kaldi.directory import DataDir, DataError


def labels_of(parts):
    return {name: data.tables["utt2label"] for name, data in parts.items()}


def test_esc50(tree, sound):
    folder = tree("esc50")
    parts = sound(from_esc(folder))
    labels = labels_of(parts)
    assert sorted(labels) == [f"fold{i}" for i in range(1, 6)]
    assert labels["fold2"] == {"2-2000-A-0": "dog", "2-2001-A-10": "rain", "2-2002-A-22": "clapping"}
    assert parts["fold2"].tables["utt2spk"]["2-2001-A-10"] == "2-2001"
    assert from_esc(folder / "ESC-50-master").keys() == parts.keys()
    assert from_esc(folder, esc10=True)["fold2"].tables["utt2label"] == {
        "2-2000-A-0": "dog",
        "2-2001-A-10": "rain",
    }


def test_esc10_in_folders(tree, sound):
    labels = labels_of(sound(from_esc(tree("esc10"), esc10=True)))
    assert labels["fold5"] == {"5-5000-A": "dog_bark", "5-5001-A": "rain"}


def test_speech_commands(tree, sound, tmp_path):
    folder = tree("speechcommands")
    parts = sound(from_speechcommands(folder))
    labels = labels_of(parts)
    assert {name: len(table) for name, table in labels.items()} == {"train": 8, "valid": 4, "test": 4}
    assert labels["valid"]["cb2929ce-bed-0"] == "bed"
    assert parts["train"].speakers == ["0a7c2a8d", "1b4c9b89"]
    shutil.rmtree(tmp_path / "out")
    archive = folder.with_name("speechcommands_test")
    parts = sound(from_speechcommands(folder, classes="12", test=archive))
    counts = {part: sorted(table.values()) for part, table in labels_of(parts).items()}
    assert counts["train"] == ["_silence_"] * 2 + ["_unknown_"] * 4 + ["go"] * 2 + ["yes"] * 2
    assert counts["valid"] == ["_silence_"] * 2 + ["_unknown_"] * 2 + ["go", "yes"]
    assert counts["test"] == ["_silence_", "_unknown_", "go", "yes"]
    assert parts["train"].speakers[-1] == "noise-pink_noise"
    assert parts["valid"].speakers == ["cb2929ce", "noise-running_tap"]
    data = DataDir.read(tmp_path / "out/train")
    lengths = {u.key: data.load(u)[0].shape[1] for u in data.utterances()}
    assert set(lengths.values()) == {16000}
    assert "_silence_" not in from_speechcommands(folder, classes="12")["test"].tables["utt2label"].values()
    with pytest.raises(DataError, match="bed is none of the twelve labels"):
        from_speechcommands(folder, classes="12", test=folder)


def test_audioset(tree, sound, tmp_path):
    folder = tree("audioset")
    with pytest.raises(
        DataError, match=r"balanced_train_segments.csv: 1 of 3 clips have no file.*gone_balanc"
    ):
        from_audioset(folder)
    skipped = []
    labels = labels_of(sound(from_audioset(folder, skipped=skipped)))
    assert len(skipped) == 2
    assert labels["balanced_train"] == {
        "-0RWZT-miFs": "Speech,Male speech; man speaking",
        "0_abcdefghi": "Dog",
    }
    assert set(labels["eval"]) == {"_k9abcdefgh", "YbcdefghijK"}
    clips = shutil.move(folder / "clips", tmp_path / "elsewhere")
    assert set(from_audioset(folder, [], clips=clips)) == {"balanced_train", "eval"}
    table = folder / "eval_segments.csv"
    table.write_text(
        table.read_text() + '-0RWZT-miFs, 0.0, 1.0, "/m/0bt9lr"\n_k9abcdefgh, 0.0, 1.0, "/m/1"\n'
    )
    assert any("-0RWZT-miFs is in balanced_train too" in f for f in skipped_of(folder, clips))
    assert any("_k9abcdefgh has the label /m/1" in f for f in skipped_of(folder, clips))
    shutil.copy(clips / "eval/_k9abcdefgh_20_21.wav", clips / "_k9abcdefgh.wav")
    assert any("the same clip as" in f for f in skipped_of(folder, clips))
    corpus_trees.put(clips / "train/0_abcdefghi_30.000.wav", corpus_trees.excerpt("speech", 0, 4.0))
    assert any("4.0 s, its segment 1 s; cut it out" in f for f in skipped_of(folder, clips))
    (folder / "class_labels_indices.csv").rename(folder / "names.csv")
    with pytest.raises(DataError, match="neither class_labels_indices"):
        from_audioset(folder, clips=clips)
    (folder / "ontology.json").write_text('[{"id": "/m/0bt9lr", "name": "Dog"}]')
    with pytest.raises(DataError, match="0RWZT-miFs has the label /m/09x0r, which has no name"):
        from_audioset(folder, clips=clips)
    (folder / "balanced_train_segments.csv").unlink()
    table.write_text("# a comment\nabcdefghijk, 0.0\n")
    with pytest.raises(DataError, match=r"eval_segments.csv:2: want YTID"):
        from_audioset(folder, [], clips=clips)


def skipped_of(folder, clips):
    skipped = []
    from_audioset(folder, skipped, clips=clips)
    return skipped


def test_doubles(tree):
    audio = tree("esc50") / "ESC-50-master/audio"
    shutil.copy(audio / "2-2000-A-0.wav", audio / "2-9-A-0.wav")
    with pytest.raises(DataError, match=r"2-9-A-0\.wav: is not listed"):
        from_esc(audio.parent)
    folder = tree("esc10")
    shutil.copy(folder / "001 - Dog bark/1-1000-A.wav", folder / "002 - Rain")
    with pytest.raises(DataError, match=r"makes the same key 1-1000-A as .*Dog bark"):
        from_esc(folder, esc10=True)
    assert from_esc(folder, skipped := [], esc10=True)["fold1"].tables["utt2label"]["1-1000-A"] == "dog_bark"
    assert len(skipped) == 1
    (folder / "002 - Rain/1-1000-A.wav").rename(folder / "002 - Rain/2-1000-B.wav")
    with pytest.raises(DataError, match="recording 1000 is in fold 1 too"):
        from_esc(folder, esc10=True)
    (folder / "002 - Rain/2-1000-B.wav").rename(folder / "002 - Rain/bark.wav")
    with pytest.raises(DataError, match=r"bark\.wav: its name"):
        from_esc(folder, esc10=True)
    folder = tree("speechcommands")
    shutil.copy(folder / "go/0a7c2a8d_nohash_0.wav", folder / "bed")
    with pytest.raises(DataError, match="the same recording as"):
        from_speechcommands(folder)
    (folder / "bed/0a7c2a8d_nohash_0.wav").rename(folder / "bed/two.wav")
    with pytest.raises(DataError, match="not a name of Speech Commands"):
        from_speechcommands(folder)
    (folder / "bed/two.wav").unlink()
    with (folder / "testing_list.txt").open("a") as file:
        file.write("go/cb2929ce_nohash_0.wav\n")
    with pytest.raises(DataError, match="is in the other list too"):
        from_speechcommands(folder)


def test_labels_of_any_folder(tree, sound):
    folder = tree("esc10")
    data = from_folder(folder, speaker="file", label="folder")
    assert set(data.tables["utt2label"].values()) == {"001 - Dog bark", "002 - Rain"}
    sound({"": data})
    data = from_folder(folder, speaker=r"(\d+)-A", label=r"- (\w+)")
    assert set(data.tables["utt2label"].values()) == {"Dog", "Rain"}
    with pytest.raises(DataError, match=r"A\.wav: the label pattern '\(Cat\)' does not match"):
        from_folder(folder, label="(Cat)")


def test_the_command_line(tree, tmp_path, capsys):
    folder = str(tree("speechcommands"))
    words = ["data", "import", "speechcommands", folder, str(tmp_path / "out"), "--classes", "12"]
    assert main([*words, "--test", folder + "_test"]) == 0
    assert len(DataDir.read(tmp_path / "out/test").recordings) == 4
    for more, message in (
        (["--test", folder], "add --classes 12"),
        (["--clips", folder], "--clips goes with the layout audioset"),
    ):
        assert main(["data", "import", "speechcommands", folder, str(tmp_path / "x"), *more]) == 2
        assert message in capsys.readouterr().err
    audioset = str(tree("audioset"))
    assert main(["data", "import", "audioset", audioset, str(tmp_path / "a"), "--bad-files", "skip"]) == 0
    assert "left out: " in capsys.readouterr().err
