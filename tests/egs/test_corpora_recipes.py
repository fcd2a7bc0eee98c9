"""The recipes of the large corpora on small trees of the same layout; whole runs are slow tests."""

import http.server
import itertools
import json
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import corpus_trees
import pytest

from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

EGS = Path(__file__).parents[2] / "egs"
SCRIPTS = sorted(EGS.glob("*/*/run.sh"))
TINY = (
    *("--max-steps", 2, "--epoch-steps", 2, "--batch-size", 2, "--train-options"),
    " ".join(
        f"--model.model.{k} {v}" for k, v in {"channels": 8, "bands": 8, "blocks": 1, "heads": 2}.items()
    )
    + " --model.model.full 8 --model.model.squeeze 8 --data.segment 8000"
    " --trainer.accelerator cpu --data.workers 0",
)
OPTIONS = {  # what fits a corpus of a few files
    "voicebank_demand": (),
    "dns": ("--split", "train=0.5,valid=0.5", "--rooms", 2, "--mixtures", 2, "--tests", "test_no_reverb"),
    "chime3": ("--split", "train=0.5,valid=0.5", "--mixtures", 2),
}
TREES = {"voicebank_demand": "voicebank", "dns": "dns", "chime3": "chime3"}


@pytest.fixture
def prepared(recipe):
    """`prepared(NAME, *words)`: the recipe run on its small corpus, as (what came of it, the runner)."""

    def go(name, *words):
        run = recipe(name)
        run.corpus = getattr(corpus_trees, TREES[name])(run.home.parents[2] / "corpus")
        run.words = ("--corpus", run.corpus, *OPTIONS[name], *words)
        return run(*run.words), run

    return go


def test_voicebank_is_prepared(prepared):
    done, run = prepared("voicebank_demand", "--stop-stage", 3)
    assert done.returncode == 0, done.stderr
    data = run.home / "data"
    speakers = {part: DataDir.read(data / part).speakers for part in ("train", "valid", "test")}
    assert speakers == {"train": ["p227", "p228"], "valid": ["p226", "p287"], "test": ["p232", "p257"]}
    assert validate(data / "test") == []
    assert (data / "test/audio/clean/p232_001.wav").is_file()
    corpus_trees.spoil(run.corpus / "clean_trainset_28spk_wav/p227_002.wav", "truncated")
    again = run(*run.words)
    assert again.returncode == 1
    assert "stage 1: get (done before)" in again.stdout
    assert "p227_002.wav: truncated" in again.stderr
    assert "--bad-files skip" in again.stderr
    assert {p.name for p in (run.home / "exp/sieve/.marks").iterdir()} == {"get", "convert_test"}


def test_dns_is_prepared(prepared):
    done, run = prepared("dns", "--stop-stage", 3)
    assert done.returncode == 0, done.stderr
    data = run.home / "data"
    for kind in ("clean", "noise"):
        parts = [DataDir.read(data / f"split_{kind}" / part) for part in ("train", "valid")]
        assert [len(part.speakers) for part in parts] == [2, 2]
        assert not set(parts[0].speakers) & set(parts[1].speakers)
    assert len(list((data / "valid/noisy").glob("*.wav"))) == 2
    mixed = DataDir.read(data / "valid").tables
    assert set(mixed["utt2noise"].values()) <= set(DataDir.read(data / "split_noise/valid").recordings)


def test_chime3_is_prepared(prepared):
    done, run = prepared("chime3", "--stop-stage", 2)
    assert done.returncode == 0, done.stderr
    data = run.home / "data"
    assert DataDir.read(data / "tr05_org").speakers == ["011", "012", "013"]
    sessions = [DataDir.read(data / "split_noise" / part).recordings for part in ("train", "valid")]
    assert not set(sessions[0]) & set(sessions[1])
    assert {"ch1.scp", "ch6.scp"} <= DataDir.read(data / "et05_real").tables.keys()
    assert set(DataDir.read(data / "valid").tables["utt2spk"].values()) <= {"F01", "M03"}


