"""Shards give back what was put in, each utterance once, in an order that a row's number determines."""

import io
import itertools
import json
import shutil
import tarfile

import numpy as np
import pytest
import soundfile as sf

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.data.crops import shards
from audiomask.data.crops.shards import ShardedAudio
from audiomask.data.kaldi.directory import DataDir

RATE, COUNT = 16000, 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> DataDir:
    """Recording `i` is the constant i / 100, of 1000 + 100 i samples."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(COUNT):
        audio.write(folder / f"r{i:02d}.wav", np.full(1000 + 100 * i, i / 100), RATE, subtype="FLOAT")
    names = [f"r{i:02d}" for i in range(COUNT)]
    return DataDir({"wav.scp": {n: f"{n}.wav" for n in names}, "utt2spk": {n: n[:2] for n in names}}, folder)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "100%"
    count, failed = shards.write(corpus, out, RATE, shard_bytes=600, seed=1)
    assert count >= 6
    assert failed == []
    assert len(list(out.glob("*.tar"))) == count
    return out


def contents(folder) -> list[dict]:
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            for name in names[::2]:
                stem = name.removesuffix(".flac")
                facts = json.loads(tar.extractfile(f"{stem}.json").read())
                samples, rate = sf.read(io.BytesIO(tar.extractfile(f"{stem}.flac").read()))
                found.append({**facts, "audio": samples, "rate": rate, "shard": path.name})
    return found


def test_every_utterance_lies_in_one_shard_as_it_was(folder):
    found = contents(folder)
    keys = [f["key"] for f in found]
    assert sorted(keys) == [f"r{i:02d}" for i in range(COUNT)]
    assert keys != sorted(keys)  # shuffled
    for f in found:
        i = int(f["key"][1:])
        assert (f["samples"], len(f["audio"]), f["rate"], f["group"]) == (1000 + 100 * i,) * 2 + (
            RATE,
            f["key"][:2],
        )
        assert np.abs(f["audio"] - i / 100).max() < 1 / 32000
    index = json.loads((folder / shards.INDEX).read_text())
    for shard in index["shards"]:
        mine = [f for f in found if f["shard"] == shard["name"]]
        assert (len(mine), sum(f["samples"] for f in mine)) == (shard["utterances"], shard["samples"])


def test_the_same_seed_writes_the_same_bytes(corpus, folder, tmp_path):
    shards.write(corpus, tmp_path, RATE, shard_bytes=600, seed=1)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_pass_takes_every_shard_for_as_many_rows_as_it_holds_audio(folder):
    corpus = ShardedAudio(folder, RATE, length=500, batch_size=4)
    rows = dict(zip((s["name"] for s in corpus.shards), corpus.rows, strict=True))
    total = sum(rows.values())
    passes = [[corpus.shard_of(n) for n in range(p * total, (p + 1) * total)] for p in range(3)]
    for one in passes:
        assert {name: one.count(name) for name in one} == rows
        assert sum(a != b for a, b in itertools.pairwise(one)) == len(rows) - 1  # each opened once
    assert passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 1), (2, 3)])
def test_every_worker_of_every_process_has_its_own_shards(folder, world, workers):
    corpus = ShardedAudio(folder, RATE, 500, batch_size=3, world=world, workers=workers)
    seen: dict[tuple[int, int], set[str]] = {}
    for batch in range(200):
        for rank in range(world):
            first = (batch * world + rank) * 3  # as data.modules.Batches numbers them
            seen.setdefault((rank, batch % workers), set()).update(
                map(corpus.shard_of, range(first, first + 3))
            )
    assert len(seen) == world * workers
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == len(corpus.shards)


def test_crops_are_spread_over_the_audio_of_the_open_shard(folder):
    corpus = ShardedAudio(folder, RATE, 500, batch_size=4)
    corpus.seek(17)
    inside = {int(f["key"][1:]): f["samples"] for f in contents(folder) if f["shard"] == corpus.shard_of(17)}
    rng = np.random.default_rng(0)
    drawn = [round(float(corpus.crop(rng, 300)[150]) * 100) for _ in range(1500)]
    for i, samples in inside.items():
        assert drawn.count(i) / 1500 == pytest.approx(samples / sum(inside.values()), abs=0.05)
    assert set(drawn) == set(inside)
    padded = corpus.crop(rng, 20000, "pad")
    assert 1000 <= np.count_nonzero(padded) < 5000 or not padded.any()  # one recording among zeros


def damaged(folder, tmp_path, change) -> ShardedAudio:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    corpus = ShardedAudio(tmp_path, RATE, 500, batch_size=4)
    path = tmp_path / corpus.shard_of(0)
    content = change(bytearray(path.read_bytes()))
    path.unlink() if content is None else path.write_bytes(content)
    return corpus


def flipped(content: bytearray) -> bytearray:
    content[512 + 40] ^= 0x10  # in the FLAC of the first member, behind its tar header
    return content


def without_its_last_utterance(content: bytearray) -> bytearray:
    """Cut between two members, which tar takes for the end."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return content[: tar.getmembers()[-2].offset]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (flipped, "damaged at r"),
        (lambda c: c[: len(c) // 3], "cannot be read|ends after"),
        (without_its_last_utterance, "ends after"),
        (lambda c: b"", "cannot be read"),
        (lambda c: b"nonsense" * 1000, "cannot be read"),
        (lambda c: None, "cannot be read .No such file"),
    ],
)
def test_a_damaged_shard_is_named(folder, tmp_path, change, text):
    corpus = damaged(folder, tmp_path, change)
    with pytest.raises(AudioError, match=f"shard-.*tar: ({text}).*copy it again"):
        corpus.seek(0)


def test_what_does_not_fit_is_said(folder):
    with pytest.raises(AudioError, match=r"16000 Hz and the training 48000 Hz.*--rate 48000"):
        ShardedAudio(folder, 48000, 500, batch_size=4)
    with pytest.raises(AudioError, match="cannot be shared out among 8 processes with 2"):
        ShardedAudio(folder, RATE, 500, batch_size=4, world=8, workers=2)
