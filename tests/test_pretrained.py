"""The weights for hearing that ship: the encoder tells sounds apart, the tagger names them."""

import json
from pathlib import Path

import pytest
from torch.nn import functional as F

from audiomask.data.kaldi import DataDir
from audiomask.runtime.artifact import PRETRAINED, resolve
from audiomask.tasks import frozen

NOISE = Path(__file__).parents[1] / "egs/mini/denoise/corpus/noise"
ENCODER = PRETRAINED / "heed"


def test_the_tagger_names_sounds_that_it_was_trained_on(cli):
    files = sorted(NOISE.glob("*/*/*.opus"))
    done = cli("tag", *files, "--json", "--top", "1", "-q")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    right = [Path(row["file"]).parent.name == row["tags"][0]["label"] for row in rows]
    assert len(right) == len(files) > 30
    assert sum(right) >= 0.9 * len(right)


def test_the_tagger_hears_speech_in_a_second(cli):
    (reader, *_) = sorted((NOISE.parent / "speech/valid").rglob("*.opus"))
    done = cli("tag", reader, "--json", "--every", "1", "-q")
    rows = [json.loads(line) for line in done.out.splitlines()]
    labels = [row["tags"][0]["label"] for row in rows]
    assert labels.count("speech") >= 0.8 * len(labels)
    assert rows[0]["end"] < 1.5


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> DataDir:
    files = sorted(NOISE.glob("*/*/*.opus"))
    folder = tmp_path_factory.mktemp("sounds")
    DataDir(
        {"wav.scp": {p.stem: str(p) for p in files}, "utt2label": {p.stem: p.parent.name for p in files}}
    ).write(folder)
    return DataDir.read(folder)


def test_the_encoder_tells_sounds_apart_that_it_never_met(sounds):
    """Of each clip the nearest other one, by features alone; chance is a sixth."""
    model, frontend = frozen.load(ENCODER)
    found = frozen.features(model, frontend, sounds)
    labels = [sounds.tables["utt2label"][u.key] for u in sounds.utterances()]
    (standard,) = frozen.standardised(found)
    unit = F.normalize(standard, dim=1)
    near = (unit @ unit.T).fill_diagonal_(-1).argmax(1)
    right = [labels[i] == labels[j] for i, j in enumerate(near.tolist())]
    assert sum(right) > 0.6 * len(right)


def test_what_ships_is_small():
    sizes = [p.stat().st_size for p in PRETRAINED.rglob("*") if p.suffix in (".onnx", ".safetensors")]
    assert max(sizes) <= 12 * 2**20
    assert sum(sizes) <= 60 * 2**20
    assert [a.name for a in resolve(task="tag")] == ["heed_16k"]
