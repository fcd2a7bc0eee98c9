import importlib.util
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiomask import audio, metrics
from audiomask.cli import main

DEMO = Path(__file__).parents[2] / "egs/mini/denoise/corpus/demo"
FAST = ["--metrics", "stoi", "si_sdr", "-j", "1"]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Folders clean, noisy and est with recordings a and b/c of two seconds; est is half way to clean."""
    monkeypatch.chdir(tmp_path)
    clean, rate = soundfile.read(DEMO / "mixture_clean.flac")
    noisy, _ = soundfile.read(DEMO / "mixture_noisy.flac")
    for i, name in enumerate(["a", "b/c"]):
        part = slice((2 * i + 1) * rate, (2 * i + 3) * rate)
        for folder, x in [("clean", clean), ("noisy", noisy), ("est", 0.5 * clean + 0.5 * noisy)]:
            file = tmp_path / folder / f"{name}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, x[part], rate, "FLOAT")
    return tmp_path


def run(*words):
    return main(["score", *map(str, words)])


def test_folders_are_paired_and_the_table_shows_the_change(corpus, capsys):
    assert run("--ref", "clean", "--est", "est", "--noisy", "noisy", "--json", "o.json", *FAST) == 0
    shown = capsys.readouterr().out
    data = json.loads(Path("o.json").read_text())
    assert list(data["estimate"]["files"]) == ["a", "b/c"]
    after, before = (data[k]["summary"]["si_sdr"]["mean"] for k in ("estimate", "noisy"))
    assert after - before == pytest.approx(20 * np.log10(2), abs=0.3)  # half the noise
    row = next(line for line in shown.splitlines() if "si_sdr" in line)
    assert f"{before:.3f}" in row
    assert f"{after:.3f}" in row
    assert f"{after - before:+.3f}" in row
    clean, rate = soundfile.read("clean/a.wav")
    direct = metrics.score(clean, soundfile.read("est/a.wav")[0], rate, ["stoi"])["stoi"]
    assert data["estimate"]["files"]["a"]["scores"]["stoi"] == pytest.approx(direct, abs=1e-6)
    assert data["versions"]["pystoi"]


def test_scp_and_data_directories_are_paired_by_name(corpus):
    Path("ref.scp").write_text("u1 clean/a.wav\nu2 cat clean/b/c.wav |\n")
    (corpus / "data").mkdir()
    Path("data/wav.scp").write_text("u2 est/b/c.wav\nu1 est/a.wav\n")
    assert run("--ref", "ref.scp", "--est", "data", "--allow-pipes", "--json", "o.json", *FAST) == 0
    files = json.loads(Path("o.json").read_text())["estimate"]["files"]
    assert set(files) == {"u1", "u2"}
    assert min(f["scores"]["si_sdr"] for f in files.values()) > 5


def test_two_files_are_a_pair_whatever_their_names(corpus, capsys):
    assert run("--ref", "clean/a.wav", "--est", "est/b/c.wav", *FAST) == 0
    assert "1 files" in capsys.readouterr().out


def test_bad_and_lonely_files_are_counted_and_the_rest_is_scored(corpus, capsys):
    Path("est/a.wav").write_bytes(b"RIFF")
    soundfile.write("clean/silent.wav", np.zeros(16000), 16000)
    soundfile.write("est/silent.wav", np.zeros(16000), 16000)
    soundfile.write("est/extra.wav", np.zeros(16000), 16000)
    soundfile.write("clean/lost.wav", np.zeros(16000), 16000)
    assert run("--ref", "clean", "--est", "est", "--json", "o.json", *FAST) == 1
    done = capsys.readouterr()
    estimate = json.loads(Path("o.json").read_text())["estimate"]
    assert set(estimate["errors"]) == {"a", "extra", "lost"}
    assert (estimate["summary"]["stoi"]["n"], estimate["summary"]["stoi"]["failed"]) == (1, 4)
    assert "there is no reference named extra" in done.err
    assert "there is no estimate named lost" in done.err
    assert "silent: the reference signal is silent" in done.out
    assert "Traceback" not in done.err


def test_without_references_only_blind_metrics(corpus, capsys):
    assert run("--est", "est/a.wav", "--metrics", "si_sdr") == 2
    assert "si_sdr need references" in capsys.readouterr().err
    assert run("--est", "est/a.wav", "--metrics", "plcmos", "-j", "1") == 0
    assert "plcmos" in capsys.readouterr().out


def test_usage_errors(corpus, capsys):
    assert run("--ref", "clean") == 2
    assert "give --est" in capsys.readouterr().err
    assert run("--ref", "clean", "--est", "est", "--metrics", "pesk") == 2
    assert "no metric pesk" in capsys.readouterr().err
    Path("o.json").write_text("{}")
    assert run("--ref", "clean", "--est", "est", "--json", "o.json", *FAST) == 1
    assert "-f to overwrite" in capsys.readouterr().err
    assert Path("o.json").read_text() == "{}"
    assert run("--ref", "clean", "--est", "est", "--json", "o.json", "-f", *FAST) == 0
    assert json.loads(Path("o.json").read_text())["metrics"] == ["stoi", "si_sdr"]
    soundfile.write("est/a.flac", np.zeros(16000), 16000)
    assert run("--ref", "clean", "--est", "est", *FAST) == 1
    assert "two recordings named a" in capsys.readouterr().err


def test_metrics_are_listed(capsys):
    assert run("--metrics", "list") == 0
    shown = capsys.readouterr().out
    assert all(column in shown for column in ("pesq_wb", "dnsmos_p808", "plcmos", "lsd"))


def test_names_pair_whether_accents_are_composed_or_apart(cli, tmp_path, monkeypatch):
    """Apple's file system takes letters apart (NFD), others keep them (NFC)."""
    monkeypatch.chdir(tmp_path)
    x, rate = audio.read(DEMO / "mixture_clean.flac", 0, 16000)
    for folder, form in (("ref", "NFC"), ("est", "NFD")):
        Path(folder).mkdir()
        for name in ("café", "Größe"):
            audio.write(f"{folder}/{unicodedata.normalize(form, name)}.wav", x, rate)
    done = cli("score", "--ref", "ref", "--est", "est", "--metrics", "si_sdr")
    assert done.code == 0, done.err
    assert "2 files" in done.out