def test_a_corpus_that_is_not_there(recipe):
    done = recipe("chime3")()
    assert done.returncode == 1
    assert "stage 1 (prepare) reads CHiME3, which does not exist" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.parts[-3])
def test_a_script_can_be_called_from_anywhere(script):
    done = subprocess.run(
        [script.relative_to(EGS), "--seed", "1", "--help"], cwd=EGS, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--seed 1" in done.stdout
    assert script.read_text().splitlines()[1][2:] in done.stdout


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_voicebank_is_downloaded(recipe, tmp_path):
    run = recipe("voicebank_demand")
    tree = corpus_trees.voicebank(tmp_path / "tree")
    served = tmp_path / "served"
    served.mkdir()
    with http.server.HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        lines = []
        for line in (run.home / "conf/archives.tsv").read_text().splitlines():
            if not line.startswith("#"):
                name = line.split("\t")[0]
                lines.append(f"{name}\thttp://127.0.0.1:{server.server_port}/{name}\t-\t-\n")
        (run.home / "conf/archives.tsv").write_text("".join(lines))
        missing = run("--stop-stage", 1)
        assert missing.returncode == 1
        assert "answers 404" in missing.stderr
        for folder in tree.iterdir():  # zips as they are: a folder of the archive's name inside
            shutil.make_archive(str(served / folder.name), "zip", tree, folder.name)
        done = run("--stop-stage", 1)
        assert done.returncode == 0, done.stderr
        server.shutdown()
    assert (run.home / "data/corpus/noisy_testset_wav/p232_001.wav").is_file()
    assert len(lines) == 6
    assert not list((run.home / "data/corpus").glob("*56spk*"))


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a dozen processes that start slowly where other work has the cores
@pytest.mark.parametrize("name", OPTIONS)
def test_the_whole_recipe_in_small(prepared, name):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    done, run = prepared(name, *TINY)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    tests = {"voicebank_demand": ["test"], "dns": ["test_no_reverb"], "chime3": ["et05_simu", "et05_real"]}[
        name
    ]
    for part in tests:
        scores = json.loads((run.home / f"exp/sieve/scores_{part}.json").read_text())
        assert ("si_sdr" in scores["metrics"]) == (name != "chime3")
        keys = DataDir.read(run.home / "data" / part).recordings
        assert DataDir.read(run.home / "exp/sieve/enhanced" / part).recordings == keys
    again = run(*run.words)
    assert again.stdout.count("done before") == (6 if name == "chime3" else 7)
    if name == "chime3":
        references = run.corpus / "data/audio/16kHz/isolated_ext"
        final = run(*run.words, "--references", references, "--tests", "et05_simu")
        assert final.returncode == 0, final.stderr
        assert "si_sdr" in json.loads((run.home / "exp/sieve/scores_et05_simu.json").read_text())["metrics"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.parts[-3])
def test_a_script_is_short_and_its_corpus_is_described(script):
    assert len(script.read_text().splitlines()) <= 60
    assert script.stat().st_mode & 0o100
    if script.parts[-3] != "mini":
        text = (script.parent / "RESULTS.md").read_text()
        for wanted in ("Licence", "Size", "not measured", "scores_"):
            assert wanted in text


def test_scripts_do_not_repeat_each_other():
    """What two shell files share beyond the settings that each recipe names belongs into egs/utils."""
    lines = {}
    for path in sorted(EGS.rglob("*.sh")):
        text = [line.strip() for line in path.read_text().splitlines()]
        # settings and the sourcing of utils are each recipe's own, cmd.sh is settings from end to end
        lines[path] = [
            t
            for t in text
            if t and not t.startswith(("#", ". ")) and "=" not in t.split(" ")[0] and path.name != "cmd.sh"
        ]
    for a, b in itertools.combinations(lines, 2):
        runs = {tuple(lines[a][i : i + 5]) for i in range(len(lines[a]) - 4)}
        for i in range(len(lines[b]) - 4):
            shared = tuple(lines[b][i : i + 5])
            assert shared not in runs, f"{a} and {b} share:\n" + "\n".join(shared)
