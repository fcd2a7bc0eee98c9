"""Data directories: what is written is read, parts make the whole, and pipes stay shut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomask import audio
from audiomask.data.kaldi.convert import convert
from audiomask.data.kaldi.directory import (
    DataDir,
    DataError,
    combine,
    invert,
    keyed_by,
    read_mono,
    scan_table,
    split_by_jobs,
    split_by_ratio,
)
from audiomask.data.kaldi.health import validate

KEYS = st.text("abzAZ019-_.éß語", min_size=1, max_size=8)
VALUES = st.text("ab0 /|é", min_size=1, max_size=12).map(lambda s: f"x{s}x")  # no white space at the ends


@st.composite
def data_dirs(draw, min_size=1):
    """Sound directories: with and without segments, labels, clean references."""
    recordings = draw(st.lists(KEYS, min_size=min_size, max_size=12, unique=True))
    tables = {"wav.scp": {r: f"/a/{r} b.wav" for r in recordings}}
    tables["reco2dur"] = dict.fromkeys(recordings, "10.0")
    utterances = recordings
    if draw(st.booleans()):
        tables["segments"] = {}
        for recording in recordings:
            for i in range(draw(st.integers(1, 3))):
                tables["segments"][f"{recording}~{i}"] = (
                    f"{recording} {i}.5 {draw(st.sampled_from(['-1', '9.25']))}"
                )
        utterances = sorted(tables["segments"])
    tables["utt2spk"] = {u: draw(st.sampled_from(["s1", "s2", "s3", "語"])) for u in utterances}
    tables["spk2utt"] = invert(tables["utt2spk"])
    if draw(st.booleans()):
        tables["utt2label"] = {u: draw(VALUES) for u in utterances}
    if draw(st.booleans()):
        tables["clean.scp"] = {r: f"/c/{r}.wav" for r in recordings}
    if draw(st.booleans()):
        tables["rir.scp"] = {"room": "/rooms/1.wav"}
    return DataDir(tables)


@given(data=data_dirs())
@settings(max_examples=60, deadline=None)
def test_written_is_read_and_sound(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("d")
    data.write(folder)
    assert DataDir.read(folder).tables == data.tables
    assert validate(folder, check_audio=False) == []
    assert {f.name for f in folder.iterdir()} == set(data.tables)  # nothing temporary is left


@given(data=data_dirs(), jobs=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_jobs_are_a_balanced_partition(data, jobs):
    keys = data.utterance_keys
    if jobs > len(keys):
        with pytest.raises(DataError, match="cannot split"):
            split_by_jobs(data, jobs)
        return
    parts = split_by_jobs(data, jobs)
    assert [k for part in parts for k in part.utterance_keys] == keys
    sizes = [len(part.utterance_keys) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert combine(parts).tables == data.tables


@given(data=data_dirs(min_size=3), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_ratio_split_shares_no_speaker(data, seed):
    if len(data.speakers) < 2:
        with pytest.raises(DataError, match="cannot fill"):
            split_by_ratio(data, {"a": 1, "b": 1}, seed)
        return
    parts = split_by_ratio(data, {"a": 3, "b": 1}, seed)
    assert not set(parts["a"].speakers) & set(parts["b"].speakers)
    assert all(part.utterance_keys for part in parts.values())
    assert combine(parts.values()).tables == data.tables
    again = split_by_ratio(data, {"a": 3, "b": 1}, seed)
    assert {n: p.tables for n, p in again.items()} == {n: p.tables for n, p in parts.items()}


def test_ratio_split_comes_close_to_the_ratio():
    utt2spk = {f"{s:03d}-{u}": f"{s:03d}" for s in range(50) for u in range(4)}
    data = DataDir({"wav.scp": {u: f"/{u}" for u in utt2spk}, "utt2spk": utt2spk})
    parts = split_by_ratio(data, {"train": 0.8, "valid": 0.1, "test": 0.1})
    assert {n: len(p.utterance_keys) for n, p in parts.items()} == {"train": 160, "valid": 20, "test": 20}


def test_subset_takes_what_it_needs_and_nothing_else():
    data = DataDir(
        {
            "wav.scp": {"r1": "1.wav", "r2": "2.wav"},
            "segments": {"a": "r1 0 1", "b": "r1 1 2", "c": "r2 0 -1"},
            "utt2spk": {"a": "x", "b": "y", "c": "x"},
            "spk2gender": {"x": "f", "y": "m"},
            "rir.scp": {"hall": "h.wav"},
        }
    )
    part = data.subset(["b"])
    assert part.tables == {
        "wav.scp": {"r1": "1.wav"},
        "segments": {"b": "r1 1 2"},
        "utt2spk": {"b": "y"},
        "spk2utt": {"y": "b"},
        "spk2gender": {"y": "m"},
        "rir.scp": {"hall": "h.wav"},
    }
    with pytest.raises(DataError, match="no utterance nobody"):
        data.subset(["a", "nobody"])


def test_combine_refuses_to_guess():
    one = DataDir({"wav.scp": {"a": "/1.wav"}, "utt2spk": {"a": "x"}})
    with pytest.raises(DataError, match=r"a means '/2\.wav', before '/1\.wav'"):
        combine([one, DataDir({"wav.scp": {"a": "/2.wav"}, "utt2spk": {"a": "x"}})])
    with pytest.raises(DataError, match="has no utt2spk"):
        combine([one, DataDir({"wav.scp": {"b": "/2.wav"}})])
    with pytest.raises(DataError, match="nothing to combine"):
        combine([])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"a 1\nb 2", 2, "no end"),
        (b"a 1\r\nb 2\n", 1, "carriage return"),
        (b"a 1\n\nb 2\n", 2, "empty line"),
        (b"a 1\nb\n", 2, "no value"),
        (b"b 1\na 2\n", 2, "not sorted: a after b"),
        (b"a 1\na 1\n", 2, "a appears twice"),
        (b"a 1\na 2\n", 2, "with another value ('2', before '1')"),
    ],
)
def test_scan_finds_each_fault_once(tmp_path, text, line, message):
    (tmp_path / "utt2spk").write_bytes(text)
    _, problems = scan_table(tmp_path / "utt2spk")
    assert [p.line for p in problems] == [line]
    assert message in str(problems[0])


def test_ambiguous_or_undecodable_tables_are_not_read(tmp_path):
    (tmp_path / "wav.scp").write_text("a 1.wav\na 2.wav\n")
    with pytest.raises(DataError, match=r"wav\.scp:2: a appears twice"):
        DataDir.read(tmp_path)
    (tmp_path / "wav.scp").write_bytes(b"a \xff.wav\n")
    with pytest.raises(DataError, match="byte 2 is not UTF-8"):
        DataDir.read(tmp_path)
    with pytest.raises(DataError, match=r"has no wav\.scp"):
        DataDir.read(tmp_path / "nowhere")


@pytest.fixture
def recorded(tmp_path):
    """A directory with two seconds of a ramp at 8 kHz, two channels, and a segment in it."""
    ramp = np.linspace(-0.5, 0.5, 16000, dtype=np.float32)
    audio.write(tmp_path / "r.wav", np.stack([ramp, -ramp]), 8000, subtype="FLOAT")
    tables = {"wav.scp": {"r": "r.wav"}, "segments": {"u": "r 0.5 1.25"}, "utt2spk": {"u": "s"}}
    DataDir(tables, tmp_path).write(tmp_path)
    return DataDir.read(tmp_path), ramp


def test_load_cuts_segments_and_keeps_channels(recorded):
    data, ramp = recorded
    x, rate = data.load(next(data.utterances()))
    assert rate == 8000
    np.testing.assert_array_equal(x, np.stack([ramp, -ramp])[:, 4000:10000])


def test_opposite_channels_do_not_cancel(tmp_path):
    """Neither in what training reads nor in what `data fix --rate` writes."""
    x = np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32)
    audio.write(tmp_path / "a.wav", np.concatenate((x, -x)), 16000, subtype="FLOAT")
    data = DataDir({"wav.scp": {"a": str(tmp_path / "a.wav")}}, tmp_path)
    (utterance,) = data.utterances()
    np.testing.assert_allclose(read_mono(data, utterance, 16000), x[0], atol=1e-6)
    (utterance,) = (made := convert(data, tmp_path / "made", 16000)).utterances()
    np.testing.assert_allclose(read_mono(made, utterance, 16000), x[0], atol=1e-4)


def test_a_directory_can_be_moved_and_rewritten(recorded, tmp_path, monkeypatch):
    _data, _ramp = recorded
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    again = DataDir.read(moved)
    assert again.load(next(again.utterances()))[0].shape == (2, 6000)
    monkeypatch.chdir(moved.parent)
    copy = moved / "copy"
    DataDir.read(moved.name).write(copy)  # relative entries are written so that they still mean the same file
    written = DataDir.read(copy)
    assert written.tables["wav.scp"]["r"] == f"{moved.name}/r.wav"
    assert written.load(next(written.utterances()))[0].shape == (2, 6000)


def test_pipes_run_only_when_allowed(recorded, tmp_path):
    data, ramp = recorded
    trace = tmp_path / "ran"
    data.tables["wav.scp"]["r"] = f"touch {trace}; cat {tmp_path}/r.wav |"
    utterance = next(data.utterances())
    with pytest.raises(DataError, match="--allow-pipes"):
        data.load(utterance)
    with pytest.raises(DataError, match="--allow-pipes"):
        data.durations()
    assert not trace.exists()
    x, _ = data.load(utterance, allow_pipes=True)
    np.testing.assert_array_equal(x[0], ramp[4000:10000])
    data.tables["wav.scp"]["r"] = "echo no such tape >&2; exit 3 |"
    with pytest.raises(DataError, match="failed with 3: no such tape"):
        data.load(next(data.utterances()), allow_pipes=True)


def test_segments_that_make_no_sense_are_named(recorded):
    data, _ = recorded
    for value, message in {
        "r 2 1": "not a stretch",
        "r 0 nan": "not a stretch",
        "r 0": "want RECORDING",
    }.items():
        data.tables["segments"]["u"] = value
        with pytest.raises(DataError, match=message):
            list(data.utterances())


def test_table_names():
    assert [keyed_by(n) for n in ("wav.scp", "speech.scp", "reco2dur")] == ["recording"] * 3
    assert [keyed_by(n) for n in ("segments", "text", "utt2label")] == ["utterance"] * 3
    assert (keyed_by("spk2utt"), keyed_by("rir.scp")) == ("speaker", "pool")
    assert [keyed_by(n) for n in ("feats.scp", ".wav.scp.7", "README.md", "noisy")] == [None] * 4
