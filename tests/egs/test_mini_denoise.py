"""The mini corpus is what its card says, and the recipe's script keeps its promises up to the training."""

import csv
import json
import math
import os
import shutil
from pathlib import Path

import pytest

from audiomask import audio
from audiomask.data.corpora.folder import read as from_folder
from audiomask.data.corpora.librispeech import read as from_librispeech
from audiomask.data.kaldi.health import validate

RECIPE = Path(__file__).parents[2] / "egs/mini/denoise"
CORPUS = RECIPE / "corpus"
LICENCES = {"CC0 1.0", "CC BY 3.0", "CC BY 4.0", "public domain (work of the US government)"}


def credits():
    with (CORPUS / "CREDITS.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_every_file_is_credited_under_a_licence_that_allows_copies():
    there = {str(p.relative_to(CORPUS)) for p in CORPUS.rglob("*") if p.suffix in (".opus", ".flac", ".wav")}
    assert {row["file"] for row in credits()} == there
    for row in credits():
        assert row["licence"] in LICENCES, row
        assert row["author"]
        assert row["source"].startswith("http"), row


def test_it_stays_small():
    assert sum(p.stat().st_size for p in CORPUS.rglob("*") if p.is_file()) < 6e6


@pytest.mark.parametrize("part", ["train", "valid"])
def test_it_makes_sound_data_directories(tmp_path, part):
    from_librispeech(CORPUS / "speech" / part).write(tmp_path / "speech")
    from_folder(CORPUS / "noise" / part).write(tmp_path / "noise")
    assert validate(tmp_path / "speech") == []
    assert validate(tmp_path / "noise") == []


def test_training_and_validation_share_no_reader_and_no_recording():
    readers = {
        p: {f.name.split("-")[0] for f in (CORPUS / "speech" / p).iterdir()} for p in ("train", "valid")
    }
    assert not readers["train"] & readers["valid"]
    clips = {
        p: {f.name.split("-")[1] for f in (CORPUS / "noise" / p).rglob("*.opus")} for p in ("train", "valid")
    }
    assert not clips["train"] & clips["valid"]
    kinds = {p: {f.name for f in (CORPUS / "noise" / p).iterdir()} for p in ("train", "valid")}
    assert kinds["train"] == kinds["valid"]


def test_demo_pair_belongs_together():
    clean, rate = audio.read(CORPUS / "demo/mixture_clean.flac")
    noisy, noisy_rate = audio.read(CORPUS / "demo/mixture_noisy.flac")
    assert (rate, clean.shape) == (noisy_rate, noisy.shape)
    ratio = (clean**2).sum() / ((noisy - clean) ** 2).sum()
    assert 4.9 < 10 * math.log10(ratio) < 5.1


@pytest.fixture
def run(recipe):
    """`run(*words)` runs the script in a copy of the recipe."""
    run = recipe("mini")
    (run.home / "corpus").symlink_to(CORPUS)
    return run


def test_stages_run_once_for_what_they_read(run):
    first = run("--stop-stage", 2, "--mixtures", 3)
    assert first.returncode == 0, first.stderr
    assert len(list((run.home / "data/mixtures/noisy").iterdir())) == 3
    assert validate(run.home / "data/mixtures") == [] or os.getcwd() != str(run.home)  # noqa: PTH109
    again = run("--stop-stage", 2, "--mixtures", 3)
    assert again.stdout.count("done before") == 2
    other = run("--stop-stage=2", "--mixtures=2")
    assert "stage 1: prepare (done before)" in other.stdout
    assert "stage 2: mix\n" in other.stdout
    (run.home / "corpus").unlink()
    shutil.copytree(CORPUS, run.home / "corpus")
    next((run.home / "corpus/noise/train").rglob("*.opus")).unlink()
    changed = run("--stop-stage", 2, "--mixtures", 2)
    assert "done before" not in changed.stdout


def test_a_stage_that_failed_is_not_marked_done(run):
    script = run.home / "run.sh"
    script.write_text(script.read_text().replace("audiomask data mix", "false; audiomask data mix"))
    failed = run("--stop-stage", 2)
    assert failed.returncode != 0
    assert "stage 2: mix" in failed.stdout
    assert [p.name for p in (run.home / "exp/mini/.marks").iterdir()] == ["prepare"]


@pytest.mark.slow
def test_the_whole_recipe_in_small(run):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    done = run("--max-steps", 2, "--mixtures", 2)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "stream equals enhance" in done.stdout
    exp = run.home / "exp/mini"
    assert json.loads((exp / "scores.json").read_text())
    assert len(list((exp / "enhanced").rglob("*.wav"))) == 2
    again = run("--max-steps", 2, "--mixtures", 2)
    assert again.stdout.count("done before") == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-stepz", "3"], "no option --max-stepz"),
        (["--stage"], "--stage needs a value"),
        (["3"], "unexpected '3'"),
        (["--marks", "x"], "no option --marks"),
    ],
)
def test_wrong_options_are_usage_errors(run, words, message):
    done = run(*words)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_help_lists_every_variable(run):
    done = run("--help")
    assert done.returncode == 0
    for flag in ("--stage 1", "--stop-stage 6", "--max-steps", "--mixtures", "--corpus corpus"):
        assert flag in done.stdout