@pytest.fixture
def songs(tmp_path, monkeypatch):
    """Folders ref and est of two songs; the estimates have 20 dB in the first, and 10 in the second."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    stems = {"one": ("vocals", "drums"), "two": ("vocals",)}
    for i, (song, names) in enumerate(stems.items()):
        for stem in names:
            x = random.choice([-0.1, 0.1], (2 * 44100, 2))
            for folder, y in (("ref", x), ("est", x * (1 + 10 ** (-1 + i / 2)))):
                Path(folder, song).mkdir(parents=True, exist_ok=True)
                soundfile.write(f"{folder}/{song}/{stem}.wav", y, 44100, "FLOAT")
        soundfile.write(f"ref/{song}/mixture.wav", x, 44100, "FLOAT")
    return tmp_path


def test_stems_have_a_row_each_and_a_mean(songs, capsys):
    assert run("--ref", "ref", "--est", "est", "--stems", "--json", "o.json", "-j", "1") == 0
    done = capsys.readouterr()
    assert "not scored: mixture" in done.err
    rows = {tuple(line.split()[1:4:2]): line.split()[5] for line in done.out.splitlines() if " sdr " in line}
    assert rows == {("sdr", "drums"): "20.000", ("sdr", "vocals"): "15.000", ("sdr", "mean"): "17.500"}
    data = json.loads(Path("o.json").read_text())
    assert data["metrics"] == ["sdr", "si_sdr", *["csdr"] * bool(importlib.util.find_spec("museval"))]
    assert set(data["stems"]) == {"drums", "vocals", "mean"}
    assert data["stems"]["mean"]["sdr"]["mean"] == pytest.approx(17.5, abs=1e-3)


def test_named_stems_must_be_there_and_missing_estimates_are_failures(songs, capsys):
    assert run("--ref", "ref", "--est", "est", "--stems", "bass", "-j", "1") == 2
    assert "no bass among the references" in capsys.readouterr().err
    assert run("--ref", "ref", "--est", "est", "--stems", "vocals", "-j", "1") == 0
    assert "drums" not in capsys.readouterr().out
    Path("est/two/vocals.wav").unlink()
    assert run("--ref", "ref", "--est", "est", "--stems", "-j", "1") == 1
    done = capsys.readouterr()
    assert "there is no estimate named two/vocals" in done.err
    vocals = next(line for line in done.out.splitlines() if " sdr " in line and "vocals" in line)
    assert vocals.split("│")[-3:-1] == ["     1 ", "    1 "]
    assert run("--ref", "ref/one", "--est", "est/one", "--stems") == 1
    assert "lies in no song's folder" in capsys.readouterr().err
    assert run("--ref", "ref", "--est", "est", "--noisy", "ref", "--stems") == 2
    assert "without --noisy" in capsys.readouterr().err


@pytest.fixture
def band(tmp_path, monkeypatch):
    """A folder of two songs of two stems, and a Kaldi data directory of the same recordings."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    tables = {}
    for song in ("one", "two"):
        Path("songs", song).mkdir(parents=True)
        for stem in ("drums", "bass"):
            x = random.standard_normal((44100, 2)).cumsum(0 if stem == "bass" else 1)
            soundfile.write(f"songs/{song}/{stem}.wav", 0.1 * x / np.abs(x).max(), 44100, "FLOAT")
            tables.setdefault(stem, []).append(f"{song} songs/{song}/{stem}.wav\n")
        tables.setdefault("wav", []).append(f"{song} songs/{song}/bass.wav\n")
    Path("data").mkdir()
    for name, lines in tables.items():
        Path(f"data/{name}.scp").write_text("".join(lines))
    return tmp_path


