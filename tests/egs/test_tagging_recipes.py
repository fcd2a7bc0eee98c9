"""The recipes of pretraining and tagging on small trees of their corpora; whole runs are slow tests."""

import http.server
import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import corpus_trees
import numpy as np
import pytest

from audiomask.data.crops.shards import label_counts
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

GATHER = Path(__file__).parents[2] / "egs/utils/gather.py"
TREES = {
    ("esc50", "classify"): corpus_trees.esc50,
    ("esc10", "classify"): corpus_trees.esc10,
    ("speechcommands", "classify"): corpus_trees.speechcommands,
    ("audioset", "pretrain"): corpus_trees.audioset,
    ("audioset", "classify"): corpus_trees.audioset,
}
OPTIONS = {("audioset", "pretrain"): ("--train-parts", "balanced_train eval", "--valid-count", 1)}
NETWORK = {"frames": 128, "bands": 32, "width": 16, "depth": 1, "heads": 2}
FRONTEND = " --model.frontend.frames 128 --model.frontend.bands 32"
CPU = " --data.segment 10400 --data.workers 1 --trainer.accelerator cpu --trainer.precision 32"
TINY = " ".join(f"--model.model.{k} {v}" for k, v in NETWORK.items()) + FRONTEND + CPU
DECODER = " --model.model.decoder global" + "".join(
    f" --model.model.decoder_{k} {v}" for k, v in {"width": 16, "depth": 1, "heads": 2}.items()
)
SHORT = ("--max-steps", 2, "--epoch-steps", 1, "--batch-size", 2)


@pytest.fixture
def prepared(recipe):
    """`prepared(NAME, TASK, *words)`: the recipe run on a small corpus: what came of it, and the runner."""

    def go(name, task, *words):
        run = recipe(name, task)
        shutil.copytree(GATHER.parents[1] / "esc50", run.home.parents[1] / "esc50", dirs_exist_ok=True)
        run.corpus = TREES[name, task](run.home.parents[2] / "corpus")
        run.words = ("--corpus", run.corpus, *OPTIONS.get((name, task), ()), *words)
        return run(*run.words), run

    return go


@pytest.mark.parametrize("name", ["esc50", "esc10"])
def test_esc_is_prepared(prepared, monkeypatch, name):
    done, run = prepared(name, "classify", "--stop-stage", 2)
    assert done.returncode == 0, done.stderr
    data = run.home / "data"
    per_fold = 3 if name == "esc50" else 2
    for fold in range(1, 6):
        test, train = (DataDir.read(data / part) for part in (f"fold{fold}", f"train_fold{fold}"))
        assert (len(test.recordings), len(train.recordings)) == (per_fold, 4 * per_fold)
        assert not set(test.speakers) & set(train.speakers)
    monkeypatch.chdir(run.home)  # where the paths of tables start
    assert validate("data/train_fold2") == []
    audio = run.corpus / ("ESC-50-master/audio" if name == "esc50" else "002 - Rain")
    bad = corpus_trees.spoil(next(audio.glob("4-4001-A*")), "truncated")
    again = run(*run.words)
    assert again.returncode == 1
    assert f"{bad.name}: truncated" in again.stderr
    assert run(*run.words, "--bad-files", "skip", "--folds", "4").returncode == 0
    assert len(DataDir.read(data / "fold4").recordings) == per_fold - 1


