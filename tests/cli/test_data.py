"""`audiomask data`: exit codes, messages, and nothing overwritten unasked."""

import json

import numpy as np
import pytest

from audiomask import audio
from audiomask.data.kaldi.directory import DataDir


@pytest.fixture
def corpus(tmp_path):
    """Folders speech/ (three speakers, two files each) and noise/ (two kinds)."""
    rng = np.random.default_rng(0)
    for name in ("ann-1", "ann-2", "bob-1", "bob-2", "eve-1", "eve-2"):
        (tmp_path / "speech").mkdir(exist_ok=True)
        audio.write(tmp_path / "speech" / f"{name}.wav", rng.standard_normal(16000) * 0.1, 16000)
    for name in ("rain/1.wav", "wind/1.wav"):
        (tmp_path / "noise" / name).parent.mkdir(parents=True, exist_ok=True)
        audio.write(tmp_path / "noise" / name, rng.standard_normal(16000) * 0.1, 16000)
    return tmp_path


@pytest.fixture
def imported(corpus, cli):
    assert (
        cli("data", "import", "folder", corpus / "speech", corpus / "d", "--speaker", "([^/-]+)-").code == 0
    )
    assert cli("data", "import", "folder", corpus / "noise", corpus / "n").code == 0
    return corpus


def test_import_validate_fix(imported, cli):
    answer = cli("data", "validate", imported / "d", imported / "n")
    assert (answer.code, answer.out.count("sound")) == (0, 2)
    (imported / "speech" / "ann-1.wav").unlink()
    answer = cli("data", "validate", imported / "d")
    assert answer.code == 1
    assert "wav.scp:1: ann-1: " in answer.out
    assert "1 problems" in answer.out
    report = json.loads(cli("data", "validate", imported / "d", "--json").out)
    assert [p["line"] for p in report[str(imported / "d")]] == [1]
    assert cli("data", "validate", imported / "d", "--no-audio").code == 0
    before = (imported / "d" / "wav.scp").read_text()
    answer = cli("data", "fix", imported / "d")
    assert answer.code == 0
    assert "dropped: wav.scp:1: ann-1" in answer.out
    assert cli("data", "validate", imported / "d").code == 0
    assert (imported / "d" / ".backup" / "wav.scp").read_text() == before


def test_import_leaves_bad_files_out_when_asked(corpus, cli):
    (corpus / "speech/bob-1.wav").write_bytes(b"")
    words = ("data", "import", "folder", corpus / "speech", corpus / "d")
    answer = cli(*words)
    assert (answer.code, "bob-1.wav: is empty" in answer.err) == (1, True)
    assert not (corpus / "d").exists()
    answer = cli(*words, "--bad-files", "skip")
    assert (answer.code, "left out: " in answer.err, "bob-1.wav" in answer.err) == (0, True, True)
    assert len(DataDir.read(corpus / "d").recordings) == 5


def test_split_subset_combine(imported, cli):
    d, out = imported / "d", imported / "parts"
    assert cli("data", "split", d, out, "--ratio", "train=2,valid=1").code == 0
    train, valid = DataDir.read(out / "train"), DataDir.read(out / "valid")
    assert (len(train.speakers), len(valid.speakers)) == (2, 1)
    assert cli("data", "combine", imported / "all", out / "train", out / "valid").code == 0
    assert DataDir.read(imported / "all").tables == DataDir.read(d).tables
    assert cli("data", "split", d, imported / "jobs", "--jobs", 4).code == 0
    assert len(list((imported / "jobs").iterdir())) == 4
    for words, count in {
        ("--count", 2): 2,
        ("--first", 3): 3,
        ("--speakers", "ann,eve"): 4,
        ("--speakers", "ann", "--exclude"): 4,
    }.items():
        assert cli("data", "subset", d, imported / "s", *words, "-f").code == 0
        assert len(DataDir.read(imported / "s").utterance_keys) == count
    (imported / "keys").write_text("bob-1\n")
    assert cli("data", "subset", d, imported / "s", "--keys", imported / "keys", "-f").code == 0
    assert DataDir.read(imported / "s").speakers == ["bob"]


