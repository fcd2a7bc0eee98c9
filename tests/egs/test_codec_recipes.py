"""The recipes of codecs: on the corpus that is here, and on small trees of others; whole runs are slow."""

import json
from pathlib import Path

import corpus_trees
import pytest
import soundfile as sf

from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

CORPUS = Path(__file__).parents[2] / "egs/mini/denoise/corpus"
SMALL = {"channels": 8, "wider": "[16,16]", "blocks": "[1,1]", "latent": 6, "stages": 6, "groups": 3}
TINY = (
    *("--max-steps", 2, "--epoch-steps", 2, "--batch-size", 2, "--train-options"),
    " ".join(f"--model.model.{k} {v}" for k, v in SMALL.items())
    + " --data.segment 8000 --trainer.accelerator cpu --data.workers 0 --model.scored 0",
)


@pytest.fixture
def mini(recipe):
    """`mini(*words)` runs the small recipe."""
    run = recipe("mini", "codec")
    return lambda *words: run("--corpus", CORPUS, *words)


@pytest.fixture
def libritts(recipe):
    """`libritts(*words)` runs the recipe of LibriTTS on a small tree of its layout; `.home` is where."""
    run = recipe("libritts", "codec")
    corpus = corpus_trees.libritts(run.home.parents[2] / "corpus")

    def go(*words):
        return run("--corpus", corpus, "--count", 2, *words)

    go.home = run.home
    return go


def test_libritts_is_prepared(libritts, monkeypatch):
    done = libritts("--stop-stage", 2)
    assert done.returncode == 0, done.stderr
    speakers = {
        part: DataDir.read(libritts.home / "data" / part).speakers for part in ("train", "valid", "test")
    }
    assert speakers["train"] == ["100", "200"]
    assert set(speakers["valid"]) <= {"101", "201"}
    assert set(speakers["test"]) <= {"102", "202"}
    monkeypatch.chdir(libritts.home)  # where the paths of tables start
    assert validate("data/test") == []
    assert {u.key for u in DataDir.read("data/test").utterances()} == set(
        DataDir.read("data/test_24k").utterance_keys
    )


def check(done, exp: Path, part: str, rates):
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for rate in rates:
        scores = json.loads((exp / f"scores_{part}_{rate}.json").read_text())
        assert scores
        assert list((exp / f"codes/{part}/{rate}").rglob("*.amk"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_small_recipe_whole(mini, tmp_path):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    done = mini(*TINY)
    check(done, tmp_path / "repo/egs/mini/codec/exp/mini", "speech_valid", ("1.5", "6"))
    assert "packets equal the file" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_libritts_whole(libritts):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    check(libritts(*TINY), libritts.home / "exp/gist", "test", ("1.5", "3", "6", "9"))


MUSIC = (
    *("--max-steps", 2, "--epoch-steps", 2, "--batch-size", 2, "--train-options"),
    "--trainer.accelerator cpu --data.workers 0 --data.heard 4000 --data.segment {segment} "
    + "--model.model.{sizes}",
)
WALLOC = {"levels": 3, "latent": 4, "width": 9}
ENCODEC = {"filters": 4, "ratios": "[8,5]", "latent": 4, "stages": 4, "levels": 16, "segment": 4800}


def music(segment: int, sizes: dict, more: str = "") -> tuple:
    *words, options = MUSIC
    named = " --model.model.".join(f"{name} {value}" for name, value in sizes.items())
    return (*words, options.format(segment=segment, sizes=named) + more)


@pytest.fixture
def musdb(recipe):
    """`musdb(*words, kind=...)` runs the recipe of MUSDB18 on a small tree of its layout, in `.home`."""
    run = recipe("musdb18", "codec")

    def go(*words, kind="musdb"):
        corpus = run.home.parents[2] / "corpus"
        if not corpus.exists():
            getattr(corpus_trees, kind)(corpus)
        return run("--corpus", corpus, *words)

    go.home = run.home
    return go


@pytest.mark.parametrize("kind", ["musdb", "compressed"])
def test_musdb_is_prepared(musdb, monkeypatch, kind):
    """With the stems of either layout; the compressed one is unpacked."""
    if kind == "compressed":
        pytest.importorskip("av")
    done = musdb("--stop-stage", 2, kind=kind)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(musdb.home)
    parts = {part: DataDir.read(f"data/{part}") for part in ("train", "valid", "test")}
    assert [len(data.recordings) for data in parts.values()] == [3, 2, 1]
    assert validate("data/train") == []
    (song,) = parts["test"].utterances()
    assert {"wav", "vocals", "drums", "bass", "other"} == set(song.sources)
    mix, rate = parts["test"].load(song)
    stems = sum(parts["test"].load(song, name)[0] for name in ("vocals", "drums", "bass", "other"))
    assert (rate, len(mix)) == (44100, 2)
    n = min(mix.shape[1], stems.shape[1])
    assert abs(mix[:, :n] - stems[:, :n]).max() < (1e-3 if kind == "musdb" else 0.3)


def test_musdb_wants_a_corpus(recipe):
    done = recipe("musdb18", "codec")()
    assert done.returncode == 2
    assert "--corpus" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_musdb_whole(musdb):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    done = musdb(*music(8000, WALLOC, " --model.simulation.books [4]"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    exp = musdb.home / "exp/walloc"
    assert "176.40 kbit/s" in done.stdout  # 44100 / 8 frames of 4 codes of 8 bits
    assert json.loads((exp / "scores_test_all.json").read_text())
    wav = sf.info(exp / "decoded/test/all/C_-_Four.wav")
    assert (wav.samplerate, wav.channels) == (44100, 2)
    assert wav.frames == sf.info(musdb.home.parents[2] / "corpus/test/C - Four/mixture.wav").frames


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_musdb_whole_with_encodec(musdb):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    config = Path(__file__).parents[2] / "recipes/codec/encodec_48khz.yaml"
    more = " --model.model.overlap 0.05 --model.simulation.books [2,4] --model.simulation.judged 4"
    done = musdb("--config", config, "--books", "2 4", *music(4800, ENCODEC, more))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "test, books: 2, " in done.stdout
    assert "test, books: 4, " in done.stdout