def test_an_encoder_that_has_heard_esc_is_refused(prepared):
    done, run = prepared("esc10", "classify", "--stop-stage", 4, "--stage", 4, "--sounds", "data/sounds")
    assert done.returncode == 1
    assert "reads data/sounds, which does not exist" in done.stderr
    sounds = run.home / "data/sounds"
    sounds.mkdir(parents=True)
    (sounds / "shards.json").write_text("{}")
    done = run(*run.words)
    assert done.returncode == 0
    assert "whether there are clips of ESC among them is not looked at" in done.stderr
    for line in ("a 1-100032-A-0.wav", "a x/5-1-B.ogg", "3-1-A y.wav"):
        (sounds / "wav.scp").write_text(f"z z.wav\n{line}\n")
        done = run(*run.words)
        assert (done.returncode, "names clips of ESC" in done.stderr) == (1, True), line
    assert run("--corpus", run.corpus, "--stop-stage", 2).returncode == 0
    other = corpus_trees.excerpt("speech", 0)
    corpus_trees.put(sounds / "b-1-1-A.wav", other)
    corpus_trees.put(sounds / "long.flac", np.concatenate([other, 0.2 * corpus_trees.excerpt("noise", 3)]))
    for line, code in (("1-100032 b-1-1-A.wav", 0), ("a long.flac", 1)):
        (sounds / "wav.scp").write_text(f"{line}\n")
        (sounds / "utt2spk").write_text(f"{line.split()[0]} a\n")
        done = run(*run.words)
        assert (done.returncode, "hold clips of ESC" in done.stderr) == (code, bool(code)), done.stderr
    assert "1-1000-A is in a at 1.2 s" in done.stdout


@pytest.mark.parametrize("classes", ["words", "12"])
def test_speech_commands_is_prepared(prepared, monkeypatch, classes):
    words = ("--classes", classes, "--stop-stage", 3 if classes == "12" else 2, "--measured", 3)
    test = ("--test", "../../../corpus_test") if classes == "12" else ()
    done, run = prepared("speechcommands", "classify", *words, *test)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(run.home)
    for part in ("train", "valid", "test"):
        assert validate(f"data/{part}") == []
    found = sorted(set(DataDir.read("data/train").tables["utt2label"].values()))
    assert found == (
        ["bed", "go", "marvin", "yes"] if classes == "words" else ["_silence_", "_unknown_", "go", "yes"]
    )
    if classes == "12":
        options = (run.home / "exp/audio_mae/test/options").read_text().splitlines()
        assert options[::2][:3] == ["--model.frontend.mean", "--model.frontend.std", "--model.model.classes"]
        assert json.loads(options[-1]) == found
    corpus_trees.spoil(run.corpus / "go/cb2929ce_nohash_0.wav", "missing")
    again = run(*run.words)
    assert again.returncode == 1
    assert "go/cb2929ce_nohash_0.wav: is in validation_list.txt and missing" in again.stderr


def test_audioset_is_prepared(prepared):
    done, run = prepared("audioset", "classify", "--stop-stage", 2)
    assert done.returncode == 0, done.stderr
    assert "balanced_train_segments.csv: 1 of 3 clips have no file" in done.stderr
    assert label_counts(run.home / "data/shards") == {"Dog": 1, "Male speech; man speaking": 1, "Speech": 1}
    shutil.copy(run.corpus / "clips/train/Y-0RWZT-miFs.wav", run.corpus / "clips/-0RWZT-miFs.wav")
    corpus_trees.spoil(run.corpus / "clips/eval/_k9abcdefgh_20_21.wav", "not audio")
    again = run(*run.words, "--stop-stage", 1)
    assert again.returncode == 0, again.stderr
    assert "the same clip as" in again.stderr
    assert "_k9abcdefgh_20_21.wav: not audio" in again.stderr
    assert DataDir.read(run.home / "data/eval").recordings == ["YbcdefghijK"]
    assert run(*run.words, "--bad-files", "stop", "--stop-stage", 1).returncode == 1


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize(
    ("name", "words", "there"),
    [
        ("esc50", (), "corpus/ESC-50-master/meta/esc50.csv"),
        ("speechcommands", ("--classes", "12"), "test_archive/_silence_/ffd2ba2f_nohash_0.wav"),
    ],
)
def test_the_corpus_is_downloaded(recipe, tmp_path, name, words, there):
    run = recipe(name, "classify")
    tree = TREES[name, "classify"](tmp_path / "tree")
    served = tmp_path / "served"
    served.mkdir()
    if name == "esc50":
        shutil.make_archive(str(served / "ESC-50-master"), "zip", tree)
    else:  # tars of what lies in the folder, without one round it
        for folder, file in (
            (tree, "speech_commands_v0.02"),
            (Path(f"{tree}_test"), "speech_commands_test_set_v0.02"),
        ):
            shutil.make_archive(str(served / file), "gztar", folder)
    with http.server.HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        table = run.home / "conf/archives.tsv"
        names = [line.split("\t")[0] for line in table.read_text().splitlines() if line[0] != "#"]
        url = f"http://127.0.0.1:{server.server_port}"
        table.write_text("".join(f"{n}\t{url}/{n}\t-\t-\n" for n in names))
        done = run("--stop-stage", 1, *words)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert (run.home / "data" / there).is_file()
    assert len(list((run.home / "data").glob("*/.archives/*.done"))) == (1 if name == "esc50" else 2)