def test_mix_then_lhotse_and_back(imported, cli):
    words = ("data", "mix", imported / "m", "--speech", imported / "d", "--noise", imported / "n")
    answer = cli(*words, "--count", 4, "--seconds", 0.2, 0.4, "--snr", 5, 5)
    assert answer.code == 0, answer.err
    assert cli("data", "validate", imported / "m").code == 0
    assert set(DataDir.read(imported / "m").tables["utt2snr"].values()) == {"5.00"}
    assert cli("data", "export", imported / "m", imported / "lhotse").code == 0
    manifests = imported / "lhotse"
    answer = cli("data", "import", "lhotse", manifests / "recordings.jsonl.gz", imported / "back",
                 "--supervisions", manifests / "supervisions.jsonl.gz")  # fmt: skip
    assert answer.code == 0
    assert cli("data", "validate", imported / "back").code == 0


def test_convert(imported, cli):
    words = ("data", "mix", imported / "m", "--speech", imported / "d", "--noise", imported / "n")
    assert cli(*words, "--count", 2, "--seconds", 0.3, 0.3).code == 0
    answer = cli("data", "convert", imported / "m", imported / "c", "--rate", 8000)
    assert answer.code == 0, answer.err
    assert cli("data", "validate", imported / "c").code == 0
    old, new = DataDir.read(imported / "m"), DataDir.read(imported / "c")
    assert old.tables.keys() == new.tables.keys()
    for table in ("wav.scp", "clean.scp"):
        key = new.recordings[0]
        x, rate = audio.read(imported / "m" / old.tables[table][key])
        y, half = audio.read(imported / "c" / new.tables[table][key])
        assert (rate, half) == (16000, 8000)
        low = np.fft.rfft(x[0])[: y.shape[1] // 4] / 2  # the lower half of what is left
        assert np.abs(np.fft.rfft(y[0])[: len(low)] - low).max() < 0.02 * np.abs(low).max()
    answer = cli("data", "convert", imported / "m", imported / "m", "--rate", 8000, "-f")
    assert (answer.code, "give another" in answer.err) == (1, True)


def test_what_exists_is_kept(imported, cli):
    words = ("data", "import", "folder", imported / "noise", imported / "d")
    answer = cli(*words)
    assert (answer.code, "-f overwrites" in answer.err) == (1, True)
    assert DataDir.read(imported / "d").speakers == ["ann", "bob", "eve"]
    (imported / "d" / "utt2label").write_text("ann-1 x\n")
    assert cli(*words, "-f").code == 0
    assert cli("data", "validate", imported / "d").code == 0  # no table of the old directory is left


@pytest.mark.parametrize(
    ("words", "theirs"),
    [
        ("subset d OUT --first 2", "utt2spk"),
        ("subset d OUT --first 2", "text"),
        ("split d OUT/.. --ratio OUT=0.5,b=0.5", "spk2utt"),
        ("combine OUT d", "segments"),
        ("import folder speech OUT", "utt2spk"),
        ("fix d -o OUT", "reco2dur"),
        ("convert d OUT --rate 8000", "audio/wav/ann-1.wav"),
        ("mix OUT --speech d --noise n --count 1", "noisy/000000.wav"),
        ("mix OUT --speech d --noise n --count 1", "clean/mine.wav"),
        ("lose d OUT --loss drop:.1", "traces/ann-1.txt"),
        ("export d OUT", "supervisions.jsonl.gz"),
        ("export d OUT", "recordings.jsonl.gz"),
    ],
)
def test_no_file_of_others_is_replaced(imported, cli, monkeypatch, words, theirs):
    """In a folder that holds no whole data directory either."""
    monkeypatch.chdir(imported)
    path = imported / "OUT" / theirs
    path.parent.mkdir(parents=True)
    path.write_text("theirs")
    answer = cli("data", *words.split())
    assert (answer.code, path.read_text()) == (1, "theirs"), answer.out
    assert "-f" in answer.err
    assert cli("data", *words.split(), "-f").code == 0, "it is theirs to replace it"


@pytest.mark.parametrize(
    "words",
    [
        "subset d FILE --first 2", "split d FILE --jobs 2", "combine FILE d", "import folder speech FILE",
        "fix d -o FILE", "convert d FILE --rate 8000", "mix FILE --speech d --noise n --count 1",
        "lose d FILE --loss drop:.1", "export d FILE", "shard d -o FILE",
    ],
)  # fmt: skip
@pytest.mark.parametrize("inside", ["", "/x"])
def test_a_file_is_no_folder(imported, cli, monkeypatch, words, inside):
    monkeypatch.chdir(imported)
    (imported / "FILE").write_text("theirs")
    answer = cli("data", *words.replace("FILE", f"FILE{inside}").split())
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert "folder" in answer.err
    assert (imported / "FILE").read_text() == "theirs"


def test_the_first_backup_stays(imported, cli):
    before = (imported / "d" / "wav.scp").read_text()
    for _ in range(3):
        with (imported / "d" / "wav.scp").open("a") as file:
            file.write("zoe no.wav\n")
        assert cli("data", "fix", imported / "d").code == 0
    for name in (".backup", ".backup.2", ".backup.3"):
        assert (imported / "d" / name / "wav.scp").read_text() == before + "zoe no.wav\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["validate", "nowhere"], 1, "no such folder"),
        (["split", "d", "out", "--ratio", "a=b"], 2, "--ratio a=b: expected NAME=NUMBER"),
        (["split", "d", "out", "--ratio", "a=-1,b=2"], 1, "must be positive"),
        (["split", "d", "out", "--jobs", "7"], 1, "cannot split 6 utterances into 7"),
        (["split", "d", "out"], 2, "one of the arguments"),
        (["subset", "d", "out", "--count", "7"], 1, "cannot take 7 of 6"),
        (["subset", "d", "out", "--speakers", "ann,zoe"], 1, "no speaker zoe"),
        (["subset", "d", "out", "--speakers", "ann,bob,eve", "--exclude"], 1, "leaves no utterance"),
        (["subset", "d", "out", "--keys", "nowhere"], 1, "cannot read"),
        (["import", "librispeech", "speech", "out"], 1, "not a LibriSpeech name"),
        (["import", "folder", "speech", "out", "--supervisions", "x"], 2, "goes with the layout lhotse"),
        (["import", "folder", "speech", "out", "--channel", "5"], 2, "goes with the layout chime3"),
        (["import", "dns", "speech", "out"], 1, "speech/clean: no such folder"),
        (["import", "chime3", "speech", "out", "--channel", "9"], 1, "channels 1 to 6"),
        (["import", "vctk", "speech", "out", "--references", "x"], 2, "goes with the layout chime3 or plc"),
        (["import", "plc", "speech", "out"], 1, "no folders lossy_signals below it"),
        (["import", "vctk", "speech", "out"], 1, "not a name of VCTK"),
        (["lose", "d", "out", "--loss", "drop:2"], 2, "--loss drop:2: rate is 2"),
        (["lose", "d", "out", "--loss", "burst.txt"], 1, "burst.txt: no such file"),
        (["lose", "d", "d", "--loss", "drop:.1"], 1, "would replace the directory"),
        (["mix", "out", "--speech", "d", "--noise", "n", "--snr", "9", "1"], 1, "lower bound first"),
        (["sort", "d"], 2, "invalid choice"),
    ],
)
def test_errors(imported, cli, monkeypatch, words, code, message):
    monkeypatch.chdir(imported)
    answer = cli("data", *words)
    assert answer.code == code
    assert message in answer.err
    assert not (imported / "out").exists()


def test_shard(imported, cli):
    pytest.importorskip("webdataset", reason="needs webdataset: pip install 'audiomask[train]'")
    out = imported / "shards"
    words = ("data", "shard", imported / "d", "-o", out, "--size", "0.01", "--rate", "8000")
    answer = cli(*words)
    assert answer.code == 0
    assert "6 utterances in 6 shards" in answer.out  # each beyond 10 kB
    assert json.loads((out / "shards.json").read_text())["sample_rate"] == 8000
    answer = cli(*words)
    assert answer.code == 1
    assert "holds shards already; -f overwrites them" in answer.err
    (imported / "speech" / "bob-1.wav").write_bytes(b"nonsense")
    answer = cli(*words, "-f")
    assert answer.code == 1
    assert "5 utterances in 5 shards" in answer.out
    assert "1 of 6 failed:" in answer.err
    assert "bob-1.wav: not audio" in answer.err
    assert len(list(out.glob("*.tar"))) == 5  # none is left of the six
