"""Broken data directories: each fault is found where it is, and what `fix` leaves is sound."""

import gzip
import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiomask import audio
from audiomask.audio import AudioError
from audiomask.audio.sources import find_audio
from audiomask.data.corpora import lhotse
from audiomask.data.kaldi.directory import DataDir, DataError
from audiomask.data.kaldi.health import fix, validate


def make(folder, count=4):
    """Noisy and clean files of one second, two speakers."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    tables = {n: {} for n in ("wav.scp", "clean.scp", "utt2spk", "reco2dur", "utt2snr")}
    for i in range(count):
        key = f"s{i % 2}-{i}"
        for name in ("noisy", "clean"):
            audio.write(folder / f"{key}-{name}.wav", rng.standard_normal(16000) * 0.1, 16000)
        tables["wav.scp"][key], tables["clean.scp"][key] = f"{key}-noisy.wav", f"{key}-clean.wav"
        tables["utt2spk"][key], tables["reco2dur"][key], tables["utt2snr"][key] = f"s{i % 2}", "1.0", "5"
    DataDir(tables, folder).write(folder)
    return folder


def edit(folder, table, old, new):
    text = (folder / table).read_text()
    assert old in text
    (folder / table).write_text(text.replace(old, new, 1))


def drop(folder, table, key):
    lines = (folder / table).read_text().splitlines(keepends=True)
    (folder / table).write_text("".join(line for line in lines if not line.startswith(f"{key} ")))


FAULTS = {
    "missing file": (lambda d: (d / "s0-0-noisy.wav").unlink(), "wav.scp:1", "does not exist"),
    "empty file": (lambda d: (d / "s0-0-clean.wav").write_bytes(b""), "clean.scp:1", "empty"),
    "not audio": (lambda d: (d / "s0-2-noisy.wav").write_text("hello"), "wav.scp:2", "not audio"),
    "other length": (
        lambda d: audio.write(d / "s0-0-clean.wav", np.ones(8000) * 0.1, 16000, overwrite=True),
        "clean.scp:1",
        "0.5000 s at 16000 Hz, in wav.scp 1.0000 s",
    ),
    "other rate": (
        lambda d: audio.write(d / "s0-0-clean.wav", np.ones(8000) * 0.1, 8000, overwrite=True),
        "clean.scp:1",
        "at 8000 Hz",
    ),
    "wrong duration": (
        lambda d: edit(d, "reco2dur", "s0-0 1.0", "s0-0 1.5"),
        "reco2dur:1",
        "the file has 1.00 s",
    ),
    "no duration": (lambda d: edit(d, "reco2dur", "s0-0 1.0", "s0-0 long"), "reco2dur:1", "not a duration"),
    "unsorted": (
        lambda d: edit(d, "utt2spk", "s0-0 s0\ns0-2 s0", "s0-2 s0\ns0-0 s0"),
        "utt2spk:2",
        "not sorted",
    ),
    "missing key": (
        lambda d: drop(d, "utt2snr", "s1-1"),
        "utt2snr",
        "s1-1 of segments or wav.scp is missing",
    ),
    "extra key": (lambda d: edit(d, "utt2snr", "s0-0 5", "s0-00 5\ns0-0 5"), "utt2snr:1", "not in"),
    "spk2utt differs": (
        lambda d: edit(d, "spk2utt", "s0 s0-0 s0-2", "s0 s0-0"),
        "spk2utt:1",
        "not what utt2spk says",
    ),
    "pipe": (lambda d: edit(d, "wav.scp", "s0-0-noisy.wav", "cat x |"), "wav.scp:1", "--allow-pipes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_and_fixed(tmp_path, name):
    break_it, where, message = FAULTS[name]
    folder = make(tmp_path / "d")
    assert validate(folder) == []
    break_it(folder)
    found = [str(p) for p in validate(folder)]
    assert any(f.startswith(where) and message in f for f in found), found
    mended, notes = fix(folder)
    mended.write(folder)
    assert validate(folder) == []
    assert notes or name in ("wrong duration", "no duration", "spk2utt differs")
    kept = {"missing file", "empty file", "not audio", "other length", "other rate", "missing key", "pipe"}
    assert len(mended.utterance_keys) == (3 if name in kept else 4)


def test_segments_are_held_against_the_recording(tmp_path):
    folder = make(tmp_path / "d", count=2)
    tables = {"wav.scp": {"s0-0": "s0-0-noisy.wav"}, "utt2spk": {"a": "s", "b": "s", "c": "s", "d": "s"}}
    tables["segments"] = {"a": "s0-0 0 -1", "b": "s0-0 0.5 1.6", "c": "tape 0 1", "d": "s0-0 1 0.5"}
    for file in folder.glob("*2*"):
        file.unlink()
    (folder / "clean.scp").unlink()
    DataDir(tables, folder).write(folder)
    found = [str(p) for p in validate(folder)]
    for expected in (
        "segments:2: b: 0.5 s to 1.6 s, but",
        "segments:3: tape is not in wav.scp",
        "segments:4: d: START",
    ):
        assert sum(f.startswith(expected) for f in found) == 1, found
    assert fix(folder)[0].utterance_keys == ["a"]


def test_nothing_left_is_an_error_and_no_directory_is_too(tmp_path):
    folder = make(tmp_path / "d")
    for file in folder.glob("*-noisy.wav"):
        file.unlink()
    with pytest.raises(DataError, match="nothing is left"):
        fix(folder)
    with pytest.raises(DataError, match="no such folder"):
        validate(tmp_path / "none")
    with pytest.raises(DataError, match=r"no wav\.scp"):
        validate(tmp_path)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_fix_leaves_is_sound_and_fixed_for_good(seed, tmp_path_factory):
    rng = random.Random(seed)
    keys = [f"s{i % 3}-{i}" for i in range(8)]
    tables = {
        "wav.scp": {k: f"/w/{k}" for k in keys},
        "clean.scp": {k: f"/c/{k}" for k in keys},
        "utt2spk": {k: k[:2] for k in keys},
        "spk2gender": dict.fromkeys(("s0", "s1", "s2"), "f"),
        "utt2label": dict.fromkeys(keys, "dog cat"),
    }
    folder = tmp_path_factory.mktemp("d")
    DataDir(tables).write(folder)
    for _ in range(rng.randint(1, 2)):
        file = folder / rng.choice([*tables, "spk2utt"])
        lines = file.read_text().splitlines()
        at = rng.randrange(len(lines)) if lines else 0
        harm = rng.randrange(5)
        if harm == 0:
            rng.shuffle(lines)
        elif harm == 1 and lines:
            del lines[at]
        elif harm == 2 and lines:
            lines.insert(at, lines[at])
        elif harm == 3 and lines:
            lines[at] = lines[at].split()[0]
        else:
            lines.insert(at, " zz-1\tsomething\r")
        file.write_text("\n".join(lines) + "\n")
    mended, _ = fix(folder, check_audio=False)  # two harmed lines cost two speakers of three at most
    out = tmp_path_factory.mktemp("out")
    mended.write(out)
    assert validate(out, check_audio=False) == []
    again, notes = fix(out, check_audio=False)
    assert again.tables == mended.tables
    assert notes == []


def test_segments_past_the_end_are_cut_or_refused_everywhere_alike(tmp_path, cli):
    """Kaldi cuts up to half a second; validate, fix, reading, shards and lhotse agree."""
    audio.write(tmp_path / "r.wav", np.full((1, 16000), 0.1, np.float32), 16000)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/wav.scp").write_text(f"r {tmp_path}/r.wav\n")

    def problems(line):
        (tmp_path / "d/segments").write_text(line + "\n")
        return [str(p) for p in validate(tmp_path / "d")]

    assert problems("u r 0.25 1.4") == ["segments:1: u: ends 0.40 s past its recording; it is cut there"]
    data, notes = fix(tmp_path / "d")
    assert data.tables["segments"] == {"u": "r 0.2500 1.0000"}
    assert notes == ["mended: segments:1: u: ends 0.40 s past its recording; it is cut there"]
    raw = DataDir.read(tmp_path / "d")
    assert raw.load(next(raw.utterances()))[0].shape == (1, 12000)
    (_, manifest) = lhotse.write(raw, tmp_path / "manifests")
    assert json.loads(gzip.decompress(manifest.read_bytes()))["duration"] == 0.75
    for line in ("u r 1.0 1.2", "u r 0.5 1.6"):
        assert "its recording ends at 1.00 s" in problems(line)[0]
        with pytest.raises(DataError, match="nothing is left"):
            fix(tmp_path / "d")
        raw = DataDir.read(tmp_path / "d")
        with pytest.raises(AudioError, match="is not in its"):
            raw.load(next(raw.utterances()))
        with pytest.raises(DataError, match=r"is not in the 1\.00 s"):
            lhotse.write(raw, tmp_path / "manifests")


def test_a_byte_order_mark_and_white_space_that_is_not_ascii(tmp_path):
    names = ["a", "b\u00a0c", "d\u3000e\u2028f"]
    for name in names:
        audio.write(tmp_path / f"{name}.wav", np.full((1, 1600), 0.1, np.float32), 16000)
    text = "".join(f"{name} {tmp_path}/{name}.wav\n" for name in names)
    (tmp_path / "wav.scp").write_text("\ufeff" + text, "utf-8")
    assert [str(p) for p in validate(tmp_path)] == ["wav.scp:1: a byte order mark at the start of the file"]
    assert [source.key for source in find_audio([tmp_path])] == names
    data, notes = fix(tmp_path)
    assert data.recordings == names
    assert notes == ["mended: wav.scp:1: a byte order mark at the start of the file"]