def test_figures_of_folds_are_gathered(tmp_path):
    def fold(number, hits, precision):
        clips = {
            str(i): {"labels": ["a"], "likeliest": {"a" if i < hits else "b": 0.9, "c": 0.1}}
            for i in range(4)
        }
        path = tmp_path / f"fold{number}/test.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"accuracy": hits / 4, "map": precision, "clips": clips}))
        return path

    files = [fold(1, 4, 0.9), fold(2, 2, 0.6), fold(3, 3, 0.6)]
    done = subprocess.run(
        [sys.executable, GATHER, tmp_path / "all.json", *files], capture_output=True, text=True, check=True
    )
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["all"]["accuracy"] == found["all"]["accuracy_mean"] == 0.75
    assert found["all"]["accuracy_deviation"] == 0.25
    assert found["all"]["map_deviation"] == pytest.approx(0.3 / 3**0.5)
    assert found["tests"]["fold2"] == {"accuracy": 0.5, "map": 0.6, "clips": 4}
    assert "mean                   0.7500  0.7000" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "task"), TREES)
def test_the_whole_recipe_in_small(prepared, name, task):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    more = {"esc10": ("--folds", "1 3"), "esc50": ("--folds", "2"), "audioset": ("--overrides", "")}.get(
        name, ()
    )
    if name == "speechcommands":
        more = ("--classes", "12", "--test", "../../../corpus_test")
    extra = DECODER if task == "pretrain" else ""
    done, run = prepared(name, task, *SHORT, *more, "--train-options", TINY + extra)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    exp = run.home / "exp/audio_mae"
    if task == "pretrain":
        assert (exp / "model/model.safetensors").is_file()
    else:
        found = json.loads((exp / "scores_test.json").read_text())
        tests = {"esc10": ["fold1", "fold3"], "esc50": ["fold2"], "audioset": ["eval"]}.get(name, ["test"])
        assert list(found["tests"]) == tests
        for part in tests:
            keys = set(json.loads((exp / part / "test.json").read_text())["clips"])
            assert keys == set(DataDir.read(run.home / "data" / part).utterance_keys)
    again = run(*run.words)
    assert again.returncode == 0
    assert "done before" in again.stdout
    assert again.stdout.count("==") == again.stdout.count("done before")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_esc_begins_with_other_sounds(prepared, tmp_path):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    options = f"{TINY}{DECODER} --data.batch_size 2 --data.steps 1"
    words = (
        "--folds",
        "1",
        *SHORT,
        "--pretrain-steps",
        2,
        "--pretrain-options",
        options,
        "--train-options",
        TINY,
    )
    sounds = tmp_path / "sounds"
    noise = corpus_trees.MINI / "noise/valid/rain"
    shutil.copytree(noise, tmp_path / "noise")
    for i, path in enumerate(sorted((tmp_path / "noise").iterdir())):
        path.rename(path.with_name(f"rain{i}.opus"))  # as if they were of another corpus
    subprocess.run(
        [Path(sys.executable).with_name("audiomask"), "data", "import", "folder", tmp_path / "noise", sounds],
        check=True,
    )
    done, run = prepared("esc10", "classify", *words, "--sounds", sounds)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (
        "start_from: exp/audio_mae/pretrained" in (run.home / "exp/audio_mae/fold1/config.yaml").read_text()
    )