def test_oracles_of_a_stem_folder_and_of_a_data_directory_agree(band, capsys):
    words = ["--oracles", "none,wiener,complex", "--metrics", "sdr", "--window", "512", "-j", "1"]
    assert run("--ref", "songs", *words, "--json", "o.json") == 0
    shown = capsys.readouterr().out
    assert run("--ref", "data", *words) == 0
    assert capsys.readouterr().out == shown
    assert "2 songs" in shown
    rows = {words[0]: words[1] for words in map(str.split, shown.splitlines()[3:])}
    assert float(rows["none"]) < float(rows["wiener"]) < float(rows["complex"])
    data = json.loads(Path("o.json").read_text())
    assert set(data["oracles"]) == {"none", "wiener", "complex"}
    assert data["oracles"]["complex"]["stems"]["bass"]["sdr"]["mean"] > 90
    assert f"{data['oracles']['wiener']['stems']['mean']['sdr']['mean']:.2f}" == rows["wiener"]


def test_stems_of_a_data_directory_are_scored_by_song(band, capsys):
    words = ["--est", "songs", "--stems", "--metrics", "sdr", "-j", "1"]
    assert run("--ref", "songs", *words) == 0
    shown = capsys.readouterr().out
    assert run("--ref", "data", *words) == 0
    assert capsys.readouterr().out == shown
    assert "2 songs" in shown
    assert run("--ref", "data", "songs", *words) == 1
    assert "there are two recordings named one/bass" in capsys.readouterr().err


def test_oracles_go_past_songs_whose_stems_differ(band, capsys):
    x, rate = soundfile.read("songs/two/bass.wav")
    soundfile.write("songs/two/bass.wav", x[:-7], rate, "FLOAT")
    assert run("--ref", "songs", "--oracles", "wiener", "--metrics", "sdr", "-j", "1") == 1
    done = capsys.readouterr()
    assert "two: its stems differ in rate, channels or length" in done.err
    assert done.out.splitlines()[3].split()[-1] == "2"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ref", "songs", "--oracles", "irm"], "no mask irm; there are none ratio"),
        (["--ref", "songs", "--est", "songs", "--oracles"], "no --est or --noisy"),
        (["--ref", "songs", "--oracles", "--window", "1022"], "a multiple of 4"),
        (["--ref", "songs", "--oracles", "--stems", "flute"], "no stem named flute"),
        (["--ref", "songs", "--oracles", "--stems", "bass"], "has one stem only, bass"),
        (["--ref", "songs/one", "--oracles"], "lies in no song's folder"),
    ],
)
def test_oracles_that_cannot_be_are_refused(band, capsys, words, said):
    assert run(*words) in (1, 2)
    assert said.replace("none ratio", "none, ratio") in capsys.readouterr().err


def test_a_data_directory_without_stems_is_refused(band, capsys):
    for name in ("drums", "bass"):
        Path(f"data/{name}.scp").unlink()
    assert run("--ref", "data", "--oracles") == 1
    assert "no tables of stems beside wav.scp" in capsys.readouterr().err
