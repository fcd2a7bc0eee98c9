"""The small recipes of pretraining and tagging: their corpus is what its card says, and all of it runs."""

import csv
import json
import re
from pathlib import Path

import pytest

from audiomask import audio
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.kaldi.health import validate

MINI = Path(__file__).parents[2] / "egs/mini"
CORPUS = MINI / "classify/corpus"


def test_every_clip_is_credited():
    with (CORPUS / "CREDITS.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    there = {str(p.relative_to(CORPUS)) for p in CORPUS.rglob("*.opus")}
    assert {row["file"] for row in rows} == there
    assert {row["licence"] for row in rows} == {"Apache-2.0"}
    assert "Apache License 2.0" in (CORPUS / "README.md").read_text()


def test_it_is_small_and_no_clip_is_in_both_parts():
    files = [p for p in CORPUS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 1e6
    clips = {p.relative_to(CORPUS): p.read_bytes() for p in files if p.suffix == ".opus"}
    assert len(set(clips.values())) == len(clips) == 72
    phrases = {part: sorted(p.name for p in (CORPUS / part).iterdir()) for part in ("train", "valid")}
    assert phrases["train"] == phrases["valid"]
    minutes = {
        part: sum(audio.info(CORPUS / p).seconds for p in clips if p.parts[0] == part) / 60
        for part in phrases
    }
    card = re.findall(
        r"^\| (train|valid) \|.*\| (\d+) \| ([\d.]+) \|", (CORPUS / "README.md").read_text(), re.M
    )
    assert {part: (int(n), float(m)) for part, n, m in card} == {
        "train": (48, round(minutes["train"], 1)),
        "valid": (24, round(minutes["valid"], 1)),
    }


def test_the_labels_are_the_phrases_and_other_speech(recipe, tmp_path, monkeypatch):
    run = recipe("mini", "classify")
    words = ("--corpus", CORPUS, "--other", MINI / "denoise/corpus/speech", "--stop-stage", 1)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(run.home)
    for part, phrases, others in (("train", 8, 24), ("valid", 4, 6)):
        assert validate(f"data/{part}") == []
        labels = list(DataDir.read(f"data/{part}").tables["utt2label"].values())
        assert {name: labels.count(name) for name in set(labels)} == {
            **{path.name: phrases for path in (CORPUS / part).iterdir()}, "other": others,
        }  # fmt: skip
    assert "prepare (done before)" in run(*words).stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_encoder_is_pretrained_and_fine_tuned(recipe, tmp_path):
    pytest.importorskip("pytorch_lightning", reason="needs the extra train")
    first = recipe("mini", "pretrain")
    done = first("--corpus", MINI / "denoise/corpus", "--max-steps", 6, "--epoch-steps", 3)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list((first.home / "data/shards").glob("*.tar"))) > 1
    run = recipe("mini", "classify")
    words = (
        "--corpus",
        CORPUS,
        "--other",
        MINI / "denoise/corpus/speech",
        "--max-steps",
        150,
        "--epoch-steps",
        50,
    )
    done = run(*words, "--start-from", "../pretrain/exp/mini")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((run.home / "exp/mini/scores_test.json").read_text())
    assert found["all"]["clips"] == 30
    assert found["all"]["accuracy"] > 0.2  # chance is 1 in 7
    with (run.home / "exp/mini/valid/tags.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == 30
    assert len({row["label"] for row in rows}) > 1
